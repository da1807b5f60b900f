"""Convert any supported model to MMET: the `model_type` in its `config.json` chooses the converter.

start = convert("facebook/flava-full", image_size=(256, 128), patch_stride=12)
start.fields      # fields of MMETConfig that FLAVA determines
start.weights     # weights by their names in MMETForPreTraining
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.image_processing_base import ImageProcessingMixin
from transformers.image_utils import (  # type: ignore[attr-defined]
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from configuration_mmet import MMETConfig
from mmet.checkpoint_files import CONFIG_FILE, read_headers, read_json_object
from mmet.conversion.ancestors import largest_codebook_cell
from mmet.conversion.bert import NAMES_BY_TYPE, from_bert
from mmet.conversion.clip import TYPES as CLIP_TYPES
from mmet.conversion.clip import from_clip
from mmet.conversion.dino import TYPES as DINO_TYPES
from mmet.conversion.dino import from_dino
from mmet.conversion.flava import from_flava
from mmet.conversion.siglip import TYPES as SIGLIP_TYPES
from mmet.conversion.siglip import from_siglip
from mmet.conversion.vit import from_vit
from mmet.conversion.weights import Weights
from modeling_mmet import MMETPreTrainedModel


@dataclass(frozen=True)
class Ancestor:
    """
    A model type that can be converted.

    Attributes:
        convert: function that converts a folder or Hub name to an MMET model or to one encoder.
        part: name of the encoder in an `MMETModel`; empty for a complete model.
        reads_images, reads_text: whether it has an encoder, and therefore a processor, for images and for text.
        image_mean, image_std: mean and deviation that normalise its pictures, unless its processor has others.
    """

    convert: Callable[..., Any]
    part: str = ""
    reads_images: bool = True
    reads_text: bool = True
    image_mean: tuple[float, ...] = tuple(IMAGENET_STANDARD_MEAN)
    image_std: tuple[float, ...] = tuple(IMAGENET_STANDARD_STD)


def _tower(convert: Callable[..., Any], mean: Sequence[float], deviation: Sequence[float]) -> Ancestor:
    return Ancestor(convert, "image_model", reads_text=False, image_mean=tuple(mean), image_std=tuple(deviation))


ANCESTORS: Mapping[str, Ancestor] = {
    "flava": Ancestor(from_flava, image_mean=tuple(OPENAI_CLIP_MEAN), image_std=tuple(OPENAI_CLIP_STD)),
    "vit": _tower(from_vit, IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD),
    **dict.fromkeys(CLIP_TYPES, _tower(from_clip, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)),
    **dict.fromkeys(SIGLIP_TYPES, _tower(from_siglip, IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD)),
    **dict.fromkeys(DINO_TYPES, _tower(from_dino, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)),
    **dict.fromkeys(NAMES_BY_TYPE, Ancestor(from_bert, "text_model", reads_images=False)),
}
"""The supported ancestors by model type."""

_OF_A_RUN = ("num_identities", "codebook_name_or_path")
"""Fields of `MMETConfig` that depend on the run and not on the ancestor."""


@dataclass(frozen=True)
class Conversion:
    """
    A converted model that training starts from.

    Attributes:
        fields: fields of `MMETConfig`, nested, that the ancestor determines.
        weights: float32 weights by their names in `MMETForPreTraining`; those that the ancestor lacks are missing.
    """

    fields: dict[str, Any]
    weights: Weights


def model_type_of(name_or_path: str) -> str:
    """
    Read the model type of a folder or Hub name: MMET's own, or one of `ANCESTORS`.

    Raises:
        ValueError: the type is neither; the message lists the known ones.
        OSError: there is no such model.
    """
    if Path(name_or_path).is_dir():
        read_json_object(Path(name_or_path) / CONFIG_FILE, "the configuration of a model")
    stored, _ = PreTrainedConfig.get_config_dict(name_or_path)
    model_type = stored.get("model_type")
    known = (MMETConfig.model_type, *ANCESTORS)
    if model_type not in known:
        raise ValueError(
            f"{name_or_path}: expected a model of type {', '.join(known)} in its config.json, received {model_type!r}"
        )
    return str(model_type)


def convert(
    name_or_path: str, *, image_size: int | tuple[int, int] | None = None, patch_stride: int | None = None
) -> Conversion:
    """
    Convert a model of one of the types in `ANCESTORS`.

    Args:
        name_or_path: folder or Hub name of the model.
        image_size, patch_stride: new image size and patch stride of the image encoder; its own when not given.

    Raises:
        ValueError: the model cannot be converted, or its weights are not safetensors.
        OSError: there is no such model.
    """
    if Path(name_or_path).is_dir():
        read_headers(Path(name_or_path))
    model_type = model_type_of(name_or_path)
    ancestor = ANCESTORS[model_type]
    model: MMETPreTrainedModel = ancestor.convert(name_or_path, dtype=torch.float32)
    if ancestor.reads_images and (image_size is not None or patch_stride is not None):
        stored = model.config if ancestor.part else model.config.image_config
        model.resize_image(image_size if image_size is not None else stored.image_size, patch_stride)
    fields = model.config.to_dict()
    if ancestor.part:
        fields = {f"{ancestor.part.removesuffix('_model')}_config": fields}
        if ancestor.reads_images:
            fields["codebook_cell"] = largest_codebook_cell(model.config)
    prefix = f"mmet.{ancestor.part}." if ancestor.part else ""
    weights = {f"{prefix}{name}": weight for name, weight in model.state_dict().items()}
    return Conversion(
        {name: value for name, value in fields.items() if name not in _OF_A_RUN},
        {name: weight for name, weight in weights.items() if not name.startswith("identity_head.")},
    )


def normalisation_of(name_or_path: str) -> tuple[list[float], list[float]]:
    """Mean and deviation that normalise a model's pictures: those of its image processor, or else of its type."""
    ancestor = ANCESTORS[model_type_of(name_or_path)]
    try:
        stored, _ = ImageProcessingMixin.get_image_processor_dict(name_or_path)
    except (OSError, json.JSONDecodeError):  # saved without one
        stored = {}
    mean, deviation = stored.get("image_mean"), stored.get("image_std")
    return list(mean or ancestor.image_mean), list(deviation or ancestor.image_std)
