"""What an evaluation leaves behind: `results.json`, `results.md` and figures, each written whole or not at all.

report = EvaluationReport.now(model="outputs/run", results=records)
save_report(report, Path("outputs/eval"))
"""

from __future__ import annotations

import json
import platform
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from mmet.evaluation.analyses.figures import figure_bytes, plot_cmc, plot_reliability, plot_roc
from mmet.evaluation.metrics.bootstrap import BootstrapOptions, Interval, QueryValues, bootstrap_means
from mmet.evaluation.metrics.ranking import RankMetrics
from mmet.evaluation.metrics.seeds import SeedValues
from mmet.evaluation.protocols import PROTOCOLS, Modality
from mmet.evaluation.search import REPORTED_RANKS
from mmet.whole_files import write_all_whole

HEADER = ("data", "query→gallery", "system", "mAP", "mINP", "Rank-1", "Rank-5", "Rank-10", "queries", "gallery")
NUM_TEXT_COLUMNS = 3
UNSHOWN = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories of what breaks a line, a table or an encoding."""

TASK_FIELDS = ("data", "data_root", "protocol", "query", "gallery")


@dataclass(frozen=True, eq=False)
class ResultRecord:
    """One row: one system on one task.

    Attributes:
        data: name of the data set.
        data_root: the folder that it was read from.
        protocol, query, gallery: of the task.
        system: whose row it is.
        metrics: what it achieved.
        options: everything that was done beyond a plain search, as JSON values.
        extras: what was computed beside the metrics, by name, as JSON values.
        query_values: what the metrics are the means of, where intervals were asked for; not written.
    """

    data: str
    data_root: str
    protocol: str
    query: Modality
    gallery: Modality
    system: str
    metrics: RankMetrics
    options: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    query_values: QueryValues | None = None

    @property
    def task(self) -> tuple[str, str, str, str, str]:
        """What rows must share to be compared: data, its folder, protocol, query and gallery modality."""
        return self.data, self.data_root, self.protocol, self.query, self.gallery

    def to_json(self) -> dict[str, Any]:
        """The record as plain values; metrics are fractions in [0, 1]."""
        metrics = self.metrics
        return {
            "data": self.data,
            "data_root": self.data_root,
            "protocol": self.protocol,
            "protocol_rules": PROTOCOLS[self.protocol].describe(),
            "query": self.query,
            "gallery": self.gallery,
            "system": self.system,
            "metrics": {
                "mAP": metrics.mAP,
                "mINP": metrics.mINP,
                **{f"rank{k}": metrics.rank(k) for k in REPORTED_RANKS},
            },
            "cmc": metrics.cmc.tolist(),
            "num_queries": metrics.num_queries,
            "num_valid_queries": metrics.num_valid_queries,
            "num_gallery": metrics.num_gallery,
            "options": dict(self.options),
            **self.extras,
        }


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """All results of one run and what they were made with.

    Attributes:
        model: folder or name.
        created: UTC in ISO 8601.
        versions: of the packages that results depend on.
        results: the rows.
        settings: every argument of the run.
        seeds: of `summarize_seeds`; none where a single model was evaluated.
        comparisons: of `compare_systems`; none where nothing was compared.
        systems: by row, the folder or name of every model that was loaded.
    """

    model: str
    created: str
    versions: dict[str, str]
    results: Sequence[ResultRecord]
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[Mapping[str, Any]] = ()
    comparisons: Sequence[Mapping[str, Any]] = ()
    systems: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def now(cls, model: str, results: Sequence[ResultRecord], **parts: Any) -> EvaluationReport:
        """A report made at this moment with the installed versions; `parts` are the fields that have defaults."""
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(model, created, installed_versions(), results, **parts)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values, the content of `results.json`."""
        return {
            "model": self.model,
            "created": self.created,
            "versions": self.versions,
            "settings": dict(self.settings),
            "systems": dict(self.systems),
            "results": [record.to_json() for record in self.results],
            "comparisons": [dict(comparison) for comparison in self.comparisons],
            "seeds": [dict(summary) for summary in self.seeds],
        }


