"""What chance scores against all placements of the true matches, as fractions, and against random embeddings."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmet.evaluation.metrics.chance import expected_metrics, expected_random_metrics
from mmet.evaluation.metrics.matches import GalleryMatches
from mmet.evaluation.metrics.ranking import rank_metrics


def expectation(num_matches: int, num_candidates: int) -> dict[str, Fraction | list[Fraction]]:
    """Exact means over all sets of ranks that the true matches can have; each set is equally likely."""
    sets = list(combinations(range(1, num_candidates + 1), num_matches))

    def mean(value):
        return sum(map(value, sets), Fraction()) / len(sets)

    def precision_before(n, rank):
        return Fraction(n - 1, rank - 1) if rank > 1 else Fraction(1)

    return {
        "mean-precision": mean(lambda ranks: sum(Fraction(n, r) for n, r in enumerate(ranks, 1)) / num_matches),
        "trapezoid": mean(
            lambda ranks: (
                sum((precision_before(n, r) + Fraction(n, r)) / 2 for n, r in enumerate(ranks, 1)) / num_matches
            )
        ),
        "inp": mean(lambda ranks: Fraction(num_matches, ranks[-1])),
        "cmc": [mean(lambda ranks, k=k: Fraction(ranks[0] <= k)) for k in range(1, num_candidates + 3)],
    }


CASES = [(matches, candidates) for candidates in range(1, 10) for matches in range(1, candidates + 1)]
EXPECTATIONS = {case: expectation(*case) for case in CASES}


@pytest.mark.parametrize("ap", ["mean-precision", "trapezoid"])
def test_expected_random_metrics__are_the_mean_over_all_orders(ap):
    for (num_matches, num_candidates), exact in EXPECTATIONS.items():
        persons = np.where(np.arange(num_candidates) < num_matches, 1, 2)
        metrics = expected_random_metrics(GalleryMatches(np.array([1]), persons), max_rank=num_candidates + 2, ap=ap)
        assert metrics.mAP == pytest.approx(float(exact[ap]), rel=1e-12)
        assert metrics.mINP == pytest.approx(float(exact["inp"]), rel=1e-12)
        np.testing.assert_allclose(metrics.cmc, [float(share) for share in exact["cmc"]], atol=1e-12)
        assert (metrics.num_queries, metrics.num_valid_queries, metrics.num_gallery) == (1, 1, num_candidates)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.sampled_from([*CASES, (0, 4)]), min_size=1, max_size=12),
    st.sampled_from(["mean-precision", "trapezoid"]),
    st.sampled_from(["valid", "all"]),
    st.integers(1, 12),
)
def test_expected_metrics__means_over_queries_of_different_numbers(cases, ap, denominator, max_rank):
    """Queries with few and with many entries left; those without a match count 0, or not at all."""
    valid = [case for case in cases if case[0]]
    if not valid:
        return
    numbers = np.array(cases)
    metrics = expected_metrics(*numbers.T, 9, max_rank=max_rank, ap=ap, denominator=denominator)
    divisor = len(valid) if denominator == "valid" else len(cases)
    assert metrics.mAP == pytest.approx(float(sum(EXPECTATIONS[case][ap] for case in valid)) / divisor)
    assert metrics.mINP == pytest.approx(float(sum(EXPECTATIONS[case]["inp"] for case in valid)) / divisor)
    curve = [sum(EXPECTATIONS[case]["cmc"][min(k, case[1]) - 1] for case in valid) for k in range(1, max_rank + 1)]
    np.testing.assert_allclose(metrics.cmc, [float(hits) / divisor for hits in curve], atol=1e-12)
    assert (metrics.num_queries, metrics.num_valid_queries) == (len(cases), len(valid))


def test_expected_metrics__galleries_as_large_as_published_ones():
    """With one match AP is the mean of 1 / rank; with several, the chance of a miss is a ratio of binomials."""
    metrics = expected_metrics(np.array([1]), np.array([19_732]), 19_732, max_rank=50)
    harmonic = sum(1 / rank for rank in range(1, 19_733))
    assert metrics.mAP == pytest.approx(harmonic / 19_732)
    assert metrics.mINP == pytest.approx(harmonic / 19_732)
    many = expected_metrics(np.array([40]), np.array([5_000]), 5_000, max_rank=20)
    np.testing.assert_allclose(many.cmc, [1 - comb(4_960, k) / comb(5_000, k) for k in range(1, 21)], rtol=1e-9)
    last = [40 / rank * comb(rank - 1, 39) / comb(5_000, 40) for rank in range(40, 5_001)]
    assert many.mINP == pytest.approx(sum(last), rel=1e-9)


def test_expected_metrics__nothing_but_matches_is_perfect():
    metrics = expected_metrics(np.array([6]), np.array([6]), 6, max_rank=3, ap="trapezoid")
    assert (metrics.mAP, metrics.mINP, metrics.cmc.tolist()) == (pytest.approx(1), pytest.approx(1), [1, 1, 1])


def test_expected_metrics__a_curve_far_beyond_the_gallery_ends_with_it():
    metrics = expected_metrics(np.array([1]), np.array([4]), 4, max_rank=10**12)
    assert metrics.cmc.tolist() == pytest.approx([0.25, 0.5, 0.75, 1])
    assert metrics.rank(10**12) == 1


def test_expected_random_metrics__agrees_with_rank_metrics_on_random_embeddings():
    """Different numbers of matches, removed cameras, a query without a match; 200 random galleries."""
    rng = np.random.default_rng(0)
    query_persons, gallery_persons = np.append(rng.integers(0, 8, 20), 99), rng.integers(0, 10, 60)
    query_cameras, gallery_cameras = rng.integers(1, 4, 21), rng.integers(1, 4, 60)
    ids = (query_persons, gallery_persons, query_cameras, gallery_cameras)
    samples = [
        rank_metrics(rng.standard_normal((21, 32)), rng.standard_normal((60, 32)), *ids, num_threads=1)
        for _ in range(200)
    ]
    expected = expected_random_metrics(GalleryMatches(*ids), max_rank=50)
    assert expected.num_valid_queries == samples[0].num_valid_queries == 20
    assert expected.num_gallery == samples[0].num_gallery
    assert expected.mAP == pytest.approx(np.mean([m.mAP for m in samples]), abs=0.005)
    assert expected.mINP == pytest.approx(np.mean([m.mINP for m in samples]), abs=0.005)
    np.testing.assert_allclose(expected.cmc, np.mean([m.cmc for m in samples], axis=0), atol=0.02)


def test_expected_random_metrics__no_query_with_a_match():
    with pytest.raises(ValueError, match="share no person id"):
        expected_random_metrics(GalleryMatches(np.array([1, -1]), np.array([2, 3])), max_rank=5)


@pytest.mark.parametrize(
    "option", [{"max_rank": 0}, {"max_rank": 5, "ap": "area"}, {"max_rank": 5, "denominator": "x"}]
)
def test_expected_metrics__options_are_checked(option):
    name = list(option)[-1]
    with pytest.raises(ValueError, match=f"{name}: expected"):
        expected_metrics(np.array([1]), np.array([3]), 3, **option)
