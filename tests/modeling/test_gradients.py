"""Training: losses fall, every weight learns, and saving memory changes no gradient."""

from __future__ import annotations

import copy
import functools
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from named_inputs import CLEAN, CLOSE, EVERYTHING, IMAGE_ONLY, select
from torch.utils._python_dispatch import TorchDispatchMode

import mmet  # noqa: F401 (registers the Auto classes)
from modeling_mmet import (
    MMETForPreTraining,
    MMETImageModel,
    MMETLayer,
)


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (EVERYTHING, ("mmm_image", "mmm_text", "itm", "global_contrastive", "identity", "triplet")),
        (IMAGE_ONLY, ("mim",)),
        (("input_ids_masked", "mlm_labels", "attention_mask"), ("mlm",)),
    ],
)
def test_training__lowers_every_loss(make_config, make_pretraining_batch, inputs, names):
    config = make_config(initializer_range=None, encoder={"initializer_range": None}, label_smoothing=0.0)
    model = MMETForPreTraining(config).train()
    batch = select(make_pretraining_batch(8), *inputs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    history = []
    for _ in range(25):
        output = model(**batch)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        history.append({name: output.losses[name].item() for name in names})
    for name in names:
        assert history[-1][name] < 0.5 * history[0][name], (name, history[0][name], history[-1][name])


def test_training__every_weight_has_a_gradient(config, make_pretraining_batch):
    model, batch = MMETForPreTraining(config).train(), make_pretraining_batch()
    for inputs in (EVERYTHING, IMAGE_ONLY, ("input_ids_masked", "mlm_labels")):
        model(**select(batch, *inputs)).loss.backward()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert frozen == without == set()


def test_gradient_checkpointing__same_gradients(config, make_pretraining_batch):
    model, batch = MMETForPreTraining(config).eval(), make_pretraining_batch()
    recomputing = copy.deepcopy(model)
    recomputing.activation_checkpointing_enable()
    recomputing.train()
    recomputing.identity_head.eval()
    recomputing.config.modality_dropout = 0.0  # the one difference between the two modes: all dropouts are 0
    calls = []
    recomputing.mmet.image_model.encoder.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    for candidate in (model, recomputing):
        candidate(**batch).loss.backward()
    assert len(calls) == 4  # two passes, each run again in the backward
    for (name, expected), received in zip(model.named_parameters(), recomputing.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(received.grad, expected.grad, msg=name, **CLOSE)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "gradient checkpointing"])
@pytest.mark.parametrize(
    "inputs", [EVERYTHING, IMAGE_ONLY, ("input_ids_masked", "mlm_labels"), (*CLEAN, "person_labels")]
)
def test_autocast__gradients_are_those_of_float32(make_config, make_pretraining_batch, inputs, checkpointing):
    """The backward pass comes after autocast has ended; a paired batch reads the weights of an encoder twice."""
    model, batch = MMETForPreTraining(make_config(modality_dropout=0.0)), select(make_pretraining_batch(), *inputs)
    reference = copy.deepcopy(model).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    reference(**batch).loss.backward()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.train()(**batch).loss
    loss.backward()
    for (name, parameter), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert (parameter.grad is None) == (expected.grad is None), name
    gradients = [
        torch.cat([p.grad.flatten() for p in candidate.parameters() if p.grad is not None])
        for candidate in (model, reference)
    ]
    assert F.cosine_similarity(*gradients, dim=0) > 0.99


def _count_operators(function) -> Counter:
    """How often `function` runs each operator of torch."""

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            counts[operator.overloadpacket.__name__] += 1
            return operator(*args, **(kwargs or {}))

    counts: Counter = Counter()
    with Counting():
        function()
    return counts


def test_layers__backward_repeats_norms_and_activations_alone(config):
    model = MMETImageModel(config.image_config).train()
    outputs = []
    forward = _count_operators(lambda: outputs.append(model(torch.randn(2, 3, 52, 28)).pooler_output.sum()))
    backward = _count_operators(outputs[0].backward)
    layers = config.image_config.num_hidden_layers
    assert forward["addmm"] == 4 * layers  # queries, keys and values at once; attention's output; two in the MLP
    assert backward["addmm"] == 0  # no linear layer is run again
    assert backward["gelu"] == layers
    assert backward["native_layer_norm"] == 2 * layers  # the final norm is kept


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_layers__gradients_equal_those_that_keep_everything(make_config, dropout, implementation):
    encoder = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = make_config(encoder=encoder).image_config
    model = MMETImageModel._from_config(config, attn_implementation=implementation).train()
    keeping = copy.deepcopy(model)
    for layer in keeping.encoder.layers:
        layer.forward = functools.partial(MMETLayer.forward.__wrapped__.__wrapped__, layer)
    pixel_values = torch.randn(2, 3, 52, 28)
    for candidate in (model, keeping):
        torch.manual_seed(1)
        candidate(pixel_values).last_hidden_state.square().sum().backward()
    for (name, expected), received in zip(keeping.named_parameters(), model.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(received.grad, expected.grad, msg=name)