def plain_text(text: str) -> str:
    """`text` in one line that can be shown anywhere: no control characters, line ends or halves of surrogates."""
    return "".join("\ufffd" if unicodedata.category(character) in UNSHOWN else character for character in text)


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; packages that are not installed are left out."""
    versions = {"python": platform.python_version()}
    for package in ("mmet", "torch", "transformers", "datasets", "accelerate", "numpy", "pillow"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # mmet itself, when run from its source folder
            continue
    return versions


def format_table(records: Sequence[ResultRecord]) -> str:
    """The results as a Markdown table with aligned columns, for the console too; metrics in percent.

    `queries` counts those with a true match; where some had none, it shows `valid/all`.
    """
    return align_table(HEADER, [_table_row(record) for record in records], NUM_TEXT_COLUMNS)


def align_table(header: Sequence[str], rows: Sequence[Sequence[str]], num_text_columns: int) -> str:
    """A Markdown table; the first columns are text and flush left, the others are numbers and flush right.

    A pipe in a cell is written `\\|`, which shows as one and ends no cell.
    """
    rows = [[plain_text(cell).replace("|", r"\|") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rules = ["-" * w if c < num_text_columns else "-" * (w - 1) + ":" for c, w in enumerate(widths)]
    return "\n".join(_aligned(row, widths, num_text_columns) for row in (header, rules, *rows)) + "\n"


def summarize_seeds(records: Sequence[ResultRecord], systems: Sequence[str]) -> list[dict[str, Any]]:
    """Mean and standard deviation (of a sample, n - 1) over models of one recipe with different seeds.

    Args:
        records: results of one run.
        systems: the rows that are those models; at least two.

    Returns:
        An entry for each task: `data`, `data_root`, `protocol`, `query`, `gallery`, `systems`, and by metric its
        `mean`, `std` and `values` in the order of `systems` (`SeedValues`).
    """
    groups: dict[tuple[str, str, str, str, str], dict[str, dict[str, float]]] = {}
    for record in records:
        if record.system in systems:
            groups.setdefault(record.task, {})[record.system] = record.to_json()["metrics"]
    summaries = []
    for key, by_system in groups.items():
        summary: dict[str, Any] = dict(zip(TASK_FIELDS, key, strict=True))
        summary["systems"] = [system for system in systems if system in by_system]
        summary["metrics"] = {}
        for metric in next(iter(by_system.values())):
            values = SeedValues(tuple(by_system[system][metric] for system in summary["systems"]))
            summary["metrics"][metric] = values.to_json()
        summaries.append(summary)
    return summaries


def compare_systems(
    records: Sequence[ResultRecord], reference: str, systems: Sequence[str], options: BootstrapOptions
) -> list[dict[str, Any]]:
    """How far systems are from a reference on the same queries, with paired bootstrap intervals.

    Both systems are resampled alike, so what makes a query hard for both does not widen the interval.

    Args:
        records: results of one run, with `query_values`.
        reference: the system that the others are compared with.
        systems: the others.
        options: of the bootstrap.

    Returns:
        An entry for each task and system: `data`, `data_root`, `protocol`, `query`, `gallery`, `system`, `reference`,
        and by metric the `difference` (system - reference) with its `low` and `high`, None where persons are too few.
    """
    references = {record.task: record for record in records if record.system == reference}
    comparisons = []
    for record in records:
        other = references.get(record.task)
        if record.system not in systems or other is None or not (record.query_values and other.query_values):
            continue
        differences = record.query_values.minus(other.query_values)
        intervals = bootstrap_means(differences.values, differences.persons, options) or {}
        entry: dict[str, Any] = dict(
            zip(("data", "data_root", "protocol", "query", "gallery"), record.task, strict=True)
        )
        entry |= {"system": record.system, "reference": reference, "metrics": {}}
        for name, values in differences.values.items():
            interval = intervals.get(name)
            entry["metrics"][name] = {
                "difference": float(np.nanmean(values)),
                "low": interval and interval.low,
                "high": interval and interval.high,
            }
        comparisons.append(entry)
    return comparisons


def interval_json(values: QueryValues, options: BootstrapOptions) -> dict[str, Any]:
    """What goes into a row as `intervals`: the bootstrap's options and, by metric, low and high; None without any."""
    found = bootstrap_means(values.values, values.persons, options)
    metrics = None if found is None else {name: [interval.low, interval.high] for name, interval in found.items()}
    return {**options.to_json(), "metrics": metrics}


