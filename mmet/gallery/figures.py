"""Pictures of a gallery for print: the ranked list of a search, and a map with similar crops close together.

    Path("answer.png").write_bytes(ranked_figure(query, gallery.search_batch([query])[0]))
    Path("map.png").write_bytes(map_figure(gallery, color_by="person_id"))

Both are in the style of the report (`mmet.report.drawing`).
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from typing import Any

import numpy as np
import PIL.Image
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from mmet.figure_style import LIGHT, Theme
from mmet.gallery.gallery import Gallery
from mmet.gallery.labels import counted, show_time
from mmet.gallery.listing import LIKELY, UNLIKELY, percent, verdict
from mmet.gallery.queries import Query
from mmet.gallery.results import GalleryError, Match, Row, SearchResult
from mmet.gallery.sources import load_picture
from mmet.report.drawing import Drawing

COLOR_COLUMNS = ("person_id", "camera_id", "track_id")

_CROP, _GAP, _COLUMNS, _LINE = (60.0, 120.0), 8.0, 10, 172.0
_MARGIN, _HEAD = 24.0, 60.0
_MAP = (880.0, 560.0)
_THUMB = (24.0, 48.0)
_MOST_ROWS = 5000
_LEGEND = 8


def ranked_figure(query: Query, result: SearchResult, theme: Theme = LIGHT) -> bytes:
    """Draw a PNG of the query and the ranked matches with camera, time, score and probability below each.

    Frames are green where a match is likely, orange where it is unlikely, blue between, grey without probability.
    """
    lines = max(1, math.ceil(len(result.matches) / _COLUMNS))
    left = _MARGIN + 150
    width = left + _COLUMNS * (_CROP[0] + _GAP) + _MARGIN - _GAP
    drawing = Drawing(width, _HEAD + lines * _LINE, theme)
    known = result.in_gallery is not None and result.matches
    verdict_words = verdict(result.in_gallery) if known and result.in_gallery is not None else ""
    drawing.text(_MARGIN, 18, verdict_words or counted(len(result.matches), "crop"), size=14, bold=True)
    drawing.text(_MARGIN, 38, f"of {counted(result.searched, 'row')}", size=10, color=theme.muted)
    _draw_query(drawing, query)
    for number, match in enumerate(result.matches):
        line, column = divmod(number, _COLUMNS)
        _draw_match(drawing, left + column * (_CROP[0] + _GAP), _HEAD + line * _LINE, number + 1, match)
    return drawing.png()


def _draw_query(drawing: Drawing, query: Query) -> None:
    top = _HEAD
    images = [] if query.image is None else query.image if isinstance(query.image, (list, tuple)) else [query.image]
    for number, image in enumerate(images[:2]):
        drawing.picture(_MARGIN + number * (_CROP[0] + _GAP), top, *_CROP, load_picture(image))
    if query.text:
        words = textwrap.fill(f"“{query.text}”", 24, max_lines=3 if images else 8, placeholder=" …")
        drawing.text(_MARGIN, top + (_CROP[1] + 6 if images else 0), words, size=10)


def _draw_match(drawing: Drawing, left: float, top: float, rank: int, match: Match) -> None:
    theme, (width, height) = drawing.theme, _CROP
    picture = _crop(match)
    if picture is not None:
        drawing.picture(left, top, width, height, picture)
    color = theme.muted
    if match.probability is not None:
        sure = match.probability >= LIKELY
        color = theme.match if sure else theme.mismatch if match.probability <= UNLIKELY else theme.accent
    _frame(drawing, left, top, width, height, color)
    camera = "" if match.camera_id is None else f" · {match.camera_id}"
    probability = "" if match.probability is None else f" · {percent(match.probability)}"
    words = [f"{rank}{camera}", show_time(match.time)[-12:], f"{match.score:.2f}{probability}"]
    for number, line in enumerate(words):
        drawing.text(left + width / 2, top + height + 5 + 13 * number, line[:14], size=9, color=theme.ink if not number
                     else theme.muted, align="center")  # fmt: skip


def _frame(drawing: Drawing, left: float, top: float, width: float, height: float, color: str) -> None:
    box = Rectangle((left + 1, top + 1), width - 2, height - 2, fill=False, edgecolor=color, linewidth=2.2)
    drawing.overlay.add_patch(box)


def _crop(row: Row) -> PIL.Image.Image | None:
    """The crop; None if its file is missing or damaged."""
    try:
        return row.open_image()
    except GalleryError:
        return None


def principal_plane(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """
    Project vectors onto the two directions in which they differ most (principal components).

    Args:
        vectors: float32 `(N, D)`.

    Returns:
        The centred coordinates, float32 `(N, 2)`, and their share of the variance.
    """
    centred = vectors - vectors.mean(axis=0)
    values, directions = np.linalg.eigh(centred.T @ centred)
    total = float(values.sum())
    share = float(values[-2:].sum()) / total if total > 0 else 0.0
    return np.asarray(centred @ directions[:, :-3:-1], dtype=np.float32), share


def map_figure(gallery: Gallery, *, color_by: str = "person_id", crops: int = 120, theme: Theme = LIGHT) -> bytes:
    """
    Draw a PNG with every row as a point and some as crops, so that similar rows lie close together.

    Args:
        gallery: a gallery of at least two rows; of more than 5,000, evenly spaced ones are shown.
        color_by: `person_id`, `camera_id` or `track_id`; the most frequent values get colours.
        crops: largest number of crops.
        theme: colours.

    Raises:
        ValueError: fewer than two rows, or an unknown `color_by`.
    """
    if color_by not in COLOR_COLUMNS:
        raise ValueError(f"color_by: expected one of {', '.join(COLOR_COLUMNS)}, received {color_by!r}")
    if len(gallery) < 2:
        raise GalleryError(f"a map needs at least 2 rows, {gallery.path} has {len(gallery)}")
    rows, vectors = list(gallery), gallery.embeddings()
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _MOST_ROWS)).astype(int))
    rows, vectors = [rows[index] for index in chosen], vectors[chosen]
    plane, share = principal_plane(vectors)
    places = _spread(plane)
    drawing = Drawing(_MAP[0] + 2 * _MARGIN, _MAP[1] + _HEAD + 2 * _MARGIN, theme)
    drawing.text(_MARGIN, 16, f"{counted(len(rows), 'crop')} by what the model finds alike", size=14, bold=True)
    note = f"two principal components, {100 * share:.0f} % of the variance; colours: {color_by.removesuffix('_id')}"
    drawing.text(_MARGIN, 37, note, size=10, color=theme.muted)
    colors = _colors([getattr(row, color_by) for row in rows], theme)
    drawn = _draw_thumbs(drawing, rows, places, colors, crops)
    points = [index for index in range(len(rows)) if index not in drawn]
    across, down = places[points].T
    drawing.overlay.scatter(across, down, s=9, c=[colors[index] for index in points], linewidths=0)
    _legend(drawing, [getattr(row, color_by) for row in rows], theme)
    return drawing.png()


def _spread(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logical pixels of the points; the outermost hundredth at each side lies on the edge."""
    low, high = np.quantile(plane, (0.01, 0.99), axis=0)
    shares = np.clip((plane - low) / np.maximum(high - low, 1e-9), 0, 1)
    inner = np.array([_MAP[0] - _THUMB[0], _MAP[1] - _THUMB[1] - 20])
    corner = np.array([_MARGIN + _THUMB[0] / 2, _HEAD + _MARGIN + _THUMB[1] / 2])
    return np.asarray(corner + shares * inner, dtype=np.float32)


