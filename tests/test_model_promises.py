"""What users of transformers expect of any model, asked of all six: loading, recording, precision, devices, words."""

from __future__ import annotations

import copy
import json
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForPreTraining, PreTrainedModel, Trainer, TrainingArguments
from transformers.modeling_outputs import ModelOutput

import mmet  # noqa: F401 (registers the Auto classes)
import modeling_mmet
from configuration_mmet import MMETConfig
from modeling_mmet import (
    MMETForPreTraining,
    MMETForReID,
    MMETImageModel,
    MMETModel,
    MMETMultimodalModel,
    MMETTextModel,
)

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
CLEAN = ("pixel_values", "input_ids", "attention_mask")


@dataclass(frozen=True)
class Case:
    """One of the six classes: which part of the configuration it takes, what it reads and what it answers."""

    model_class: type[PreTrainedModel]
    part: str | None
    inputs: tuple[str, ...]
    answers: tuple[str, ...]
    """Outputs with one row a sample (or, of the masked positions, the same number of rows for every sample)."""

    def configure(self, make_config: Callable[..., MMETConfig], **kwargs):
        config = make_config(**kwargs)
        return config if self.part is None else getattr(config, f"{self.part}_config")

    def build(self, make_config: Callable[..., MMETConfig], **kwargs) -> PreTrainedModel:
        return self.model_class(self.configure(make_config, **kwargs)).eval()

    def select(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        states = torch.randn(len(batch["input_ids"]), 7, 32, generator=torch.Generator().manual_seed(1))
        everything = batch | {"hidden_states": states, "labels": batch["person_labels"]}
        return {name: everything[name] for name in self.inputs}

    def loss(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Something to go backwards from: the model's own loss where it has one."""
        return self.scalar(model(**inputs))

    def scalar(self, output) -> torch.Tensor:
        """The output's loss, or a sum of its answers with weights that no norm makes constant."""
        if "loss" in output:
            return output.loss
        answers = [output[name].flatten() for name in self.answers]
        return sum((answer * torch.arange(len(answer)).cos()).mean() for answer in answers)


HEADS = ("mmm_image_logits", "mmm_text_logits", "itm_logits", "identity_embeds", "identity_logits")
EVERYTHING = (*CLEAN, "bool_masked_pos", "mim_labels", "input_ids_masked", "mlm_labels", "itm_labels", "person_labels")
ENCODED = ("last_hidden_state", "pooler_output", "pre_norm_hidden_state")
CASES = {
    "image": Case(MMETImageModel, "image", ("pixel_values", "bool_masked_pos"), ENCODED),
    "text": Case(MMETTextModel, "text", ("input_ids", "attention_mask"), ENCODED),
    "multimodal": Case(MMETMultimodalModel, "multimodal", ("hidden_states", "attention_mask"), ENCODED),
    "model": Case(MMETModel, None, CLEAN, ("image_embeds", "text_embeds", "multimodal_embeds")),
    "pretraining": Case(MMETForPreTraining, None, EVERYTHING, HEADS),
    "reid": Case(MMETForReID, None, (*CLEAN, "labels"), ("embeddings", "logits")),
}
BNNECK = re.compile(r"identity_head\.bnneck\.(weight|running_mean|running_var)$")


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request) -> Case:
    return request.param


@pytest.fixture
def batch(make_pretraining_batch) -> dict[str, torch.Tensor]:
    """Four paired samples, all of them matching, so that each has the same masked positions in the losses."""
    return make_pretraining_batch() | {"itm_labels": torch.ones(4, dtype=torch.long)}


def _load(case: Case, path: Path, **kwargs):
    """The model from a folder, and the kinds of keys that did not fit."""
    model, info = case.model_class.from_pretrained(path, output_loading_info=True, **kwargs)
    return model.eval(), {kind: set(keys) for kind, keys in info.items() if keys}


def _assert_equal_states(received: PreTrainedModel, expected: PreTrainedModel):
    states = expected.state_dict()
    assert received.state_dict().keys() == states.keys()
    for name, value in received.state_dict().items():
        assert value.dtype == states[name].dtype, name
        assert torch.equal(value, states[name]), name


def _assert_close_gradients(received: PreTrainedModel, expected: PreTrainedModel):
    for (name, parameter), other in zip(expected.named_parameters(), received.parameters(), strict=True):
        # A compiled graph answers with zeros for what it takes in and does not use.
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in (other, parameter)]
        torch.testing.assert_close(*gradients, msg=name, **CLOSE)
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in expected.parameters())


