"""Bootstrap intervals of all metrics, and of the differences between systems and a reference.

    analyses = [Intervals(BootstrapOptions()), Differences("model", ["other"], BootstrapOptions())]

Both come from the per-query values of a row (`ResultRecord.query_values`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmet.evaluation.analyses.base import METRIC_HEADER, ROW_HEADER, Analysis, having, percent, row_cells
from mmet.evaluation.metrics.bootstrap import BootstrapOptions, Interval, bootstrap_means
from mmet.evaluation.record import TASK_FIELDS, EvaluationReport, ResultRecord
from mmet.evaluation.task_result import TaskResult
from mmet.markdown_table import align_table

INTERVALS = "intervals"
"""Name of the values in a row: the bootstrap's options, and `metrics` with [low, high] by metric (None for fewer than
two persons)."""

COMPARISONS = "comparisons"
"""Name of the values over all rows; see `compare_systems`."""


@dataclass(frozen=True)
class Intervals(Analysis):
    """Bootstrap intervals of the metrics of a row.

    Attributes:
        options: options of the bootstrap.
    """

    options: BootstrapOptions

    def compute(self, result: TaskResult, record: ResultRecord) -> dict[str, Any]:
        values = record.query_values
        if values is None:
            return {}
        intervals = bootstrap_means(values.values, values.persons, self.options)
        metrics = None
        if intervals is not None:
            metrics = {name: [interval.low, interval.high] for name, interval in intervals.items()}
        return {INTERVALS: {**self.options.to_json(), "metrics": metrics}}

    def section(self, report: EvaluationReport) -> str:
        table = format_intervals(report.results)
        if not table:
            return ""
        options = next(iter(having(report.results, INTERVALS).values()))
        units = "persons with all their queries" if options["unit"] == "person" else "queries"
        return (
            f"## Intervals\n\n{table}\n"
            f"Percentile bootstrap intervals of {options['confidence']:.0%} confidence from {options['resamples']} "
            f"resamples of the {units} (seed {options['seed']}), in percent.\n"
        )


@dataclass(frozen=True)
class Differences(Analysis):
    """Differences between systems and a reference on the same queries.

    Attributes:
        reference: name of the reference.
        systems: names of the systems that are compared with it.
        options: options of the bootstrap; None to compare nothing.
    """

    reference: str
    systems: Sequence[str]
    options: BootstrapOptions | None

    def summarize(self, records: Sequence[ResultRecord]) -> dict[str, Any]:
        if self.options is None:
            return {COMPARISONS: []}
        return {COMPARISONS: compare_systems(records, self.reference, self.systems, self.options)}

    def section(self, report: EvaluationReport) -> str:
        table = format_comparisons(report.summaries.get(COMPARISONS, []))
        note = (
            "In percentage points. Both systems are resampled alike; an interval that contains 0 is no evidence of a "
            "difference.\n"
        )
        return f"## Differences\n\n{table}\n{note}" if table else ""


def compare_systems(
    records: Sequence[ResultRecord], reference: str, systems: Sequence[str], options: BootstrapOptions
) -> list[dict[str, Any]]:
    """Compute differences between systems and a reference on the same queries, with paired bootstrap intervals.

    Both systems are resampled alike, so queries that are hard for both do not widen the interval.

    Args:
        records: results of one run, with `query_values`.
        reference: name of the reference.
        systems: names of the systems that are compared with it.
        options: options of the bootstrap.

    Returns:
        An entry for each task and system: the fields of `TASK_FIELDS`, `system`, `reference`, and by metric the
        `difference` (system - reference) with its `low` and `high` (None if there are too few persons).
    """
    references = {record.task: record for record in records if record.system == reference}
    comparisons = []
    for record in records:
        other = references.get(record.task)
        if record.system not in systems or other is None or not (record.query_values and other.query_values):
            continue
        differences = record.query_values.minus(other.query_values)
        intervals = bootstrap_means(differences.values, differences.persons, options) or {}
        metrics = {}
        for name, values in differences.values.items():
            interval = intervals.get(name)
            metrics[name] = {
                "difference": float(np.nanmean(values)),
                "low": interval and interval.low,
                "high": interval and interval.high,
            }
        task = dict(zip(TASK_FIELDS, record.task, strict=True))
        comparisons.append({**task, "system": record.system, "reference": reference, "metrics": metrics})
    return comparisons


def format_intervals(records: Sequence[ResultRecord]) -> str:
    """Format a table of the metrics with their intervals, in percent; empty if no row has intervals."""
    rows = []
    for record, computed in having(records, INTERVALS).items():
        if computed["metrics"]:
            intervals = {name: Interval(*bounds) for name, bounds in computed["metrics"].items()}
            cells = (percent(value, intervals[name]) for name, value in record.metrics.headline().items())
            rows.append((*row_cells(record), *cells))
    return _metrics_table(rows)


def format_comparisons(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Format a table of differences with their intervals, in percentage points; empty if nothing was compared."""
    rows = []
    for entry in comparisons:
        cells = (
            percent(m["difference"], None if m["low"] is None else Interval(m["low"], m["high"]), sign="+")
            for m in entry["metrics"].values()
        )
        name = (entry["data"], f"{entry['query']}→{entry['gallery']}", f"{entry['system']} - {entry['reference']}")
        rows.append((*name, *cells))
    return _metrics_table(rows)


def _metrics_table(rows: Sequence[Sequence[str]]) -> str:
    header = (*ROW_HEADER, *METRIC_HEADER)
    return align_table(header[: len(rows[0])], rows, len(ROW_HEADER)) if rows else ""
