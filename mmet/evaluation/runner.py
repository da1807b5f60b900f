"""Every system on every task of a data set, as rows of a report.

data = EvaluationData("market1501", root, prepare_tasks(dataset))
records = evaluate_systems(data, systems, max_rank=50)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict

from mmet.distributed import compute_once
from mmet.evaluation.analyses import Analysis, scoring_options
from mmet.evaluation.analyses.calibration import (
    CALIBRATION_FILE,
    MatchCalibration,
    Method,
    SavedCalibrations,
    fit_calibration,
    read_saved,
    sample_pairs,
    save_calibrations,
)
from mmet.evaluation.metrics.bootstrap import BootstrapOptions, QueryValues
from mmet.evaluation.pairs import count_wrong_pairs
from mmet.evaluation.protocols import Modality, RetrievalTask, build_task, standard_pairs
from mmet.evaluation.results import ResultRecord, interval_json
from mmet.evaluation.search import SearchOptions, SearchResult
from mmet.evaluation.systems.baselines import EmbeddingSystem, System

logger = logging.getLogger(__name__)


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


def evaluate_systems(
    data: EvaluationData,
    systems: Sequence[System],
    *,
    max_rank: int,
    options: SearchOptions | None = None,
    analyses: Sequence[Analysis] = (),
    bootstrap: BootstrapOptions | None = None,
) -> list[ResultRecord]:
    """Run each system on the tasks it supports. Rows are ordered by task, then as `systems` are.

    Args:
        data: the tasks.
        systems: what to run on them.
        max_rank: length of CMC curves.
        options: of all searches; those that a system has no use for are recorded as off.
        analyses: what else to compute from searches by embeddings; the main process does it for all.
        bootstrap: of the metrics' intervals, for searches by embeddings; None for none.
    """
    options = options or SearchOptions()
    rows: dict[tuple[int, int], ResultRecord] = {}
    for system_number, system in enumerate(systems):
        supported = {
            number: task
            for number, task in enumerate(data.tasks)
            if system.supports(task.query.modality, task.gallery.modality)
        }
        results = system.evaluate(list(supported.values()), max_rank=max_rank, options=options)
        for task_number, result in zip(supported, results, strict=True):
            applied = applied_options(system, options, result)
            rows[task_number, system_number] = make_row(data, system.name, result, applied, analyses, bootstrap)
    return [rows[key] for key in sorted(rows)]


def make_row(
    data: EvaluationData,
    system: str,
    result: SearchResult,
    options: Mapping[str, Any],
    analyses: Sequence[Analysis] = (),
    bootstrap: BootstrapOptions | None = None,
) -> ResultRecord:
    """The row of one search: its metrics and, where the system embeds, its analyses and intervals."""
    extras: dict[str, Any] = {}
    query_values = None
    if result.query_embeddings is not None:
        found = compute_once(lambda: [analysis(data.name, system, result, options) for analysis in analyses])
        extras = {name: value for one in found for name, value in one.items()}
    values = result.headline_values() if bootstrap is not None else None
    if bootstrap is not None and values is not None:
        query_values = QueryValues(values, result.task.query.person_ids)
        extras["intervals"] = interval_json(query_values, bootstrap)
    return ResultRecord(
        data=data.name,
        data_root=str(data.root),
        protocol=result.task.protocol,
        query=result.task.query.modality,
        gallery=result.task.gallery.modality,
        system=system,
        metrics=result.metrics,
        options=options,
        extras=extras,
        query_values=query_values,
    )


def order_rows(records: Sequence[ResultRecord], data: Sequence[EvaluationData]) -> list[ResultRecord]:
    """Rows of several systems by task in the order of `data`; rows of one task keep their order."""
    tasks: list[tuple[str, ...]] = [
        (part.name, str(part.root), task.protocol, task.query.modality, task.gallery.modality)
        for part in data
        for task in part.tasks
    ]
    return sorted(records, key=lambda record: tasks.index(record.task))


def applied_options(system: System, options: SearchOptions, result: SearchResult) -> dict[str, Any]:
    """The options that had an effect on a row, all others at their defaults; `flip` is the embedding's own."""
    if result.query_embeddings is None:
        options = SearchOptions(multi_query=options.multi_query)
    elif result.rescored is None:
        options = replace(options, itm_top_k=0, itm_weight=SearchOptions.itm_weight)
    return {"flip": bool(getattr(system, "flip", False)), **options.to_json()}


