"""The report's charts: loss curves, CMC curves and mAP bars, as PNG bytes.

    png = loss_panel(history.losses[0], uniform_guess=None, theme=LIGHT)
    Path("losses.png").write_bytes(losses_figure(history, uniform_guesses={}, theme=LIGHT))

Functions that end in `_panel` draw one small chart on a transparent background, for the page; those that end in
`_figure` draw a complete picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from mmet.evaluation.analyses.panels import line_label
from mmet.figure_style import Theme, font_families
from mmet.report.drawing import Drawing
from mmet.report.results_file import SystemResult, TaskComparison
from mmet.report.training_history import LossSeries, TrainingHistory

LOSS_LABELS = {
    "total": ("total", "weighted sum of the losses of a batch"),
    "mim": ("MIM", "masked patches, from the image alone"),
    "mlm": ("MLM", "masked words, from the sentence alone"),
    "mmm_image": ("MMM, image", "masked patches, from image and sentence"),
    "mmm_text": ("MMM, text", "masked words, from image and sentence"),
    "itm": ("ITM", "does the sentence belong to the image?"),
    "global_contrastive": ("GC", "image and sentence of a person together"),
    "identity": ("ID", "which training person is it?"),
    "triplet": ("triplet", "same person nearer than any other"),
}
"""For each loss its name in the paper (the subscript of L), and what it asks."""

MODALITY_LABELS = {"image": "image", "text": "sentence", "both": "both"}

LINE_STYLES = {"chance": ":", "histogram": "-.", "untrained": "--"}


def smooth(values: ArrayLike, sigma: float | None = None) -> NDArray[np.float64]:
    """Compute the Gaussian-weighted mean of each value's neighbours `(n,)`; windows are cut at the ends.

    The window is symmetric: a running average lags behind, and would lie above every falling loss.

    Args:
        values: `(n,)`.
        sigma: standard deviation of the window, in numbers of values; None for a thirtieth of n, at least 1.
    """
    values = np.asarray(values, dtype=np.float64)
    sigma = max(1.0, len(values) / 30) if sigma is None else sigma
    radius = int(np.ceil(3 * sigma))
    window = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    total, norm = (np.convolve(row, window)[radius : radius + len(values)] for row in (values, np.ones_like(values)))
    return total / norm


def draw_losses(ax: Axes, losses: LossSeries, uniform_guess: float | None, theme: Theme) -> None:
    """Draw logged values as faint dots, their local mean as a line, and the loss of a uniform guess dotted."""
    ax.plot(losses.steps, losses.values, "o", color=theme.accent, markersize=2.2, alpha=0.3, markeredgewidth=0)
    ax.plot(losses.steps, smooth(losses.values), color=theme.accent, linewidth=1.6)
    if uniform_guess is not None:
        ax.axhline(uniform_guess, color=theme.muted, linewidth=1, linestyle=(0, (1, 2)))
    highest = max(float(losses.values.max()), uniform_guess or 0)
    ax.set(xlim=(0, None), ylim=(0, 1.08 * highest or 1))
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(4))
    ax.grid(axis="x", visible=False)


def loss_panel(losses: LossSeries, uniform_guess: float | None, theme: Theme) -> bytes:
    """Draw one loss over the training steps."""
    drawing = Drawing(320, 170, theme, transparent=True)
    draw_losses(drawing.axes(34, 8, 276, 136), losses, uniform_guess, theme)
    return drawing.png()


def losses_figure(history: TrainingHistory, uniform_guesses: Mapping[str, float], theme: Theme) -> bytes:
    """Draw all losses in small charts, three in a row."""
    columns, width, height = 3, 330, 232
    rows = -(-len(history.losses) // columns)
    drawing = Drawing(columns * width + 24, rows * height + 16, theme)
    for number, losses in enumerate(history.losses):
        left, top = 24 + number % columns * width, 16 + number // columns * height
        symbol, question = LOSS_LABELS[losses.name]
        _loss_symbol(drawing, left, top, symbol)
        drawing.text(left, top + 20, question, size=10, color=theme.muted)
        draw_losses(
            drawing.axes(left + 30, top + 44, width - 60, 146), losses, uniform_guesses.get(losses.name), theme
        )
    return drawing.png()


def _loss_symbol(drawing: Drawing, left: float, top: float, symbol: str) -> None:
    """Draw L with the loss's name as its subscript."""
    drawing.text(left, top, "L", size=14, bold=True)
    drawing.text(left + 10, top + 5, symbol, size=10, bold=True)


def draw_cmc(ax: Axes, task: TaskComparison, theme: Theme, max_rank: int = 20) -> None:
    """Draw the share of queries with a true match among the first k, for each system."""
    for result in task.results:
        curve = np.asarray(result.cmc[:max_rank])
        style = system_style(result, theme)
        ax.plot(np.arange(1, len(curve) + 1), curve, label=result.label, **style)
    ax.set_xlim(1, max_rank)
    ax.set_ylim(0, 1.02)
    ax.set_xticks([1, 5, 10, 15, 20])
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    ax.grid(axis="x", visible=False)


