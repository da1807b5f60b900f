"""Places where synthetic people walk: panoramas built from layers, cut by view angle.

A scene is a tuple of layers in `SCENES`; each layer paints on a `Stage`. A panorama is painted once per scene, variant
and process. Each picture is a window of it, so that turning the camera turns the background too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mmet.data.synthetic.identity import RGB

PANORAMA_SIZE = (1080, 288)
"""Width (360 degrees) and height of a panorama in pixels."""

HORIZON = 0.42
"""Height of the horizon, as a share of the panorama from the top."""

VARIANTS = 4
"""Different panoramas painted of each scene."""

_SALT = 0x5CE2E


class Stage:
    """A panorama being painted: colours, and what shines at night."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.width, self.height = PANORAMA_SIZE
        self.horizon = round(self.height * HORIZON)
        self.image = Image.new("RGB", PANORAMA_SIZE, (176, 190, 200))
        self.glow = Image.new("L", PANORAMA_SIZE)
        self.pen = ImageDraw.Draw(self.image)
        self.glow_pen = ImageDraw.Draw(self.glow)

    def tone(self, color: RGB, spread: float = 0.1) -> RGB:
        """`color`, a little brighter or darker."""
        red, green, blue = (int(min(255, c * self.rng.uniform(1 - spread, 1 + spread))) for c in color)
        return red, green, blue

    def pick(self, colors: Sequence[RGB]) -> RGB:
        return colors[int(self.rng.integers(len(colors)))]

    def places(self, count: int) -> list[int]:
        """`count` x positions spread over the panorama, with jitter."""
        step = self.width / max(count, 1)
        return [int(step * (i + self.rng.uniform(0.1, 0.9))) for i in range(count)]

    def gradient(self, top: int, bottom: int, first: RGB, last: RGB, grain: float = 0.0) -> None:
        """Fill rows top..bottom from `first` to `last`, with random grain (standard deviation in grey levels)."""
        rows = np.linspace(0, 1, bottom - top)[:, None, None]
        band = np.asarray(first) * (1 - rows) + np.asarray(last) * rows + np.zeros((1, self.width, 1))
        if grain:
            band = band + self.rng.normal(0, grain, (bottom - top, self.width, 1))
        self.image.paste(Image.fromarray(band.clip(0, 255).astype(np.uint8)), (0, top))


Layer = Callable[[Stage], None]


def _sky(stage: Stage, top: RGB = (120, 168, 216), low: RGB = (206, 222, 234), clouds: int = 9) -> None:
    stage.gradient(0, stage.horizon + 40, top, low)
    for x in stage.places(clouds):
        y = stage.rng.uniform(4, stage.horizon * 0.6)
        for _ in range(5):
            dx, w, h = stage.rng.uniform(-34, 34), stage.rng.uniform(18, 44), stage.rng.uniform(6, 13)
            stage.pen.ellipse((x + dx - w, y - h, x + dx + w, y + h), fill=stage.tone((236, 240, 244), 0.03))


def _hills(stage: Stage, color: RGB, rise: int = 34) -> None:
    xs = np.arange(0, stage.width + 1, 12)
    waves = np.zeros(len(xs))
    for k in (2, 3, 5, 9):
        waves += np.sin(2 * np.pi * xs / stage.width * k + stage.rng.uniform(0, 6)) / k
    ys = stage.horizon - rise * (0.55 + 0.3 * waves)
    stage.pen.polygon(
        [(0, stage.horizon + 4), *zip(xs.tolist(), ys.tolist(), strict=True), (stage.width, stage.horizon + 4)],
        fill=color,
    )


def _facades(stage: Stage, colors: Sequence[RGB], storey: int = 46, shops: bool = True, gap: float = 0.0) -> None:
    """Houses with windows that shine at night; with shops they have awnings and show windows."""
    x, base = 0, stage.horizon + 22
    while x < stage.width:
        width = int(stage.rng.integers(80, 170))
        if stage.rng.random() >= gap:
            _house(stage, x, base, width, stage.tone(stage.pick(colors)), storey, shops)
        x += width