# --- saving and loading ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_save_and_load__bit_equal(case, shard, make_config, batch, tmp_path):
    model = case.build(make_config)
    for name, value in model.state_dict().items():  # also what starts as zeros and ones
        if value.is_floating_point() and not name.endswith("running_var"):
            value.normal_()
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "20KB")
    loaded, problems = _load(case, tmp_path)
    assert problems == {}
    _assert_equal_states(loaded, model)
    inputs = case.select(batch)
    received, expected = loaded(**inputs), model(**inputs)
    for name in case.answers:
        assert torch.equal(received[name], expected[name]), name


def test_save_and_load__configuration_survives(case, make_config, tmp_path):
    model = case.build(make_config, image={"patch_stride": 8, "image_size": (40, 28)}, text={"vocab_size": 17})
    model.save_pretrained(tmp_path)
    loaded, _ = _load(case, tmp_path)

    left_out = ("dtype", "_name_or_path")  # a folder states the dtype of each part, a new model does not

    def settings(config: dict) -> dict:
        return {k: settings(v) if isinstance(v, dict) else v for k, v in config.items() if k not in left_out}

    assert settings(loaded.config.to_dict()) == settings(model.config.to_dict())


def test_load__missing_and_unexpected_keys_are_reported(case, make_config, tmp_path):
    case.build(make_config).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    missing = next(name for name in weights if name.endswith("encoder.layers.1.mlp.fc1.weight"))
    reference = weights.pop(missing)
    save_file(weights | {"someone.elses.weight": torch.ones(3)}, tmp_path / "model.safetensors", {"format": "pt"})
    loaded, problems = _load(case, tmp_path)
    assert problems == {"missing_keys": {missing}, "unexpected_keys": {"someone.elses.weight"}}
    fresh = loaded.state_dict()[missing]
    assert not torch.equal(fresh, reference)
    assert fresh.std().item() == pytest.approx(0.2, rel=0.1)


def test_load__other_number_of_identities(make_config, batch, tmp_path):
    case = CASES["reid"]
    model = case.build(make_config)
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="mismatched"):
        MMETForReID.from_pretrained(tmp_path, num_identities=9)
    loaded, problems = _load(case, tmp_path, num_identities=9, ignore_mismatched_sizes=True)
    assert {key for key, *_ in problems["mismatched_keys"]} == {"identity_head.classifier.weight"}
    inputs = {name: batch[name] for name in CLEAN}
    assert torch.equal(loaded(**inputs).embeddings, model(**inputs).embeddings)
    assert loaded(**inputs).logits.shape == (4, 9)
    assert loaded.identity_head.classifier.weight.std().item() == pytest.approx(0.2, rel=0.2)


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForPreTraining])
def test_auto_class__from_config(case, auto_class, make_config):
    expected = {AutoModel: case.model_class, AutoModelForPreTraining: MMETForPreTraining}[auto_class]
    if auto_class is AutoModel and case.part is None:
        expected = MMETForReID
    if auto_class is AutoModelForPreTraining and case.part is not None:
        pytest.skip("an encoder alone has no pretraining model")
    torch.manual_seed(3)
    received = auto_class.from_config(case.configure(make_config))
    torch.manual_seed(3)
    assert type(received) is expected
    _assert_equal_states(received, expected(case.configure(make_config)))


