"""Learn match probabilities of a model on a data set, and keep them beside the model.

split, tasks = calibration_tasks(dataset, None, None, None)
calibrations = learn_calibrations(system, "market1501", split, tasks, method="isotonic")
keep_calibrations(calibrations, Path("outputs/run"), Path("outputs/eval"), weights)
calibrations = saved_calibrations(Path("outputs/run"), Path("outputs/eval"), weights)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import DatasetDict

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
from mmet.evaluation.options import EvaluationOptions
from mmet.evaluation.pairs import count_wrong_pairs
from mmet.evaluation.protocols import Modality, RetrievalTask, prepare_tasks
from mmet.evaluation.systems.base import System

logger = logging.getLogger(__name__)


def calibration_tasks(
    dataset: DatasetDict, query: Modality | None, gallery: Modality | None, protocol: str | None
) -> tuple[str, list[RetrievalTask]]:
    """Prepare the tasks that match probabilities are learnt on: those of `validation`, or else of the test split.

    Returns:
        The split's name (`validation`, `query/gallery` or `test`), and its tasks as in `prepare_tasks`.
    """
    if "validation" in dataset:
        return "validation", prepare_tasks(DatasetDict(test=dataset["validation"]), query, gallery, protocol)
    return "query/gallery" if "query" in dataset else "test", prepare_tasks(dataset, query, gallery, protocol)


def learn_calibrations(
    system: System,
    name: str,
    split: str,
    tasks: Sequence[RetrievalTask],
    *,
    method: Method,
    options: EvaluationOptions | None = None,
    seed: int = 0,
) -> dict[tuple[str, str], MatchCalibration]:
    """Learn match probabilities of a system for each pair of modalities that it can search in `tasks`.

    Args:
        system: the system that embeds the items.
        name, split: names of data set and split, for the record.
        tasks: result of `calibration_tasks`.
        method: `isotonic` or `platt`.
        options: options of the searches whose scores are calibrated.
        seed: random seed of the sample of pairs, if there are too many.

    Raises:
        ValueError: there are no matching or no different pairs, scikit-learn is not installed, or the system can
            search none of the tasks.
    """
    options = replace(options or EvaluationOptions(), itm_top_k=0, max_rank=1)
    usable = [task for task in tasks if system.supports(task.query.modality, task.gallery.modality)]
    if not usable:
        raise ValueError(f"{name}: {system.name} can search none of its tasks, so nothing was learnt")
    calibrations: dict[tuple[str, str], MatchCalibration] = {}
    for result in system.evaluate(usable, options):
        task = result.task
        pairs = sample_pairs(task, *result.embeddings(), seed=seed)
        about = {
            "data": name,
            "split": split,
            "protocol": task.protocol,
            "num_persons": len(np.unique(task.gallery.person_ids)),
            "num_matching_pairs": int(pairs.is_match.sum()),
            "num_different_pairs": count_wrong_pairs(task),
            "options": result.options.changing_scores(),
        }
        key = (task.query.modality, task.gallery.modality)
        calibrations[key] = fit_calibration(pairs, method=method, about=about)
    return calibrations


def keep_calibrations(
    calibrations: Mapping[tuple[str, str], MatchCalibration], model_folder: Path, output_dir: Path, weights: str
) -> Path:
    """Save calibrations beside the model, or with the results if the model's folder is not local or not writable.

    Calibrations of other pairs of modalities for the same weights are kept, from both places.

    Args:
        calibrations: calibrations by (query, gallery) modality.
        model_folder: folder of the model; for a model of the Hub, its name.
        output_dir: folder of the results.
        weights: `fingerprint_weights` of the model.

    Returns:
        The file that was written.
    """
    folders = [model_folder, output_dir] if model_folder.is_dir() else [output_dir]
    known = _known_calibrations([model_folder, output_dir], weights)
    kept = {pair: calibration for saved in known for pair, calibration in saved.calibrations.items()}
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
    """Read the calibrations that `keep_calibrations` saved last, from either place.

    Raises:
        ValueError: there is no calibration, or none for these weights.
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
    """Read the folders' calibration files for these weights, the latest last; skip absent and damaged ones."""
    known = []
    for folder in folders:
        try:
            known.append(read_saved(folder / CALIBRATION_FILE))
        except ValueError:
            continue
    return sorted((saved for saved in known if saved.weights == weights), key=lambda saved: saved.created)
