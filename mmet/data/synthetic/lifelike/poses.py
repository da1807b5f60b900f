"""Postures of lifelike people and the positions of their joints: x to the person's left, y up, z to the front."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mmet.data.synthetic.lifelike.people import Build, Look
from mmet.data.synthetic.lifelike.relief import Point
from mmet.data.synthetic.lifelike.shades import draw_name
from mmet.data.synthetic.skeleton import Skeleton

THIGH, SHIN, UPPER_ARM, FOREARM = 0.245, 0.235, 0.165, 0.15


@dataclass(frozen=True, slots=True)
class Posture:
    """The body in one moment. Angles in radians; arms by side, the person's right first."""

    stride: float
    phase: float
    arms: tuple[str, str]
    turn: float
    nod: float
    lean: float
    sway: float


@dataclass(frozen=True, slots=True)
class Joints(Skeleton):
    """Joint positions of a body that also sways, by `sway` to its side for each height."""

    sway: float

    def trunk(self, y: float, z: float = 0.0, x: float = 0.0) -> Point:
        """A point of the trunk or the head at body height `y`, bent as the body is."""
        above = max(0.0, y - 0.5)
        return x + self.sway * above, y + self.lift, z + self.lean * above


_STANDING = {"hang": 5, "pockets": 4, "phone": 1.5, "front": 2.5, "crossed": 1, "back": 0.7, "hip": 0.7}
_WALKING = {"swing": 10, "pockets": 2.5, "phone": 1, "front": 1.5, "hang": 0.7}


def draw_posture(rng: np.random.Generator, look: Look) -> Posture:
    """Walking or standing, with arms that fit what is carried."""
    standing = rng.random() < 0.25
    both = draw_name(rng, _STANDING if standing else _WALKING)
    arms = [both, both]
    if both not in {"crossed", "front", "back"} and rng.random() < 0.3:
        arms[int(rng.integers(2))] = draw_name(rng, {"hang": 2, "pockets": 1.5, "swing": 2, "strap": 1.0})
    carrying = 1 if look.side > 0 else 0
    if look.carried and (look.carried.kind != "phone" or rng.random() < 0.5):
        arms[1 - carrying] = {"umbrella": "raised", "phone": "phone"}.get(look.carried.kind, "front")
    if look.bag and look.bag.kind in {"handbag", "carrier bag", "briefcase", "suitcase"}:
        arms[carrying] = "behind" if look.bag.kind == "suitcase" else "hang"
    return Posture(
        stride=float(rng.uniform(0.02, 0.14) if standing else rng.uniform(0.28, 0.62)),
        phase=float(rng.uniform(0, 2 * math.pi)),
        arms=(arms[0], arms[1]),
        turn=float(rng.normal(0, 0.3)),
        nod=float(rng.normal(0.012, 0.01)),
        lean=float(rng.normal(0.05 if standing else 0.09, 0.05)),
        sway=float(rng.normal(0, 0.03)),
    )


def place_joints(build: Build, posture: Posture) -> Joints:
    """Joints of a person of average height 1 in a posture; the lower foot stands on the ground."""
    hips, knees, ankles = [], [], []
    swing = posture.stride * math.sin(posture.phase) * build.gait
    thigh, shin = THIGH * build.legs, SHIN * build.legs
    for sign in (-1, 1):
        angle = sign * swing
        passing = max(0.0, math.cos(posture.phase) * sign)
        flex = 0.08 + 1.25 * posture.stride * passing + 0.35 * posture.stride * (angle < -0.15)
        spread = 0.02 + 0.02 * (posture.stride < 0.15)
        hip: Point = (sign * 0.05 * build.hips, 0.525, 0.0)
        knee: Point = (hip[0] + sign * spread * 0.3, hip[1] - thigh * math.cos(angle), thigh * math.sin(angle))
        below = angle - flex
        ankle: Point = (
            knee[0] - sign * 0.008,
            knee[1] - shin * math.cos(below),
            knee[2] + shin * math.sin(below),
        )
        hips.append(hip)
        knees.append(knee)
        ankles.append(ankle)
    rise = 0.045 - min(ankle[1] for ankle in ankles)
    lean, sway = posture.lean + build.stoop, posture.sway
    arms = [_arm(build, posture, side, swing, rise, lean, sway) for side in (0, 1)]
    return Joints(
        hips=(_up(hips[0], rise), _up(hips[1], rise)),
        knees=(_up(knees[0], rise), _up(knees[1], rise)),
        ankles=(_up(ankles[0], rise), _up(ankles[1], rise)),
        shoulders=(arms[0][0], arms[1][0]),
        elbows=(arms[0][1], arms[1][1]),
        wrists=(arms[0][2], arms[1][2]),
        lean=lean,
        lift=rise,
        sway=sway,
    )


def _arm(
    build: Build, posture: Posture, side: int, swing: float, rise: float, lean: float, sway: float
) -> tuple[Point, Point, Point]:
    """Shoulder, elbow and wrist. Angles: of the upper arm, of the forearm, outwards, and of the forearm inwards."""
    sign = -1 if side == 0 else 1
    upper, fore, out, inward = {
        "swing": (-sign * swing * 0.95, -sign * swing * 0.95 + 0.3, 0.13, 0.05),
        "hang": (0.02, 0.14, 0.12, 0.0),
        "pockets": (-0.32, 0.42, 0.38, 0.45),
        "phone": (0.35, 2.5, 0.25, 0.35),
        "front": (0.2, 1.45, 0.16, 0.5),
        "crossed": (0.25, 1.5, 0.2, 1.15),
        "back": (-0.4, -0.5, 0.25, 0.9),
        "hip": (-0.3, 0.5, 0.75, 1.1),
        "strap": (-0.1, 2.3, 0.3, 0.3),
        "raised": (0.5, 2.2, 0.2, 0.1),
        "behind": (-0.45, -0.35, 0.12, 0.0),
    }[posture.arms[side]]
    out += 0.12 * max(0.0, build.girth - 1)
    shoulder: Point = (sign * 0.1 * build.shoulders + sway * 0.3, 0.793 + rise, lean * 0.29)
    elbow: Point = (
        shoulder[0] + sign * UPPER_ARM * math.sin(out),
        shoulder[1] - UPPER_ARM * math.cos(upper) * math.cos(out),
        shoulder[2] + UPPER_ARM * math.sin(upper),
    )
    wrist: Point = (
        elbow[0] - sign * FOREARM * math.sin(inward),
        elbow[1] - FOREARM * math.cos(fore) * math.cos(inward),
        elbow[2] + FOREARM * math.sin(fore) * math.cos(inward),
    )
    return shoulder, elbow, wrist


def _up(point: Point, rise: float) -> Point:
    return point[0], point[1] + rise, point[2]