def test_auto_class__saved_folder(case, make_config, tmp_path):
    case.build(make_config).save_pretrained(tmp_path)
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    name = case.model_class.__name__
    own = "AutoModelForPreTraining" if case.model_class is MMETForPreTraining else "AutoModel"
    assert auto_map[own] == f"modeling_mmet.{name}"
    assert {"modeling_mmet.py", "configuration_mmet.py"} <= {path.name for path in tmp_path.iterdir()}
    loader = AutoModelForPreTraining if case.model_class is MMETForPreTraining else AutoModel
    assert type(loader.from_pretrained(tmp_path)) is case.model_class


# --- initialisation --------------------------------------------------------------------------------------------------

RANGES = {
    "image": (0.3, 0.7, 1.1),
    "text": (0.2, 0.5, None),
    "multimodal": (0.1, None, 0.9),
    "whole": (0.4, None, None),
}
"""initializer_range, position_initializer_range and class_token_initializer_range of each part."""


def _expected_values(name: str, part: str, value: torch.Tensor):
    """Assert that a state of the given part holds what the configuration says it starts as."""
    weights, positions, class_token = RANGES[part]
    if name.endswith(("bias", "running_mean", "num_batches_tracked", "mask_token", "centroids")):
        assert not value.any(), name
    elif "norm" in name or "bnneck" in name:
        assert (value == 1).all(), name
    elif name.endswith("logit_scale"):
        assert value.item() == pytest.approx(2.6592), name
    else:
        if "token_embedding" in name:
            assert not value[0].any(), name  # [PAD]
            value = value[1:]
        std = class_token if name.endswith("cls_token") else positions if "position_embedding" in name else weights
        std = std if std is not None else weights
        # The standard deviation of n normal numbers is off by std / sqrt(2n); five times that never happens.
        assert abs(value.std().item() - std) < 5 * std / math.sqrt(2 * value.numel()), name


@pytest.mark.parametrize("origin", ["constructor", "nothing in the checkpoint"])
def test_initialisation__as_configured(case, origin, make_config, tmp_path):
    names = ("initializer_range", "position_initializer_range", "class_token_initializer_range")
    config = make_config(initializer_range=RANGES["whole"][0], tie_word_embeddings=False)
    for part in ("image", "text", "multimodal"):
        getattr(config, f"{part}_config").update(dict(zip(names, RANGES[part], strict=True)))
    model = case.model_class(config if case.part is None else getattr(config, f"{case.part}_config"))
    if origin != "constructor":
        model.save_pretrained(tmp_path)
        save_file({"unknown": torch.ones(1)}, tmp_path / "model.safetensors", {"format": "pt"})
        filler = [torch.full((1 << 16,), math.nan) for _ in range(64)]  # memory that is not zero by luck
        del filler
        model, problems = _load(case, tmp_path)
        # What is never missed: a copy of nothing.
        assert problems["missing_keys"] >= {name for name, _ in model.named_parameters()}
    for name, value in model.state_dict().items():
        parts = [part for part in ("image", "text", "multimodal") if f"{part}_model." in f"{name}."]
        _expected_values(name, case.part or (parts[0] if parts else "whole"), value)


# --- recording -------------------------------------------------------------------------------------------------------


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


# --- equivalent ways to the same numbers -----------------------------------------------------------------------------


def test_attention__eager_equals_sdpa_with_gradients(case, make_config, batch):
    model, inputs = case.build(make_config), case.select(batch)
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    assert {m.config._attn_implementation for m in eager.modules() if hasattr(m, "num_heads")} == {"eager"}
    assert {m.config._attn_implementation for m in model.modules() if hasattr(m, "num_heads")} == {"sdpa"}
    for candidate in (model, eager):
        case.loss(candidate, inputs).backward()
    received, expected = eager(**inputs), model(**inputs)
    for name in case.answers:
        torch.testing.assert_close(received[name], expected[name], **CLOSE)
    _assert_close_gradients(eager, model)


