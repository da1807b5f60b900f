"""One graph for all batch sizes and text lengths: `torch.compile`, `torch.export`, and training through inductor."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim
from transformers import PreTrainedModel

from modeling_mmet import (
    MMETForPreTraining,
    MMETForReID,
    MMETImageModel,
    MMETModel,
    MMETMultimodalModel,
    MMETTextModel,
)

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
SIZES = [(4, 7), (3, 6), (2, 12)]
"""Batch sizes and text lengths."""

TEXT = ("input_ids", "attention_mask")
INPUTS = {
    "image": ("pixel_values",),
    "text": TEXT,
    "both": ("pixel_values", *TEXT),
    "some of both": ("pixel_values", *TEXT, "image_present", "text_present"),
}
ANSWERS = {MMETForReID: "embeddings", MMETModel: "multimodal_embeds"}


def _build(model_class: type[PreTrainedModel], make_config) -> PreTrainedModel:
    config = make_config(encoder={"num_hidden_layers": 1})
    part = model_class.__name__.removeprefix("MMET").removesuffix("Model").lower()
    return model_class(getattr(config, f"{part}_config") if model_class not in ANSWERS else config).eval()


@pytest.fixture
def make_inputs(make_batch):
    """Factory of a batch; the first sample has no image, the second no text."""

    def build(names: tuple[str, ...], batch_size: int, length: int) -> dict[str, torch.Tensor]:
        there = torch.arange(batch_size)
        batch = make_batch(batch_size, length) | {"image_present": there != 0, "text_present": there != 1}
        states = torch.randn(batch_size, length, 32, generator=torch.Generator().manual_seed(1))
        return {name: (batch | {"hidden_states": states})[name] for name in names}

    return build


def _assert_same(received, expected, name: str):
    torch.testing.assert_close(received[name], expected[name], **CLOSE)


@pytest.mark.parametrize(
    ("model_class", "kind", "dynamic", "graphs"),
    [
        *((MMETForReID, kind, True, 1) for kind in INPUTS),
        (MMETModel, "some of both", True, 1),
        (MMETForReID, "some of both", None, 2),
    ],
)
def test_compile__one_graph_for_all_sizes(model_class, kind, dynamic, graphs, make_config, make_inputs):
    """Left to itself, torch.compile sees a fixed size first and a changing one at the second call."""
    model = _build(model_class, make_config)
    torch._dynamo.reset()
    backend = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=dynamic)
    for size in SIZES:
        inputs = make_inputs(INPUTS[kind], *size)
        with torch.no_grad():
            _assert_same(compiled(**inputs), model(**inputs), ANSWERS[model_class])
    assert backend.frame_count == graphs


def test_compile__absent_inputs_reach_no_gradient(make_config, make_inputs):
    """An absent image may hold anything, as in eager mode."""
    model = _build(MMETForReID, make_config)
    inputs = make_inputs(INPUTS["some of both"], 4, 7)
    inputs["pixel_values"][0] = torch.nan
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    (compiled(**inputs).embeddings[:, :5]).sum().backward()
    received = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert all(gradient.isfinite().all() for gradient in received.values())
    model.zero_grad()
    model(**inputs).embeddings[:, :5].sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(received[name], parameter.grad, **CLOSE)


def test_compile__one_graph_with_labels(make_config, make_batch):
    model = _build(MMETForReID, make_config).train()
    torch._dynamo.reset()
    backend = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    for size in (4, 6, 8):
        inputs = make_batch(size) | {"labels": torch.arange(size) // 2}
        inputs["labels"][0] = -100
        torch.testing.assert_close(compiled(**inputs).loss, model(**inputs).loss, **CLOSE)
    assert backend.frame_count == 1


EXPORTED = [
    *((MMETForReID, names, "embeddings") for names in INPUTS.values()),
    (MMETModel, INPUTS["some of both"], "multimodal_embeds"),
    (MMETImageModel, INPUTS["image"], "pooler_output"),
    (MMETTextModel, TEXT, "pooler_output"),
    (MMETTextModel, TEXT[:1], "pooler_output"),
    (MMETMultimodalModel, ("hidden_states", "attention_mask"), "pooler_output"),
]


@pytest.mark.parametrize(
    ("model_class", "names", "answer"), EXPORTED, ids=[f"{c.__name__}-{'+'.join(names)}" for c, names, _ in EXPORTED]
)
def test_export__batch_and_text_length_are_dynamic(model_class, names, answer, make_config, make_inputs):
    model = _build(model_class, make_config)
    batch, length = Dim("batch", min=1, max=64), Dim("length", min=2, max=12)
    with_length = (*TEXT, "hidden_states")
    shapes = {name: {0: batch, 1: length} if name in with_length else {0: batch} for name in names}
    program = torch.export.export(model, (), make_inputs(names, 3, 7), dynamic_shapes=shapes, strict=False)
    for size in ((5, 9), (2, 12), (1, 7)):
        inputs = make_inputs(names, *size)
        if "image_present" in inputs and size[0] == 1:
            inputs["image_present"][:] = True
        with torch.no_grad():
            _assert_same(program.module()(**inputs), model(**inputs), answer)


def test_compile__inductor_draws_dropped_modalities(make_config):
    """torch 2.13's inductor fails on a slice of a random permutation as an index."""
    model = MMETForPreTraining(make_config(encoder={"num_hidden_layers": 1})).train()
    torch._dynamo.reset()

    def draw(pairs, values):
        return [values[rows] for rows in model._draw_dropped(pairs, None)]

    compiled = torch.compile(draw)
    for size in (4, 6):
        images, texts = compiled(torch.arange(size), torch.arange(size))
        assert sorted(torch.cat([images, texts]).tolist()) == list(range(size))


@pytest.mark.slow
def test_compile__inductor_trains_identities(make_config, make_pretraining_batch):
    config = make_config(encoder={"num_hidden_layers": 1})
    model, batch = MMETForPreTraining(config).train(), make_pretraining_batch()
    torch._dynamo.reset()
    names = ("pixel_values", *TEXT, "person_labels")
    output = torch.compile(model)(**{name: batch[name] for name in names})
    output.loss.backward()
    assert output.loss.isfinite()
    gradients = {name: p.grad for name, p in model.mmet.named_parameters() if p.grad is not None}
    assert any("multimodal_model" in name for name in gradients)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
