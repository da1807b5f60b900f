"""Draws one articulated person as an integer label map, then colours it by palette look-up.

The skeleton lives in three dimensions (x to the person's left, y up, z to the front; the unit is body height) and is
turned by the view angle, so that a side or back view shows what a camera there would see. Every part is painted once
with `PIL.ImageDraw` into a map of `4 * part + level`, where the level (0 dark .. 3 light) rounds the part off.
Patterns, faces and hair lines are then decided per pixel in body coordinates. Pixels with a label above zero are the
silhouette.

    figure = draw_figure(identity, Pose(), view_degrees=30, height=192, width=96)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from mmet.data.synthetic.identity import RGB, Appearance, Cloth, Identity
from mmet.data.synthetic.keypoints import Joint, Limb

SUPERSAMPLING = 2
LEVELS = 4
LEVEL_LIGHT = np.array([0.70, 0.87, 1.0, 1.12], dtype=np.float32)
"""Brightness of the four shading levels, from the rim of a part to its lit ridge."""

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


_FACE = frozenset({Part.FACE, Part.EYE, Part.EYE_WHITE, Part.BROW, Part.NOSE, Part.MOUTH, Part.RIM, Part.LENS})
_SLEEVE = frozenset({Part.SLEEVE, Part.SLEEVE2, Part.SKIN})
_TOP = frozenset({Part.UPPER, Part.UPPER2, Part.INNER, Part.TRIM})
_LEG = frozenset({Part.LOWER, Part.LOWER2, Part.TROUSER_LEG, Part.LEGWEAR, Part.SKIN})
_JOINT_PARTS: Mapping[str, frozenset[Part]] = {
    "shoulder": _TOP | _SLEEVE | {Part.SCARF},
    "elbow": _SLEEVE,
    "wrist": _SLEEVE,
    "hip": _TOP | _LEG,
    "knee": _TOP | _LEG | {Part.SHOE},
    "ankle": _LEG | {Part.SHOE, Part.SOLE},
}
"""What covers a joint without hiding it: the skin and the clothes that are worn there."""

_FACE_POINTS: Mapping[str, tuple[float, float]] = {
    "nose": (0.0, -0.15),
    "left_eye": (0.38, 0.06),
    "right_eye": (-0.38, 0.06),
    "left_ear": (0.98, -0.12),
    "right_ear": (-0.98, -0.12),
}
"""Directions (to the left, up) from the centre of the head; nose and eyes as in `_face_zones`. Ears are not drawn."""

_PROFILE = 0.87
"""Sine of the view from which the trunk hides the shoulder and the hip of the far side."""


@dataclass(frozen=True, slots=True)
class Pose:
    """How the body is held. Angles in radians: `stride` swings the legs, `phase` (0..2π) is the moment of the step."""

    stride: float = 0.4
    phase: float = 0.0
    arms: str = "swing"
    head_turn: float = 0.0
    sway: float = 0.0


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawn person at crop size.

    Attributes:
        rgb: float32 (H, W, 3), 0..255, multiplied by `alpha`.
        alpha: float32 (H, W), 0..1, the share of the pixel covered by the person.
        foot: (x, y) of the point on the ground between the feet, in pixels.
        pixels: number of label-map pixels by part, for parts that are seen at all.
        joints: by the names of `KEYPOINT_NAMES`, in pixels; may lie outside the crop.
    """

    rgb: np.ndarray
    alpha: np.ndarray
    foot: tuple[float, float]
    pixels: Mapping[Part, int]
    joints: Mapping[str, Joint]


class Canvas:
    """The label map and the two shapes everything is made of: tubes along a spine and stacks of elliptic slices."""

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


class _View:
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


@dataclass(frozen=True, slots=True)
class _Skeleton:
    """Joint positions; index 0 is the person's right side, 1 the left."""

    hips: tuple[Point, Point]
    knees: tuple[Point, Point]
    ankles: tuple[Point, Point]
    shoulders: tuple[Point, Point]
    elbows: tuple[Point, Point]
    wrists: tuple[Point, Point]
    lean: float
    lift: float


def draw_pose(rng: np.random.Generator) -> Pose:
    """Mostly walking, at times standing; arms swing, hang, hold a phone or rest in pockets."""
    standing = rng.random() < 0.2
    arms = ("swing", "hang", "phone", "pockets")[
        int(rng.choice(4, p=(0.1, 0.5, 0.2, 0.2) if standing else (0.78, 0.0, 0.1, 0.12)))
    ]
    return Pose(
        stride=float(rng.uniform(0.05, 0.12) if standing else rng.uniform(0.28, 0.5)),
        phase=float(rng.uniform(0, 2 * math.pi)),
        arms=arms,
        head_turn=float(rng.normal(0, 0.22)),
        sway=float(rng.normal(0, 0.02)),
    )


def draw_figure(
    identity: Identity,
    pose: Pose,
    *,
    view_degrees: float,
    height: int,
    width: int,
    elevation_degrees: float = 6.0,
    body_share: float = 0.88,
    offset: tuple[float, float] = (0.0, 0.0),
    light: float = 0.5,
) -> Figure:
    """Draw `identity` in `pose`.

    Args:
        view_degrees: 0 shows the front, 90 the person's right side, 180 the back, 270 the left side.
        height, width: size of the crop in pixels.
        elevation_degrees: how far the camera looks down.
        body_share: body height over crop height.
        offset: shift of the person, as shares of crop width and height.
        light: horizontal direction of the light, -1 (left) .. 1 (right).
    """
    scale = height * SUPERSAMPLING * body_share
    foot = (width * SUPERSAMPLING * (0.5 + offset[0]), height * SUPERSAMPLING * (0.5 + body_share * 0.5 + offset[1]))
    view = _View(math.radians(view_degrees), math.radians(elevation_degrees), scale, foot)
    painter = _Painter(identity.appearance, pose, view, Canvas(height * SUPERSAMPLING, width * SUPERSAMPLING, light))
    labels = painter.paint()
    rgb, alpha, pixels = _colour(labels, _palette(identity.appearance))
    return Figure(rgb, alpha, (foot[0] / SUPERSAMPLING, foot[1] / SUPERSAMPLING), pixels, painter.joints(labels))


