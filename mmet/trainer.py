"""`MMETTrainer`: transformers' `Trainer` that mixes kinds of batches and logs every loss by its name.

What it adds, each in one hook: the mixed-batch sampler, the named losses, the parameters that do not decay, retrieval as
evaluation, and a stop of all processes that names the images of a batch whose loss is not finite.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from mmet.sampling import MixedBatchSampler
from mmet.validation import RetrievalEvaluator, embedder_of, random_state_kept
from modeling_mmet import LOSS_NAMES

NO_DECAY = ("bias", "norm", "bnneck", "cls_token", "mask_token", "position_embeddings", "logit_scale")
"""Parameters whose name holds one of these are not pulled towards zero by weight decay."""


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite; the message names the step, the losses and the images of the batch."""


class MMETTrainer(Trainer):
    """
    Trainer of `MMETForPreTraining`.

    Args:
        train_sampler: order of the training examples.
        evaluator: what `evaluate` does; None where nothing is evaluated.
        **kwargs: as for `transformers.Trainer`.
    """

    def __init__(
        self, *, train_sampler: MixedBatchSampler, evaluator: RetrievalEvaluator | None = None, **kwargs: Any
    ) -> None:
        # Trainer wants to see an evaluation dataset where it is to evaluate; it only hands it on.
        super().__init__(eval_dataset=evaluator.sets if evaluator is not None else None, **kwargs)
        self._train_sampler = train_sampler
        self._evaluator = evaluator
        self._embedder = embedder_of(self.accelerator.unwrap_model(self.model)) if evaluator is not None else None
        self.add_callback(_SamplerEpoch(train_sampler))
        self.add_callback(_EvaluateAtTheEnd())
        # Sum and count of each loss since the last log line, on the device: reading them every step would stall a GPU.
        self._loss_sums = torch.zeros(len(LOSS_NAMES), 2, device=self.args.device)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        return self._train_sampler

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Matrices and embeddings decay; biases, norms, class tokens, positions and the temperature do not."""
        return [name for name, _ in model.named_parameters() if not any(part in name for part in NO_DECAY)]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The model's own loss, with its named parts kept for the log."""
        image_paths = inputs.pop("image_paths", ())
        outputs = model(**inputs)
        if outputs.loss is None:
            raise ValueError(
                f"a batch with {sorted(inputs)} has no loss to train: check batch_mix and the loss weights against it"
            )
        self._stop_unless_finite(outputs, image_paths)
        self._remember_losses(outputs.losses)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _stop_unless_finite(self, outputs: Any, image_paths: Iterable[str]) -> None:
        """Raise `NonFiniteLossError` on all processes where the loss of one is not finite."""
        finite = torch.isfinite(outputs.loss).reshape(1)
        if self.accelerator.gather(finite.int()).all():
            return
        failed = [name for name, loss in outputs.losses.items() if loss is not None and not torch.isfinite(loss)]
        failures = gather_object([(failed, list(image_paths)) if not finite else ([], [])])
        raise NonFiniteLossError(
            _describe_failure(
                self.state.global_step,
                [name for names, _ in failures for name in names],
                [path for _, paths in failures for path in paths],
            )
        )

    def _remember_losses(self, losses: Mapping[str, torch.Tensor | None]) -> None:
        for row, name in enumerate(LOSS_NAMES):
            loss = losses[name]
            if loss is not None:
                # Detached: otherwise the graph of every step would live until the next log line.
                self._loss_sums[row] += torch.stack([loss.detach().float(), loss.new_ones(()).float()])

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """
        Retrieval metrics of the evaluator's sets under `<metric_key_prefix>_<name>` (see `RetrievalEvaluator`), logged
        and returned. The arguments `eval_dataset` and `ignore_keys` of `transformers.Trainer` have no use here.
        """
        if self._evaluator is None or self._embedder is None:
            raise ValueError("nothing to evaluate on: set validation_identities above 0 or give eval_data")
        start = time.perf_counter()
        self._embedder.train(self.model.training)  # the state that embedding returns to
        with random_state_kept(self.args.device):
            found = self._evaluator(self._embedder, self.accelerator)
        found["runtime"] = round(time.perf_counter() - start, 2)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of each named loss since the last line, over all processes, to the training log."""
        if "loss" in logs:
            sums = self.accelerator.reduce(self._loss_sums, reduction="sum")
            self._loss_sums.zero_()
            for name, (total, count) in zip(LOSS_NAMES, sums.tolist(), strict=True):
                if count:
                    logs[f"{name}_loss"] = round(total / count, 4)
        super().log(logs, start_time)


class _SamplerEpoch(TrainerCallback):
    """
    Tells the sampler the epoch. Trainer does so too, but on several processes does not reach it when it resumes in the
    middle of an epoch: accelerate's wrappers then lie one deeper than either looks.
    """

    def __init__(self, sampler: MixedBatchSampler) -> None:
        self._sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._sampler.set_epoch(math.floor(state.epoch + 1e-6))  # a sum of fractions may fall short of a whole


class _EvaluateAtTheEnd(TrainerCallback):
    """The last checkpoint is evaluated too, also where `max_steps` is no multiple of `eval_steps`."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps and args.eval_strategy == IntervalStrategy.STEPS:
            control.should_evaluate = True


def _describe_failure(step: int, losses: Iterable[str], image_paths: Iterable[str]) -> str:
    """Which losses of step `step` are not finite, and on which images."""
    failed = dict.fromkeys(losses)
    shown = ", ".join(dict.fromkeys(path for path in image_paths if path)) or "a batch without images"
    return (
        f"the loss at step {step} is not finite ({', '.join(failed) or 'their sum'}); the batch held: {shown}. "
        "Lower learning_rate, or look at these files."
    )
