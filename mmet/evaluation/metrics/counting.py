"""Compute the exact ranks of true matches by counting the entries ahead of them.

The rank of a match is one plus the number of entries ahead of it: those with a greater score, and those with an equal
score at a smaller position. For each match, a query's scores are compared with the match's score and counted; if a
query has many matches, its scores are sorted (without their positions) and searched instead. Both are exact; the
choice is one of speed. Threads share the rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mmet.evaluation.metrics.matches import GalleryMatches, PersonEntries

MAX_COMPARED_MATCHES = 64
"""With more matches than this, sorting a query's scores is faster."""

WORD, LANES = 8, 16
"""Flags are added as the bytes of 64-bit integers, sixteen integers at a time; a byte holds at most 255."""


@dataclass(frozen=True, eq=False)
class MatchRanks:
    """The ranks of all true matches of all queries, `m` in all.

    Attributes:
        counts: `(Q,)` int64, number of true matches of each query.
        ranks: `(m,)` int64, 1 = best, ascending within a query, queries in order.
    """

    counts: NDArray[np.int64]
    ranks: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence[MatchRanks]) -> MatchRanks:
        """Join the ranks of consecutive queries."""
        return cls(np.concatenate([part.counts for part in parts]), np.concatenate([part.ranks for part in parts]))


def rank_matches(blocks: Iterable[NDArray[np.float32]], matches: GalleryMatches, num_threads: int) -> MatchRanks:
    """Rank every query's true matches by blocks of scores.

    Args:
        blocks: `(B, G)` float32, greater is better, finite; the rows of consecutive queries. Overwritten.
        matches: the matches of all queries, in the blocks' order.
        num_threads: number of threads. The result does not depend on it.

    Raises:
        ValueError: the blocks together do not have one row for each query.
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
    """Rank every query's true matches; each thread computes the scores of its own blocks, so that none waits.

    Args:
        compute: function that writes the scores of consecutive queries into `(B, G)`, as in `rank_matches`. Its matrix
            products run in the thread that calls it.
        matches: the matches of all queries.
        block_rows: number of queries in a block.
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

    # BLAS would use all its threads for each product in turn, and let them wait busily in between.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(num_threads) as threads:
        return MatchRanks.joined(list(threads.map(rank_block, starts)))


def _rank_rows(
    scores: NDArray[np.float32], entries: PersonEntries, map_shares: Callable[..., Iterable[Any]], num_threads: int
) -> MatchRanks:
    """The ranks for some queries' scores `(B, G)`, whose persons' entries are overwritten.

    `map_shares` applies a function to each thread's share of the rows.
    """
    matches = _Matches.of(scores, entries)
    # All entries that remain are wrong candidates: the person's own entries are either true matches or removed.
    scores[entries.rows, entries.columns] = -np.inf
    counter = _Counter(scores, matches)
    rows = np.flatnonzero(matches.counts)
    list(map_shares(counter.count, [rows[share::num_threads] for share in range(num_threads)]))
    # A better match has fewer candidates ahead of it or as many, so the sorted numbers belong to the sorted matches.
    row_keys = matches.rows * (scores.shape[1] + 1)
    ahead = np.sort(row_keys + counter.ahead) - row_keys
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


