"""Percentile bootstrap intervals of means over queries, resampled by person or by query.

    intervals = bootstrap_means(values, persons, BootstrapOptions(resamples=1000))
    intervals["mAP"].low, intervals["mAP"].high

Queries of one person are not independent: they show the same clothes and search the same few matches. Drawing queries
one by one treats them as independent and gives intervals that are too narrow. Drawing *persons*, each with all queries
(the cluster bootstrap: Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8), treats
persons as the sample, which suits claims about unseen people. That is the default.

The intervals cover the choice of queries and persons only. The gallery's distractors, the cameras and the trained
weights are fixed; several training seeds cover the latter (`mmet.evaluation.analyses.seeds`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmet.field_checks import SEED_RANGE, Range, check_choice, check_number, shown

BLOCK_ENTRIES = 2**22
"""Number of draws held at a time, unless one resample has more."""

MAX_RESAMPLES = 1_000_000
"""At this number, 500 resamples lie beyond each end of a 99.9 % interval; more would take hours and add nothing."""

UNITS = ("person", "query")

Unit = Literal["person", "query"]


@dataclass(frozen=True)
class BootstrapOptions:
    """Options of the bootstrap.

    Attributes:
        resamples: number of resamples, at most a million.
        unit: unit of the draws: a `person` with all queries, or a single `query`.
        confidence: share of the resampled means inside the interval, with equal shares outside on each side.
        seed: random seed. With the same seed, systems with the same queries get the same resamples.
    """

    resamples: int = 1000
    unit: Unit = "person"
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("resamples", self.resamples, int, Range(at_least=1, at_most=MAX_RESAMPLES))
        check_choice("unit", self.unit, UNITS)
        check_number("confidence", self.confidence, float, Range(above=0, below=1))
        check_number("seed", self.seed, int, SEED_RANGE)

    def to_json(self) -> dict[str, Any]:
        """All options by name."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class QueryValues:
    """Values of each query by name, `(Q,)`, NaN for queries that no mean includes, and the queries' persons `(Q,)`."""

    values: Mapping[str, NDArray[np.float64]]
    persons: NDArray[np.int64]

    def minus(self, other: QueryValues) -> QueryValues:
        """Subtract the values of another system, query by query. Raises `ValueError` if the queries differ."""
        if not np.array_equal(self.persons, other.persons):
            raise ValueError("expected the values of the same queries, received those of other persons")
        return QueryValues({name: values - other.values[name] for name, values in self.values.items()}, self.persons)


@dataclass(frozen=True)
class Interval:
    """An interval from `low` to `high`, both included."""

    low: float
    high: float


def bootstrap_means(
    values: Mapping[str, NDArray[np.float64]], persons: NDArray[np.int64], options: BootstrapOptions | None = None
) -> dict[str, Interval] | None:
    """Compute intervals for the means of per-query values, all from the same resamples.

    Args:
        values: values by name, `(Q,)`. NaN marks a query that no mean includes, for all names.
        persons: `(Q,)`, the person of each query.
        options: options of the bootstrap.

    Returns:
        Intervals by name; None if fewer than two persons (or queries, if those are drawn) have a value.

    Raises:
        ValueError: lengths differ, or some but not all values of a query are NaN.
    """
    options = options or BootstrapOptions()
    persons = np.asarray(persons)
    table = _table(values, len(persons))  # (Q, M)
    valid = ~np.isnan(table[:, 0])
    sums, counts = _unit_sums(table[valid], persons[valid], options.unit)
    if len(counts) < 2:
        return None
    means = np.concatenate(
        [(draws @ sums) / (draws @ counts)[:, None] for draws in _draws(len(counts), options)]
    )  # (R, M)
    tail = 50 * (1 - options.confidence)
    low, high = np.percentile(means, [tail, 100 - tail], axis=0)
    return {name: Interval(float(a), float(b)) for name, a, b in zip(values, low, high, strict=True)}


def _table(values: Mapping[str, NDArray[np.float64]], num_queries: int) -> NDArray[np.float64]:
    """Check the values and join them as columns `(Q, M)`."""
    if not values:
        raise ValueError("expected values of at least one name, received none")
    values = {name: _real_column(name, column) for name, column in values.items()}
    for name, column in values.items():
        if column.shape != (num_queries,):
            raise ValueError(f"expected {num_queries} values of {name}, one per query, received shape {column.shape}")
    table = np.stack(list(values.values()), axis=1)
    missing = np.isnan(table)
    if (missing.any(axis=1) != missing.all(axis=1)).any():
        query = int(np.flatnonzero(missing.any(axis=1) != missing.all(axis=1))[0])
        raise ValueError(f"expected NaN in all values of a query or in none, received both for query {query}")
    return table


def _real_column(name: str, values: ArrayLike) -> NDArray[np.float64]:
    column = np.asarray(values)
    if column.dtype.kind not in "fiub" or np.isinf(column).any():
        raise ValueError(f"expected finite real numbers as values of {name}, received {shown(values)}")
    return column.astype(np.float64)


def _unit_sums(
    table: NDArray[np.float64], persons: NDArray[np.int64], unit: Unit
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each unit (person or query), the sums of its values `(U, M)` and the number of its queries `(U,)`."""
    if unit == "query":
        return table, np.ones(len(table))
    _, owner, counts = np.unique(persons, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), table.shape[1]))
    np.add.at(sums, owner.reshape(-1), table)
    return sums, counts.astype(np.float64)


def _draws(num_units: int, options: BootstrapOptions) -> Iterator[NDArray[np.float64]]:
    """Yield blocks `(B, U)`: how often each resample has each unit. The draws do not depend on the size of blocks."""
    generator = np.random.default_rng(options.seed)
    size = max(1, BLOCK_ENTRIES // num_units)
    for start in range(0, options.resamples, size):
        rows = min(size, options.resamples - start)
        drawn = generator.integers(num_units, size=(rows, num_units))
        drawn += np.arange(rows)[:, None] * num_units  # a range of bins for each resample
        yield np.bincount(drawn.ravel(), minlength=rows * num_units).reshape(rows, num_units).astype(np.float64)
