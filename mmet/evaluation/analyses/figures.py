"""The pictures of an evaluation: CMC and ROC curves, reliability diagrams, ranked lists.

figure = plot_cmc(records)
save_figure(figure, Path("outputs/eval/cmc.png"))
"""

from __future__ import annotations

import io
import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from mmet.data.schema import NAME_COLUMNS, NO_CAMERA
from mmet.evaluation.protocols import Items
from mmet.evaluation.search import SearchResult
from mmet.whole_files import write_whole
from processing_mmet import read_rgb

if TYPE_CHECKING:  # results are saved with these figures
    from mmet.evaluation.results import ResultRecord

DPI = 150
RARE = 10
RANK_TICKS = (1, 5, 10, 20, 30, 40, 50, 100, 200, 500, 1000)
MATCH_COLOR, WRONG_COLOR, MUTED = "#1a7f37", "#c62828", "#59636e"
LIST_CELL = (1.0, 2.0)
"""Width and height of a picture in a ranked list, in inches."""


def plot_cmc(records: Sequence[ResultRecord]) -> Figure:
    """CMC curves, a panel for each data set and query kind, a line for each system."""

    longest = max((len(record.metrics.cmc) for record in records), default=1)

    def draw(ax: Axes, record: ResultRecord, color: str) -> None:
        cmc = record.metrics.cmc
        label = f"{line_label(record.system)} ({record.metrics.rank(1):.1%})"
        ax.plot(range(1, len(cmc) + 1), cmc, label=label, color=color, linewidth=1.8)

    def finish(ax: Axes) -> None:
        ax.set_xlabel("rank")
        ax.set_ylabel("queries with a true match")
        ax.set_xlim(1, None)
        ax.set_xticks([rank for rank in RANK_TICKS if rank <= longest] or [1])
        _legend_beside(ax, "system (Rank-1)")

    return _panels(records, draw, finish)


def plot_roc(records: Sequence[ResultRecord]) -> Figure:
    """ROC curves of one-to-one verification for the records that have them, false positive rates on a log scale."""

    def draw(ax: Axes, record: ResultRecord, color: str) -> None:
        curve = record.extras["verification"]["roc"]
        rates = [point["fpr"] for point in curve], [point["tpr"] for point in curve]
        ax.plot(*rates, label=line_label(record.system), color=color, linewidth=1.8)

    def finish(ax: Axes) -> None:
        ax.set_xscale("log")
        ax.set_xlabel("false positive rate")
        ax.set_ylabel("true positive rate")
        _legend_beside(ax, "system")

    return _panels([record for record in records if "verification" in record.extras], draw, finish)


def plot_reliability(records: Sequence[ResultRecord]) -> Figure:
    """Reliability diagrams of the records that have them: how often what was given a probability came true.

    Markers of bins with fewer than `RARE` predictions are hollow.
    """
    names = {"pairs": "all pairs", "first": "first answers"}

    def draw(ax: Axes, record: ResultRecord, color: str) -> None:
        ax.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle="--")
        for (kind, title), line, marker in zip(names.items(), ("C0", "C1"), "os", strict=True):
            measured = record.extras["calibration"][kind]
            predicted = [entry["predicted"] for entry in measured["bins"]]
            observed = [entry["observed"] for entry in measured["bins"]]
            label = f"{title}: ECE {measured['ece']:.3f}, Brier {measured['brier']:.3f}"
            ax.plot(predicted, observed, color=line, marker=marker, markersize=4, linewidth=1.4, label=label)
            rare = [place for place, entry in enumerate(measured["bins"]) if entry["count"] < RARE]
            hollow = [predicted[place] for place in rare], [observed[place] for place in rare]
            ax.plot(*hollow, marker, color=line, markersize=4, markerfacecolor="white", zorder=3)

    def finish(ax: Axes) -> None:
        ax.set_xlabel("predicted probability of a match")
        ax.set_ylabel("share that are matches")
        ax.set_xlim(-0.02, 1.02)  # markers at 0 and 1 are whole
        ax.set_ylim(-0.02, 1.02)
        ax.xaxis.set_major_formatter(PercentFormatter(xmax=1))
        ax.legend(fontsize=7, framealpha=0.8, edgecolor="none", loc="upper left")

    return _panels([record for record in records if "calibration" in record.extras], draw, finish)