def _house(stage: Stage, x: int, base: int, width: int, color: RGB, storey: int, shops: bool) -> None:
    pen, rng = stage.pen, stage.rng
    top = -10 if shops or rng.random() < 0.4 else int(rng.integers(10, 46))
    pen.rectangle((x, top, x + width, base), fill=color, outline=stage.tone(color, 0.2))
    pane, frame = stage.tone((86, 104, 124), 0.2), stage.tone((224, 220, 212), 0.08)
    floor = base - (storey + 18)
    for row_bottom in range(floor - 8, top, -storey):
        for wx in range(x + 12, x + width - 24, 32):
            box = (wx, row_bottom - storey + 16, wx + 17, row_bottom)
            pen.rectangle(box, fill=pane, outline=frame, width=2)
            if rng.random() < 0.4:
                stage.glow_pen.rectangle(box, fill=int(rng.integers(110, 220)))
    if not shops:
        door = x + int(rng.integers(8, width - 30))
        pen.rectangle((door, base - 48, door + 22, base), fill=stage.tone((96, 60, 44), 0.4), outline=frame)
        return
    box = (x + 8, floor + 16, x + width - 8, base - 6)
    pen.rectangle(box, fill=stage.tone((112, 122, 128), 0.2), outline=stage.tone((60, 54, 50)), width=3)
    stage.glow_pen.rectangle(box, fill=int(rng.integers(140, 230)))
    for gx in range(x + 14, x + width - 18, 13):
        tall = int(rng.integers(10, 30))
        pen.rectangle((gx, base - 8 - tall, gx + 8, base - 8), fill=tuple(int(c) for c in rng.integers(50, 225, 3)))
    awning = tuple(int(c) for c in rng.integers(60, 215, 3))
    for index, ax in enumerate(range(x + 4, x + width - 4, 11)):
        pen.polygon(
            ((ax, floor), (ax + 11, floor), (ax + 11, floor + 19), (ax, floor + 19)),
            fill=awning if index % 2 else (236, 232, 224),
        )


def _bricks(stage: Stage, color: RGB = (150, 84, 66)) -> None:
    base = stage.horizon + 26
    stage.pen.rectangle((0, 0, stage.width, base), fill=stage.tone((178, 164, 150), 0.05))
    for row, y in enumerate(range(0, base, 10)):
        for x in range(-12 * (row % 2), stage.width, 24):
            stage.pen.rectangle((x, y, x + 22, y + 8), fill=stage.tone(color, 0.16))
    for x in stage.places(5):
        stage.pen.rectangle(
            (x, base - 96, x + 44, base), fill=stage.tone((70, 84, 76), 0.3), outline=(214, 208, 196), width=4
        )
        stage.pen.ellipse((x + 34, base - 50, x + 39, base - 45), fill=(220, 190, 90))
    for x in stage.places(6):
        stage.pen.rectangle((x, 24, x + 34, 70), fill=stage.tone((232, 226, 206), 0.1), outline=(90, 80, 70))
        stage.pen.rectangle((x + 5, 30, x + 29, 52), fill=tuple(int(c) for c in stage.rng.integers(60, 220, 3)))


def _glass(stage: Stage, color: RGB = (132, 164, 178)) -> None:
    base = stage.horizon + 24
    for x in range(0, stage.width, 48):
        for y in range(0, base, 54):
            stage.pen.rectangle((x, y, x + 48, y + 54), fill=stage.tone(color, 0.14), outline=(72, 82, 90), width=2)
            stage.pen.line((x + 6, y + 46, x + 34, y + 8), fill=stage.tone((196, 214, 222), 0.06), width=3)
            if stage.rng.random() < 0.3:
                stage.glow_pen.rectangle((x + 2, y + 2, x + 46, y + 52), fill=int(stage.rng.integers(90, 190)))


