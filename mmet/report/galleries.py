"""Ranked lists to look at: for a retrieval task a few queries, chosen by rule, and what the model finds for them.

    (result,) = system.evaluate([sample_queries(task, 300, rng)], EvaluationOptions())
    search = show_lists(result, num_all_queries=len(task.query), num_candidates=10, rng=rng)
    search.metrics.mAP, search.lists[0].candidates[0].is_match

Searches are those of `mmet.evaluation`; this module picks queries and makes pictures. Which queries are shown is
decided by their average precision, not by how they look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from PIL import Image

from mmet.evaluation import EvaluationOptions, RankMetrics, RetrievalTask, TaskResult
from processing_mmet import read_rgb

STRATA = ("best", "typical", "hard")
"""Tenths of the queries by average precision, from which one query each is drawn: top, middle, bottom."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One gallery entry of a ranked list. `camera_id` is -1 where the data set names no cameras.

    `camera_name` is the word for the camera, empty where it has none.
    """

    image: Image.Image
    camera_id: int
    score: float
    is_match: bool
    camera_name: str = ""


@dataclass(frozen=True, eq=False)
class RankedList:
    """A query and its first candidates, best first.

    Attributes:
        stratum: one of `STRATA`.
        average_precision: of the whole list, not only of what is shown.
        num_matches: how many true matches the query's gallery holds.
        image: the query's picture; None for a sentence.
        caption: the query's sentence; None for a picture.
        camera_id: the query's camera, -1 where unknown.
        candidates: the first of the list.
        camera_name: the word for the query's camera, empty where it has none.
    """

    stratum: str
    average_precision: float
    num_matches: int
    image: Image.Image | None
    caption: str | None
    camera_id: int
    candidates: Sequence[Candidate]
    camera_name: str = ""


@dataclass(frozen=True, eq=False)
class Search:
    """A sample of a task's queries (of `num_all_queries`), their metrics, and the ranked lists to show."""

    task: RetrievalTask
    num_all_queries: int
    metrics: RankMetrics
    lists: Sequence[RankedList]


def sample_task(
    task: RetrievalTask, options: EvaluationOptions, max_queries: int, rng: np.random.Generator
) -> RetrievalTask:
    """The task with a sample of its queries, where it has more than `max_queries`.

    Where a query's ranking depends on the other queries, merged or re-ranked together, all of them are searched.
    """
    together = options.multi_query or options.rerank is not None
    return sample_queries(task, len(task.query) if together else max_queries, rng)


def sample_queries(task: RetrievalTask, max_queries: int, rng: np.random.Generator) -> RetrievalTask:
    """The task with `max_queries` of its queries that have a true match, drawn at random; all where it has no more."""
    valid = np.flatnonzero(task.matches().counts()[0] > 0)
    return task.select_queries(np.sort(rng.permutation(valid)[:max_queries]))


def show_lists(result: TaskResult, *, num_all_queries: int, num_candidates: int, rng: np.random.Generator) -> Search:
    """The ranked lists of a best, a typical and a hard query of a result.

    Args:
        result: of the sampled task.
        num_all_queries: what was sampled from.
        num_candidates: length of the lists.
        rng: chooses the queries.
    """
    assert result.metrics.per_query is not None  # of protocols that draw their galleries nothing is shown
    precisions = result.metrics.per_query.ap
    return Search(
        task=result.task,
        num_all_queries=num_all_queries,
        metrics=result.metrics,
        lists=[
            _ranked_list(result, stratum, position, precisions[position], num_candidates)
            for stratum, position in choose_strata(precisions, rng).items()
        ],
    )


def choose_strata(precisions: NDArray[np.float64], rng: np.random.Generator) -> dict[str, int]:
    """One query from the top, the middle and the bottom tenth by average precision: stratum → position.

    None is chosen twice: with fewer than three queries, strata are missing.
    """
    order = np.argsort(-precisions, kind="stable")  # best first
    tenth = -(-len(order) // 10)
    middle = (len(order) - tenth) // 2
    tenths = {"best": order[:tenth], "typical": order[middle : middle + tenth], "hard": order[len(order) - tenth :]}
    chosen: dict[str, int] = {}
    for stratum in STRATA:
        free = [int(position) for position in tenths[stratum] if position not in chosen.values()]
        if free:
            chosen[stratum] = free[rng.integers(len(free))]
    return chosen


def _ranked_list(result: TaskResult, stratum: str, position: int, precision: float, count: int) -> RankedList:
    task, items = result.task, result.task.query
    row = items.dataset[int(items.image_index[position])]
    caption = row["captions"][int(items.caption_index[position])] if items.modality != "image" else None
    return RankedList(
        stratum=stratum,
        average_precision=float(precision),
        num_matches=int(task.matches().of_query(position).size),
        image=Image.fromarray(read_rgb(row["image"])) if items.modality != "text" else None,
        caption=caption,
        camera_id=int(row["camera_id"]),
        candidates=[
            _candidate(task.gallery.dataset, int(task.gallery.image_index[entry]), score, is_match)
            for entry, score, is_match in result.first_entries(position, count)
        ],
        camera_name=row.get("camera_name") or "",
    )


def _candidate(dataset: Dataset, index: int, score: float, is_match: bool) -> Candidate:
    row = dataset[index]
    picture = Image.fromarray(read_rgb(row["image"]))
    return Candidate(picture, int(row["camera_id"]), score, is_match, row.get("camera_name") or "")