def test_batching__a_batch_is_its_samples(case, make_config, batch):
    model, inputs = case.build(make_config), case.select(batch)
    together = model(**inputs)
    for index in range(4):
        alone = model(**{name: value[index : index + 1] for name, value in inputs.items()})
        for name in case.answers:
            rows = len(alone[name])  # more than one: masked positions
            expected = alone[name]
            torch.testing.assert_close(together[name][index * rows : (index + 1) * rows], expected, msg=name, **CLOSE)


def test_forward__same_twice(case, make_config, batch):
    model, inputs = case.build(make_config, encoder={"hidden_dropout_prob": 0.3}), case.select(batch)
    first, second = model(**inputs), model(**inputs)
    for name in case.answers:
        assert torch.equal(first[name], second[name]), name


def test_dropout__of_training_alone(case, make_config, batch):
    model = case.build(make_config, encoder={"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3})
    inputs = case.select(batch)
    model.train()
    assert not torch.equal(case.loss(model, inputs), case.loss(model, inputs))


def test_gradient_checkpointing__same_loss_and_gradients(case, make_config, batch):
    """With dropout on, so that what is computed again must draw the same numbers."""
    dropout = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
    model, inputs = case.build(make_config, encoder=dropout).train(), case.select(batch)
    recomputing = copy.deepcopy(model)
    recomputing.activation_checkpointing_enable()
    losses, calls = [], []
    layer = next(module for module in recomputing.modules() if type(module).__name__ == "MMETLayer")
    layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    for candidate in (model, recomputing):
        torch.manual_seed(5)
        losses.append(case.loss(candidate, inputs))
        forward_calls = len(calls)
        losses[-1].backward()
    assert len(calls) == 2 * forward_calls > 0
    assert torch.equal(*losses)
    _assert_close_gradients(recomputing, model)


def test_compile__same_loss_and_gradients(case, make_config, batch):
    model, inputs = case.build(make_config, encoder={"num_hidden_layers": 1}), case.select(batch)
    if case.model_class is MMETForPreTraining:
        del inputs["person_labels"]  # L_ID and L_triplet are compiled with `MMETForReID`
    compiled = copy.deepcopy(model)
    torch._dynamo.reset()
    losses = [case.loss(model, inputs), case.loss(torch.compile(compiled, backend="aot_eager"), inputs)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0], **CLOSE)
    _assert_close_gradients(compiled, model)


@pytest.mark.parametrize("key", ["image", "text", "multimodal", "model", "reid"])
def test_compile__one_graph(key, make_config, batch):
    case = CASES[key]
    model, inputs = case.build(make_config, encoder={"num_hidden_layers": 1}), case.select(batch)
    inputs.pop("labels", None)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        received, expected = compiled(**inputs), model(**inputs)
    for name in case.answers:
        torch.testing.assert_close(received[name], expected[name], **CLOSE)


# --- precision and devices -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision__loads_close_and_keeps_its_fp32_parts(case, dtype, make_config, batch, tmp_path):
    reference, inputs = case.build(make_config), case.select(batch)
    if hasattr(reference, "image_codebook"):
        reference.image_codebook.centroids.normal_()
    reference.save_pretrained(tmp_path / "full")
    model, problems = _load(case, tmp_path / "full", dtype=dtype)
    assert problems == {}
    states, kept = reference.state_dict(), set()
    for name, value in model.state_dict().items():
        if BNNECK.search(name) or name.startswith("image_codebook."):
            assert torch.equal(value, states[name]), name
            kept.add(name)
        elif value.is_floating_point():
            assert value.dtype == dtype, name
    assert len(kept) == {MMETForReID: 3, MMETForPreTraining: 4}.get(case.model_class, 0)
    if "hidden_states" in inputs:
        inputs["hidden_states"] = inputs["hidden_states"].to(dtype)
    received, expected = (
        model(**inputs),
        reference(**{k: v.float() if v.dtype == dtype else v for k, v in inputs.items()}),
    )
    for name in case.answers:
        assert torch.cosine_similarity(received[name].float(), expected[name], dim=-1).min() > 0.97, name
    model.save_pretrained(tmp_path / "half")
    again, _ = _load(case, tmp_path / "half")
    _assert_equal_states(again, model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision__trains(dtype, make_config, batch, tmp_path):
    case = CASES["pretraining"]
    case.build(make_config).save_pretrained(tmp_path)
    model = MMETForPreTraining.from_pretrained(tmp_path, dtype=dtype).train()
    case.loss(model, case.select(batch)).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(gradients) > 100
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "disk"}])
def test_device_map__same_outputs(case, device_map, make_config, batch, tmp_path):
    # L_GC reads the temperature, which belongs to the whole `MMETModel` and would come only with a call of that.
    model, inputs = case.build(make_config, global_contrastive_weight=0.0), case.select(batch)
    model.save_pretrained(tmp_path)
    loaded = case.model_class.from_pretrained(tmp_path, device_map=device_map, offload_folder=tmp_path / "offload")
    loaded.eval()
    offloaded = device_map == {"": "disk"}
    assert all(parameter.is_meta == offloaded for parameter in loaded.parameters())
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            received, expected = loaded(**inputs), model(**inputs)
        for name in case.answers:
            assert torch.equal(received[name], expected[name]), name