def _wall(stage: Stage, color: RGB = (214, 206, 192), skirting: RGB = (120, 110, 100)) -> None:
    base = stage.horizon + 28
    stage.gradient(0, base, color, stage.tone(color, 0.06), grain=1.5)
    stage.pen.rectangle((0, base - 12, stage.width, base), fill=skirting)
    for x in range(0, stage.width, 180):
        stage.pen.rectangle((x, 0, x + 26, base), fill=stage.tone(color, 0.12), outline=skirting)
    for x in stage.places(5):
        box = (x, 34, x + 46, 92)
        stage.pen.rectangle(
            box, fill=tuple(int(c) for c in stage.rng.integers(70, 230, 3)), outline=(60, 60, 64), width=3
        )
        stage.pen.ellipse((x + 10, 44, x + 36, 72), fill=tuple(int(c) for c in stage.rng.integers(90, 240, 3)))
    for x in range(60, stage.width, 120):
        stage.pen.rectangle((x, 6, x + 64, 12), fill=(250, 250, 240))
        stage.glow_pen.rectangle((x, 6, x + 64, 12), fill=255)


def _shelves(stage: Stage) -> None:
    base = stage.horizon + 34
    for y in range(8, base - 16, 27):
        x = 0
        while x < stage.width:
            width = int(stage.rng.integers(8, 17))
            tall = int(stage.rng.integers(13, 22))
            goods = tuple(int(c) for c in stage.rng.integers(60, 240, 3))
            stage.pen.rectangle((x, y + 22 - tall, x + width - 1, y + 22), fill=goods)
            x += width
        stage.pen.rectangle((0, y + 22, stage.width, y + 26), fill=(206, 206, 204))
    for x in range(0, stage.width, 216):
        stage.pen.rectangle((x, 0, x + 10, base), fill=(178, 180, 184))
    stage.pen.rectangle((0, base - 14, stage.width, base), fill=(150, 150, 154))


def _trees(stage: Stage, count: int = 12, leaf: RGB = (74, 116, 58), near: bool = False) -> None:
    for x in stage.places(count):
        size = stage.rng.uniform(0.8, 1.35) * (1.4 if near else 1.0)
        foot = stage.horizon + (26 if near else 10)
        trunk = int(5 * size)
        stage.pen.rectangle((x - trunk, foot - 74 * size, x + trunk, foot), fill=stage.tone((92, 68, 48), 0.2))
        for _ in range(16):
            dx, dy = stage.rng.normal(0, 20 * size), stage.rng.normal(0, 15 * size)
            r = stage.rng.uniform(10, 19) * size
            shade = stage.tone(leaf, 0.22)
            cx, cy = x + dx, foot - 88 * size + dy
            stage.pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=shade)


def _bushes(stage: Stage, count: int = 40, leaf: RGB = (68, 104, 56), flowers: bool = False) -> None:
    for x in stage.places(count):
        r = stage.rng.uniform(10, 22)
        y = stage.horizon + 14
        stage.pen.ellipse((x - r * 1.5, y - r, x + r * 1.5, y + r * 0.7), fill=stage.tone(leaf, 0.2))
        for _ in range(5 * flowers):
            fx, fy = x + stage.rng.uniform(-r, r), y + stage.rng.uniform(-r * 0.7, r * 0.3)
            stage.pen.ellipse(
                (fx - 2, fy - 2, fx + 2, fy + 2), fill=stage.pick(((240, 200, 70), (230, 110, 130), (245, 245, 240)))
            )


def _fence(stage: Stage, color: RGB = (196, 188, 172)) -> None:
    y = stage.horizon + 8
    for x in range(0, stage.width, 14):
        stage.pen.rectangle((x, y - 24, x + 7, y + 16), fill=stage.tone(color, 0.06))
    for dy in (-14, 4):
        stage.pen.rectangle((0, y + dy, stage.width, y + dy + 4), fill=color)


