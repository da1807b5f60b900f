"""Weights of BERT taken over: transformers' own numbers wherever the docstrings say so."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from ancestors_at_hand import close, make_bert
from torch import nn
from transformers import (
    BertForMaskedLM,
    BertLMHeadModel,
    BertModel,
)

from mmet.conversion import from_bert


def sublayer(layer: nn.Module, name: str, states: torch.Tensor) -> torch.Tensor:
    """What `attention` or `mlp` of one of our layers adds to the residual when it reads `states` without a norm."""
    other = layer.mlp.fc2 if name == "attention" else layer.attention.out_proj
    kept = {key: value.clone() for key, value in other.state_dict().items()}
    norm = getattr(layer, f"{name}_norm")
    setattr(layer, f"{name}_norm", nn.Identity())
    with torch.no_grad():
        other.weight.zero_()
        other.bias.zero_()
        added = layer(states) - states
    other.load_state_dict(kept)
    setattr(layer, f"{name}_norm", norm)
    return added


@pytest.mark.parametrize("model_class", [BertModel, BertForMaskedLM])
@pytest.mark.parametrize("source", ["instance", "folder"])
def test_from_bert__embeddings_are_the_same(pairs, tmp_path, model_class, source):
    bert = make_bert(model_class)
    if source == "folder":
        bert.save_pretrained(tmp_path)
    model = from_bert(tmp_path if source == "folder" else bert)
    assert not model.training
    with torch.no_grad():
        close(model.embeddings(pairs["input_ids"]), bert.base_model.embeddings(pairs["input_ids"]))
        assert model(pairs["input_ids"], pairs["attention_mask"]).last_hidden_state.isfinite().all()


def test_from_bert__sublayers_are_the_same_functions():
    bert = make_bert()
    model = from_bert(bert)
    states = torch.randn(2, 5, 32)
    for ours, theirs in zip(model.encoder.layers, bert.encoder.layer, strict=True):
        with torch.no_grad():
            attended = theirs.attention.output.dense(theirs.attention.self(states)[0])
            transformed = theirs.output.dense(theirs.intermediate(states))
        close(sublayer(ours, "attention", states), attended)
        close(sublayer(ours, "mlp", states), transformed)


def test_from_bert__sublayers_read_through_the_norms_they_read_through_in_bert():
    bert = make_bert()
    model = from_bert(bert)
    states = torch.randn(2, 5, 32)
    ours, theirs = model.encoder.layers, bert.encoder.layer
    with torch.no_grad():
        for layer in range(3):
            close(ours[layer].mlp_norm(states), theirs[layer].attention.output.LayerNorm(states))
        for layer in range(2):
            close(ours[layer + 1].attention_norm(states), theirs[layer].output.LayerNorm(states))
        close(model.encoder.final_norm(states), theirs[2].output.LayerNorm(states))


def test_from_bert__a_mlp_reads_what_it_reads_in_bert_when_attention_does():
    bert = make_bert()
    layer = from_bert(bert).encoder.layers[1]
    states = torch.randn(2, 5, 32)
    attended = states + sublayer(layer, "attention", states)
    with torch.no_grad():
        close(layer.mlp_norm(attended), bert.encoder.layer[1].attention(states)[0])


def test_from_bert__first_attention_reads_nearly_the_embeddings():
    bert = make_bert(hidden_size=256, num_attention_heads=8)
    with torch.no_grad():
        bert.embeddings.LayerNorm.bias.add_(0.5)  # a mean that counts
    model = from_bert(bert)
    with torch.no_grad():
        embeddings = model.embeddings(torch.arange(1, 31).view(2, 15))
        read = model.encoder.layers[0].attention_norm(embeddings)
        plain = F.layer_norm(embeddings, (256,))
        again = bert.embeddings.LayerNorm(embeddings)
    norm = embeddings.norm()
    assert (read - embeddings).norm() < 0.05 * norm
    assert (read - embeddings).norm() < (plain - embeddings).norm()
    assert (read - embeddings).norm() < 0.5 * (again - embeddings).norm()


def test_from_bert__configuration_and_dtype_are_kept():
    bert = make_bert(pad_token_id=2, max_position_embeddings=17, layer_norm_eps=0.01, hidden_dropout_prob=0.25)
    model = from_bert(bert.to(torch.bfloat16))
    config = model.config
    assert (config.pad_token_id, config.max_position_embeddings, config.num_hidden_layers) == (2, 17, 3)
    assert (config.layer_norm_eps, config.hidden_dropout_prob) == (0.01, 0.25)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_from_bert__refuses_decoders():
    with pytest.raises(ValueError, match="is_decoder=True"):
        from_bert(make_bert(BertLMHeadModel, is_decoder=True))
