"""The report's pictures: loss curves, mAP bars, CMC curves, ranked lists and masked crops, as PNG bytes.

    png = loss_panel(history.losses[0], uniform_guess=None, theme=LIGHT)
    Path("losses.png").write_bytes(losses_figure(history, uniform_guesses={}, theme=LIGHT))

Functions that end in `_panel` draw one small chart on a transparent ground, for a page that brings its own; those that
end in `_figure` draw a whole picture. Lengths are in logical pixels: text of size 10 is 10 of them high.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from mmet.evaluation.analyses.panels import line_label
from mmet.report.galleries import Candidate, RankedList, Search
from mmet.report.inputs import LossSeries, Result, TaskResults, TrainingHistory
from mmet.report.masks import MaskingComparison

FONTS = ("Inter", "Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans")
"""Preferred fonts; the last comes with matplotlib."""

LOSS_LABELS = {
    "total": ("total", "weighted sum of what a batch trains"),
    "mim": ("MIM", "masked patches, from the image alone"),
    "mlm": ("MLM", "masked words, from the sentence alone"),
    "mmm_image": ("MMM, image", "masked patches, from image and sentence"),
    "mmm_text": ("MMM, text", "masked words, from image and sentence"),
    "itm": ("ITM", "does the sentence belong to the image?"),
    "global_contrastive": ("GC", "image and sentence of a person together"),
    "identity": ("ID", "which training person is it?"),
    "triplet": ("triplet", "same person nearer than any other"),
}
"""The losses by their name in the paper (the subscript of L), and what they ask."""

STRATEGY_LABELS = {
    "pedestrian": "pedestrian masking",
    "prior": "pedestrian masking, silhouette unknown",
    "random": "random masking",
    "block": "block masking",
}
SHORT_STRATEGY_LABELS = {"pedestrian": "pedestrian", "prior": "unknown", "random": "random", "block": "block"}

MODALITY_LABELS = {"image": "image", "text": "sentence", "both": "both"}

QUERY_LABELS = {"image": "By image", "text": "By sentence", "both": "By image and sentence"}

CROP_ASPECT = 2
"""Height of a shown crop by its width."""


@dataclass(frozen=True)
class Theme:
    """Colours of one look. `systems` has an entry for each baseline; the trained model is drawn in `accent`.

    `others` are those of backbones and further checkpoints in their order, again from the first when they are used up.
    """

    ground: str
    ink: str
    muted: str
    line: str
    accent: str
    match: str
    mismatch: str
    systems: Mapping[str, str]
    others: tuple[str, ...]

    def color(self, result: Result) -> str:
        """Of a system's bars and lines."""
        if result.variant is not None:
            return self.others[result.variant % len(self.others)]
        return self.systems.get(result.system, self.accent)


LIGHT = Theme(
    ground="#ffffff",
    ink="#1b1f24",
    muted="#626c77",
    line="#dde1e6",
    accent="#0b62a8",
    match="#1a7f37",
    mismatch="#c4362c",
    systems={"chance": "#c3cad2", "histogram": "#9ba5b0", "untrained": "#6f7985"},
    others=("#b35c00", "#6f42c1", "#0f766e", "#a3195b"),
)
DARK = Theme(
    ground="#15181c",
    ink="#e7eaee",
    muted="#9aa4af",
    line="#323940",
    accent="#5fb0f2",
    match="#4cc26a",
    mismatch="#f0776c",
    systems={"chance": "#59636e", "histogram": "#7a8591", "untrained": "#9ba5b0"},
    others=("#f0a45d", "#b392f0", "#4fc3b7", "#f07ab0"),
)

LINE_STYLES = {"chance": ":", "histogram": "-.", "untrained": "--"}


