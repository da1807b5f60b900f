"""Bootstrap intervals against scipy's, against plain loops, and by how often they hold the true mean."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mmet.evaluation.metrics import bootstrap
from mmet.evaluation.metrics.bootstrap import BootstrapOptions, bootstrap_means

LEVEL = 0.9


def test_bootstrap_means__by_query_is_scipys_percentile_interval():
    generator = np.random.default_rng(0)
    values = {"mAP": generator.beta(2, 1, 60), "rank1": (generator.random(60) < 0.7).astype(float)}
    intervals = bootstrap_means(values, np.zeros(60, np.int64), BootstrapOptions(20_000, "query", LEVEL))
    for name, sample in values.items():
        reference = stats.bootstrap(
            (sample,), np.mean, n_resamples=20_000, confidence_level=LEVEL, method="percentile", rng=1
        ).confidence_interval
        np.testing.assert_allclose((intervals[name].low, intervals[name].high), reference, atol=0.006)


def test_bootstrap_means__by_person_draws_persons_with_all_their_queries():
    """Three persons have 27 equally likely resamples, so the distribution can be written down."""
    persons = np.array([7, 7, 5, 9, 9, 9])
    values = np.array([0.2, 0.4, 1.0, 0.0, 0.6, 0.3])
    own_values = [values[persons == person] for person in (5, 7, 9)]
    means = [
        np.concatenate([own_values[a], own_values[b], own_values[c]]).mean()
        for a in range(3)
        for b in range(3)
        for c in range(3)
    ]
    interval = bootstrap_means({"mAP": values}, persons, BootstrapOptions(50_000, "person", 0.8))["mAP"]
    expected = np.quantile(means, [0.1, 0.9], method="inverted_cdf")
    np.testing.assert_allclose((interval.low, interval.high), expected, atol=1e-12)


@pytest.mark.parametrize(("unit", "covers"), [("person", True), ("query", False)])
def test_bootstrap_means__persons_cover_the_true_mean_where_queries_are_alike(unit, covers):
    """Forty persons of ten queries that mostly share a person's difficulty; the true mean is 0.5."""
    generator = np.random.default_rng(3)
    persons = np.repeat(np.arange(40), 10)
    held = 0
    for repeat in range(200):
        difficulty = np.repeat(generator.uniform(0.1, 0.9, 40), 10)
        values = {"mAP": difficulty + generator.uniform(-0.1, 0.1, 400)}
        interval = bootstrap_means(values, persons, BootstrapOptions(300, unit, LEVEL, seed=repeat))["mAP"]
        held += interval.low <= 0.5 <= interval.high
    assert (0.84 < held / 200 < 0.96) if covers else (held / 200 < 0.6)


def test_bootstrap_means__queries_without_a_match_are_in_no_mean():
    generator = np.random.default_rng(0)
    values, persons = generator.random(12), np.arange(12) // 2
    with_gap = np.where(persons == 3, np.nan, values)
    kept = persons != 3
    options = BootstrapOptions(200)
    assert bootstrap_means({"a": with_gap}, persons, options) == bootstrap_means(
        {"a": values[kept]}, persons[kept], options
    )


def test_bootstrap_means__does_not_depend_on_the_size_of_blocks(monkeypatch):
    values, persons = {"a": np.random.default_rng(0).random(50)}, np.arange(50)
    whole = bootstrap_means(values, persons)
    monkeypatch.setattr(bootstrap, "BLOCK_ENTRIES", 130)
    in_blocks = bootstrap_means(values, persons)["a"]
    np.testing.assert_allclose((in_blocks.low, in_blocks.high), (whole["a"].low, whole["a"].high), rtol=1e-12)
    assert abs(bootstrap_means(values, persons, BootstrapOptions(seed=1))["a"].low - whole["a"].low) > 1e-6


def test_bootstrap_means__equal_values_have_no_spread():
    interval = bootstrap_means({"a": np.full(9, 0.25)}, np.arange(9) // 3)["a"]
    assert (interval.low, interval.high) == (0.25, 0.25)


@pytest.mark.parametrize(("unit", "persons"), [("person", [1, 1, 1]), ("query", [1, 2, 3])])
def test_bootstrap_means__says_nothing_from_one_unit(unit, persons):
    values = np.array([0.5, np.nan, np.nan]) if unit == "query" else np.array([0.5, 0.7, 0.2])
    assert bootstrap_means({"a": values}, np.array(persons), BootstrapOptions(unit=unit)) is None


def test_bootstrap_means__rejects_what_does_not_fit():
    with pytest.raises(ValueError, match="expected 3 values of a, one per query"):
        bootstrap_means({"a": np.ones(2)}, np.arange(3))
    with pytest.raises(ValueError, match="both for query 1"):
        bootstrap_means({"a": np.ones(2), "b": np.array([1, np.nan])}, np.arange(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resamples": 0}, "resamples: .*at least 1"),
        ({"unit": "camera"}, "person, query; received 'camera'"),
        ({"confidence": 95}, "above 0 and below 1, received 95"),
    ],
)
def test_bootstrap_options__reject(options, message):
    with pytest.raises(ValueError, match=message):
        BootstrapOptions(**options)
