"""The skeleton of a person in a pose: joints in three dimensions, x to the person's left, y up, z to the front.

The unit is the body height of an average adult.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmet.data.synthetic.canvas import Point
from mmet.data.synthetic.identity import Appearance


@dataclass(frozen=True, slots=True)
class Pose:
    """A body posture. Angles are in radians: `stride` swings the legs, `phase` (0..2π) is the moment of the step."""

    stride: float = 0.4
    phase: float = 0.0
    arms: str = "swing"
    head_turn: float = 0.0
    sway: float = 0.0


@dataclass(frozen=True, slots=True)
class Skeleton:
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


def build_skeleton(look: Appearance, pose: Pose) -> Skeleton:
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
    return Skeleton(
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
