"""Find the rows of a snapshot nearest to some vectors, with the index, by comparing all rows, or both.

The index covers the first rows of a gallery. Rows added later are compared one by one. If few rows pass a filter, or a
search asks for many rows, all passing rows are compared.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmet.gallery.index import VectorIndex
from mmet.gallery.selection import Positions, Selection
from mmet.gallery.snapshot import Snapshot

Vectors = NDArray[np.float32]
Ranking = tuple[list[NDArray[np.float32]], list[Positions]]
"""Scores and positions, best first, one array for each query."""

SCAN_SHARE = 0.1
"""A search for more than this share of the rows compares all of them."""

_BLOCK = 65_536
_MAX_KEPT_BYTES = 2**26


def nearest(snapshot: Snapshot, index: VectorIndex | None, queries: Vectors, k: int, selection: Selection) -> Ranking:
    """The rows of a selection nearest to `queries` `(Q, D)`; of equal scores, the smaller position comes first."""
    covered = 0 if index is None else index.rows
    if index is not None and len(selection) <= max(index.few, k / SCAN_SHARE):
        return _scan_listed(snapshot, queries, k, selection)
    parts = []
    if index is not None and selection.count_below(covered):
        parts.append(index.search(queries, min(k, covered), selection))
    rest = snapshot.vectors_from(covered)
    if len(rest):
        allowed = None if selection.is_all else selection.mask(covered, covered + len(rest))
        parts.append(scan(queries, rest, k, np.arange(covered, covered + len(rest)), allowed))
    return _merge(parts, k)


def scan(
    queries: Vectors, vectors: Vectors, k: int, positions: Positions, allowed: NDArray[np.bool_] | None = None
) -> tuple[Vectors, Positions]:
    """Find the nearest of `vectors` `(n, D)` exactly: scores and positions `(Q, at most k)`.

    Args:
        queries: `(Q, D)`.
        vectors: the vectors to search.
        k: number of neighbours for each query.
        positions: `(n,)` of the vectors. Of equal scores the smaller one comes first.
        allowed: `(n,)` booleans, which vectors are searched; None for all.
    """
    if allowed is not None:
        count = int(np.count_nonzero(allowed))
        if 2 * count < len(vectors):  # copy the few; else compare all and pass over some
            vectors, positions, allowed = vectors[allowed], positions[allowed], None
        k = min(k, count)
    k = min(k, len(vectors))
    order = np.empty((len(queries), k), dtype=np.int64)
    scores = queries @ vectors.T
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    for row, values in enumerate(scores):
        order[row] = best_places(values, k)
    return np.take_along_axis(scores, order, axis=1), positions[order]


def best_places(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Indices of the `k` highest scores, best first; of equal scores, the smaller index comes first."""
    if k <= 0:
        return np.empty(0, dtype=np.int64)
    if k < len(scores):
        bound = np.partition(scores, len(scores) - k)[len(scores) - k]
        places = np.flatnonzero(scores >= bound)
    else:
        places = np.arange(len(scores))
    return places[np.argsort(-scores[places], kind="stable")][:k]


def _scan_listed(snapshot: Snapshot, queries: Vectors, k: int, selection: Selection) -> Ranking:
    """Compare the selected rows in blocks; a small selection is kept for the next search with the same filter."""
    positions = selection.positions
    if selection.vectors is None and 4 * len(positions) * queries.shape[1] <= _MAX_KEPT_BYTES:
        selection.vectors = snapshot.vectors_at(positions)
    parts = []
    for start in range(0, len(positions), _BLOCK):
        block = slice(start, start + _BLOCK)
        kept = selection.vectors
        vectors = snapshot.vectors_at(positions[block]) if kept is None else kept[block]
        parts.append(scan(queries, vectors, k, positions[block]))
    return _merge(parts, k)


def _merge(parts: list[tuple[Vectors, Positions]], k: int) -> Ranking:
    scores, positions = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    all_scores, all_positions = [], []
    for row_scores, row in zip(scores, positions, strict=True):
        order = np.lexsort((row, -row_scores))
        order = order[row[order] >= 0][:k]
        all_scores.append(row_scores[order])
        all_positions.append(row[order])
    return all_scores, all_positions