class _Counter:
    """For each match of a block, how many of its row's scores are greater, or equal and before it.

    Attributes:
        ahead: `(m,)` int64, the counts.
    """

    def __init__(self, scores: NDArray[np.float32], matches: _Matches) -> None:
        self.scores = scores
        self.matches = matches
        self.ahead = np.empty(len(matches.rows), dtype=np.int64)

    def count(self, rows: NDArray[np.int64]) -> None:
        """Count for the matches of rows that have at least one each."""
        flags = _Flags.of(self.scores.shape[1])
        ordered = np.empty(self.scores.shape[1], dtype=np.float32)
        starts, counts = self.matches.starts[rows].tolist(), self.matches.counts[rows].tolist()
        compared: list[tuple[int, slice]] = []
        for row, start, count in zip(rows.tolist(), starts, counts, strict=True):
            of_row = slice(start, start + count)
            if count > MAX_COMPARED_MATCHES:
                self._sort(self.scores[row], of_row, ordered)
                continue
            if flags.used + count > MAX_COMPARED_MATCHES:
                self._count_compared(compared, flags)
            self._compare(self.scores[row], of_row, flags)
            compared.append((row, of_row))
        self._count_compared(compared, flags)

    def _compare(self, scores: NDArray[np.float32], of_row: slice, flags: _Flags) -> None:
        """Compare a row's scores `(G,)` with each of its matches; the answers are added to `flags`."""
        columns, values = self.matches.columns[of_row], self.matches.scores[of_row, None]
        first, last = int(columns[0]), int(columns[-1])
        is_ahead, is_tied = flags.take(len(columns), last - first)
        # Equal scores before the first match are ahead of all matches, those after the last behind all.
        np.greater_equal(scores[:first], values, out=is_ahead[:, :first])
        np.greater(scores[first:], values, out=is_ahead[:, first : len(scores)])
        np.equal(scores[first:last], values, out=is_tied)

    def _count_compared(self, compared: list[tuple[int, slice]], flags: _Flags) -> None:
        """Count the flags of the rows compared since the last call, and empty both."""
        ahead, any_tied = flags.count()
        start = 0
        for row, of_row in compared:
            stop = start + of_row.stop - of_row.start
            self.ahead[of_row] = ahead[start:stop]
            start = stop
            if any_tied:
                columns, values = self.matches.columns[of_row], self.matches.scores[of_row, None]
                places = np.arange(columns[0], columns[-1])
                is_tied = self.scores[row, columns[0] : columns[-1]] == values
                self.ahead[of_row] += np.count_nonzero(is_tied & (places < columns[:, None]), axis=1)
        compared.clear()

    def _sort(self, scores: NDArray[np.float32], of_row: slice, ordered: NDArray[np.float32]) -> None:
        """Count by sorting a row's scores `(G,)` in the buffer `ordered`."""
        columns, values = self.matches.columns[of_row], self.matches.scores[of_row]
        ordered[:] = scores
        ordered.sort()
        not_greater = ordered.searchsorted(values, side="right")
        ahead = len(ordered) - not_greater
        # If all scores are greater, the index -1 reads the greatest of them, which is no tie.
        for nth in np.flatnonzero(ordered[not_greater - 1] == values):
            ahead[nth] += np.count_nonzero(scores[: columns[nth]] == values[nth])
        self.ahead[of_row] = ahead


class _Flags:
    """One thread's answers to "which scores are ahead of this match, which are equal", for a few rows at a time.

    Several rows are counted together, because threads wait for each other at every call. The memory is used again
    and again: fresh memory costs more time than comparing does.

    Attributes:
        used: number of matches whose answers are held.
    """

    def __init__(self, ahead: NDArray[np.bool_], tied: NDArray[np.bool_]) -> None:
        self.used = self._used_tied = 0
        self._ahead, self._tied = ahead, tied
        self._words = ahead.view(np.uint64).reshape(len(ahead), LANES, ahead.shape[1] // (WORD * LANES))

    @classmethod
    def of(cls, num_gallery: int) -> _Flags:
        """Make room for `MAX_COMPARED_MATCHES` matches with a gallery of so many entries."""
        width = -(-num_gallery // (WORD * LANES)) * WORD * LANES  # what is beyond the gallery stays zero
        ahead = np.zeros((MAX_COMPARED_MATCHES, width), dtype=bool)
        return cls(ahead, np.empty(MAX_COMPARED_MATCHES * num_gallery, dtype=bool))

    def take(self, count: int, length: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Room for `count` more matches: `(count, W)` for what is ahead, `(count, length)` for what is equal."""
        ahead = self._ahead[self.used : self.used + count]
        tied = self._tied[self._used_tied : self._used_tied + count * length].reshape(count, length)
        self.used += count
        self._used_tied += count * length
        return ahead, tied

    def count(self) -> tuple[NDArray[np.int64], bool]:
        """The number ahead of each match held, `(used,)`, and whether any is tied; then nothing is held.

        Words are added before their bytes are, which is several times faster than turning each flag into an integer.
        """
        words = np.add.reduce(self._words[: self.used], axis=1)
        words *= np.uint64(0x0101010101010101)  # puts the sum of a word's bytes, 128 at most, into its top byte
        words >>= np.uint64(56)
        any_tied = bool(self._tied[: self._used_tied].any())
        self.used = self._used_tied = 0
        return np.asarray(words.sum(axis=1), dtype=np.int64), any_tied
