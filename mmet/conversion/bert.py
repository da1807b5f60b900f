"""Convert BERT (Devlin et al., 2019) and similar encoders to the text encoder; BERT is post-norm, so outputs differ.

text_model = from_bert("google-bert/bert-base-uncased")
text_model = from_bert("FacebookAI/xlm-roberta-base")
"""

from __future__ import annotations

from typing import Any

import torch

from mmet.conversion.ancestors import Source, load_ancestor, text_config_of
from mmet.conversion.weights import NameMap, Weights, join_projections, load_converted, own_weights
from modeling_mmet import MMETTextModel

TEXT_EMBEDDINGS = NameMap(
    {
        "embeddings.word_embeddings": "embeddings.token_embedding",
        "embeddings.position_embeddings": "embeddings.position_embedding",
        "embeddings.token_type_embeddings": "embeddings.token_types",
        "embeddings.LayerNorm": "embeddings.layer_norm",
    }
)
"""Embeddings of BERT and of FLAVA's text encoder; `add_first_segment` consumes `token_types`."""

BERT = TEXT_EMBEDDINGS | NameMap(
    {
        "encoder.layer.{n}.attention.self.query": "encoder.layers.{n}.attention.query",
        "encoder.layer.{n}.attention.self.key": "encoder.layers.{n}.attention.key",
        "encoder.layer.{n}.attention.self.value": "encoder.layers.{n}.attention.value",
        "encoder.layer.{n}.attention.output.dense": "encoder.layers.{n}.attention.out_proj",
        "encoder.layer.{n}.attention.output.LayerNorm": "encoder.layers.{n}.mlp_norm",
        "encoder.layer.{n}.intermediate.dense": "encoder.layers.{n}.mlp.fc1",
        "encoder.layer.{n}.output.dense": "encoder.layers.{n}.mlp.fc2",
        "encoder.layer.{n}.output.LayerNorm": "encoder.layers.{n}.norm_behind",
    },
    dropped=("pooler",),
)
"""`norms_in_front` moves `norm_behind` to the next layer."""

DISTILBERT = NameMap(
    {
        "embeddings.word_embeddings": "embeddings.token_embedding",
        "embeddings.position_embeddings": "embeddings.position_embedding",
        "embeddings.LayerNorm": "embeddings.layer_norm",
        "transformer.layer.{n}.attention.q_lin": "encoder.layers.{n}.attention.query",
        "transformer.layer.{n}.attention.k_lin": "encoder.layers.{n}.attention.key",
        "transformer.layer.{n}.attention.v_lin": "encoder.layers.{n}.attention.value",
        "transformer.layer.{n}.attention.out_lin": "encoder.layers.{n}.attention.out_proj",
        "transformer.layer.{n}.sa_layer_norm": "encoder.layers.{n}.mlp_norm",
        "transformer.layer.{n}.ffn.lin1": "encoder.layers.{n}.mlp.fc1",
        "transformer.layer.{n}.ffn.lin2": "encoder.layers.{n}.mlp.fc2",
        "transformer.layer.{n}.output_layer_norm": "encoder.layers.{n}.norm_behind",
    }
)

NAMES_BY_TYPE = {
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "camembert": BERT,
    "electra": BERT,
    "distilbert": DISTILBERT,
}
"""Names of weights by model type, for all types that can become a text encoder."""

_COUNT_FROM_PADDING = ("roberta", "xlm-roberta", "camembert")
"""Model types whose position 0 is row `pad_token_id + 1` of the position embeddings."""


def from_bert(source: Source, **options: Any) -> MMETTextModel:
    """
    Convert BERT to a text encoder, in evaluation mode and BERT's dtype, as a start for training. BERT normalises after
    each residual sum, this encoder before each sublayer, so the residual stream is never normalised here and the
    outputs differ. What carries over:

    - Embeddings: exactly. The first segment's embedding is added to every position; other segments are dropped.
    - Attention and MLP of every layer: exactly, as functions of their own input.
    - Layer norms: each sublayer reads through the norm that it reads through in BERT. The norm after attention
      becomes `mlp_norm` of the same layer, the norm after the MLP `attention_norm` of the next layer, that of the last
      layer `final_norm`. (Mapped by position instead, attention would get the scales that BERT learned for its MLP.)
      Up to the scale of the residual, every sublayer then sees what it saw in BERT.
    - The first `attention_norm` has no counterpart: BERT's first attention reads the output of the embeddings' norm, z
      * weight + bias. Ours would normalise it again, so it gets the uniform scale and shift that undo this for z of
      independent entries: sqrt(mean(weight^2) + var(bias)) and mean(bias).

    BERT's pooler and heads are dropped. All this holds for RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA and DistilBERT,
    the last of which has no segments.

    Args:
        source: transformers' `BertModel` or a model with one in it (`BertForMaskedLM`, ...), or one of another type in
            `NAMES_BY_TYPE`, or its Hub name or local folder.
        options: arguments of `from_pretrained` for a name (`revision`, `local_files_only`, `dtype`, ...).

    Raises:
        ValueError: the model is of another type or a decoder, its word embeddings have another width, or weights have
            unknown names or shapes.
    """
    bert = load_ancestor(tuple(NAMES_BY_TYPE), "BertModel", source, options).base_model
    config = bert.config
    if getattr(config, "is_decoder", False):
        raise ValueError("expected a BERT encoder, received a decoder (is_decoder=True): its attention is causal")
    if getattr(config, "embedding_size", config.hidden_size) != config.hidden_size:
        raise ValueError(
            f"expected word embeddings as wide as the layers, {config.hidden_size}, received {config.embedding_size}"
        )
    weights = join_projections(NAMES_BY_TYPE[config.model_type].rename(own_weights(bert)))
    positions = weights["embeddings.position_embedding.weight"]
    if config.model_type in _COUNT_FROM_PADDING:
        positions = positions[config.pad_token_id + 1 :]
    weights["embeddings.position_embedding.weight"] = positions
    model = MMETTextModel(text_config_of(config, max_position_embeddings=len(positions)))
    load_converted(model, bert, norms_in_front(add_first_segment(weights), config.num_hidden_layers))
    return model


def add_first_segment(weights: Weights, prefix: str = "") -> Weights:
    """Add the embedding of the first segment, if there is one, to every text position: a caption is one segment."""
    added = dict(weights)
    token_types = added.pop(f"{prefix}embeddings.token_types.weight", None)
    positions = added.pop(f"{prefix}embeddings.position_embedding.weight")
    first = 0 if token_types is None else token_types[0]
    added[f"{prefix}embeddings.position_embedding"] = (positions + first).unsqueeze(0)
    return added


def norms_in_front(weights: Weights, num_layers: int) -> Weights:
    """Move BERT's norm after each MLP to the next layer, which reads it, and add the first one; see `from_bert`."""
    moved = dict(weights)
    for layer in range(num_layers):
        reader = f"encoder.layers.{layer + 1}.attention_norm" if layer + 1 < num_layers else "encoder.final_norm"
        for kind in ("weight", "bias"):
            moved[f"{reader}.{kind}"] = moved.pop(f"encoder.layers.{layer}.norm_behind.{kind}")
    scale, shift = (weights[f"embeddings.layer_norm.{kind}"].float() for kind in ("weight", "bias"))
    spread = (scale.square().mean() + shift.var(correction=0)).sqrt()
    first: dict[str, torch.Tensor] = {"weight": spread.expand_as(scale), "bias": shift.mean().expand_as(shift)}
    return moved | {f"encoder.layers.0.attention_norm.{kind}": value for kind, value in first.items()}
