"""Convert the vision towers of SigLIP (Zhai et al., 2023) and SigLIP 2 (Tschannen et al., 2025) to the image encoder.

image_model = from_siglip("google/siglip2-base-patch16-256", image_size=(256, 128))
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch

from mmet.conversion.ancestors import Source, image_config_of, load_ancestor, vision_tower
from mmet.conversion.clip import CLIP
from mmet.conversion.weights import NameMap, Weights, fit_image, join_projections, load_converted
from modeling_mmet import MMETImageModel

TYPES = ("siglip", "siglip_vision_model", "siglip2", "siglip2_vision_model")

_ABSENT = ("embeddings.class_embedding", "pre_layrnorm")
SIGLIP = NameMap({name: place for name, place in CLIP.renamed.items() if name not in _ABSENT}, dropped=("head",))


def from_siglip(
    source: Source,
    image_size: int | tuple[int, int] | None = None,
    patch_stride: int | None = None,
    **options: Any,
) -> MMETImageModel:
    """
    Convert a SigLIP or SigLIP 2 vision tower to an image encoder, in evaluation mode and the tower's dtype.

    The tower has no class token. Ours is new, and with `isolated_class_token` the patches do not see it, so at the
    tower's own geometry, their states in `last_hidden_state` are the tower's. The attention pooling is dropped.
    [CLS_I] and [MASK] are newly initialised and have to be trained.

    Args:
        source: transformers' `SiglipModel`, `SiglipVisionModel` or those of SigLIP 2, or its Hub name or local folder.
            A tower of variable image size is converted at the size of its square position grid.
        image_size, patch_stride: as in `from_vit`.
        options: arguments of `from_pretrained` for a name.

    Raises:
        ValueError: the model is of another type, or weights have unknown names or shapes.
    """
    tower = vision_tower(load_ancestor(TYPES, "SiglipVisionModel", source, options))
    config = tower.config
    sizes = (
        {"image_size": math.isqrt(config.num_patches) * config.patch_size} if hasattr(config, "num_patches") else {}
    )
    model = MMETImageModel(image_config_of(config, isolated_class_token=True, **sizes))
    weights = join_projections(SIGLIP.rename(tower.state_dict()))
    weights = _with_class_position(_as_convolution(weights, model), model)
    load_converted(model, tower, weights, may_keep=("embeddings.mask_token", "embeddings.cls_token"))
    return fit_image(model, image_size, patch_stride)


def _as_convolution(weights: Weights, model: MMETImageModel) -> Weights:
    """Turn a linear map of a patch's pixels (row by row, channels last) into the equivalent convolution."""
    name = "embeddings.patch_embedding.weight"
    if weights[name].dim() == 4:
        return weights
    side, channels = cast(int, model.config.patch_size), model.config.num_channels
    return weights | {name: weights[name].reshape(-1, side, side, channels).permute(0, 3, 1, 2).contiguous()}


def _with_class_position(weights: Weights, model: MMETImageModel) -> Weights:
    """Put the position of our class token before those of the patches."""
    name = "embeddings.position_embedding"
    first_position = model.embeddings.position_embedding.detach()[:, :1]
    return weights | {name: torch.cat([first_position.to(weights[name]), weights[name].unsqueeze(0)], dim=1)}
