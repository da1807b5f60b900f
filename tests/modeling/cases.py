"""The six model classes, what each reads and answers, and comparisons that the tests of all of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from named_inputs import CLEAN, CLOSE, EVERYTHING
from transformers import PreTrainedModel

import mmet  # noqa: F401 (registers the Auto classes)
from configuration_mmet import MMETConfig
from modeling_mmet import (
    MMETForPreTraining,
    MMETForReID,
    MMETImageModel,
    MMETModel,
    MMETMultimodalModel,
    MMETTextModel,
)


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

ENCODED = ("last_hidden_state", "pooler_output", "pre_norm_hidden_state")
CASES = {
    "image": Case(MMETImageModel, "image", ("pixel_values", "bool_masked_pos"), ENCODED),
    "text": Case(MMETTextModel, "text", ("input_ids", "attention_mask"), ENCODED),
    "multimodal": Case(MMETMultimodalModel, "multimodal", ("hidden_states", "attention_mask"), ENCODED),
    "model": Case(MMETModel, None, CLEAN, ("image_embeds", "text_embeds", "multimodal_embeds")),
    "pretraining": Case(MMETForPreTraining, None, EVERYTHING, HEADS),
    "reid": Case(MMETForReID, None, (*CLEAN, "labels"), ("embeddings", "logits")),
}


def load(case: Case, path: Path, **kwargs):
    """The model from a folder, and the kinds of keys that did not fit."""
    model, info = case.model_class.from_pretrained(path, output_loading_info=True, **kwargs)
    return model.eval(), {kind: set(keys) for kind, keys in info.items() if keys}


def assert_equal_states(received: PreTrainedModel, expected: PreTrainedModel):
    states = expected.state_dict()
    assert received.state_dict().keys() == states.keys()
    for name, value in received.state_dict().items():
        assert value.dtype == states[name].dtype, name
        assert torch.equal(value, states[name]), name


def assert_close_gradients(received: PreTrainedModel, expected: PreTrainedModel):
    for (name, parameter), other in zip(expected.named_parameters(), received.parameters(), strict=True):
        # A compiled graph answers with zeros for what it takes in and does not use.
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in (other, parameter)]
        torch.testing.assert_close(*gradients, msg=name, **CLOSE)
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in expected.parameters())
