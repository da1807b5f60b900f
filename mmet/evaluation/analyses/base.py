"""What an analysis is: it looks at results, and says what goes into rows, tables and figures.

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
    """Does nothing; subclasses write the steps that they have. What they compute is JSON values under their names."""

    is_printed = True
    """Whether the section is shown on the console too."""

    def compute(self, result: TaskResult, record: ResultRecord) -> dict[str, Any]:
        """What goes into the row of a system that embeds; empty for rows that are not looked at."""
        return {}

    def summarize(self, records: Sequence[ResultRecord]) -> dict[str, Any]:
        """What several rows say together."""
        return {}

    def section(self, report: EvaluationReport) -> str:
        """A heading with a table in Markdown; empty where there is nothing to show."""
        return ""

    def figures(self, records: Sequence[ResultRecord]) -> dict[str, Figure]:
        """Pictures by file name."""
        return {}


def analyse(result: TaskResult, record: ResultRecord, analyses: Sequence[Analysis]) -> ResultRecord:
    """The row with what the analyses compute from its result; the main process computes for all."""
    if result.query_embeddings is None:
        return record
    computed = compute_once(lambda: [analysis.compute(result, record) for analysis in analyses])
    return replace(record, extras={name: value for part in computed for name, value in part.items()})


def summarize(records: Sequence[ResultRecord], analyses: Sequence[Analysis]) -> dict[str, Any]:
    """What the analyses say of all rows together."""
    return {name: value for analysis in analyses for name, value in analysis.summarize(records).items()}


def row_cells(record: ResultRecord) -> tuple[str, str, str]:
    """The cells under `ROW_HEADER`."""
    return record.data, record.kind, record.system


def percent(value: float, interval: Interval | None = None, sign: str = "") -> str:
    """A fraction in percent, with its interval where it has one: `28.3 [27.1, 29.6]`."""
    text = f"{100 * value:{sign}.1f}"
    return text if interval is None else f"{text} [{100 * interval.low:{sign}.1f}, {100 * interval.high:{sign}.1f}]"


def having(records: Sequence[ResultRecord], name: str) -> dict[ResultRecord, Mapping[str, Any]]:
    """The rows that an analysis put something into under this name, and what; in their order."""
    return {record: record.extras[name] for record in records if name in record.extras}
