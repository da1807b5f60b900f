"""Re-score the first entries of a ranking with a cross-encoder, which reads query and entry together.

rescored = rescore_first(task, query_embeddings, gallery_embeddings, matcher, count=20, weight=1.0)
ranks = ranks_by_query(task, query_embeddings, gallery_embeddings, rescored)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mmet.evaluation.pairs import best_entries, pair_blocks
from mmet.evaluation.protocols import RetrievalTask
from mmet.evaluation.task_result import ReorderedEntries

Matcher = Callable[[RetrievalTask, NDArray[np.int64]], NDArray[np.float32]]
"""Maps pairs `(P, 2)` of query and gallery positions to log-odds `(P,)` that they belong together."""


def rescore_first(
    task: RetrievalTask,
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    matcher: Matcher,
    *,
    count: int,
    weight: float,
) -> ReorderedEntries:
    """Sort the first `count` entries of each query by cosine + `weight` × log-odds of the matcher.

    Of equal sums, the entry that ranked better before comes first. Adding the matching score to the similarity of the
    embeddings is what BLIP does (Li et al., ICML 2022); with a weight of 0 nothing changes.
    """
    num_queries = len(query_embeddings)
    count = min(count, len(task.gallery))
    positions = np.full((num_queries, count), -1, dtype=np.int64)
    cosines = np.full((num_queries, count), -np.inf, dtype=np.float32)
    for block in pair_blocks(task, query_embeddings, gallery_embeddings):
        block.scores[block.is_removed] = -np.inf
        for query, scores in enumerate(block.scores, block.queries.start):
            first = best_entries(scores, count)
            positions[query, : len(first)] = first
            cosines[query, : len(first)] = scores[first]
    queries, places = np.nonzero(positions >= 0)
    log_odds = matcher(task, np.stack([queries, positions[queries, places]], axis=1))
    scores = cosines.copy()
    scores[queries, places] += np.float32(weight) * log_odds
    order = np.argsort(-scores, axis=1, kind="stable")
    return ReorderedEntries(np.take_along_axis(positions, order, axis=1), np.take_along_axis(scores, order, axis=1))


def ranks_by_query(
    task: RetrievalTask,
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    reordered: ReorderedEntries,
) -> list[NDArray[np.int64]]:
    """Return the ascending ranks of each query's true matches.

    The reordered first entries have the ranks of their new order; later entries keep their ranks.
    """
    ranks = []
    for block in pair_blocks(task, query_embeddings, gallery_embeddings):
        block.scores[block.is_removed] = -np.inf
        for row, query in enumerate(range(block.queries.start, block.queries.stop)):
            by_cosine = match_ranks(block.scores[row], np.flatnonzero(block.is_match[row]))
            first = reordered.positions[query][reordered.positions[query] >= 0]
            in_new_order = np.flatnonzero(block.is_match[row, first]) + 1
            ranks.append(np.concatenate([in_new_order, by_cosine[by_cosine > len(first)]]))
    return ranks


def match_ranks(scores: NDArray[np.float32], matches: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ascending ranks `(P,)` of the entries `matches` `(P,)` by their scores `(G,)`; equal scores keep their order."""
    ordered = np.sort(scores)
    of_matches = scores[matches]
    greater = len(scores) - np.searchsorted(ordered, of_matches, side="right")
    ties_before = [np.count_nonzero(scores[:match] == score) for match, score in zip(matches, of_matches, strict=True)]
    return np.sort(greater + np.array(ties_before, dtype=np.int64) + 1)
