"""Selections of positions against Python sets of the same positions."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmet.gallery.selection import Selection

TOTAL = 21
"""More than two bytes of bits, and not a whole number of them."""

SETS = st.sets(st.integers(0, TOTAL - 1))


def ascending(positions):
    return np.array(sorted(positions), dtype=np.int64)


def make(chosen, is_listed):
    """The selection of some positions, by listing them or by listing the others."""
    if is_listed:
        return Selection(TOTAL, ascending(chosen))
    return Selection(TOTAL, removed=ascending(set(range(TOTAL)) - chosen))


@settings(max_examples=100, deadline=None)
@given(SETS, st.booleans(), SETS, st.integers(0, TOTAL), st.integers(0, TOTAL))
def test_selection__is_a_set_of_positions(chosen, is_listed, others, first, second):
    selection = make(chosen, is_listed)
    start, stop = sorted((first, second))
    assert len(selection) == len(chosen)
    assert selection.is_all == (len(chosen) == TOTAL)
    assert selection.positions.tolist() == sorted(chosen)
    assert selection.mask(start, stop).tolist() == [number in chosen for number in range(start, stop)]
    assert selection.count_below(stop) == sum(number < stop for number in chosen)
    bits = np.unpackbits(selection.bits, bitorder="little")
    assert bits[:TOTAL].tolist() == [number in chosen for number in range(TOTAL)]
    assert not bits[TOTAL:].any()
    asked = sorted(others)
    assert selection.has(ascending(others)).tolist() == [number in chosen for number in asked]


@settings(max_examples=100, deadline=None)
@given(SETS, st.booleans(), SETS, SETS)
def test_without__takes_positions_away_and_leaves_the_first_as_it_was(chosen, is_listed, first, second):
    selection = make(chosen, is_listed)
    left = selection.without(ascending(first)).without(ascending(second))
    assert left.positions.tolist() == sorted(chosen - first - second)
    assert left.total == TOTAL
    assert selection.positions.tolist() == sorted(chosen)


def test_without__nothing_is_the_selection_itself():
    """What a search kept with it, its vectors, stays usable."""
    selection = make({1, 2}, True)
    assert selection.without(ascending([])) is selection
    assert selection.without(ascending([1])) is not selection


def test_count_below__beyond_the_last_position():
    assert make(set(range(TOTAL)), False).count_below(TOTAL + 5) == TOTAL
    assert make({3}, True).count_below(TOTAL + 5) == 1


def test_selection__without_arguments_is_all_and_has_no_vectors_yet():
    everything = Selection(4)
    assert (everything.is_all, len(everything), everything.positions.tolist()) == (True, 4, [0, 1, 2, 3])
    assert everything.vectors is None