def test_device_map__offloaded_model_passes_gradients_to_its_inputs(make_config, batch, tmp_path):
    """Saliency of an image needs no weight's gradient, so it works with weights that come and go."""
    case = CASES["reid"]
    model = case.build(make_config)
    model.save_pretrained(tmp_path)
    loaded = MMETForReID.from_pretrained(tmp_path, device_map={"": "disk"}, offload_folder=tmp_path / "offload").eval()
    gradients = []
    for candidate in (model, loaded):
        pixel_values = batch["pixel_values"].clone().requires_grad_()
        candidate(pixel_values=pixel_values).embeddings[:, :5].sum().backward()
        gradients.append(pixel_values.grad)
    torch.testing.assert_close(gradients[1], gradients[0], **CLOSE)


def test_device_map__parts_of_the_model(make_config, batch, tmp_path):
    model = CASES["pretraining"].build(make_config)
    model.save_pretrained(tmp_path)
    device_map = {name: "cpu" for name, _ in model.named_children() if name != "mmet"}
    device_map |= {f"mmet.{name}": "cpu" for name, _ in model.mmet.named_children()}
    device_map |= {"mmet.image_model": "disk", "mmet.logit_scale": "cpu"}  # with the temperature at hand, L_GC works
    loaded = MMETForPreTraining.from_pretrained(tmp_path, device_map=device_map, offload_folder=tmp_path / "offload")
    assert {name.split(".")[1] for name, p in loaded.named_parameters() if p.is_meta} == {"image_model"}
    with torch.no_grad():
        received, expected = loaded.eval()(**batch), model(**batch)
    assert torch.equal(received.loss, expected.loss)


# --- vocabulary ------------------------------------------------------------------------------------------------------

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
    loaded, problems = _load(case, tmp_path)
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


# --- tied weights ----------------------------------------------------------------------------------------------------


def test_tied_weights__stored_once_and_trained_together(make_config, batch, tmp_path):
    model = CASES["pretraining"].build(make_config)
    words = "mmet.text_model.embeddings.token_embedding.weight"
    decoders = {"mlm_head.decoder.weight", "mmm_text_head.decoder.weight"}
    assert set(model.all_tied_weights_keys) == decoders
    model.save_pretrained(tmp_path)
    assert len((decoders | {words}) & load_file(tmp_path / "model.safetensors").keys()) == 1
    loaded, problems = _load(CASES["pretraining"], tmp_path)
    assert problems == {}
    loaded(input_ids_masked=batch["input_ids_masked"], mlm_labels=batch["mlm_labels"]).loss.backward()
    assert loaded.mlm_head.decoder.weight.grad is loaded.get_input_embeddings().weight.grad


