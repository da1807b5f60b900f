"""Small callbacks of `MMETTrainer`, and the wish to stop that a SIGTERM expresses.

with StopSignal() as stop:
    trainer = MMETTrainer(stop=stop, ...)
    trainer.train()       # after SIGTERM: the step is finished, a checkpoint is saved, TrainingStopped is raised
"""

from __future__ import annotations

import math
import signal
import threading
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from mmet.sampling import MixedBatchSampler


class StopSignal:
    """Notes a SIGTERM instead of dying from it, between entering and leaving; `requested` tells."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _note(self, number: int, frame: Any) -> None:
        self.requested = True


class SamplerEpoch(TrainerCallback):
    """
    Tells the sampler the epoch. Trainer does so too, but on several processes does not reach it when it resumes in the
    middle of an epoch: accelerate's wrappers then lie one deeper than either looks.
    """

    def __init__(self, sampler: MixedBatchSampler) -> None:
        self._sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._sampler.set_epoch(math.floor(state.epoch + 1e-6))  # a sum of fractions may fall short of a whole


class EvaluateAtTheEnd(TrainerCallback):
    """The last checkpoint is evaluated too, also where `max_steps` is no multiple of `eval_steps`."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps and args.eval_strategy == IntervalStrategy.STEPS:
            control.should_evaluate = True
