"""Which checkpoint becomes the model: the best one in an evaluation, or the last."""

from __future__ import annotations

from collections.abc import Sequence

from transformers.trainer_utils import IntervalStrategy, SchedulerType

from mmet.training.arguments import DataArguments, ObjectiveArguments, PretrainingArguments
from mmet.training.sampling import IDENTITY_KINDS
from mmet.training.validation import RetrievalSet

SELECTION = {
    "validation": "the best mAP on persons held out of the training data chose the checkpoint, no test set did",
    "eval_data": "the best mAP on the evaluation data below chose the checkpoint: figures on it are optimistic",
    "last": "no checkpoint was chosen: the model is the last one",
}
"""Explanations of the choices for the model card."""


def plan_selection(
    data: DataArguments,
    objectives: ObjectiveArguments,
    arguments: PretrainingArguments,
    sets: Sequence[RetrievalSet],
) -> None:
    """
    Set how the checkpoint that becomes the model is chosen, in `data.select_on` and `arguments`.

    By default, validation chooses it if identities are trained. Masked objectives do not aim at retrieval, so the last
    checkpoint of a masked stage becomes the model.

    Raises:
        ValueError: checkpoints to choose from are never evaluated or never saved.
    """
    if data.select_on is None:
        validates = any(searched.role == "validation" for searched in sets) and arguments.eval_strategy != "no"
        data.select_on = "validation" if validates and _trains_identities(objectives) else "last"
    if not sets:
        if arguments.asks_to_evaluate:
            raise ValueError(
                f"eval_strategy: {arguments.eval_strategy} would have no effect: nobody is held out and there is no "
                "eval_data; set validation_identities or eval_data"
            )
        arguments.eval_strategy, arguments.do_eval = IntervalStrategy.NO, False
    if data.select_on == "last":
        schedule = SchedulerType(arguments.lr_scheduler_type)
        if schedule in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY):
            raise ValueError(
                f"lr_scheduler_type: {schedule.value} follows the metric that chooses the checkpoint, and "
                "select_on=last has none; set select_on to validation or eval_data"
            )
        return
    saved, evaluated = (arguments.save_strategy, arguments.save_steps), (arguments.eval_strategy, arguments.eval_steps)
    if saved != evaluated:
        raise ValueError(
            f"select_on={data.select_on} chooses among checkpoints that are evaluated: set save_strategy and "
            f"eval_strategy, save_steps and eval_steps alike (received {saved[0]} {saved[1]} and {evaluated[0]} "
            f"{evaluated[1]}), or --select_on last"
        )
    role = {"validation": "validation", "eval_data": "data"}[data.select_on]
    arguments.load_best_model_at_end = True
    arguments.metric_for_best_model = f"{role}_mAP"
    arguments.greater_is_better = True


def _trains_identities(objectives: ObjectiveArguments) -> bool:
    return any(kind in objectives.mix for kind in IDENTITY_KINDS)
