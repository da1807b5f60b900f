"""Weights of ViT taken over: transformers' own numbers wherever the docstrings say so."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from ancestors_at_hand import VOCAB, WIDTH, close, make_vit
from transformers import (
    BertConfig,
    BertModel,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
)

from mmet.conversion import from_vit


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"image_size": [32, 16]},
        {"qkv_bias": False},
        {"num_channels": 1},
        {"hidden_act": "relu", "layer_norm_eps": 0.01},
    ],
    ids=["square", "rectangular", "no qkv bias", "one channel", "other activation and epsilon"],
)
@pytest.mark.parametrize("model_class", [ViTModel, ViTForImageClassification])
@pytest.mark.parametrize("source", ["instance", "folder"])
def test_from_vit__hidden_states_are_the_same(tmp_path, options, model_class, source):
    vit = make_vit(model_class, **options)
    if source == "folder":
        vit.save_pretrained(tmp_path)
    model = from_vit(tmp_path if source == "folder" else vit)
    pixel_values = torch.randn(2, vit.config.num_channels, *model.config.image_size)
    with torch.no_grad():
        actual = model(pixel_values, output_hidden_states=True)
        expected = vit.base_model(pixel_values, output_hidden_states=True)
    assert len(actual.hidden_states) == len(expected.hidden_states) == 3
    for ours, theirs in zip(actual.hidden_states, expected.hidden_states, strict=True):
        close(ours, theirs)
    close(actual.last_hidden_state, expected.last_hidden_state)


def test_from_vit__mask_token_is_kept(tmp_path):
    vit = make_vit(ViTForMaskedImageModeling, encoder_stride=8)
    vit.save_pretrained(tmp_path)
    pixel_values, masked = torch.randn(2, 3, 32, 32), torch.rand(2, 16) < 0.5
    for source in (vit, tmp_path):
        with torch.no_grad():
            actual = from_vit(source)(pixel_values, masked).last_hidden_state
            close(actual, vit.vit(pixel_values, masked).last_hidden_state)


def test_from_vit__positions_are_interpolated_to_the_default_geometry():
    vit = make_vit(image_size=64, patch_size=16)
    model = from_vit(vit, image_size=(256, 128), patch_stride=12)
    assert model.config.patch_grid == (21, 10)
    assert model(torch.randn(1, 3, 256, 128)).last_hidden_state.shape == (1, 211, 32)
    old, new = vit.embeddings.position_embeddings, model.embeddings.position_embedding
    grid = F.interpolate(old[:, 1:].view(1, 4, 4, 32).permute(0, 3, 1, 2), (21, 10), mode="bicubic")
    close(new[:, 0], old[:, 0])
    close(new[:, 1:], grid.flatten(2).transpose(1, 2))


def test_from_vit__same_hidden_states_as_vit_on_a_rectangle():
    vit = make_vit()
    model = from_vit(vit, image_size=(48, 24))
    pixel_values = torch.randn(2, 3, 48, 24)
    with torch.no_grad():
        expected = vit(pixel_values, interpolate_pos_encoding=True).last_hidden_state
        close(model(pixel_values).last_hidden_state, expected)


def test_from_vit__patch_features_do_not_depend_on_the_stride():
    vit = make_vit()
    overlapping = from_vit(vit, patch_stride=4)
    assert overlapping.config.patch_grid == (7, 7)
    pixel_values = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        coarse = vit.embeddings.patch_embeddings(pixel_values).view(1, 4, 4, 32)
        fine = overlapping.embeddings.patch_embedding(pixel_values).permute(0, 2, 3, 1)
    close(fine[:, ::2, ::2], coarse)


def test_from_vit__dtype_is_kept():
    model = from_vit(make_vit().to(torch.bfloat16), image_size=(48, 24), patch_stride=4)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_from_vit__refuses_what_it_cannot_express():
    with pytest.raises(ValueError, match="square patches"):
        from_vit(make_vit(patch_size=[8, 4]))
    with pytest.raises(ValueError, match="expected a model of type 'vit', received BertModel of type 'bert'"):
        from_vit(BertModel(BertConfig(vocab_size=VOCAB, **WIDTH)))
    with pytest.raises(ValueError, match="at least patch_size"):
        from_vit(make_vit(), image_size=4)
