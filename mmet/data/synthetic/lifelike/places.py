"""Paint the places where lifelike people walk: ground in perspective, walls, shops, grass, cars, things.

A place is painted once per (name, variant) and process, as one wide picture at the scale of a person; every shot takes
a window of it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mmet.data.synthetic.identity import RGB

PLACE_SIZE = (840, 400)
"""Width and height of a place in pixels; a person in it is about 320 pixels tall and stands near row `FOOT_ROW`."""

FOOT_ROW = 372
_LEAST_BACK = 110
"""A wall or a row of cars with fewer rows than this in the picture is left out."""

_BODY = 320


@dataclass(frozen=True, slots=True)
class Ground:
    """Colour of the ground, its pattern (plain, slabs, bricks, tiles, planks), and its grain in grey levels."""

    color: RGB
    pattern: str = "plain"
    grain: float = 7.0


GROUNDS: Mapping[str, Ground] = {
    "asphalt": Ground((112, 112, 116), grain=8),
    "dark asphalt": Ground((74, 75, 79), grain=8),
    "pale asphalt": Ground((150, 149, 147), grain=8),
    "slabs": Ground((158, 152, 144), "slabs", 6),
    "grey slabs": Ground((126, 127, 128), "slabs", 6),
    "bricks": Ground((142, 98, 82), "bricks", 7),
    "sandstone": Ground((176, 160, 134), "slabs", 7),
    "grass": Ground((104, 116, 76), grain=13),
    "dry grass": Ground((134, 128, 82), grain=12),
    "gravel": Ground((148, 140, 128), grain=15),
    "concrete": Ground((164, 162, 156), grain=5),
    "hall tiles": Ground((192, 188, 180), "tiles", 3),
    "dark tiles": Ground((92, 92, 96), "tiles", 3),
    "lino": Ground((170, 160, 140), grain=3),
    "planks": Ground((150, 116, 84), "planks", 6),
    "carpet": Ground((96, 84, 92), grain=7),
    "snow": Ground((214, 218, 224), grain=6),
}

OUTDOOR = (
    "asphalt", "asphalt", "dark asphalt", "pale asphalt", "slabs", "grey slabs", "bricks", "sandstone", "grass",
    "gravel", "concrete", "dry grass", "snow",
)  # fmt: skip
INDOOR = ("hall tiles", "dark tiles", "lino", "planks", "carpet", "concrete", "hall tiles", "grey slabs")


def _bounded(value: float) -> int:
    return int(min(255.0, max(0.0, value)))


class _Site:
    """A place being painted; `vanish` is the row of the horizon, mostly far above the picture."""

    def __init__(self, rng: np.random.Generator, elevation: float) -> None:
        self.rng = rng
        self.width, self.height = PLACE_SIZE
        self.vanish = self.height * (0.2 - elevation / 24)
        self.slope = max(0.12, math.sin(math.radians(elevation)))
        self.image = Image.new("RGB", PLACE_SIZE)
        self.pen = ImageDraw.Draw(self.image)

    def tone(self, color: RGB, spread: float = 0.12) -> RGB:
        """`color`, brighter or darker, and a little warmer or cooler."""
        light, warm = self.rng.uniform(1 - spread, 1 + spread), self.rng.normal(0, 0.03)
        red, green, blue = color
        return _bounded(red * light * (1 + warm)), _bounded(green * light), _bounded(blue * light * (1 - warm))

    def color(self, low: int = 50, high: int = 215) -> RGB:
        """Any colour, mostly a dull one."""
        base, warm = self.rng.uniform(low, high), self.rng.normal(0, 0.1)
        vivid = self.rng.normal(0, 0.22, 3) * (self.rng.random() < 0.3)
        red, green, blue = (base * (1 + shift) for shift in vivid)
        return _bounded(red * (1 + warm)), _bounded(green), _bounded(blue * (1 - warm))

    def row(self, distance: float) -> float:
        """Row of the ground at a distance, 1 at the foot, larger further away."""
        return self.vanish + (FOOT_ROW - self.vanish) / max(distance, 0.05)

    def ahead(self, x: float, row: float) -> float:
        """Column at `row` of the line on the ground that runs away from the camera through `x` at the foot."""
        return self.width / 2 + (x - self.width / 2) * (row - self.vanish) / (FOOT_ROW - self.vanish)


def _paint_ground(site: _Site, ground: Ground) -> None:
    tall, wide = site.height, site.width
    rows = np.linspace(1.1, 0.92, tall)[:, None, None]
    rng = site.rng
    coarse = rng.normal(0, 1, (tall // 40 + 2, wide // 40 + 2)).astype(np.float32)
    patches = np.asarray(Image.fromarray(coarse).resize((wide, tall), Image.Resampling.BICUBIC), dtype=np.float32)
    fine = rng.normal(0, 1, (tall, wide)).astype(np.float32)
    base = np.asarray(ground.color, dtype=np.float32) * rng.uniform(0.85, 1.12) * rows
    shade = patches * np.float32(ground.grain * 0.9) + fine * np.float32(ground.grain)
    site.image.paste(Image.fromarray(np.clip(base + shade[..., None], 0, 255).astype(np.uint8)))
    if ground.pattern == "plain":
        return
    side = {"slabs": 0.34, "bricks": 0.13, "tiles": 0.28, "planks": 0.12}[ground.pattern] * _BODY
    side *= site.rng.uniform(0.75, 1.3)
    line = site.tone(ground.color, 0.05)
    line = (int(line[0] * 0.8), int(line[1] * 0.8), int(line[2] * 0.8))
    step = side * site.slope / (FOOT_ROW - site.vanish)
    for index in range(-60, 200):
        row = site.row(1 + index * step)
        if -2 < row < tall + 2:
            site.pen.line((0, row, wide, row), fill=line)
    if ground.pattern == "planks":
        return
    far = max(0.0, site.vanish + 4)
    reach = 2.6 if site.vanish < 0 else 8.0
    for x in np.arange(-reach * wide, reach * wide, side if ground.pattern != "bricks" else side * 2):
        site.pen.line((site.ahead(x, far), far, site.ahead(x, tall), tall), fill=line)


def _marks(site: _Site) -> None:
    """Painted lines, kerbs, repairs, covers: what lies on roads."""
    rng, pen = site.rng, site.pen
    for _ in range(int(rng.integers(0, 4))):
        kind = rng.random()
        color = ((214, 212, 204), (208, 180, 74), (70, 70, 74), (170, 168, 164))[int(rng.integers(4))]
        thick = int(rng.integers(5, 15))
        if kind < 0.45:
            row = site.row(float(rng.uniform(0.85, 2.6)))
            drift = rng.uniform(-40, 40)
            pen.line((0, row, site.width, row + drift), fill=color, width=thick)
            if rng.random() < 0.5:
                pen.line((0, row + 2.2 * thick, site.width, row + drift + 2.2 * thick), fill=color, width=thick)
        elif kind < 0.8:
            x = rng.uniform(0, site.width)
            top = max(0.0, site.vanish + 6)
            lean = rng.uniform(-250, 250)
            pen.line(
                (site.ahead(x, top) + lean, top, site.ahead(x, site.height), site.height), fill=color, width=thick
            )
        else:
            x, row, r = rng.uniform(0, site.width), rng.uniform(80, site.height), rng.uniform(12, 40)
            pen.ellipse((x - r, row - r * site.slope, x + r, row + r * site.slope), fill=site.tone((88, 86, 84)))


def _verge(site: _Site) -> None:
    """Another ground beside or behind the first, with a kerb."""
    rng = site.rng
    color = site.tone(GROUNDS[str(rng.choice(("grass", "grass", "bricks", "asphalt", "slabs", "gravel")))].color)
    if rng.random() < 0.5:
        near = site.row(float(rng.uniform(1.1, 2.2)))
        tilt = rng.uniform(-90, 90)
        edge = [(0.0, near - tilt), (float(site.width), near + tilt)]
        area = [(0, 0), (site.width, 0), edge[1], edge[0]]
    else:
        x, top = rng.uniform(0.1, 0.9) * site.width, max(0.0, site.vanish)
        side = 0 if rng.random() < 0.5 else site.width
        edge = [(site.ahead(x, top), top), (site.ahead(x, site.height), site.height)]
        area = [*edge, (side, site.height), (side, top)]
    sheet = Image.new("L", PLACE_SIZE)
    ImageDraw.Draw(sheet).polygon(area, fill=255)
    noise = rng.normal(0, 9, (site.height, site.width, 1)) + np.asarray(color)
    site.image.paste(Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)), (0, 0), sheet)
    site.pen.line(edge, fill=site.tone((176, 174, 168)), width=int(rng.integers(3, 9)))


# -- what stands at the back ------------------------------------------------------------------------------------------


def _shops(site: _Site, base: float) -> None:
    pen, rng, x = site.pen, site.rng, -40.0
    while x < site.width:
        wide = float(rng.integers(130, 280))
        wall = site.color(70, 200)
        pen.rectangle((x, 0, x + wide, base), fill=wall)
        sill = base - rng.uniform(10, 40)
        head = base - rng.uniform(190, 250)
        pen.rectangle(
            (x + 8, head, x + wide - 8, sill), fill=site.tone((58, 66, 74), 0.4), outline=site.color(30, 90), width=4
        )
        for gx in np.arange(x + 16, x + wide - 30, 24):
            tall = rng.uniform(15, 130)
            pen.rectangle((gx, sill - tall, gx + rng.uniform(8, 22), sill), fill=site.color(30, 230))
        pen.rectangle((x + 2, head - 38, x + wide - 2, head - 4), fill=site.color(30, 220))
        for gx in np.arange(x + 20, x + wide - 40, 14):
            if rng.random() < 0.6:
                pen.line((gx, head - 28, gx + 8, head - 14), fill=site.color(150, 250), width=4)
        if rng.random() < 0.5:
            door = x + rng.uniform(0.1, 0.6) * wide
            pen.rectangle(
                (door, head + 14, door + 58, base), fill=site.color(20, 150), outline=site.color(100, 220), width=4
            )
        x += wide


def _bricks(site: _Site, base: float) -> None:
    color = site.tone(((146, 92, 74), (170, 150, 126), (120, 116, 112))[int(site.rng.integers(3))])
    site.pen.rectangle((0, 0, site.width, base), fill=site.tone(color, 0.1))
    for row, y in enumerate(np.arange(base - 12, -12, -12)):
        for x in range(-15 * (row % 2), site.width, 30):
            site.pen.rectangle((x, y, x + 28, y + 10), fill=site.tone(color, 0.12))
    _windows(site, base)


def _windows(site: _Site, base: float) -> None:
    for x in np.arange(site.rng.uniform(0, 120), site.width, site.rng.uniform(120, 220)):
        if site.rng.random() < 0.7:
            tall, wide = site.rng.uniform(70, 150), site.rng.uniform(40, 90)
            box = (x, base - 70 - tall, x + wide, base - 70)
            site.pen.rectangle(box, fill=site.tone((64, 74, 84), 0.4), outline=site.color(120, 235), width=5)


def _hedge(site: _Site, base: float) -> None:
    site.pen.rectangle((0, 0, site.width, base), fill=site.tone((120, 134, 120), 0.3))
    top = base - site.rng.uniform(110, 260)
    leaf = site.tone((58, 78, 44), 0.25)
    site.pen.rectangle((0, top, site.width, base), fill=leaf)
    for _ in range(900):
        x, y, r = site.rng.uniform(0, site.width), site.rng.uniform(top - 12, base), site.rng.uniform(3, 11)
        site.pen.ellipse((x - r, y - r, x + r, y + r), fill=site.tone(leaf, 0.4))


def _glass(site: _Site, base: float) -> None:
    pane = site.tone((106, 124, 134), 0.3)
    for x in np.arange(-20, site.width, site.rng.uniform(70, 130)):
        for y in np.arange(base, -150, -150):
            site.pen.rectangle((x, y - 150, x + 128, y), fill=site.tone(pane, 0.2), outline=(60, 64, 68), width=5)
            site.pen.line((x + 12, y - 30, x + 50, y - 120), fill=site.tone((190, 204, 210), 0.1), width=6)
    for _ in range(5):  # reflections
        x, y, r = site.rng.uniform(0, site.width), base - site.rng.uniform(40, 200), site.rng.uniform(20, 60)
        site.pen.ellipse((x - r, y - 2 * r, x + r, y + r), fill=site.tone(pane, 0.35))


def _plain_wall(site: _Site, base: float) -> None:
    color = site.color(110, 225)
    site.pen.rectangle((0, 0, site.width, base), fill=color)
    site.pen.rectangle((0, base - site.rng.uniform(8, 24), site.width, base), fill=site.tone(color, 0.35))
    for _ in range(int(site.rng.integers(2, 7))):
        x, y = site.rng.uniform(0, site.width), base - site.rng.uniform(120, 260)
        wide, tall = site.rng.uniform(30, 120), site.rng.uniform(30, 110)
        site.pen.rectangle((x, y, x + wide, y + tall), fill=site.color(20, 240), outline=site.color(40, 120), width=3)
    if site.rng.random() < 0.6:
        for x in np.arange(site.rng.uniform(0, 200), site.width, 300):
            site.pen.rectangle(
                (x, base - 240, x + 96, base), fill=site.color(50, 190), outline=site.color(30, 90), width=4
            )


def _cars(site: _Site, base: float) -> None:
    back, above = (_bricks, 90) if site.rng.random() < 0.4 else (_hedge, 60)
    back(site, base - above)
    site.pen.rectangle((0, base - 90, site.width, base), fill=site.tone((92, 92, 96)))
    x = site.rng.uniform(-200, 0)
    while x < site.width:
        _car(site, x, base + site.rng.uniform(-16, 16))
        x += site.rng.uniform(340, 460)


def _car(site: _Site, x: float, base: float) -> None:
    pen = site.pen
    color = ((150, 42, 40), (48, 74, 124), (198, 200, 202), (44, 46, 50), (118, 120, 124), (84, 108, 90), (22, 24, 28))
    paint = site.tone(color[int(site.rng.integers(len(color)))])
    pen.ellipse((x - 10, base - 16, x + 330, base + 16), fill=(48, 48, 50))
    pen.rounded_rectangle((x, base - 92, x + 320, base - 16), 26, fill=paint)
    pen.polygon(((x + 52, base - 90), (x + 96, base - 146), (x + 226, base - 146), (x + 276, base - 90)), fill=paint)
    glass = site.tone((70, 84, 94), 0.3)
    pen.polygon(((x + 70, base - 92), (x + 104, base - 136), (x + 156, base - 136), (x + 156, base - 92)), fill=glass)
    pen.polygon(((x + 166, base - 92), (x + 166, base - 136), (x + 220, base - 136), (x + 256, base - 92)), fill=glass)
    pen.line((x, base - 58, x + 320, base - 58), fill=site.tone(paint, 0.3), width=3)
    for wheel in (x + 64, x + 252):
        pen.ellipse((wheel - 34, base - 50, wheel + 34, base + 14), fill=(30, 30, 32))
        pen.ellipse((wheel - 17, base - 34, wheel + 17, base - 2), fill=(140, 142, 146))


def _shelves(site: _Site, base: float) -> None:
    site.pen.rectangle((0, 0, site.width, base), fill=site.color(120, 200))
    for y in np.arange(base - 58, -60, -site.rng.uniform(50, 70)):
        x = 0.0
        while x < site.width:
            wide, tall = site.rng.uniform(10, 34), site.rng.uniform(22, 46)
            site.pen.rectangle((x, y + 44 - tall, x + wide - 2, y + 44), fill=site.color(40, 235))
            x += wide
        site.pen.rectangle((0, y + 44, site.width, y + 50), fill=(196, 196, 192))


def _open_view(site: _Site, base: float) -> None:
    """Far away: sky or trees in haze."""
    site.pen.rectangle((0, 0, site.width, base), fill=site.color(150, 230))
    for _ in range(14):
        x, r = site.rng.uniform(0, site.width), site.rng.uniform(30, 90)
        site.pen.ellipse((x - r, base - 1.6 * r, x + r, base + 20), fill=site.tone((112, 124, 104), 0.25))
    for _ in range(5):
        x, wide, tall = site.rng.uniform(0, site.width), site.rng.uniform(60, 200), site.rng.uniform(60, 260)
        site.pen.rectangle((x, base - tall, x + wide, base), fill=site.color(90, 190))


Backing = Callable[[_Site, float], None]

_STREET_BACKS: Sequence[Backing] = (_shops, _shops, _bricks, _hedge, _glass, _plain_wall, _cars, _cars, _open_view)
_HALL_BACKS: Sequence[Backing] = (_plain_wall, _glass, _shelves, _shops, _plain_wall)


# -- things -----------------------------------------------------------------------------------------------------------


def _things(site: _Site) -> None:
    """Bins, bollards, benches, signs, posts, boards, plants."""
    rng, pen = site.rng, site.pen
    for _ in range(int(rng.integers(1, 6))):
        x, row = rng.uniform(0, site.width), site.row(float(rng.uniform(1.0, 2.2)))
        size = _BODY * (row - site.vanish) / (FOOT_ROW - site.vanish)
        kind, color = rng.integers(6), site.color(30, 210)
        if kind == 0:
            pen.rectangle((x, row - 0.55 * size, x + 0.26 * size, row), fill=color, outline=site.tone(color, 0.5))
        elif kind == 1:
            pen.rectangle((x, row - 0.5 * size, x + 0.07 * size, row), fill=color)
        elif kind == 2:
            for dy in (0.1, 0.2, 0.3):
                pen.rectangle(
                    (x, row - dy * size, x + 0.9 * size, row - (dy - 0.06) * size), fill=site.tone((120, 88, 60))
                )
        elif kind == 3:
            pen.rectangle((x, row - 1.5 * size, x + 0.03 * size, row), fill=(112, 114, 116))
            bright = (int(rng.integers(0, 255)), int(rng.integers(0, 255)), int(rng.integers(0, 255)))
            pen.rectangle((x - 0.14 * size, row - 1.5 * size, x + 0.17 * size, row - 1.15 * size), fill=bright)
        elif kind == 4:
            pen.rectangle((x, row - 2 * size, x + 0.06 * size, row), fill=site.tone((90, 92, 94), 0.3))
        else:
            for _ in range(40):
                dx, dy, r = rng.normal(0, 0.14), rng.uniform(0.1, 0.7), rng.uniform(0.02, 0.07) * size
                px, py = x + dx * size, row - dy * size
                pen.ellipse((px - r, py - r, px + r, py + r), fill=site.tone((66, 90, 50), 0.35))


def _shadows(site: _Site) -> None:
    """Large soft shadows of what is outside the picture."""
    sheet = Image.new("L", PLACE_SIZE)
    pen = ImageDraw.Draw(sheet)
    for _ in range(int(site.rng.integers(1, 4))):
        x, wide, lean = site.rng.uniform(-200, site.width), site.rng.uniform(80, 420), site.rng.uniform(-300, 300)
        area = ((x, 0), (x + wide, 0), (x + wide + lean, site.height), (x + lean, site.height))
        pen.polygon(area, fill=int(site.rng.integers(60, 130)))
    dark = Image.eval(sheet.filter(ImageFilter.GaussianBlur(5)), lambda value: 255 - value)
    pixels = np.asarray(site.image, dtype=np.float32) * (np.asarray(dark, dtype=np.float32) / 255)[..., None]
    site.image.paste(Image.fromarray(pixels.astype(np.uint8)))


@cache
def place(name: str, variant: int, elevation: float, indoor: bool) -> Image.Image:
    """The place called `name`, as a camera sees it that looks down by `elevation` degrees: RGB, `PLACE_SIZE`."""
    rng = np.random.default_rng([zlib.crc32(name.encode("utf-8")), variant])
    site = _Site(rng, elevation)
    grounds = INDOOR if indoor else OUTDOOR
    _paint_ground(site, GROUNDS[grounds[int(rng.integers(len(grounds)))]])
    if not indoor and rng.random() < 0.55:
        _verge(site)
    if not indoor or rng.random() < 0.3:
        _marks(site)
    if rng.random() < 1.25 - elevation / 26:
        base = site.row(float(rng.uniform(1.15, 2.0)))
        backs = _HALL_BACKS if indoor else _STREET_BACKS
        if base > _LEAST_BACK:
            backs[int(rng.integers(len(backs)))](site, base)
    if rng.random() < 0.7:
        _things(site)
    if rng.random() < (0.25 if indoor else 0.45):
        _shadows(site)
    return site.image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 1.6))))


@cache
def place_at(name: str, variant: int, elevation: float, indoor: bool, zoom: float) -> Image.Image:
    """A place made `zoom` times as large."""
    size = (round(PLACE_SIZE[0] * zoom), round(PLACE_SIZE[1] * zoom))
    return place(name, variant, elevation, indoor).resize(size, Image.Resampling.BILINEAR)