def _cars(stage: Stage, count: int = 7) -> None:
    for x in stage.places(count):
        y, color = (
            stage.horizon + 34,
            stage.pick(((178, 40, 38), (52, 82, 140), (206, 208, 210), (44, 46, 50), (222, 180, 60), (90, 120, 96))),
        )
        stage.pen.ellipse((x - 70, y + 14, x + 70, y + 26), fill=(62, 62, 64))
        stage.pen.rounded_rectangle((x - 66, y - 14, x + 66, y + 14), 10, fill=color)
        stage.pen.polygon(((x - 42, y - 13), (x - 26, y - 37), (x + 24, y - 37), (x + 46, y - 13)), fill=color)
        stage.pen.polygon(((x - 34, y - 14), (x - 22, y - 32), (x - 3, y - 32), (x - 3, y - 14)), fill=(120, 146, 162))
        stage.pen.polygon(((x + 3, y - 14), (x + 3, y - 32), (x + 22, y - 32), (x + 37, y - 14)), fill=(120, 146, 162))
        for wx in (x - 38, x + 38):
            stage.pen.ellipse((wx - 13, y + 1, wx + 13, y + 26), fill=(34, 34, 36))
            stage.pen.ellipse((wx - 6, y + 8, wx + 6, y + 19), fill=(170, 172, 176))
        stage.glow_pen.ellipse((x + 58, y - 8, x + 67, y), fill=255)


def _bikes(stage: Stage, count: int = 12) -> None:
    for x in stage.places(count):
        y, color = (
            stage.horizon + 34,
            stage.pick(((180, 50, 44), (44, 84, 140), (40, 42, 44), (60, 130, 96), (216, 170, 52))),
        )
        for wx in (x - 22, x + 22):
            stage.pen.ellipse((wx - 16, y - 14, wx + 16, y + 18), outline=(46, 46, 48), width=3)
        frame = ((x - 22, y + 2), (x - 8, y - 22), (x + 16, y - 22), (x, y + 2), (x - 22, y + 2))
        stage.pen.line(frame, fill=color, width=4)
        stage.pen.line(((x + 22, y + 2), (x + 14, y - 32), (x + 24, y - 34)), fill=color, width=3)
        stage.pen.line(((x - 15, y - 27), (x - 3, y - 27)), fill=(40, 36, 34), width=4)


def _lamps(stage: Stage, count: int = 5) -> None:
    for x in stage.places(count):
        stage.pen.rectangle((x - 3, 30, x + 3, stage.horizon + 30), fill=(70, 74, 78))
        stage.pen.rounded_rectangle((x - 9, 16, x + 9, 34), 5, fill=(244, 232, 196), outline=(70, 74, 78))
        for r, power in ((44, 60), (26, 120), (12, 255)):
            stage.glow_pen.ellipse((x - r, 25 - r, x + r, 25 + r), fill=power)


def _benches(stage: Stage, count: int = 5) -> None:
    for x in stage.places(count):
        y = stage.horizon + 36
        for dy in (-22, -12, 0):
            stage.pen.rectangle((x - 40, y + dy, x + 40, y + dy + 6), fill=stage.tone((146, 98, 60), 0.12))
        for dx in (-32, 28):
            stage.pen.rectangle((x + dx, y - 24, x + dx + 4, y + 22), fill=(60, 62, 64))


def _tents(stage: Stage, count: int = 6) -> None:
    for x in stage.places(count):
        y, color = (
            stage.horizon + 18,
            stage.pick(((196, 60, 54), (56, 104, 160), (232, 226, 214), (70, 140, 100), (226, 160, 60))),
        )
        for dx in (-56, 52):
            stage.pen.rectangle((x + dx, y - 60, x + dx + 4, y + 16), fill=(200, 200, 200))
        stage.pen.polygon(((x - 66, y - 52), (x, y - 94), (x + 66, y - 52)), fill=color)
        stage.pen.rectangle((x - 66, y - 52, x + 66, y - 40), fill=stage.tone(color, 0.25))
        for gx in range(x - 48, x + 44, 14):
            stage.pen.rectangle(
                (gx, y - 14, gx + 11, y + 4), fill=tuple(int(c) for c in stage.rng.integers(70, 235, 3))
            )
        stage.pen.rectangle((x - 56, y + 2, x + 56, y + 20), fill=stage.tone((150, 120, 92), 0.2))


