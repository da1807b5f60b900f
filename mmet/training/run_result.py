"""The result of a finished run, `training_result.json`; its presence marks the run as finished.

result = training_result(trainer, data, objectives, arguments, summaries, sets)
write_result(result, output_dir)
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from transformers import TrainerState

from mmet.training.arguments import DataArguments, ObjectiveArguments, PretrainingArguments
from mmet.training.checkpoint_selection import SELECTION
from mmet.training.measures import MEASURE_NAMES
from mmet.training.trainer import MMETTrainer
from mmet.training.training_data import SourceSummary
from mmet.training.training_options import name_of
from mmet.versions import installed_versions
from mmet.whole_files import read_json, write_whole
from modeling_mmet import LOSS_NAMES, MMETForPreTraining

RESULT_FILE = "training_result.json"
"""Written last; its presence marks the run as finished."""


def training_result(
    trainer: MMETTrainer,
    data: DataArguments,
    objectives: ObjectiveArguments,
    arguments: PretrainingArguments,
    summaries: Sequence[SourceSummary],
    sets: Mapping[str, str],
) -> dict[str, Any]:
    """The content of `training_result.json`; `sets` are names and descriptions of the evaluated sets."""
    state, model = trainer.state, cast(MMETForPreTraining, trainer.accelerator.unwrap_model(trainer.model))
    config = model.config
    chosen = data.select_on if state.best_model_checkpoint is not None else "last"
    step = state.best_global_step if chosen != "last" and state.best_global_step else state.global_step
    return {
        "checkpoint_selection": {
            "chosen_on": chosen,
            "explanation": SELECTION[chosen or "last"],
            "metric": f"eval_{arguments.metric_for_best_model}" if chosen != "last" else None,
            "value": state.best_metric if chosen != "last" else None,
            "step": step,
        },
        "evaluated_on": dict(sets),
        "metrics": _at_step(state.log_history, step),
        "training": _settings(state, arguments, objectives, data),
        "loss_weights": {name: getattr(config, f"{name}_weight") for name in LOSS_NAMES},
        "last_logged": _last_logged(state.log_history),
        "data": [asdict(summary) for summary in summaries],
        "validation": {"identities": data.validation_identities, "seed": data.validation_seed},
        "skipped_images": trainer.skipped.to_json(),
        "num_parameters": model.num_parameters(),
        "identity_head_trained": model.identity_head.is_trained,
        "embedding_size": config.multimodal_config.hidden_size,
        "versions": installed_versions(),
    }


def _settings(
    state: TrainerState, arguments: PretrainingArguments, objectives: ObjectiveArguments, data: DataArguments
) -> dict[str, Any]:
    """The settings of the run, and the number of steps."""
    return {
        "steps": state.global_step,
        "max_steps": state.max_steps,
        "num_train_epochs": arguments.num_train_epochs,
        "global_batch_size": arguments.train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps,
        "optimizer": name_of(arguments.optim),
        "learning_rate": arguments.learning_rate,
        "lr_scheduler_type": name_of(arguments.lr_scheduler_type),
        "weight_decay": arguments.weight_decay,
        "bf16": arguments.bf16,
        "seed": arguments.seed,
        "batch_mix": objectives.mix,
        "loss_schedule": objectives.schedule.to_json(),
        "persons_per_batch": objectives.persons_per_batch,
        "images_per_person": objectives.images_per_person,
        "image_masking": data.image_masking,
        "mask_ratio": data.mask_ratio,
    }


def write_result(result: Mapping[str, Any], folder: Path) -> None:
    """Write `training_result.json`, completely or not at all."""
    write_whole(folder / RESULT_FILE, json.dumps(result, indent=2) + "\n")


def read_result(folder: Path) -> dict[str, Any] | None:
    """
    Read the result of a finished run; None if the run has not finished.

    Raises:
        ValueError: the file is not a result.
    """
    path = folder / RESULT_FILE
    if not os.path.lexists(path):
        return None
    try:
        result = read_json(path)
        if not isinstance(result, dict):
            raise ValueError(f"expected a JSON object, received {type(result).__name__}")
    except (OSError, ValueError) as error:
        raise not_a_result(path, error) from error
    return result


def not_a_result(path: Path, error: Exception) -> ValueError:
    """The error for a result file that cannot be read."""
    return ValueError(
        f"{path} is not the result of a training run ({error}); remove it, and the run goes on from its last "
        "checkpoint"
    )


def is_finished(arguments: PretrainingArguments) -> bool:
    """Whether a run that is to be resumed is already finished, with its model saved."""
    if str(arguments.resume_from_checkpoint).lower() != "true":
        return False
    result = read_result(Path(arguments.output_dir))
    if result is None:
        return False
    try:
        done = result["training"]
        if arguments.max_steps > 0:
            return bool(done["steps"] >= arguments.max_steps)
        is_last_step = done["steps"] >= done["max_steps"]
        return bool(is_last_step and done["num_train_epochs"] >= arguments.num_train_epochs)
    except (KeyError, TypeError) as error:
        raise not_a_result(Path(arguments.output_dir, RESULT_FILE), error) from error


def _at_step(history: Sequence[Mapping[str, Any]], step: int) -> dict[str, float]:
    """The evaluation of a step."""
    metrics: dict[str, float] = {}
    for entry in history:
        if entry.get("step") == step:
            metrics |= {
                key: value for key, value in entry.items() if key.startswith("eval_") and key != "eval_runtime"
            }
    return metrics


def _last_logged(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The last value of each loss, accuracy and norm."""
    values: dict[str, float] = {}
    for entry in history:
        values |= {name: entry[name] for name in MEASURE_NAMES if name in entry}
    return values
