"""Draw one picture of a lifelike person: place, people behind and in front, shadow, box, and the camera's effects.

picture = render_lifelike(person, shot, style, height=160, width=80)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from mmet.data.synthetic.canvas import Part
from mmet.data.synthetic.keypoints import KEYPOINT_NAMES, Joint, seen_keypoints
from mmet.data.synthetic.lifelike.body import Body
from mmet.data.synthetic.lifelike.camera import develop
from mmet.data.synthetic.lifelike.cloth import LightSource, Shaded, shade
from mmet.data.synthetic.lifelike.people import Look, Person, draw_person
from mmet.data.synthetic.lifelike.places import FOOT_ROW, place_at
from mmet.data.synthetic.lifelike.poses import Joints, draw_posture, place_joints
from mmet.data.synthetic.lifelike.relief import Lens, Relief
from mmet.data.synthetic.occluders import draw_object
from mmet.data.synthetic.part_masks import part_classes
from mmet.data.synthetic.picture import Picture
from mmet.data.synthetic.style import LIGHT, WEATHER, Camera, Shot, WorldStyle, style_rng

_DETAIL = 1.25
"""Pixels of the drawing for each pixel of the crop."""
_BODY_SHARE = 0.8
"""Height of an average body over the height of the drawing."""
_WIDTH_SHARE = 0.75
"""Width of the drawing over its height."""

_ZOOMS = (1.0, 1.15, 1.4)
"""How much larger than the person a place may be drawn, so that it fills the drawing."""

_EXPOSURE = 1.12
"""Factor on the light of a scene: cameras expose so that the ground is bright."""

_DIRECT = {"sunny": 0.62, "clouds": 0.4, "overcast": 0.2, "foggy": 0.16, "neutral": 0.34}
_TINTS = {
    "dawn": (1.0, 0.92, 0.88), "forenoon": (1.0, 1.0, 1.0), "noon": (1.03, 1.02, 1.0), "afternoon": (1.04, 0.99, 0.91),
    "dusk": (0.9, 0.82, 0.8), "night": (0.62, 0.58, 0.6), "midnight": (0.45, 0.47, 0.55),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Drawing:
    """A person on a canvas of their own: premultiplied `rgb`, `alpha` (0 or 255), `parts`, joints in pixels."""

    rgb: Image.Image
    alpha: Image.Image
    parts: np.ndarray
    joints: dict[str, Joint]
    foot: tuple[float, float]


def render_lifelike(person: Person, shot: Shot, style: WorldStyle, *, height: int, width: int) -> Picture:
    """Draw the picture of `person` that `shot` describes; equal arguments give equal pixels."""
    rng = style_rng(style, *shot.seed)
    camera = style.cameras[shot.camera - 1]
    elevation = max(1.0, camera.elevation + float(rng.normal(0, 3)))
    tall = round(height * _DETAIL / _BODY_SHARE)
    light = _light(shot, rng)
    drawing = _draw(person.appearance, shot.view, elevation, tall, light, rng)
    scene = _surroundings(shot, camera, drawing, light, tall, rng)
    scene.paste(drawing.rgb, (0, 0), drawing.alpha)
    alpha = drawing.alpha
    if rng.random() < style.occlusion:
        alpha = _occlude(scene, alpha, style, camera, rng)
    box = _box(drawing, style, shot, rng)
    crop = scene.resize((width, height), Image.Resampling.BILINEAR, box, reducing_gap=None)
    exposure = _EXPOSURE * float(rng.lognormal(0, style.exposure))
    red, green, blue = _TINTS[LIGHT[shot.light - 1]]
    image = develop(crop, camera, (red * exposure, green * exposure, blue * exposure), rng)
    return _finish(image, drawing, alpha, box, camera, rng)


def _finish(
    image: Image.Image, drawing: _Drawing, alpha: Image.Image, box: tuple[float, float, float, float], camera: Camera,
    rng: np.random.Generator,
) -> Picture:  # fmt: skip
    """Mask, parts, counts and keypoints of the crop."""
    width, height = image.size
    cover = alpha.resize((width, height), Image.Resampling.BILINEAR, box)
    shares = np.asarray(cover)
    inside = shares >= 128
    parts = np.asarray(Image.fromarray(drawing.parts).resize((width, height), Image.Resampling.NEAREST, box))
    counts = np.bincount(parts.ravel(), minlength=max(Part) + 1)
    pixels = {part: int(counts[part]) for part in Part if counts[part]}
    labels = np.where(inside, part_classes()[parts], 0).astype(np.uint8)
    across, down = width / (box[2] - box[0]), height / (box[3] - box[1])
    joints = {
        name: Joint((joint.x - box[0]) * across, (joint.y - box[1]) * down, joint.shown)
        for name, joint in drawing.joints.items()
    }
    quality = int(rng.integers(camera.quality[0], camera.quality[1] + 1))
    keypoints = seen_keypoints(joints, shares / np.float32(255))
    mask = Image.fromarray(inside.astype(np.uint8) * np.uint8(255))
    return Picture(image, mask, quality, pixels, keypoints, Image.fromarray(labels))


# -- the person -------------------------------------------------------------------------------------------------------


def _light(shot: Shot, rng: np.random.Generator) -> LightSource:
    direct = _DIRECT[WEATHER[shot.weather - 1]] if "hall" not in shot.scene_name else 0.22
    side = float(rng.uniform(-0.85, 0.85))
    out = float(rng.uniform(-0.2, 0.7))
    size = math.sqrt(side * side + 0.7 + out * out)
    return LightSource((side / size, -math.sqrt(0.7) / size, out / size), direct, 1.06 - 0.7 * direct)


def _draw(
    look: Look,
    view: float,
    elevation: float,
    tall: int,
    light: LightSource,
    rng: np.random.Generator,
    turn: float = 0.0,
) -> _Drawing:
    """Draw a person on a canvas `tall` pixels high."""
    wide = round(tall * _WIDTH_SHARE)
    posture = draw_posture(rng, look)
    joints = place_joints(look.build, posture)
    foot = (wide / 2, tall * (0.93 - 0.0022 * elevation))
    roll = math.radians(float(rng.normal(0, 3.5)))
    lens = Lens(math.radians(view), math.radians(elevation), roll, tall * _BODY_SHARE, foot, 0.004 * elevation)
    relief = Relief(tall, wide)
    body = Body(look, joints, posture, lens, relief)
    body.build()
    shaded = shade(relief, body, lens, light, rng)
    rgb, parts = np.zeros((tall, wide, 3), dtype=np.uint8), np.zeros((tall, wide), dtype=np.uint8)
    if shaded is not None:
        _put(shaded, rgb, parts)
    alpha = Image.fromarray((parts > 0).astype(np.uint8) * np.uint8(255))
    return _Drawing(Image.fromarray(rgb), alpha, parts, _joints(joints, lens, relief), foot)


def _put(shaded: Shaded, rgb: np.ndarray, parts: np.ndarray) -> None:
    top, left = shaded.corner
    tall, wide = shaded.parts.shape
    rgb[top : top + tall, left : left + wide] = shaded.rgb
    parts[top : top + tall, left : left + wide] = shaded.parts


_REACH = 0.075
"""How far, in body heights, the surface over a joint may be in front of it: cloth and flesh, not another limb."""


def _joints(joints: Joints, lens: Lens, relief: Relief) -> dict[str, Joint]:
    """Where COCO's joints are in the drawing, and whether the body itself hides them."""
    points = {
        f"{side}_{name}": getattr(joints, f"{name}s")[index]
        for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        for index, side in enumerate(("right", "left"))
    }
    face = {"nose": (0, -0.008, 0.062), "left_eye": (0.018, 0.006, 0.052), "right_eye": (-0.018, 0.006, 0.052)}
    face |= {"left_ear": (0.048, 0.0, 0.0), "right_ear": (-0.048, 0.0, 0.0)}
    points |= {name: joints.trunk(0.93 + y, z + 0.02, x) for name, (x, y, z) in face.items()}
    placed = {}
    for name in KEYPOINT_NAMES:
        x, y, depth = lens(points[name])
        inside = 0 <= x < relief.width and 0 <= y < relief.height
        nearest = float(relief.depth[int(y), int(x)]) if inside else -math.inf
        shown = inside and nearest > -math.inf and nearest - depth < _REACH * lens.scale
        placed[name] = Joint(x, y, shown)
    return placed


