"""mAP, mINP and the CMC curve of a retrieval run, exact and in linear memory.

    metrics = rank_metrics(query_embeddings, gallery_embeddings, query_person_ids, gallery_person_ids)
    metrics.mAP, metrics.rank(1)

All three metrics depend only on the ranks of a query's true matches (`mmet.evaluation.metrics.counting`). Scores are
computed for a block of queries at a time; the Q×G matrix is never in memory and no ranked list is made.

Definitions, for a query whose P true matches have the ranks r_1 < … < r_P (1 = best):

- AP = mean of i / r_i (the mean of the precisions at the matches, as in torchreid, fast-reid, TransReID and IRRA), or
  with `ap="trapezoid"` the mean of ((i - 1) / (r_i - 1) + i / r_i) / 2, where the first term is 1 for r_i = 1: the
  area under the precision-recall curve as the Matlab code of Market-1501 (`compute_AP.m`) integrates it;
- INP = P / r_P (Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", 2020);
- CMC at k = 1 if r_1 <= k, else 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mmet.data.schema import JUNK_PERSON_ID
from mmet.evaluation.metrics.counting import MatchRanks, rank_computed_matches, rank_matches
from mmet.evaluation.metrics.input_checks import (
    check_ids,
    check_ranking_options,
    check_shapes,
    curve_length,
    matrix_and_lengths,
    select_cameras,
)
from mmet.evaluation.metrics.matches import GalleryMatches

AveragePrecision = Literal["mean-precision", "trapezoid"]
Denominator = Literal["valid", "all"]

REPORTED_RANKS = (1, 5, 10)
"""Ranks of the CMC curve that tables and result files report."""

BLOCK_BYTES = 64 * 2**20
"""Default size of a thread's block of scores; with smaller blocks, the products take longer in total."""

BLOCKS_TOGETHER = 8
"""The number of blocks is a multiple of this, so that threads have equal shares."""

FLOAT32_LENGTH_ERROR = 2**-22
"""Largest difference from 1 of the length of a row normalised in float32: two units in the last place."""


@dataclass(frozen=True, eq=False)
class PerQueryMetrics:
    """Metrics of each query, in query order.

    Attributes:
        ap: `(Q,)` float64, average precision; NaN for queries without a true match.
        inp: `(Q,)` float64, inverse negative penalty; NaN for the same queries.
        first_rank: `(Q,)` int64, rank of the first true match, 1 = best; 0 for queries without one.
    """

    ap: NDArray[np.float64]
    inp: NDArray[np.float64]
    first_rank: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RankMetrics:
    """The metrics of one retrieval run; every metric is a fraction in [0, 1].

    Attributes:
        mAP: mean average precision, over the valid queries by default (see `denominator` of `rank_metrics`).
        mINP: mean inverse negative penalty over the same queries.
        cmc: `(max_rank,)` float64; `cmc[k - 1]` is the share of these queries with a true match among the first k.
            Shorter if `max_rank` is far beyond the gallery; its last value then holds for all later ranks.
        num_queries: number of all queries.
        num_valid_queries: number of queries with a true match in their gallery.
        num_gallery: number of gallery entries without junk.
        per_query: the metrics of each query, if requested.
        max_rank: the last rank that `rank` accepts; None for the length of the curve.
    """

    mAP: float
    mINP: float
    cmc: NDArray[np.float64]
    num_queries: int
    num_valid_queries: int
    num_gallery: int
    per_query: PerQueryMetrics | None = None
    max_rank: int | None = None

    def rank(self, k: int) -> float:
        """Rank-k accuracy. Raises `ValueError` for a k beyond `max_rank`."""
        last = self.max_rank or len(self.cmc)
        if not 1 <= k <= last:
            raise ValueError(f"expected a rank from 1 to {last} (max_rank), received {k}")
        return float(self.cmc[min(k, len(self.cmc)) - 1])

    def headline(self) -> dict[str, float]:
        """The metrics of tables and result files by name. Raises `ValueError` for a `max_rank` below 10."""
        return {"mAP": self.mAP, "mINP": self.mINP, **{f"rank{k}": self.rank(k) for k in REPORTED_RANKS}}


