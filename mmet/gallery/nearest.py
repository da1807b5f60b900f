"""The rows of a snapshot that are nearest to some vectors: by the index, by comparing all, or by both.

The index covers the first rows of a gallery. Those that were added since are compared one by one, and so are all
rows that a filter lets pass where these are few, or where a search asks for many.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmet.gallery.index import VectorIndex
from mmet.gallery.selection import Positions, Selection
from mmet.gallery.snapshot import Snapshot

Vectors = NDArray[np.float32]
Ranking = tuple[list[NDArray[np.float32]], list[Positions]]
"""Scores and positions, best first, an array a query."""

SCAN_SHARE = 0.1
"""A search for more than this share of the rows compares all of them."""

_BLOCK = 65_536
_MAX_KEPT_BYTES = 2**26


def nearest(snapshot: Snapshot, index: VectorIndex | None, queries: Vectors, k: int, selection: Selection) -> Ranking:
    """The nearest rows of a selection to `queries` `(Q, D)`; of equal scores the smaller position comes first."""
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
    """The exact answer: scores and positions `(Q, at most k)` of the nearest of `vectors` `(n, D)`.

    Args:
        queries: `(Q, D)`.
        vectors: what is compared.
        k: neighbours a query.
        positions: `(n,)` of the vectors. Of equal scores the smaller one comes first.
        allowed: `(n,)` which vectors are meant; None for all.
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
    """Places of the `k` highest scores, best first; of equal ones the smaller place comes first."""
    if k <= 0:
        return np.empty(0, dtype=np.int64)
    if k < len(scores):
        bound = np.partition(scores, len(scores) - k)[len(scores) - k]
        places = np.flatnonzero(scores >= bound)
    else:
        places = np.arange(len(scores))
    return places[np.argsort(-scores[places], kind="stable")][:k]


def _scan_listed(snapshot: Snapshot, queries: Vectors, k: int, selection: Selection) -> Ranking:
    """Compare the selected rows, a block at a time; few are kept for the next search with the same filter."""
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