def system_style(result: SystemResult, theme: Theme) -> dict[str, Any]:
    """Colour, dashes and weight of a system's line."""
    is_trained = result.is_trained
    dashes = LINE_STYLES.get(result.system, "-" if is_trained else (0, (7, 2)))
    return {
        "color": theme.color(result.system, result.variant),
        "linestyle": dashes,
        "linewidth": 2.2 if is_trained else 1.5,
    }


def cmc_panel(task: TaskComparison, theme: Theme) -> bytes:
    """Draw the CMC curves of one task."""
    drawing = Drawing(320, 170, theme, transparent=True)
    draw_cmc(drawing.axes(38, 8, 272, 136), task, theme)
    return drawing.png()


def cmc_figure(tasks: Sequence[TaskComparison], titles: Mapping[str, str], theme: Theme) -> bytes:
    """Draw the CMC curves of all tasks, three in a row. `titles` maps the names of data sets to their titles."""
    columns, width, height = min(3, len(tasks)), 330, 236
    rows = -(-len(tasks) // columns)
    drawing = Drawing(columns * width + 24, rows * height + 44, theme)
    for number, task in enumerate(tasks):
        left, top = 24 + number % columns * width, 16 + number // columns * height
        drawing.text(left, top, describe_task(task), size=12, bold=True)
        drawing.text(left, top + 19, titles.get(task.data, task.data), size=10, color=theme.muted)
        draw_cmc(drawing.axes(left + 34, top + 44, width - 64, 150), task, theme)
    systems = {line_label(result.label): system_style(result, theme) for task in tasks for result in task.results}
    legend = drawing.figure.legend(
        [Line2D([], [], **style) for style in systems.values()],
        list(systems),
        loc="lower left",
        bbox_to_anchor=(24 / drawing.width, 6 / drawing.height),
        ncols=len(systems),
        frameon=False,
        labelcolor=theme.muted,
        prop=font_manager.FontProperties(family=font_families(), size=10),
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return drawing.png()


def draw_precisions(ax: Axes, tasks: Sequence[TaskComparison], theme: Theme) -> None:
    """Draw the mAP of every system as bars, in a group for each task."""
    position, ticks = 0.0, []
    for task in tasks:
        ticks.append(position + (len(task.results) - 1) / 2)
        for result in task.results:
            value = result.metrics["mAP"]
            ax.barh(position, value, height=0.86, color=theme.color(result.system, result.variant))
            ax.text(
                value + 0.008,
                position,
                f"{100 * value:.1f}",
                va="center",
                fontsize=9,
                fontfamily=font_families(),
                fontweight="bold" if result.is_trained else "normal",
                color=theme.ink if result.is_trained else theme.muted,
            )
            position += 1
        position += 0.9
    ax.set_yticks(ticks, [f"{describe_task(task)}\n{line_label(task.data)}" for task in tasks])
    for label in ax.get_yticklabels():
        label.set_parse_math(False)
    ax.tick_params(axis="y", labelcolor=theme.ink)
    ax.set_ylim(position - 1.3, -0.7)
    highest = max((result.metrics["mAP"] for task in tasks for result in task.results), default=1)
    ax.set_xlim(0, max(0.05, 1.15 * highest))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    ax.grid(axis="y", visible=False)
    ax.spines["bottom"].set_visible(False)


def precision_figure(tasks: Sequence[TaskComparison], theme: Theme) -> bytes:
    """Draw the mAP of all systems on all tasks."""
    bars = sum(len(task.results) for task in tasks)
    chart = 15 * bars + 14 * len(tasks)
    drawing = Drawing(760, chart + 96, theme)
    drawing.text(24, 18, "Mean average precision (%)", size=14, bold=True)
    system_key(drawing, 24, 44, tasks)
    draw_precisions(drawing.axes(186, 68, 540, chart), tasks, theme)
    return drawing.png()


def system_key(drawing: Drawing, left: float, top: float, tasks: Sequence[TaskComparison]) -> None:
    """Draw the legend: a square in each system's colour with its name, in one line."""
    for label, color in {
        result.label: drawing.theme.color(result.system, result.variant) for task in tasks for result in task.results
    }.items():
        drawing.overlay.add_patch(Rectangle((left, top + 1.5), 9, 9, color=color))
        drawing.text(left + 14, top, label, size=10, color=drawing.theme.muted)
        left += 30 + 5.8 * len(label)


def describe_task(task: TaskComparison) -> str:
    """Describe the modalities of query and gallery: `sentence → image`."""
    return f"{MODALITY_LABELS.get(task.query, task.query)} → {MODALITY_LABELS.get(task.gallery, task.gallery)}"
