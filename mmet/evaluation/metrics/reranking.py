"""Re-ranking with k-reciprocal encoding: the published distances, without a square matrix.

    distances = k_reciprocal_rerank(query_embeddings, gallery_embeddings)            # (Q, G), small sizes
    for queries, distances in k_reciprocal_blocks(query_embeddings, gallery_embeddings): ...
    metrics = reranked_metrics(query_embeddings, gallery_embeddings, query_person_ids, gallery_person_ids)

Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding" (CVPR 2017): two points are near if
they share k-reciprocal neighbours. The published code holds several (Q+G)×(Q+G) matrices, of which nearly all entries
are zero or unused. Here the points' neighbour lists come from one blockwise pass (`nearest_neighbors`), neighbour sets
and their weights are sparse rows, and final distances are computed for a block of queries at a time. The distances of
the queries to the gallery are kept from that pass if they fit into `KEPT_BYTES`, and computed again otherwise.

As in the published code, distances are squared Euclidean; every row is divided by its maximum over all points,
including queries; a point is among its own neighbours; half of k1 is rounded half to even. Where the published code
divides by zero (all points are equal; a point's list is full of its duplicates, so that it has no reciprocal
neighbour), distances are 0 and there are no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csc_array, csr_array

from mmet.data.schema import JUNK_PERSON_ID
from mmet.evaluation.metrics.input_checks import (
    check_dimensions,
    check_ids,
    check_ranking_options,
    check_shapes,
    check_work,
    matrix_and_lengths,
    select_cameras,
)
from mmet.evaluation.metrics.matches import GalleryMatches
from mmet.evaluation.metrics.neighbors import KeptDistances, Neighbors, nearest_neighbors
from mmet.evaluation.metrics.ranking import AveragePrecision, Denominator, RankMetrics, rank_computed
from mmet.field_checks import SHARE_RANGE, Range, check_choice, check_number

Metric = Literal["euclidean", "cosine"]
METRICS: tuple[Metric, ...] = ("euclidean", "cosine")

BLOCK_BYTES = 16 * 2**20
"""Default size of a block of final distances."""

KEPT_BYTES = 512 * 2**20
"""The queries' distances from the search for neighbours are kept if they need no more than this."""

JACCARD_ENTRIES = 2**18
"""Pairs whose shared neighbours are added at a time; much larger arrays are slower, as they need new memory."""

GATHER_ROWS = 2**12
"""Pairs outside the neighbour lists whose distances are computed at a time."""


@dataclass(frozen=True, eq=False)
class ComputedDistances:
    """Original distances that are computed on request; the interface is that of `KeptDistances`.

    Attributes:
        query: `(Q, D + 2)` float32, prepared (centred, or normalised for cosine), followed by 1 and minus half the
            squared length.
        gallery: `(G, D + 2)` likewise, followed by minus half the squared length and 1.
    """

    query: NDArray[np.float32]
    gallery: NDArray[np.float32]

    def write(self, points: slice, out: NDArray[np.float32]) -> None:
        """Write minus half the squared distances of some queries to the whole gallery into `(B, G)`."""
        np.matmul(self.query[points], self.gallery.T, out=out)