def _water(stage: Stage, color: RGB = (92, 142, 168)) -> None:
    stage.gradient(stage.horizon - 8, stage.horizon + 40, (160, 190, 206), color)
    for x in stage.places(70):
        y = int(stage.rng.integers(stage.horizon - 4, stage.horizon + 36))
        stage.pen.line((x, y, x + int(stage.rng.integers(8, 28)), y), fill=stage.tone((206, 222, 230), 0.06))


def _ground(stage: Stage, near: RGB, far: RGB, pattern: str = "plain", start: int = 20, grain: float = 5.0) -> None:
    """The floor from below the horizon to the bottom; patterns shrink towards the horizon."""
    top = stage.horizon + start
    stage.gradient(top, stage.height, far, near, grain=grain)
    line = tuple(int(c * 0.84) for c in near)
    rows = top + (stage.height - top) * np.linspace(0.06, 1, 9) ** 1.8
    if pattern in {"slabs", "tiles", "planks"}:
        for y in rows:
            stage.pen.line((0, y, stage.width, y), fill=line, width=2)
    if pattern in {"slabs", "tiles"}:
        for first, last in pairwise(rows.tolist()):
            step = (last - first) * (2.2 if pattern == "slabs" else 1.4)
            shift = stage.rng.uniform(0, step) if pattern == "slabs" else 0.0
            for x in np.arange(shift, stage.width, max(step, 6)):
                stage.pen.line((x, first, x, last), fill=line, width=1)
    if pattern == "crossing":
        for y, deep in ((top + 34, 12), (top + 66, 20), (top + 108, 26)):
            for x in range(0, stage.width, 96):
                stage.pen.rectangle((x, y, x + 52, y + deep), fill=(226, 226, 220))
    if pattern == "blades":
        for _ in range(1500):
            x, y = stage.rng.uniform(0, stage.width), stage.rng.uniform(top, stage.height)
            stage.pen.line((x, y, x + int(stage.rng.integers(-2, 3)), y - 4), fill=stage.tone(near, 0.25))
    if pattern == "lane":
        stage.pen.rectangle((0, top + 8, stage.width, top + 12), fill=(222, 220, 212))
        for x in range(0, stage.width, 130):
            stage.pen.rectangle((x, top + 70, x + 70, top + 78), fill=(226, 206, 120))


def _strip(stage: Stage, color: RGB, top: int, bottom: int) -> None:
    """A path or kerb that runs across the picture."""
    stage.gradient(stage.horizon + top, stage.horizon + bottom, stage.tone(color, 0.04), color, grain=4.0)


_GREY_HOUSES = ((168, 156, 142), (188, 180, 168), (150, 132, 118), (176, 120, 96), (202, 192, 164))
_PASTEL_HOUSES = ((222, 196, 160), (206, 170, 150), (176, 192, 186), (226, 214, 186), (190, 150, 140))
_OFFICES = ((146, 156, 164), (168, 174, 178), (126, 138, 150))

