"""What users of transformers expect of any model, asked of all six: resized vocabularies and tied weights."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, load
from named_inputs import CLOSE
from safetensors.torch import load_file

import mmet  # noqa: F401 (registers the Auto classes)

WITH_TEXT = ["text", "model", "pretraining", "reid"]


@pytest.mark.parametrize("key", WITH_TEXT)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("vocab_size", [11, 20])
def test_resize_token_embeddings__keeps_known_words(key, tied, vocab_size, make_config, batch, tmp_path):
    case = CASES[key]
    model, inputs = case.build(make_config, tie_word_embeddings=tied), case.select(batch)
    inputs = {
        name: v.clamp(max=10) if "input_ids" in name or name == "mlm_labels" else v for name, v in inputs.items()
    }
    before = model(**inputs)
    assert model.resize_token_embeddings(vocab_size) is model.get_input_embeddings()
    assert len(model.get_input_embeddings().weight) == vocab_size
    model.save_pretrained(tmp_path)
    loaded, problems = load(case, tmp_path)
    assert problems == {}
    for candidate in (model, loaded):
        assert candidate.config.get_text_config().vocab_size == vocab_size
        after = candidate(**inputs)
        for name in case.answers:
            received = after[name][:, :11] if name == "mmm_text_logits" else after[name]
            expected = before[name][:, :11] if name == "mmm_text_logits" else before[name]
            torch.testing.assert_close(received, expected, msg=name, **CLOSE)
        if key == "pretraining":
            assert after.mmm_text_logits.shape[1] == vocab_size
            for head in (candidate.mlm_head, candidate.mmm_text_head):
                assert (head.decoder.weight is candidate.get_input_embeddings().weight) == tied
                assert head.decoder.out_features == len(head.bias) == vocab_size


@pytest.mark.parametrize("key", WITH_TEXT)
def test_resize_token_embeddings__new_words_and_multiples(key, make_config):
    case = CASES[key]
    model = case.build(make_config)
    model.resize_token_embeddings(15, pad_to_multiple_of=8)
    words = model.get_input_embeddings()
    assert words.num_embeddings == len(words.weight) == model.config.get_text_config().vocab_size == 16
    assert words.weight.isfinite().all()
    ids = torch.full((2, 4), 15)
    if key == "pretraining":
        output = model(input_ids_masked=ids, mlm_labels=ids)
        output.loss.backward()
        assert output.mlm_logits.shape == (8, 16)
        assert output.losses["mlm"].isfinite()
    else:
        assert model(input_ids=ids)[0].isfinite().all()


def test_resize_token_embeddings__nothing_asked_changes_nothing(make_config):
    model = CASES["pretraining"].build(make_config)
    before = dict(model.named_parameters())
    model.resize_token_embeddings()
    model.resize_token_embeddings(14)
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(after[name] is parameter for name, parameter in before.items())


@pytest.mark.parametrize("key", ["image", "multimodal"])
def test_resize_token_embeddings__without_a_text_encoder(key, make_config):
    model = CASES[key].build(make_config)
    with pytest.raises(ValueError, match=f"{type(model).__name__} has no text encoder"):
        model.resize_token_embeddings(20)


def test_tied_weights__stored_once_and_trained_together(make_config, batch, tmp_path):
    model = CASES["pretraining"].build(make_config)
    words = "mmet.text_model.embeddings.token_embedding.weight"
    decoders = {"mlm_head.decoder.weight", "mmm_text_head.decoder.weight"}
    assert set(model.all_tied_weights_keys) == decoders
    model.save_pretrained(tmp_path)
    assert len((decoders | {words}) & load_file(tmp_path / "model.safetensors").keys()) == 1
    loaded, problems = load(CASES["pretraining"], tmp_path)
    assert problems == {}
    loaded(input_ids_masked=batch["input_ids_masked"], mlm_labels=batch["mlm_labels"]).loss.backward()
    assert loaded.mlm_head.decoder.weight.grad is loaded.get_input_embeddings().weight.grad


@pytest.mark.parametrize("key", ["image", "text", "multimodal", "model", "reid"])
def test_tied_weights__none_without_text_heads(key, make_config):
    assert not CASES[key].build(make_config).all_tied_weights_keys