@cache
def font_families() -> list[str]:
    """Those of `FONTS` that are installed."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in FONTS if name in installed]


class Canvas:
    """A drawing that is laid out in logical pixels from the top left corner; `overlay` are axes over all of it.

    Args:
        width, height: size in logical pixels.
        theme: colours.
        scale: image pixels a logical pixel.
        transparent: leave out the ground.
    """

    def __init__(self, width: float, height: float, theme: Theme, *, scale: float = 2, transparent: bool = False):
        self.width, self.height, self.theme, self.scale = width, height, theme, scale
        self.ground = (0, 0, 0, 0) if transparent else theme.ground
        self._pictures: list[tuple[Image.Image, tuple[int, int]]] = []
        # At 72 dots an inch a point is a pixel, so that font sizes are logical pixels too.
        self.figure = Figure(figsize=(width / 72, height / 72), dpi=72 * scale, facecolor="none")
        FigureCanvasAgg(self.figure)
        self.overlay = self.figure.add_axes((0, 0, 1, 1), facecolor="none", zorder=2)
        self.overlay.set(xlim=(0, width), ylim=(height, 0))
        self.overlay.set_axis_off()

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes in the given box, in the theme's colours, without top and right spines."""
        box = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        ax = self.figure.add_axes(box, facecolor="none")
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(self.theme.line)
        ax.tick_params(colors=self.theme.muted, labelsize=9.5, length=0, pad=4, labelfontfamily=font_families())
        ax.grid(color=self.theme.line, linewidth=0.6)
        ax.set_axisbelow(True)
        return ax

    def text(
        self,
        left: float,
        top: float,
        string: str,
        *,
        size: float = 11,
        color: str | None = None,
        bold: bool = False,
        align: str = "left",
    ) -> None:
        """Text whose box begins at `top`. It may hold anything: `$` is no mathematics here."""
        self.overlay.text(
            left,
            top,
            "\n".join(line_label(line) for line in string.split("\n")),
            fontsize=size,
            fontfamily=font_families(),
            fontweight="bold" if bold else "normal",
            color=color or self.theme.ink,
            ha=align,
            va="top",
            linespacing=1.35,
            parse_math=False,
        )

    def picture(self, left: float, top: float, width: float, height: float, image: Image.Image) -> None:
        """A picture that fills the given box, under everything that is drawn."""
        box = [round(length * self.scale) for length in (left, top, width, height)]
        self._pictures.append((ImageOps.fit(image, (box[2], box[3]), Image.Resampling.LANCZOS), (box[0], box[1])))

    def png(self) -> bytes:
        """The picture as the bytes of a PNG file."""
        agg = self.figure.canvas
        assert isinstance(agg, FigureCanvasAgg)
        agg.draw()  # type: ignore[no-untyped-call]
        drawing = Image.fromarray(np.asarray(agg.buffer_rgba()))  # type: ignore[no-untyped-call]
        result = Image.new("RGBA", drawing.size, self.ground)
        # Pasted, because matplotlib takes ten times as long over an image.
        for picture, corner in self._pictures:
            result.paste(picture, corner)
        result.alpha_composite(drawing)
        buffer = io.BytesIO()
        (result if self.ground == (0, 0, 0, 0) else result.convert("RGB")).save(buffer, format="PNG")
        return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------------------------
# Charts
# ---------------------------------------------------------------------------------------------------------------------


def smooth(values: ArrayLike, sigma: float | None = None) -> NDArray[np.float64]:
    """Gaussian-weighted mean of each value's neighbours `(n,)`, over those that exist at the ends.

    A symmetric window, because a running average lags behind and would lie above every falling loss.

    Args:
        values: `(n,)`.
        sigma: standard deviation of the window in values; None for a thirtieth of them, at least one.
    """
    values = np.asarray(values, dtype=np.float64)
    sigma = max(1.0, len(values) / 30) if sigma is None else sigma
    radius = int(np.ceil(3 * sigma))
    window = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    total, norm = (np.convolve(row, window)[radius : radius + len(values)] for row in (values, np.ones_like(values)))
    return total / norm


def draw_losses(ax: Axes, losses: LossSeries, uniform_guess: float | None, theme: Theme) -> None:
    """Logged values faint, their local mean over them, and the loss of a uniform guess as a dotted line."""
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
    """One loss over the training steps."""
    canvas = Canvas(320, 170, theme, transparent=True)
    draw_losses(canvas.axes(34, 8, 276, 136), losses, uniform_guess, theme)
    return canvas.png()


