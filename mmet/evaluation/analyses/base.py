"""The interface of analyses, which add values to result rows and make tables and figures.

    record = analyse(result, record, analyses)
    report = EvaluationReport.now("outputs/run", records, summaries=summarize(records, analyses))

An analysis is one file with one subclass of `Analysis`, and one line in the list of `mmet.evaluation.command`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure

from mmet.distributed import compute_once
from mmet.evaluation.metrics.bootstrap import Interval
from mmet.evaluation.record import EvaluationReport, ResultRecord
from mmet.evaluation.task_result import TaskResult

ROW_HEADER = ("data", "query→gallery", "system")
"""The first columns of every table, which are text."""

METRIC_HEADER = ("mAP", "mINP", "Rank-1", "Rank-5", "Rank-10")


class Analysis:
    """Base class that does nothing; subclasses override steps. Values are JSON values by unique names."""

    is_printed = True
    """Whether the section is also shown on the console."""

    def compute(self, result: TaskResult, record: ResultRecord) -> dict[str, Any]:
        """Compute values for the row of a system that embeds; empty if the analysis does not apply to the row."""
        return {}

    def summarize(self, records: Sequence[ResultRecord]) -> dict[str, Any]:
        """Compute values over all rows."""
        return {}

    def section(self, report: EvaluationReport) -> str:
        """Write a heading with a table in Markdown; empty if there is nothing to show."""
        return ""

    def figures(self, records: Sequence[ResultRecord]) -> dict[str, Figure]:
        """Draw figures, by file name."""
        return {}


def analyse(result: TaskResult, record: ResultRecord, analyses: Sequence[Analysis]) -> ResultRecord:
    """Add the values of the analyses to a row; the main process computes them for all processes."""
    if result.query_embeddings is None:
        return record
    computed = compute_once(lambda: [analysis.compute(result, record) for analysis in analyses])
    return replace(record, extras={name: value for part in computed for name, value in part.items()})


def summarize(records: Sequence[ResultRecord], analyses: Sequence[Analysis]) -> dict[str, Any]:
    """Compute the values of the analyses over all rows."""
    return {name: value for analysis in analyses for name, value in analysis.summarize(records).items()}


def row_cells(record: ResultRecord) -> tuple[str, str, str]:
    """The cells under `ROW_HEADER`."""
    return record.data, record.kind, record.system


def percent(value: float, interval: Interval | None = None, sign: str = "") -> str:
    """Format a fraction in percent, with its interval if it has one: `28.3 [27.1, 29.6]`."""
    text = f"{100 * value:{sign}.1f}"
    return text if interval is None else f"{text} [{100 * interval.low:{sign}.1f}, {100 * interval.high:{sign}.1f}]"


def having(records: Sequence[ResultRecord], name: str) -> dict[ResultRecord, Mapping[str, Any]]:
    """The rows with a value of this name, and the values, in order."""
    return {record: record.extras[name] for record in records if name in record.extras}
