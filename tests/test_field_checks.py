"""One place checks values by type and range: every kind of declaration, and what must not pass for it."""

from __future__ import annotations

import dataclasses
import enum
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmet.field_checks import SEED_RANGE, Range, check_choice, check_fields, check_number, check_value, shown


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


ACCEPTED = [
    (3, int, 3),
    (np.int64(3), int, 3),
    (3, float, 3.0),
    (np.float32(0.5), float, 0.5),
    (True, bool, True),
    ("x", str, "x"),
    (None, int | None, None),
    (["a=b"], list[str], ["a=b"]),
    ([1, 2], tuple[float, float], (1.0, 2.0)),
    ({"mim": 1}, dict[str, float], {"mim": 1.0}),
    ({"a": {"b": [1]}}, dict[str, Any] | None, {"a": {"b": [1]}}),
    ("red", Colour | str, "red"),
    ("b", Literal["a", "b"], "b"),
    (Path("x"), Path, Path("x")),
]

REFUSED = [
    (True, int, "a whole number"),
    (1.5, int, "a whole number"),
    (1.0, int, "a whole number"),
    (None, int, "a whole number"),
    ("7", int, "a whole number"),
    ([1, 2], float, "a number"),
    (math.nan, float, "a number"),
    (float("1e309"), float, "a number"),
    (False, float, "a number"),
    (1 + 2j, float, "a number"),
    (1, bool, "true or false"),
    (1, str, "text"),
    ("finegpr=x", list[str], r"a list, such as \[finegpr=x\]"),
    ([1], list[str], "text"),
    ([1], tuple[float, float], "2 values"),
    (["paired"], dict[str, float], "a mapping"),
    ({"mim": math.nan}, dict[str, float], r"\.mim: expected a number"),
    ({1: 1.0}, dict[str, float], "text"),
    ("rad", Colour | str, "red, blue.*did you mean 'red'"),
    ("c", Literal["a", "b"], "a, b"),
]


@pytest.mark.parametrize(("value", "hint", "expected"), ACCEPTED)
def test_check_value__accepts_and_converts(value, hint, expected):
    received = check_value("given", value, hint)
    assert received == expected
    assert type(received) is type(expected)


@pytest.mark.parametrize(("value", "hint", "message"), REFUSED)
def test_check_value__names_argument_expectation_and_value(value, hint, message):
    with pytest.raises(ValueError, match=f"^given.*{message}") as error:
        check_value("given", value, hint)
    assert "received" in str(error.value)
    assert "\n" not in str(error.value)


@given(st.integers(-20, 20), st.integers(-5, 5), st.integers(0, 5))
def test_check_number__range_bounds_are_inclusive(value, low, span):
    allowed = Range(at_least=low, at_most=low + span)
    if low <= value <= low + span:
        assert check_number("k1", value, int, allowed) == value
    else:
        with pytest.raises(ValueError, match=f"k1: expected a whole number of at least {low} and at most"):
            check_number("k1", value, int, allowed)


def test_check_number__exclusive_bounds_and_integers_beyond_floats():
    with pytest.raises(ValueError, match="above 0, received 0"):
        check_number("rate", 0, float, Range(above=0))
    with pytest.raises(ValueError, match="below 1, received 1"):
        check_number("beta", 1, float, Range(below=1))
    with pytest.raises(ValueError, match="received 1"):
        check_number("seed", 10**400, int, SEED_RANGE)
    with pytest.raises(ValueError, match="expected a number"):
        check_number("rate", 10**400, float)


def test_check_choice__true_is_not_one():
    assert check_choice("form", "a", ["a", "b"]) == "a"
    with pytest.raises(ValueError, match="received True"):
        check_choice("table", True, [1, 2])


@dataclasses.dataclass(frozen=True)
class Options:
    steps: int = dataclasses.field(default=1, metadata={"range": Range(at_least=1)})
    share: float = 0.5
    kind: list[str] = dataclasses.field(default_factory=list, metadata={"choices": ["x", "y"]})

    def __post_init__(self) -> None:
        check_fields(self, {"share": Range(at_least=0, at_most=1)})


def test_check_fields__metadata_ranges_and_elements():
    assert Options(share=1).share == 1.0
    assert isinstance(Options(share=1).share, float)
    for wrong, message in (({"steps": 0}, "steps"), ({"share": 2}, "share"), ({"kind": ["z"]}, r"kind\[0\]")):
        with pytest.raises(ValueError, match=f"^{message}: expected"):
            Options(**wrong)


def test_shown__is_short_and_survives_deep_nesting():
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "a list"
    assert len(shown("x" * 10_000)) < 100
