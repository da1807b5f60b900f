"""Metrics over galleries that a protocol draws, and the expected metrics of chance under a task's protocol.

drawn = draw_ranks(task, query_embeddings, gallery_embeddings, SingleShot(repeats=10, seed=0, num_persons=100))
drawn.metrics(max_rank=50)
chance = expected_task_metrics(task, max_rank=50)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmet.data.schema import NO_CAMERA
from mmet.evaluation.metrics.chance import expected_metrics, expected_random_metrics
from mmet.evaluation.metrics.input_checks import curve_length, unit_pair
from mmet.evaluation.metrics.ranking import RankMetrics, rank_metrics
from mmet.evaluation.protocols import RetrievalTask, SingleShot


@dataclass(frozen=True, eq=False)
class DrawnRanks:
    """Ranks in galleries drawn for the queries, with one image for each person (Li et al., DeepReID, 2014).

    Attributes:
        ranks: `(draws, Q)` int64, rank of the one true match in each draw, 1 = best; 0 for queries without one.
        num_gallery: number of entries of a drawn gallery; the largest, if cameras show different numbers of persons.
    """

    ranks: NDArray[np.int64]
    num_gallery: int

    def metrics(self, max_rank: int) -> RankMetrics:
        """Means over the draws and the queries that have a match. With one match, AP and INP are both 1 / its rank."""
        valid = self.ranks[0] > 0
        ranks = self.ranks[:, valid]
        precision = float((1 / ranks).mean())
        length = curve_length(max_rank, self.num_gallery)
        hits = np.bincount(np.minimum(ranks, length + 1).ravel(), minlength=length + 2)[1 : length + 1]
        return RankMetrics(
            mAP=precision,
            mINP=precision,
            cmc=np.cumsum(hits) / ranks.size,
            num_queries=len(valid),
            num_valid_queries=int(valid.sum()),
            num_gallery=self.num_gallery,
            max_rank=max_rank,
        )

    def precisions(self) -> NDArray[np.float64]:
        """The mean of each query's AP over the draws `(Q,)`; NaN for queries without a match."""
        return np.asarray(np.where(self.ranks > 0, 1 / np.maximum(self.ranks, 1), np.nan).mean(axis=0))

    def hits(self, rank: int) -> NDArray[np.float64]:
        """The share of the draws in which each query's match is among the first `rank` entries `(Q,)`; likewise."""
        return np.asarray(np.where(self.ranks > 0, self.ranks <= rank, np.nan).mean(axis=0))


def draw_ranks(
    task: RetrievalTask,
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    shot: SingleShot,
) -> DrawnRanks:
    """Rank galleries of one image for each person, drawn from all cameras but the query's.

    Queries of one camera share a drawn gallery. Every query that has a match has one in every draw.
    """
    query_embeddings, gallery_embeddings = unit_pair(
        query_embeddings, gallery_embeddings, (len(task.query), len(task.gallery))
    )
    ranks = np.zeros((shot.repeats, len(task.query)), dtype=np.int64)
    num_gallery = 0
    for draw, queries, gallery in _single_shot_galleries(task, shot):
        metrics = rank_metrics(
            query_embeddings[queries],
            gallery_embeddings[gallery],
            task.query.person_ids[queries],
            task.gallery.person_ids[gallery],
            max_rank=1,
            return_per_query=True,
        )
        assert metrics.per_query is not None
        ranks[draw, queries] = metrics.per_query.first_rank
        num_gallery = max(num_gallery, metrics.num_gallery)
    return DrawnRanks(ranks, num_gallery)


def expected_task_metrics(task: RetrievalTask, *, max_rank: int) -> RankMetrics:
    """The expected metrics of a uniformly random order of the gallery, by the task's rules."""
    rules = task.rules
    if rules.single_shot is None:
        return expected_random_metrics(task.matches(), max_rank=max_rank, ap=rules.ap, denominator=rules.denominator)
    # It does not matter which images are drawn: a valid query has one match among one entry for each person.
    num_matches = np.zeros(len(task.query), dtype=np.int64)
    num_candidates = np.ones(len(task.query), dtype=np.int64)
    for _, queries, gallery in _single_shot_galleries(task, SingleShot(1, rules.single_shot.seed, 0)):
        num_matches[queries] = np.isin(task.query.person_ids[queries], task.gallery.person_ids[gallery])
        num_candidates[queries] = len(gallery)
    return expected_metrics(num_matches, num_candidates, int(num_candidates.max()), max_rank=max_rank)


def _single_shot_galleries(
    task: RetrievalTask, shot: SingleShot
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """The number of a draw, the queries of a camera with a true match, and a gallery drawn for them; positions."""
    if task.query_exclusion_ids is None or task.gallery_exclusion_ids is None:
        raise ValueError(f"protocol {task.protocol!r} expects cameras")
    valid = task.matches().counts()[0] > 0
    rng = np.random.default_rng(shot.seed)
    for draw in range(shot.repeats):
        for camera in np.unique(task.query_exclusion_ids[valid]):
            others = np.flatnonzero((task.gallery_exclusion_ids != camera) | (camera == NO_CAMERA))
            shuffled = rng.permutation(others)
            _, first = np.unique(task.gallery.person_ids[shuffled], return_index=True)
            yield draw, np.flatnonzero(valid & (task.query_exclusion_ids == camera)), np.sort(shuffled[first])
