"""Read the losses of a run from its `trainer_state.json`.

history = read_history(Path("outputs/demo/model"))
history.losses[0].values
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmet.checkpoint_files import read_json_object
from modeling_mmet import LOSS_NAMES


@dataclass(frozen=True, eq=False)
class LossSeries:
    """The logged values of one of `LOSS_NAMES` (or `total`): `steps` and `values`, both `(n,)`."""

    name: str
    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class TrainingHistory:
    """Number of steps, duration in seconds (None if the run was interrupted) and all losses that were logged."""

    num_steps: int
    seconds: float | None
    losses: Sequence[LossSeries]


def read_history(run: Path) -> TrainingHistory | None:
    """Read the training history of a run's folder; None if it has none, as for a model from the Hub.

    Raises:
        ValueError: `trainer_state.json` is invalid.
    """
    path = run / "trainer_state.json"
    if not os.path.lexists(path):
        return None
    state = read_json_object(path, "the state of a training run")
    try:
        entries = state["log_history"]
        names = {"total": "loss", **{name: f"{name}_loss" for name in LOSS_NAMES}}
        series = [_loss_series(name, key, entries) for name, key in names.items()]
        seconds = [float(entry["train_runtime"]) for entry in entries if "train_runtime" in entry]
        return TrainingHistory(
            num_steps=int(state["global_step"]),
            seconds=seconds[-1] if seconds else None,
            losses=[losses for losses in series if losses.steps.size],
        )
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the state of a training run: {error!r}") from error


def _loss_series(name: str, key: str, entries: Sequence[Mapping[str, Any]]) -> LossSeries:
    points = [(entry["step"], entry[key]) for entry in entries if key in entry]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return LossSeries(name, steps, values)
