"""Match probabilities and presence: Bayes' rule by hand, and on drawn scores of which the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from mmet.evaluation.analyses.calibration import MatchCalibration, PairSample, fit_calibration
from mmet.gallery.probability import in_gallery, likelihood_ratios, match_probability

FLAT = MatchCalibration("isotonic", 0.1, scores=(0.0, 1.0), probabilities=(0.1, 0.5))
"""A score of 1 has odds 1 where the prior odds are 1/9: L = 9. A score of 0 has L = 1."""


def test_likelihood_ratios__by_hand():
    assert likelihood_ratios(FLAT, [1.0, 0.0]) == pytest.approx([9, 1])


def test_likelihood_ratios__claim_no_more_than_the_pairs_carry():
    """Eight pairs that all matched: probability (8 + 1) / (8 + 2) at most, odds 9, and L = 9 / (1/9)."""
    sure = MatchCalibration("isotonic", 0.1, (0.0, 1.0), (0.0, 1.0), about={"num_matching_pairs": 8})
    assert likelihood_ratios(sure, [1.0]) == pytest.approx([81])


def test_likelihood_ratios__stay_finite_where_nobody_says_how_many_pairs_there_were():
    sure = MatchCalibration("isotonic", 0.1, (0.0, 1.0), (0.0, 1.0))
    assert likelihood_ratios(sure, [1.0, 0.0]) == pytest.approx([9e9, 9e-9], rel=1e-6)


def test_likelihood_ratios__of_few_pairs():
    """One pair carries (1 + 1) / (1 + 2), odds 2; where that is less than the prior, a score says nothing."""
    for prior, expected in ((0.1, 18), (0.9, 1)):
        sure = MatchCalibration("isotonic", prior, (0.0, 1.0), (0.0, 1.0), about={"num_matching_pairs": 1})
        assert likelihood_ratios(sure, [1.0]) == pytest.approx([expected])


def test_match_probability__has_the_prior_of_the_gallery():
    """In up to 10 rows as it is; in 91 rows prior odds 1/90 and posterior odds 9/90; the gallery's own as it is."""
    assert match_probability(FLAT, [1.0], 4) == pytest.approx([0.5])
    assert match_probability(FLAT, [1.0], 91) == pytest.approx([0.1 / 1.1])
    assert match_probability(FLAT, [1.0], 91, is_own=True) == pytest.approx([0.5])


def test_in_gallery__is_bayes_rule_by_hand():
    """L = 9 and 1 in 2 rows: odds 5. In 4 rows of which two are as good as nothing: odds (9 + 1) / 4 at least."""
    assert in_gallery(FLAT, [1.0, 0.0], 2) == pytest.approx(5 / 6)
    assert in_gallery(FLAT, [1.0, 0.0], 4) == pytest.approx(2.5 / 3.5)
    assert in_gallery(FLAT, [], 0) == 0


def test_in_gallery__counts_the_ten_best_in_any_order():
    """L = 9 + 9 * 1 of the ten best of twelve rows; the two others count nothing."""
    odds = 18 / 12
    assert in_gallery(FLAT, [0.0] * 11 + [1.0], 12) == pytest.approx(odds / (1 + odds))
    assert in_gallery(FLAT, [], 12) == 0
    assert match_probability(FLAT, [1.0], 0) == pytest.approx([0.5])


def test_in_gallery__rows_beyond_the_best_count_by_the_share_of_matches_below_them():
    """Half of the true matches score below 0: each of the 10 other rows is worth 1/2."""
    known = MatchCalibration("isotonic", 0.1, (0.0, 1.0), (0.1, 0.5), match_scores=(-1.0, 0.0, 1.0))
    odds = (8 * 9 + 2 * 1 + 10 * 0.5) / 20
    assert in_gallery(known, [1.0] * 8 + [0.0] * 2, 20) == pytest.approx(odds / (1 + odds))


@pytest.mark.parametrize("distance", [0.0, 2.0, 5.0])
def test_in_gallery__says_how_often_the_person_is_there(distance):
    """Scores of matches lie `distance` deviations above those of others; half of the searches have a match."""
    generator = np.random.default_rng(0)
    matching, others = generator.normal(distance, 1, 20_000), generator.normal(0, 1, 20_000)
    sample = PairSample(
        np.concatenate([matching, others]).astype(np.float32),
        np.repeat([True, False], 20_000),
        np.repeat([1.0, 49.0], 20_000),
    )
    calibration = fit_calibration(sample, method="platt", about={"num_matching_pairs": 20_000})
    present = generator.random(1000) < 0.5
    rows = generator.normal(0, 1, (1000, 100))
    rows[present, 0] += distance
    answers = np.array([in_gallery(calibration, np.sort(row)[::-1][:10].tolist(), 100) for row in rows])
    for low in (0.0, 0.25, 0.5, 0.75):
        chosen = (answers >= low) & (answers <= low + 0.25)
        if chosen.sum() >= 30:
            deviation = np.sqrt(0.25 / chosen.sum())
            assert present[chosen].mean() == pytest.approx(answers[chosen].mean(), abs=0.03 + 3 * deviation)
    if distance == 0:
        assert answers == pytest.approx(0.5, abs=0.05)
    if distance == 5:
        assert answers[present].mean() > 0.9
        assert answers[~present].mean() < 0.1
