"""Convert ViT (Dosovitskiy et al., 2021) to the image encoder, with the same hidden states at the ViT's geometry.

image_model = from_vit("google/vit-base-patch16-224-in21k", image_size=(256, 128), patch_stride=12)
"""

from __future__ import annotations

from typing import Any

from mmet.conversion.ancestors import Source, image_config_of, load_ancestor
from mmet.conversion.weights import NameMap, fit_image, join_projections, load_converted, own_weights
from modeling_mmet import MMETImageModel

PATCH_EMBEDDINGS = NameMap(
    {
        "embeddings.cls_token": "embeddings.cls_token",
        "embeddings.mask_token": "embeddings.mask_token",
        "embeddings.position_embeddings": "embeddings.position_embedding",
        "embeddings.patch_embeddings.projection": "embeddings.patch_embedding",
    }
)
"""Names of the embeddings of ViT and of FLAVA's image encoder."""

VIT = PATCH_EMBEDDINGS | NameMap(
    {
        "layers.{n}.layernorm_before": "encoder.layers.{n}.attention_norm",
        "layers.{n}.attention.q_proj": "encoder.layers.{n}.attention.query",
        "layers.{n}.attention.k_proj": "encoder.layers.{n}.attention.key",
        "layers.{n}.attention.v_proj": "encoder.layers.{n}.attention.value",
        "layers.{n}.attention.o_proj": "encoder.layers.{n}.attention.out_proj",
        "layers.{n}.layernorm_after": "encoder.layers.{n}.mlp_norm",
        "layers.{n}.mlp": "encoder.layers.{n}.mlp",
        "layernorm": "encoder.final_norm",
    },
    dropped=("pooler",),
)


def from_vit(
    source: Source,
    image_size: int | tuple[int, int] | None = None,
    patch_stride: int | None = None,
    **options: Any,
) -> MMETImageModel:
    """
    Convert a ViT to an image encoder, in evaluation mode and the ViT's dtype.

    A ViT is MMET's image encoder with `patch_stride` = `patch_size`, so at its own geometry all hidden states are the
    same. Its pooler and heads are dropped. If the ViT has no [MASK], ours is newly initialised.

    Args:
        source: transformers' `ViTModel` or a model with one in it (`ViTForImageClassification`, ...), or its Hub name
            or local folder.
        image_size: (height, width) in pixels to interpolate the position embeddings for; the ViT's own when not given.
        patch_stride: distance of neighbouring patches in pixels; smaller than the patch size for overlapping patches.
            The ViT's patch size when not given.
        options: arguments of `from_pretrained` for a name (`revision`, `local_files_only`, `dtype`, ...).

    Raises:
        ValueError: the model is of another type, patches are not square, or weights have unknown names or shapes.
    """
    vit = load_ancestor("vit", "ViTModel", source, options).base_model
    model = MMETImageModel(image_config_of(vit.config))
    weights = join_projections(VIT.rename(own_weights(vit)))
    load_converted(model, vit, weights, may_keep=("embeddings.mask_token",))
    return fit_image(model, image_size, patch_stride)