def _palette(look: Appearance) -> np.ndarray:
    """uint8 (256 // LEVELS, 3): the colour of each part."""
    skin, hair = look.body.skin, look.body.hair
    sleeve = look.inner if look.upper_kind == "vest" else look.upper
    colors: dict[Part, RGB] = {
        Part.SKIN: skin,
        Part.FACE: _mix(skin, (255, 236, 220), 0.12),
        Part.NOSE: _mix(skin, (120, 50, 30), 0.14),
        Part.HAIR: hair,
        Part.EYE: (34, 26, 26),
        Part.EYE_WHITE: (240, 240, 238),
        Part.BROW: _mix(hair, (20, 14, 12), 0.3),
        Part.MOUTH: _mix(skin, (170, 40, 50), 0.5),
        Part.UPPER: look.upper.rgb,
        Part.UPPER2: look.upper.second_rgb,
        Part.SLEEVE: sleeve.rgb,
        Part.SLEEVE2: sleeve.second_rgb,
        Part.INNER: look.inner.rgb,
        Part.LOWER: look.lower.rgb,
        Part.TROUSER_LEG: look.lower.rgb,
        Part.LOWER2: look.lower.second_rgb,
        Part.LEGWEAR: look.legwear,
        Part.SHOE: look.shoe,
        Part.SOLE: look.sole,
        Part.BAG: look.bag.rgb,
        Part.BAG2: _mix(look.bag.rgb, look.bag.second_rgb, 0.6),
        Part.HAT: look.hat.rgb,
        Part.HAT2: look.hat.second_rgb,
        Part.RIM: (30, 28, 30),
        Part.LENS: (36, 38, 48) if look.glasses_kind == "sunglasses" else _mix(skin, (210, 225, 240), 0.5),
        Part.SCARF: look.scarf.rgb if look.scarf else skin,
        Part.TRIM: _mix(look.upper.rgb, (24, 22, 26) if sum(look.upper.rgb) > 260 else (220, 220, 220), 0.55),
    }
    palette = np.zeros((256 // LEVELS, 3), dtype=np.uint8)
    for part, color in colors.items():
        palette[part] = color
    return palette


def _colour(labels: np.ndarray, palette: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[Part, int]]:
    """Look colours up, soften the shading levels, and average down to crop size: `rgb`, `alpha`, `pixels` of a figure.

    Pillow does the per-pixel work on 8-bit images, and only where the person is; light is stored relative to the
    brightest level, so nothing clips.
    """
    step, brightest = SUPERSAMPLING, float(LEVEL_LIGHT.max())
    rgb = np.zeros((labels.shape[0] // step, labels.shape[1] // step, 3), dtype=np.float32)
    alpha = np.zeros(rgb.shape[:2], dtype=np.float32)
    counts = np.bincount((labels >> 2).ravel(), minlength=len(Part) + 1)
    pixels = {Part(index): int(count) for index, count in enumerate(counts) if index and count}
    box = Image.fromarray(labels).getbbox()
    if box is None:
        return rgb, alpha, pixels
    left, top, right, bottom = box[0] // step, box[1] // step, -(-box[2] // step), -(-box[3] // step)
    picture = Image.fromarray(labels).crop((left * step, top * step, right * step, bottom * step))
    table = np.tile(np.rint(LEVEL_LIGHT / brightest * 255).astype(int), 256 // LEVELS)
    table[:LEVELS] = round(255 / brightest)
    light = picture.point(table.tolist()).filter(ImageFilter.BoxBlur(max(1.0, labels.shape[0] / 190)))
    inside = picture.point([0] * LEVELS + [255] * (256 - LEVELS))
    picture.putpalette(np.repeat(palette, LEVELS, axis=0).tobytes())
    lit = ImageChops.multiply(picture.convert("RGB"), Image.merge("RGB", (light, light, light)))
    window = slice(top, bottom), slice(left, right)
    np.multiply(np.asarray(lit.reduce(step)), np.float32(brightest), out=rgb[window])
    np.minimum(rgb[window], 255, out=rgb[window])
    np.multiply(np.asarray(inside.reduce(step)), np.float32(1 / 255), out=alpha[window])
    return rgb, alpha, pixels


@dataclass(frozen=True, slots=True)
class _Surface:
    """A window of the label map in body coordinates.

    Attributes:
        labels: the window itself, writable (h, w).
        member: its pixels that show the wanted part (h, w).
        angle: azimuth on the body in radians, 0 at the front and positive to the person's left (h, w).
        height: height above the ground in body heights (h, 1).
    """

    labels: np.ndarray
    member: np.ndarray
    angle: np.ndarray
    height: np.ndarray


class _Painter:
    """Paints one person from the back of the scene to the front."""

    def __init__(self, look: Appearance, pose: Pose, view: _View, canvas: Canvas) -> None:
        self.look, self.pose, self.view, self.canvas = look, pose, view, canvas
        self.bones = _skeleton(look, pose)
        self.facing = view.cos  # 1: the camera sees the front, -1: the back
        self.torso: list[tuple[float, float, float]] = []
        self.skirt: list[tuple[float, float, float]] = []
        self.limbs: dict[tuple[str, int], Limb] = {}  # in painting order

    def paint(self) -> np.ndarray:
        """The finished label map, uint8 (2H, 2W)."""
        arms = sorted((0, 1), key=lambda side: self.view.depth(self.bones.elbows[side]))
        behind = [side for side in arms if self._arm_depth(side) < -0.035]
        if self.facing > 0.1:
            self._long_hair()
        if self.facing > -0.12:
            self._backpack()
        for side in behind:
            self._arm(side)
        if self._bag_depth() < 0:
            self._side_bag()
        self._legs()
        self._neck()
        self._upper_and_lower()
        if self.facing <= -0.12:
            self._backpack()
        if self._bag_depth() >= 0:
            self._side_bag()
        self._head()
        for side in arms:
            if side not in behind:
                self._arm(side)
        return self._details(np.array(self.canvas.image))

    # -- joints --------------------------------------------------------------------------------------------------

    def joints(self, labels: np.ndarray) -> dict[str, Joint]:
        """Joints of the person painted as `labels`, by the names of `KEYPOINT_NAMES`, in pixels of the crop."""
        bones = self.bones
        pairs = {"shoulder": bones.shoulders, "elbow": bones.elbows, "wrist": bones.wrists}
        pairs |= {"hip": bones.hips, "knee": bones.knees, "ankle": bones.ankles}
        joints = self._face_joints(labels)
        for kind, points in pairs.items():
            for side, name in enumerate(("right", "left")):
                x, y = self.view(points[side])
                shown = _part_at(labels, x, y) in _JOINT_PARTS[kind] and not self._hidden(kind, side, x, y)
                joints[f"{name}_{kind}"] = Joint(x / SUPERSAMPLING, y / SUPERSAMPLING, shown)
        return joints

    def _hidden(self, kind: str, side: int, x: float, y: float) -> bool:
        """Whether the person's own body hides a joint in a way that the label at its place does not tell."""
        if kind in {"shoulder", "hip"}:
            return (self.view.sin if side else -self.view.sin) > _PROFILE
        own = ("arm" if kind in {"elbow", "wrist"} else "leg", side)
        painted = list(self.limbs)
        return any(self.limbs[limb].covers(x, y) for limb in painted[painted.index(own) + 1 :])

    def _face_joints(self, labels: np.ndarray) -> dict[str, Joint]:
        x, y, rx, ry = self._head_frame()
        sin, cos = self._head_turn()
        joints = {}
        for name, (side, up) in _FACE_POINTS.items():
            front = math.sqrt(max(0.0, 1 - side**2 - up**2))
            px, py = x + rx * (side * cos + front * sin), y - ry * up
            shown = front * cos - side * sin > 0 and _part_at(labels, px, py) in _FACE
            joints[name] = Joint(px / SUPERSAMPLING, py / SUPERSAMPLING, shown)
        return joints

    # -- limbs ---------------------------------------------------------------------------------------------------

    def _arm_depth(self, side: int) -> float:
        return (self.view.depth(self.bones.elbows[side]) + self.view.depth(self.bones.wrists[side])) / 2

    def _arm(self, side: int) -> None:
        look, px = self.look, self.view.scale
        bulk = (0.75 + 0.25 * look.body.girth) * px
        cloth = 1.22 if look.upper_kind in {"jacket", "coat", "parka", "hoodie", "sweater", "blazer"} else 1.0
        shoulder, elbow, wrist = (
            self.view(j[side]) for j in (self.bones.shoulders, self.bones.elbows, self.bones.wrists)
        )
        self.canvas.disc(*_towards(wrist, elbow, -0.12), 0.0185 * px, 0.0215 * px, Part.SKIN)
        if look.sleeve == "short":
            middle = _towards(shoulder, elbow, 0.72)
            self.canvas.tube((shoulder, elbow, wrist), (0.026 * bulk, 0.022 * bulk, 0.016 * bulk), Part.SKIN)
            self.canvas.tube((shoulder, middle), (0.036 * bulk, 0.033 * bulk), Part.SLEEVE)
        else:
            radii = (0.036 * bulk, 0.028 * bulk * cloth, 0.0205 * bulk * cloth)
            self.canvas.tube((shoulder, elbow, wrist), radii, Part.SLEEVE)
        self.limbs["arm", side] = Limb((shoulder, elbow, wrist), (0.036 * bulk, 0.028 * bulk, 0.0205 * bulk))
        if look.bag_kind == "handbag" and side == (look.bag_side > 0):
            self._handbag(wrist)

    def _legs(self) -> None:
        for side in sorted(
            (0, 1), key=lambda s: self.view.depth(self.bones.knees[s]) + self.view.depth(self.bones.ankles[s])
        ):
            self._leg(side)

    def _leg(self, side: int) -> None:
        look, px = self.look, self.view.scale
        hip, knee, ankle = (self.view(j[side]) for j in (self.bones.hips, self.bones.knees, self.bones.ankles))
        bulk = (0.7 + 0.3 * look.body.girth) * px
        bare = look.lower_kind in {"shorts", "skirt", "long skirt", "dress"}
        self._shoe(side, ankle)
        if bare:
            part = Part.SKIN if look.lower_kind == "shorts" else Part.LEGWEAR
            self.canvas.tube((hip, knee, ankle), (0.05 * bulk, 0.034 * bulk, 0.021 * bulk), part)
        if look.shoe_kind == "boots":
            self.canvas.tube((_towards(knee, ankle, 0.35), ankle), (0.034 * bulk, 0.026 * bulk), Part.SHOE)
        if look.lower_kind == "shorts":
            end = _towards(knee, hip, 0.1)
            self.canvas.tube((hip, end), (0.058 * bulk, 0.05 * bulk * look.leg_width), Part.TROUSER_LEG)
        elif not bare:
            end = _towards(knee, ankle, 0.5 if look.shoe_kind == "boots" else 0.95)
            flare = (0.055 * bulk, 0.037 * bulk * look.leg_width, 0.027 * bulk * look.leg_width)
            self.canvas.tube((hip, knee, end), flare, Part.TROUSER_LEG)
        self.limbs["leg", side] = Limb((hip, knee, ankle), (0.05 * bulk, 0.034 * bulk, 0.021 * bulk))

    def _shoe(self, side: int, ankle: tuple[float, float]) -> None:
        x, y, z = self.bones.ankles[side]
        lift = max(0.0, y - 0.045) * 0.8
        heel, toe = (
            self.view((x, y - 0.024 + lift * 0.3, z - 0.016)),
            self.view((x * 1.12, y - 0.028 - lift, z + 0.072)),
        )
        px = self.view.scale
        sole = 0.007 * px
        self.canvas.tube(((heel[0], heel[1] + sole), (toe[0], toe[1] + sole)), (0.019 * px, 0.018 * px), Part.SOLE)
        self.canvas.tube((ankle, heel), (0.018 * px, 0.02 * px), Part.SHOE)
        self.canvas.tube((heel, toe), (0.0195 * px, 0.0175 * px), Part.SHOE)

    # -- trunk ---------------------------------------------------------------------------------------------------

    def _slice(self, y: float, width: float, depth: float, forward: float = 0.0) -> tuple[float, float, float]:
        x, down = self.view(
            (self.pose.sway * (y - 0.5), y + self.bones.lift, forward + self.bones.lean * max(0.0, y - 0.5))
        )
        return x, down, self.view.half_width(width, depth)

    def _neck(self) -> None:
        px = self.view.scale
        top = self._slice(0.885, 0.03, 0.03)
        base = self._slice(0.815, 0.03, 0.03)
        self.canvas.tube(((top[0], top[1]), (base[0], base[1])), (0.027 * px, 0.033 * px), Part.SKIN)

    def _upper_and_lower(self) -> None:
        look, body = self.look, self.look.body
        self._lower_stack()
        wide, deep = 0.108 * body.shoulders, 0.062 * body.girth
        waist = (0.078 if body.hips < 1.0 else 0.07) * (0.55 + 0.45 * body.girth)
        hips = 0.081 * body.hips * (0.65 + 0.35 * body.girth)
        puff = 1.08 if look.upper_kind in {"jacket", "coat", "parka", "hoodie", "vest", "sweater"} else 1.0
        profile = [
            (0.838, 0.036, 0.034),
            (0.826, wide * 0.70, deep * 0.62),
            (0.806, wide * 0.98, deep * 0.84),
            (0.780, wide * 1.02, deep * 0.98),
            (0.720, wide * 0.93 * puff, deep * 1.06 * puff),
            (0.610, max(waist, wide * 0.74) * puff, deep * 0.97 * puff),
        ]
        long = look.upper_kind in {"coat", "parka", "tunic", "long t-shirt", "long cardigan"}
        profile += [(0.52, hips * 1.04 * puff, deep * 1.03 * puff)]
        profile += [
            (0.33 if look.upper_kind in {"coat", "long cardigan"} else 0.4, hips * 1.22 * puff, deep * 1.3 * puff)
        ] * long
        profile += [(0.49, hips * 1.04 * puff, deep * 1.0 * puff)] * (not long)
        self.torso = [self._slice(*row) for row in profile]
        self.canvas.stack(self.torso, Part.UPPER)
        self._round_hem(self.torso[-1], profile[-1][2], Part.UPPER)
        if look.scarf:
            x, y, _ = self._slice(0.842, 0.0, 0.0)
            self.canvas.disc(x, y, 0.052 * self.view.scale, 0.021 * self.view.scale, Part.SCARF)
            if self.facing > -0.2:
                end = self.view((0.02, 0.69 + self.bones.lift, 0.075))
                self.canvas.tube(((x, y), end), (0.018 * self.view.scale, 0.02 * self.view.scale), Part.SCARF)

    def _lower_stack(self) -> None:
        look, body = self.look, self.look.body
        hips = 0.081 * body.hips * (0.65 + 0.35 * body.girth)
        deep = 0.063 * body.girth
        profile = [(0.60, hips * 0.88, deep * 0.9), (0.53, hips * 1.02, deep), (0.485, hips * 1.0, deep)]
        if look.lower_kind in {"skirt", "long skirt", "dress"}:
            spread = 1.25 + 0.5 * abs(math.sin(self.pose.phase)) * self.pose.stride
            flare = spread * (1.35 if look.lower_kind != "long skirt" else 1.2)
            reach = max(deep * flare * 1.08, 0.03 + self._leg_reach(look.hem))
            profile += [
                (look.hem + 0.04, hips * flare * 0.94, max(deep * flare, reach * 0.92)),
                (look.hem, hips * flare, reach),
            ]
        self.skirt = [self._slice(*row) for row in profile]
        self.canvas.stack(self.skirt, Part.LOWER)
        if len(profile) > 3:
            self._round_hem(self.skirt[-1], profile[-1][2], Part.LOWER)

    def _leg_reach(self, height: float) -> float:
        """How far the legs reach to the front or back at `height`, so that a skirt always covers them."""
        reach = 0.0
        for knee, ankle in zip(self.bones.knees, self.bones.ankles, strict=True):
            share = min(1.0, max(0.0, (knee[1] - height) / (knee[1] - ankle[1])))
            reach = max(reach, abs(knee[2] + share * (ankle[2] - knee[2])))
        return reach

    def _round_hem(self, hem: tuple[float, float, float], depth: float, part: Part) -> None:
        """A garment is open below: its hem is an ellipse, seen from slightly above."""
        x, y, half = hem
        drop = max(1.0, depth * self.view.drop * self.view.scale + 0.008 * self.view.scale)
        self.canvas.pen.ellipse((x - half, y - drop, x + half, y + drop), fill=LEVELS * part + 1)

    # -- things carried ------------------------------------------------------------------------------------------

    def _backpack(self) -> None:
        if self.look.bag_kind != "backpack":
            return
        px, back = self.view.scale, -0.062 * self.look.body.girth - 0.035
        rows = (
            (0.805, 0.045, 0.03),
            (0.79, 0.068, 0.042),
            (0.70, 0.076, 0.05),
            (0.60, 0.074, 0.05),
            (0.585, 0.06, 0.045),
        )
        self.canvas.stack([self._slice(y, w, d, back) for y, w, d in rows], Part.BAG)
        if self.facing < -0.12:
            x, y, half = self._slice(0.64, 0.052, 0.02, back - 0.04)
            self.canvas.stack([(x, y - 0.03 * px, half), (x, y + 0.035 * px, half)], Part.BAG2)
            x, y, half = self._slice(0.735, 0.05, 0.02, back - 0.04)
            self.canvas.pen.line((x - half, y, x + half, y), fill=LEVELS * Part.BAG2, width=max(1, round(0.008 * px)))

    def _bag_depth(self) -> float:
        return self.view.depth((0.12 * self.look.bag_side, 0.5, 0.0))

    def _side_bag(self) -> None:
        size = {
            "shoulder bag": (0.062, 0.05, 0.50),
            "tote bag": (0.058, 0.075, 0.50),
            "messenger bag": (0.075, 0.05, 0.47),
        }
        if self.look.bag_kind not in size:
            return
        wide, tall, y = size[self.look.bag_kind]
        side, px = self.look.bag_side, self.view.scale
        reach = 0.085 * self.look.body.hips + 0.035
        x, down = self.view((side * reach, y + self.bones.lift, 0.0))
        half = self.view.half_width(0.026, wide)
        strap = self.view((side * 0.07, 0.82, 0.0))
        if self.look.bag_kind != "messenger bag":
            self.canvas.pen.line((strap, (x, down)), fill=LEVELS * Part.BAG, width=max(2, round(0.013 * px)))
        top, bottom = down - tall * px, down + tall * px
        self.canvas.stack(
            [(x, top, half * 0.86), (x, top + 2, half), (x, bottom - 2, half), (x, bottom, half * 0.9)], Part.BAG
        )
        self.canvas.stack([(x, top + 0.15 * tall * px, half * 0.9), (x, top + 0.7 * tall * px, half * 0.6)], Part.BAG2)

    def _handbag(self, wrist: tuple[float, float]) -> None:
        px = self.view.scale
        x, y = wrist[0], wrist[1] + 0.032 * px
        half = self.view.half_width(0.02, 0.055)
        self.canvas.pen.arc(
            (x - half * 0.6, y - 0.02 * px, x + half * 0.6, y + 0.06 * px), 180, 360, LEVELS * Part.BAG, 3
        )
        top = y + 0.02 * px
        self.canvas.stack(
            [(x, top, half * 0.75), (x, top + 0.06 * px, half), (x, top + 0.075 * px, half * 0.95)], Part.BAG
        )
        self.canvas.disc(x, top + 0.018 * px, 0.008 * px, 0.008 * px, Part.BAG2)

    # -- head ----------------------------------------------------------------------------------------------------

    def _head_frame(self) -> tuple[float, float, float, float]:
        """Centre and half axes of the head in pixels."""
        size = self.look.body.head * self.view.scale
        x, y, _ = self._slice(0.928, 0.0, 0.0, 0.012)
        turn = self.view.yaw + self.pose.head_turn
        return x, y, size * math.hypot(0.049 * math.cos(turn), 0.056 * math.sin(turn)), size * 0.0655

    def _head_turn(self) -> tuple[float, float]:
        turn = self.view.yaw + self.pose.head_turn
        return math.sin(turn), math.cos(turn)

    def _long_hair(self) -> None:
        style = self.look.body.hair_style
        if style not in {"straight", "wavy", "fringe", "ponytail", "bob"}:
            return
        x, y, rx, ry = self._head_frame()
        sin, cos = self._head_turn()
        back = -0.55 * sin * rx
        if style == "ponytail":
            spine = (
                (x - sin * rx * 1.0, y - 0.25 * ry),
                (x - sin * rx * 1.55, y + 0.6 * ry),
                (x - sin * rx * 1.35, y + 2.1 * ry),
            )
            self.canvas.tube(spine, (0.28 * rx, 0.42 * rx, 0.16 * rx), Part.HAIR)
            return
        length = {"bob": 1.05, "straight": 2.3, "wavy": 2.0, "fringe": 1.75}[style]
        wave = 1.18 if style == "wavy" else 1.0
        half = (1.12 * abs(cos) + 0.62 * abs(sin)) * rx * wave
        rows = ((-0.3, 0.95), (0.4, 1.02), (0.5 * length, 1.06 * wave), (0.85 * length, 0.98), (length, 0.72))
        self.canvas.stack([(x + back, y + t * ry, half * w) for t, w in rows], Part.HAIR)

    def _head(self) -> None:
        style = self.look.body.hair_style
        x, y, rx, ry = self._head_frame()
        sin, _ = self._head_turn()
        volume = {"curly": 1.27, "receding": 1.0, "cropped": 1.05, "wavy": 1.14}.get(style, 1.1)
        if self.look.hat_kind:
            volume = min(volume, 1.06)
        if style == "bun" and not self.look.hat_kind:
            self.canvas.disc(x - sin * rx * 0.9, y - ry * 1.05, 0.42 * rx, 0.4 * rx, Part.HAIR)
        lower = 0.0 if style in {"curly", "receding"} else 0.04
        if style != "receding":
            self.canvas.disc(
                x - 0.1 * sin * rx, y - (0.10 - lower) * ry, rx * volume, ry * (volume - lower), Part.HAIR
            )
        self.canvas.disc(x, y, rx, ry, Part.FACE)
        if abs(sin) > 0.35:
            tip = math.copysign(1.0, sin)
            self.canvas.polygon(
                (
                    (x + tip * rx * 0.9, y - 0.1 * ry),
                    (x + tip * rx * (1.0 + 0.16 * abs(sin)), y + 0.24 * ry),
                    (x + tip * rx * 0.9, y + 0.3 * ry),
                ),
                Part.FACE,
            )
        if self.facing <= 0.1:
            self._long_hair()
        self._hat(x, y, rx, ry)

    def _hat(self, x: float, y: float, rx: float, ry: float) -> None:
        kind = self.look.hat_kind
        if not kind:
            return
        sin, cos = self._head_turn()
        band = y - 0.46 * ry
        dome = {"beanie": 0.98, "baseball cap": 0.86, "sun hat": 0.84, "bucket hat": 0.8}[kind]
        rows = [
            (x, band - dome * ry, rx * 0.45),
            (x, band - dome * 0.85 * ry, rx * 0.8),
            (x, band - dome * 0.5 * ry, rx * 1.08),
            (x, band, rx * 1.14),
        ]
        brim = {"sun hat": 2.0, "bucket hat": 1.5}.get(kind)
        if brim:
            self.canvas.disc(x, band + 0.04 * ry, rx * brim, ry * (0.17 + 0.3 * self.view.drop), Part.HAT)
        self.canvas.stack(rows, Part.HAT)
        if kind == "baseball cap":
            self._peak(x, band, rx, ry, sin, cos)
        else:
            deep = 0.34 if kind == "beanie" else 0.16
            self.canvas.stack([(x, band - deep * ry, rx * 1.12), (x, band + 0.02 * ry, rx * 1.15)], Part.HAT2)

    def _peak(self, x: float, band: float, rx: float, ry: float, sin: float, cos: float) -> None:
        if cos < -0.35:
            return
        tip = sin * rx * 0.85
        reach = rx * (0.42 + 0.55 * abs(cos))
        drop = ry * (0.14 + 0.12 * max(cos, 0.0))
        self.canvas.disc(x + tip, band + 0.05 * ry, reach, drop, Part.HAT2)

    # -- per-pixel detail ----------------------------------------------------------------------------------------

    def _details(self, labels: np.ndarray) -> np.ndarray:
        self._face_detail(labels)
        self._upper_detail(labels)
        self._lower_detail(labels)
        self._sleeve_detail(labels)
        return labels

    def _face_detail(self, labels: np.ndarray) -> None:
        """Give the pixels of the head to hair, brows, eyes, mouth and glasses by direction from its centre."""
        x, y, rx, ry = self._head_frame()
        rows, cols = _window(labels.shape, x - 1.3 * rx, y - ry, x + 1.3 * rx, y + ry)
        head = labels[rows, cols]
        if not head.size:
            return
        across = ((np.arange(cols.start, cols.stop) - x) / rx)[None, :]
        up = ((y - np.arange(rows.start, rows.stop)) / ry)[:, None]
        out = np.sqrt(np.clip(1 - across**2 - up**2, 0, None))
        sin, cos = self._head_turn()
        side, front = across * cos - out * sin, across * sin + out * cos
        level = head & (LEVELS - 1)
        face = (head >> 2) == Part.FACE
        for part, where in _face_zones(self.look, side, up, front):
            head[...] = np.where(face & where, LEVELS * part + level, head)

    def _body_angles(self, labels: np.ndarray, slices: Sequence[tuple[float, float, float]], part: Part) -> _Surface:
        """Body coordinates of the pixels around `slices`, with those that show `part`."""
        top, bottom = slices[0][1], slices[-1][1] + 0.05 * self.view.scale
        reach = max(half for _, _, half in slices)
        centre = slices[len(slices) // 2][0]
        rows, cols = _window(labels.shape, centre - 1.4 * reach, top, centre + 1.4 * reach, bottom)
        window = labels[rows, cols]
        ys = np.arange(rows.start, rows.stop)
        knots = [y for _, y, _ in slices]
        centres = np.interp(ys, knots, [x for x, _, _ in slices]).astype(np.float32)[:, None]
        halves = np.interp(ys, knots, [w for _, _, w in slices]).astype(np.float32)[:, None]
        angle = np.arange(cols.start, cols.stop, dtype=np.float32)[None, :] - centres
        angle /= np.maximum(halves, 1.0)
        np.arcsin(np.clip(angle, -1, 1, out=angle), out=angle)
        angle -= np.float32(self.view.yaw)
        angle -= np.float32(2 * np.pi) * np.rint(angle * np.float32(0.5 / np.pi))
        height = ((self.view.foot[1] - ys) / (self.view.scale * self.view.rise) - self.bones.lift)[:, None].astype(
            np.float32
        )
        return _Surface(window, (window >> 2) == part, angle, height)

    def _upper_detail(self, labels: np.ndarray) -> None:
        look = self.look
        surface = self._body_angles(labels, self.torso, Part.UPPER)
        window, angle, height = surface.labels, surface.angle, surface.height
        level = window & (LEVELS - 1)

        def put(part: Part, where: np.ndarray) -> None:
            np.copyto(window, LEVELS * part + level, where=surface.member & where, casting="unsafe")

        put(Part.UPPER2, pattern_mask(look.upper, angle, height))
        for part, where in _garment_zones(look, angle, height):
            put(part, where)
        for where in _strap_zones(look, angle, height):
            put(Part.BAG, where)

    def _lower_detail(self, labels: np.ndarray) -> None:
        look = self.look
        if look.lower.pattern == "plain":
            return
        if look.lower.pattern == "side-striped":
            self._side_stripes(labels)
            return
        surface = self._body_angles(labels, self.skirt, Part.LOWER)
        where = surface.member & pattern_mask(look.lower, surface.angle, surface.height)
        level = surface.labels & (LEVELS - 1)
        np.copyto(surface.labels, LEVELS * Part.LOWER2 + level, where=where, casting="unsafe")

    def _side_stripes(self, labels: np.ndarray) -> None:
        """A stripe down the outside of each leg, where that side faces the camera."""
        stripes = Image.new("L", (labels.shape[1], labels.shape[0]))
        pen = ImageDraw.Draw(stripes)
        for side, sign in ((0, -1), (1, 1)):
            outward = (sign * 0.034, 0.0, 0.0)
            if self.view.depth(outward) < -0.02:
                continue
            line = [
                self.view((x + sign * 0.036, y, z))
                for x, y, z in (j[side] for j in (self.bones.hips, self.bones.knees, self.bones.ankles))
            ]
            pen.line(line, fill=1, width=max(2, round(0.014 * self.view.scale)))
        where = (np.asarray(stripes) == 1) & ((labels >> 2) == Part.TROUSER_LEG)
        np.copyto(labels, LEVELS * Part.LOWER2 + (labels & (LEVELS - 1)), where=where, casting="unsafe")

    def _sleeve_detail(self, labels: np.ndarray) -> None:
        look = self.look
        if (
            look.upper.pattern not in {"striped", "checked", "dotted", "two-tone", "pinstriped"}
            or look.upper_kind == "vest"
        ):
            return
        member = (labels >> 2) == Part.SLEEVE
        height = ((self.view.foot[1] - np.arange(labels.shape[0])) / self.view.scale)[:, None].astype(np.float32)
        angle = ((np.arange(labels.shape[1]) - self.view.foot[0]) / (0.1 * self.view.scale))[None, :].astype(
            np.float32
        )
        where = member & pattern_mask(look.upper, angle, height)
        np.copyto(labels, LEVELS * Part.SLEEVE2 + (labels & (LEVELS - 1)), where=where, casting="unsafe")


def pattern_mask(cloth: Cloth, angle: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Where `cloth` shows its second colour.

    Args:
        angle: azimuth on the body in radians, broadcastable with `height`.
        height: height above the ground in body heights.

    Returns:
        A boolean array of the broadcast shape.
    """
    return _PATTERN_RULES[cloth.pattern](angle * 0.1, height, cloth.pattern_size, cloth.pattern_phase)


def _plain(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    return np.zeros(np.broadcast_shapes(u.shape, v.shape), dtype=bool)


def _striped(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    return ((v / (0.036 * size) + phase) % 1 < 0.3 + 0.3 * phase) | (u > np.inf)


def _pinstriped(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    return (u / (0.026 * size) % 1 < 0.26) & (v < np.inf)


def _checked(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    period = 0.044 * size
    return (u / period % 1 < 0.3) ^ ((v / period + phase) % 1 < 0.34)


def _dotted(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    period = 0.038 * size
    row = np.floor(v / period + phase)
    du = (u / period + 0.5 * (row % 2)) % 1 - 0.5
    dv = (v / period + phase) % 1 - 0.5
    return du**2 + dv**2 < 0.075


def _two_tone(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    split = 0.64 + 0.1 * phase
    return ((v > split) if phase < 0.5 else (v < split)) & (u < np.inf)


def _banded(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    centre = 0.63 + 0.1 * phase
    return (np.abs(v - centre) < 0.02 * size) & (u < np.inf)


def _logo(u: np.ndarray, v: np.ndarray, size: float, phase: float) -> np.ndarray:
    """A print on the chest, and for half the people on the back too; its shape depends on the phase."""
    around = np.where(np.abs(u) < 0.157, u, (np.abs(u) - 0.314) if phase > 0.5 else np.inf)
    reach, dv = 0.042 * size, v - 0.705
    shapes = (
        around**2 + dv**2 < reach**2,
        np.abs(around) + np.abs(dv) < reach * 1.15,
        (np.abs(around) < reach * 1.2) & (np.abs(dv) < reach) & ((dv / reach * 2.5) % 1 < 0.55),
        (np.abs(around) < reach) & (np.abs(dv) < reach * 0.8),
        (np.abs(dv + np.abs(around) * 0.8 - 0.01) < reach * 0.35) & (np.abs(around) < reach * 1.5),
    )
    return shapes[int(phase * 10) % len(shapes)]


_PATTERN_RULES: Mapping[str, Callable[[np.ndarray, np.ndarray, float, float], np.ndarray]] = {
    "plain": _plain,
    "striped": _striped,
    "pinstriped": _pinstriped,
    "checked": _checked,
    "dotted": _dotted,
    "two-tone": _two_tone,
    "banded": _banded,
    "logo": _logo,
}


def _garment_zones(look: Appearance, angle: np.ndarray, height: np.ndarray) -> list[tuple[Part, np.ndarray]]:
    """Openings, collars and closures of the upper garment, as (part, mask) in painting order."""
    kind, off = look.upper_kind, np.abs(angle)
    zones: list[tuple[Part, np.ndarray]] = []
    neckline = {"shirt": 0.795, "polo shirt": 0.785, "dress": 0.79, "tunic": 0.78}.get(kind, 0.812)
    if look.opened:
        gap = 0.20 + 0.55 * np.clip((height - 0.62) / 0.2, 0, 1) if kind == "blazer" else 0.34 + 0.1 * (height < 0.6)
        zones.append((Part.INNER, off < gap))
        zones.append((Part.TRIM, (off >= gap) & (off < gap + 0.09)))
        zones.append((Part.SKIN, off * 0.09 < height - 0.795))
        return zones
    if kind in {"jacket", "parka", "vest", "coat", "blazer", "shirt", "polo shirt", "long cardigan"}:
        low = 0.74 if kind == "polo shirt" else 0.0
        zones.append((Part.TRIM, (off < 0.07) & (height > low)))
    if kind in {"blazer", "coat", "long cardigan"}:
        zones.append((Part.INNER, off * 0.1 < (height - 0.73) * 0.55))
    if kind in {"hoodie", "parka"}:
        zones.append((Part.TRIM, (off > 1.7) & (height > 0.785)))
    elif kind in {"shirt", "polo shirt", "blazer", "jacket"}:
        zones.append((Part.TRIM, (height > 0.818) & (off > 0.5)))
    zones.append((Part.SKIN, off * 0.085 < (height - neckline) * 1.1))
    if kind in {"dress", "coat", "parka"}:
        zones.append((Part.TRIM, np.abs(height - 0.595) < 0.012))
    return zones


def _strap_zones(look: Appearance, angle: np.ndarray, height: np.ndarray) -> list[np.ndarray]:
    """Straps of a bag across the chest and back."""
    if look.bag_kind == "backpack":
        return [(np.abs(np.abs(angle) - 0.75) < 0.17) & (height > 0.63)]
    if look.bag_kind == "messenger bag":
        along = 0.66 + look.bag_side * np.where(np.abs(angle) < np.pi / 2, -np.sin(angle), -np.sin(angle)) * 0.15
        return [np.abs(height - along) < 0.014]
    return []


def _face_zones(
    look: Appearance, side: np.ndarray, up: np.ndarray, front: np.ndarray
) -> list[tuple[Part, np.ndarray]]:
    """Parts of the head by unit direction (to the left, up, to the front), in painting order."""
    body, frontal = look.body, front > 0.15
    eyes = (np.abs(np.abs(side) - 0.38) < 0.14) & (np.abs(up - 0.06) < 0.085) & frontal
    pupils = (np.abs(np.abs(side) - 0.37) < 0.085) & (np.abs(up - 0.06) < 0.085) & frontal
    zones = [
        (Part.EYE_WHITE, eyes),
        (Part.EYE, pupils),
        (
            Part.BROW,
            (np.abs(np.abs(side) - 0.38) < 0.17)
            & (np.abs(up - 0.29 + 1.2 * (np.abs(side) - 0.38) ** 2) < 0.035)
            & frontal,
        ),
        (Part.NOSE, (np.abs(side) < 0.1) & (up < -0.08) & (up > -0.22) & frontal),
        (Part.MOUTH, (np.abs(side) < 0.27) & (np.abs(up + 0.48 - 1.6 * side**2) < 0.05) & frontal),
    ]
    if body.beard == "beard":
        zones.append(
            (Part.BROW, (up < -0.22) & (front > 0.05) & ~((np.abs(side) < 0.22) & (np.abs(up + 0.45) < 0.06)))
        )
    if body.beard == "moustache":
        zones.append((Part.BROW, (np.abs(side) < 0.3) & (np.abs(up + 0.32) < 0.06) & frontal))
    zones.append((Part.HAIR, _hair_zone(body.hair_style, side, up, front)))
    if look.glasses_kind:
        lens = (np.abs(np.abs(side) - 0.4) < 0.25) & (np.abs(up - 0.04) < 0.16) & frontal
        rim = (np.abs(np.abs(side) - 0.4) < 0.32) & (np.abs(up - 0.04) < 0.22) & frontal & ~lens
        temple = (np.abs(up - 0.12) < 0.05) & (front <= 0.35) & (front > -0.25)
        zones.append((Part.RIM, rim | temple))
        zones.append((Part.LENS, lens if look.glasses_kind == "sunglasses" else lens & ~pupils))
    return zones


def _hair_zone(style: str, side: np.ndarray, up: np.ndarray, front: np.ndarray) -> np.ndarray:
    behind = (front < -0.12) & (up > -0.8)
    if style == "receding":
        return (front + 0.7 * up < 0.2) & (up < 0.5) & (up > -0.65 - 0.5 * front) & (front < 0.25)
    if style == "fringe":
        return behind | (up > 0.3) | (np.abs(side) > 0.86) & (front < 0.5)
    if style in {"parted", "wavy", "straight"}:
        return (
            behind
            | (up > 0.5 + 0.22 * np.cos(3 * (side - 0.25)))
            | (np.abs(side) > 0.8) & (front < 0.45) & (up > -0.5)
        )
    if style == "bob":
        return behind | (up > 0.42 + 0.12 * side) | (np.abs(side) > 0.78) & (front < 0.5)
    return behind | (up > 0.5 - 0.1 * side**2) | (np.abs(side) > 0.82) & (front < 0.3) & (up > -0.1)


def _skeleton(look: Appearance, pose: Pose) -> _Skeleton:
    """Joints of a person in mid-step. Lengths follow an average adult of height 1."""
    body = look.body
    narrow = 0.55 if look.lower_kind == "long skirt" else 1.0
    swing = pose.stride * math.sin(pose.phase) * body.gait * narrow
    hips: list[Point] = []
    knees: list[Point] = []
    ankles: list[Point] = []
    for sign in (-1, 1):
        angle = sign * swing
        flex = 0.12 + 0.9 * pose.stride * max(0.0, math.cos(pose.phase) * sign) * (0.4 + 0.6 * (angle < 0.25))
        hip: Point = (sign * 0.044 * body.hips, 0.5, 0.0)
        knee: Point = (hip[0] * 0.95, hip[1] - 0.232 * math.cos(angle), 0.232 * math.sin(angle))
        shin = angle - flex
        ankle: Point = (knee[0] * 0.9, knee[1] - 0.222 * math.cos(shin), knee[2] + 0.222 * math.sin(shin))
        hips.append(hip)
        knees.append(knee)
        ankles.append(ankle)
    lift = 0.045 - min(ankle[1] for ankle in ankles)
    lean = body.stoop + 0.03 * pose.stride
    shoulders, elbows, wrists = _arms(look, pose, swing, lean, lift)
    return _Skeleton(
        hips=_raise(hips, lift),
        knees=_raise(knees, lift),
        ankles=_raise(ankles, lift),
        shoulders=shoulders,
        elbows=elbows,
        wrists=wrists,
        lean=lean,
        lift=lift,
    )


def _arms(
    look: Appearance, pose: Pose, swing: float, lean: float, lift: float
) -> tuple[tuple[Point, Point], tuple[Point, Point], tuple[Point, Point]]:
    shoulders: list[Point] = []
    elbows: list[Point] = []
    wrists: list[Point] = []
    spread = 0.10 + 0.10 * max(0.0, look.body.girth - 1.0)
    for sign in (-1, 1):
        upper, fore, outward = -sign * swing * 0.9, -sign * swing * 0.9 + 0.28, spread
        if pose.arms == "phone" and sign == look.bag_side * -1:
            upper, fore, outward = 0.2, 2.45, 0.05
        elif pose.arms == "pockets":
            upper, fore, outward = -0.35, 0.5, 0.38
        elif pose.arms == "hang":
            upper, fore = 0.02, 0.12
        shoulder: Point = (sign * 0.098 * look.body.shoulders, 0.785, lean * 0.29)
        elbow: Point = (
            shoulder[0] + sign * 0.165 * math.sin(outward),
            shoulder[1] - 0.165 * math.cos(upper) * math.cos(outward),
            shoulder[2] + 0.165 * math.sin(upper),
        )
        inward = 0.9 if pose.arms == "pockets" else 0.25
        wrist: Point = (
            elbow[0] - sign * 0.14 * math.sin(inward * outward),
            elbow[1] - 0.145 * math.cos(fore),
            elbow[2] + 0.145 * math.sin(fore),
        )
        shoulders.append(shoulder)
        elbows.append(elbow)
        wrists.append(wrist)
    return _raise(shoulders, lift), _raise(elbows, lift), _raise(wrists, lift)


def _raise(points: Sequence[Point], lift: float) -> tuple[Point, Point]:
    (ax, ay, az), (bx, by, bz) = points
    return (ax, ay + lift, az), (bx, by + lift, bz)


def _normals(spine: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Unit normals of a polyline at its points."""
    normals = []
    for index in range(len(spine)):
        before, after = spine[max(index - 1, 0)], spine[min(index + 1, len(spine) - 1)]
        dx, dy = after[0] - before[0], after[1] - before[1]
        length = math.hypot(dx, dy) or 1.0
        normals.append((-dy / length, dx / length))
    return normals


def _towards(start: tuple[float, float], end: tuple[float, float], share: float) -> tuple[float, float]:
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def _part_at(labels: np.ndarray, x: float, y: float) -> int:
    """The part that a label map shows at a place; 0 outside it."""
    inside = 0 <= x < labels.shape[1] and 0 <= y < labels.shape[0]
    return int(labels[int(y), int(x)]) // LEVELS if inside else 0


def _mix(color: RGB, other: RGB, share: float) -> RGB:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(color, other, strict=True))
    return red, green, blue


def _window(shape: tuple[int, ...], left: float, top: float, right: float, bottom: float) -> tuple[slice, slice]:
    """Row and column slices of a box, clipped to an array of `shape`."""
    rows = slice(min(max(0, int(top)), shape[0]), max(0, min(shape[0], int(bottom) + 2)))
    cols = slice(min(max(0, int(left)), shape[1]), max(0, min(shape[1], int(right) + 2)))
    return rows, cols
