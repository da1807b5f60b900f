"""Pictures of explanations: overlays, the paper's Figure 4 and strips of words.

Path("figure.png").write_bytes(compare_methods([("a.jpg", [("original", picture), ("Grad-CAM", seen)])]))
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image
from matplotlib import colormaps

from mmet.explain.explainer import Map
from mmet.figure_style import LIGHT
from mmet.report.drawing import Drawing

METHOD_LABELS = {
    "attention_gradient": "Attention gradient",
    "grad_cam": "Grad-CAM",
    "guided_grad_cam": "Guided Grad-CAM",
    "pixel_gradient": "Pixel gradient",
    "relevance": "Relevance",
    "rollout": "Attention rollout",
}
WIDTH, HEIGHT, GAP = 96.0, 192.0, 10.0
"""Size of a crop and distance between crops, in logical pixels."""
COLUMNS = 8
"""Pictures in a line; further ones go into lines below."""
LETTERS = 20
"""Longest label of a picture, in characters."""


def overlay(picture: PIL.Image.Image, values: Map, opacity: float = 0.5) -> PIL.Image.Image:
    """Overlay a map `(H, W)` in [0, 1] on a picture of that size, from black to bright yellow.

    The order of the colours also shows in grey print.
    """
    colours = 255 * colormaps["inferno"](values)[..., :3]
    blended = (1 - opacity) * np.asarray(picture.convert("RGB"), dtype=np.float64) + opacity * colours
    return PIL.Image.fromarray(blended.round().astype(np.uint8))


def greys(values: Map) -> PIL.Image.Image:
    """Draw a map `(H, W)` in [0, 1] as a grey picture, white at 1; for maps of single pixels."""
    return PIL.Image.fromarray((255 * values).round().astype(np.uint8)).convert("RGB")


def show(picture: PIL.Image.Image, values: Map, method: str) -> PIL.Image.Image:
    """Draw a map `(H, W)` in the way that is usual for its method."""
    return greys(values) if method == "guided_grad_cam" else overlay(picture, values)


def compare_methods(rows: Sequence[tuple[str, Sequence[tuple[str, PIL.Image.Image]]]]) -> bytes:
    """
    Draw a PNG of labelled pictures with a row for each explained image; a long row continues in lines below.

    Args:
        rows: for each row its title, and its pictures with their labels.
    """
    lines = [
        (title if first == 0 else "", pictures[first : first + COLUMNS])
        for title, pictures in rows
        for first in range(0, len(pictures), COLUMNS)
    ]
    columns = max(len(pictures) for _, pictures in lines)
    pitch = HEIGHT + 50
    drawing = Drawing(max(260.0, GAP + columns * (WIDTH + GAP)), GAP + pitch * len(lines), LIGHT)
    for number, (title, pictures) in enumerate(lines):
        top = GAP + pitch * number
        drawing.text(GAP, top, title, size=10, bold=True)
        for column, (label, picture) in enumerate(pictures):
            left = GAP + column * (WIDTH + GAP)
            drawing.text(left, top + 16, shorten(label), size=9, color=LIGHT.muted)
            drawing.picture(left, top + 32, WIDTH, HEIGHT, picture)
    return drawing.png()


def shorten(label: str) -> str:
    """Cut a label so that it fits above a picture."""
    return label if len(label) <= LETTERS else f"{label[: LETTERS - 1]}…"
