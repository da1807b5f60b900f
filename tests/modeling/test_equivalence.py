"""What users of transformers expect of any model, asked of all six: the same numbers by every way and precision."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from cases import CASES, assert_close_gradients, assert_equal_states, load
from named_inputs import CLOSE

import mmet  # noqa: F401 (registers the Auto classes)
from modeling_mmet import (
    MMETForPreTraining,
    MMETForReID,
)

ENCODERS = ("image", "text", "multimodal")
BNNECK = re.compile(r"identity_head\.bnneck\.(weight|running_mean|running_var)$")


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
    assert_close_gradients(eager, model)


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
    assert_close_gradients(recomputing, model)


@pytest.mark.parametrize("key", [*ENCODERS, "model", "reid", pytest.param("pretraining", marks=pytest.mark.slow)])
def test_compile__same_loss_and_gradients(key, make_config, batch):
    case = CASES[key]
    model, inputs = case.build(make_config, encoder={"num_hidden_layers": 1}), case.select(batch)
    if case.model_class is MMETForPreTraining:
        del inputs["person_labels"]  # L_ID and L_triplet are compiled with `MMETForReID`
    compiled = copy.deepcopy(model)
    torch._dynamo.reset()
    losses = [case.loss(model, inputs), case.loss(torch.compile(compiled, backend="aot_eager"), inputs)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0], **CLOSE)
    assert_close_gradients(compiled, model)


@pytest.mark.parametrize("key", ENCODERS)  # `test_tracing` has the models of both modalities
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision__loads_close_and_keeps_its_fp32_parts(case, dtype, make_config, batch, tmp_path):
    reference, inputs = case.build(make_config), case.select(batch)
    if hasattr(reference, "image_codebook"):
        reference.image_codebook.centroids.normal_()
    reference.save_pretrained(tmp_path / "full")
    model, problems = load(case, tmp_path / "full", dtype=dtype)
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
    again, _ = load(case, tmp_path / "half")
    assert_equal_states(again, model)


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
