"""Write the output of an evaluation: `results.json`, `results.md` and figures, each completely or not at all.

    report = EvaluationReport.now("outputs/run", records, summaries=summarize(records, analyses))
    save_report(report, Path("outputs/eval"), analyses)

All tables and figures but the main table come from the analyses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmet.evaluation.analyses.base import METRIC_HEADER, ROW_HEADER, Analysis, percent, row_cells
from mmet.evaluation.analyses.panels import figure_bytes
from mmet.evaluation.record import EvaluationReport, ResultRecord
from mmet.markdown_table import align_table, plain_text
from mmet.whole_files import write_all_whole


def save_report(report: EvaluationReport, output_dir: Path, analyses: Sequence[Analysis]) -> list[str]:
    """Write `results.json`, `results.md` and the analyses' figures into `output_dir`, in place of existing ones.

    Returns:
        The files' names.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    contents: dict[str, str | bytes] = {
        "results.json": json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n",
        "results.md": format_report(report, analyses),
    }
    for analysis in analyses:
        contents |= {name: figure_bytes(figure) for name, figure in analysis.figures(report.results).items()}
    write_all_whole({output_dir / name: content for name, content in contents.items()})
    return list(contents)


def format_report(report: EvaluationReport, analyses: Sequence[Analysis]) -> str:
    """The report in Markdown: the main table, the options beyond a plain search, and the tables of the analyses."""
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    return "\n".join(
        [
            f"# Evaluation of {plain_text(report.model)}\n",
            format_table(report.results),
            "Metrics in percent; a CMC curve for each row is in `results.json`.\n",
            f"- Protocols: {_protocols_line(report.results)}\n- Options: {_options_line(report.results)}\n"
            f"- Created: {report.created}\n- Versions: {versions}\n",
            *filter(None, (analysis.section(report) for analysis in analyses)),
        ]
    )


def format_console(report: EvaluationReport, analyses: Sequence[Analysis]) -> str:
    """The text that a run prints: its tables, each with a line on its content and how it was made."""
    sections = [analysis.section(report).removeprefix("## ") for analysis in analyses if analysis.is_printed]
    made = f"Protocols: {_protocols_line(report.results)}\nOptions: {_options_line(report.results)}\n"
    return "\n".join([format_table(report.results), made, *filter(None, sections)])


def format_table(records: Sequence[ResultRecord]) -> str:
    """The results as a Markdown table with aligned columns, for the console too; metrics in percent.

    `queries` counts those with a true match; if some have none, it shows `valid/all`.
    """
    header = (*ROW_HEADER, *METRIC_HEADER, "queries", "gallery")
    return align_table(header, [_table_row(record) for record in records], len(ROW_HEADER))


def _table_row(record: ResultRecord) -> tuple[str, ...]:
    metrics = record.metrics
    queries = f"{metrics.num_valid_queries}"
    if metrics.num_valid_queries < metrics.num_queries:
        queries += f"/{metrics.num_queries}"
    return (*row_cells(record), *map(percent, metrics.headline().values()), queries, f"{metrics.num_gallery}")


def _protocols_line(records: Sequence[ResultRecord]) -> str:
    """The protocol of each task."""
    return ", ".join(dict.fromkeys(f"{record.data} {record.kind}: {record.protocol}" for record in records))


def _options_line(records: Sequence[ResultRecord]) -> str:
    """The options beyond a plain search, and the rows with them if these are not all."""
    by_words: dict[str, list[ResultRecord]] = {}
    for record in records:
        by_words.setdefault(_options_words(record.options), []).append(record)
    if len(by_words) == 1:
        return next(iter(by_words)) or "none (a plain search by cosine similarity)"
    return "; ".join(f"{words or 'none'} ({_covered(rows, records)})" for words, rows in by_words.items())


def _options_words(options: Mapping[str, Any]) -> str:
    """The options that are on, with their values; empty for a plain search."""
    active = {name: value for name, value in options.items() if value not in (False, 0, None)}
    if not options.get("itm_top_k"):
        active.pop("itm_weight", None)  # of no effect
    words = []
    for name, value in active.items():
        if isinstance(value, Mapping):
            value = "with " + ", ".join(f"{parameter} {setting}" for parameter, setting in value.items())
        words.append(name if value is True else f"{name} {value}")
    return ", ".join(words)


def _covered(rows: Sequence[ResultRecord], records: Sequence[ResultRecord]) -> str:
    """Describe a subset of `records`: its systems, and the tasks if these are not all of a system's."""
    parts = []
    for system in dict.fromkeys(row.system for row in rows):
        tasks = [f"{row.data} {row.kind}" for row in rows if row.system == system]
        is_all = len(tasks) == sum(record.system == system for record in records)
        parts.append(plain_text(system) if is_all else f"{plain_text(system)} on {', '.join(tasks)}")
    return "; ".join(parts)
