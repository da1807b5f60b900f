"""Draw ranked lists: a query and the first entries of its ranking.

    rows = list_rows(result, queries=[0, 7], count=10)
    figure = plot_ranked_lists(rows, labels=["first", "eighth"], title="market1501, image→image")

`RankedLists` draws the lists of the best, the worst and some random queries of a run.
"""

from __future__ import annotations

import logging
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from mmet.data.schema import NAME_COLUMNS, NO_CAMERA
from mmet.evaluation.analyses.base import Analysis, having
from mmet.evaluation.analyses.panels import figure_bytes, line_label
from mmet.evaluation.protocols import Items
from mmet.evaluation.record import EvaluationReport, ResultRecord
from mmet.evaluation.task_result import TaskResult
from mmet.figure_style import LIGHT, drawn_in
from mmet.whole_files import write_whole
from pictures_mmet import read_rgb

logger = logging.getLogger(__name__)

RANKED_LISTS = "ranked_lists"
"""Name of the values in a row: the pictures' files."""

LIST_CELL = (1.0, 2.0)
"""Width and height of a picture in a ranked list, in inches."""


@dataclass(frozen=True)
class RankedLists(Analysis):
    """Pictures of the ranked lists of the best, the worst and some random queries by average precision.

    Attributes:
        output_dir: folder of the pictures.
        system: name of the system whose lists are drawn.
        count: number of queries in each picture.
        seed: random seed of the random queries.
        length: number of candidates of a query.
    """

    output_dir: Path
    system: str
    count: int
    seed: int
    length: int = 10
    _drawn: set[str] = field(default_factory=set, repr=False)
    is_printed = False

    def compute(self, result: TaskResult, record: ResultRecord) -> dict[str, Any]:
        if record.system != self.system or self.count == 0:
            return {}
        if result.metrics.per_query is None:
            logger.warning("%s: no ranked lists with %s, which draws its galleries", record.data, record.protocol)
            return {}
        self.output_dir.mkdir(parents=True, exist_ok=True)
        precisions = result.metrics.per_query.ap
        place = re.sub(r"[^-.@\w]+", "_", record.data)  # data sets may be named by paths
        names = []
        for name, queries in choose_queries(precisions, self.count, self.seed).items():
            labels = [self._label(result, query, precisions[query]) for query in queries]
            chosen = "random queries" if name == "random" else f"{name} queries by average precision"
            title = f"{record.data}, {record.kind}: {chosen}"
            figure = plot_ranked_lists(list_rows(result, queries, self.length), labels, title)
            names.append(self._unused(f"ranked_{place}_{record.query}-to-{record.gallery}_{record.protocol}_{name}"))
            write_whole(self.output_dir / names[-1], figure_bytes(figure))
        return {RANKED_LISTS: names}

    def section(self, report: EvaluationReport) -> str:
        names = [name for pictures in having(report.results, RANKED_LISTS).values() for name in pictures]
        return "\n".join(["## Ranked lists\n", *(f"![{name}]({name})\n" for name in names)]) if names else ""

    def _unused(self, stem: str) -> str:
        """A file name that is unused in this run: two folders may hold data sets of the same name."""
        name, number = f"{stem}.png", 2
        while name in self._drawn:
            name, number = f"{stem}_{number}.png", number + 1
        self._drawn.add(name)
        return name

    @staticmethod
    def _label(result: TaskResult, query: int, precision: float) -> str:
        num_matches = result.task.matches().of_query(query).size
        person = name_of(result.task.query, query, "person_id")
        return f"person {person} · AP {100 * precision:.1f} % · {num_matches} matches"


def choose_queries(precisions: NDArray[np.float64], count: int, seed: int) -> dict[str, list[int]]:
    """Choose `best`, `worst` and `random` queries, up to `count` each, among those with a true match.

    For equal precisions, the earlier query comes first.

    Args:
        precisions: `(Q,)`, average precision of each query; NaN without a true match.
        count: number of queries of each kind.
        seed: random seed of the random queries.
    """
    valid = np.flatnonzero(~np.isnan(precisions))
    ascending = valid[np.argsort(precisions[valid], kind="stable")]
    descending = valid[np.argsort(-precisions[valid], kind="stable")]
    drawn = np.sort(np.random.default_rng(seed).permutation(valid)[:count])
    return {"best": descending[:count].tolist(), "worst": ascending[:count].tolist(), "random": drawn.tolist()}


@dataclass(frozen=True, eq=False)
class ListEntry:
    """One cell of a ranked list: a picture, a sentence or both.

    `is_match` is None for the query itself. `camera_name` is the name of the camera, empty if it has only a number.
    """

    image: Image.Image | None
    caption: str | None
    camera_id: int
    score: float | None = None
    is_match: bool | None = None
    camera_name: str = ""