@dataclass(frozen=True, eq=False)
class ListEntry:
    """One cell of a ranked list: a picture, a sentence or both; `is_match` is None for the query itself.

    `camera_name` is the word for the camera, empty where it has none.
    """

    image: Image.Image | None
    caption: str | None
    camera_id: int
    score: float | None = None
    is_match: bool | None = None
    camera_name: str = ""


def list_rows(result: SearchResult, queries: Sequence[int], count: int) -> list[list[ListEntry]]:
    """For each of some queries, the query and the first `count` entries of its ranking."""
    rows = []
    for query in queries:
        entries = [_entry(result.task.query, query)]
        for position, score, is_match in result.first_entries(query, count):
            entries.append(_entry(result.task.gallery, position, score, is_match))
        rows.append(entries)
    return rows


def plot_ranked_lists(rows: Sequence[Sequence[ListEntry]], labels: Sequence[str], title: str) -> Figure:
    """Ranked lists, one a row: the query, then its candidates, framed green and ticked, or red and crossed.

    Args:
        rows: of `list_rows`.
        labels: a line about each query.
        title: above all.
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
                ax.set_title(line_label(label), fontsize=8, loc="left", color=MUTED, pad=5, parse_math=False)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all. Raises `OSError`."""
    write_whole(path, figure_bytes(figure))


def figure_bytes(figure: Figure) -> bytes:
    """The content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def line_label(name: str) -> str:
    """A name that a figure can show: in characters that fonts can draw, and not hidden by a leading underscore."""
    text = "".join("\ufffd" if unicodedata.category(character) in ("Cc", "Cs") else character for character in name)
    return f" {text}" if text.startswith("_") else text


def _panels(
    records: Sequence[ResultRecord],
    draw: Callable[[Axes, ResultRecord, str], None],
    finish: Callable[[Axes], None],
) -> Figure:
    """A panel for each data set and query kind; `draw` adds a system in its colour, `finish` labels the panel."""
    panels: dict[tuple[str, str, str], list[ResultRecord]] = {}
    for record in records:
        panels.setdefault((record.data, record.data_root, f"{record.query}→{record.gallery}"), []).append(record)
    systems = list(dict.fromkeys(record.system for record in records))
    colors = {system: f"C{index}" for index, system in enumerate(systems)}  # one system, one colour, in all panels
    columns = max(1, min(len(panels), 3))
    rows = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(5.2 * columns, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, ((data, _, kind), curves) in zip(axes, panels.items(), strict=False):
        for record in curves:
            draw(ax, record, colors[record.system])
        _style_panel(ax, f"{data}, {kind}")
        finish(ax)
    for ax in axes[len(panels) :]:
        ax.remove()
    return figure


def _legend_beside(ax: Axes, title: str) -> None:
    """A legend to the right of the panel, where it hides no curve."""
    style = {"fontsize": 8, "title_fontsize": 8, "frameon": False, "alignment": "left"}
    handles, labels = ax.get_legend_handles_labels()
    legend = ax.legend(handles, labels, title=title, loc="upper left", bbox_to_anchor=(1.0, 1.0), **style)
    for text in legend.get_texts():
        text.set_parse_math(False)  # names are no mathematics, whatever dollars they hold


def _style_panel(ax: Axes, title: str) -> None:
    ax.set_title(line_label(title), fontsize=10, parse_math=False)
    ax.set_ylim(0, 1.02)
    ax.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def _entry(items: Items, position: int, score: float | None = None, is_match: bool | None = None) -> ListEntry:
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
    """What an item's person (`person_id`) or camera (`camera_id`) is called: a word, where it has one, or a number."""
    names = [name for name in (NAME_COLUMNS[column], column) if name in items.dataset.column_names]
    row = items.dataset.select_columns(names)[int(items.image_index[position])]
    return str(next(value for value in map(row.get, names) if value is not None))


def _draw_entry(ax: Axes, entry: ListEntry, place: int) -> None:
    """The query, or the candidate of rank `place`."""
    width, height = LIST_CELL
    color = MUTED if entry.is_match is None else MATCH_COLOR if entry.is_match else WRONG_COLOR
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
