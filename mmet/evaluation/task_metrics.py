"""The metrics of a task by the rules of its protocol, and what chance would score by the same rules.

metrics = task_metrics(task, query_embeddings, gallery_embeddings, max_rank=50)
chance = expected_task_metrics(task, max_rank=50)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mmet.data.schema import NO_CAMERA
from mmet.evaluation.chance import expected_metrics, expected_random_metrics
from mmet.evaluation.protocols import RetrievalTask, SingleShot
from mmet.evaluation.ranking import RankMetrics, rank_metrics


def task_metrics(
    task: RetrievalTask,
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    *,
    max_rank: int,
) -> RankMetrics:
    """Rank the gallery for every query of a task.

    Args:
        task: whose embeddings these are.
        query_embeddings: `(Q, D)`.
        gallery_embeddings: `(G, D)`.
        max_rank: length of the CMC curve.

    Returns:
        With `per_query`, except for protocols that draw their galleries.

    Raises:
        ValueError: as `rank_metrics`.
    """
    rules = task.rules
    if rules.single_shot is not None:
        return single_shot_metrics(task, query_embeddings, gallery_embeddings, rules.single_shot, max_rank=max_rank)
    return rank_metrics(
        query_embeddings,
        gallery_embeddings,
        task.query.person_ids,
        task.gallery.person_ids,
        task.query_exclusion_ids,
        task.gallery_exclusion_ids,
        max_rank=max_rank,
        ap=rules.ap,
        denominator=rules.denominator,
        return_per_query=True,
    )


def single_shot_metrics(
    task: RetrievalTask,
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    shot: SingleShot,
    *,
    max_rank: int,
) -> RankMetrics:
    """Means over galleries of one image a person, drawn from all cameras but the query's (Li et al., DeepReID, 2014).

    Queries of one camera share a drawn gallery. With one true match, AP and INP are both 1 / its rank.
    """
    num_valid = int(np.count_nonzero(task.matches().counts()[0]))
    drawn = []
    for queries, gallery in _single_shot_galleries(task, shot):
        metrics = rank_metrics(
            query_embeddings[queries],
            gallery_embeddings[gallery],
            task.query.person_ids[queries],
            task.gallery.person_ids[gallery],
            max_rank=max_rank,
        )
        drawn.append(metrics)
    weights = [metrics.num_valid_queries for metrics in drawn]
    return RankMetrics(
        mAP=float(np.average([metrics.mAP for metrics in drawn], weights=weights)),
        mINP=float(np.average([metrics.mINP for metrics in drawn], weights=weights)),
        cmc=np.average([metrics.cmc for metrics in drawn], axis=0, weights=weights),
        num_queries=len(task.query),
        num_valid_queries=num_valid,
        num_gallery=max(metrics.num_gallery for metrics in drawn),
    )


def expected_task_metrics(task: RetrievalTask, *, max_rank: int) -> RankMetrics:
    """What a uniformly random order of the gallery scores in expectation, by the task's own rules."""
    rules = task.rules
    if rules.single_shot is None:
        return expected_random_metrics(task.matches(), max_rank=max_rank, ap=rules.ap, denominator=rules.denominator)
    # Which images are drawn plays no part: a valid query has one match among as many entries as persons were drawn.
    num_matches = np.zeros(len(task.query), dtype=np.int64)
    num_candidates = np.ones(len(task.query), dtype=np.int64)
    for queries, gallery in _single_shot_galleries(task, SingleShot(1, rules.single_shot.seed, 0)):
        num_matches[queries] = np.isin(task.query.person_ids[queries], task.gallery.person_ids[gallery])
        num_candidates[queries] = len(gallery)
    return expected_metrics(num_matches, num_candidates, int(num_candidates.max()), max_rank=max_rank)


def _single_shot_galleries(
    task: RetrievalTask, shot: SingleShot
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The queries of a camera with a true match, and a gallery drawn for them, for every repeat; positions."""
    if task.query_exclusion_ids is None or task.gallery_exclusion_ids is None:
        raise ValueError(f"protocol {task.protocol!r} expects cameras")
    valid = task.matches().counts()[0] > 0
    rng = np.random.default_rng(shot.seed)
    for _ in range(shot.repeats):
        for camera in np.unique(task.query_exclusion_ids[valid]):
            others = np.flatnonzero((task.gallery_exclusion_ids != camera) | (camera == NO_CAMERA))
            shuffled = rng.permutation(others)
            _, first = np.unique(task.gallery.person_ids[shuffled], return_index=True)
            yield np.flatnonzero(valid & (task.query_exclusion_ids == camera)), np.sort(shuffled[first])