def list_rows(result: TaskResult, queries: Sequence[int], count: int) -> list[list[ListEntry]]:
    """List the query and the first `count` entries of its ranking, for each of the queries."""
    rows = []
    for query in queries:
        entries = [list_entry(result.task.query, query)]
        for position, score, is_match in result.first_entries(query, count):
            entries.append(list_entry(result.task.gallery, position, score, is_match))
        rows.append(entries)
    return rows


@drawn_in(LIGHT)
def plot_ranked_lists(rows: Sequence[Sequence[ListEntry]], labels: Sequence[str], title: str) -> Figure:
    """Draw ranked lists, one per row: the query, then its candidates, framed and marked as matches or mismatches.

    Args:
        rows: result of `list_rows`.
        labels: a line about each query.
        title: title of the picture.
    """
    columns = max(len(row) for row in rows)
    width, height = LIST_CELL
    figure = Figure(figsize=(width * (columns + 0.35) + 0.2, (height + 0.75) * len(rows) + 0.5))
    FigureCanvasAgg(figure)
    figure.suptitle(
        line_label(title),
        parse_math=False,
        fontsize=11,
        x=0.012,
        y=1 - 0.12 / figure.get_figheight(),
        ha="left",
        va="top",
    )
    grid = figure.add_gridspec(
        len(rows),
        columns + 1,
        width_ratios=[1, 0.2, *[1] * (columns - 1)],  # a gap after the query
        left=0.012,
        right=0.988,
        top=1 - 0.85 / figure.get_figheight(),
        bottom=0.32 / figure.get_figheight(),
        hspace=0.42,
        wspace=0.12,
    )
    for number, (row, label) in enumerate(zip(rows, labels, strict=True)):
        for place, entry in enumerate(row):
            ax = figure.add_subplot(grid[number, place + (place > 0)])
            _draw_entry(ax, entry, place)
            if place == 0:
                ax.set_title(line_label(label), fontsize=8, loc="left", color=LIGHT.muted, pad=5, parse_math=False)
    return figure


def list_entry(items: Items, position: int, score: float | None = None, is_match: bool | None = None) -> ListEntry:
    """Make the cell of an item, with its picture decoded."""
    columns = ["camera_id"] + ["image"] * (items.modality != "text") + ["captions"] * (items.modality != "image")
    row: Mapping[str, Any] = items.dataset.select_columns(columns)[int(items.image_index[position])]
    return ListEntry(
        image=Image.fromarray(read_rgb(row["image"])) if "image" in row else None,
        caption=row["captions"][int(items.caption_index[position])] if "captions" in row else None,
        camera_id=int(row["camera_id"]),
        score=score,
        is_match=is_match,
        camera_name=name_of(items, position, "camera_id") if "camera_name" in items.dataset.column_names else "",
    )


def name_of(items: Items, position: int, column: str) -> str:
    """The name of an item's person (`person_id`) or camera (`camera_id`), or its number if it has no name."""
    names = [name for name in (NAME_COLUMNS[column], column) if name in items.dataset.column_names]
    row = items.dataset.select_columns(names)[int(items.image_index[position])]
    return str(next(value for value in map(row.get, names) if value is not None))


def _draw_entry(ax: Axes, entry: ListEntry, place: int) -> None:
    """Draw the query (`place` 0) or the candidate of rank `place`."""
    width, height = LIST_CELL
    color = LIGHT.muted if entry.is_match is None else LIGHT.match if entry.is_match else LIGHT.mismatch
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color(color)
        spine.set_linewidth(1.0 if entry.is_match is None else 2.4)
    if entry.image is not None:
        ax.imshow(np.asarray(entry.image), extent=(0, width, 0, height), aspect="auto")
    ax.set_xlim(0, width)
    ax.set_ylim(0, height)
    if entry.caption is not None:
        _draw_caption(ax, entry.caption, over_picture=entry.image is not None)
    if entry.is_match is not None:
        mark = "✓" if entry.is_match else "✗"
        style = {"boxstyle": "round,pad=0.15", "facecolor": color, "edgecolor": "none"}
        ax.text(0.04, 0.97, f"{place} {mark}", transform=ax.transAxes, va="top", fontsize=7, color="white", bbox=style)
    parts = [] if entry.camera_id == NO_CAMERA else [entry.camera_name or f"cam {entry.camera_id}"]
    parts += [] if entry.score is None else [f"{entry.score:.3f}"]
    ax.set_xlabel("query" if entry.is_match is None and not parts else " · ".join(parts), fontsize=7, labelpad=2)


def _draw_caption(ax: Axes, caption: str, *, over_picture: bool) -> None:
    lines = textwrap.wrap(line_label(caption), 18, max_lines=3 if over_picture else 11, placeholder=" …")
    box = {"boxstyle": "square,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    ax.text(
        0.5,
        0.03 if over_picture else 0.5,
        "\n".join(lines),
        parse_math=False,
        transform=ax.transAxes,
        ha="center",
        va="bottom" if over_picture else "center",
        fontsize=5 if over_picture else 6,
        bbox=box if over_picture else None,
    )
