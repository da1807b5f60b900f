"""The ranks of true matches by counting who is ahead of them, exactly and without sorting the gallery.

The rank of a match is one plus the number of entries ahead of it: those with a greater score, and those with an equal
one at a smaller position. A query has few matches, so comparing its whole row of scores with each of them, which a
processor does for many scores at a time, costs less than sorting the row. Threads share the rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmet.evaluation.matches import GalleryMatches

MAX_COMPARED_MATCHES = 64
"""With more matches than this, sorting a query's scores is cheaper than comparing them with each match."""

WORD, LANES = 8, (16, 8)
"""Flags are added eight at a time as the bytes of an integer, first 16 and then 8 of these: no byte overflows."""

SCRATCH_BYTES = 2**19
"""Room for flags: what a core's own cache holds, so that they are counted where they were written."""


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
    scratches = [_Scratch(matches.num_gallery) for _ in range(num_threads)]
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
    scratches: Sequence[_Scratch],
) -> MatchRanks:
    """The ranks for a block `(B, G)` whose first row is query number `start`."""
    entries = matches.entries(start, start + len(scores))
    rows, columns = entries.rows[entries.is_match], entries.columns[entries.is_match]  # (m,)
    thresholds = scores[rows, columns]
    # What remains after this can only be a wrong candidate: the person's entries are true matches or removed ones.
    scores[entries.rows, entries.columns] = -np.inf
    counts = np.bincount(rows, minlength=len(scores))
    starts = np.cumsum(counts) - counts
    ahead = np.empty(len(rows), dtype=np.int64)

    def count(share: NDArray[np.int64], scratch: _Scratch) -> None:
        for chunk in _chunks(share, counts, len(scratch.flags)):
            own = starts[chunk, None] + np.arange(counts[chunk[0]])  # (R, P), beyond a query's own where it has fewer
            is_own = np.arange(counts[chunk[0]]) < counts[chunk, None]
            own[~is_own] = 0
            # "clip" changes nothing here, but writes into the room that is there instead of through a copy.
            values = np.take(scores, chunk, axis=0, out=scratch.values[: len(chunk)], mode="clip")
            found = _count_ahead(
                values, np.where(is_own, thresholds[own], np.float32(np.inf)), columns[own], scratch.flags
            )
            ahead[own[is_own]] = found[is_own]

    by_count = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    for _ in threads.map(count, [by_count[first :: len(scratches)] for first in range(len(scratches))], scratches):
        pass  # lets an exception through
    # Equal scores keep gallery order: the sort is stable, and columns ascend within a row.
    order = np.lexsort((-thresholds, rows))
    better_matches = np.arange(len(rows)) - starts[rows]
    return MatchRanks(counts, ahead[order] + better_matches + 1)


def _chunks(rows: NDArray[np.int64], counts: NDArray[np.int64], room: int) -> Iterator[NDArray[np.int64]]:
    """Parts of `rows`, which have ever fewer matches, with `room` for the comparisons of one: one row at least."""
    start = 0
    while start < len(rows):
        size = max(1, room // int(counts[rows[start]]))
        yield rows[start : start + size]
        start += size


class _Scratch:
    """A thread's room for some comparisons: `flags` `(n, W)`, with W ≥ G padded by False, and `values` `(n, G)`."""

    def __init__(self, num_gallery: int) -> None:
        step = WORD * LANES[0] * LANES[1]
        width = max(1, -(-num_gallery // step)) * step
        self.flags = np.zeros((max(1, SCRATCH_BYTES // width), width), dtype=bool)
        self.values = np.empty((len(self.flags), num_gallery), dtype=np.float32)


def _count_ahead(
    scores: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    positions: NDArray[np.int64],
    room: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """For matches `(R, P)` of some queries, how many of their scores `(R, G)` are greater, or equal and further ahead.

    With several queries there must be `room` for all of their comparisons.
    """
    num_rows, num_matches = thresholds.shape
    if num_matches > MAX_COMPARED_MATCHES:
        return np.stack([_count_ahead_sorted(*row) for row in zip(scores, thresholds, positions, strict=True)])
    ahead = np.empty(thresholds.shape, dtype=np.int64)
    size = max(1, len(room) // num_rows)
    for start in range(0, num_matches, size):
        part = slice(start, start + size)
        bounds = thresholds[:, part, None]  # (R, p, 1)
        flags = room[: bounds.size].reshape(*bounds.shape[:2], -1)  # (R, p, W)
        inside = flags[..., : scores.shape[1]]
        np.greater(scores[:, None], bounds, out=inside)
        ahead[:, part] = _count_true(flags)
        np.equal(scores[:, None], bounds, out=inside)
        if flags.any():
            for row, match in np.argwhere(inside.any(axis=2)):
                before = inside[row, match, : positions[row, start + match]]
                ahead[row, start + match] += np.count_nonzero(before)
    return ahead


def _count_true(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The number of True along the last axis, whose length is a multiple of eight bytes and all lanes.

    Eight flags are added as one integer, which is several times faster than turning each into one.
    """
    words = flags.view(np.uint64)
    for lanes in LANES:
        words = np.add.reduce(words.reshape(*flags.shape[:-1], lanes, -1), axis=-2)
    return words.view(np.uint8).sum(axis=-1, dtype=np.int64)


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
