"""Small callbacks of `MMETTrainer`."""

from __future__ import annotations

import math

from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from mmet.sampling import MixedBatchSampler


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
