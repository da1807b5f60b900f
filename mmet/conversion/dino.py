"""Convert DINOv2 (Oquab et al., 2023), also with registers, and DINOv3 (Siméoni et al., 2025) to the image encoder.

image_model = from_dino("facebook/dinov2-base", image_size=(252, 126))
image_model = from_dino("facebook/dinov3-vitb16-pretrain-lvd1689m", image_size=(256, 128), patch_stride=12)
"""

from __future__ import annotations

import re
from typing import Any

import torch

from mmet.conversion.ancestors import Source, image_config_of, load_ancestor
from mmet.conversion.weights import NameMap, Weights, fit_image, join_projections, load_converted
from modeling_mmet import MMETImageModel

TYPES = ("dinov2", "dinov2_with_registers", "dinov3_vit")


def _layers(place: str) -> NameMap:
    """The names of the layers below a module."""
    return NameMap(
        {
            f"{place}.{{n}}.norm1": "encoder.layers.{n}.attention_norm",
            f"{place}.{{n}}.attention.q_proj": "encoder.layers.{n}.attention.query",
            f"{place}.{{n}}.attention.k_proj": "encoder.layers.{n}.attention.key",
            f"{place}.{{n}}.attention.v_proj": "encoder.layers.{n}.attention.value",
            f"{place}.{{n}}.attention.o_proj": "encoder.layers.{n}.attention.out_proj",
            f"{place}.{{n}}.layer_scale1.lambda1": "encoder.layers.{n}.attention.scale",
            f"{place}.{{n}}.norm2": "encoder.layers.{n}.mlp_norm",
            f"{place}.{{n}}.mlp.fc1": "encoder.layers.{n}.mlp.fc1",
            f"{place}.{{n}}.mlp.fc2": "encoder.layers.{n}.mlp.fc2",
            f"{place}.{{n}}.mlp.up_proj": "encoder.layers.{n}.mlp.fc1",
            f"{place}.{{n}}.mlp.down_proj": "encoder.layers.{n}.mlp.fc2",
            f"{place}.{{n}}.layer_scale2.lambda1": "encoder.layers.{n}.mlp.scale",
        }
    )


DINO = (
    NameMap(
        {
            "embeddings.cls_token": "embeddings.cls_token",
            "embeddings.mask_token": "embeddings.mask_token",
            "embeddings.register_tokens": "embeddings.register_tokens",
            "embeddings.position_embeddings": "embeddings.position_embedding",
            "embeddings.patch_embeddings.projection": "embeddings.patch_embedding",
            "embeddings.patch_embeddings.weight": "embeddings.patch_embedding.weight",
            "embeddings.patch_embeddings.bias": "embeddings.patch_embedding.bias",
            "layernorm": "encoder.final_norm",
            "norm": "encoder.final_norm",
        }
    )
    | _layers("encoder.layer")
    | _layers("model.layer")
)


def from_dino(
    source: Source,
    image_size: int | tuple[int, int] | None = None,
    patch_stride: int | None = None,
    **options: Any,
) -> MMETImageModel:
    """
    Convert a DINOv2 or DINOv3 to an image encoder, in evaluation mode and the model's dtype.

    At the model's own geometry, `pooler_output` and the states of class token and patches are the same. Registers take
    part in attention but are not returned. Layer scale becomes part of the matrices before it, which is the same
    function. DINOv3's rotary positions are kept, without the random rescaling of its training; the learned positions,
    which DINOv3 does not have, are zero.

    Args:
        source: transformers' `Dinov2Model`, `Dinov2WithRegistersModel`, `DINOv3ViTModel` or a model with one in it, or
            its Hub name or local folder.
        image_size, patch_stride: as in `from_vit`; no side of the image may be smaller than a patch.
        options: arguments of `from_pretrained` for a name.

    Raises:
        ValueError: the model is of another type or has gated MLPs (giant models), or weights have unknown names or
            shapes.
    """
    loaded = load_ancestor(TYPES, "Dinov2Model", source, options)
    dino = loaded if hasattr(loaded, "embeddings") else loaded.base_model  # DINOv3's base model lacks the embeddings
    config = dino.config
    if getattr(config, "use_swiglu_ffn", False) or getattr(config, "use_gated_mlp", False):
        raise ValueError("expected layers with an MLP of two matrices, received gated ones: use a smaller model")
    sizes: dict[str, Any] = {"num_register_tokens": getattr(config, "num_register_tokens", 0)}
    if hasattr(config, "mlp_ratio"):
        sizes["intermediate_size"] = int(config.hidden_size * config.mlp_ratio)
    if config.model_type == "dinov3_vit":
        sizes["rotary_base"] = config.rope_theta
    model = MMETImageModel(image_config_of(config, **sizes))
    weights = _scaled(join_projections(DINO.rename(dino.state_dict())))
    load_converted(model, dino, _shaped(weights, model), may_keep=("embeddings.mask_token",))
    return fit_image(model, image_size, patch_stride)


def _scaled(weights: Weights) -> Weights:
    """Multiply each layer scale into the matrix and bias before it."""
    scaled = {name: weight for name, weight in weights.items() if not name.endswith(".scale")}
    for name in weights.keys() - scaled.keys():
        matrix = name.replace("attention.scale", "attention.out_proj").replace("mlp.scale", "mlp.fc2")
        scaled[f"{matrix}.weight"] = weights[name][:, None] * weights[f"{matrix}.weight"]
        scaled[f"{matrix}.bias"] = weights[name] * _bias(weights, matrix)
    return scaled


def _bias(weights: Weights, matrix: str) -> torch.Tensor:
    """The bias of a matrix; zeros if it has none."""
    return weights.get(f"{matrix}.bias", weights[f"{matrix}.weight"].new_zeros(len(weights[f"{matrix}.weight"])))


def _shaped(weights: Weights, model: MMETImageModel) -> Weights:
    """Give [MASK] its missing axes, drop unused registers, and fill absent positions and biases with zeros."""
    shaped = dict(weights)
    places = model.state_dict()
    if not model.config.num_register_tokens:
        shaped.pop("embeddings.register_tokens", None)
    if "embeddings.mask_token" in shaped:
        shaped["embeddings.mask_token"] = shaped["embeddings.mask_token"].reshape(1, 1, -1)
    absent = [name for name in places.keys() - shaped.keys() if re.search(r"position_embedding|mlp\.fc\d\.bias", name)]
    like = shaped["embeddings.cls_token"]
    return shaped | {name: torch.zeros_like(places[name]).to(like) for name in absent}
