"""Validation without a test set: retrieval among persons held out of the training data.

`choose_persons` holds some persons of each domain out of *all* training sources, so that no stage sees them.
`RetrievalEvaluator` then searches for these persons during training, by image and, if there are captions, by sentence.
It does the same for datasets that the user names for evaluation.

    held_out = choose_persons([finegpr, market], amount=0.1, seed=0)
    training, rest = split_persons(finegpr, held_out)
    evaluate = RetrievalEvaluator([RetrievalSet("validation_finegpr", "validation", retrieval_tasks(rest))], processor)
    evaluate(model, accelerator)["validation_mAP"]
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from mmet.data.schema import NO_CAMERA, DatasetError, has_captions, integer_column
from mmet.evaluation.metrics.ranking import REPORTED_RANKS
from mmet.evaluation.options import EvaluationOptions
from mmet.evaluation.protocols import RetrievalTask, build_task
from mmet.evaluation.systems.model import ModelSystem
from mmet.training.dataset import domains_and_persons
from modeling_mmet import MMETForPreTraining, MMETForReID

logger = logging.getLogger(__name__)

_ROWS_PER_READ = 1_024

Persons = Mapping[str, NDArray[np.int64]]
"""Person ids of each domain, ascending."""


@dataclass(frozen=True, eq=False)
class RetrievalSet:
    """Searches that are evaluated during training under one name.

    Attributes:
        name: prefix of the metrics' names, such as `validation_finegpr`.
        role: `validation` (held out of the training data) or `data` (named by the user); the mean mAP of all sets of
            a role is `<role>_mAP`.
        tasks: the searches.
        description: description for the result file.
    """

    name: str
    role: str
    tasks: Sequence[RetrievalTask]
    description: str = ""


def choose_persons(sources: Iterable[datasets.Dataset], *, amount: float, seed: int) -> Persons:
    """
    Choose the validation persons of each domain among those with two images or more. The choice depends on seed and
    domain, but not on other domains or the order of sources.

    Args:
        sources: all training sources, each once.
        amount: share of a domain's persons (below 1; rounded, at least two persons), or their number. 0 for none.
        seed: random seed of the choice.

    Raises:
        ValueError: `amount` is a number that is not whole or is 1 (a search needs two persons), or a domain has too
            few persons.
    """
    if not amount:
        return {}
    if amount >= 1 and (amount != int(amount) or amount == 1):
        raise ValueError(
            f"validation_identities must be a share below 1 or a whole number from 2 up, received {amount}"
        )
    chosen = {}
    for domain, (person_ids, counts) in _count_images(sources).items():
        wanted = max(2, round(amount * len(person_ids))) if amount < 1 else int(amount)
        eligible = person_ids[counts >= 2]
        if wanted > len(eligible) or wanted >= len(person_ids):
            raise ValueError(
                f"{domain}: expected more than {wanted} persons with two images to hold {wanted} out for validation, "
                f"received {len(eligible)} of {len(person_ids)}; lower --validation_identities, or set it to 0"
            )
        rng = np.random.default_rng([seed, *domain.encode()])
        chosen[domain] = np.sort(rng.choice(eligible, wanted, replace=False))
    return chosen


def split_persons(source: datasets.Dataset, persons: Persons) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Split a source into the rows of other (also unknown) persons and the rows of `persons`."""
    domains, person_ids = _persons(source)
    held = np.zeros(len(source), dtype=bool)
    for domain, ids in persons.items():
        held |= (domains == domain) & np.isin(person_ids, ids)
    if not held.any():
        return source, source.select([])
    return source.select(np.flatnonzero(~held)), source.select(np.flatnonzero(held))


def limit_images(source: datasets.Dataset, *, images_per_person: int, seed: int) -> datasets.Dataset:
    """Keep at most `images_per_person` random rows of each person, in their order."""
    _, person_ids = _persons(source)
    order = np.random.default_rng([seed, len(source)]).permutation(len(source))
    order = order[np.argsort(person_ids[order], kind="stable")]  # by person, shuffled within
    _, starts, counts = np.unique(person_ids[order], return_index=True, return_counts=True)
    within = np.arange(len(order)) - np.repeat(starts, counts)
    return source.select(np.sort(order[within < images_per_person]))


def validation_sets(
    sources: Sequence[datasets.Dataset], persons: Persons, *, images_per_person: int, seed: int
) -> list[RetrievalSet]:
    """Make a `RetrievalSet` for each domain, of the rows of its `persons` in the (distinct) sources."""
    sets = []
    held = [split_persons(source, persons)[1] for source in sources]
    for domain, ids in persons.items():
        parts = [split_persons(source, {domain: ids})[1] for source in held]
        rows = datasets.concatenate_datasets([part for part in parts if len(part)])
        rows = limit_images(_drop_repeated(rows), images_per_person=images_per_person, seed=seed)
        description = f"{len(rows):,} images of {len(ids):,} persons held out of the training data of {domain}"
        logger.info("validation: %s", description)
        sets.append(RetrievalSet(f"validation_{domain}", "validation", retrieval_tasks(rows), description))
    return sets


def retrieval_tasks(rows: datasets.Dataset) -> list[RetrievalTask]:
    """
    Make the tasks among the rows of one split: image→image and, if there are captions, text→image.

    If the cameras are known, gallery images of the query's own person and camera are removed (the `market` protocol),
    otherwise only the query's own image (`leave-one-image-out`).
    """
    tasks = [_image_task(rows)]
    if has_captions(rows):
        tasks.append(build_task(datasets.DatasetDict(test=rows), "text", "image", "text-to-image"))
    return tasks


