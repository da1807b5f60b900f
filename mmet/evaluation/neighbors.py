"""The exact nearest neighbours of every point among all points, and each point's farthest distance, from one pass.

    neighbors = nearest_neighbors(points, count=21)
    neighbors.indices[7], neighbors.farthest[7]

Distances are symmetric, so half of the matrix product is enough: each block of points meets itself and the points
after it, and a block of scores serves its rows and its columns. No row is ever sorted. The best score of each of a few
dozen groups of candidates is kept, and the `count`-th best of these is a bound that at least `count` candidates reach;
the few scores above the bound are copied out and sorted in the end. Points are visited in a shuffled order (of a fixed
seed), which makes the bounds tight whatever the order of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

BLOCK_ROWS = 512
"""Points that meet all later ones at a time."""

GROUPS_PER_NEIGHBOR = 3
"""Groups whose best scores bound the wanted ones; with three a neighbour, about a fifth too many pass the bound."""

CROWDED = 0.25
"""Share of a tile above the bound from which on ties are at work, and its rows are sorted instead."""


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Neighbours of N points among themselves.

    Attributes:
        indices: `(N, count)` int64, nearest first; of equal distances the smaller index first. A point counts among
            its own neighbours, and comes first unless it has duplicates.
        distances: `(N, count)` float32, half the squared Euclidean distances.
        farthest: `(N,)` float32, likewise, of the point that is farthest away.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float32]
    farthest: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Hits:
    """Scores that passed a bound: whose neighbour, which neighbour, how near; all `(H,)`."""

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
    """Some columns of a block of scores `(B, W)`: points from `first_row` on against those from `first_column` on."""

    scores: NDArray[np.float32]
    first_row: int
    first_column: int

    @property
    def rows(self) -> slice:
        return slice(self.first_row, self.first_row + self.scores.shape[0])

    @property
    def columns(self) -> slice:
        return slice(self.first_column, self.first_column + self.scores.shape[1])

    @property
    def serves_columns(self) -> bool:
        """Whether the columns are later points, not the rows themselves."""
        return self.first_column != self.first_row


def nearest_neighbors(
    points: NDArray[np.float32],
    count: int,
    *,
    half_squares: NDArray[np.float32] | None = None,
    block_rows: int = BLOCK_ROWS,
    num_threads: int | None = None,
) -> Neighbors:
    """The `count` nearest neighbours of every point.

    Distances are computed in float32 as h_i + h_j - x_i·x_j with h = |x|² / 2.

    Args:
        points: `(N, D)` float32.
        count: neighbours wanted, the point itself included; all N where there are fewer points.
        half_squares: `(N,)` float32, |x|² / 2 where it is known or meant to be something else.
        block_rows: points that meet all later ones at a time; `block_rows` × N scores are held.
        num_threads: threads that look through scores; None for as many as torch uses. They do not change the result.

    Raises:
        ValueError: no points, or a count below 1.
    """
    if len(points) == 0 or count < 1:
        raise ValueError(f"expected points and a count of at least 1, received {len(points)} points and count {count}")
    if half_squares is None:
        half_squares = (np.einsum("nd,nd->n", points, points, dtype=np.float64) / 2).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(points))
    search = _Search(points[order], half_squares[order], order, min(count, len(points)), block_rows)
    with ThreadPoolExecutor(num_threads or torch.get_num_threads()) as threads:
        search.run(threads.map)
    return search.result()


class _Search:
    """State of one search: what is known of every point's neighbours so far. All numbers are of the shuffled order."""

    def __init__(
        self,
        points: NDArray[np.float32],
        half_squares: NDArray[np.float32],
        order: NDArray[np.int64],
        count: int,
        block_rows: int,
    ) -> None:
        self.points = points
        self.half_squares = half_squares
        self.order = order
        self.count = count
        self.groups = 1 << (GROUPS_PER_NEIGHBOR * count - 1).bit_length()  # a power of two, to divide blocks by
        self.block_rows = self.groups * max(1, block_rows // self.groups)
        self.lowest = np.full(len(points), np.inf, dtype=np.float32)
        self.group_best = np.full((self.groups, len(points)), -np.inf, dtype=np.float32)
        self.bound = np.full(len(points), -np.inf, dtype=np.float32)
        self.bounds_seen = 0  # points that the bounds of later points rest on
        self.hits: list[_Hits] = []

    def run(self, map_tiles: Callable[..., Iterable]) -> None:
        total = len(self.points)
        buffer = np.empty(min(self.block_rows, total) * total, dtype=np.float32)
        for start in range(0, total, self.block_rows):
            rows = self.points[start : start + self.block_rows]
            scores = buffer[: len(rows) * (total - start)].reshape(len(rows), total - start)
            np.matmul(rows, self.points[start:].T, out=scores)
            tiles = self._tiles(scores, start)
            row_extremes = np.stack(list(map_tiles(self._summarize, tiles)))  # (tiles, 2, B)
            self._finish_rows(slice(start, start + len(rows)), row_extremes)
            self._bound_columns(start + len(rows))
            for found in map_tiles(self._collect, tiles):
                self.hits.extend(found)
            if sum(map(len, self.hits)) > 16 * self.count * total:
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
        return Neighbors(indices, distances, farthest)

    def _tiles(self, scores: NDArray[np.float32], start: int) -> list[_Tile]:
        """The block against itself, then the later points in equal parts."""
        rows, columns = scores.shape
        width = max(16, -(-(columns - rows) // self.groups))
        edges = [0, *range(rows, columns, width), columns]
        return [_Tile(scores[:, a:b], start, start + a) for a, b in pairwise(edges) if a < b]

    def _summarize(self, tile: _Tile) -> NDArray[np.float32]:
        """Finish a tile's scores and note what they say of its columns.

        Returns:
            `(2, B)`, lowest and highest score of each row. Tiles run in threads and share rows, but no columns.
        """
        scores = tile.scores
        scores -= self.half_squares[tile.columns]
        scores -= self.half_squares[tile.rows, None]
        if tile.serves_columns:
            lowest, best = self.lowest[tile.columns], self.group_best[:, tile.columns]
            np.minimum(lowest, scores.min(axis=0), out=lowest)
            grouped = scores.reshape(self.groups, -1, scores.shape[1])
            np.maximum(best, grouped.max(axis=1), out=best)
        return np.stack([scores.min(axis=1), scores.max(axis=1)])

    def _finish_rows(self, rows: slice, row_extremes: NDArray[np.float32]) -> None:
        """Farthest distances and final bounds of a block's points, which have met all others now."""
        self.lowest[rows] = np.minimum(self.lowest[rows], row_extremes[:, 0].min(axis=0))
        groups = np.concatenate([row_extremes[:, 1].T, self.group_best[:, rows].T], axis=1)  # (B, groups)
        if groups.shape[1] >= self.count:
            self.bound[rows] = _nth_largest(groups, self.count)

    def _bound_columns(self, seen: int) -> None:
        """Bounds of the later points by those seen; renewed where these have become a quarter more."""
        if seen < len(self.points) and seen >= 1.25 * self.bounds_seen:
            self.bound[seen:] = _nth_largest(np.ascontiguousarray(self.group_best[:, seen:].T), self.count)
            self.bounds_seen = seen

    def _collect(self, tile: _Tile) -> list[_Hits]:
        """The scores of a tile that reach the bounds of its rows, and of its columns where it serves them."""
        rows, columns = tile.rows, tile.columns
        found = [self._hits_of(tile.scores, rows, columns, self.bound[rows, None])]
        if tile.serves_columns:
            by_column = self._hits_of(tile.scores, rows, columns, self.bound[columns], by_column=True)
            found.append(by_column)
        return found

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
        return (best * scores.shape[1] + owner if by_column else owner * scores.shape[1] + best).reshape(-1)

    def _prune(self) -> None:
        """Keep the `count` best of every point, ordered by point, then nearest first, then original index."""
        hits = _Hits.joined(self.hits)
        hits = hits.select(hits.score >= self.bound[hits.owner])
        hits = hits.select(np.lexsort((self.order[hits.other], -hits.score, hits.owner)))
        first = np.searchsorted(hits.owner, np.arange(len(self.points)))
        place = np.arange(len(hits)) - first[hits.owner]
        self.hits = [hits.select(place < self.count)]


def _nth_largest(rows: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """The n-th largest value of every row of `(R, C)`."""
    return np.partition(rows, rows.shape[1] - n, axis=1)[:, rows.shape[1] - n]
