"""What users of transformers expect of any model, asked of all six: recorded states, tuples, other inputs."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, Case
from named_inputs import CLEAN, CLOSE, EVERYTHING
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.modeling_outputs import ModelOutput

import mmet  # noqa: F401 (registers the Auto classes)
from modeling_mmet import (
    MMETModel,
)


def _encoder_outputs(case: Case, output) -> dict[str, object]:
    """Outputs of the encoders in the answer of any model, by name."""
    if case.part:
        return {"": output}
    return {name: output[name] for name in output if name.endswith("_output") and name != "pooler_output"}


RECORDED = {
    "model": {"image_output": 9, "text_output": 7, "multimodal_output": 17},
    "reid": {"image_output": 9, "text_output": 7, "multimodal_output": 17},
    "pretraining": {
        f"{part}{kind}_output": length
        for part, length in (("image", 9), ("text", 7), ("multimodal", 17))
        for kind in ("", "_masked")
    },
    "image": {"": 9},
    "text": {"": 7},
    "multimodal": {"": 8},
}
"""Which encoders' hidden states each model answers with, and how many states a sample has there."""


@pytest.mark.parametrize("how", ["argument", "configuration"])
@pytest.mark.parametrize("key", CASES)
def test_hidden_states_and_attentions__on_request(key, how, make_config, batch):
    case = CASES[key]
    model = case.build(make_config)
    model.set_attn_implementation("eager")
    inputs = case.select(batch)
    plain = model(**inputs)
    for recorded in _encoder_outputs(case, plain).values():
        assert recorded.hidden_states is None
        assert recorded.attentions is None
    request = {"output_hidden_states": True, "output_attentions": True}
    if how == "configuration":
        for module in model.modules():
            if isinstance(module, PreTrainedModel):
                module.config.output_hidden_states = module.config.output_attentions = True
        request = {}
    output = model(**inputs, **request)
    recorded = _encoder_outputs(case, output)
    assert set(recorded) == set(RECORDED[key])
    for name, encoder in recorded.items():
        length = RECORDED[key][name]
        assert [tuple(states.shape) for states in encoder.hidden_states] == [(4, length, 32)] * 3
        assert [tuple(weights.shape) for weights in encoder.attentions] == [(4, 4, length, length)] * 2
        read = encoder.pre_norm_hidden_state.flatten(end_dim=-2)  # a loss may read some positions alone
        recorded_rows = {tuple(row) for row in encoder.hidden_states[-1].flatten(end_dim=-2).tolist()}
        assert len(read) > 0
        assert {tuple(row) for row in read.tolist()} <= recorded_rows
        torch.testing.assert_close(encoder.attentions[0].sum(-1), torch.ones(4, 4, length))
    for name in case.answers:
        assert torch.equal(output[name], plain[name]), name


@pytest.mark.parametrize("key", ["pretraining", "reid"])
def test_outputs__encoders_stay_out_unless_asked_for(key, make_config, batch):
    case = CASES[key]
    assert _encoder_outputs(case, case.build(make_config)(**case.select(batch))) == {}


def test_hidden_states__keep_their_gradients(case, make_config, batch):
    model = case.build(make_config)
    model.set_attn_implementation("eager")
    output = model(**case.select(batch), output_hidden_states=True, output_attentions=True)
    kept = [
        tensor
        for name, encoder in _encoder_outputs(case, output).items()
        if name not in ("image_output", "text_output") or case.model_class is MMETModel
        for tensor in (encoder.hidden_states[0], encoder.attentions[0])
    ]
    assert kept
    for tensor in kept:
        tensor.retain_grad()
    case.scalar(output).backward()
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in kept)


def test_tuple__holds_the_same_in_the_same_order(case, make_config, batch):
    model, inputs = case.build(make_config), case.select(batch)
    named, plain = model(**inputs), model(**inputs, return_dict=False)
    assert isinstance(plain, tuple)
    assert len(plain) == len(named)
    if "loss" in named:
        assert torch.equal(plain[0], named.loss)
    for name, value in zip(named, plain, strict=True):
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, named[name]), name


def test_tuples__have_no_named_outputs_inside(case, make_config, batch):
    model = case.build(make_config)
    output = model(**case.select(batch), output_hidden_states=True, return_dict=False)
    assert isinstance(output, tuple)
    assert not any(isinstance(value, ModelOutput) for value in output)


@pytest.mark.parametrize("key", ["text", "model", "reid", "pretraining"])
def test_inputs_embeds__in_the_place_of_tokens(key, make_config, batch):
    case = CASES[key]
    model = case.build(make_config)
    inputs = case.select(batch)
    expected = model(**inputs)
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    received = model(**inputs, inputs_embeds=embeds)
    for name in case.answers:
        torch.testing.assert_close(received[name], expected[name], **CLOSE)
    with pytest.raises(ValueError, match="expected input_ids or inputs_embeds, received both"):
        model(**inputs, input_ids=batch["input_ids"], inputs_embeds=embeds)
    with pytest.raises(ValueError, match=r"inputs_embeds of shape \(any, any, 32\), received \(4, 7, 30\)"):
        model(**inputs, inputs_embeds=embeds[..., :30])


def test_inputs_embeds__of_absent_texts(make_config, batch):
    model = CASES["reid"].build(make_config)
    inputs = {name: batch[name] for name in CLEAN} | {"text_present": torch.tensor([True, False, True, False])}
    expected = model(**inputs).embeddings
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    torch.testing.assert_close(model(**inputs, inputs_embeds=embeds).embeddings, expected, **CLOSE)


def test_text_encoder__neither_tokens_nor_embeddings(make_config):
    with pytest.raises(ValueError, match="expected input_ids or inputs_embeds, received neither"):
        CASES["text"].build(make_config)()


@pytest.mark.parametrize(
    "kind",
    [CLEAN, ("pixel_values", "bool_masked_pos", "mim_labels"), ("input_ids_masked", "mlm_labels"), EVERYTHING],
    ids=["contrastive", "image", "text", "everything"],
)
def test_plain_trainer__evaluates_the_loss_of_any_batch(kind, make_config, batch, tmp_path):
    model = CASES["pretraining"].build(make_config)
    samples = [{name: batch[name][row] for name in kind} for row in range(4)]
    arguments = TrainingArguments(tmp_path, per_device_eval_batch_size=4, use_cpu=True, disable_tqdm=True)
    trainer = Trainer(model, arguments, eval_dataset=samples)
    with torch.no_grad():
        expected = model(**{name: batch[name] for name in kind}).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert trainer.predict(samples).metrics["test_loss"] == pytest.approx(expected, rel=1e-5)
