"""The ranks of true matches by counting who is ahead of them, exactly and without sorting the gallery.

The rank of a match is one plus the number of entries ahead of it: those with a greater score, and those with an equal
one at a smaller position. Only entries that score no less than a query's worst match, its contenders, can be ahead of
any. A good model leaves few of them, and these few are sorted, by value. Where there are many, the whole row of scores
is compared with each of the query's matches instead, which a processor does for many scores at a time. Both are exact;
the choice is one of speed. Threads share the rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mmet.evaluation.matches import GalleryMatches, PersonEntries

MAX_CONTENDERS = 1 / 8
"""Share of the scores up to which sorting contenders is cheaper than comparing."""

MAX_COMPARED_MATCHES = 64
"""With more matches than this, sorting a query's contenders is cheaper whatever their number."""

WORD, LANES = 8, (16, 8)
"""Flags are added eight at a time as the bytes of an integer, first 16 and then 8 of these: no byte overflows."""

COMPARED_BYTES = 2**21
"""Room for the flags of comparisons made together: small enough for a cache, large enough to keep threads apart."""


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
    parts: list[MatchRanks] = []
    start = 0
    with ThreadPoolExecutor(num_threads) as threads:
        for scores in blocks:
            stop = start + len(scores)
            if stop > matches.num_queries or scores.shape[1] != matches.num_gallery:
                raise ValueError(
                    f"expected scores of {matches.num_queries} queries with {matches.num_gallery} gallery entries, "
                    f"received rows {start} to {stop - 1} with {scores.shape[1]}"
                )
            # One contiguous share each: long operations, so that threads seldom wait for each other.
            bounds = np.linspace(0, len(scores), num_threads + 1).astype(int)
            shares = [slice(first, last) for first, last in pairwise(bounds) if first < last]
            entries = [matches.entries(start + share.start, start + share.stop) for share in shares]
            parts.extend(threads.map(_rank_rows, [scores[share] for share in shares], entries))
            start = stop
    if start != matches.num_queries:
        raise ValueError(f"expected scores of {matches.num_queries} queries, received {start} rows")
    return MatchRanks(np.concatenate([part.counts for part in parts]), np.concatenate([part.ranks for part in parts]))


def _rank_rows(scores: NDArray[np.float32], entries: PersonEntries) -> MatchRanks:
    """The ranks for some queries' scores `(B, G)`, whose persons' entries are overwritten."""
    found = _Matches.of(scores, entries)
    # What remains after this can only be a wrong candidate: the person's entries are true matches or removed ones.
    scores[entries.rows, entries.columns] = -np.inf
    is_contender = scores >= found.lowest[:, None]  # (B, G)
    if np.count_nonzero(is_contender) <= MAX_CONTENDERS * is_contender.size:
        ahead = _count_contenders(scores, is_contender, found)
    else:
        ahead = _compare(scores, is_contender, found, entries)
    # Equal scores keep gallery order: the sort is stable, and columns ascend within a row.
    order = np.lexsort((-found.scores, found.rows))
    better_matches = np.arange(len(order)) - found.starts[found.rows]
    return MatchRanks(found.counts, ahead[order] + better_matches + 1)


@dataclass(frozen=True, eq=False)
class _Matches:
    """The true matches of `B` queries, `m` in all, by rows.

    Attributes:
        rows, columns: `(m,)` int64.
        scores: `(m,)` float32.
        counts, starts: `(B,)` int64; a row's matches are `starts[row]` to `starts[row] + counts[row] - 1`.
        lowest: `(B,)` float32, the score of a row's worst match; infinite where it has none.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    scores: NDArray[np.float32]
    counts: NDArray[np.int64]
    starts: NDArray[np.int64]
    lowest: NDArray[np.float32]

    @classmethod
    def of(cls, scores: NDArray[np.float32], entries: PersonEntries) -> _Matches:
        rows, columns = entries.rows[entries.is_match], entries.columns[entries.is_match]
        own = scores[rows, columns]
        counts = np.bincount(rows, minlength=len(scores))
        starts = np.cumsum(counts) - counts
        lowest = np.full(len(scores), np.inf, dtype=np.float32)
        if len(own):
            lowest[counts > 0] = np.minimum.reduceat(own, starts[counts > 0])
        return cls(rows, columns, own, counts, starts, lowest)

    def select(self, row: int) -> _Matches:
        """The matches of one row, which then is row 0."""
        part = slice(self.starts[row], self.starts[row] + self.counts[row])
        one = slice(row, row + 1)
        return _Matches(
            np.zeros_like(self.rows[part]),
            self.columns[part],
            self.scores[part],
            self.counts[one],
            np.zeros_like(self.starts[one]),
            self.lowest[one],
        )


def _count_contenders(
    scores: NDArray[np.float32], is_contender: NDArray[np.bool_], found: _Matches
) -> NDArray[np.int64]:
    """For each match `(m,)`, how many of its row's scores are greater, or equal and before it, by sorting."""
    places = np.flatnonzero(is_contender)
    row_ends = np.searchsorted(places, np.arange(1, len(scores) + 1) * scores.shape[1])
    rows = np.repeat(np.arange(len(scores)), np.diff(row_ends, prepend=0))
    contenders = _sort_keys(rows, scores.ravel()[places])
    contenders.sort()
    keys = _sort_keys(found.rows, found.scores)
    not_greater = np.searchsorted(contenders, keys, side="right")
    ahead = row_ends[found.rows] - not_greater
    tied = not_greater - np.searchsorted(contenders, keys, side="left")
    for match in np.flatnonzero(tied):
        before = scores[found.rows[match], : found.columns[match]]
        ahead[match] += np.count_nonzero(before == found.scores[match])
    return ahead


