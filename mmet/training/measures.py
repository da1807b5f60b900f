"""Measures of training beside the losses: accuracy of the heads and norm of the embeddings.

totals = TrainingMeasures(device)
totals.add(outputs, inputs)                 # every step, on the device, without waiting for it
totals.means(accelerator)["mim_accuracy"]   # every log line, over all processes
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator

from inputs_mmet import IGNORE_INDEX
from modeling_mmet import LOSS_NAMES

ACCURACY_NAMES = ("mim_accuracy", "mlm_accuracy", "mmm_image_accuracy", "mmm_text_accuracy", "itm_accuracy")
"""Accuracies of the heads on masked patches, masked tokens and pairs (matching or not)."""

MEASURE_NAMES = (
    *(f"{name}_loss" for name in (*LOSS_NAMES, "supervised_contrastive", "similarity")),
    *ACCURACY_NAMES,
    "embedding_norm",
)
"""All measures, by the name under which they are logged."""


class TrainingMeasures:
    """
    Totals and counts of each measure since the last call of `means`.

    Args:
        device: device of the sums; reading them every step would stall a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(len(MEASURE_NAMES), 2, device=device)  # total, and count

    @torch.no_grad()
    def add(self, outputs: Any, inputs: Mapping[str, torch.Tensor]) -> None:
        """Add one batch: `outputs` of `MMETForPreTraining` for `inputs`."""
        one_step = torch.ones((), device=self._sums.device)
        measures = {f"{name}_loss": (loss, one_step) for name, loss in outputs.losses.items() if loss is not None}
        measures |= _accuracies(outputs, inputs)
        if outputs.identity_embeds is not None:
            norms = outputs.identity_embeds.float().norm(dim=1)
            measures["embedding_norm"] = (norms.sum(), one_step * len(norms))
        rows = torch.tensor([MEASURE_NAMES.index(name) for name in measures], device=self._sums.device)
        # Detached: otherwise the graph of every step would live until the next log line.
        sums = [torch.stack([total.detach().float().reshape(()), count.float()]) for total, count in measures.values()]
        self._sums.index_add_(0, rows, torch.stack(sums))

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Return the mean of each measure over all processes and reset the sums. All processes call it."""
        sums = accelerator.reduce(self._sums, reduction="sum")
        self._sums = torch.zeros_like(self._sums)
        return {
            name: round(total / count, 4)
            for name, (total, count) in zip(MEASURE_NAMES, sums.tolist(), strict=True)
            if count
        }


def _accuracies(outputs: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Numbers of correct predictions and of all predictions."""
    answers = {"mim": outputs.mim_codes, "mmm_image": outputs.mmm_image_codes, "itm": inputs.get("itm_labels")}
    mlm_labels, matches = inputs.get("mlm_labels"), inputs.get("itm_labels")
    if mlm_labels is not None:
        answers["mlm"] = mlm_labels[mlm_labels != IGNORE_INDEX]
        # L_MMM reads the captions of matching pairs alone.
        read = mlm_labels if matches is None else mlm_labels[matches == 1]
        answers["mmm_text"] = read[read != IGNORE_INDEX]
    accuracies = {}
    for name, answer in answers.items():
        logits = getattr(outputs, f"{name}_logits")
        if logits is not None and answer is not None and len(logits) == len(answer):
            right = logits.argmax(dim=-1) == answer  # never where the answer is unknown
            accuracies[f"{name}_accuracy"] = (right.sum(), (answer != IGNORE_INDEX).sum())
    return accuracies
