"""Find the exact nearest neighbours of every point among all points, and each point's farthest distance, in one pass.

    neighbors = nearest_neighbors(points, count=21)
    neighbors.indices[7], neighbors.farthest[7]

Distances are symmetric, so half of the matrix product is enough: each block of points is compared with itself and the
points after it, and a block of scores serves its rows and its columns. No row is sorted. The best score of each of a
few dozen groups of candidates is kept, and the `count`-th best of these is a bound that at least `count` candidates
reach; the few scores above the bound are copied and sorted at the end. Points are visited in a shuffled order (with a
fixed seed), which makes the bounds tight for any order of the data. If the distances of the first points to all others
are kept, such as those of the queries to the gallery, these points are visited first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

BLOCK_ROWS = 384
"""Points that are compared with all later ones at a time."""

GROUPS_PER_NEIGHBOR = 3
"""Groups of candidates per neighbour that is sought; with three, about a fifth too many scores pass the bound."""

GROUPS_PER_TILE = 16
"""Groups of columns that are processed together: long enough operations that threads seldom wait for each other."""

CROWDED = 0.25
"""If a larger share of a tile is above the bound, because of ties, its rows are sorted instead."""


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Neighbours of N points among themselves.

    Attributes:
        indices: `(N, count)` int64, nearest first; of equal distances the smaller index first. A point counts among
            its own neighbours, and comes first unless it has duplicates.
        distances: `(N, count)` float32, half the squared Euclidean distances.
        farthest: `(N,)` float32, half the squared distance to the farthest point.
        kept: the distances of the first points to all others, if requested.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float32]
    farthest: NDArray[np.float32]
    kept: KeptDistances | None = None


@dataclass(frozen=True, eq=False)
class KeptDistances:
    """Distances between the first K points and the N - K later ones, in the order of the search.

    Attributes:
        rows: for each of the first points, `(N - K,)` float32, minus half its squared distances; because of rounding,
            a distance of zero can have either sign.
        places: `(N - K,)` int64, positions of the later points in a row.
    """

    rows: list[NDArray[np.float32]]
    places: NDArray[np.int64]

    def write(self, points: slice, out: NDArray[np.float32]) -> None:
        """Write minus half the squared distances of some of the first points to all later ones into `(B, N - K)`."""
        for row, target in zip(self.rows[points], out, strict=True):
            np.take(row, self.places, out=target, mode="clip")


@dataclass(frozen=True, eq=False)
class _Hits:
    """Scores that passed a bound: the point, its neighbour and the score, all `(H,)`."""

    owner: NDArray[np.int32]
    other: NDArray[np.int32]
    score: NDArray[np.float32]

    @classmethod
    def joined(cls, parts: Sequence[_Hits]) -> _Hits:
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("owner", "other", "score")))

    def select(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> _Hits:
        return _Hits(self.owner[chosen], self.other[chosen], self.score[chosen])

    def __len__(self) -> int:
        return len(self.owner)


@dataclass(frozen=True, eq=False)
class _Tile:
    """Some columns of a block of scores `(B, W)`: points from `first_row` on against those from `first_column` on.

    They are groups of `group_width` columns, of which the last may be narrower.
    """

    scores: NDArray[np.float32]
    first_row: int
    first_column: int
    group_width: int

    @property
    def rows(self) -> slice:
        return slice(self.first_row, self.first_row + self.scores.shape[0])

    @property
    def columns(self) -> slice:
        return slice(self.first_column, self.first_column + self.scores.shape[1])

    def row_bests(self) -> NDArray[np.float32]:
        """The highest score of each row in each group `(B, groups)`."""
        whole = self.scores.shape[1] // self.group_width * self.group_width
        groups = self.scores[:, :whole].reshape(len(self.scores), -1, self.group_width)
        bests = groups.max(axis=2) if whole else np.empty((len(self.scores), 0), dtype=np.float32)
        rest = self.scores[:, whole:]
        return np.hstack([bests, rest.max(axis=1, keepdims=True)]) if rest.size else bests

    @property
    def serves_columns(self) -> bool:
        """Whether the columns are later points, not the rows themselves."""
        return self.first_column != self.first_row


def nearest_neighbors(
    points: NDArray[np.float32],
    count: int,
    *,
    half_squares: NDArray[np.float32] | None = None,
    keep_first: int = 0,
    block_rows: int = BLOCK_ROWS,
    num_threads: int | None = None,
) -> Neighbors:
    """Find the `count` nearest neighbours of every point.

    Distances are computed in float32 as h_i + h_j - x_i·x_j with h = |x|² / 2.

    Args:
        points: `(N, D)` float32.
        count: number of neighbours, including the point itself; at most N are found.
        half_squares: `(N,)` float32, |x|² / 2, if it is known or should be something else.
        keep_first: for how many of the first points to keep the distances to all later ones, which takes about four
            bytes per pair.
        block_rows: points that are compared with all later ones at a time; `block_rows` × N scores are in memory.
        num_threads: threads that multiply and process scores; None for as many as torch uses. Meanwhile, BLAS
            libraries are limited to one thread each. The result does not depend on it.

    Raises:
        ValueError: there are no points, or `count` is below 1.
    """
    if len(points) == 0 or count < 1:
        raise ValueError(f"expected points and a count of at least 1, received {len(points)} points and count {count}")
    if half_squares is None:
        half_squares = (np.einsum("nd,nd->n", points, points, dtype=np.float64) / 2).astype(np.float32)
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(keep_first), keep_first + rng.permutation(len(points) - keep_first)])
    num_threads = num_threads or torch.get_num_threads()
    shuffled = _with_squares(points, half_squares, order)
    search = _Search(shuffled, order, min(count, len(points)), keep_first, block_rows)
    # BLAS would use all its threads for each product in turn, and let them wait busily in between.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(num_threads) as threads:
        search.run(threads.map, num_threads)
    return search.result()


def _with_squares(
    points: NDArray[np.float32], half_squares: NDArray[np.float32], order: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The points in this order as (x, -h, 1) `(N, D + 2)`; (x, 1, -h)·(y, -h', 1) is minus half a squared distance."""
    rows = np.empty((len(points), points.shape[1] + 2), dtype=np.float32)
    for start in range(0, len(points), BLOCK_ROWS):  # in blocks, to avoid a second copy of all points
        rows[start : start + BLOCK_ROWS, :-2] = points[order[start : start + BLOCK_ROWS]]
    rows[:, -2] = -half_squares[order]
    rows[:, -1] = 1
    return rows


