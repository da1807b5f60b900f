"""Colour a finished relief: openings, collars and patterns in body coordinates, then folds, shine and light.

shaded = shade(relief, body, lens, light, rng)
shaded.rgb, shaded.parts
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageFilter

from mmet.data.synthetic.canvas import Part
from mmet.data.synthetic.identity import RGB
from mmet.data.synthetic.lifelike.body import Body, Role, Surface
from mmet.data.synthetic.lifelike.people import Garment, Look
from mmet.data.synthetic.lifelike.relief import Lens, Relief


@dataclass(frozen=True, slots=True)
class LightSource:
    """Where the light comes from (right, down, towards the camera) and how much of it is direct."""

    direction: tuple[float, float, float]
    direct: float
    ambient: float


@dataclass(frozen=True, slots=True)
class Shaded:
    """A coloured person: `rgb` uint8 (h, w, 3), black outside; `parts` uint8 (h, w), `Part` or 0; `corner` (top, left)
    of this window in the relief."""

    rgb: np.ndarray
    parts: np.ndarray
    corner: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Texture:
    """How a material folds (share of the light) and shines."""

    folds: float
    grain: float = 0.0
    shine: float = 0.0


TEXTURES: Mapping[str, Texture] = {
    "none": Texture(0.0),
    "smooth": Texture(0.055, 0.02),
    "knit": Texture(0.035, 0.06),
    "denim": Texture(0.05, 0.05),
    "leather": Texture(0.11, 0.04, 70.0),
    "padded": Texture(0.04, 0.02, 12.0),
    "heavy": Texture(0.05, 0.035),
    "skin": Texture(0.03, 0.02, 6.0),
    "hair": Texture(0.05, 0.07, 10.0),
    "hard": Texture(0.0, 0.02, 14.0),
}
_CODES = {name: code for code, name in enumerate(TEXTURES)}
_FOLDS, _GRAIN, _SHINE = (
    np.array([getattr(texture, field) for texture in TEXTURES.values()], dtype=np.float32)
    for field in ("folds", "grain", "shine")
)
_FIELD = 512
_FIELD_BODY = 220.0
"""Pixels of a body height at which the fields of folds and grain are as they should be."""


class _Paint:
    """The materials of one picture, which zones may add to, and the material of each pixel."""

    def __init__(self, surfaces: list[Surface], numbers: np.ndarray) -> None:
        self.parts = [int(surface.part) for surface in surfaces]
        self.colors: list[RGB] = [surface.rgb for surface in surfaces]
        self.textures = [_CODES[surface.texture] for surface in surfaces]
        self.parts[0] = 0
        self.of_pixel = numbers.ravel().copy()

    def add(self, part: Part, rgb: RGB, texture: str) -> int:
        self.parts.append(int(part))
        self.colors.append(rgb)
        self.textures.append(_CODES[texture])
        return len(self.colors) - 1


def shade(relief: Relief, body: Body, lens: Lens, light: LightSource, rng: np.random.Generator) -> Shaded | None:
    """Colour the person in a relief; None where nothing is in the picture."""
    box = Image.fromarray(relief.surface).getbbox()
    if box is None:
        return None
    left, top, right, bottom = box
    window = slice(top, bottom), slice(left, right)
    numbers = relief.surface[window]
    nx, ny, along = relief.nx[window], relief.ny[window], relief.along[window]
    paint = _Paint(body.surfaces, numbers)
    roles = np.array([surface.role for surface in body.surfaces], dtype=np.uint8)[numbers].ravel()
    glow = np.ones(numbers.size, dtype=np.float32)
    fields = (nx.ravel(), ny.ravel(), along.ravel() - np.float32(body.joints.lift))
    _torso(paint, roles, glow, fields, body, lens)
    _sleeves(paint, roles, glow, fields, body)
    _lower(paint, roles, glow, fields, body, lens)
    _face(paint, roles, fields, body, lens)
    materials = paint.of_pixel.reshape(numbers.shape)
    rgb = _lit(materials, paint, nx, ny, relief.depth[window], glow.reshape(numbers.shape), lens, light, rng)
    return Shaded(rgb, np.array(paint.parts, dtype=np.uint8)[materials], (top, left))


# -- light -----------------------------------------------------------------------------------------------------------


def _lit(
    materials: np.ndarray, paint: _Paint, nx: np.ndarray, ny: np.ndarray, depth: np.ndarray, glow: np.ndarray,
    lens: Lens, light: LightSource, rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Colours under the light, with folds, grain, shine and the shade of what is close in front."""
    codes = np.array(paint.textures, dtype=np.uint8)
    nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0))
    lx, ly, lz = light.direction
    towards = nx * np.float32(lx)
    towards += ny * np.float32(ly)
    towards += nz * np.float32(lz)
    level = np.maximum(towards, 0)
    level *= np.float32(light.direct)
    level += np.float32(light.ambient)
    level -= ny * np.float32(0.12)  # the sky is brighter than the ground
    level *= 0.72 + 0.28 * nz
    folds, grain = _fields(rng, materials.shape, lens.scale)
    level *= 1 + folds * _FOLDS[codes][materials] + grain * _GRAIN[codes][materials]
    level *= _recesses(depth, lens.scale)
    level *= glow
    shine = _SHINE[codes][materials]
    shine *= np.maximum(towards - np.float32(0.55), 0) * (1 + folds)
    rgb: np.ndarray = np.array(paint.colors, dtype=np.float32)[materials]
    rgb *= level[..., None]
    rgb += shine[..., None]
    np.clip(rgb, 0, 255, out=rgb)
    rgb *= (materials > 0)[..., None]
    return rgb.astype(np.uint8)