def rank_metrics(
    query_embeddings: ArrayLike | torch.Tensor,
    gallery_embeddings: ArrayLike | torch.Tensor,
    query_person_ids: ArrayLike | torch.Tensor,
    gallery_person_ids: ArrayLike | torch.Tensor,
    query_camera_ids: ArrayLike | torch.Tensor | None = None,
    gallery_camera_ids: ArrayLike | torch.Tensor | None = None,
    *,
    max_rank: int = 50,
    ap: AveragePrecision = "mean-precision",
    denominator: Denominator = "valid",
    return_per_query: bool = False,
    block_bytes: int = BLOCK_BYTES,
    num_threads: int | None = None,
) -> RankMetrics:
    """Rank the gallery for every query by cosine similarity and average the metrics.

    Scores are cosine similarities in float32 (an all-zero row scores 0 against everything). Entries with equal scores
    keep their gallery order: of two, the one with the smaller index ranks first. Gallery entries with person id -1
    (junk) are ignored; other persons without a query, such as Market-1501's distractors with id 0, are wrong
    candidates. With camera ids, an entry of the query's own person *and* camera is removed from that query's gallery;
    a camera id of -1 is unknown and removes nothing. Queries without a true match left are counted in `num_queries`,
    and in the means only with `denominator="all"`.

    Args:
        query_embeddings: `(Q, D)`, any real dtype.
        gallery_embeddings: `(G, D)`.
        query_person_ids: `(Q,)` integers.
        gallery_person_ids: `(G,)` integers.
        query_camera_ids: `(Q,)` integers, or None for no camera rule.
        gallery_camera_ids: `(G,)` integers, given exactly when `query_camera_ids` is.
        max_rank: length of the CMC curve. A curve of more than a thousand ranks ends with the gallery, beyond which it
            does not change.
        ap: formula of the average precision, see above.
        denominator: `valid`: means are over the queries with a true match; `all`: over all queries, of which those
            without a true match count as 0 (as in the Matlab code of Market-1501).
        return_per_query: whether the result has `per_query`.
        block_bytes: memory for a block of scores, of which each thread has one; it holds at least one query's scores.
            Queries are divided evenly, so blocks may be smaller.
        num_threads: threads that multiply and count; None for as many as torch uses. Meanwhile, BLAS libraries are
            limited to one thread each. The result does not depend on it.

    Raises:
        ValueError: shapes do not fit, embeddings are NaN or infinite, no query has a true match, or an option is
            invalid.
    """
    person_ids, camera_ids = check_ids(query_person_ids, gallery_person_ids, query_camera_ids, gallery_camera_ids)
    query, _ = matrix_and_lengths(query_embeddings, "query_embeddings")
    gallery, gallery_lengths = matrix_and_lengths(gallery_embeddings, "gallery_embeddings")
    check_shapes(query, gallery, person_ids)
    check_ranking_options(max_rank, ap, denominator, block_bytes, num_threads)

    clean = person_ids[1] != JUNK_PERSON_ID  # (G,)
    if not clean.all():
        gallery, gallery_lengths = gallery[clean], gallery_lengths[clean]
    matches = GalleryMatches(person_ids[0], person_ids[1][clean], *select_cameras(camera_ids, clean))
    return rank_computed(
        _Scorer(query, gallery, np.reciprocal(gallery_lengths)),
        matches,
        max_rank=max_rank,
        ap=ap,
        denominator=denominator,
        return_per_query=return_per_query,
        block_bytes=block_bytes,
        num_threads=num_threads,
    )


def rank_computed(
    compute: Callable[[slice, NDArray[np.float32]], None],
    matches: GalleryMatches,
    *,
    max_rank: int = 50,
    ap: AveragePrecision = "mean-precision",
    denominator: Denominator = "valid",
    return_per_query: bool = False,
    block_bytes: int = BLOCK_BYTES,
    num_threads: int | None = None,
) -> RankMetrics:
    """Compute rank metrics from scores of any kind, which threads compute in parallel.

    Args:
        compute: function that writes the scores of consecutive queries into `(B, G)` float32; greater is better,
            finite.
        matches: the matches of all queries in the whole gallery; at least one query must have a true match.
        max_rank, ap, denominator, return_per_query, block_bytes, num_threads: as in `rank_metrics`.

    Raises:
        ValueError: as in `rank_metrics`.
    """
    check_ranking_options(max_rank, ap, denominator, block_bytes, num_threads)
    matches.require_valid_query()
    block_rows = _num_block_rows(matches.num_queries, matches.num_gallery, block_bytes)
    ranks = rank_computed_matches(compute, matches, block_rows, num_threads or torch.get_num_threads())
    return summarize_ranks(
        ranks, matches.num_gallery, max_rank, ap=ap, denominator=denominator, return_per_query=return_per_query
    )