class _Search:
    """State of one search: the neighbours of every point so far. All indices refer to the shuffled order."""

    def __init__(
        self,
        points: NDArray[np.float32],
        order: NDArray[np.int64],
        count: int,
        keep_first: int,
        block_rows: int,
    ) -> None:
        self.points = points
        self.order = order
        self.count = count
        self.keep_first = keep_first
        self.kept: list[NDArray[np.float32]] = []
        self.groups = 1 << (GROUPS_PER_NEIGHBOR * count - 1).bit_length()  # a power of two, to divide blocks by
        self.block_rows = self.groups * max(1, block_rows // self.groups)
        self.lowest = np.full(len(points), np.inf, dtype=np.float32)
        self.group_best = np.full((self.groups, len(points)), -np.inf, dtype=np.float32)
        self.bound = np.full(len(points), -np.inf, dtype=np.float32)
        self.bounds_seen = 0  # number of points that the bounds of later points are based on
        self.hits: list[_Hits] = []
        self.num_hits = 0

    def run(self, map_shares: Callable[..., Iterable[Any]], num_threads: int) -> None:
        """Visit all blocks; `map_shares` applies a function to each thread's share of a block's tiles.

        A thread multiplies and processes one tile after the other, while each is in the cache.
        """
        total = len(self.points)
        buffer = np.empty(min(self.block_rows, total) * total, dtype=np.float32)
        for start in range(0, total, self.block_rows):
            rows = self.points[start : start + self.block_rows].copy()
            rows[:, -2:] = rows[:, [-1, -2]]  # (x, 1, -h)
            scores = buffer[: len(rows) * (total - start)].reshape(len(rows), total - start)
            if start < self.keep_first:
                scores = np.empty(scores.shape, dtype=np.float32)
                self.kept.extend(scores[: self.keep_first - start, self.keep_first - start :])
            tiles = self._tiles(scores, start)
            shares = [tiles[share::num_threads] for share in range(num_threads)]
            extremes = [extreme for share in map_shares(partial(self._fill, rows), shares) for extreme in share]
            self._finish_rows(slice(start, start + len(rows)), extremes)
            self._bound_columns(start + len(rows))
            for hits in map_shares(self._collect, shares):
                self.hits.extend(hits)
                self.num_hits += sum(map(len, hits))
            if self.num_hits > 16 * self.count * total:
                self._prune()

    def result(self) -> Neighbors:
        self._prune()
        hits = self.hits[0]
        shape = (len(self.points), self.count)
        indices, distances = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.float32)
        indices[self.order] = self.order[hits.other].reshape(shape)
        distances[self.order] = np.maximum(-hits.score, 0).reshape(shape)
        farthest = np.empty(len(self.points), dtype=np.float32)
        farthest[self.order] = np.maximum(-self.lowest, 0)
        return Neighbors(indices, distances, farthest, self._kept_distances() if self.kept else None)

    def _kept_distances(self) -> KeptDistances:
        places = np.argsort(self.order)  # (N,), where each point is in the order of the search
        rows = [self.kept[place] for place in places[: self.keep_first]]
        return KeptDistances(rows, places[self.keep_first :] - self.keep_first)

    def _tiles(self, scores: NDArray[np.float32], start: int) -> list[_Tile]:
        """The block against itself, then the later points in equal groups, some to a tile."""
        rows, columns = scores.shape
        width = max(16, -(-(columns - rows) // self.groups))
        edges = [*range(rows, columns, GROUPS_PER_TILE * width), columns]
        later = [_Tile(scores[:, a:b], start, start + a, width) for a, b in pairwise(edges)]
        return [_Tile(scores[:, :rows], start, start, rows), *later]

    def _fill(
        self, points: NDArray[np.float32], tiles: Sequence[_Tile]
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Compute the scores of tiles, whose rows are these points, and update the extremes of their columns.

        Returns:
            For each tile, the lowest score of each row `(B,)` and the highest ones by group `(B, groups)`. They are
            returned because other threads have tiles of the same rows.
        """
        extremes = []
        for tile in tiles:
            np.matmul(points, self.points[tile.columns].T, out=tile.scores)
            if tile.serves_columns:
                lowest, best = self.lowest[tile.columns], self.group_best[:, tile.columns]
                np.minimum(lowest, tile.scores.min(axis=0), out=lowest)
                grouped = tile.scores.reshape(self.groups, -1, tile.scores.shape[1])
                np.maximum(best, grouped.max(axis=1), out=best)
            extremes.append((tile.scores.min(axis=1), tile.row_bests()))
        return extremes

    def _finish_rows(self, rows: slice, extremes: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> None:
        """Compute farthest distances and final bounds of a block's points, which were compared with all others now."""
        self.lowest[rows] = np.minimum.reduce([self.lowest[rows], *(lowest for lowest, _ in extremes)])
        groups = np.concatenate([*(bests for _, bests in extremes), self.group_best[:, rows].T], axis=1)
        if groups.shape[1] >= self.count:  # (B, groups)
            self.bound[rows] = _nth_largest(groups, self.count)

    def _bound_columns(self, seen: int) -> None:
        """Compute bounds of the later points from those visited, each time these have increased by a quarter."""
        if seen < len(self.points) and seen >= 1.25 * self.bounds_seen:
            self.bound[seen:] = _nth_largest(np.ascontiguousarray(self.group_best[:, seen:].T), self.count)
            self.bounds_seen = seen

    def _collect(self, tiles: Sequence[_Tile]) -> list[_Hits]:
        """Collect the scores of tiles that reach the bounds of their rows, and of their columns if these are later."""
        hits = []
        for tile in tiles:
            rows, columns = tile.rows, tile.columns
            hits.append(self._hits_of(tile.scores, rows, columns, self.bound[rows, None]))
            if tile.serves_columns:
                hits.append(self._hits_of(tile.scores, rows, columns, self.bound[columns], by_column=True))
        return hits

    def _hits_of(
        self,
        scores: NDArray[np.float32],
        rows: slice,
        columns: slice,
        bound: NDArray[np.float32],
        by_column: bool = False,
    ) -> _Hits:
        flat = np.flatnonzero(scores >= bound)
        if flat.size > CROWDED * scores.size and min(scores.shape) > self.count:
            flat = self._flat_best(scores, rows, columns, by_column)
        row, column = np.divmod(flat.astype(np.int32), np.int32(scores.shape[1]))
        score = scores[row, column]
        row, column = row + np.int32(rows.start), column + np.int32(columns.start)
        return _Hits(column, row, score) if by_column else _Hits(row, column, score)

    def _flat_best(
        self, scores: NDArray[np.float32], rows: slice, columns: slice, by_column: bool
    ) -> NDArray[np.int64]:
        """Flat positions of the `count` best of every row (or column) of a tile, ties by the original order."""
        table = scores.T if by_column else scores
        by_index = np.argsort(self.order[rows if by_column else columns])
        best = by_index[np.argsort(-table[:, by_index], axis=1, kind="stable")[:, : self.count]]
        owner = np.arange(len(table))[:, None]
        return np.asarray(
            (best * scores.shape[1] + owner if by_column else owner * scores.shape[1] + best).reshape(-1)
        )

    def _prune(self) -> None:
        """Keep the `count` best of every point, ordered by point, then nearest first, then original index."""
        hits = _Hits.joined(self.hits)
        hits = hits.select(hits.score >= self.bound[hits.owner])
        # The bits of non-negative floats sort like the numbers, and distances are not negative.
        nearness = np.maximum(-hits.score, 0).view(np.int32).astype(np.int64) << 32
        by_nearness = np.argsort(nearness + self.order[hits.other])
        hits = hits.select(by_nearness[np.argsort(hits.owner[by_nearness], kind="stable")])
        first = np.searchsorted(hits.owner, np.arange(len(self.points)))
        place = np.arange(len(hits)) - first[hits.owner]
        self.hits = [hits.select(place < self.count)]
        self.num_hits = len(self.hits[0])


def _nth_largest(rows: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """The n-th largest value of every row of `(R, C)`."""
    return np.partition(rows, rows.shape[1] - n, axis=1)[:, rows.shape[1] - n]
