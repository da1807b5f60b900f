"""What an evaluation leaves behind: `results.json`, `results.md` and `cmc.png`, each written whole or not at all.

report = EvaluationReport.now(model="outputs/run", results=records)
save_report(report, Path("outputs/eval"))
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mmet.evaluation.protocols import Modality
from mmet.evaluation.ranking import RankMetrics

REPORTED_RANKS = (1, 5, 10)
HEADER = ("data", "query→gallery", "system", "mAP", "mINP", "Rank-1", "Rank-5", "Rank-10", "queries", "gallery")
NUM_TEXT_COLUMNS = 3


@dataclass(frozen=True, eq=False)
class ResultRecord:
    """One row: one system on one task. `data_root` is the folder the data was read from."""

    data: str
    data_root: str
    protocol: str
    query: Modality
    gallery: Modality
    system: str
    metrics: RankMetrics

    def to_json(self) -> dict[str, Any]:
        """The record as plain values; metrics are fractions in [0, 1]."""
        metrics = self.metrics
        return {
            "data": self.data,
            "data_root": self.data_root,
            "protocol": self.protocol,
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
        }


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """All results of one run and what they were made with; `created` is UTC in ISO 8601."""

    model: str
    created: str
    versions: dict[str, str]
    results: Sequence[ResultRecord]

    @classmethod
    def now(cls, model: str, results: Sequence[ResultRecord]) -> EvaluationReport:
        """A report made at this moment with the installed versions."""
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(model, created, installed_versions(), results)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values, the content of `results.json`."""
        return {
            "model": self.model,
            "created": self.created,
            "versions": self.versions,
            "results": [record.to_json() for record in self.results],
        }


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
    rows = [HEADER, *(_table_row(record) for record in records)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    rules = tuple(
        "-" * width if column < NUM_TEXT_COLUMNS else "-" * (width - 1) + ":" for column, width in enumerate(widths)
    )
    return "\n".join(_aligned(row, widths) for row in (rows[0], rules, *rows[1:])) + "\n"


def save_report(report: EvaluationReport, output_dir: Path) -> None:
    """Write `results.json`, `results.md` and `cmc.png` into `output_dir`; existing ones are replaced."""
    output_dir.mkdir(parents=True, exist_ok=True)
    content = json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n"
    _write_whole(output_dir / "results.json", lambda path: path.write_text(content, encoding="utf-8"))
    _write_whole(output_dir / "results.md", lambda path: path.write_text(_markdown(report), encoding="utf-8"))
    figure = plot_cmc(report.results)
    _write_whole(output_dir / "cmc.png", lambda path: figure.savefig(path, format="png", dpi=150))


def plot_cmc(records: Sequence[ResultRecord]) -> Figure:
    """CMC curves, a panel for each data set and query kind, a line for each system."""
    panels: dict[tuple[str, str, str], list[ResultRecord]] = {}
    for record in records:
        panels.setdefault((record.data, record.data_root, f"{record.query}→{record.gallery}"), []).append(record)
    systems = list(dict.fromkeys(record.system for record in records))
    colors = {system: f"C{index}" for index, system in enumerate(systems)}  # one system, one colour, in all panels
    columns = max(1, min(len(panels), 3))
    rows = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, ((data, _, kind), curves) in zip(axes, panels.items(), strict=False):
        _draw_panel(ax, f"{data}, {kind}", curves, colors)
    for ax in axes[len(panels) :]:
        ax.remove()
    return figure


def _draw_panel(ax: Axes, title: str, records: Sequence[ResultRecord], colors: dict[str, str]) -> None:
    for record in records:
        cmc = record.metrics.cmc
        label = f"{record.system} ({record.metrics.rank(1):.1%})"
        ax.plot(range(1, len(cmc) + 1), cmc, label=label, color=colors[record.system], linewidth=1.8)
    ax.set_title(title, fontsize=10)
    ax.set_xlabel("rank")
    ax.set_ylabel("queries with a true match")
    ax.set_xlim(1, None)
    ax.set_ylim(0, 1.02)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(title="system (Rank-1)", fontsize=8, title_fontsize=8, frameon=False)


def _table_row(record: ResultRecord) -> tuple[str, ...]:
    metrics = record.metrics
    fractions = (metrics.mAP, metrics.mINP, *(metrics.rank(k) for k in REPORTED_RANKS))
    queries = f"{metrics.num_valid_queries}"
    if metrics.num_valid_queries < metrics.num_queries:
        queries += f"/{metrics.num_queries}"
    return (
        record.data,
        f"{record.query}→{record.gallery}",
        record.system,
        *(f"{100 * fraction:.1f}" for fraction in fractions),
        queries,
        f"{metrics.num_gallery}",
    )


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if column < NUM_TEXT_COLUMNS else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def _markdown(report: EvaluationReport) -> str:
    protocols = ", ".join(dict.fromkeys(f"{r.data} {r.query}→{r.gallery}: {r.protocol}" for r in report.results))
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    return (
        f"# Evaluation of {report.model}\n\n"
        f"{format_table(report.results)}\n"
        "Metrics in percent; a CMC curve for each row is in `results.json`.\n\n"
        f"- Protocols: {protocols}\n- Created: {report.created}\n- Versions: {versions}\n"
    )


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary neighbour of `path`, then rename it, so that readers never see half a file."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
