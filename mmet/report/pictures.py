"""The report's pictures of crops, as PNG bytes: ranked lists, masked crops, and the overview.

Path("masks.png").write_bytes(masks_figure(masking, theme=LIGHT))
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.patches import Circle, Rectangle

from mmet.evaluation.analyses.ranked_lists import ListEntry
from mmet.figure_style import Theme
from mmet.report.charts import draw_losses, draw_precisions, system_key
from mmet.report.drawing import Drawing
from mmet.report.examples import ExampleList, ExampleSearch
from mmet.report.masking_comparison import MaskingComparison
from mmet.report.results_file import TaskComparison
from mmet.report.training_history import TrainingHistory

STRATEGY_LABELS = {
    "pedestrian": "pedestrian masking",
    "prior": "pedestrian masking, silhouette unknown",
    "random": "random masking",
    "block": "block masking",
}
SHORT_STRATEGY_LABELS = {"pedestrian": "pedestrian", "prior": "unknown", "random": "random", "block": "block"}

QUERY_LABELS = {"image": "By image", "text": "By sentence", "both": "By image and sentence"}

CROP_ASPECT = 2
"""Height / width of a shown crop."""


def draw_ranked_list(
    drawing: Drawing, left: float, top: float, width: float, ranked: ExampleList, title: str, subtitle: str
) -> None:
    """Draw a strip: a query at the left, its candidates at the right, framed and marked with a tick or a cross."""
    theme, crop = drawing.theme, 60.0
    height = crop * CROP_ASPECT
    candidates_left = left + width - 10 * (crop + 8) + 8
    text_left = left
    if ranked.query.image is not None:
        drawing.picture(left, top, crop, height, ranked.query.image)
        text_left += crop + 14
    letters = int((candidates_left - text_left - 18) / 5.6)
    drawing.text(text_left, top - 2, title, size=12, bold=True)
    drawing.text(text_left, top + 16, subtitle, size=10, color=theme.muted)
    if ranked.query.caption is not None:
        sentence = textwrap.fill(f"“{ranked.query.caption}”", letters, max_lines=5, placeholder=" …")
        drawing.text(text_left, top + 38, sentence, size=10.5)
    for number, candidate in enumerate(ranked.candidates[:10]):
        _draw_candidate(drawing, candidates_left + number * (crop + 8), top, crop, height, candidate)


def _draw_candidate(
    drawing: Drawing, left: float, top: float, width: float, height: float, candidate: ListEntry
) -> None:
    """Draw a crop in a green frame with a tick or in an orange one with a cross; camera and score are below."""
    color = drawing.theme.match if candidate.is_match else drawing.theme.mismatch
    assert candidate.image is not None  # galleries of the report hold pictures
    drawing.picture(left, top, width, height, candidate.image)
    ax = drawing.overlay
    ax.add_patch(Rectangle((left + 1, top + 1), width - 2, height - 2, fill=False, edgecolor=color, linewidth=2.2))
    x, y = left + width - 2, top + 2
    ax.add_patch(Circle((x, y), 8, facecolor=color, edgecolor=drawing.theme.ground, linewidth=1.4))
    if candidate.is_match:
        ax.plot([x - 3.4, x - 0.8, x + 3.6], [y + 0.3, y + 2.9, y - 2.7], color="white", linewidth=1.5)
    else:
        for direction in (1, -1):
            ax.plot([x - 2.8, x + 2.8], [y - 2.8 * direction, y + 2.8 * direction], color="white", linewidth=1.5)
    camera = f"{candidate.camera_name or f'c{candidate.camera_id}'} · " if candidate.camera_id >= 0 else ""
    drawing.text(
        left + width / 2,
        top + height + 4,
        f"{camera}{candidate.score:.2f}",
        size=9,
        color=drawing.theme.muted,
        align="center",
    )


def gallery_figure(search: ExampleSearch, title: str, theme: Theme) -> bytes:
    """Draw the ranked lists of a search, one below the other."""
    pitch = 166
    drawing = Drawing(1000, 60 + pitch * len(search.lists), theme, scale=1.6)
    drawing.text(28, 18, title, size=15, bold=True)
    for number, ranked in enumerate(search.lists):
        note = f"AP {100 * ranked.average_precision:.0f} %, {ranked.num_matches} true matches"
        draw_ranked_list(drawing, 28, 58 + number * pitch, 944, ranked, ranked.stratum.capitalize(), note)
    return drawing.png()


def draw_masking(
    drawing: Drawing, left: float, top: float, width: float, masking: MaskingComparison, num_examples: int
) -> None:
    """Draw crops (rows) by strategies (columns); above a strategy is the share of person in what it hides."""
    theme, gap, columns = drawing.theme, 8, 2 + len(masking.shares)
    crop = (width - gap * (columns - 1)) / columns
    heads = [("crop", ""), ("silhouette", "")]
    heads += [(SHORT_STRATEGY_LABELS[name], f"{100 * share:.0f} %") for name, share in masking.shares.items()]
    size = min(10.0, crop / 5.4)
    for number, (label, share) in enumerate(heads):
        drawing.text(left + number * (crop + gap), top, share, size=1.25 * size, bold=True)
        drawing.text(left + number * (crop + gap), top + 1.7 * size, label, size=size, color=theme.muted)
    top += 3.6 * size
    for example in masking.examples[:num_examples]:
        height = crop * example.image.height / example.image.width
        for number, picture in enumerate([example.image, example.silhouette, *example.hidden.values()]):
            drawing.picture(left + number * (crop + gap), top, crop, height, picture)
        top += height + gap


def masks_figure(masking: MaskingComparison, theme: Theme) -> bytes:
    """Draw all crops of the comparison by all strategies."""
    width, first = 640.0, masking.examples[0].image
    crop = (width - 8 * (1 + len(masking.shares))) / (2 + len(masking.shares))
    height = 88 + len(masking.examples) * (crop * first.height / first.width + 8)
    drawing = Drawing(width + 48, height + 12, theme)
    drawing.text(24, 18, "Hidden patches, and how much of their area is on the person", size=13, bold=True)
    draw_masking(drawing, 24, 48, width, masking, len(masking.examples))
    return drawing.png()


def overview_figure(
    *,
    title: str,
    subtitle: str,
    searches: Sequence[ExampleSearch],
    tasks: Sequence[TaskComparison],
    history: TrainingHistory | None,
    masking: MaskingComparison | None,
    theme: Theme,
) -> bytes:
    """Draw the overview, 1600 pixels wide: a typical ranked list of each search, mAP, masked crops and the loss."""
    strips = [(search, _typical(search)) for search in searches if search.lists]
    charts_top = 146 + 162 * len(strips)
    drawing = Drawing(1000, charts_top + 318, theme, scale=1.6)
    drawing.text(36, 30, title, size=25, bold=True)
    drawing.text(36, 68, textwrap.fill(subtitle, 148), size=11.5, color=theme.muted)
    for number, (search, ranked) in enumerate(strips):
        name = QUERY_LABELS[search.task.query.modality]
        note = f"{ranked.stratum} query, AP {100 * ranked.average_precision:.0f} %"
        draw_ranked_list(drawing, 36, 136 + 162 * number, 928, ranked, name, note)
    _overview_charts(drawing, charts_top, tasks, history, masking)
    return drawing.png()


def _typical(search: ExampleSearch) -> ExampleList:
    """The list of the typical query, or the first if there is none."""
    return next((ranked for ranked in search.lists if ranked.stratum == "typical"), search.lists[0])


def _overview_charts(
    drawing: Drawing,
    top: float,
    tasks: Sequence[TaskComparison],
    history: TrainingHistory | None,
    masking: MaskingComparison | None,
) -> None:
    """Draw the bottom row: bars, masked crops, loss; the place of a missing part stays empty."""
    theme = drawing.theme
    drawing.text(36, top, "Mean average precision (%)", size=12, bold=True)
    draw_precisions(drawing.axes(142, top + 24, 250, 236), tasks, theme)
    system_key(drawing, 36, top + 284, tasks)
    if masking is not None:
        drawing.text(436, top, "Hidden patches, share on the person", size=12, bold=True)
        draw_masking(drawing, 436, top + 28, 300, masking, 2)
    if history is not None and history.losses:
        drawing.text(778, top, "Training loss", size=12, bold=True)
        draw_losses(drawing.axes(802, top + 28, 162, 232), history.losses[0], None, theme)