@dataclass(frozen=True, eq=False)
class Reranking:
    """The data from which final distances of any block of queries are computed.

    Attributes:
        original: the original distances.
        farthest: `(Q,)` float32, half the squared distance of each query's farthest point.
        query_weights: `(Q, Q + G)` sparse rows, the encoded neighbours of the queries.
        gallery_weights: `(G, Q + G)` sparse columns, which gallery entries have a point among their neighbours.
        lambda_value: weight of the original distance.
    """

    original: KeptDistances | ComputedDistances
    farthest: NDArray[np.float32]
    query_weights: csr_array
    gallery_weights: csc_array
    lambda_value: float

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of queries and of gallery entries."""
        return self.query_weights.shape[0], self.gallery_weights.shape[0]

    def blocks(
        self, block_bytes: int = BLOCK_BYTES, num_threads: int | None = None
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield consecutive queries and their final distances `(B, G)` float32. Blocks share one buffer."""
        num_queries, num_gallery = self.shape
        rows = max(1, min(num_queries, block_bytes // (4 * num_gallery)))
        buffer = np.empty((rows, num_gallery), dtype=np.float32)
        with ThreadPoolExecutor(num_threads or torch.get_num_threads()) as threads:
            for start in range(0, num_queries, rows):
                queries = slice(start, min(start + rows, num_queries))
                block = buffer[: queries.stop - start]
                self.write(queries, block, threads.map)
                yield queries, block

    def write(self, queries: slice, out: NDArray[np.float32], map_parts: Callable[..., Iterable[None]] = map) -> None:
        """Write the final distances of some queries into `(B, G)` float32; `map_parts` may run parts in threads."""
        self.original.write(queries, out)
        step = max(1, JACCARD_ENTRIES // out.shape[1])
        parts = [slice(first, min(first + step, len(out))) for first in range(0, len(out), step)]
        of_all = [slice(queries.start + part.start, queries.start + part.stop) for part in parts]
        list(map_parts(self._finish, of_all, [out[part] for part in parts]))

    def write_scores(self, queries: slice, out: NDArray[np.float32]) -> None:
        """Write minus the final distances of consecutive queries into `(B, G)` float32."""
        self.write(queries, out)
        np.negative(out, out=out)

    def _finish(self, queries: slice, out: NDArray[np.float32]) -> None:
        """Turn minus half the squared distances of some queries `(b, G)` into λ · original + (1 - λ) · Jaccard."""
        farthest = self.farthest[queries, None]
        out *= np.float32(-self.lambda_value) / np.where(farthest > 0, farthest, np.float32(1))
        out += np.float32(1 - self.lambda_value)
        np.maximum(out, np.float32(1 - self.lambda_value), out=out)  # rounding may have made a distance negative
        # So far the Jaccard distance is 1. It is smaller only for pairs that share a neighbour.
        positions, overlaps = _min_sums(self.query_weights[queries], self.gallery_weights)
        flat = out.reshape(-1)
        flat[positions] = np.maximum(flat[positions] - (1 - self.lambda_value) * overlaps / (2 - overlaps), 0)


def k_reciprocal_rerank(
    query_embeddings: ArrayLike | torch.Tensor,
    gallery_embeddings: ArrayLike | torch.Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    metric: Metric = "euclidean",
    num_threads: int | None = None,
) -> NDArray[np.float32]:
    """Compute the final distances `(Q, G)` float32; smaller is nearer. For large sizes, use `k_reciprocal_blocks`.

    Args:
        query_embeddings: `(Q, D)`, any real dtype.
        gallery_embeddings: `(G, D)`, without junk: every entry takes part in the others' neighbour lists.
        k1: size of the neighbour lists that k-reciprocal sets are taken from.
        k2: neighbours whose encodings are averaged; 1 for none.
        lambda_value: weight of the original distance beside the Jaccard distance, from 0 to 1.
        metric: `euclidean`, or `cosine`: 1 - cos, which is half the squared Euclidean distance of normalised rows.
            (Tools that pass a cosine distance to the published code get its square; that is not supported.)
        num_threads: number of threads; None for as many as torch uses.

    Raises:
        ValueError: shapes do not fit, there is no query or gallery, embeddings are not finite real numbers, or a
            parameter is invalid.
    """
    reranking = prepare_reranking(
        query_embeddings,
        gallery_embeddings,
        k1=k1,
        k2=k2,
        lambda_value=lambda_value,
        metric=metric,
        num_threads=num_threads,
    )
    distances = np.empty(reranking.shape, dtype=np.float32)
    for queries, block in reranking.blocks(num_threads=num_threads):
        distances[queries] = block
    return distances


def k_reciprocal_blocks(
    query_embeddings: ArrayLike | torch.Tensor,
    gallery_embeddings: ArrayLike | torch.Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    metric: Metric = "euclidean",
    block_bytes: int = BLOCK_BYTES,
    num_threads: int | None = None,
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield consecutive queries and their final distances `(B, G)`, block by block. Blocks share one buffer."""
    check_work(block_bytes, num_threads)
    reranking = prepare_reranking(
        query_embeddings,
        gallery_embeddings,
        k1=k1,
        k2=k2,
        lambda_value=lambda_value,
        metric=metric,
        num_threads=num_threads,
    )
    return reranking.blocks(block_bytes, num_threads)


def reranked_metrics(
    query_embeddings: ArrayLike | torch.Tensor,
    gallery_embeddings: ArrayLike | torch.Tensor,
    query_person_ids: ArrayLike | torch.Tensor,
    gallery_person_ids: ArrayLike | torch.Tensor,
    query_camera_ids: ArrayLike | torch.Tensor | None = None,
    gallery_camera_ids: ArrayLike | torch.Tensor | None = None,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    metric: Metric = "euclidean",
    max_rank: int = 50,
    ap: AveragePrecision = "mean-precision",
    denominator: Denominator = "valid",
    return_per_query: bool = False,
    block_bytes: int = BLOCK_BYTES,
    num_threads: int | None = None,
) -> RankMetrics:
    """Compute the metrics of the re-ranked gallery; exact, and without the Q×G matrix in memory.

    Junk entries (person id -1) are removed before re-ranking, so they are never neighbours. Entries that the camera
    rule removes from a query's gallery do take part in neighbour lists, as in the published code.

    Args:
        k1, k2, lambda_value, metric: as in `k_reciprocal_rerank`; all other arguments are as in `rank_metrics`.

    Raises:
        ValueError: as in `rank_metrics` and `k_reciprocal_rerank`.
    """
    check_parameters(k1, k2, lambda_value, metric)
    check_ranking_options(max_rank, ap, denominator, block_bytes, num_threads)
    person_ids, camera_ids = check_ids(query_person_ids, gallery_person_ids, query_camera_ids, gallery_camera_ids)
    query, _ = matrix_and_lengths(query_embeddings, "query_embeddings")
    gallery, _ = matrix_and_lengths(gallery_embeddings, "gallery_embeddings")
    check_shapes(query, gallery, person_ids)
    clean = person_ids[1] != JUNK_PERSON_ID
    matches = GalleryMatches(person_ids[0], person_ids[1][clean], *select_cameras(camera_ids, clean))
    matches.require_valid_query()
    reranking = prepare_reranking(
        query,
        gallery if clean.all() else gallery[clean],
        k1=k1,
        k2=k2,
        lambda_value=lambda_value,
        metric=metric,
        num_threads=num_threads,
    )
    return rank_computed(
        reranking.write_scores,
        matches,
        max_rank=max_rank,
        ap=ap,
        denominator=denominator,
        return_per_query=return_per_query,
        block_bytes=block_bytes,
        num_threads=num_threads,
    )


def prepare_reranking(
    query_embeddings: ArrayLike | torch.Tensor,
    gallery_embeddings: ArrayLike | torch.Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    metric: Metric = "euclidean",
    num_threads: int | None = None,
) -> Reranking:
    """Do all of re-ranking except the final distances. Arguments and errors as in `k_reciprocal_rerank`."""
    check_parameters(k1, k2, lambda_value, metric)
    check_work(BLOCK_BYTES, num_threads)
    query, query_lengths = matrix_and_lengths(query_embeddings, "query_embeddings")
    gallery, gallery_lengths = matrix_and_lengths(gallery_embeddings, "gallery_embeddings")
    check_dimensions(query, gallery)
    for embeddings, side in ((query, "query"), (gallery, "gallery")):
        if not len(embeddings):
            raise ValueError(f"expected at least one row of {side}_embeddings, received none")
    points = np.concatenate([query, gallery])
    if metric == "cosine":
        points /= np.concatenate([query_lengths, gallery_lengths])[:, None]
        half_squares = np.full(len(points), 0.5, dtype=np.float32)
    else:
        points -= points.mean(axis=0, dtype=np.float64).astype(np.float32)  # a common offset only costs precision
        half_squares = (np.einsum("nd,nd->n", points, points, dtype=np.float64) / 2).astype(np.float32)
    keeps = 4 * len(query) * len(points) <= KEPT_BYTES
    neighbors = nearest_neighbors(
        points,
        max(k1 + 1, k2),
        half_squares=half_squares,
        keep_first=len(query) if keeps else 0,
        num_threads=num_threads,
    )
    weights = _encode(points, half_squares, neighbors, k1)
    if k2 > 1:
        weights = _average_over_neighbors(weights, neighbors.indices[:, :k2])
    original = neighbors.kept or _computed_distances(points, half_squares, len(query))
    farthest = neighbors.farthest[: len(query)]
    return Reranking(original, farthest, weights[: len(query)], weights[len(query) :].tocsc(), lambda_value)


def _computed_distances(
    points: NDArray[np.float32], half_squares: NDArray[np.float32], num_queries: int
) -> ComputedDistances:
    minus, ones = -half_squares, np.ones_like(half_squares)
    query, gallery = slice(0, num_queries), slice(num_queries, None)
    return ComputedDistances(
        np.column_stack([points[query], ones[query], minus[query]]),
        np.column_stack([points[gallery], minus[gallery], ones[gallery]]),
    )


def check_parameters(k1: int, k2: int, lambda_value: float, metric: str) -> None:
    """Raise `ValueError`, naming the argument, for invalid parameters of re-ranking."""
    check_number("k1", k1, int, Range(at_least=1))
    check_number("k2", k2, int, Range(at_least=1))
    check_number("lambda_value", lambda_value, float, SHARE_RANGE)
    check_choice("metric", metric, METRICS)


def _encode(
    points: NDArray[np.float32], half_squares: NDArray[np.float32], neighbors: Neighbors, k1: int
) -> csr_array:
    """Encode each point's expanded k-reciprocal set as weights that sum to one: sparse rows `(N, N)` float32."""
    sets = _expanded_sets(neighbors.indices, k1)
    owner = np.repeat(np.arange(len(points)), np.diff(sets.indptr))
    distances = _distances_of(owner, sets.indices, points, half_squares, neighbors)
    weights = np.exp(-distances / np.where(neighbors.farthest > 0, neighbors.farthest, 1)[owner])
    totals = np.bincount(owner, weights, minlength=len(points))  # zero only for empty sets, which have no weights
    sets.data = (weights / totals[owner]).astype(np.float32)
    return sets


def _expanded_sets(indices: NDArray[np.int64], k1: int) -> csr_array:
    """R*(p, k1) of the paper: R(p, k1), and R(q, k1 / 2) of each member q if more than 2/3 of it are in R(p, k1)."""
    reciprocal = _reciprocal_sets(indices[:, : k1 + 1])
    half = _reciprocal_sets(indices[:, : int(np.around(k1 / 2)) + 1])
    shared = (reciprocal @ half.T.tocsr()).multiply(reciprocal).tocsr()  # members that p's and q's sets share
    sizes = np.diff(half.indptr)
    shared.data = (shared.data > 2 / 3 * sizes[shared.indices]).astype(np.float32)
    shared.eliminate_zeros()
    expanded = (reciprocal + shared @ half).tocsr()
    expanded.sort_indices()
    return expanded


def _reciprocal_sets(indices: NDArray[np.int64]) -> csr_array:
    """Pairs of points that are among each other's neighbours, as ones `(N, N)` float32."""
    total, count = indices.shape
    ones = np.ones(total * count, dtype=np.float32)
    listed = csr_array((ones, indices.reshape(-1), np.arange(total + 1) * count), shape=(total, total))
    return listed.multiply(listed.T.tocsr()).tocsr()


def _distances_of(
    owner: NDArray[np.int64],
    other: NDArray[np.int64],
    points: NDArray[np.float32],
    half_squares: NDArray[np.float32],
    neighbors: Neighbors,
) -> NDArray[np.float32]:
    """Half the squared distances of pairs `(P,)`: from the neighbour lists, and computed for the few outside them."""
    total, count = neighbors.indices.shape
    by_index = np.argsort(neighbors.indices, axis=1)
    known_keys = np.take_along_axis(np.arange(total)[:, None] * total + neighbors.indices, by_index, axis=1).reshape(
        -1
    )
    keys = owner * total + other
    place = np.minimum(np.searchsorted(known_keys, keys), total * count - 1)
    distances = np.take_along_axis(neighbors.distances, by_index, axis=1).reshape(-1)[place]
    unknown = np.flatnonzero(known_keys[place] != keys)
    for start in range(0, len(unknown), GATHER_ROWS):
        pairs = unknown[start : start + GATHER_ROWS]
        a, b = owner[pairs], other[pairs]
        products = np.einsum("pd,pd->p", points[a], points[b])
        distances[pairs] = np.maximum(half_squares[a] + half_squares[b] - products, 0)
    return np.asarray(distances)


def _average_over_neighbors(weights: csr_array, indices: NDArray[np.int64]) -> csr_array:
    """Local query expansion: the mean of the rows of each point's neighbours `(N, k2)`."""
    total, count = indices.shape
    shares = np.full(total * count, 1 / count, dtype=np.float32)
    averaging = csr_array((shares, indices.reshape(-1), np.arange(total + 1) * count), shape=(total, total))
    return (averaging @ weights).tocsr()


def _min_sums(rows: csr_array, columns: csc_array) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Σ_j min(a_j, b_j) of each of `rows` `(B, N)` with all rows of `columns` `(G, N)`, where it is not zero.

    Returns:
        Flat positions in `(B, G)`, ascending, and the sums there.
    """
    num_rows, num_columns = rows.shape[0], columns.shape[0]
    # Each stored a_j is combined with column j; the parts of these columns are concatenated.
    starts = columns.indptr[rows.indices].astype(np.int64)
    lengths = columns.indptr[rows.indices + 1] - starts
    ends = np.cumsum(lengths)
    position = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
    smaller = np.minimum(np.repeat(rows.data, lengths), columns.data[position])
    row = np.repeat(np.arange(num_rows), np.diff(rows.indptr))
    target = np.repeat(row * num_columns, lengths) + columns.indices[position]
    sums = np.bincount(target, smaller, minlength=num_rows * num_columns)
    positions = np.flatnonzero(sums > 0)  # several times faster than np.flatnonzero(sums)
    return positions, sums[positions].astype(np.float64, copy=False)
