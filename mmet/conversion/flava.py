"""Convert FLAVA (Singh et al., 2022), MMET's direct ancestor: encoders, projections and heads, with the same outputs.

model = from_flava("facebook/flava-full").resize_image((256, 128), patch_stride=12)
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD  # type: ignore[attr-defined]

from configuration_mmet import DALLE_CODEBOOK, MMETConfig, MMETMultimodalConfig
from mmet.conversion.ancestors import (
    Source,
    encoder_fields,
    image_config_of,
    largest_codebook_cell,
    load_ancestor,
    text_config_of,
)
from mmet.conversion.bert import TEXT_EMBEDDINGS, add_first_segment
from mmet.conversion.vit import PATCH_EMBEDDINGS
from mmet.conversion.weights import NameMap, Weights, join_projections, load_converted, own_weights
from modeling_mmet import MMETDalleCodebook, MMETForPreTraining, MMETPreTrainedModel

LAYERS = NameMap(
    {
        "encoder.layer.{n}.layernorm_before": "encoder.layers.{n}.attention_norm",
        "encoder.layer.{n}.attention.attention.query": "encoder.layers.{n}.attention.query",
        "encoder.layer.{n}.attention.attention.key": "encoder.layers.{n}.attention.key",
        "encoder.layer.{n}.attention.attention.value": "encoder.layers.{n}.attention.value",
        "encoder.layer.{n}.attention.output.dense": "encoder.layers.{n}.attention.out_proj",
        "encoder.layer.{n}.layernorm_after": "encoder.layers.{n}.mlp_norm",
        "encoder.layer.{n}.intermediate.dense": "encoder.layers.{n}.mlp.fc1",
        "encoder.layer.{n}.output.dense": "encoder.layers.{n}.mlp.fc2",
        "layernorm": "encoder.final_norm",
    },
    dropped=("pooler",),
)
"""Names within each of FLAVA's three encoders."""

ENCODERS = (
    (PATCH_EMBEDDINGS | LAYERS).under("image_model", "image_model")
    | (TEXT_EMBEDDINGS | LAYERS).under("text_model", "text_model")
    | LAYERS.under("multimodal_model", "multimodal_model")
    | NameMap(
        {
            "multimodal_model.cls_token": "multimodal_model.cls_token",
            "image_to_mm_projection": "image_to_multimodal",
            "text_to_mm_projection": "text_to_multimodal",
            "image_projection": "image_projection",
            "text_projection": "text_projection",
            "logit_scale": "logit_scale",
        }
    )
)
"""Names in a `FlavaModel`."""

_TRANSFORM = {"transform.dense": "transform.dense", "transform.LayerNorm": "transform.layer_norm"}
# FLAVA keeps a head's bias twice, and reads that of the decoder.
_CODE_HEAD = NameMap({**_TRANSFORM, "decoder": "decoder"}, dropped=("bias",))
_TOKEN_HEAD = NameMap({**_TRANSFORM, "decoder.weight": "decoder.weight", "decoder.bias": "bias"}, dropped=("bias",))

HEADS = (
    _CODE_HEAD.under("mim_head", "mim_head")
    | _TOKEN_HEAD.under("mlm_head", "mlm_head")
    | _CODE_HEAD.under("mmm_image_head", "mmm_image_head")
    | _TOKEN_HEAD.under("mmm_text_head", "mmm_text_head")
    | NameMap({"itm_head.pooler.dense": "itm_head.dense", "itm_head.seq_relationship": "itm_head.classifier"})
)
"""Names of the heads in a `FlavaForPreTraining`."""

CODEBOOK = NameMap({"image_codebook": "image_codebook"})

FRESH = ("image_model.embeddings.mask_token", "identity_head", "image_codebook")
"""Parts of MMET that FLAVA may lack; they are newly initialised."""

FRESH_HEADS: tuple[str, ...] = ("mim_head", "mlm_head", "mmm_image_head", "mmm_text_head", "itm_head")


