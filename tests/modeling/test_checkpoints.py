"""Checkpoints of every class, Auto classes, word embeddings, half precision and initialisation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from named_inputs import CLEAN, CLOSE, L_MMM, select
from torch import nn
from transformers import AutoModel, AutoModelForPreTraining

import mmet  # noqa: F401 (registers the Auto classes)
from modeling_mmet import (
    MMETForPreTraining,
    MMETForReID,
    MMETImageModel,
    MMETModel,
    MMETMultimodalModel,
    MMETTextModel,
)


def _loaded(model_class, path, **kwargs):
    """The model and what did not fit the checkpoint: missing, unexpected and mismatched keys."""
    model, info = model_class.from_pretrained(path, output_loading_info=True, **kwargs)
    return model.eval(), {kind: set(keys) for kind, keys in info.items() if keys}


@pytest.mark.parametrize("source", [MMETModel, MMETForReID, MMETForPreTraining])
def test_checkpoint__round_trip_is_bit_identical(source, config, make_pretraining_batch, tmp_path):
    model, batch = source(config).eval(), make_pretraining_batch()
    model.save_pretrained(tmp_path)
    loaded, problems = _loaded(source, tmp_path)
    assert problems == {}
    states = model.state_dict()
    assert all(torch.equal(value, states[name]) for name, value in loaded.state_dict().items())
    inputs = batch if source is MMETForPreTraining else select(batch, *CLEAN)
    field = {MMETModel: "multimodal_embeds", MMETForReID: "embeddings", MMETForPreTraining: "loss"}[source]
    assert torch.equal(loaded(**inputs)[field], model(**inputs)[field])


def test_checkpoint__pretraining_to_reid(config, make_batch, tmp_path):
    model, batch = MMETForPreTraining(config).eval(), make_batch(3)
    model.identity_head.bnneck.running_mean.normal_()
    model.save_pretrained(tmp_path)
    loaded, problems = _loaded(MMETForReID, tmp_path)
    assert problems == {}
    expected = F.normalize(model.identity_head(model.mmet(**batch).multimodal_embeds[:, 0])[0])
    torch.testing.assert_close(loaded(**batch).embeddings, expected)


@pytest.mark.parametrize("source", [MMETForReID, MMETForPreTraining])
def test_checkpoint__heads_to_base_model(source, config, make_batch, tmp_path):
    model, batch = source(config).eval(), make_batch(3)
    model.save_pretrained(tmp_path)
    loaded, problems = _loaded(MMETModel, tmp_path)
    assert problems == {}
    assert torch.equal(loaded(**batch).multimodal_embeds, model.mmet(**batch).multimodal_embeds)


def test_checkpoint__reid_to_pretraining_keeps_the_identity_head(config, tmp_path):
    model = MMETForReID(config)
    model.save_pretrained(tmp_path)
    loaded, problems = _loaded(MMETForPreTraining, tmp_path)
    assert set(problems) == {"missing_keys"}
    heads = ("mim_head", "mlm_head", "mmm_image_head", "mmm_text_head", "itm_head", "image_codebook")
    assert all(name.startswith(heads) for name in problems["missing_keys"])
    assert torch.equal(loaded.identity_head.classifier.weight, model.identity_head.classifier.weight)
    # What the checkpoint lacks is initialised, not whatever memory held.
    assert not loaded.image_codebook.is_fitted
    assert torch.equal(loaded.mlm_head.bias, torch.zeros(14))
    assert 0.1 < loaded.mim_head.decoder.weight.std() < 0.3


@pytest.mark.parametrize(
    ("source", "auto_class", "expected"),
    [
        (MMETModel, AutoModel, MMETModel),
        (MMETForReID, AutoModel, MMETForReID),
        (MMETForPreTraining, AutoModel, MMETForReID),
        (MMETForPreTraining, AutoModelForPreTraining, MMETForPreTraining),
        (MMETForReID, AutoModelForPreTraining, MMETForPreTraining),
    ],
)
def test_auto_classes__where_the_package_is_installed(source, auto_class, expected, config, tmp_path):
    source(config).save_pretrained(tmp_path)
    assert type(auto_class.from_pretrained(tmp_path)) is expected


@pytest.mark.parametrize(
    ("model_class", "part"), [(MMETImageModel, "image"), (MMETTextModel, "text"), (MMETMultimodalModel, "multimodal")]
)
def test_auto_classes__single_encoders(model_class, part, config, tmp_path):
    model = model_class(getattr(config, f"{part}_config"))
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is model_class
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("tied", [True, False])
def test_word_embeddings__tied_on_request(make_config, tied, tmp_path):
    model = MMETForPreTraining(make_config(tie_word_embeddings=tied))
    model.save_pretrained(tmp_path)
    for candidate in (model, MMETForPreTraining.from_pretrained(tmp_path)):
        embedding = candidate.mmet.text_model.embeddings.token_embedding.weight
        assert candidate.get_input_embeddings().weight is embedding
        for head in (candidate.mlm_head, candidate.mmm_text_head):
            assert (head.decoder.weight is embedding) is tied
            assert torch.equal(head.decoder.weight, embedding) is tied


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("vocab_size", [11, 20])
def test_word_embeddings__resized_with_their_heads(make_config, make_pretraining_batch, tied, vocab_size, tmp_path):
    model, batch = MMETForPreTraining(make_config(tie_word_embeddings=tied)).eval(), make_pretraining_batch()
    words = select(batch, "input_ids_masked", "mlm_labels")
    words = {name: value.clamp(max=10) for name, value in words.items()}
    before = model(**words).mlm_logits
    model.resize_token_embeddings(vocab_size)
    model.save_pretrained(tmp_path)
    for candidate in (model, MMETForPreTraining.from_pretrained(tmp_path).eval()):
        assert candidate.config.text_config.vocab_size == vocab_size
        after = candidate(**words).mlm_logits
        assert after.shape[1] == vocab_size
        torch.testing.assert_close(after[:, :11], before[:, :11], **CLOSE)
        embeddings = candidate.get_input_embeddings().weight
        for head in (candidate.mlm_head, candidate.mmm_text_head):
            assert (head.decoder.weight is embeddings) == tied
            assert head.decoder.weight.shape[0] == len(head.bias) == vocab_size


@pytest.mark.parametrize("model_class", [MMETForReID, MMETForPreTraining])
def test_bfloat16(model_class, config, make_pretraining_batch, tmp_path):
    reference, batch = model_class(config).eval(), make_pretraining_batch()
    reference.save_pretrained(tmp_path)
    model = model_class.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    kept = {"identity_head.bnneck.weight"}
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if name in kept else torch.bfloat16), name
    if model_class is MMETForReID:
        received, expected = (candidate(**select(batch, *CLEAN)).embeddings for candidate in (model, reference))
        assert received.dtype == torch.float32
        assert F.cosine_similarity(received, expected).min() > 0.98
    else:
        received, expected = (candidate(**batch).losses for candidate in (model, reference))
        for name in (*L_MMM, "itm", "global_contrastive", "identity", "triplet"):
            assert received[name].item() == pytest.approx(expected[name].item(), rel=0.15, abs=0.15)


def test_interpolate_pos_encoding__bfloat16(config):
    model = MMETForReID(config).to(torch.bfloat16).eval()
    assert model(pixel_values=torch.randn(1, 3, 76, 40), interpolate_pos_encoding=True).embeddings.isfinite().all()


def test_initialisation__normal(make_config):
    config = make_config(initializer_range=0.05, encoder={"initializer_range": 0.05, "hidden_size": 64})
    model = MMETForPreTraining(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name or "bnneck" in name:
            assert (parameter == 1).all(), name
        elif parameter.numel() >= 4096:
            assert parameter.std().item() == pytest.approx(0.05, rel=0.1), name


def test_initialisation__xavier(make_config):
    config = make_config(initializer_range=None, encoder={"initializer_range": None, "hidden_size": 64})
    model = MMETForPreTraining(config)
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and "decoder" not in name:
            bound = math.sqrt(6 / (module.weight.shape[0] + module.weight[0].numel()))
            assert 0.8 * bound < module.weight.abs().max() <= bound, name
            assert module.bias is None or not module.bias.any(), name
    words = model.get_input_embeddings().weight
    assert words.norm(dim=1)[1:].mean().item() == pytest.approx(1.0, abs=0.1)
    positions = model.mmet.image_model.embeddings.position_embedding
    assert positions.norm(dim=-1).mean().item() == pytest.approx(1.0, abs=0.1)


def test_initialisation__xavier_checkpoint_is_not_initialised_again(make_config, tmp_path):
    model = MMETForPreTraining(make_config(initializer_range=None, encoder={"initializer_range": None}))
    for parameter in model.parameters():
        nn.init.uniform_(parameter, 5, 6)
    model.image_codebook.centroids.fill_(7)
    model.save_pretrained(tmp_path)
    loaded, problems = _loaded(MMETForPreTraining, tmp_path)
    assert problems == {}
    states = model.state_dict()
    assert all(torch.equal(value, states[name]) for name, value in loaded.state_dict().items())
