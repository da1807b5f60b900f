"""The ranks of true matches by counting who is ahead of them, exactly and without sorting the gallery.

The rank of a match is one plus the number of entries ahead of it: those with a greater score, and those with an equal
one at a smaller position. A query's scores are compared with each of its matches, and the comparisons that hold are
counted; a processor does either for many scores at a time. A query with very many matches has its scores sorted
instead. Both are exact; the choice is one of speed. Threads share the rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mmet.evaluation.metrics.matches import GalleryMatches, PersonEntries

MAX_COMPARED_MATCHES = 64
"""With more matches than this, sorting a query's scores is cheaper."""

FLAG_BYTES = 2**20
"""Room for the flags of comparisons made together: it fits one core's cache, and calls are long enough that threads
seldom wait for each other."""

WORD, LANES = 8, 16
"""Flags are added as the bytes of 64-bit integers, sixteen integers at a time; a byte holds 255 at most."""

GROUP_ROWS = 128
"""Rows handled together: enough to find some with equally many matches, and so few that in a gallery ordered by person
their matches lie close together."""


@dataclass(frozen=True, eq=False)
class MatchRanks:
    """The ranks of all true matches of all queries, `m` in all.

    Attributes:
        counts: `(Q,)` int64, true matches of each query; 0 for a query that has none.
        ranks: `(m,)` int64, 1 = best, ascending within a query, queries in order.
    """

    counts: NDArray[np.int64]
    ranks: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence[MatchRanks]) -> MatchRanks:
        """The ranks of consecutive queries."""
        return cls(np.concatenate([part.counts for part in parts]), np.concatenate([part.ranks for part in parts]))


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
            parts.append(_rank_rows(scores, matches.entries(start, stop), threads.map, num_threads))
            start = stop
    if start != matches.num_queries:
        raise ValueError(f"expected scores of {matches.num_queries} queries, received {start} rows")
    return MatchRanks.joined(parts)


def rank_computed_matches(
    compute: Callable[[slice, NDArray[np.float32]], None], matches: GalleryMatches, block_rows: int, num_threads: int
) -> MatchRanks:
    """The same where each thread computes the scores of its own blocks, so that no thread waits for another.

    Args:
        compute: writes the scores of some consecutive queries into `(B, G)`; as those of `rank_matches`. Its matrix
            products run in the one thread that calls it.
        matches: of all queries.
        block_rows: queries a block.
        num_threads: threads that compute and count. The result does not depend on it.
    """
    starts = range(0, matches.num_queries, block_rows)
    num_threads = min(num_threads, len(starts))
    buffers = [np.empty((block_rows, matches.num_gallery), dtype=np.float32) for _ in range(num_threads)]

    def rank_block(start: int) -> MatchRanks:
        rows = slice(start, min(start + block_rows, matches.num_queries))
        buffer = buffers.pop()
        try:
            scores = buffer[: rows.stop - start]
            compute(rows, scores)
            return _rank_rows(scores, matches.entries(start, rows.stop), map, num_threads=1)
        finally:
            buffers.append(buffer)

    # BLAS would put all its threads to each product, one product after the other, and let them spin in between.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(num_threads) as threads:
        return MatchRanks.joined(list(threads.map(rank_block, starts)))


def _rank_rows(
    scores: NDArray[np.float32], entries: PersonEntries, map_shares: Callable[..., Iterable[Any]], num_threads: int
) -> MatchRanks:
    """The ranks for some queries' scores `(B, G)`, whose persons' entries are overwritten.

    `map_shares` applies a function to each thread's share of the rows.
    """
    matches = _Matches.of(scores, entries)
    # What remains after this can only be a wrong candidate: the person's entries are true matches or removed ones.
    scores[entries.rows, entries.columns] = -np.inf
    counter = _Counter(scores, matches)
    # All preparations come first: threads that do long operations alone seldom wait for each other.
    groups, rows = counter.groups(), np.flatnonzero(matches.counts > MAX_COMPARED_MATCHES)
    shares = range(num_threads)
    list(map_shares(counter.compare, [groups[share::num_threads] for share in shares]))
    list(map_shares(counter.sort, [rows[share::num_threads] for share in shares]))
    # A better match has no more candidates ahead of it, so sorted numbers are those of the matches in their order.
    row_keys = matches.rows * (scores.shape[1] + 1)
    ahead = np.sort(row_keys + counter.ahead[:-1]) - row_keys
    better_matches = np.arange(len(ahead)) - matches.starts[matches.rows]
    return MatchRanks(matches.counts, ahead + better_matches + 1)


