"""Draw what stands between the camera and a synthetic person: other people, and the things of `OCCLUDERS`.

cover = draw_occluder(("pole", "shrub"), rng, height, width)
rgb = rgb * (1 - cover.alpha[..., None]) + cover.rgb
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from mmet.data.synthetic.figure import draw_figure
from mmet.data.synthetic.identity import draw_identity
from mmet.data.synthetic.skeleton import draw_pose

_PASSER_BY_SHARE = 0.4
_CAR_COLORS = ((150, 42, 40), (48, 74, 124), (198, 200, 202), (44, 46, 50), (118, 120, 124), (84, 108, 90))


@dataclass(frozen=True, slots=True)
class Cover:
    """Something in front: `rgb` (H, W, 3) float32 in 0..255, multiplied by `alpha` (H, W) in 0..1 already."""

    rgb: np.ndarray
    alpha: np.ndarray


def draw_occluder(names: Sequence[str], rng: np.random.Generator, height: int, width: int) -> Cover:
    """Draw a passer-by at the edge of the picture, or one of the things called `names`."""
    if rng.random() < _PASSER_BY_SHARE:
        return _passer_by(rng, height, width)
    return draw_object(names, rng, height, width)


def draw_object(names: Sequence[str], rng: np.random.Generator, height: int, width: int) -> Cover:
    """Draw one of the objects called `names`."""
    sheet = Image.new("RGBA", (width * 2, height * 2))
    OCCLUDERS[names[int(rng.integers(len(names)))]](ImageDraw.Draw(sheet), rng, height * 2, width * 2)
    small = np.asarray(sheet.reduce(2), dtype=np.float32)
    alpha = small[..., 3] / np.float32(255)
    return Cover(small[..., :3] * alpha[..., None], alpha)


def _passer_by(rng: np.random.Generator, height: int, width: int) -> Cover:
    other = draw_identity(rng)
    side = rng.choice((-1, 1)) * rng.uniform(0.42, 0.56)
    figure = draw_figure(
        other,
        draw_pose(rng),
        view_degrees=rng.uniform(0, 360),
        height=height,
        width=width,
        offset=(side, rng.uniform(0, 0.1)),
    )
    return Cover(figure.rgb * np.float32(0.9), figure.alpha)


def _bicycle(pen: ImageDraw.ImageDraw, rng: np.random.Generator, height: int, width: int) -> None:
    x, y, r = width * rng.uniform(0.2, 0.8), height * 0.86, height * 0.11
    color = (*(int(c) for c in rng.integers(30, 200, 3)), 255)
    for wx in (x - 1.5 * r, x + 1.5 * r):
        pen.ellipse((wx - r, y - r, wx + r, y + r), outline=(40, 40, 42, 255), width=max(2, round(r * 0.14)))
    frame = ((x - 1.5 * r, y), (x - 0.5 * r, y - 1.3 * r), (x + 1.1 * r, y - 1.3 * r), (x, y), (x - 1.5 * r, y))
    pen.line(frame, fill=color, width=max(3, round(r * 0.2)), joint="curve")
    pen.line(((x + 1.5 * r, y), (x + r, y - 1.9 * r)), fill=color, width=max(3, round(r * 0.18)))


def _pole(pen: ImageDraw.ImageDraw, rng: np.random.Generator, height: int, width: int) -> None:
    x, half = width * rng.choice((0.2, 0.32, 0.7, 0.82)), width * rng.uniform(0.03, 0.06)
    grey = int(rng.integers(60, 170))
    pen.rectangle((x - half, 0, x + half, height), fill=(grey, grey, grey + 4, 255))
    pen.rectangle((x - half, 0, x - half * 0.4, height), fill=(grey - 26, grey - 26, grey - 22, 255))


def _shrub(pen: ImageDraw.ImageDraw, rng: np.random.Generator, height: int, width: int) -> None:
    left = width * rng.uniform(-0.2, 0.5)
    for _ in range(46):
        x, y, r = (
            left + rng.uniform(0, 0.7) * width,
            height * rng.uniform(0.82, 1.0),
            height * rng.uniform(0.015, 0.045),
        )
        pen.ellipse(
            (x - r, y - r, x + r, y + r), fill=(int(rng.integers(36, 80)), int(rng.integers(80, 134)), 48, 255)
        )


def _boxes(pen: ImageDraw.ImageDraw, rng: np.random.Generator, height: int, width: int) -> None:
    x, y = width * rng.uniform(-0.1, 0.6), height * rng.uniform(0.78, 0.88)
    for row in range(2):
        wide, top = width * rng.uniform(0.35, 0.5), y + row * height * 0.1
        shade = int(rng.integers(120, 190))
        pen.rectangle(
            (x, top, x + wide, top + height * 0.12),
            fill=(shade, int(shade * 0.8), int(shade * 0.56), 255),
            outline=(80, 62, 44, 255),
        )


def _suitcase(pen: ImageDraw.ImageDraw, rng: np.random.Generator, height: int, width: int) -> None:
    x, wide, tall = width * rng.uniform(0.18, 0.62), width * rng.uniform(0.26, 0.38), height * rng.uniform(0.2, 0.3)
    base = height * rng.uniform(0.93, 1.02)
    shade = tuple(int(c) for c in rng.integers(40, 190, 3))
    dark, handle = (*(c // 2 for c in shade), 255), (96, 98, 102, 255)
    for rod in (x + wide * 0.3, x + wide * 0.7):
        pen.line(((rod, base - tall), (rod, base - tall * 1.5)), fill=handle, width=max(2, round(width * 0.015)))
    pen.line(
        ((x + wide * 0.26, base - tall * 1.5), (x + wide * 0.74, base - tall * 1.5)),
        fill=(50, 50, 54, 255),
        width=max(3, round(width * 0.03)),
    )
    pen.rounded_rectangle((x, base - tall, x + wide, base), wide * 0.1, fill=(*shade, 255), outline=dark, width=3)
    for rib in (0.28, 0.5, 0.72):
        pen.line(((x + wide * rib, base - tall * 0.94), (x + wide * rib, base - tall * 0.06)), fill=dark, width=2)


def _car(pen: ImageDraw.ImageDraw, rng: np.random.Generator, height: int, width: int) -> None:
    """A parked car seen from its side: it hides the legs, and only a part of it is in the picture."""
    top, left = height * rng.uniform(0.66, 0.78), -width * rng.uniform(0.1, 0.9)
    long, tall = width * 2.2, height * 0.4
    shade = _CAR_COLORS[int(rng.integers(len(_CAR_COLORS)))]
    dark = (*(int(c * 0.7) for c in shade), 255)
    roof = ((left + long * 0.2, top), (left + long * 0.3, top - tall * 0.42), (left + long * 0.66, top - tall * 0.42))
    pen.polygon((*roof, (left + long * 0.82, top)), fill=(*shade, 255))
    pane = (150, 172, 184, 150)
    for first, last in ((0.26, 0.46), (0.49, 0.74)):
        lean = 0.045 if first < 0.3 else 0.0
        pen.polygon(
            (
                (left + long * first, top),
                (left + long * (first + lean), top - tall * 0.35),
                (left + long * (last - (0.09 if not lean else 0.0)), top - tall * 0.35),
                (left + long * last, top),
            ),
            fill=pane,
        )
    pen.rounded_rectangle((left, top, left + long, top + tall * 0.7), tall * 0.14, fill=(*shade, 255))
    pen.rectangle((left, top + tall * 0.5, left + long, top + tall * 0.7), fill=dark)
    pen.line(((left + long * 0.475, top), (left + long * 0.475, top + tall * 0.6)), fill=dark, width=2)
    for wheel in (0.2, 0.8):
        x, y, r = left + long * wheel, top + tall * 0.7, tall * 0.27
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(34, 34, 36, 255))
        pen.ellipse((x - r * 0.5, y - r * 0.5, x + r * 0.5, y + r * 0.5), fill=(166, 168, 172, 255))


def _hedge(pen: ImageDraw.ImageDraw, rng: np.random.Generator, height: int, width: int) -> None:
    """A bush as high as the hips, across most of the picture."""
    top, left = height * rng.uniform(0.62, 0.76), width * rng.uniform(-0.3, 0.3)
    pen.rectangle((left + width * 0.06, top + height * 0.05, left + width * 0.86, height), fill=(44, 78, 42, 255))
    for _ in range(260):
        x, y = left + rng.uniform(0.02, 0.9) * width, rng.uniform(top, height)
        r, shade = height * rng.uniform(0.01, 0.026), int(rng.integers(70, 138))
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(shade // 2, shade, shade // 2, 255))


def _railing(pen: ImageDraw.ImageDraw, rng: np.random.Generator, height: int, width: int) -> None:
    top, grey = height * rng.uniform(0.62, 0.74), int(rng.integers(70, 180))
    color, thick = (grey, grey, grey + 6, 255), max(3, round(width * 0.025))
    for y in (top, height * 0.95):
        pen.line(((0, y), (width, y)), fill=color, width=thick * 2)
    for x in np.arange(rng.uniform(0, 0.12) * width, width, width * 0.13):
        pen.line(((x, top), (x, height)), fill=color, width=thick)


def _counter(pen: ImageDraw.ImageDraw, rng: np.random.Generator, height: int, width: int) -> None:
    """A table with things on it, from one side of the picture."""
    top, edge = height * rng.uniform(0.68, 0.8), width * rng.uniform(0.4, 0.75)
    from_left = rng.random() < 0.5
    left, right = (0, edge) if from_left else (width - edge, width)
    shade = int(rng.integers(120, 200))
    for x in np.arange(left + width * 0.05, right - width * 0.12, width * 0.13):
        goods = (*(int(c) for c in rng.integers(60, 235, 3)), 255)
        pen.rectangle((x, top - height * rng.uniform(0.03, 0.08), x + width * 0.1, top), fill=goods)
    pen.rectangle((left, top, right, top + height * 0.03), fill=(shade, int(shade * 0.88), int(shade * 0.7), 255))
    panel = (int(shade * 0.7), int(shade * 0.58), int(shade * 0.44), 255)
    pen.rectangle((left + width * 0.03, top + height * 0.03, right - width * 0.03, height), fill=panel)


Occluder = Callable[[ImageDraw.ImageDraw, np.random.Generator, int, int], None]

OCCLUDERS: Mapping[str, Occluder] = {
    "bicycle": _bicycle,
    "pole": _pole,
    "shrub": _shrub,
    "boxes": _boxes,
    "suitcase": _suitcase,
    "car": _car,
    "hedge": _hedge,
    "railing": _railing,
    "counter": _counter,
}
"""Things by name; each draws on a sheet of twice the size of the picture."""
