"""Probabilities of an answer: that each row is a match, and that the person is in the gallery at all.

match_probability(calibration, [0.83], num_rows=500)
in_gallery(calibration, scores, num_rows=500)

Both follow from the likelihood ratio L of a row: how many times likelier its score is for the same person than for
another. A calibration (`mmet.evaluation.analyses.calibration`) gives the odds of a pair, and L = odds / prior odds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmet.evaluation.analyses.calibration import MatchCalibration

PRESENT_PRIOR = 0.5
"""Prior probability that a person is among the searched rows."""

EVIDENCE_ROWS = 10
"""Number of best rows that `in_gallery` counts individually, however many are shown."""


def likelihood_ratios(calibration: MatchCalibration, scores: Sequence[float]) -> NDArray[np.float64]:
    """L of scores `(n,)`, limited to what the number of matching pairs of the fit supports (Platt's rule)."""
    pairs = int((calibration.about or {}).get("num_matching_pairs", 0))
    highest = 1 - 1 / (pairs + 2) if pairs else 1 - 1e-9
    probability = np.clip(calibration(np.asarray(scores)), 1e-9, max(highest, calibration.prior))
    return np.asarray(_odds(probability) / _odds(calibration.prior))


def match_probability(
    calibration: MatchCalibration, scores: Sequence[float], num_rows: int, *, is_own: bool = False
) -> list[float]:
    """
    The probability of each row that it shows the query's person.

    Args:
        calibration: of this pair of modalities.
        scores: as the calibration had them.
        num_rows: rows that were searched. In more rows than a match was to be expected in where the calibration was
            learnt, chance finds better lookalikes: the prior is then one row in `num_rows`.
        is_own: whether it was learnt on this gallery, so that it knows how many rows a person has.
    """
    prior = calibration.prior if is_own else min(calibration.prior, 1 / max(num_rows, 1))
    odds = likelihood_ratios(calibration, scores) * _odds(prior)
    return [float(value) for value in odds / (1 + odds)]


def in_gallery(calibration: MatchCalibration, scores: Sequence[float], num_rows: int) -> float:
    """
    The probability that the query's person is among the rows that were searched.

    Bayes' rule for "one of these rows, nobody knows which" against "none of them", equally likely before the search
    (`PRESENT_PRIOR`): the odds are the mean of L over all rows. The `EVIDENCE_ROWS` best are counted one by one. The
    others count what they do on average: the share of true matches that score lower than the last of the best
    (`MatchCalibration.match_scores`; without it they count nothing, which gives a lower bound). A model that cannot
    tell people apart therefore answers 0.5.

    Rows are assumed to be independent: several crops of one lookalike count as separate evidence. The person is
    assumed to be as easy to find as those of the calibration.

    Args:
        calibration: of this pair of modalities.
        scores: of the best rows, best first, as the calibration had them.
        num_rows: number of searched rows; for 0 the result is 0.
    """
    best = np.sort(np.asarray(scores, dtype=np.float64))[::-1][:EVIDENCE_ROWS]
    if not num_rows or not len(best):
        return 0.0
    evidence = float(likelihood_ratios(calibration, best.tolist()).sum())
    if calibration.match_scores:
        shares = np.linspace(0, 1, len(calibration.match_scores))
        below = float(np.interp(best[-1], calibration.match_scores, shares))
        evidence += (num_rows - len(best)) * below
    odds = _odds(PRESENT_PRIOR) * evidence / num_rows
    return float(odds / (1 + odds))


def _odds(probability: Any) -> Any:
    return probability / (1 - probability)
