"""BERT (Devlin et al., 2019) as a start for the text encoder; outputs differ, since BERT is post-norm.

text_model = from_bert("google-bert/bert-base-uncased")
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
"""Of BERT and of FLAVA's text encoder; `add_first_segment` consumes `token_types`."""

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

    BERT's pooler and heads are dropped.

    Args:
        source: transformers' `BertModel` or a model with one in it (`BertForMaskedLM`, ...), or the Hub name or local
            folder of one.
        options: to `from_pretrained` with a name (`revision`, `local_files_only`, `dtype`, ...).

    Raises:
        ValueError: for another kind of model, a decoder, or weights of unknown names or shapes.
    """
    bert = load_ancestor("bert", "BertModel", source, options).base_model
    if bert.config.is_decoder:
        raise ValueError("expected a BERT encoder, received a decoder (is_decoder=True): its attention is causal")
    model = MMETTextModel(text_config_of(bert.config))
    weights = add_first_segment(join_projections(BERT.rename(own_weights(bert))))
    load_converted(model, bert, norms_in_front(weights, bert.config.num_hidden_layers))
    return model


def add_first_segment(weights: Weights, prefix: str = "") -> Weights:
    """Add the embedding of the first segment to every text position: a caption is one segment."""
    added = dict(weights)
    token_types = added.pop(f"{prefix}embeddings.token_types.weight")
    positions = added.pop(f"{prefix}embeddings.position_embedding.weight")
    added[f"{prefix}embeddings.position_embedding"] = (positions + token_types[0]).unsqueeze(0)
    return added


def norms_in_front(weights: Weights, num_layers: int) -> Weights:
    """Move BERT's norms after the MLP in front of what reads them, and add the first one; see `from_bert`."""
    moved = dict(weights)
    for layer in range(num_layers):
        reader = f"encoder.layers.{layer + 1}.attention_norm" if layer + 1 < num_layers else "encoder.final_norm"
        for kind in ("weight", "bias"):
            moved[f"{reader}.{kind}"] = moved.pop(f"encoder.layers.{layer}.norm_behind.{kind}")
    scale, shift = (weights[f"embeddings.layer_norm.{kind}"].float() for kind in ("weight", "bias"))
    spread = (scale.square().mean() + shift.var(correction=0)).sqrt()
    first: dict[str, torch.Tensor] = {"weight": spread.expand_as(scale), "bias": shift.mean().expand_as(shift)}
    return moved | {f"encoder.layers.0.attention_norm.{kind}": value for kind, value in first.items()}