# -- around the person ------------------------------------------------------------------------------------------------


def _surroundings(
    shot: Shot, camera: Camera, drawing: _Drawing, light: LightSource, tall: int, rng: np.random.Generator
) -> Image.Image:
    """The place behind the person, with other people and the shadow."""
    wide = round(tall * _WIDTH_SHARE)
    zoom = tall * _BODY_SHARE / 320 * _ZOOMS[int(rng.integers(len(_ZOOMS)))]
    backdrop = place_at(shot.scene_name, shot.variant, camera.elevation, "hall" in shot.scene_name, zoom)
    left = int(rng.integers(max(1, backdrop.width - wide)))
    top = round(FOOT_ROW * zoom - drawing.foot[1] + float(rng.normal(0, 0.04)) * tall)
    top = min(max(0, top), max(0, backdrop.height - tall))
    scene = backdrop.crop((left, top, left + wide, top + tall))
    while rng.random() < 0.28:
        _passer(scene, camera.elevation, tall, rng, behind=True)
    shadow = _shadow(drawing, light, rng)
    if shadow is not None:
        scene = ImageChops.multiply(scene, Image.merge("RGB", (shadow, shadow, shadow)))
    return scene


def _shadow(drawing: _Drawing, light: LightSource, rng: np.random.Generator) -> Image.Image:
    """Factor on the ground (mode L): the silhouette laid down along the light, and the dark contact at the feet."""
    wide, tall = drawing.alpha.size
    _, y = drawing.foot
    length = float(rng.uniform(0.2, 0.6))
    lean = -light.direction[0] * float(rng.uniform(0.5, 1.6))
    small = drawing.alpha.reduce(3)
    # rows of the shadow read the silhouette further up, shifted along the light
    fall = (1, lean / length, -lean / length * y / 3, 0, 1 / length, (y - y / length) / 3)
    laid = small.transform(small.size, Image.Transform.AFFINE, fall, Image.Resampling.BILINEAR)
    strength = min(0.75, 0.1 + light.direct)
    dark = laid.filter(ImageFilter.BoxBlur(0.6 + 3 * (0.62 - light.direct)))
    factor = 255 - np.asarray(dark.resize((wide, tall), Image.Resampling.BILINEAR)) * np.float32(strength)
    return Image.fromarray(factor.astype(np.uint8))


