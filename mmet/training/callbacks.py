"""Small callbacks of `MMETTrainer`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import IntervalStrategy

from mmet.training.sampling import MixedBatchSampler


class SamplerEpoch(TrainerCallback):
    """
    Tells the sampler the epoch. With several processes, Trainer's own call does not reach the sampler after a resume
    in the middle of an epoch, because accelerate wraps it once more.
    """

    def __init__(self, sampler: MixedBatchSampler) -> None:
        self._sampler = sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._sampler.set_epoch(math.floor(state.epoch + 1e-6))  # a sum of fractions may fall short of a whole


class EvaluateAtTheEnd(TrainerCallback):
    """Evaluates the last checkpoint, also if `max_steps` is not a multiple of `eval_steps`."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step >= state.max_steps and args.eval_strategy == IntervalStrategy.STEPS:
            control.should_evaluate = True


class ReadableLines(ProgressCallback):
    """
    Trainer's progress bar with readable log lines: the step first, numbers of three significant digits, no quotes.

    Args:
        show_bar: whether to show a bar as well as lines.
    """

    def __init__(self, show_bar: bool = True) -> None:
        super().__init__()
        self._show_bar = show_bar

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._show_bar:
            super().on_train_begin(args, state, control, **kwargs)  # type: ignore[no-untyped-call]

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.training_bar is not None:
            super().on_step_end(args, state, control, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        line = format_log(logs, state.global_step, state.max_steps)
        if self.training_bar is not None:
            self.training_bar.write(line)
        else:
            print(line, flush=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kwargs)


def format_log(logs: Mapping[str, Any], step: int, max_steps: int) -> str:
    """Format a log as one readable line: `step 40/300  loss 4.21  learning_rate 0.001`."""
    values = {name: value for name, value in logs.items() if name != "total_flos"}
    shown = (
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )
    return "  ".join([f"step {step}/{max_steps}", *shown])


def use_readable_lines(trainer: Trainer) -> None:
    """Replace transformers' printing of logs, with or without a progress bar, by `ReadableLines`."""
    for callback in (ProgressCallback, PrinterCallback):
        if trainer.pop_callback(callback) is not None:
            trainer.add_callback(ReadableLines(show_bar=callback is ProgressCallback))