def from_flava(source: Source, model_class: type[MMETPreTrainedModel] = MMETForPreTraining, **options: Any) -> Any:
    """
    Convert FLAVA's encoders and projections: same hidden states, features and temperature.

    `patch_stride` is FLAVA's `patch_size`; `resize_image` fits the model to person crops and overlapping patches. The
    model is in evaluation mode and has FLAVA's dtype. Poolers and all token types but the first are dropped. Without a
    [MASK] in FLAVA, ours is newly initialised.

    `MMETForPreTraining` also gets FLAVA's loss weights and the heads of L_MIM, L_MLM, L_MMM and L_ITM; from a
    `FlavaModel`, which has no heads, they are newly initialised. The identity head (without classifier) always is. The
    image codebook is FLAVA's (`codebook_type="dalle"`) with the weights of a `FlavaForPreTraining`; if there are none,
    load them with `image_codebook.load` before L_MIM and L_MMM. A FLAVA trained on another number of codes than its
    codebook has gets a k-means codebook of that number, to be fitted. Text heads are not tied to the word embeddings,
    as in FLAVA.

    Args:
        source: transformers' `FlavaModel` or `FlavaForPreTraining`, or its Hub name or local folder.
        model_class: `MMETModel`, `MMETForPreTraining` or `MMETForReID`.
        options: arguments of `from_pretrained` for a name (`revision`, `local_files_only`, `dtype`, ...).

    Raises:
        ValueError: the model is of another type, MMET cannot express it (no multimodal class token; patches that are
            not square; heads with another activation or epsilon than the multimodal encoder), or weights have unknown
            names or shapes.
    """
    flava = load_ancestor("flava", "FlavaModel", source, options)
    model = model_class(config_of(flava.config))
    weights = (ENCODERS | HEADS | CODEBOOK).rename(own_weights(flava))
    heads, codebook = _take(weights, HEADS), _take(weights, CODEBOOK)
    prefix = "" if model.base_model is model else "mmet."
    weights["logit_scale"] = weights["logit_scale"].reshape(1)  # a scalar in FLAVA
    encoders = add_first_segment(join_projections(weights), "text_model.")
    converted = {f"{prefix}{name}": weight for name, weight in encoders.items()}
    may_keep: tuple[str, ...] = (*FRESH, f"{prefix}{FRESH[0]}", *FRESH_HEADS)
    if isinstance(model, MMETForPreTraining) and heads:
        check_heads(flava.config)
        converted |= heads
        may_keep = tuple(name for name in may_keep if name not in FRESH_HEADS)
    if isinstance(getattr(model, "image_codebook", None), MMETDalleCodebook):
        converted |= codebook
    load_converted(model, flava, converted, may_keep)
    return model


def _take(weights: Weights, part: NameMap) -> Weights:
    """Remove the renamed weights of a part from `weights` and return them."""
    modules = {target.partition(".")[0] for target in part.renamed.values()}
    return {name: weights.pop(name) for name in list(weights) if name.partition(".")[0] in modules}


def config_of(config: PreTrainedConfig) -> MMETConfig:
    """Convert FLAVA's configuration. Raises `ValueError` if the multimodal encoder has no class token."""
    if not config.multimodal_config.use_cls_token:
        raise ValueError("expected a FLAVA with a multimodal class token, received use_cls_token=False")
    image_config = image_config_of(config.image_config)
    codebook = {name: getattr(config.image_codebook_config, name) for name in DALLE_CODEBOOK}
    # FLAVA may be trained on other codes; then its own codebook does not belong to its heads.
    has_codes = codebook["vocab_size"] == config.image_config.vocab_size
    reads_images = codebook["input_channels"] == image_config.num_channels == len(OPENAI_CLIP_MEAN)
    shared: tuple[str, ...] = (
        "projection_dim",
        "logit_scale_init_value",
        "initializer_range",
        "mim_weight",
        "mlm_weight",
    )
    shared += ("mmm_image_weight", "mmm_text_weight", "itm_weight", "global_contrastive_weight")
    return MMETConfig(
        image_config=image_config,
        text_config=text_config_of(config.text_config),
        multimodal_config=MMETMultimodalConfig(**encoder_fields(config.multimodal_config)),
        codebook_type="dalle" if has_codes and reads_images else "kmeans",
        codebook_size=config.image_config.vocab_size,
        codebook_cell=largest_codebook_cell(image_config),
        codebook_config=codebook if has_codes and reads_images else None,
        codebook_image_mean=OPENAI_CLIP_MEAN,  # what FLAVA's image processor normalises with
        codebook_image_deviation=OPENAI_CLIP_STD,
        num_identities=0,
        tie_word_embeddings=False,
        **{name: getattr(config, name) for name in shared},
    )


def check_heads(config: PreTrainedConfig) -> None:
    """
    Raise `ValueError` unless FLAVA's L_MMM heads use the activation and epsilon of its multimodal encoder, as ours do.

    FLAVA builds them from the configurations of the image and the text encoder.
    """
    for part in ("image_config", "text_config"):
        for name in ("hidden_act", "layer_norm_eps"):
            received, expected = getattr(getattr(config, part), name), getattr(config.multimodal_config, name)
            if received != expected:
                raise ValueError(
                    f"expected heads with the multimodal encoder's {name}={expected!r}, received {received!r} of "
                    f"{part}; from_flava(..., model_class=MMETModel) takes the encoders alone"
                )