SCENES: Mapping[str, tuple[Layer, ...]] = {
    "shopping street": (
        _sky,
        partial(_facades, colors=_PASTEL_HOUSES),
        partial(_ground, near=(166, 160, 152), far=(142, 138, 132), pattern="slabs"),
        _lamps,
    ),
    "crossing": (
        partial(_sky, top=(150, 178, 206)),
        partial(_facades, colors=_OFFICES, shops=False, storey=38),
        partial(_ground, near=(92, 94, 98), far=(108, 110, 114), pattern="crossing"),
        partial(_cars, count=3),
    ),
    "park": (
        _sky,
        partial(_hills, color=(98, 136, 92)),
        _trees,
        partial(_ground, near=(98, 140, 70), far=(120, 156, 84), pattern="blades", start=4),
        partial(_strip, color=(204, 186, 152), top=58, bottom=112),
        _benches,
        partial(_trees, count=4, near=True, leaf=(84, 130, 60)),
    ),
    "old town": (
        partial(_bricks),
        partial(_ground, near=(146, 136, 124), far=(122, 114, 106), pattern="slabs"),
        _lamps,
    ),
    "mountain trail": (
        partial(_sky, clouds=14),
        partial(_hills, color=(128, 148, 168), rise=62),
        partial(_hills, color=(92, 120, 98), rise=28),
        partial(_ground, near=(150, 128, 92), far=(120, 134, 84), pattern="blades", start=0),
        partial(_bushes, count=26, flowers=True),
    ),
    "office lobby": (
        _glass,
        partial(_ground, near=(196, 196, 194), far=(168, 172, 174), pattern="tiles", grain=2.0),
        partial(_bushes, count=5),
    ),
    "car park": (
        _sky,
        partial(_facades, colors=_OFFICES, shops=False, gap=0.4),
        partial(_ground, near=(104, 104, 106), far=(122, 122, 122), pattern="lane"),
        _cars,
    ),
    "lake shore": (
        partial(_sky, top=(126, 176, 220)),
        partial(_hills, color=(112, 146, 138), rise=26),
        _water,
        partial(_ground, near=(222, 200, 158), far=(198, 184, 150), start=36, grain=7.0),
        partial(_bushes, count=10, leaf=(116, 130, 74)),
    ),
    "suburb": (
        _sky,
        partial(_trees, count=9),
        partial(_facades, colors=_GREY_HOUSES, shops=False, gap=0.35),
        partial(_ground, near=(160, 156, 150), far=(106, 140, 82), start=18),
        _fence,
        partial(_strip, color=(168, 164, 158), top=60, bottom=160),
    ),
    "campus road": (
        partial(_sky, top=(150, 178, 206)),
        partial(_trees, count=20, leaf=(92, 122, 70)),
        partial(_facades, colors=((188, 170, 150), (172, 150, 132)), shops=False, gap=0.5),
        partial(_bushes, count=50),
        partial(_ground, near=(150, 148, 146), far=(132, 132, 130), pattern="slabs"),
        _bikes,
    ),
    "supermarket": (
        _shelves,
        partial(_ground, near=(214, 210, 200), far=(184, 182, 176), pattern="tiles", start=30, grain=2.0),
    ),
    "corridor": (
        _wall,
        partial(_ground, near=(178, 168, 152), far=(148, 140, 130), pattern="tiles", start=26, grain=2.0),
        partial(_bushes, count=4),
    ),
    "market square": (
        _sky,
        partial(_facades, colors=_GREY_HOUSES, shops=False),
        partial(_ground, near=(176, 166, 154), far=(150, 142, 132), pattern="slabs"),
        _tents,
    ),
    "station": (
        partial(_glass, color=(150, 158, 160)),
        partial(_ground, near=(168, 166, 162), far=(140, 140, 140), pattern="slabs"),
        partial(_strip, color=(220, 190, 70), top=40, bottom=48),
        _benches,
        _lamps,
    ),
    "boulevard": (
        partial(_sky, top=(150, 178, 206)),
        partial(_facades, colors=_GREY_HOUSES),
        partial(_ground, near=(140, 138, 136), far=(112, 112, 114), pattern="lane"),
        partial(_cars, count=5),
        partial(_trees, count=6, near=True),
    ),
    "underpass": (
        partial(_wall, color=(136, 138, 134), skirting=(88, 88, 86)),
        partial(_ground, near=(104, 104, 102), far=(84, 84, 84), pattern="slabs", start=24),
        partial(_strip, color=(190, 180, 96), top=36, bottom=42),
    ),
    "bus stop": (
        partial(_sky, top=(132, 150, 178), clouds=4),
        partial(_facades, colors=_OFFICES, gap=0.3),
        partial(_ground, near=(112, 112, 116), far=(96, 96, 100), pattern="lane"),
        _benches,
        partial(_lamps, count=7),
    ),
    "back street": (
        partial(_bricks, color=(126, 92, 84)),
        partial(_ground, near=(98, 96, 94), far=(80, 80, 80), pattern="slabs"),
        partial(_bikes, count=6),
        partial(_lamps, count=3),
    ),
    "petrol station": (
        partial(_sky, top=(128, 146, 176), clouds=3),
        partial(_glass, color=(120, 132, 138)),
        partial(_ground, near=(128, 128, 130), far=(110, 110, 112), pattern="lane"),
        partial(_cars, count=4),
        partial(_lamps, count=6),
    ),
    "loading bay": (
        partial(_facades, colors=((120, 122, 126), (104, 108, 112)), shops=False, storey=60),
        partial(_ground, near=(116, 114, 110), far=(98, 98, 96), pattern="plain"),
        partial(_fence, color=(150, 150, 152)),
    ),
    "airport hall": (
        partial(_glass, color=(176, 196, 208)),
        partial(_ground, near=(204, 204, 206), far=(176, 178, 182), pattern="tiles", grain=2.0),
        _benches,
    ),
    "library": (
        partial(_wall, color=(196, 176, 148), skirting=(110, 82, 58)),
        _shelves,
        partial(_ground, near=(150, 112, 82), far=(124, 92, 68), pattern="planks", start=30, grain=2.0),
    ),
    "mall": (
        partial(_facades, colors=((226, 222, 214), (214, 206, 204), (206, 216, 220))),
        partial(_ground, near=(222, 214, 202), far=(196, 190, 182), pattern="tiles", grain=2.0),
        partial(_bushes, count=4),
    ),
    "canteen": (
        partial(_wall, color=(222, 206, 166), skirting=(150, 112, 74)),
        partial(_ground, near=(176, 142, 108), far=(146, 118, 92), pattern="planks", start=26, grain=2.0),
        _benches,
        partial(_tents, count=2),
    ),
    "escalator": (
        partial(_wall, color=(188, 196, 204), skirting=(96, 104, 112)),
        partial(_glass, color=(150, 172, 186)),
        partial(_ground, near=(150, 154, 160), far=(122, 126, 132), pattern="planks", start=26, grain=2.0),
    ),
}
"""Scene name -> layers from back to front. The first nine are the source style's scenes p01..p09."""


