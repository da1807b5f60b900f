"""The label map that a person is painted on: parts and shading levels in integers, shapes, and the camera's view.

A pixel holds `LEVELS * part + level`; level 0 is dark, 3 light. Limbs are tubes along a spine, bodies are stacks of
horizontal slices, and each is painted as nested outlines that round it off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from PIL import Image, ImageDraw

LEVELS = 4

_BANDS = ((0, 1.0, 0.0), (1, 0.84, 0.06), (2, 0.60, 0.16), (3, 0.24, 0.30))
"""(level, share of the radius, shift towards the light) of the nested outlines that shade a part."""

Point = tuple[float, float, float]


class Part(IntEnum):
    """What a pixel shows. 0 is background."""

    SKIN = 1
    FACE = 2
    HAIR = 3
    EYE = 4
    BROW = 5
    MOUTH = 6
    UPPER = 7
    UPPER2 = 8
    SLEEVE = 9
    SLEEVE2 = 10
    INNER = 11
    LOWER = 12
    LOWER2 = 13
    LEGWEAR = 14
    SHOE = 15
    SOLE = 16
    BAG = 17
    BAG2 = 18
    HAT = 19
    HAT2 = 20
    RIM = 21
    LENS = 22
    SCARF = 23
    TRIM = 24
    TROUSER_LEG = 25
    EYE_WHITE = 26
    NOSE = 27
    THING = 28


class Canvas:
    """The label map, and the shapes to draw on it: tubes along a spine, stacks of slices, ellipses, polygons."""

    def __init__(self, height: int, width: int, light: float) -> None:
        self.image = Image.new("L", (width, height))
        self.pen = ImageDraw.Draw(self.image)
        self.light = light

    def polygon(self, points: Sequence[tuple[float, float]], part: Part, level: int = 2) -> None:
        """A flat polygon of one shading level."""
        self.pen.polygon(points, fill=LEVELS * part + level)

    def disc(self, x: float, y: float, rx: float, ry: float, part: Part) -> None:
        """A shaded ellipse."""
        for level, share, shift in _BANDS:
            cx, cy = x + self.light * shift * rx, y - 0.5 * shift * ry
            a, b = max(share * rx, 0.5), max(share * ry, 0.5)
            self.pen.ellipse((cx - a, cy - b, cx + a, cy + b), fill=LEVELS * part + level)

    def tube(self, spine: Sequence[tuple[float, float]], radii: Sequence[float], part: Part) -> None:
        """A shaded limb with round ends; `radii` in pixels, one for each point of `spine`."""
        normals = _normals(spine)
        for level, share, shift in _BANDS:
            fill = LEVELS * part + level
            shifted = [(x + self.light * shift * r, y) for (x, y), r in zip(spine, radii, strict=True)]
            left = [
                (x + nx * r * share, y + ny * r * share)
                for (x, y), (nx, ny), r in zip(shifted, normals, radii, strict=True)
            ]
            right = [
                (x - nx * r * share, y - ny * r * share)
                for (x, y), (nx, ny), r in zip(shifted, normals, radii, strict=True)
            ]
            self.pen.polygon(left + right[::-1], fill=fill)
            for (x, y), r in zip(shifted, radii, strict=True):
                if (reach := r * share) >= 1.5:
                    self.pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=fill)

    def stack(self, slices: Sequence[tuple[float, float, float]], part: Part) -> None:
        """A shaded body of horizontal slices (centre x, y, half width), top to bottom."""
        for level, share, shift in _BANDS:
            left = [(x + self.light * shift * w - w * share, y) for x, y, w in slices]
            right = [(x + self.light * shift * w + w * share, y) for x, y, w in slices]
            self.pen.polygon(left + right[::-1], fill=LEVELS * part + level)


class View:
    """Orthographic projection of body coordinates to label-map pixels."""

    def __init__(self, yaw: float, elevation: float, scale: float, foot: tuple[float, float]) -> None:
        self.yaw, self.scale, self.foot = yaw, scale, foot
        self.cos, self.sin = math.cos(yaw), math.sin(yaw)
        self.rise, self.drop = math.cos(elevation), math.sin(elevation)

    def depth(self, point: Point) -> float:
        """Distance towards the camera, in body heights."""
        return point[2] * self.cos - point[0] * self.sin

    def __call__(self, point: Point) -> tuple[float, float]:
        x, y, z = point
        across = x * self.cos + z * self.sin
        down = self.drop * self.depth(point) - self.rise * y
        return self.foot[0] + self.scale * across, self.foot[1] + self.scale * down

    def half_width(self, width: float, depth: float) -> float:
        """Projected half width in pixels of an elliptic slice."""
        return self.scale * math.hypot(width * self.cos, depth * self.sin)


def _normals(spine: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Unit normals of a polyline at its points."""
    normals = []
    for index in range(len(spine)):
        before, after = spine[max(index - 1, 0)], spine[min(index + 1, len(spine) - 1)]
        dx, dy = after[0] - before[0], after[1] - before[1]
        length = math.hypot(dx, dy) or 1.0
        normals.append((-dy / length, dx / length))
    return normals


def towards(start: tuple[float, float], end: tuple[float, float], share: float) -> tuple[float, float]:
    """The point at a share of the way from `start` to `end`."""
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def part_at(labels: np.ndarray, x: float, y: float) -> int:
    """The part that a label map shows at a place; 0 outside it."""
    inside = 0 <= x < labels.shape[1] and 0 <= y < labels.shape[0]
    return int(labels[int(y), int(x)]) // LEVELS if inside else 0


def window(shape: tuple[int, ...], left: float, top: float, right: float, bottom: float) -> tuple[slice, slice]:
    """Row and column slices of a box, clipped to an array of `shape`."""
    rows = slice(min(max(0, int(top)), shape[0]), max(0, min(shape[0], int(bottom) + 2)))
    cols = slice(min(max(0, int(left)), shape[1]), max(0, min(shape[1], int(right) + 2)))
    return rows, cols
