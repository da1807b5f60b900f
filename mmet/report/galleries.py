"""Ranked lists to look at: for a retrieval task a few queries, chosen by rule, and what the model finds for them.

    search = run_search(task, CachedEmbeddings(system), max_queries=300, num_candidates=10, rng=rng)
    search.metrics.mAP, search.lists[0].candidates[0].is_match

Embeddings, protocols and metrics are those of `mmet.evaluation`; this module only picks queries and keeps the first
candidates in order. Which queries are shown is decided by their average precision, not by how they look.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from PIL import Image

from mmet.evaluation import EmbeddingSystem, Items, RankMetrics, RetrievalTask, SearchOptions, rank_metrics
from mmet.evaluation.search import SearchResult
from mmet.evaluation.search import run_search as search_task
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


class CachedEmbeddings:
    """A system's embeddings of one data set's galleries, each split and modality computed once.

    Args:
        system: embeds items.
    """

    def __init__(self, system: EmbeddingSystem) -> None:
        self.system = system
        self._galleries: dict[tuple[str, str], NDArray[np.float32]] = {}

    def queries(self, items: Items) -> NDArray[np.float32]:
        """Embeddings `(n, D)` of some items of a split."""
        return self.system.embed(items)

    def gallery(self, items: Items) -> NDArray[np.float32]:
        """Embeddings `(n, D)` of all items of a split."""
        key = (items.split, items.modality)
        if key not in self._galleries:
            self._galleries[key] = self.system.embed(items)
        return self._galleries[key]


def run_search(
    task: RetrievalTask,
    embeddings: CachedEmbeddings,
    *,
    max_queries: int,
    num_candidates: int,
    rng: np.random.Generator,
    options: SearchOptions | None = None,
) -> Search:
    """Rank the gallery for a sample of the queries and keep the lists of a best, a typical and a hard one.

    Args:
        task: what to search by what.
        embeddings: of the task's data set.
        max_queries: how many queries to draw, where the task has more. Where a query's ranking depends on the other
            queries, merged or re-ranked together, all of them are searched and shown ones drawn from all.
        num_candidates: length of the lists.
        rng: chooses the queries.
        options: of the search; None for a plain one.
    """
    options = options or SearchOptions()
    num_all = len(task.query)
    together = options.multi_query or options.rerank is not None
    task = sample_queries(task, num_all if together else max_queries, rng)
    result = search_task(
        task,
        embeddings.queries(task.query),
        embeddings.gallery(task.gallery),
        options,
        max_rank=num_candidates,
        matcher=embeddings.system.matcher(task),
    )
    assert result.metrics.per_query is not None  # of protocols that draw their galleries nothing is shown
    precisions = result.metrics.per_query.ap
    return Search(
        task=result.task,
        num_all_queries=num_all,
        metrics=result.metrics,
        lists=[
            _ranked_list(result, stratum, position, precisions[position], num_candidates)
            for stratum, position in choose_queries(precisions, rng).items()
        ],
    )


def sample_queries(task: RetrievalTask, max_queries: int, rng: np.random.Generator) -> RetrievalTask:
    """The task with `max_queries` of its queries that have a true match, drawn at random; all where it has no more."""
    matches, items = task.matches(), task.query
    valid = np.array([position for position in range(len(items)) if matches.of_query(position).size], dtype=np.int64)
    kept = np.sort(rng.permutation(valid)[:max_queries])
    exclusion = task.query_exclusion_ids
    return replace(
        task,
        query=replace(
            items,
            image_index=items.image_index[kept],
            caption_index=items.caption_index[kept],
            person_ids=items.person_ids[kept],
        ),
        query_exclusion_ids=None if exclusion is None else exclusion[kept],
    )


def average_precisions(
    task: RetrievalTask, query_embeddings: NDArray[np.float32], gallery_embeddings: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Average precision of each query `(Q,)`. Raises `ValueError` for a query without a true match."""
    metrics = _rank_metrics(task, query_embeddings, gallery_embeddings)
    if metrics.num_valid_queries < metrics.num_queries:
        raise ValueError(f"{metrics.num_queries - metrics.num_valid_queries} queries have no true match")
    assert metrics.per_query is not None
    return metrics.per_query.ap


def _rank_metrics(task: RetrievalTask, query: NDArray[np.float32], gallery: NDArray[np.float32]) -> RankMetrics:
    """The metrics of a task, with those of each query."""
    return rank_metrics(
        query,
        gallery,
        task.query.person_ids,
        task.gallery.person_ids,
        task.query_exclusion_ids,
        task.gallery_exclusion_ids,
        return_per_query=True,
    )


def choose_queries(precisions: NDArray[np.float64], rng: np.random.Generator) -> dict[str, int]:
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
    entries = task.matches().entries(position, position + 1)
    true_matches, removed = entries.columns[entries.is_match], entries.columns[~entries.is_match]
    scores = gallery_embeddings @ query_embedding  # (G,)
    order = np.argsort(-scores, kind="stable")
    kept = order[~np.isin(order, removed)][:count]
    return zip(kept.tolist(), scores[kept].tolist(), np.isin(kept, true_matches).tolist(), strict=True)


def _ranked_list(result: SearchResult, stratum: str, position: int, precision: float, count: int) -> RankedList:
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