def save_report(report: EvaluationReport, output_dir: Path) -> list[str]:
    """Write `results.json`, `results.md`, `cmc.png` and, where there is something to plot, `roc.png` and
    `reliability.png` into `output_dir`; existing ones are replaced. Returns the files' names.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    contents: dict[str, str | bytes] = {
        "results.json": json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n",
        "results.md": format_report(report),
    }
    figures = {"cmc.png": plot_cmc}
    if any("verification" in record.extras for record in report.results):
        figures["roc.png"] = plot_roc
    if any("calibration" in record.extras for record in report.results):
        figures["reliability.png"] = plot_reliability
    contents |= {name: figure_bytes(plot(report.results)) for name, plot in figures.items()}
    write_all_whole({output_dir / name: content for name, content in contents.items()})
    return list(contents)


def format_report(report: EvaluationReport) -> str:
    """The report in Markdown: the table, what was done beyond a plain search, and every further table there is."""
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    sections = [
        f"# Evaluation of {plain_text(report.model)}\n",
        format_table(report.results),
        "Metrics in percent; a CMC curve for each row is in `results.json`.\n",
        f"- Protocols: {_protocols_line(report.results)}\n- Options: {_options_line(report.results)}\n"
        f"- Created: {report.created}\n- Versions: {versions}\n",
        *_interval_section(report.results),
        *_comparison_section(report.comparisons),
        *_seed_section(report.seeds),
        *_threshold_section(report.results),
        *_calibration_section(report.results),
        *_picture_section(report.results),
    ]
    return "\n".join(sections)


def format_console(report: EvaluationReport) -> str:
    """What a run prints: its tables, each with a line that says what the table holds and how it was made."""
    sections = [
        format_table(report.results),
        f"Protocols: {_protocols_line(report.results)}\nOptions: {_options_line(report.results)}\n",
        *_interval_section(report.results),
        *_comparison_section(report.comparisons),
        *_seed_section(report.seeds),
        *_threshold_section(report.results),
        *_calibration_section(report.results),
    ]
    return "\n".join(section.removeprefix("## ") for section in sections)


def _protocols_line(records: Sequence[ResultRecord]) -> str:
    """Which protocol each task followed."""
    return ", ".join(dict.fromkeys(f"{r.data} {r.query}→{r.gallery}: {r.protocol}" for r in records))


def _options_line(records: Sequence[ResultRecord]) -> str:
    """What differs from a plain search, and in which rows where it is not all of them."""
    rows: dict[str, list[ResultRecord]] = {}
    for record in records:
        rows.setdefault(_options_words(record.options), []).append(record)
    if len(rows) == 1:
        return next(iter(rows)) or "none (a plain search by cosine similarity)"
    return "; ".join(f"{words or 'none'} ({_covered(own, records)})" for words, own in rows.items())


def _options_words(options: Mapping[str, Any]) -> str:
    """The options that are on, with their values; empty for a plain search."""
    active = {name: value for name, value in options.items() if value not in (False, 0, None)}
    if not options.get("itm_top_k"):
        active.pop("itm_weight", None)  # of no effect
    words = []
    for name, value in active.items():
        if isinstance(value, Mapping):
            value = "with " + ", ".join(f"{parameter} {own}" for parameter, own in value.items())
        words.append(name if value is True else f"{name} {value}")
    return ", ".join(words)


def _covered(rows: Sequence[ResultRecord], records: Sequence[ResultRecord]) -> str:
    """Which of `records` some rows are: their systems, and the tasks where these are not all of a system's."""
    parts = []
    for system in dict.fromkeys(row.system for row in rows):
        own = [f"{row.data} {row.query}→{row.gallery}" for row in rows if row.system == system]
        is_all = len(own) == sum(record.system == system for record in records)
        parts.append(plain_text(system) if is_all else f"{plain_text(system)} on {', '.join(own)}")
    return "; ".join(parts)


def format_intervals(records: Sequence[ResultRecord]) -> str:
    """A table of the metrics with their intervals, in percent; empty where no row has any."""
    rows = []
    for record in records:
        intervals = (record.extras.get("intervals") or {}).get("metrics")
        if intervals:
            metrics = record.to_json()["metrics"]
            cells = (_with_interval(metrics[name], Interval(*intervals[name])) for name in metrics)
            rows.append((*_row_name(record), *cells))
    return align_table(HEADER[: len(rows[0])], rows, NUM_TEXT_COLUMNS) if rows else ""