def _sort_keys(rows: NDArray[np.int64], values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Integers that sort by row and then by value, of finite numbers."""
    bits = (values + np.float32(0)).view(np.int32)  # adding zero makes -0, which equals 0, the same number
    # The bits of positive numbers sort as the numbers do, and those of negative ones the other way round.
    ordered = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    return (rows << 32) + ordered


def _compare(
    scores: NDArray[np.float32], is_contender: NDArray[np.bool_], found: _Matches, entries: PersonEntries
) -> NDArray[np.int64]:
    """As `_count_contenders`, by comparing whole rows with each of their matches."""
    ahead = np.empty(len(found.rows), dtype=np.int64)
    room = _room_for_flags(scores.shape[1])
    for row in np.flatnonzero(found.counts).tolist():
        own = found.select(row)
        part = slice(found.starts[row], found.starts[row] + found.counts[row])
        if len(own.rows) > MAX_COMPARED_MATCHES:
            ahead[part] = _count_contenders(scores[row : row + 1], is_contender[row : row + 1], own)
        else:
            ahead[part] = _compare_row(scores[row], own, entries.span(row), room)
    return ahead


def _compare_row(
    scores: NDArray[np.float32], own: _Matches, span: slice | None, room: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """For the matches `(P,)` of one query, how many of its scores `(G,)` are greater, or equal and before it.

    Args:
        span: where the person's entries lie, if there are none of others between them: one comparison of each score
            does then, for what is before one match is before all.
        room: for flags, `(n, W)`.
    """
    ahead = np.empty(len(own.scores), dtype=np.int64)
    for start in range(0, len(ahead), len(room)):
        part = slice(start, start + len(room))
        bounds = own.scores[part, None]  # (p, 1)
        flags = room[: len(bounds)]
        inside = flags[:, : len(scores)]  # (p, G)
        if span is not None:
            np.greater_equal(scores[: span.start], bounds, out=inside[:, : span.start])
            inside[:, span] = False
            np.greater(scores[span.stop :], bounds, out=inside[:, span.stop :])
            ahead[part] = _count_true(flags)
            continue
        np.greater(scores, bounds, out=inside)
        ahead[part] = _count_true(flags)
        np.equal(scores, bounds, out=inside)
        if flags.any():
            for match in np.flatnonzero(inside.any(axis=1)):
                ahead[start + match] += np.count_nonzero(inside[match, : own.columns[start + match]])
    return ahead


def _room_for_flags(num_gallery: int) -> NDArray[np.bool_]:
    """Room for the flags of some comparisons `(n, W)`, with W ≥ G padded by False."""
    step = WORD * LANES[0] * LANES[1]
    width = max(1, -(-num_gallery // step)) * step
    return np.zeros((max(1, COMPARED_BYTES // width), width), dtype=bool)


def _count_true(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The number of True in each row `(n,)`; their width is a multiple of eight bytes and all lanes.

    Eight flags are added as one integer, which is several times faster than turning each into one.
    """
    words = flags.view(np.uint64)
    for lanes in LANES:
        words = np.add.reduce(words.reshape(len(flags), lanes, -1), axis=1)
    return words.view(np.uint8).sum(axis=1, dtype=np.int64)
