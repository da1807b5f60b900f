"""The scores of all pairs of a search, a block of queries at a time: what expansion, thresholds and calibration read.

    for block in pair_blocks(task, query_embeddings, gallery_embeddings):
        block.scores[block.is_match], block.scores[block.is_wrong]

A pair is a query with an entry that the protocol leaves in its gallery. The Q×G matrix is never held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmet.data.schema import NO_CAMERA
from mmet.evaluation.protocols import RetrievalTask

BLOCK_ENTRIES = 2**22
"""Scores in one block, unless a single query has more."""


@dataclass(frozen=True, eq=False)
class PairBlock:
    """Some queries against the whole gallery.

    Attributes:
        queries: which of the task's queries, `B` of them.
        scores: `(B, G)` float32 cosine similarities.
        is_match: `(B, G)`, true matches that the protocol counts.
        is_removed: `(B, G)`, the same person's entries that the protocol removes from the query's gallery.
    """

    queries: slice
    scores: NDArray[np.float32]
    is_match: NDArray[np.bool_]
    is_removed: NDArray[np.bool_]

    @property
    def is_wrong(self) -> NDArray[np.bool_]:
        """`(B, G)`, entries of other persons."""
        return ~(self.is_match | self.is_removed)


def pair_blocks(
    task: RetrievalTask,
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    block_entries: int = BLOCK_ENTRIES,
) -> Iterator[PairBlock]:
    """All pairs of a task.

    Args:
        task: whose queries and gallery the embeddings are.
        query_embeddings: `(Q, D)`, rows L2-normalised.
        gallery_embeddings: `(G, D)`, likewise.
        block_entries: scores held at a time.
    """
    size = max(1, block_entries // max(1, len(gallery_embeddings)))
    for start in range(0, len(query_embeddings), size):
        queries = slice(start, min(start + size, len(query_embeddings)))
        is_match, is_removed = label_pairs(task, queries)
        yield PairBlock(queries, query_embeddings[queries] @ gallery_embeddings.T, is_match, is_removed)


def label_pairs(task: RetrievalTask, queries: slice) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """True matches and removed entries of some queries, both `(B, G)`."""
    same_person = task.query.person_ids[queries, None] == task.gallery.person_ids
    query_ids, gallery_ids = task.query_exclusion_ids, task.gallery_exclusion_ids
    if query_ids is None or gallery_ids is None:
        return same_person, np.zeros_like(same_person)
    own = query_ids[queries, None]
    removed = same_person & (own == gallery_ids) & (own != NO_CAMERA)
    return same_person & ~removed, removed


def best_entries(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Indices of the `count` highest scores of one query, best first; of equal scores the smaller index first.

    Entries of minus infinity are none; fewer are returned where there are fewer.
    """
    count = min(count, int(np.count_nonzero(scores > -np.inf)))
    if count == 0:
        return np.empty(0, dtype=np.int64)
    lowest = np.partition(scores, len(scores) - count)[len(scores) - count]
    contenders = np.flatnonzero(scores >= lowest)
    return contenders[np.argsort(-scores[contenders], kind="stable")[:count]]


def count_wrong_pairs(task: RetrievalTask) -> int:
    """How many pairs of different persons the task has."""
    num_matches, num_candidates = task.matches().counts()
    return int((num_candidates - num_matches).sum())
