"""Convert CLIP's vision tower (Radford et al., 2021) to the image encoder, with the same hidden states.

image_model = from_clip("openai/clip-vit-base-patch16", image_size=(256, 128), patch_stride=12)
image_model = from_openai_clip("irra.safetensors", image_size=(384, 128))
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from configuration_mmet import MMETImageConfig
from mmet.conversion.ancestors import Source, image_config_of, load_ancestor, vision_tower
from mmet.conversion.weights import NameMap, Weights, fit_image, join_projections, load_converted
from modeling_mmet import MMETImageModel

TYPES = ("clip", "clip_vision_model")

CLIP = NameMap(
    {
        "embeddings.class_embedding": "embeddings.cls_token",
        "embeddings.patch_embedding": "embeddings.patch_embedding",
        "embeddings.position_embedding.weight": "embeddings.position_embedding",
        "pre_layrnorm": "embeddings.norm",
        "encoder.layers.{n}.layer_norm1": "encoder.layers.{n}.attention_norm",
        "encoder.layers.{n}.self_attn.q_proj": "encoder.layers.{n}.attention.query",
        "encoder.layers.{n}.self_attn.k_proj": "encoder.layers.{n}.attention.key",
        "encoder.layers.{n}.self_attn.v_proj": "encoder.layers.{n}.attention.value",
        "encoder.layers.{n}.self_attn.out_proj": "encoder.layers.{n}.attention.out_proj",
        "encoder.layers.{n}.layer_norm2": "encoder.layers.{n}.mlp_norm",
        "encoder.layers.{n}.mlp": "encoder.layers.{n}.mlp",
        "post_layernorm": "encoder.final_norm",
    }
)

OPENAI = NameMap(
    {
        "class_embedding": "embeddings.cls_token",
        "conv1": "embeddings.patch_embedding",
        "positional_embedding": "embeddings.position_embedding",
        "ln_pre": "embeddings.norm",
        "transformer.resblocks.{n}.ln_1": "encoder.layers.{n}.attention_norm",
        "transformer.resblocks.{n}.attn.in_proj_weight": "encoder.layers.{n}.attention.qkv_proj.weight",
        "transformer.resblocks.{n}.attn.in_proj_bias": "encoder.layers.{n}.attention.qkv_proj.bias",
        "transformer.resblocks.{n}.attn.out_proj": "encoder.layers.{n}.attention.out_proj",
        "transformer.resblocks.{n}.ln_2": "encoder.layers.{n}.mlp_norm",
        "transformer.resblocks.{n}.mlp.c_fc": "encoder.layers.{n}.mlp.fc1",
        "transformer.resblocks.{n}.mlp.c_proj": "encoder.layers.{n}.mlp.fc2",
        "ln_post": "encoder.final_norm",
    },
    dropped=("proj",),
)
"""Names of CLIP's released code, which IRRA and CLIP-ReID keep."""

PLACES = ("base_model.visual.", "image_encoder.", "visual.", "")
"""Prefixes of the tower's names in state dicts of IRRA, CLIP-ReID, CLIP itself, and a tower alone."""

HEAD_SIZE = 64
"""Width of an attention head in all towers of the released code."""


def from_clip(
    source: Source,
    image_size: int | tuple[int, int] | None = None,
    patch_stride: int | None = None,
    **options: Any,
) -> MMETImageModel:
    """
    Convert CLIP's vision tower to an image encoder, in evaluation mode and the tower's dtype.

    With `embedding_norm` and CLIP's activation it is the tower: at its own geometry, `pre_norm_hidden_state` is the
    tower's `last_hidden_state` and `pooler_output` its `pooler_output`. The text tower and projections are dropped;
    [MASK] is newly initialised.

    Args:
        source: transformers' `CLIPModel` or `CLIPVisionModel`, or its Hub name or local folder.
        image_size, patch_stride: as in `from_vit`.
        options: arguments of `from_pretrained` for a name.

    Raises:
        ValueError: the model is of another type, or weights have unknown names or shapes.
    """
    tower = vision_tower(load_ancestor(TYPES, "CLIPVisionModel", source, options))
    model = MMETImageModel(image_config_of(tower.config, embedding_norm=True))
    weights = join_projections(CLIP.rename(tower.state_dict()))
    load_converted(model, tower, shaped(weights), may_keep=("embeddings.mask_token",))
    return fit_image(model, image_size, patch_stride)


