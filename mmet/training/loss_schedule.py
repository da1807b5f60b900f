"""Loss weights that change during training, for instance masked losses that fade out while identities fade in.

    >>> schedule = LossSchedule({"mim": [[0, 1], [0.5, 1], [1, 0]]})
    >>> schedule.factors(0.75)  # of mim_weight, after three quarters of the steps
    {'mim': 0.5}

A factor depends only on the share of steps done, so a resumed run has the same factors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from mmet.field_checks import check_choice, check_number
from modeling_mmet import LOSS_NAMES


class LossSchedule:
    """
    Factors of loss weights, linear between given points; constant before the first and after the last.

    Args:
        points: for each loss of `LOSS_NAMES` that changes, its `[share of the steps done, factor]` in ascending order;
            None for one that stays as it is.

    Raises:
        ValueError: for an unknown loss, and for points that are missing, not pairs, outside their range or out of
            order.
    """

    def __init__(self, points: Mapping[str, Sequence[Sequence[float]] | None]) -> None:
        for name in points:
            check_choice("loss_schedule", name, LOSS_NAMES)
        self.points = {name: _checked_points(name, pairs) for name, pairs in points.items() if pairs is not None}

    def factors(self, done: float) -> dict[str, float]:
        """The factor of each scheduled loss once a share `done` of the steps, from 0 to 1, is done."""
        return {
            name: float(np.interp(done, [share for share, _ in points], [factor for _, factor in points]))
            for name, points in self.points.items()
        }

    def to_json(self) -> dict[str, list[list[float]]]:
        """The points, as a recipe has them."""
        return {name: [list(point) for point in points] for name, points in self.points.items()}


def _checked_points(name: str, pairs: Any) -> tuple[tuple[float, float], ...]:
    expected = f"loss_schedule: expected [share of the steps, factor] pairs for {name}, such as [[0, 1], [1, 0]]"
    try:
        if isinstance(pairs, str):  # text of two letters is no pair
            raise TypeError
        points = tuple((check_number("", share, float), check_number("", factor, float)) for share, factor in pairs)
    except (TypeError, ValueError):
        raise ValueError(f"{expected}, received {pairs!r}") from None
    shares = [share for share, _ in points]
    in_range = all(0 <= share <= 1 and factor >= 0 and math.isfinite(factor) for share, factor in points)
    if not points or not in_range or any(later <= earlier for earlier, later in pairwise(shares)):
        raise ValueError(f"{expected} with ascending shares in [0, 1] and factors of at least 0, received {pairs!r}")
    return points
