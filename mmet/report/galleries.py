"""Ranked lists to look at: for a retrieval task a few queries, chosen by rule, and what the model finds for them.

    search = run_search(task, system, num_candidates=10, rng=np.random.default_rng(0))
    search.metrics.mAP, search.lists[0].candidates[0].is_match

Embeddings, protocols and metrics are those of `mmet.evaluation`; this module only picks queries and keeps the first
candidates in order. Which queries are shown is decided by their average precision, not by how they look.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from PIL import Image

from mmet.evaluation import EmbeddingSystem, Items, RankMetrics, RetrievalTask, rank_metrics

STRATA = ("best", "typical", "hard")
"""Tenths of the queries by average precision, from which one query each is drawn: top, middle, bottom."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One gallery entry of a ranked list. `camera_id` is -1 where the data set names no cameras."""

    image: Image.Image
    camera_id: int
    score: float
    is_match: bool


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
    """

    stratum: str
    average_precision: float
    num_matches: int
    image: Image.Image | None
    caption: str | None
    camera_id: int
    candidates: Sequence[Candidate]


@dataclass(frozen=True, eq=False)
class Search:
    """One task with its metrics and the ranked lists to show."""

    task: RetrievalTask
    metrics: RankMetrics
    lists: Sequence[RankedList]


@dataclass
class EmbeddingCache:
    """A system's embeddings of one data set's items, each split and modality computed once."""

    system: EmbeddingSystem
    _embeddings: dict[tuple[str, str], NDArray[np.float32]] = field(default_factory=dict)

    def __call__(self, items: Items) -> NDArray[np.float32]:
        key = (items.split, items.modality)
        if key not in self._embeddings:
            self._embeddings[key] = self.system.embed(items)
        return self._embeddings[key]


def run_search(task: RetrievalTask, embed: EmbeddingCache, *, num_candidates: int, rng: np.random.Generator) -> Search:
    """Rank the task's gallery for all its queries and keep the lists of a best, a typical and a hard query."""
    query, gallery = embed(task.query), embed(task.gallery)
    precisions = average_precisions(task, query, gallery)
    return Search(
        task=task,
        metrics=_rank_metrics(task, slice(None), query, gallery),
        lists=[
            _ranked_list(task, stratum, position, precisions[position], query, gallery, num_candidates)
            for stratum, position in choose_queries(precisions, rng).items()
        ],
    )


def average_precisions(
    task: RetrievalTask, query_embeddings: NDArray[np.float32], gallery_embeddings: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Average precision of each query `(Q,)`; NaN for queries without a true match."""
    matches = task.matches()
    precisions = np.full(len(task.query), np.nan)
    for position in range(len(task.query)):
        if matches.of_query(position).size:
            one = slice(position, position + 1)
            precisions[position] = _rank_metrics(task, one, query_embeddings, gallery_embeddings).mAP
    return precisions


def _rank_metrics(
    task: RetrievalTask, queries: slice, query: NDArray[np.float32], gallery: NDArray[np.float32]
) -> RankMetrics:
    """The metrics of some of the task's queries."""
    exclusion = task.query_exclusion_ids
    return rank_metrics(
        query[queries],
        gallery,
        task.query.person_ids[queries],
        task.gallery.person_ids,
        None if exclusion is None else exclusion[queries],
        task.gallery_exclusion_ids,
    )


def choose_queries(precisions: NDArray[np.float64], rng: np.random.Generator) -> dict[str, int]:
    """One query from the top, the middle and the bottom tenth by average precision: stratum → position.

    Queries without a precision (NaN) are never chosen, and none is chosen twice: with fewer than three queries, strata
    are missing.
    """
    order = np.argsort(-precisions, kind="stable")[: np.count_nonzero(~np.isnan(precisions))]  # best first, NaN last
    tenth = -(-len(order) // 10)
    middle = (len(order) - tenth) // 2
    tenths = {"best": order[:tenth], "typical": order[middle : middle + tenth], "hard": order[len(order) - tenth :]}
    chosen: dict[str, int] = {}
    for stratum in STRATA:
        free = [int(position) for position in tenths[stratum] if position not in chosen.values()]
        if free:
            chosen[stratum] = free[rng.integers(len(free))]
    return chosen


def top_candidates(
    task: RetrievalTask,
    position: int,
    query_embedding: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    count: int,
) -> Iterator[tuple[int, float, bool]]:
    """The first `count` entries of a query's gallery: (position in the gallery, cosine score, true match?).

    What the protocol removes from the query's gallery (such as the same person in the same camera) does not appear;
    of equal scores the smaller position comes first, as in `rank_metrics`.
    """
    matches = task.matches()
    true_matches = matches.of_query(position)
    removed = np.setdiff1d(matches.same_person(position), true_matches)
    scores = gallery_embeddings @ query_embedding  # (G,)
    order = np.argsort(-scores, kind="stable")
    kept = order[~np.isin(order, removed)][:count]
    return zip(kept.tolist(), scores[kept].tolist(), np.isin(kept, true_matches).tolist(), strict=True)


def _ranked_list(
    task: RetrievalTask,
    stratum: str,
    position: int,
    precision: float,
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    count: int,
) -> RankedList:
    items = task.query
    row = items.dataset[int(items.image_index[position])]
    caption = row["captions"][int(items.caption_index[position])] if items.modality != "image" else None
    return RankedList(
        stratum=stratum,
        average_precision=float(precision),
        num_matches=int(task.matches().of_query(position).size),
        image=row["image"].convert("RGB") if items.modality != "text" else None,
        caption=caption,
        camera_id=int(row["camera_id"]),
        candidates=[
            _candidate(task.gallery.dataset, int(task.gallery.image_index[entry]), score, is_match)
            for entry, score, is_match in top_candidates(task, position, query[position], gallery, count)
        ],
    )


def _candidate(dataset: Dataset, index: int, score: float, is_match: bool) -> Candidate:
    row = dataset[index]
    return Candidate(row["image"].convert("RGB"), int(row["camera_id"]), score, is_match)
