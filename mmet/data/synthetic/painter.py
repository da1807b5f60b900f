"""Paint a person on a canvas, from the back of the scene to the front, then the details on surfaces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from mmet.data.synthetic.canvas import LEVELS, Canvas, Part, View, part_at, towards, window
from mmet.data.synthetic.identity import Appearance
from mmet.data.synthetic.keypoints import Joint, Limb
from mmet.data.synthetic.patterns import pattern_mask
from mmet.data.synthetic.skeleton import Pose, build_skeleton
from mmet.data.synthetic.zones import face_zones, garment_zones, strap_zones

SUPERSAMPLING = 2
"""Pixels of the label map for each pixel of the crop, in height and in width."""

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
"""Directions (to the left, up) from the centre of the head; nose and eyes as in `face_zones`. Ears are not drawn."""

_PROFILE = 0.87
"""Sine of the view from which the trunk hides the shoulder and the hip of the far side."""


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


class Painter:
    """Paints one person from the back of the scene to the front."""

    def __init__(self, look: Appearance, pose: Pose, view: View, canvas: Canvas) -> None:
        self.look, self.pose, self.view, self.canvas = look, pose, view, canvas
        self.bones = build_skeleton(look, pose)
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
                shown = part_at(labels, x, y) in _JOINT_PARTS[kind] and not self._hidden(kind, side, x, y)
                joints[f"{name}_{kind}"] = Joint(x / SUPERSAMPLING, y / SUPERSAMPLING, shown)
        return joints

    def _hidden(self, kind: str, side: int, x: float, y: float) -> bool:
        """Whether the person's own body hides a joint in a way that the label at its place does not tell."""
        if kind in {"shoulder", "hip"}:
            return (self.view.sin if side else -self.view.sin) > _PROFILE
        joint_limb = ("arm" if kind in {"elbow", "wrist"} else "leg", side)
        painted = list(self.limbs)
        return any(self.limbs[limb].covers(x, y) for limb in painted[painted.index(joint_limb) + 1 :])

    def _face_joints(self, labels: np.ndarray) -> dict[str, Joint]:
        x, y, rx, ry = self._head_frame()
        sin, cos = self._head_turn()
        joints = {}
        for name, (side, up) in _FACE_POINTS.items():
            front = math.sqrt(max(0.0, 1 - side**2 - up**2))
            px, py = x + rx * (side * cos + front * sin), y - ry * up
            shown = front * cos - side * sin > 0 and part_at(labels, px, py) in _FACE
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
        self.canvas.disc(*towards(wrist, elbow, -0.12), 0.0185 * px, 0.0215 * px, Part.SKIN)
        if look.sleeve == "short":
            middle = towards(shoulder, elbow, 0.72)
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
            self.canvas.tube((towards(knee, ankle, 0.35), ankle), (0.034 * bulk, 0.026 * bulk), Part.SHOE)
        if look.lower_kind == "shorts":
            end = towards(knee, hip, 0.1)
            self.canvas.tube((hip, end), (0.058 * bulk, 0.05 * bulk * look.leg_width), Part.TROUSER_LEG)
        elif not bare:
            end = towards(knee, ankle, 0.5 if look.shoe_kind == "boots" else 0.95)
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
        rows, cols = window(labels.shape, x - 1.3 * rx, y - ry, x + 1.3 * rx, y + ry)
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
        for part, where in face_zones(self.look, side, up, front):
            head[...] = np.where(face & where, LEVELS * part + level, head)

    def _body_angles(self, labels: np.ndarray, slices: Sequence[tuple[float, float, float]], part: Part) -> _Surface:
        """Body coordinates of the pixels around `slices`, with those that show `part`."""
        top, bottom = slices[0][1], slices[-1][1] + 0.05 * self.view.scale
        reach = max(half for _, _, half in slices)
        centre = slices[len(slices) // 2][0]
        rows, cols = window(labels.shape, centre - 1.4 * reach, top, centre + 1.4 * reach, bottom)
        region = labels[rows, cols]
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
        return _Surface(region, (region >> 2) == part, angle, height)

    def _upper_detail(self, labels: np.ndarray) -> None:
        look = self.look
        surface = self._body_angles(labels, self.torso, Part.UPPER)
        region, angle, height = surface.labels, surface.angle, surface.height
        level = region & (LEVELS - 1)

        def put(part: Part, where: np.ndarray) -> None:
            np.copyto(region, LEVELS * part + level, where=surface.member & where, casting="unsafe")

        put(Part.UPPER2, pattern_mask(look.upper, angle, height))
        for part, where in garment_zones(look, angle, height):
            put(part, where)
        for where in strap_zones(look, angle, height):
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