def _recesses(depth: np.ndarray, scale: float) -> np.ndarray:
    """Factor on the light: dark where surfaces close by are nearer to the camera."""
    inside = depth > -np.inf
    low = float(depth[inside].min())
    reach = 0.5 * scale
    flat = np.where(inside, (depth - low) * np.float32(200 / reach), 0)
    image = Image.fromarray(np.clip(flat, 0, 255).astype(np.uint8))
    around = np.asarray(image.filter(ImageFilter.BoxBlur(max(1.0, 0.022 * scale))), dtype=np.float32)
    behind = np.clip(around - flat, 0, 40)
    behind *= np.float32(-0.011)
    behind += 1
    return behind


@cache
def _noise(kind: str) -> Image.Image:
    """Folds (ridges along and across the body) or grain, as an 8-bit field about 128."""
    rng = np.random.default_rng(7 if kind == "folds" else 11)
    if kind == "grain":
        image = Image.fromarray(rng.integers(0, 256, (_FIELD, _FIELD), dtype=np.uint8))
        values = np.asarray(image.filter(ImageFilter.GaussianBlur(0.8)), dtype=np.float32)
    else:
        values = np.zeros((_FIELD, _FIELD), dtype=np.float32)
        for angle, share in ((20, 1.0), (-30, 1.0), (60, 1.0), (85, 0.7), (-65, 1.0)):
            side = 2 * _FIELD
            raw = Image.fromarray(rng.integers(0, 256, (side // 5, side // 22), dtype=np.uint8))
            streaks = raw.resize((side, side), Image.Resampling.BICUBIC).rotate(angle, Image.Resampling.BILINEAR)
            start = _FIELD // 2
            cut = np.asarray(streaks.crop((start, start, start + _FIELD, start + _FIELD)), dtype=np.float32)
            cut = (cut - cut.mean()) / cut.std()
            values += np.float32(share) * np.sign(cut) * np.abs(cut) ** 1.6
    values = (values - values.mean()) / values.std()
    return Image.fromarray(np.clip(128 + 42 * values, 0, 255).astype(np.uint8))


@cache
def _field(kind: str, zoom: int) -> np.ndarray:
    """The noise `zoom` hundredths as large, deviation about 1, float32."""
    image = _noise(kind)
    if kind == "folds":
        side = round(_FIELD * zoom / 100)
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    return (np.asarray(image, dtype=np.float32) - 128) / np.float32(42)


def _fields(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Folds and grain at a random place of their fields, at the size of the body."""
    zoom = round(100 * scale / _FIELD_BODY)
    first, second = (_window(rng, _field(kind, zoom), shape) for kind in ("folds", "grain"))
    return first, second


def _window(rng: np.random.Generator, field: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A random part of `field`, which is repeated where it is smaller than `shape`."""
    repeats = [-(-side // have) for side, have in zip(shape, field.shape, strict=True)]
    if max(repeats) > 1:
        field = np.tile(field, repeats)
    top, left = (int(rng.integers(have - side + 1)) for side, have in zip(shape, field.shape, strict=True))
    return field[top : top + shape[0], left : left + shape[1]]


# -- garments --------------------------------------------------------------------------------------------------------

Fields = tuple[np.ndarray, np.ndarray, np.ndarray]


def _around(nx: np.ndarray, yaw: float) -> np.ndarray:
    """Azimuth on the body: 0 at the front, positive to the person's left, -pi..pi."""
    angle: np.ndarray = np.arcsin(np.clip(nx, -1, 1))
    angle -= np.float32(yaw)
    angle -= np.float32(2 * np.pi) * np.rint(angle * np.float32(0.5 / np.pi))
    return angle


def _torso(paint: _Paint, roles: np.ndarray, glow: np.ndarray, fields: Fields, body: Body, lens: Lens) -> None:
    where = np.flatnonzero(roles == Role.TORSO)
    if not where.size:
        return
    look, garment = body.look, body.look.outermost
    angle, v = _around(fields[0][where], lens.yaw), fields[2][where]
    off = np.abs(angle)
    material = paint.of_pixel[where]
    _pattern(paint, material, garment, Part.UPPER2, angle, v)
    _front(paint, material, look, garment, off, v)
    if look.bag is not None:
        strap = paint.add(Part.BAG, look.bag.rgb, "heavy")
        if look.bag.kind == "backpack":
            material[(np.abs(off - 0.72) < 0.17) & (v > 0.62)] = strap
        elif look.bag.kind == "crossbody bag":
            along = 0.66 - look.side * np.sin(angle) * 0.15
            material[np.abs(v - along) < 0.011] = strap
    paint.of_pixel[where] = material
    dark = 1 - 0.22 * ((v < garment.hem + 0.012) & (v > garment.hem - 0.05))
    if garment.cut.texture == "padded":
        dark *= _quilts(v, garment)
    elif garment.warm_pockets:
        dark *= 1 - 0.25 * ((np.abs(off - 0.62) < 0.22) & (np.abs(v - 0.575) < 0.006))
    glow[where] = dark


def _quilts(v: np.ndarray, garment: Garment) -> np.ndarray:
    """Light on a padded garment: rolls with dark seams."""
    rows: np.ndarray = np.abs(np.sin((v + garment.phase * 0.1) * np.float32(np.pi / (0.034 * garment.size + 0.012))))
    light: np.ndarray = 0.62 + 0.46 * np.sqrt(rows)
    return light


def _front(paint: _Paint, material: np.ndarray, look: Look, garment: Garment, off: np.ndarray, v: np.ndarray) -> None:
    """Neckline, opening and closures."""
    cut = garment.cut
    skin = paint.add(Part.SKIN, look.skin, "skin")
    seam = paint.add(Part.TRIM, _seam(garment.rgb), cut.texture)
    if garment.opened:
        top = look.top
        inner = paint.add(Part.INNER, top.rgb if look.outer else _lighter(garment.rgb), top.cut.texture)
        gap = 0.24 + 0.5 * garment.phase + 0.5 * np.clip((v - 0.7) * 3, 0, 0.5)
        material[off < gap] = inner
        material[(off >= gap) & (off < gap + 0.07)] = seam
        if look.outer and top.cut.collar not in {"high"}:
            material[off * 0.1 < (v - 0.79)] = skin
        return
    if cut.warm or cut.collar in {"shirt", "polo"}:
        low = 0.74 if cut.collar == "polo" else 0.0
        material[(off < (0.05 if cut.warm else 0.035)) & (v > low)] = seam
    if cut.collar == "lapels":
        inner = paint.add(Part.INNER, look.top.rgb if look.outer else look.skin, look.top.cut.texture)
        material[off * 0.12 < (v - 0.72) * 0.5] = inner
        edge = np.abs(off * 0.12 - (v - 0.72) * 0.5)
        material[(edge < 0.006) & (v > 0.72)] = seam
    deep = {"v": 0.765, "round": 0.812, "shirt": 0.8, "polo": 0.795, "lapels": 0.81}.get(cut.collar)
    if deep is not None and not look.scarf:
        material[off * 0.085 < (v - deep)] = skin


def _sleeves(paint: _Paint, roles: np.ndarray, glow: np.ndarray, fields: Fields, body: Body) -> None:
    where = np.flatnonzero(roles == Role.SLEEVE)
    if not where.size:
        return
    garment = body.look.outermost
    if garment.cut.sleeve == "none" and body.look.outer:
        garment = body.look.top
    along = fields[2][where] + np.float32(body.joints.lift)
    v = 0.79 - 0.16 * along
    if garment.pattern not in {"yoke", "sleeves", "logo", "banded", "plain"}:
        material = paint.of_pixel[where]
        _pattern(paint, material, garment, Part.SLEEVE2, fields[0][where] * np.float32(0.9), v)
        paint.of_pixel[where] = material
    if garment.cut.texture == "padded":
        glow[where] = _quilts(v, garment)
    elif garment.cut.sleeve == "long":
        glow[where] = 1 - 0.2 * (along > 1.93)


def _lower(paint: _Paint, roles: np.ndarray, glow: np.ndarray, fields: Fields, body: Body, lens: Lens) -> None:
    where = np.flatnonzero((roles == Role.LEG) | (roles == Role.SKIRT))
    if not where.size:
        return
    garment = body.look.lower or body.look.top
    skirt = roles[where[0]] == Role.SKIRT
    nx, v = fields[0][where], fields[2][where]
    material = paint.of_pixel[where]
    angle = _around(nx, lens.yaw)
    if garment.pattern == "side stripes":
        stripe = paint.add(Part.LOWER2, garment.second_rgb, garment.cut.texture)
        material[np.abs(np.abs(angle) - np.pi / 2) < 0.3] = stripe
    else:
        _pattern(paint, material, garment, Part.LOWER2, angle if skirt else angle * np.float32(0.5), v)
    paint.of_pixel[where] = material
    if garment.cut.texture == "denim":  # worn lighter on the thighs
        glow[where] = 1 + (0.1 + 0.25 * garment.phase) * (1 - nx * nx) * (np.abs(v - 0.38) < 0.13)
    if garment.kind == "cargo trousers":
        glow[where] = 1 - 0.24 * ((np.abs(np.abs(v - 0.36) - 0.045) < 0.006) & (np.abs(nx) > 0.2))


def _pattern(paint: _Paint, material: np.ndarray, garment: Garment, part: Part, u: np.ndarray, v: np.ndarray) -> None:
    """Give the pixels of a garment's second colour to `part`."""
    rule = _PATTERNS.get(garment.pattern)
    if rule is None:
        return
    second = paint.add(part, garment.second_rgb, garment.cut.texture)
    material[rule(u, v, garment.size, garment.phase)] = second


def _striped(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    wide = 0.2 + 0.4 * phase
    return (v * (26 / size)) % 1 < wide


def _pinstriped(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    return (u * (5 / size)) % 1 < 0.2


def _checked(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    across, down = (u * (3.4 / size)) % 1 < 0.42, (v * (26 / size)) % 1 < 0.42
    return across ^ down if phase < 0.5 else across | down


def _dotted(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    row = v * (24 / size)
    across = u * (3.6 / size) + 0.5 * (np.floor(row) % 2)
    return (across % 1 - 0.5) ** 2 + (row % 1 - 0.5) ** 2 < 0.08


def _floral(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    a, b = u * (4.2 / size) + phase * 9, v * (30 / size)
    waves: np.ndarray = np.sin(a * 2.1 + 2 * np.sin(b * 1.3)) * np.sin(b * 1.9 + 1.7 * np.sin(a * 1.1))
    return waves > 0.35


def _camouflage(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    a, b = u * (2.6 / size) + phase * 9, v * (17 / size)
    waves: np.ndarray = np.sin(a * 2 + 2 * np.sin(b)) + np.sin(b * 1.7 + 2 * np.sin(a * 1.4))
    return waves > 0.3


def _yoke(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    return v > 0.71 + 0.06 * phase


def _banded(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    return np.abs(v - 0.62 - 0.1 * phase) < 0.024 * size


def _logo(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    around = np.where(np.abs(u) < 1.57, u, (np.abs(u) - np.pi) if phase > 0.6 else np.inf)
    wide, tall, v0 = 0.5 * size, 0.045 * size, 0.7
    if phase < 0.3:
        wide, tall, around, v0 = 0.2 * size, 0.02 * size, around - 0.6, 0.73
    inside = (np.abs(around) < wide) & (np.abs(v - v0) < tall)
    return inside & ((v * 55) % 1 < 0.6) if phase > 0.5 else inside


Rule = Callable[[np.ndarray, np.ndarray, float, float], np.ndarray]

_PATTERNS: Mapping[str, Rule] = {
    "striped": _striped,
    "pinstriped": _pinstriped,
    "checked": _checked,
    "dotted": _dotted,
    "floral": _floral,
    "camouflage": _camouflage,
    "yoke": _yoke,
    "banded": _banded,
    "logo": _logo,
}


# -- head ------------------------------------------------------------------------------------------------------------


def _face(paint: _Paint, roles: np.ndarray, fields: Fields, body: Body, lens: Lens) -> None:
    """Eyes, brows, mouth, beard, glasses, and the hair that lies close to the head."""
    where = np.flatnonzero(roles == Role.HEAD)
    if not where.size:
        return
    look = body.look
    nx, ny = fields[0][where], fields[1][where]
    nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0))
    side, up, front = lens.body_direction(nx, ny, nz)
    cos, sin = math.cos(body.turn), math.sin(body.turn)
    side, front = side * cos - front * sin, side * sin + front * cos
    material = paint.of_pixel[where]
    dark = paint.add(Part.EYE, _mix(look.skin, (20, 14, 12), 0.62), "skin")
    lips = paint.add(Part.MOUTH, _mix(look.skin, (130, 50, 50), 0.4), "skin")
    hair = paint.add(Part.HAIR, look.hair_rgb, "hair")
    seen = front > 0.2
    aside = np.abs(np.abs(side) - 0.36)
    material[seen & (aside < 0.17) & (np.abs(up - 0.1) < 0.09)] = dark
    material[seen & (np.abs(side) < 0.22) & (np.abs(up + 0.52) < 0.07)] = lips
    if look.beard:
        material[(front > 0) & (up < -0.3) & ~((np.abs(side) < 0.2) & (np.abs(up + 0.5) < 0.07))] = hair
    if look.hair not in {"bald", "receding"} and not look.hood_up:
        material[(up > 0.56 - 0.1 * side) | (front < -0.25) & (up > -0.75)] = hair
    if look.hair == "receding":
        material[(front < 0.1) & (up < 0.45) & (up > -0.7)] = hair
    if look.glasses:
        lens_rgb = (26, 26, 30) if look.glasses == "sunglasses" else _mix(look.skin, (70, 66, 66), 0.6)
        rim = paint.add(Part.RIM, lens_rgb, "hard")
        material[seen & (aside < 0.24) & (np.abs(up - 0.08) < 0.15)] = rim
        material[(np.abs(up - 0.12) < 0.05) & (front > -0.2)] = rim
    paint.of_pixel[where] = material


def _seam(rgb: RGB) -> RGB:
    """A line that is seen on `rgb`."""
    return _mix(rgb, (10, 10, 12), 0.5) if sum(rgb) > 150 else _mix(rgb, (160, 160, 165), 0.3)


def _lighter(rgb: RGB) -> RGB:
    return _mix(rgb, (235, 235, 235), 0.75)


def _mix(color: RGB, other: RGB, share: float) -> RGB:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(color, other, strict=True))
    return red, green, blue