def from_openai_clip(
    weights: str | Path | Mapping[str, torch.Tensor],
    image_size: tuple[int, int],
    patch_stride: int | None = None,
) -> MMETImageModel:
    """
    Convert a state dict in the layout of CLIP's released code to an image encoder with the same hidden states: CLIP
    itself, IRRA (Jiang and Ye, 2023) or CLIP-ReID (Li et al., 2023). Only the vision tower is read.

    Args:
        weights: a safetensors file, or tensors by name.
        image_size: height and width that the weights were trained for: 384 x 128 for IRRA, 256 x 128 for CLIP-ReID.
        patch_stride: distance of neighbouring patches in pixels; the patch size when not given.

    Raises:
        ValueError: the file or layout is another one, the tower is no vision transformer, or the number of patches
            differs from that of the position embeddings.
    """
    tower = _tower(_read(weights))
    config = _openai_config(tower, image_size, patch_stride)
    model = MMETImageModel(config)
    load_converted(model, None, shaped(OPENAI.rename(tower)), may_keep=("embeddings.mask_token",))
    return model


def shaped(weights: Weights) -> Weights:
    """Give class token and positions their missing axes, and the patch embedding the bias that CLIP's lacks."""
    shaped = dict(weights)
    embedding = shaped["embeddings.patch_embedding.weight"]
    shaped.setdefault("embeddings.patch_embedding.bias", embedding.new_zeros(len(embedding)))
    for name in ("embeddings.cls_token", "embeddings.position_embedding"):
        shaped[name] = shaped[name].reshape(1, -1, len(embedding))
    return shaped


def _read(weights: str | Path | Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    if not isinstance(weights, (str, Path)):
        return weights
    try:
        return load_file(weights)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{weights}: expected a safetensors file, for other formats can run code ({error}); convert the released "
            "file with safetensors.torch.save_file where you trust it"
        ) from error


def _tower(weights: Mapping[str, torch.Tensor]) -> Weights:
    """The weights of the vision tower in float32, by their names within it."""
    for place in PLACES:
        if f"{place}conv1.weight" in weights:
            tower = {name.removeprefix(place): value for name, value in weights.items() if name.startswith(place)}
            if "class_embedding" not in tower:
                raise ValueError("expected a vision transformer, received a tower without class_embedding (a ResNet?)")
            return {name: value.float() for name, value in tower.items()}
    places = ", ".join(f"{place}conv1.weight" for place in PLACES)
    raise ValueError(f"expected one of {places} in the state dict, received {sorted(weights)[:5]}, …")


def _openai_config(tower: Weights, image_size: tuple[int, int], patch_stride: int | None) -> MMETImageConfig:
    """Derive the configuration from the shapes of the weights."""
    width, channels, patch_size, _ = tower["conv1.weight"].shape
    numbers = {int(match[1]) for name in tower if (match := re.match(r"transformer\.resblocks\.(\d+)\.", name))}
    config = MMETImageConfig(
        image_size=image_size,
        patch_size=patch_size,
        patch_stride=patch_stride or patch_size,
        num_channels=channels,
        hidden_size=width,
        num_hidden_layers=len(numbers),
        num_attention_heads=max(1, width // HEAD_SIZE),
        intermediate_size=len(tower["transformer.resblocks.0.mlp.c_fc.weight"]),
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
        embedding_norm=True,
    )
    positions = len(tower["positional_embedding"])
    if positions != 1 + config.num_patches:
        raise ValueError(
            f"expected image_size and patch_stride of the {positions - 1} patches that there are positions for, "
            f"received {list(image_size)} and {config.patch_stride}, which make {config.num_patches}"
        )
    return config
