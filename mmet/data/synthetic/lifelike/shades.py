"""Colours of clothes and hair as people name them: ranges of real cloth, mostly muted, each with its usual words.

shade = draw_cloth_name(rng)
draw_rgb(rng, shade), SHADES[shade].words      # a colour, and what people call it
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from mmet.data.synthetic.identity import RGB

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Shade:
    """A range of colours that people call by the same words.

    Attributes:
        basic: the closest of FineGPR's colour names.
        hue: degrees.
        saturation, value: 0..1.
        words: words for it; usual ones are listed more than once.
        near: shades that it may be confused with.
    """

    basic: str
    hue: Range
    saturation: Range
    value: Range
    words: tuple[str, ...]
    near: tuple[str, ...]


SHADES: Mapping[str, Shade] = {
    "black": Shade("black", (0, 360), (0.0, 0.22), (0.04, 0.15), ("black", "black", "black", "dark"), ("charcoal",)),
    "charcoal": Shade(
        "gray",
        (200, 250),
        (0.0, 0.14),
        (0.18, 0.31),
        ("charcoal", "dark gray", "dark grey", "dark"),
        ("black", "gray"),
    ),
    "gray": Shade("gray", (190, 250), (0.0, 0.12), (0.36, 0.58), ("gray", "grey", "grey"), ("charcoal", "light gray")),
    "light gray": Shade(
        "gray", (180, 250), (0.0, 0.09), (0.62, 0.78), ("light gray", "light grey", "silver", "pale gray"), ("gray",)
    ),
    "white": Shade(
        "white", (30, 230), (0.0, 0.06), (0.85, 0.98), ("white", "white", "white", "off-white"), ("cream",)
    ),
    "cream": Shade(
        "white",
        (36, 50),
        (0.09, 0.2),
        (0.83, 0.95),
        ("cream", "ivory", "off-white", "light beige"),
        ("beige", "white"),
    ),
    "beige": Shade(
        "brown",
        (30, 42),
        (0.2, 0.36),
        (0.6, 0.82),
        ("beige", "beige", "tan", "sand", "light brown"),
        ("cream", "camel"),
    ),
    "khaki": Shade(
        "brown", (42, 56), (0.22, 0.4), (0.42, 0.62), ("khaki", "khaki", "tan", "beige"), ("olive", "beige")
    ),
    "camel": Shade(
        "brown", (26, 34), (0.42, 0.6), (0.52, 0.7), ("camel", "tan", "light brown", "caramel"), ("beige", "brown")
    ),
    "brown": Shade(
        "brown",
        (14, 30),
        (0.42, 0.68),
        (0.23, 0.42),
        ("brown", "brown", "chestnut", "chocolate brown"),
        ("dark brown",),
    ),
    "dark brown": Shade(
        "brown", (8, 28), (0.3, 0.55), (0.11, 0.21), ("dark brown", "dark brown", "brown"), ("black", "brown")
    ),
    "olive": Shade(
        "green", (56, 82), (0.28, 0.5), (0.22, 0.42), ("olive", "olive green", "army green", "khaki green"), ("khaki",)
    ),
    "dark green": Shade(
        "green",
        (128, 166),
        (0.4, 0.72),
        (0.14, 0.32),
        ("dark green", "bottle green", "forest green", "green"),
        ("black", "green"),
    ),
    "green": Shade("green", (108, 152), (0.48, 0.78), (0.38, 0.66), ("green", "green", "emerald"), ("dark green",)),
    "lime": Shade(
        "green",
        (68, 96),
        (0.5, 0.82),
        (0.64, 0.88),
        ("lime green", "light green", "bright green"),
        ("yellow", "green"),
    ),
    "teal": Shade(
        "blue", (176, 192), (0.45, 0.82), (0.3, 0.58), ("teal", "turquoise", "blue-green"), ("green", "blue")
    ),
    "navy": Shade(
        "blue",
        (214, 238),
        (0.42, 0.75),
        (0.12, 0.29),
        ("navy", "navy blue", "dark blue", "dark blue"),
        ("black", "blue"),
    ),
    "blue": Shade(
        "blue",
        (208, 230),
        (0.58, 0.88),
        (0.42, 0.75),
        ("blue", "blue", "royal blue", "bright blue"),
        ("navy", "denim"),
    ),
    "denim": Shade("blue", (206, 222), (0.28, 0.58), (0.3, 0.62), ("blue", "blue", "denim blue"), ("navy", "gray")),
    "light blue": Shade(
        "blue",
        (198, 220),
        (0.18, 0.46),
        (0.7, 0.93),
        ("light blue", "light blue", "pale blue", "sky blue", "baby blue"),
        ("light gray", "blue"),
    ),
    "purple": Shade(
        "purple", (264, 292), (0.35, 0.64), (0.28, 0.56), ("purple", "purple", "violet", "plum"), ("navy", "burgundy")
    ),
    "lilac": Shade(
        "purple", (258, 288), (0.14, 0.32), (0.68, 0.88), ("lilac", "lavender", "light purple"), ("pink", "light gray")
    ),
    "pink": Shade(
        "red", (332, 352), (0.2, 0.46), (0.78, 0.96), ("pink", "pink", "light pink", "rose"), ("lilac", "magenta")
    ),
    "magenta": Shade(
        "red",
        (318, 338),
        (0.6, 0.88),
        (0.58, 0.86),
        ("magenta", "hot pink", "fuchsia", "bright pink"),
        ("pink", "red"),
    ),
    "red": Shade(
        "red",
        (-8, 6),
        (0.7, 0.94),
        (0.52, 0.86),
        ("red", "red", "red", "bright red", "scarlet", "crimson"),
        ("burgundy",),
    ),
    "burgundy": Shade(
        "red", (338, 358), (0.5, 0.78), (0.24, 0.43), ("burgundy", "maroon", "dark red", "wine red"), ("red", "brown")
    ),
    "orange": Shade(
        "red", (16, 28), (0.74, 0.94), (0.76, 0.96), ("orange", "orange", "bright orange"), ("red", "rust")
    ),
    "rust": Shade(
        "brown",
        (12, 20),
        (0.58, 0.78),
        (0.42, 0.62),
        ("rust", "brick red", "burnt orange", "reddish brown"),
        ("brown",),
    ),
    "yellow": Shade("yellow", (45, 56), (0.6, 0.92), (0.8, 0.96), ("yellow", "yellow", "bright yellow"), ("mustard",)),
    "mustard": Shade(
        "yellow",
        (38, 46),
        (0.58, 0.82),
        (0.54, 0.74),
        ("mustard", "mustard yellow", "dark yellow", "ochre"),
        ("yellow",),
    ),
}
"""Shades by name; FineGPR has no pink, orange or beige, so these have a neighbour as `basic`."""

Weights = Mapping[str, float]

_EVEN: Weights = dict.fromkeys((name for name in SHADES if name != "denim"), 1.0)

_STREET: Weights = {
    "black": 24, "charcoal": 9, "gray": 7, "light gray": 3, "white": 6, "cream": 2, "beige": 4, "khaki": 3,
    "camel": 3, "brown": 4, "dark brown": 6, "olive": 5, "dark green": 3, "navy": 13, "blue": 4, "light blue": 3,
    "burgundy": 3, "red": 3, "pink": 1.5, "purple": 1, "teal": 1, "mustard": 1, "rust": 1,
}  # fmt: skip

_MUTED_SHARE = 0.6

TROUSERS: Weights = {
    "black": 26, "charcoal": 12, "gray": 8, "light gray": 2, "white": 2, "cream": 2, "beige": 6, "khaki": 5,
    "camel": 2, "brown": 4, "dark brown": 5, "olive": 5, "navy": 14, "denim": 3, "blue": 2, "burgundy": 2,
    "red": 1, "green": 1, "dark green": 1, "pink": 0.7, "purple": 0.7, "mustard": 0.5, "teal": 0.5,
}  # fmt: skip

JEANS: Weights = {"denim": 9, "light blue": 3, "navy": 4, "black": 3, "gray": 1, "charcoal": 1.5, "white": 0.5}
DENIM: Weights = {"denim": 6, "light blue": 3, "navy": 2, "black": 1}
SUITS: Weights = {"black": 5, "charcoal": 5, "gray": 3, "navy": 6, "brown": 1, "beige": 1}
LEATHER: Weights = {"black": 7, "dark brown": 4, "brown": 3, "camel": 1, "burgundy": 0.5}
SHOES: Weights = {
    "black": 10, "dark brown": 4, "brown": 3, "gray": 2, "navy": 1.5, "camel": 1, "beige": 1, "white": 1,
    "red": 0.7,
}  # fmt: skip
TRAINERS: Weights = {
    "white": 9, "black": 6, "gray": 3, "light gray": 2, "navy": 1.5, "red": 1, "blue": 1, "pink": 1, "green": 0.5,
    "beige": 1, "yellow": 0.4, "lime": 0.4,
}  # fmt: skip
BAGS: Weights = {
    "black": 9, "dark brown": 3, "brown": 3, "camel": 2, "navy": 2, "gray": 2, "red": 1.5, "white": 1, "beige": 1.5,
    "olive": 1, "burgundy": 1, "blue": 1, "yellow": 0.7, "pink": 0.7, "green": 0.7, "orange": 0.5,
}  # fmt: skip

HAIR: Mapping[str, tuple[tuple[RGB, RGB], tuple[str, ...]]] = {
    "black": (((16, 14, 14), (34, 29, 28)), ("black", "black", "dark")),
    "dark brown": (((38, 27, 21), (58, 42, 32)), ("dark brown", "dark", "brown")),
    "brown": (((68, 46, 30), (98, 68, 44)), ("brown", "brown", "chestnut")),
    "light brown": (((116, 84, 54), (142, 108, 74)), ("light brown", "brown", "dark blonde")),
    "blonde": (((176, 142, 88), (222, 190, 136)), ("blonde", "blond", "fair", "light")),
    "ginger": (((136, 64, 26), (170, 88, 40)), ("ginger", "red", "auburn")),
    "gray": (((118, 116, 116), (160, 158, 156)), ("gray", "grey", "silver")),
    "white": (((192, 190, 186), (228, 226, 222)), ("white", "white", "silver")),
}
"""Hair colours: two ends of a range, and words."""

SKIN: tuple[tuple[RGB, float], ...] = (
    ((240, 205, 182), 0.16),
    ((226, 184, 155), 0.24),
    ((208, 162, 130), 0.2),
    ((184, 136, 102), 0.14),
    ((150, 106, 76), 0.1),
    ((112, 76, 54), 0.09),
    ((76, 52, 39), 0.07),
)


def draw_name(rng: np.random.Generator, weights: Weights) -> str:
    """A key of `weights` with its share."""
    place = rng.random() * sum(weights.values())
    return next(name for name, end in zip(weights, accumulate(weights.values()), strict=True) if place < end)


def draw_cloth_name(rng: np.random.Generator) -> str:
    """Draw a shade for the upper body: mostly by how common it is, sometimes uniformly."""
    return draw_name(rng, _STREET if rng.random() < _MUTED_SHARE else _EVEN)


def draw_rgb(rng: np.random.Generator, name: str) -> RGB:
    """A random colour of the shade `name`, as 8-bit sRGB."""
    shade = SHADES[name]
    hue, saturation, value = (rng.uniform(low, high) for low, high in (shade.hue, shade.saturation, shade.value))
    red, green, blue = colorsys.hsv_to_rgb((hue % 360) / 360, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def between(rng: np.random.Generator, first: RGB, last: RGB) -> RGB:
    """A colour between two others."""
    share = rng.random()
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, last, strict=True))
    return red, green, blue
