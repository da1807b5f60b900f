"""Means and standard deviations over seeds beside the paper's figures, in Markdown and JSON.

    result = collect_table(TABLES[1], measured, seeds=(1, 2, 3))
    print(format_tables([result]))

A cell reads `27.1 ± 1.2 (paper 26.7)`: mean and sample standard deviation (divisor n - 1) in percent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmet.ablate.experiments import METRICS, Table, TableRow
from mmet.data import get_spec
from mmet.evaluation.metrics.seed_values import SeedValues
from mmet.markdown_table import align_table
from mmet.whole_files import write_whole

Measured = Mapping[tuple[str, int], Mapping[str, Mapping[str, float]]]
"""Fractions by (title of the row, seed), dataset and metric."""


@dataclass(frozen=True)
class Cell(SeedValues):
    """Measured values in percent, one per seed in the order of the seeds, and the paper's value."""

    paper: float | None = None

    def __str__(self) -> str:
        return super().__str__() + (f" (paper {self.paper:.1f})" if self.paper is not None else "")

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "paper": self.paper}


@dataclass(frozen=True)
class TableResult:
    """A measured table: cells by title of the row, dataset and metric; `notes` say what is missing and why."""

    table: Table
    cells: Mapping[str, Mapping[str, Mapping[str, Cell]]]
    seeds: tuple[int, ...]
    notes: Sequence[str] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `tables.json`."""
        rows = [
            {
                "title": row.title,
                "query": row.query,
                "gallery": row.gallery,
                "results": {
                    name: {metric: cell.to_json() for metric, cell in cells.items()}
                    for name, cells in self.cells[row.title].items()
                },
            }
            for row in self.table.rows
        ]
        return {
            "table": self.table.number,
            "title": self.table.title,
            "seeds": list(self.seeds),
            "rows": rows,
            "notes": list(self.notes),
        }


def collect_table(table: Table, measured: Measured, seeds: Sequence[int], notes: Sequence[str] = ()) -> TableResult:
    """Fill the cells of a table; cells without a measurement stay empty."""
    cells = {
        row.title: {
            name: {metric: _cell(row, name, metric, measured, seeds) for metric in table.metrics}
            for name in table.datasets
        }
        for row in table.rows
    }
    return TableResult(table, cells, tuple(seeds), (*notes, *_incomplete(cells, len(seeds))))


def _incomplete(cells: Mapping[str, Mapping[str, Mapping[str, Cell]]], num_seeds: int) -> list[str]:
    """Write a note for every row that was measured with only some of the seeds."""
    notes = []
    for title, by_dataset in cells.items():
        counts = {len(cell.values) for by_metric in by_dataset.values() for cell in by_metric.values()} - {0}
        if counts and counts != {num_seeds}:
            notes.append(f"{title}: {' or '.join(map(str, sorted(counts)))} of {num_seeds} seeds so far")
    return notes


def format_table(result: TableResult) -> str:
    """Format a table in Markdown: heading, rows, notes."""
    table = result.table
    columns = [(name, metric) for name in table.datasets for metric in table.metrics]
    header = ["", *(f"{get_spec(name).title} {METRICS[metric]}" for name, metric in columns)]
    rows = [
        [row.title, *(str(result.cells[row.title][name][metric]) for name, metric in columns)] for row in table.rows
    ]
    notes = "".join(f"\n- {note}" for note in result.notes)
    return f"## Table {table.number}: {table.title}\n\n{align_table(header, rows, 1)}" + (notes and f"{notes}\n")


def format_tables(results: Sequence[TableResult], *, about: Sequence[str] = ()) -> str:
    """Format all tables in Markdown, after the lines `about`, which say how they were measured."""
    lines = "".join(f"{line}\n\n" for line in about)
    return f"# Ablations\n\n{lines}" + "\n".join(format_table(result) for result in results)


def save_tables(
    results: Sequence[TableResult], folder: Path, *, about: Sequence[str], facts: Mapping[str, Any]
) -> list[Path]:
    """Write `tables.md` and `tables.json`, each atomically, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    markdown, content = folder / "tables.md", folder / "tables.json"
    write_whole(markdown, format_tables(results, about=about))
    plain = {**facts, "tables": [result.to_json() for result in results]}
    write_whole(content, json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
    return [markdown, content]


def _cell(row: TableRow, name: str, metric: str, measured: Measured, seeds: Sequence[int]) -> Cell:
    results = [measured.get((row.title, seed), {}).get(name) for seed in seeds]
    values = tuple(100 * metrics[metric] for metrics in results if metrics is not None)
    return Cell(values, row.paper.get(name, {}).get(metric))
