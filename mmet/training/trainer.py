"""`MMETTrainer`: transformers' `Trainer` with several kinds of batches, and with every loss logged by its name.

It adds, each in one hook: the mixed-batch sampler, named losses and accuracies, the parameters without weight decay,
retrieval as evaluation, atomic checkpoints, and two reasons to stop all processes together: a loss that is not finite
(the message names the images), and Ctrl-C or SIGTERM (after saving).
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from mmet.stopping import RunError, StopSignal, TrainingStopped, signal_name
from mmet.training.callbacks import EvaluateAtTheEnd, SamplerEpoch, use_readable_lines
from mmet.training.checkpoint_writing import (
    UNFINISHED,
    CheckpointError,
    clear_unfinished,
    last_checkpoint,
    publish_files,
    replace_folder,
)
from mmet.training.loss_schedule import LossSchedule
from mmet.training.measures import TrainingMeasures
from mmet.training.run_record import RunRecord
from mmet.training.sampling import MixedBatchSampler
from mmet.training.skipping import SkippedImages
from mmet.training.validation import RetrievalEvaluator, embedder_of, random_state_kept
from mmet.whole_files import whole_file
from objectives_mmet import weighted_sum

logger = logging.getLogger(__name__)

NO_DECAY = (
    "bias",
    "norm",
    "bnneck",
    "cls_token",
    "mask_token",
    "register_tokens",
    "position_embedding",
    "logit_scale",
)
"""Parameters with one of these in their name have no weight decay."""


class NonFiniteLossError(RunError):
    """A loss became NaN or infinite; the message names the step, the losses and the images of the batch."""


class MMETTrainer(Trainer):
    """
    Trainer of `MMETForPreTraining`.

    Args:
        train_sampler: sampler of the training examples.
        loss_schedule: factors of the loss weights over the course of training; None for constant weights.
        evaluator: evaluator that `evaluate` calls; None for no evaluation.
        stop: signal to save and stop; None to ignore signals.
        skipped: list of the pictures that were replaced; None for a new one.
        record: recipe, model and data of the run, saved in every checkpoint; None to save none.
        **kwargs: as for `transformers.Trainer`.
    """

    def __init__(
        self,
        *,
        train_sampler: MixedBatchSampler,
        loss_schedule: LossSchedule | None = None,
        evaluator: RetrievalEvaluator | None = None,
        stop: StopSignal | None = None,
        skipped: SkippedImages | None = None,
        record: RunRecord | None = None,
        **kwargs: Any,
    ) -> None:
        # Trainer evaluates only if it has an evaluation dataset, which it merely passes on.
        super().__init__(eval_dataset=evaluator.sets if evaluator is not None else None, **kwargs)
        self._train_sampler = train_sampler
        self._loss_schedule = loss_schedule or LossSchedule({})
        self._evaluator = evaluator
        self._stop = stop or StopSignal()
        self._stopping = 0
        self._writing: Path | None = None
        self._push: str | None = None
        self._record = record
        self.skipped = skipped or SkippedImages()
        self._embedder = embedder_of(self.accelerator.unwrap_model(self.model)) if evaluator is not None else None
        self._measures = TrainingMeasures(self.args.device)
        use_readable_lines(self)
        self.add_callback(SamplerEpoch(train_sampler))
        self.add_callback(EvaluateAtTheEnd())
        self.add_callback(_SaveAndStop(self))

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[Any]:
        return self._train_sampler

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Names of the parameters with weight decay: matrices and embeddings, but nothing in `NO_DECAY`."""
        return [name for name, _ in model.named_parameters() if not any(part in name for part in NO_DECAY)]

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """As in `Trainer`, with a warning if the run ends before its warm-up."""
        warmup = self.args.get_warmup_steps(num_training_steps)
        if warmup >= num_training_steps:
            logger.warning(
                "warmup_steps: the run of %d steps ends before its warm-up of %s: learning_rate is never reached",
                num_training_steps,
                f"{warmup:,}",
            )
        return super().create_scheduler(num_training_steps, optimizer)

    # Steps

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the model's loss, and record its named parts for the log."""
        image_paths = inputs.pop("image_paths", ())
        self.skipped.add(inputs.pop("skipped_images", ()))
        outputs = model(**inputs)
        if outputs.loss is None:
            raise ValueError(
                f"a batch with {sorted(inputs)} has no loss to train: change batch_mix or the loss weights"
            )
        outputs.loss = self._scheduled_loss(outputs)
        self._agree_to_go_on(outputs, image_paths)
        self._measures.add(outputs, inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _scheduled_loss(self, outputs: Any) -> torch.Tensor:
        """The loss of a batch with the weights of this step; the model's configuration is not changed."""
        factors = self.loss_factors()
        if not factors:
            return cast(torch.Tensor, outputs.loss)
        losses = {name: loss * factors.get(name, 1.0) for name, loss in outputs.losses.items() if loss is not None}
        return cast(torch.Tensor, weighted_sum(self.accelerator.unwrap_model(self.model).config, losses))

    def loss_factors(self) -> dict[str, float]:
        """Factor of the weight of each scheduled loss in the current step."""
        return self._loss_schedule.factors(self.state.global_step / max(1, self.state.max_steps))

    def _agree_to_go_on(self, outputs: Any, image_paths: Iterable[str]) -> None:
        """
        Raise `NonFiniteLossError` on all processes if the loss of one is not finite; remember on all if one received a
        stop signal. One exchange per step serves both.
        """
        finite = torch.isfinite(outputs.loss).reshape(()).int()
        stop_requested = torch.full_like(finite, self._stop.requested)
        agreed = self.accelerator.gather(torch.stack([finite, stop_requested])[None]).tolist()  # one row per process
        self._stopping = max(row[1] for row in agreed)
        if all(row[0] for row in agreed):
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

    @property
    def stopping(self) -> bool:
        """Whether all processes agreed in the latest batch to save and stop."""
        return self._stopping > 0

    # Evaluation and log

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """
        Compute, log and return the retrieval metrics of the evaluator's sets, as `<metric_key_prefix>_<name>` (see
        `RetrievalEvaluator`). `eval_dataset` and `ignore_keys` of `transformers.Trainer` are ignored.
        """
        if self._evaluator is None or self._embedder is None:
            raise ValueError("nothing to evaluate on: set validation_identities above 0 or give eval_data")
        start = time.perf_counter()
        self._embedder.train(self._embedder.mmet.training)  # the state that embedding returns to
        with random_state_kept(self.args.device), _whole_parameters(self.model_wrapped):
            values = self._evaluator(self._embedder, self.accelerator)
        values["runtime"] = round(time.perf_counter() - start, 2)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in values.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of each loss, accuracy and norm since the last line, over all processes, to the log."""
        if "loss" in logs:
            logs |= self._measures.means(self.accelerator)
            logs |= {f"{name}_factor": round(factor, 4) for name, factor in self.loss_factors().items()}
        super().log(logs, start_time)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """As in `Trainer`, but weights that are tied to others are not missing: a checkpoint holds them once."""
        tied = getattr(self.accelerator.unwrap_model(self.model), "_tied_weights_keys", None) or {}
        load_result.missing_keys[:] = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result)

    # Checkpoints

    def _get_output_dir(self, trial: Any) -> str:
        """Where `Trainer` writes: a temporary folder while a checkpoint is written."""
        return str(self._writing) if self._writing is not None else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """
        Write a checkpoint under a temporary name, rename it when it is complete, and only then delete older ones.

        Raises:
            CheckpointError: it cannot be written; earlier checkpoints are unchanged.
            TrainingStopped: after it is written, if Ctrl-C or SIGTERM requested it.
        """
        output, name = Path(str(self.args.output_dir)), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self.skipped.gather()
        self._writing = self._begin_writing()
        try:
            super()._save_checkpoint(model, trial)
            if self.state.best_global_step == self.state.global_step:
                self.state.best_model_checkpoint = str(output / name)  # its name, not where it was written
            if self.args.should_save:
                self.state.save_to_json(str(self._writing / name / TRAINER_STATE_NAME))
                if self._record is not None:
                    self._record.save(self._writing / name)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                replace_folder(self._writing / name, output / name)
                self.skipped.save(output)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise self._writing_failed(f"the checkpoint of step {self.state.global_step}", error) from error
        finally:
            self._writing = None
        self.accelerator.wait_for_everyone()
        if self._push is not None:
            self._push = None
            super()._push_from_checkpoint(str(output / name))
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(output),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=False,
            )
        if self._stopping:
            self.callback_handler.on_train_end(self.args, self.state, self.control)  # loggers write their last lines
            raise TrainingStopped(
                f"stopped by {signal_name(self._stopping)} after step {self.state.global_step}, "
                f"saved {output / name}; --resume_from_checkpoint true continues from there",
                self._stopping,
            )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Postpone the push until the checkpoint has its final name."""
        self._push = checkpoint_folder

    def _begin_writing(self) -> Path:
        folder = Path(str(self.args.output_dir))
        if self.args.should_save:
            clear_unfinished(folder)
        self.accelerator.wait_for_everyone()
        return folder / UNFINISHED

    def _writing_failed(self, what: str, error: Exception) -> CheckpointError:
        output = Path(str(self.args.output_dir))
        if self.args.should_save:
            clear_unfinished(output)
        return CheckpointError(
            f"{what} could not be written to {output} ({error}); the last good one is "
            f"{last_checkpoint(output) or 'none'}. Make room and continue with --resume_from_checkpoint true"
        )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save model and processor without the pickled arguments, because reading a pickle can run code."""
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            Path(str(output_dir or self.args.output_dir), TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        Save model and processor to a folder; by default to the output folder, where complete files are moved one by
        one.

        Raises:
            CheckpointError: they cannot be written; checkpoints are unchanged.
        """
        if output_dir not in (None, self.args.output_dir):
            super().save_model(output_dir, _internal_call)
            return
        folder = self._begin_writing() / "model"
        try:
            if self.is_fsdp_enabled:
                self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
            super().save_model(str(folder), _internal_call=True)
            if self.args.should_save:
                publish_files(folder, Path(str(self.args.output_dir)))
                shutil.rmtree(folder.parent, ignore_errors=True)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise self._writing_failed("the model", error) from error
        self.accelerator.wait_for_everyone()  # only the main process saves
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Trained model", revision=self.args.hub_revision)

    def save_state(self) -> None:
        """Write `trainer_state.json` atomically."""
        if self.args.should_save:
            with whole_file(Path(str(self.args.output_dir), TRAINER_STATE_NAME)) as draft:
                self.state.save_to_json(str(draft))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Keep the run's card (`README.md`), instead of the one that `Trainer` writes for a push."""
        if not Path(str(self.args.output_dir), "README.md").is_file():
            super().create_model_card(*args, **kwargs)


@contextmanager
def _whole_parameters(model: torch.nn.Module) -> Iterator[None]:
    """Gather the parameters outside the layers, which FSDP 2 shards; layers gather their own."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


class _SaveAndStop(TrainerCallback):
    """Requests a checkpoint once all processes have agreed to stop; saving it ends training."""

    def __init__(self, trainer: MMETTrainer) -> None:
        self._trainer = trainer

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._trainer.stopping:
            control.should_save = True


def _describe_failure(step: int, losses: Iterable[str], image_paths: Iterable[str]) -> str:
    """Describe which losses of a step are not finite, and on which images."""
    failed = dict.fromkeys(losses)
    shown = ", ".join(dict.fromkeys(path for path in image_paths if path)) or "a batch without images"
    return (
        f"the loss at step {step} is not finite ({', '.join(failed) or 'their sum'}); the batch held: {shown}. "
        "Lower learning_rate, or look at these files."
    )
