"""Draw figures of an evaluation: a panel of curves for each data set and pair of modalities.

figure = draw_panels(records, draw, finish)
figure_bytes(figure)
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mmet.evaluation.record import ResultRecord
from mmet.figure_style import LIGHT, drawn_in, line_style

DPI = 150


def draw_panels(
    records: Sequence[ResultRecord],
    draw: Callable[[Axes, ResultRecord, dict[str, Any]], None],
    finish: Callable[[Axes], None],
) -> Figure:
    """Draw a panel for each data set and pair of modalities.

    Args:
        records: the rows to draw.
        draw: function that adds a row to a panel, in the style of its system.
        finish: function that labels a panel.
    """
    panels: dict[tuple[str, str, str], list[ResultRecord]] = {}
    for record in records:
        panels.setdefault((record.data, record.data_root, record.kind), []).append(record)
    systems = list(dict.fromkeys(record.system for record in records))
    styles = {system: line_style(index) for index, system in enumerate(systems)}  # the same in all panels
    columns = max(1, min(len(panels), 3))
    rows = max(1, -(-len(panels) // columns))
    with drawn_in(LIGHT):
        figure = Figure(figsize=(5.2 * columns, 3.4 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, ((data, _, kind), curves) in zip(axes, panels.items(), strict=False):
            for record in curves:
                draw(ax, record, styles[record.system])
            _style_panel(ax, f"{data}, {kind}")
            finish(ax)
    for ax in axes[len(panels) :]:
        ax.remove()
    return figure


def legend_beside(ax: Axes, title: str) -> None:
    """Add a legend to the right of the panel, where it hides no curve."""
    handles, labels = ax.get_legend_handles_labels()
    legend = ax.legend(
        handles,
        labels,
        title=title,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        fontsize=8,
        title_fontsize=8,
        frameon=False,
        alignment="left",
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # `$` in a name does not start mathematics


def _style_panel(ax: Axes, title: str) -> None:
    ax.set_title(line_label(title), fontsize=10.5, fontweight="bold", loc="left", parse_math=False)
    ax.set_ylim(0, 1.02)
    ax.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    ax.grid(visible=True)
    ax.spines[["top", "right"]].set_visible(False)


def figure_bytes(figure: Figure) -> bytes:
    """Encode a figure as PNG."""
    buffer = io.BytesIO()
    with drawn_in(LIGHT):  # also here, because ticks are created while drawing
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def line_label(name: str) -> str:
    """Make a name drawable: replace characters that no font has, and protect a leading underscore, which hides it."""
    text = "".join("\ufffd" if unicodedata.category(character) in ("Cc", "Cs") else character for character in name)
    return f" {text}" if text.startswith("_") else text