@dataclass(frozen=True, slots=True)
class Panorama:
    """A painted scene: `rgb` and the lights in it, `glow`."""

    rgb: Image.Image
    glow: Image.Image


@cache
def panorama(scene: str, variant: int) -> Panorama:
    """Paint `scene`; equal arguments give equal pictures. Raises `ValueError` for an unknown scene."""
    if scene not in SCENES:
        raise ValueError(f"unknown scene {scene!r}; known: {', '.join(SCENES)}")
    stage = Stage(np.random.default_rng([_SALT, list(SCENES).index(scene), variant]))
    for layer in SCENES[scene]:
        layer(stage)
    soft = stage.image.filter(ImageFilter.GaussianBlur(0.9))
    return Panorama(soft, stage.glow.filter(ImageFilter.GaussianBlur(5)))


def backdrop(
    scene: str, *, variant: int, turn_degrees: float, zoom: float, drop: float, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """A window of a panorama at crop size.

    Args:
        variant: which panorama of the scene.
        turn_degrees: where the window starts on the full circle.
        zoom: window height over panorama height, 0..1; smaller is closer.
        drop: position of the window between the top (0) and the bottom (1) of the panorama.

    Returns:
        rgb float32 (H, W, 3) in 0..255, glow float32 (H, W) in 0..1, and the row of the horizon.
    """
    full = panorama(scene, variant)
    tall = full.rgb.height * zoom
    wide = min(tall * width / height, full.rgb.width)
    top = (full.rgb.height - tall) * drop
    left = (turn_degrees % 360) / 360 * (full.rgb.width - wide)
    box = (left, top, left + wide, top + tall)
    rgb = full.rgb.resize((width, height), Image.Resampling.BILINEAR, box=box)
    glow = full.glow.resize((width, height), Image.Resampling.BILINEAR, box=box)
    horizon = (full.rgb.height * HORIZON - top) / tall * height
    return np.array(rgb, dtype=np.float32), np.asarray(glow, dtype=np.float32) / np.float32(255), horizon
