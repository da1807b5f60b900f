"""Expected metrics of chance: a gallery in uniformly random order, computed exactly, without sampling.

    expected_random_metrics(matches, max_rank=50)

Assumptions: each order of a query's gallery is equally likely, and no two entries tie. The values are expectations for
the actual numbers of true matches and entries of every query, for either formula of AP and denominator. They do not
hold for constant embeddings (equal scores keep gallery order, which is not random) and say nothing about the spread.
An untrained model is much better than chance: its embeddings still depend on colours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmet.evaluation.metrics.input_checks import check_ranking_options, curve_length
from mmet.evaluation.metrics.matches import GalleryMatches
from mmet.evaluation.metrics.ranking import AveragePrecision, Denominator, RankMetrics


def expected_random_metrics(
    matches: GalleryMatches,
    *,
    max_rank: int,
    ap: AveragePrecision = "mean-precision",
    denominator: Denominator = "valid",
) -> RankMetrics:
    """Compute expected mAP, mINP and CMC for galleries in uniformly random order.

    For P matches among N entries, by linearity over positions and the distribution of the first and last match, with
    the harmonic number H_N and p = (P - 1) / (N - 1), the chance that another entry is a match too:

    - E[AP] = (H_N + (N - H_N) p) / N for the mean of precisions;
    - E[AP] = (H_N + (N - H_N) p + P) / 2N by trapezoids: the precision just before a match at rank r > 1 is p in
      expectation, whatever r is, and 1 by definition at r = 1, which sum to (1 + (N - 1) p) / N = P / N;
    - E[INP] = Σ_m (P / m) C(m - 1, P - 1) / C(N, P) over the rank m of the last match;
    - P(hit within k) = 1 - C(N - P, k) / C(N, k).

    Args:
        matches: true matches of every query.
        max_rank: length of the CMC curve.
        ap, denominator: as in `rank_metrics`; if the means are over all queries, those without a true match score 0.

    Raises:
        ValueError: no query has a true match.
    """
    matches.require_valid_query()
    return expected_metrics(*matches.counts(), matches.num_gallery, max_rank=max_rank, ap=ap, denominator=denominator)


def expected_metrics(
    num_matches: NDArray[np.int64],
    num_candidates: NDArray[np.int64],
    num_gallery: int,
    *,
    max_rank: int,
    ap: AveragePrecision = "mean-precision",
    denominator: Denominator = "valid",
) -> RankMetrics:
    """Expected metrics from the numbers of true matches and of entries of each query, both `(Q,)`."""
    check_ranking_options(max_rank, ap, denominator, 1, None)
    valid = num_matches > 0
    # Queries with the same P and N have the same expectation.
    cases, repeats = np.unique(
        np.stack([num_matches[valid], num_candidates[valid]], axis=1), axis=0, return_counts=True
    )
    precision = [_expected_average_precision(p, n, ap) for p, n in cases]
    penalty = [_expected_inverse_penalty(p, n) for p, n in cases]
    hits = np.stack([_hit_probability(p, n, curve_length(max_rank, num_gallery)) for p, n in cases])  # (cases, length)
    shares = repeats / (valid.sum() if denominator == "valid" else len(valid))
    return RankMetrics(
        mAP=float(shares @ precision),
        mINP=float(shares @ penalty),
        cmc=shares @ hits,
        num_queries=len(valid),
        num_valid_queries=int(valid.sum()),
        num_gallery=num_gallery,
        max_rank=max_rank,
    )


def _expected_average_precision(num_matches: int, num_candidates: int, ap: AveragePrecision) -> float:
    if num_candidates == 1:
        return 1.0
    harmonic = np.sum(1 / np.arange(1, num_candidates + 1))
    other_matches = (num_matches - 1) / (num_candidates - 1)
    precisions = (harmonic + (num_candidates - harmonic) * other_matches) / num_candidates
    if ap == "trapezoid":
        return float((precisions + num_matches / num_candidates) / 2)
    return float(precisions)


def _expected_inverse_penalty(num_matches: int, num_candidates: int) -> float:
    # P(last match at m) = C(m - 1, P - 1) / C(N, P): P / N at m = N, and downwards by the ratio of neighbours.
    ranks = np.arange(num_candidates, num_matches - 1, -1)  # N, N - 1, …, P
    ratios = (ranks[:-1] - num_matches) / (ranks[:-1] - 1)  # C(m - 2, P - 1) / C(m - 1, P - 1)
    probability = num_matches / num_candidates * np.concatenate([[1.0], np.cumprod(ratios)])
    return float(np.sum(probability * num_matches / ranks))


def _hit_probability(num_matches: int, num_candidates: int, max_rank: int) -> NDArray[np.float64]:
    """Probability of a match among the first 1, 2, …, `max_rank` entries."""
    drawn = np.arange(max_rank)
    # The probability that the k-th draw misses, given that all before it missed.
    misses = np.clip(num_candidates - num_matches - drawn, 0, None) / np.clip(num_candidates - drawn, 1, None)
    return 1 - np.cumprod(misses, dtype=np.float64)
