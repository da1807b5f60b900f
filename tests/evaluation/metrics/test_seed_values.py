"""Means and deviations over seeds, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmet.evaluation.metrics.seed_values import SeedValues


@given(st.lists(st.floats(0, 100), min_size=2, max_size=9))
def test_seed_values__are_numpys_mean_and_sample_deviation(values):
    seed_values = SeedValues(tuple(values))
    assert seed_values.mean == pytest.approx(np.mean(values))
    assert seed_values.std == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    assert seed_values.to_json() == {"mean": seed_values.mean, "std": seed_values.std, "values": values}


@pytest.mark.parametrize(
    ("values", "shown"),
    [((), "—"), ((27.0,), "27.0"), ((1.0, 3.0), "2.0 ± 1.4"), ((5.0, 5.0, 5.0), "5.0 ± 0.0")],
)
def test_seed_values__say_as_much_as_was_measured(values, shown):
    assert str(SeedValues(values)) == shown