@pytest.mark.parametrize("key", ["image", "text", "multimodal", "model", "reid"])
def test_tied_weights__none_without_text_heads(key, make_config):
    assert not CASES[key].build(make_config).all_tied_weights_keys


# --- what pipelines, trainers and adapters expect --------------------------------------------------------------------


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


def test_identities__have_transformers_names(make_config):
    config = make_config(num_identities=3)
    assert config.num_labels == 3
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    config.num_labels = 2
    assert config.num_identities == len(config.id2label) == len(config.label2id) == 2
    config.id2label = {"0": "alice", "1": "bob", "2": "eve"}
    assert config.num_identities == config.num_labels == 3
    assert config.label2id == {"alice": 0, "bob": 1, "eve": 2}
    loaded = MMETConfig.from_dict(json.loads(config.to_json_string()))
    assert loaded.id2label == {0: "alice", 1: "bob", 2: "eve"}
    config.num_identities = 5
    assert config.id2label[4] == "LABEL_4"  # names of others are not kept
    assert MMETConfig(label2id={"alice": 0, "bob": 1}).id2label == {0: "alice", 1: "bob"}


def test_identities__many_do_not_fill_the_configuration(make_config):
    assert "LABEL_" not in make_config(num_identities=1000).to_json_string()


@pytest.mark.parametrize(
    "names", [{"num_labels": 7}, {"id2label": {number: f"person {number}" for number in range(7)}}], ids=str
)
def test_load__other_number_of_labels(names, make_config, tmp_path):
    CASES["reid"].build(make_config).save_pretrained(tmp_path)
    loaded = MMETForReID.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **names)
    assert loaded.identity_head.classifier.weight.shape == (7, 32)
    assert loaded.config.num_identities == len(loaded.config.id2label) == 7
    assert loaded.config.id2label == names.get("id2label", loaded.config.id2label)


def test_load__safetensors_alone(case, make_config, tmp_path):
    model = case.build(make_config)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="leave out use_safetensors=False"):
        case.model_class.from_pretrained(tmp_path, use_safetensors=False)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"safetensors alone.*expected model.safetensors in .*pytorch_model.bin"):
        case.model_class.from_pretrained(tmp_path)


@pytest.mark.parametrize("trained", [True, False])
def test_identity_head__says_when_it_was_never_trained(trained, make_config, batch, tmp_path, caplog):
    model = CASES["pretraining"].build(make_config, num_identities=4 if trained else 0)
    if trained:
        model.train()(**{name: batch[name] for name in (*CLEAN, "person_labels")})
    model.eval().save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        modeling_mmet.logger.parent.propagate, before = True, modeling_mmet.logger.parent.propagate
        loaded = AutoModel.from_pretrained(tmp_path)
        modeling_mmet.logger.parent.propagate = before
    assert type(loaded) is MMETForReID
    assert ("was never trained" in caplog.text) != trained
    inputs = {name: batch[name] for name in CLEAN}
    with torch.no_grad():
        received = loaded(**inputs)
        features = model.get_multimodal_features(**inputs).pooler_output
    assert torch.equal(received.embeddings, received.pooler_output)
    if not trained:
        torch.testing.assert_close(received.embeddings, torch.nn.functional.normalize(features), **CLOSE)


def test_adapters__documented_names_are_all_linear_layers_of_the_encoders(make_config):
    model = CASES["reid"].build(make_config)
    documented = ("qkv_proj", "out_proj", "fc1", "fc2")
    encoders = [model.mmet.image_model, model.mmet.text_model, model.mmet.multimodal_model]
    for encoder in encoders:
        linear = [name for name, module in encoder.named_modules() if isinstance(module, torch.nn.Linear)]
        assert {name.rsplit(".", 1)[-1] for name in linear} == set(documented)
    card = Path(__file__).parents[1] / "docs" / "architecture.md"
    assert f"`target_modules={list(documented)}`".replace("'", '"') in card.read_text(encoding="utf-8")
