"""Every system on every task of a data set, as rows of a report.

data = EvaluationData("market1501", root, prepare_tasks(dataset))
records = evaluate_systems(data, systems, max_rank=50)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import DatasetDict

from mmet.evaluation.baselines import System
from mmet.evaluation.protocols import Modality, RetrievalTask, build_task, standard_pairs
from mmet.evaluation.results import ResultRecord


@dataclass(frozen=True, eq=False)
class EvaluationData:
    """A data set's name and folder, as results record them, and what is evaluated on it."""

    name: str
    root: Path
    tasks: Sequence[RetrievalTask]


def prepare_tasks(
    dataset: DatasetDict,
    query: Modality | None = None,
    gallery: Modality | None = None,
    protocol: str | None = None,
) -> list[RetrievalTask]:
    """The task asked for, or the data set's standard ones.

    Args:
        dataset: splits with the columns of `mmet.data.schema.REID_FEATURES`.
        query: modality of the queries; None for the standard tasks.
        gallery: modality of the gallery; None for images, or whatever the standard tasks search.
        protocol: a name of `mmet.evaluation.PROTOCOLS`; None for the data set's own.

    Raises:
        ValueError: as `build_task` does, or a gallery modality without a query modality.
    """
    if query is not None:
        return [build_task(dataset, query, gallery or "image", protocol)]
    if gallery is not None:
        raise ValueError(f"expected a query modality with gallery {gallery!r}, received none")
    if protocol == "text-to-image":
        return [build_task(dataset, "text", "image", protocol)]
    return [build_task(dataset, *pair, protocol) for pair in standard_pairs(dataset)]


def evaluate_systems(data: EvaluationData, systems: Sequence[System], *, max_rank: int) -> list[ResultRecord]:
    """Run each system on the tasks it supports. Rows are ordered by task, then as `systems` are."""
    rows: dict[tuple[int, int], ResultRecord] = {}
    for system_number, system in enumerate(systems):
        supported = {
            number: task
            for number, task in enumerate(data.tasks)
            if system.supports(task.query.modality, task.gallery.modality)
        }
        metrics = system.evaluate(list(supported.values()), max_rank=max_rank)
        for (task_number, task), task_metrics in zip(supported.items(), metrics, strict=True):
            rows[task_number, system_number] = ResultRecord(
                data=data.name,
                data_root=str(data.root),
                protocol=task.protocol,
                query=task.query.modality,
                gallery=task.gallery.modality,
                system=system.name,
                metrics=task_metrics,
            )
    return [rows[key] for key in sorted(rows)]
