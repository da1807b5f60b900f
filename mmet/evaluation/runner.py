"""Run every system on every task of a dataset, and return the rows of a report.

data = EvaluationData("market1501", root, prepare_tasks(dataset))
records = evaluate_systems(data, systems, EvaluationOptions(), analyses)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmet.evaluation.analyses.base import Analysis, analyse
from mmet.evaluation.options import EvaluationOptions
from mmet.evaluation.protocols import RetrievalTask
from mmet.evaluation.record import ResultRecord
from mmet.evaluation.systems.base import System


@dataclass(frozen=True, eq=False)
class EvaluationData:
    """A dataset's name and folder, as results record them, and its tasks."""

    name: str
    root: Path
    tasks: Sequence[RetrievalTask]


def evaluate_systems(
    data: EvaluationData,
    systems: Sequence[System],
    options: EvaluationOptions | None = None,
    analyses: Sequence[Analysis] = (),
) -> list[ResultRecord]:
    """Run each system on the tasks it supports. Rows are ordered by task, then in the order of `systems`.

    Args:
        data: the tasks.
        systems: the systems to run.
        options: None for plain searches; options that a system cannot use are recorded as off.
        analyses: analyses of the searches of systems that embed.
    """
    rows: dict[tuple[int, int], ResultRecord] = {}
    for system_number, system in enumerate(systems):
        supported = {
            number: task
            for number, task in enumerate(data.tasks)
            if system.supports(task.query.modality, task.gallery.modality)
        }
        results = system.evaluate(list(supported.values()), options or EvaluationOptions())
        for task_number, result in zip(supported, results, strict=True):
            record = ResultRecord.of(result, system=system.name, data=data.name, data_root=str(data.root))
            rows[task_number, system_number] = analyse(result, record, analyses)
    return [rows[key] for key in sorted(rows)]


def order_rows(records: Sequence[ResultRecord], data: Sequence[EvaluationData]) -> list[ResultRecord]:
    """Rows of several systems by task in the order of `data`; rows of one task keep their order."""
    tasks: list[tuple[str, ...]] = [
        (part.name, str(part.root), task.protocol, task.query.modality, task.gallery.modality)
        for part in data
        for task in part.tasks
    ]
    return sorted(records, key=lambda record: tasks.index(record.task))