def format_comparisons(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """A table of differences with their intervals, in percentage points; empty where nothing was compared."""
    rows = []
    for entry in comparisons:
        cells = (
            _with_interval(m["difference"], None if m["low"] is None else Interval(m["low"], m["high"]), sign="+")
            for m in entry["metrics"].values()
        )
        name = (entry["data"], f"{entry['query']}→{entry['gallery']}", f"{entry['system']} - {entry['reference']}")
        rows.append((*name, *cells))
    return align_table(HEADER[: len(rows[0])], rows, NUM_TEXT_COLUMNS) if rows else ""


def _with_interval(value: float, interval: Interval | None, sign: str = "") -> str:
    text = f"{100 * value:{sign}.1f}"
    return text if interval is None else f"{text} [{100 * interval.low:{sign}.1f}, {100 * interval.high:{sign}.1f}]"


def _interval_section(records: Sequence[ResultRecord]) -> list[str]:
    table = format_intervals(records)
    if not table:
        return []
    options = next(record.extras["intervals"] for record in records if "intervals" in record.extras)
    note = (
        f"Percentile bootstrap intervals of {options['confidence']:.0%} confidence from {options['resamples']} "
        f"resamples of the {'persons with all their queries' if options['unit'] == 'person' else 'queries'} "
        f"(seed {options['seed']}), in percent.\n"
    )
    return ["## Intervals\n", table, note]


def _comparison_section(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    table = format_comparisons(comparisons)
    note = (
        "In percentage points. Both systems are resampled alike; an interval that holds 0 is no evidence of a "
        "difference.\n"
    )
    return ["## Differences\n", table, note] if table else []


def _seed_section(seeds: Sequence[Mapping[str, Any]]) -> list[str]:
    if not seeds:
        return []
    metrics = list(seeds[0]["metrics"])
    rows = [
        (
            summary["data"],
            f"{summary['query']}→{summary['gallery']}",
            ", ".join(summary["systems"]),
            *(str(SeedValues(tuple(100 * value for value in m["values"]))) for m in summary["metrics"].values()),
        )
        for summary in seeds
    ]
    table = align_table(("data", "query→gallery", "models", *metrics), rows, NUM_TEXT_COLUMNS)
    return ["## Over seeds\n", table, "Mean ± standard deviation (n - 1) in percent.\n"]


def _threshold_section(records: Sequence[ResultRecord]) -> list[str]:
    rows = []
    for record in records:
        if "verification" in record.extras:
            verified, searched = record.extras["verification"], record.extras["open_set"]
            rows.append(
                (
                    *_row_name(record),
                    *(f"{100 * point['tpr']:.1f}" for point in verified["operating_points"]),
                    *(f"{100 * point['fnir']:.1f}" for point in searched["operating_points"]),
                )
            )
    if not rows:
        return []
    first = next(record for record in records if "verification" in record.extras).extras
    header = (
        *HEADER[:NUM_TEXT_COLUMNS],
        *(f"TPR@FPR {point['max_fpr']:g}" for point in first["verification"]["operating_points"]),
        *(f"FNIR@FPIR {point['max_fpir']:g}" for point in first["open_set"]["operating_points"]),
    )
    note = (
        f"In percent. For FNIR, {first['open_set']['absent_share']:.0%} of the queried persons were taken out of the "
        f"gallery (seed {first['open_set']['seed']}); the figures of rank 1 are in `results.json`.\n"
    )
    return ["## By threshold\n", align_table(header, rows, NUM_TEXT_COLUMNS), note]


def _calibration_section(records: Sequence[ResultRecord]) -> list[str]:
    rows = []
    for record in records:
        if "calibration" in record.extras:
            measured = record.extras["calibration"]
            figures = [measured[kind][name] for kind in ("pairs", "first") for name in ("ece", "brier")]
            rows.append((*_row_name(record), *(f"{figure:.4f}" for figure in figures)))
    if not rows:
        return []
    header = (*HEADER[:NUM_TEXT_COLUMNS], "ECE, pairs", "Brier, pairs", "ECE, first", "Brier, first")
    note = "Of the match probabilities, over all pairs and over the first answer of each query.\n"
    return ["## Calibration\n", align_table(header, rows, NUM_TEXT_COLUMNS), note]


def _picture_section(records: Sequence[ResultRecord]) -> list[str]:
    pictures = [name for record in records for name in record.extras.get("ranked_lists", [])]
    return ["## Ranked lists\n", *(f"![{name}]({name})\n" for name in pictures)] if pictures else []


def _row_name(record: ResultRecord) -> tuple[str, str, str]:
    return record.data, f"{record.query}→{record.gallery}", record.system


def _table_row(record: ResultRecord) -> tuple[str, ...]:
    metrics = record.metrics
    fractions = (metrics.mAP, metrics.mINP, *(metrics.rank(k) for k in REPORTED_RANKS))
    queries = f"{metrics.num_valid_queries}"
    if metrics.num_valid_queries < metrics.num_queries:
        queries += f"/{metrics.num_queries}"
    return (
        *_row_name(record),
        *(f"{100 * fraction:.1f}" for fraction in fractions),
        queries,
        f"{metrics.num_gallery}",
    )


def _aligned(cells: Sequence[str], widths: Sequence[int], num_text_columns: int) -> str:
    padded = [
        cell.ljust(width) if column < num_text_columns else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"