def evaluation_set(name: str, dataset: datasets.DatasetDict, *, split: str) -> RetrievalSet:
    """Make the `RetrievalSet` of a dataset that the user names: its own protocol on its test or validation split.

    Raises:
        DatasetError: the dataset does not have the split.
    """
    if split == "validation":
        if "validation" not in dataset:
            raise DatasetError(f"eval_split=validation: {name} has the splits {', '.join(dataset)}")
        dataset = datasets.DatasetDict(test=dataset["validation"])
    tasks = [build_task(dataset, "image", "image")]
    if "query" not in dataset and has_captions(dataset["test"]):
        tasks.append(build_task(dataset, "text", "image"))
    return RetrievalSet(f"data_{name}", "data", tasks, f"{split} split of {name}")


class RetrievalEvaluator:
    """Evaluates a model on `RetrievalSet`s as `run_reid_eval.py` does, by the rules of each task's protocol.

    Args:
        sets: the sets to evaluate on.
        processor: the model's processor.
        batch_size: items in a batch on each process.
        num_workers: number of processes that decode pictures ahead.
    """

    def __init__(
        self, sets: Sequence[RetrievalSet], processor: Any, *, batch_size: int = 64, num_workers: int = 0
    ) -> None:
        self.sets = list(sets)
        self._processor = processor
        self._batch_size = batch_size
        self._num_workers = num_workers

    def __call__(self, model: MMETForReID, accelerator: Accelerator) -> dict[str, float]:
        """
        Compute metrics by name, fractions in [0, 1], equal on all processes: `<set>_<query>_to_<gallery>_mAP` and
        `_rank<k>` for each task, and the mean mAP over the tasks of each role as `<role>_mAP`.
        """
        system = ModelSystem(
            model,
            self._processor,
            name="evaluation",
            batch_size=self._batch_size,
            accelerator=accelerator,
            num_workers=self._num_workers,
        )
        options = EvaluationOptions(max_rank=max(REPORTED_RANKS))
        metrics: dict[str, float] = {}
        precisions: dict[str, list[float]] = {}
        for retrieval_set in self.sets:
            for result in system.evaluate(retrieval_set.tasks, options):
                kind = f"{result.task.query.modality}_to_{result.task.gallery.modality}"
                headline = result.metrics.headline()
                del headline["mINP"]
                metrics |= {f"{retrieval_set.name}_{kind}_{name}": value for name, value in headline.items()}
                precisions.setdefault(retrieval_set.role, []).append(headline["mAP"])
        return metrics | {f"{role}_mAP": float(np.mean(values)) for role, values in precisions.items()}


def embedder_of(model: MMETForPreTraining) -> MMETForReID:
    """Make an `MMETForReID` that shares its encoders and its identity head with `model`, without a copy."""
    with torch.device("meta"):
        embedder = MMETForReID(model.config)
    embedder.mmet, embedder.identity_head = model.mmet, model.identity_head
    embedder.config = model.config
    return embedder


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Restore the random state of training at the end of the block."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _image_task(rows: datasets.Dataset) -> RetrievalTask:
    cameras = integer_column(rows, "camera_id")
    if (cameras != NO_CAMERA).all() and len(np.unique(cameras)) > 1:
        try:
            return build_task(datasets.DatasetDict(query=rows, gallery=rows), "image", "image", "market")
        except ValueError:  # no person is in two cameras
            pass
    return build_task(datasets.DatasetDict(test=rows), "image", "image", "leave-one-image-out")


def _drop_repeated(rows: datasets.Dataset) -> datasets.Dataset:
    """Drop repeated pictures: a folder may be given twice, alone and as part of another."""
    stored = _undecoded(rows).with_format("arrow").iter(_ROWS_PER_READ)  # shards hold the pictures themselves
    pictures = [path for table in stored for path in pc.struct_field(table["image"], "path").to_pylist()]
    names = rows.select_columns(["domain", "image_path"])[:]
    paths = np.array(
        [
            path if path and Path(path).is_absolute() else f"{domain}:{name}"  # shards keep only a picture's name
            for path, domain, name in zip(pictures, names["domain"], names["image_path"], strict=True)
        ],
        dtype=object,
    )
    _, first = np.unique(paths, return_index=True)
    return rows if len(first) == len(rows) else rows.select(np.sort(first))


def _undecoded(rows: datasets.Dataset) -> datasets.Dataset:
    return rows.select_columns("image").cast_column("image", datasets.Image(decode=False))


def _persons(source: datasets.Dataset) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Domain and person id of every row."""
    names, codes, person_ids = domains_and_persons(source)
    return np.array(names, dtype=object)[codes], person_ids


def _count_images(sources: Iterable[datasets.Dataset]) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each domain, its known persons, ascending, and their numbers of rows."""
    person_ids_by_domain: dict[str, list[NDArray[np.int64]]] = {}
    for source in sources:
        domains, person_ids = _persons(source)
        for domain in np.unique(domains).tolist():
            person_ids_by_domain.setdefault(domain, []).append(person_ids[(domains == domain) & (person_ids >= 0)])
    counted = {
        domain: np.unique(np.concatenate(parts), return_counts=True) for domain, parts in person_ids_by_domain.items()
    }
    return {domain: (ids, counts) for domain, (ids, counts) in sorted(counted.items()) if len(ids)}