def rank_blocks(
    blocks: Iterable[NDArray[np.float32]],
    matches: GalleryMatches,
    *,
    max_rank: int = 50,
    ap: AveragePrecision = "mean-precision",
    denominator: Denominator = "valid",
    return_per_query: bool = False,
    num_threads: int | None = None,
) -> RankMetrics:
    """Compute rank metrics from precomputed blocks of scores of any kind, such as negated distances.

    Args:
        blocks: `(B, G)` float32, greater is better, finite; the rows of consecutive queries. Overwritten.
        matches: the matches of all queries in the whole gallery; at least one query must have a true match.
        max_rank, ap, denominator, return_per_query, num_threads: as in `rank_metrics`.

    Raises:
        ValueError: as in `rank_metrics`, or the blocks together do not have one row per query.
    """
    check_ranking_options(max_rank, ap, denominator, BLOCK_BYTES, num_threads)
    matches.require_valid_query()
    ranks = rank_matches(blocks, matches, num_threads or torch.get_num_threads())
    return summarize_ranks(
        ranks, matches.num_gallery, max_rank, ap=ap, denominator=denominator, return_per_query=return_per_query
    )


def _num_block_rows(num_queries: int, num_gallery: int, block_bytes: int) -> int:
    """Number of queries in a block: as many as fit, but equally many in all blocks except the last."""
    fitting = max(1, block_bytes // (num_gallery * np.dtype(np.float32).itemsize))
    num_blocks = -(-num_queries // (fitting * BLOCKS_TOGETHER)) * BLOCKS_TOGETHER
    return -(-num_queries // num_blocks)


class _Scorer:
    """Cosine similarities `(B, G)` of consecutive queries, up to each query's own length.

    A query's length scales all its scores equally and cannot change a rank. Scores, not gallery rows, are divided by
    the gallery's lengths, which saves a copy of the gallery; nothing is divided if all rows are normalised in float32.
    """

    def __init__(
        self, query: NDArray[np.float32], gallery: NDArray[np.float32], gallery_scales: NDArray[np.float32]
    ) -> None:
        self.query = query
        self.gallery = gallery
        is_normalised = bool(np.all(np.abs(gallery_scales - 1) <= FLOAT32_LENGTH_ERROR))
        self.scales = None if is_normalised else gallery_scales

    def __call__(self, rows: slice, out: NDArray[np.float32]) -> None:
        np.matmul(self.query[rows], self.gallery.T, out=out)
        if self.scales is not None:
            out *= self.scales


def summarize_ranks(
    ranks: MatchRanks,
    num_gallery: int,
    max_rank: int,
    *,
    ap: AveragePrecision = "mean-precision",
    denominator: Denominator = "valid",
    return_per_query: bool = False,
) -> RankMetrics:
    """Compute metrics from ranks; arguments as in `rank_metrics`."""
    values = _per_query_metrics(ranks, AP_FORMULAS[ap])
    valid = ranks.counts > 0
    divisor = np.count_nonzero(valid) if denominator == "valid" else len(valid)
    length = curve_length(max_rank, num_gallery)
    first = np.minimum(values.first_rank[valid], length + 1)
    hits = np.bincount(first, minlength=length + 2)[1:-1]  # first match at rank 1, 2, …
    return RankMetrics(
        mAP=float(values.ap[valid].sum() / divisor),
        mINP=float(values.inp[valid].sum() / divisor),
        cmc=np.cumsum(hits) / divisor,
        num_queries=len(valid),
        num_valid_queries=int(np.count_nonzero(valid)),
        num_gallery=num_gallery,
        per_query=values if return_per_query else None,
        max_rank=max_rank,
    )


def _per_query_metrics(
    ranks: MatchRanks, precisions: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]
) -> PerQueryMetrics:
    valid = ranks.counts > 0
    counts = ranks.counts[valid]  # (V,), matches of each valid query
    ap, inp = (np.full(len(valid), np.nan) for _ in range(2))
    first_rank = np.zeros(len(valid), dtype=np.int64)
    if len(counts):
        starts = np.cumsum(counts) - counts
        nth_match = np.arange(len(ranks.ranks)) - np.repeat(starts, counts) + 1  # 1, 2, … within each query
        ap[valid] = np.add.reduceat(precisions(nth_match, ranks.ranks), starts) / counts
        inp[valid] = counts / ranks.ranks[starts + counts - 1]
        first_rank[valid] = ranks.ranks[starts]
    return PerQueryMetrics(ap, inp, first_rank)


def _precisions(nth_match: NDArray[np.int64], ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Precision at each match."""
    return nth_match / ranks


def _trapezoids(nth_match: NDArray[np.int64], ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of the precision at each match and just before it; before the first entry of all it counts as 1."""
    before = np.divide(nth_match - 1, ranks - 1, out=np.ones(len(ranks)), where=ranks > 1)
    return (before + nth_match / ranks) / 2


AP_FORMULAS = {"mean-precision": _precisions, "trapezoid": _trapezoids}
"""The values that are averaged over a query's true matches, by the name of the formula."""
