"""The ranks of true matches by counting who is ahead of them, exactly and without sorting the gallery.

The rank of a match is one plus the number of entries ahead of it: those with a greater score, and those with an equal
one at a smaller position. A query has few matches, so comparing its whole row of scores with each of them, which a
processor does for many scores at a time, costs less than sorting the row. Threads share the rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmet.evaluation.matches import GalleryMatches

MAX_COMPARED_MATCHES = 64
"""With more matches than this, sorting a query's scores is cheaper than comparing them with each match."""

LANES = 16
"""Rows of comparisons are added up in this many parts; a count of that many still fits into a byte."""

WORD = 8
"""Bytes added at a time; no byte overflows into the next, see `LANES`."""


@dataclass(frozen=True, eq=False)
class MatchRanks:
    """The ranks of all true matches of all queries, `m` in all.

    Attributes:
        counts: `(Q,)` int64, true matches of each query; 0 for a query that has none.
        ranks: `(m,)` int64, 1 = best, ascending within a query, queries in order.
    """

    counts: NDArray[np.int64]
    ranks: NDArray[np.int64]


def rank_matches(blocks: Iterable[NDArray[np.float32]], matches: GalleryMatches, num_threads: int) -> MatchRanks:
    """Rank every query's true matches by blocks of scores.

    Args:
        blocks: `(B, G)` float32, greater is better, finite; the rows of consecutive queries. Overwritten.
        matches: of all queries, in the blocks' order.
        num_threads: threads that count. The result does not depend on it.

    Raises:
        ValueError: when the blocks together do not have one row for each query.
    """
    counts, ranks, start = [], [], 0
    scratches = [_scratch(matches.num_gallery) for _ in range(num_threads)]
    with ThreadPoolExecutor(num_threads) as threads:
        for scores in blocks:
            stop = start + len(scores)
            if stop > matches.num_queries or scores.shape[1] != matches.num_gallery:
                raise ValueError(
                    f"expected scores of {matches.num_queries} queries with {matches.num_gallery} gallery entries, "
                    f"received rows {start} to {stop - 1} with {scores.shape[1]}"
                )
            block = _rank_block(scores, matches, start, threads, scratches)
            counts.append(block.counts)
            ranks.append(block.ranks)
            start = stop
    if start != matches.num_queries:
        raise ValueError(f"expected scores of {matches.num_queries} queries, received {start} rows")
    return MatchRanks(np.concatenate(counts), np.concatenate(ranks))


def _rank_block(
    scores: NDArray[np.float32],
    matches: GalleryMatches,
    start: int,
    threads: ThreadPoolExecutor,
    scratches: Sequence[NDArray[np.bool_]],
) -> MatchRanks:
    """The ranks for a block `(B, G)` whose first row is query number `start`."""
    entries = matches.entries(start, start + len(scores))
    rows, columns = entries.rows[entries.is_match], entries.columns[entries.is_match]  # (m,)
    thresholds = scores[rows, columns]
    # What remains after this can only be a wrong candidate: the person's entries are true matches or removed ones.
    scores[entries.rows, entries.columns] = -np.inf
    counts = np.bincount(rows, minlength=len(scores))
    starts = np.concatenate([[0], np.cumsum(counts)])

    def count(share: NDArray[np.int64], scratch: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
        own = [slice(starts[row], starts[row + 1]) for row in share]
        return [
            _count_ahead(scores[row], thresholds[part], columns[part], scratch)
            for row, part in zip(share, own, strict=True)
        ]

    shares = np.array_split(np.flatnonzero(counts), len(scratches))
    ahead = [part for share in threads.map(count, shares, scratches) for part in share]
    # Equal scores keep gallery order: the sort is stable, and columns ascend within a row.
    order = np.lexsort((-thresholds, rows))
    wrong_ahead = np.concatenate([*ahead, np.empty(0, dtype=np.int64)])[order]
    better_matches = np.arange(len(rows)) - starts[rows]
    return MatchRanks(counts, wrong_ahead + better_matches + 1)


def _scratch(num_gallery: int) -> NDArray[np.bool_]:
    """Room for the comparisons of one query `(MAX_COMPARED_MATCHES, W)`, with W ≥ G padded by False."""
    width = -(-num_gallery // (LANES * WORD)) * LANES * WORD
    return np.zeros((MAX_COMPARED_MATCHES, width), dtype=bool)


def _count_ahead(
    scores: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    positions: NDArray[np.int64],
    scratch: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """For each match `(P,)`, how many of the scores `(G,)` are greater, or equal and at a smaller position."""
    if len(thresholds) > len(scratch):
        return _count_ahead_sorted(scores, thresholds, positions)
    flags = scratch[: len(thresholds)]  # (P, W)
    inside = flags[:, : len(scores)]  # (P, G)
    np.greater(scores, thresholds[:, None], out=inside)
    ahead = _count_true(flags)
    np.equal(scores, thresholds[:, None], out=inside)
    if flags.any():
        ahead += [np.count_nonzero(row[:position]) for row, position in zip(inside, positions, strict=True)]
    return ahead


def _count_true(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The number of True in each row `(P,)`; the width must be a multiple of `LANES * WORD`.

    Eight bytes are added as one integer, which is several times faster than turning each flag into one.
    """
    words = flags.view(np.uint64).reshape(len(flags), LANES, -1)
    return np.add.reduce(words, axis=1).view(np.uint8).sum(axis=1, dtype=np.int64)


def _count_ahead_sorted(
    scores: NDArray[np.float32], thresholds: NDArray[np.float32], positions: NDArray[np.int64]
) -> NDArray[np.int64]:
    """As `_count_ahead`, by sorting the values."""
    ordered = np.sort(scores)
    not_greater = np.searchsorted(ordered, thresholds, side="right")
    ahead = ordered.size - not_greater
    tied = not_greater - np.searchsorted(ordered, thresholds, side="left")
    for index in np.flatnonzero(tied):
        ahead[index] += np.count_nonzero(scores[: positions[index]] == thresholds[index])
    return ahead