def calibration_tasks(
    dataset: DatasetDict, query: Modality | None, gallery: Modality | None, protocol: str | None
) -> tuple[str, list[RetrievalTask]]:
    """What match probabilities are learnt on: the tasks of the split `validation` where there is one, else the usual.

    Returns:
        The split's name (`query/gallery` or `test` without validation), and the tasks as `prepare_tasks` makes them.
    """
    if "validation" in dataset:
        return "validation", prepare_tasks(DatasetDict(test=dataset["validation"]), query, gallery, protocol)
    return "query/gallery" if "query" in dataset else "test", prepare_tasks(dataset, query, gallery, protocol)


def learn_calibrations(
    system: EmbeddingSystem,
    name: str,
    split: str,
    tasks: Sequence[RetrievalTask],
    *,
    method: Method,
    options: SearchOptions | None = None,
    seed: int = 0,
) -> dict[tuple[str, str], MatchCalibration]:
    """Match probabilities of a system for each pair of modalities that it can search in `tasks`.

    Args:
        system: embeds the items.
        name, split: of the data, for the record.
        tasks: of `calibration_tasks`.
        method: `isotonic` or `platt`.
        options: of the searches whose scores are calibrated.
        seed: draws pairs where there are too many.

    Raises:
        ValueError: pairs of one kind alone, scikit-learn missing, or nothing that the system can search.
    """
    options = options or SearchOptions()
    usable = [task for task in tasks if system.supports(task.query.modality, task.gallery.modality)]
    if not usable:
        raise ValueError(f"{name}: {system.name} can search none of its tasks, so nothing was learnt")
    calibrations: dict[tuple[str, str], MatchCalibration] = {}
    for result in system.evaluate(usable, max_rank=1, options=replace(options, itm_top_k=0)):
        task = result.task
        pairs = sample_pairs(task, *result.embeddings(), seed=seed)
        about = {
            "data": name,
            "split": split,
            "protocol": task.protocol,
            "num_persons": len(np.unique(task.gallery.person_ids)),
            "num_matching_pairs": int(pairs.is_match.sum()),
            "num_different_pairs": count_wrong_pairs(task),
            "options": scoring_options(applied_options(system, options, result)),
        }
        key = (task.query.modality, task.gallery.modality)
        calibrations[key] = fit_calibration(pairs, method=method, about=about)
    return calibrations


def keep_calibrations(
    calibrations: Mapping[tuple[str, str], MatchCalibration], model_folder: Path, output_dir: Path, weights: str
) -> Path:
    """Save calibrations beside the model, or with the results where the model is no local folder or cannot be written.

    Calibrations of other pairs of modalities that were learnt for the same weights are kept, from whichever of the two
    places they are in.

    Args:
        calibrations: by (query, gallery) modality.
        model_folder: of the model; it need not be a folder.
        output_dir: of the results.
        weights: `fingerprint_weights` of the model.

    Returns:
        The file.
    """
    folders = [model_folder, output_dir] if model_folder.is_dir() else [output_dir]
    known = _known_calibrations([model_folder, output_dir], weights)
    kept = {pair: found for saved in known for pair, found in saved.calibrations.items()}
    for folder in folders:
        file = folder / CALIBRATION_FILE
        try:
            save_calibrations(file, {**kept, **calibrations}, weights=weights)
            return file
        except OSError as error:
            if folder is folders[-1]:
                raise
            logger.warning("%s cannot be written (%s): the calibration goes to %s", file, error, output_dir)
    raise AssertionError("unreachable: the last folder saves or raises")


def saved_calibrations(model_folder: Path, output_dir: Path, weights: str) -> dict[tuple[str, str], MatchCalibration]:
    """What `keep_calibrations` saved last, wherever it had to.

    Raises:
        ValueError: no calibration, or those of other weights alone.
    """
    known = _known_calibrations([model_folder, output_dir], weights)
    if known:
        return dict(known[-1].calibrations)
    places = [place for place in (model_folder, output_dir) if os.path.lexists(place / CALIBRATION_FILE)]
    folder = next(iter(places), model_folder)
    read_saved(folder / CALIBRATION_FILE)  # says what is wrong with the file itself
    raise ValueError(
        f"{folder / CALIBRATION_FILE} was learnt for other weights than those of the model: learn it again with "
        "--calibrate name=folder"
    )


def _known_calibrations(folders: Sequence[Path], weights: str) -> list[SavedCalibrations]:
    """The calibration files of some folders for these weights, the latest last; none that is absent or damaged."""
    known = []
    for folder in folders:
        try:
            known.append(read_saved(folder / CALIBRATION_FILE))
        except ValueError:
            continue
    return sorted((saved for saved in known if saved.weights == weights), key=lambda saved: saved.created)
