"""The scores of all pairs of a search, in blocks of queries, for expansion, thresholds and calibration.

    for block in pair_blocks(task, query_embeddings, gallery_embeddings):
        block.scores[block.is_match], block.scores[block.is_wrong]

A pair is a query with an entry that the protocol leaves in its gallery. Pairs with an unknown person (id -1) are
neither right nor wrong. The Q×G matrix is never held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmet.data.schema import JUNK_PERSON_ID, NO_CAMERA
from mmet.evaluation.metrics.input_checks import unit_pair
from mmet.evaluation.protocols import RetrievalTask

BLOCK_ENTRIES = 2**22
"""Largest number of scores in a block, unless a single query has more."""


@dataclass(frozen=True, eq=False)
class PairBlock:
    """Some queries against the whole gallery.

    Attributes:
        queries: slice of the task's queries, `B` in all.
        scores: `(B, G)` float32 cosine similarities.
        is_match: `(B, G)`, true matches that the protocol counts.
        is_removed: `(B, G)`, entries that are not in the query's gallery: those of the same person that the protocol
            removes, and all pairs with an unknown person.
    """

    queries: slice
    scores: NDArray[np.float32]
    is_match: NDArray[np.bool_]
    is_removed: NDArray[np.bool_]

    @property
    def is_wrong(self) -> NDArray[np.bool_]:
        """`(B, G)`, entries of persons known to be others."""
        return ~(self.is_match | self.is_removed)


def pair_blocks(
    task: RetrievalTask,
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    block_entries: int = BLOCK_ENTRIES,
) -> Iterator[PairBlock]:
    """Yield all pairs of a task in blocks.

    Args:
        task: whose queries and gallery the embeddings are.
        query_embeddings: `(Q, D)`, any real dtype and length; scores are cosines.
        gallery_embeddings: `(G, D)`, likewise.
        block_entries: number of scores held at a time.

    Raises:
        ValueError: embeddings are not finite real numbers, differ in dimension, or are not one for each item.
    """
    query, gallery = unit_pair(query_embeddings, gallery_embeddings, (len(task.query), len(task.gallery)))
    return _blocks(task, query, gallery, block_entries)


def _blocks(
    task: RetrievalTask,
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    block_entries: int,
) -> Iterator[PairBlock]:
    size = max(1, block_entries // max(1, len(gallery_embeddings)))
    for start in range(0, len(query_embeddings), size):
        queries = slice(start, min(start + size, len(query_embeddings)))
        is_match, is_removed = label_pairs(task, queries)
        yield PairBlock(queries, query_embeddings[queries] @ gallery_embeddings.T, is_match, is_removed)


def label_pairs(task: RetrievalTask, queries: slice) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """True matches and removed entries of some queries, both `(B, G)`; see `PairBlock`."""
    persons = task.query.person_ids[queries, None]
    same_person = persons == task.gallery.person_ids
    removed = (persons == JUNK_PERSON_ID) | (task.gallery.person_ids == JUNK_PERSON_ID)
    query_ids, gallery_ids = task.query_exclusion_ids, task.gallery_exclusion_ids
    if query_ids is not None and gallery_ids is not None:
        own_ids = query_ids[queries, None]
        removed |= same_person & (own_ids == gallery_ids) & (own_ids != NO_CAMERA)
    return same_person & ~removed, removed


def best_entries(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Indices of the `count` highest scores of one query, best first; of equal scores the smaller index first.

    Scores of minus infinity do not count; fewer indices are returned if there are fewer entries.
    """
    count = min(count, int(np.count_nonzero(scores > -np.inf)))
    if count == 0:
        return np.empty(0, dtype=np.int64)
    lowest = np.partition(scores, len(scores) - count)[len(scores) - count]
    contenders = np.flatnonzero(scores >= lowest)
    return contenders[np.argsort(-scores[contenders], kind="stable")[:count]]


def count_wrong_pairs(task: RetrievalTask) -> int:
    """The number of pairs of two different known persons in the task."""
    num_matches, num_candidates = task.matches().counts()
    num_unknown = int(np.count_nonzero(task.gallery.person_ids == JUNK_PERSON_ID))
    is_known = task.query.person_ids != JUNK_PERSON_ID
    return int((num_candidates - num_matches - num_unknown)[is_known].sum())