def _draw_thumbs(
    drawing: Drawing, rows: list[Row], places: NDArray[np.float32], colors: list[str], most: int
) -> dict[int, tuple[float, float]]:
    """Draw crops at their places, as far as they leave one another visible; returns the places of those rows."""
    drawn: dict[int, tuple[float, float]] = {}
    for index in map(int, np.random.default_rng(0).permutation(len(rows))):
        x, y = map(float, places[index])
        if len(drawn) >= most:
            break
        if any(abs(x - a) < _THUMB[0] and abs(y - b) < _THUMB[1] for a, b in drawn.values()):
            continue
        picture = _crop(rows[index])
        if picture is not None:
            drawn[index] = x, y
            left, top = x - _THUMB[0] / 2, y - _THUMB[1] / 2
            drawing.picture(left, top, *_THUMB, picture)
            _frame(drawing, left, top, *_THUMB, colors[index])
    return drawn


def _palette(labels: list[Any], theme: Theme) -> dict[Any, str]:
    """Colours of the most frequent labels."""
    shades = (theme.accent, *theme.others, theme.match, theme.mismatch, theme.ink)
    often = [label for label, _ in Counter(label for label in labels if label is not None).most_common(_LEGEND)]
    return dict(zip(often, shades, strict=False))


def _colors(labels: list[Any], theme: Theme) -> list[str]:
    palette = _palette(labels, theme)
    return [palette.get(label, theme.line) for label in labels]


def _legend(drawing: Drawing, labels: list[Any], theme: Theme) -> None:
    left, top = _MARGIN, _HEAD + _MARGIN + _MAP[1] - 12
    shades = {str(label): color for label, color in _palette(labels, theme).items()}
    if len(set(labels)) > len(shades):
        shades["others"] = theme.line
    for label, color in shades.items():
        drawing.overlay.scatter([left + 4], [top + 6], s=26, c=color, linewidths=0)
        drawing.text(left + 12, top, label[:12], size=9.5, color=theme.muted)
        left += 24 + 6.5 * min(len(label), 12)