def losses_figure(history: TrainingHistory, uniform_guesses: Mapping[str, float], theme: Theme) -> bytes:
    """All losses as small multiples, three a row."""
    columns, width, height = 3, 330, 232
    rows = -(-len(history.losses) // columns)
    canvas = Canvas(columns * width + 24, rows * height + 16, theme)
    for number, losses in enumerate(history.losses):
        left, top = 24 + number % columns * width, 16 + number // columns * height
        symbol, question = LOSS_LABELS[losses.name]
        _loss_symbol(canvas, left, top, symbol)
        canvas.text(left, top + 20, question, size=10, color=theme.muted)
        draw_losses(canvas.axes(left + 30, top + 44, width - 60, 146), losses, uniform_guesses.get(losses.name), theme)
    return canvas.png()


def _loss_symbol(canvas: Canvas, left: float, top: float, symbol: str) -> None:
    """L with the loss's name as its subscript."""
    canvas.text(left, top, "L", size=14, bold=True)
    canvas.text(left + 10, top + 5, symbol, size=10, bold=True)


def draw_cmc(ax: Axes, task: TaskResults, theme: Theme, max_rank: int = 20) -> None:
    """Share of queries with a true match among the first k, for each system."""
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


def system_style(result: Result, theme: Theme) -> dict[str, Any]:
    """How a system's line is drawn: told apart by colour, dashes and weight."""
    is_trained = result.is_trained
    dashes = LINE_STYLES.get(result.system, "-" if is_trained else (0, (7, 2)))
    return {"color": theme.color(result), "linestyle": dashes, "linewidth": 2.2 if is_trained else 1.5}


def cmc_panel(task: TaskResults, theme: Theme) -> bytes:
    """The CMC curves of one task."""
    canvas = Canvas(320, 170, theme, transparent=True)
    draw_cmc(canvas.axes(38, 8, 272, 136), task, theme)
    return canvas.png()


def cmc_figure(tasks: Sequence[TaskResults], titles: Mapping[str, str], theme: Theme) -> bytes:
    """The CMC curves of all tasks, three a row. `titles` has the data sets' names in prose."""
    columns, width, height = min(3, len(tasks)), 330, 236
    rows = -(-len(tasks) // columns)
    canvas = Canvas(columns * width + 24, rows * height + 44, theme)
    for number, task in enumerate(tasks):
        left, top = 24 + number % columns * width, 16 + number // columns * height
        canvas.text(left, top, describe_task(task), size=12, bold=True)
        canvas.text(left, top + 19, titles.get(task.data, task.data), size=10, color=theme.muted)
        draw_cmc(canvas.axes(left + 34, top + 44, width - 64, 150), task, theme)
    systems = {line_label(result.label): system_style(result, theme) for task in tasks for result in task.results}
    legend = canvas.figure.legend(
        [Line2D([], [], **style) for style in systems.values()],
        list(systems),
        loc="lower left",
        bbox_to_anchor=(24 / canvas.width, 6 / canvas.height),
        ncols=len(systems),
        frameon=False,
        labelcolor=theme.muted,
        prop=font_manager.FontProperties(family=font_families(), size=10),
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return canvas.png()


def draw_precisions(ax: Axes, tasks: Sequence[TaskResults], theme: Theme) -> None:
    """mAP of every system as bars, a group for each task."""
    position, ticks = 0.0, []
    for task in tasks:
        ticks.append(position + (len(task.results) - 1) / 2)
        for result in task.results:
            value = result.metrics["mAP"]
            ax.barh(position, value, height=0.86, color=theme.color(result))
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


def precision_figure(tasks: Sequence[TaskResults], theme: Theme) -> bytes:
    """mAP of all systems on all tasks."""
    bars = sum(len(task.results) for task in tasks)
    chart = 15 * bars + 14 * len(tasks)
    canvas = Canvas(760, chart + 96, theme)
    canvas.text(24, 18, "Mean average precision (%)", size=14, bold=True)
    _system_key(canvas, 24, 44, tasks)
    draw_precisions(canvas.axes(186, 68, 540, chart), tasks, theme)
    return canvas.png()


def _system_key(canvas: Canvas, left: float, top: float, tasks: Sequence[TaskResults]) -> None:
    """The systems' names after a patch of their colour, in one line."""
    for label, color in {
        result.label: canvas.theme.color(result) for task in tasks for result in task.results
    }.items():
        canvas.overlay.add_patch(Rectangle((left, top + 1.5), 9, 9, color=color))
        canvas.text(left + 14, top, label, size=10, color=canvas.theme.muted)
        left += 30 + 5.8 * len(label)


def describe_task(task: TaskResults) -> str:
    """What searches what, in words: `sentence → image`."""
    return f"{MODALITY_LABELS.get(task.query, task.query)} → {MODALITY_LABELS.get(task.gallery, task.gallery)}"


# ---------------------------------------------------------------------------------------------------------------------
# Ranked lists and masked crops
# ---------------------------------------------------------------------------------------------------------------------


def draw_ranked_list(
    canvas: Canvas, left: float, top: float, width: float, ranked: RankedList, title: str, subtitle: str
) -> None:
    """A query at the left and its candidates, framed and ticked or crossed, at the right of a strip 146 high."""
    theme, crop = canvas.theme, 60.0
    height = crop * CROP_ASPECT
    candidates_left = left + width - 10 * (crop + 8) + 8
    text_left = left
    if ranked.image is not None:
        canvas.picture(left, top, crop, height, ranked.image)
        text_left += crop + 14
    letters = int((candidates_left - text_left - 18) / 5.6)
    canvas.text(text_left, top - 2, title, size=12, bold=True)
    canvas.text(text_left, top + 16, subtitle, size=10, color=theme.muted)
    if ranked.caption is not None:
        sentence = textwrap.fill(f"“{ranked.caption}”", letters, max_lines=5, placeholder=" …")
        canvas.text(text_left, top + 38, sentence, size=10.5)
    for number, candidate in enumerate(ranked.candidates[:10]):
        _draw_candidate(canvas, candidates_left + number * (crop + 8), top, crop, height, candidate)


def _draw_candidate(
    canvas: Canvas, left: float, top: float, width: float, height: float, candidate: Candidate
) -> None:
    """A crop in a green frame with a tick, or in a red one with a cross; camera and score below."""
    color = canvas.theme.match if candidate.is_match else canvas.theme.mismatch
    canvas.picture(left, top, width, height, candidate.image)
    ax = canvas.overlay
    ax.add_patch(Rectangle((left + 1, top + 1), width - 2, height - 2, fill=False, edgecolor=color, linewidth=2.2))
    x, y = left + width - 2, top + 2
    ax.add_patch(Circle((x, y), 8, facecolor=color, edgecolor=canvas.theme.ground, linewidth=1.4))
    if candidate.is_match:
        ax.plot([x - 3.4, x - 0.8, x + 3.6], [y + 0.3, y + 2.9, y - 2.7], color="white", linewidth=1.5)
    else:
        for direction in (1, -1):
            ax.plot([x - 2.8, x + 2.8], [y - 2.8 * direction, y + 2.8 * direction], color="white", linewidth=1.5)
    camera = f"{candidate.camera_name or f'c{candidate.camera_id}'} · " if candidate.camera_id >= 0 else ""
    canvas.text(
        left + width / 2,
        top + height + 4,
        f"{camera}{candidate.score:.2f}",
        size=9,
        color=canvas.theme.muted,
        align="center",
    )


def gallery_figure(search: Search, title: str, theme: Theme) -> bytes:
    """The ranked lists of one search, one below the other."""
    pitch = 166
    canvas = Canvas(1000, 60 + pitch * len(search.lists), theme, scale=1.6)
    canvas.text(28, 18, title, size=15, bold=True)
    for number, ranked in enumerate(search.lists):
        found = f"AP {100 * ranked.average_precision:.0f} %, {ranked.num_matches} true matches"
        draw_ranked_list(canvas, 28, 58 + number * pitch, 944, ranked, ranked.stratum.capitalize(), found)
    return canvas.png()


def draw_masking(
    canvas: Canvas, left: float, top: float, width: float, masking: MaskingComparison, num_examples: int
) -> None:
    """Crops by strategies over the given width; above each strategy the share of what it hides that is the person."""
    theme, gap, columns = canvas.theme, 8, 2 + len(masking.shares)
    crop = (width - gap * (columns - 1)) / columns
    heads = [("crop", ""), ("silhouette", "")]
    heads += [(SHORT_STRATEGY_LABELS[name], f"{100 * share:.0f} %") for name, share in masking.shares.items()]
    size = min(10.0, crop / 5.4)
    for number, (label, share) in enumerate(heads):
        canvas.text(left + number * (crop + gap), top, share, size=1.25 * size, bold=True)
        canvas.text(left + number * (crop + gap), top + 1.7 * size, label, size=size, color=theme.muted)
    top += 3.6 * size
    for example in masking.examples[:num_examples]:
        height = crop * example.image.height / example.image.width
        for number, picture in enumerate([example.image, example.silhouette, *example.hidden.values()]):
            canvas.picture(left + number * (crop + gap), top, crop, height, picture)
        top += height + gap


def masks_figure(masking: MaskingComparison, theme: Theme) -> bytes:
    """All the crops of the comparison by all strategies."""
    width, first = 640.0, masking.examples[0].image
    crop = (width - 8 * (1 + len(masking.shares))) / (2 + len(masking.shares))
    height = 88 + len(masking.examples) * (crop * first.height / first.width + 8)
    canvas = Canvas(width + 48, height + 12, theme)
    canvas.text(24, 18, "Hidden patches, and how much of their area is on the person", size=13, bold=True)
    draw_masking(canvas, 24, 48, width, masking, len(masking.examples))
    return canvas.png()


# ---------------------------------------------------------------------------------------------------------------------
# The overview
# ---------------------------------------------------------------------------------------------------------------------


def overview_figure(
    *,
    title: str,
    subtitle: str,
    searches: Sequence[Search],
    tasks: Sequence[TaskResults],
    history: TrainingHistory | None,
    masking: MaskingComparison | None,
    theme: Theme,
) -> bytes:
    """One picture of 1600 pixels width: a typical ranked list of each search, mAP, masked crops and the loss."""
    strips = [(search, _typical(search)) for search in searches if search.lists]
    charts_top = 146 + 162 * len(strips)
    canvas = Canvas(1000, charts_top + 318, theme, scale=1.6)
    canvas.text(36, 30, title, size=25, bold=True)
    canvas.text(36, 68, textwrap.fill(subtitle, 148), size=11.5, color=theme.muted)
    for number, (search, ranked) in enumerate(strips):
        name = QUERY_LABELS[search.task.query.modality]
        found = f"{ranked.stratum} query, AP {100 * ranked.average_precision:.0f} %"
        draw_ranked_list(canvas, 36, 136 + 162 * number, 928, ranked, name, found)
    _overview_charts(canvas, charts_top, tasks, history, masking)
    return canvas.png()


def _typical(search: Search) -> RankedList:
    """The list of median precision, or the only one there is."""
    return next((ranked for ranked in search.lists if ranked.stratum == "typical"), search.lists[0])


def _overview_charts(
    canvas: Canvas,
    top: float,
    tasks: Sequence[TaskResults],
    history: TrainingHistory | None,
    masking: MaskingComparison | None,
) -> None:
    """The bottom row: bars, masked crops, loss; what is missing leaves its place empty."""
    theme = canvas.theme
    canvas.text(36, top, "Mean average precision (%)", size=12, bold=True)
    draw_precisions(canvas.axes(142, top + 24, 250, 236), tasks, theme)
    _system_key(canvas, 36, top + 284, tasks)
    if masking is not None:
        canvas.text(436, top, "Hidden patches, share on the person", size=12, bold=True)
        draw_masking(canvas, 436, top + 28, 300, masking, 2)
    if history is not None and history.losses:
        canvas.text(778, top, "Training loss", size=12, bold=True)
        draw_losses(canvas.axes(802, top + 28, 162, 232), history.losses[0], None, theme)
