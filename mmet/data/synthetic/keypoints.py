"""Keypoints of a drawn person: where COCO's 17 joints are in the picture, and whether each is seen.

The drawing gives the joints it was drawn from (`Joint`); the finished crop decides which of them lie outside it or
behind something else (`seen_keypoints`). Names, order and the meaning of the visibility are COCO's
(https://cocodataset.org/#format-data).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

KEYPOINT_NAMES = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
"""COCO's, in COCO's order; left and right are the person's own."""

OUTSIDE, OCCLUDED, VISIBLE = 0, 1, 2
"""COCO's visibility: not in the picture, in it but hidden, seen."""

_OPAQUE = 0.5


@dataclass(frozen=True, slots=True)
class Joint:
    """A joint in pixels from the top left corner of the crop; `shown`: the person's own body does not hide it."""

    x: float
    y: float
    shown: bool


@dataclass(frozen=True, slots=True)
class Keypoint:
    """A joint as the picture shows it; `visibility` is `OUTSIDE` (x and y are 0), `OCCLUDED` or `VISIBLE`."""

    x: float
    y: float
    visibility: int


@dataclass(frozen=True, slots=True)
class Limb:
    """A limb as painted: its spine and the radius at each of its points."""

    spine: Sequence[tuple[float, float]]
    radii: Sequence[float]

    def covers(self, x: float, y: float) -> bool:
        """Whether the point lies on the limb, whose radius changes evenly between two points of the spine."""
        for ((ax, ay), (bx, by)), (start, end) in zip(pairwise(self.spine), pairwise(self.radii), strict=True):
            dx, dy = bx - ax, by - ay
            along = ((x - ax) * dx + (y - ay) * dy) / ((dx * dx + dy * dy) or 1.0)
            share = min(1.0, max(0.0, along))
            radius = start + share * (end - start)
            if (ax + share * dx - x) ** 2 + (ay + share * dy - y) ** 2 < radius * radius:
                return True
        return False


def seen_keypoints(joints: Mapping[str, Joint], alpha: np.ndarray) -> dict[str, Keypoint]:
    """Joints as keypoints of a finished crop.

    Args:
        joints: by the names of `KEYPOINT_NAMES`, in pixels of the crop.
        alpha: (H, W), 0..1, the person's share of each pixel behind everything that stands in front.

    Returns:
        The keypoints by name, in the order of `KEYPOINT_NAMES`.
    """
    height, width = alpha.shape
    keypoints = {}
    for name in KEYPOINT_NAMES:
        joint = joints[name]
        if not (0 <= joint.x < width and 0 <= joint.y < height):
            keypoints[name] = Keypoint(0.0, 0.0, OUTSIDE)
            continue
        seen = joint.shown and alpha[int(joint.y), int(joint.x)] >= _OPAQUE
        keypoints[name] = Keypoint(joint.x, joint.y, VISIBLE if seen else OCCLUDED)
    return keypoints


def keypoint_record(image: str, width: int, height: int, keypoints: Mapping[str, Keypoint]) -> dict[str, Any]:
    """Content of a keypoint file: the picture, its size, and `[x, y, visibility]` by name, to a tenth of a pixel."""
    points = {name: [round(point.x, 1), round(point.y, 1), point.visibility] for name, point in keypoints.items()}
    return {"image": image, "width": width, "height": height, "keypoints": points}