@dataclass(frozen=True, eq=False)
class _Matches:
    """The true matches of `B` queries, `m` in all, by rows.

    Attributes:
        rows, columns: `(m,)` int64.
        scores: `(m,)` float32.
        counts, starts: `(B,)` int64; a row's matches are `starts[row]` to `starts[row] + counts[row] - 1`.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    scores: NDArray[np.float32]
    counts: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, scores: NDArray[np.float32], entries: PersonEntries) -> _Matches:
        rows, columns = entries.rows[entries.is_match], entries.columns[entries.is_match]
        counts = np.bincount(rows, minlength=len(scores))
        return cls(rows, columns, scores[rows, columns], counts, np.cumsum(counts) - counts)


@dataclass(frozen=True, eq=False)
class _Group:
    """Some rows, most matches first, and their matches, filled up by one whose infinite score none exceeds or equals.

    Attributes:
        rows, counts: `(n,)` int64.
        matches: `(n, p)` int64; `m` where it is filled up.
        scores: `(n, p, 1)` float32, theirs.
        first, last: columns of the first and the last of all these matches.
    """

    rows: NDArray[np.int64]
    counts: NDArray[np.int64]
    matches: NDArray[np.int64]
    scores: NDArray[np.float32]
    first: int
    last: int


class _Counter:
    """For each match of a block, how many of its row's scores are greater, or equal and before it.

    Attributes:
        ahead: `(m + 1,)` int64, what was counted; the last means nothing.
    """

    def __init__(self, scores: NDArray[np.float32], matches: _Matches) -> None:
        self.scores = scores
        self.matches = matches
        self.ahead = np.empty(len(matches.rows) + 1, dtype=np.int64)
        self.width = -(-scores.shape[1] // (WORD * LANES)) * WORD * LANES
        self.flags_at_once = max(1, FLAG_BYTES // self.width)

    def groups(self) -> list[_Group]:
        """Rows with few matches, next to each other by the column of the first."""
        matches = self.matches
        rows = np.flatnonzero((matches.counts > 0) & (matches.counts <= MAX_COMPARED_MATCHES))
        rows = rows[np.argsort(matches.columns[matches.starts[rows]], kind="stable")]
        values = np.append(matches.scores, np.float32(np.inf))
        groups = []
        for start in range(0, len(rows), GROUP_ROWS):
            members = rows[start : start + GROUP_ROWS]
            members = members[np.argsort(-matches.counts[members], kind="stable")]
            counts, starts = matches.counts[members], matches.starts[members]
            nth = np.arange(counts[0])
            numbers = np.where(nth < counts[:, None], starts[:, None] + nth, len(matches.rows))
            first, last = matches.columns[starts].min(), matches.columns[starts + counts - 1].max()
            groups.append(_Group(members, counts, numbers, values[numbers][:, :, None], int(first), int(last)))
        return groups

    def compare(self, groups: Sequence[_Group]) -> None:
        """Count by comparing whole rows with each of their matches."""
        num_gallery = self.scores.shape[1]
        rows_room = np.empty((min(self.flags_at_once, GROUP_ROWS), num_gallery), dtype=np.float32)
        flags_room = np.zeros((self.flags_at_once, self.width), dtype=bool)
        words_room = np.empty((self.flags_at_once, self.width // (WORD * LANES)), dtype=np.uint64)
        ties_room = np.empty(max(FLAG_BYTES, MAX_COMPARED_MATCHES * num_gallery), dtype=bool)
        for group in groups:
            for rows, nth in self._batches(group.counts):
                bounds = group.scores[rows, nth]  # (n, p, 1)
                row_scores = np.take(self.scores, group.rows[rows], axis=0, out=rows_room[: len(bounds)], mode="clip")
                flags = flags_room[: bounds.size].reshape(*bounds.shape[:2], self.width)
                # Equal scores are ahead of all these matches, or behind all, but for those between the matches.
                np.greater_equal(row_scores[:, None, : group.first], bounds, out=flags[:, :, : group.first])
                np.greater(row_scores[:, None, group.first :], bounds, out=flags[:, :, group.first : num_gallery])
                self.ahead[group.matches[rows, nth]] = _count_true(flags, words_room[: bounds.size])
            self._add_ties(group, ties_room)

    def _batches(self, counts: NDArray[np.int64]) -> Iterator[tuple[slice, slice]]:
        """Rows of a group and their matches, as many as are compared at once."""
        start = 0
        while start < len(counts):
            widest = int(counts[start])
            stop = min(start + max(1, self.flags_at_once // widest), len(counts))
            for nth in range(0, widest, self.flags_at_once):
                yield slice(start, stop), slice(nth, min(nth + self.flags_at_once, widest))
            start = stop

    def _add_ties(self, group: _Group, room: NDArray[np.bool_]) -> None:
        """Count the scores that equal one of a group's matches and are between the first of all of these and it."""
        size = group.matches.shape[1] * (group.last - group.first)
        step = max(1, len(room) // max(1, size))
        for start in range(0, len(group.rows), step):
            rows = group.rows[start : start + step]
            nearby = self.scores[rows, group.first : group.last]  # (n, w)
            is_tied = room[: len(rows) * size].reshape(*group.matches[start : start + step].shape, nearby.shape[1])
            np.equal(nearby[:, None], group.scores[start : start + step], out=is_tied)
            if is_tied.any():
                for row, nth in np.argwhere(is_tied.any(axis=2)):
                    match = group.matches[start + row, nth]
                    before = self.matches.columns[match] - group.first
                    self.ahead[match] += np.count_nonzero(is_tied[row, nth, :before])

    def sort(self, rows: NDArray[np.int64]) -> None:
        """Count by sorting the scores of whole rows."""
        for row in rows.tolist():
            part = slice(self.matches.starts[row], self.matches.starts[row] + self.matches.counts[row])
            values = self.matches.scores[part]
            ordered = np.sort(self.scores[row])
            not_greater = np.searchsorted(ordered, values, side="right")
            tied = not_greater - np.searchsorted(ordered, values, side="left")
            self.ahead[part] = len(ordered) - not_greater
            for match in part.start + np.flatnonzero(tied):
                before = self.scores[row, : self.matches.columns[match]]
                self.ahead[match] += np.count_nonzero(before == self.matches.scores[match])


def _count_true(flags: NDArray[np.bool_], words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The number of True along the last axis of `(n, p, W)`, a multiple of `LANES` words; `words` is room for a lane.

    Words are added before their bytes are, which is several times faster than turning each flag into an integer.
    """
    np.add.reduce(flags.view(np.uint64).reshape(len(words), LANES, -1), axis=1, out=words)
    words *= np.uint64(0x0101010101010101)  # puts the sum of a word's bytes, 128 at most, into its top byte
    words >>= np.uint64(56)
    return np.asarray(words.sum(axis=1).reshape(flags.shape[:2]))