@dataclass(frozen=True, slots=True)
class _Passer:
    """Somebody else: colours and coverage at the size in which they are pasted, and that size over the person's."""

    rgb: Image.Image
    alpha: Image.Image
    size: float


@cache
def _passers(steep: int, tall: int, behind: bool) -> tuple[_Passer, ...]:
    """A few people who walk past, as a camera of that steepness sees them."""
    rng = np.random.default_rng([4242, steep, behind])
    light = LightSource((0.3, -0.8, 0.5), 0.35, 0.8)
    parts = []
    for _ in range(24 if behind else 12):
        size = float(rng.uniform(0.45, 0.98) if behind else rng.uniform(0.98, 1.12))
        view, elevation = float(rng.uniform(0, 360)), (7.0, 18.0, 32.0)[steep]
        drawing = _draw(draw_person(rng).appearance, view, elevation, round(tall * size), light, rng)
        box = drawing.alpha.getbbox() or (0, 0, 1, 1)
        parts.append(_Passer(drawing.rgb.crop(box), drawing.alpha.crop(box), size))
    return tuple(parts)


def _passer(scene: Image.Image, elevation: float, tall: int, rng: np.random.Generator, behind: bool) -> Image.Image:
    """Paste one person beside or behind (smaller), or at the edge in front; returns what they cover."""
    pool = _passers(0 if elevation < 12 else 1 if elevation < 25 else 2, tall, behind)
    other = pool[int(rng.integers(len(pool)))]
    across = float(rng.uniform(-0.6, 0.6)) if behind else _edge(rng)
    x = round((0.5 + across) * scene.width - other.alpha.width / 2)
    foot = 0.93 - (1 - other.size) * (0.55 + 0.35 * min(1.0, elevation / 30))
    y = round(foot * tall) - other.alpha.height
    scene.paste(other.rgb, (x, y), other.alpha)
    cover = Image.new("L", scene.size)
    cover.paste(other.alpha, (x, y))
    return cover


def _edge(rng: np.random.Generator) -> float:
    return float(rng.choice((-1, 1)) * rng.uniform(0.2, 0.34))


def _occlude(
    scene: Image.Image, alpha: Image.Image, style: WorldStyle, camera: Camera, rng: np.random.Generator
) -> Image.Image:
    """Put something in front, in place; returns what is left of the person."""
    if rng.random() < 0.5:
        cover = _passer(scene, camera.elevation, scene.height, rng, behind=False)
        return ImageChops.subtract(alpha, cover)
    thing = draw_object(style.occluders, rng, scene.height, scene.width)
    whole = np.asarray(scene, dtype=np.float32) * (1 - thing.alpha[..., None]) + thing.rgb
    scene.paste(Image.fromarray(np.clip(whole, 0, 255).astype(np.uint8)))
    left = np.asarray(alpha, dtype=np.float32) * (1 - thing.alpha)
    return Image.fromarray(left.astype(np.uint8))


# -- the box ----------------------------------------------------------------------------------------------------------


def _box(
    drawing: _Drawing, style: WorldStyle, shot: Shot, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Draw a box as from a detector or a careful annotator: tight or loose; sometimes it cuts off feet or head."""
    left, top, right, bottom = map(float, drawing.alpha.getbbox() or (0, 0, *drawing.alpha.size))
    high, wide = bottom - top, right - left
    loose = float(rng.gamma(1.3, 0.03)) - 0.01
    top, bottom = top - loose * high, bottom + loose * high * float(rng.uniform(0.3, 1.2))
    least = float(rng.uniform(0.3, 0.5)) * (bottom - top)
    grow = max(loose * 2 * wide, least - wide)
    left, right = left - grow / 2, right + grow / 2
    shifts = rng.normal(0, style.jitter, 4) * (wide, high, wide, high)
    left, top, right, bottom = (
        float(edge + shift) for edge, shift in zip((left, top, right, bottom), shifts, strict=True)
    )
    apart = style_rng(style, *shot.seed, 1)  # drawn apart, so that other pictures are the same at any rate
    if apart.random() < style.crop:
        missed = float(apart.uniform(0.1, 0.45)) * high
        if apart.random() < 2 / 3:
            bottom -= missed
        else:
            top += missed / 2
    width, height = drawing.alpha.size
    return max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom)
