"""Boxes of persons in a frame, and how they overlap.

    iou = box_iou(detections.boxes, other.boxes)
    detections = suppress(detections, max_iou=0.5)

Boxes are float arrays (N, 4) of left, top, right and bottom in pixels, with 0 at the picture's left and top edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class FootageError(ValueError):
    """A video or a file of detections cannot be used; the message names it and says what to do."""


@dataclass(frozen=True, slots=True)
class Detections:
    """
    Persons in one frame.

    Attributes:
        boxes: float64 (N, 4).
        scores: float64 (N,), 0..1.
        ids: int64 (N,), known tracks; None without.
    """

    boxes: np.ndarray
    scores: np.ndarray
    ids: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, chosen: np.ndarray) -> Detections:
        return Detections(self.boxes[chosen], self.scores[chosen], None if self.ids is None else self.ids[chosen])

    def clipped(self, height: int, width: int) -> Detections:
        """Boxes clipped to the picture and rounded to hundredths; boxes outside are left out."""
        boxes = np.round(np.clip(self.boxes, 0, (width, height, width, height)), 2)
        inside = (boxes[:, 2] - boxes[:, 0] >= 1) & (boxes[:, 3] - boxes[:, 1] >= 1)
        return Detections(boxes, np.round(self.scores, 4), self.ids)[inside]


def no_detections() -> Detections:
    """A frame without persons."""
    return Detections(np.zeros((0, 4)), np.zeros(0))


def areas(boxes: np.ndarray) -> np.ndarray:
    """Areas (N,) of boxes (N, 4)."""
    return np.asarray(np.clip(boxes[:, 2] - boxes[:, 0], 0, None) * np.clip(boxes[:, 3] - boxes[:, 1], 0, None))


def intersections(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Common areas (N, M) of boxes (N, 4) and others (M, 4)."""
    corner = np.maximum(boxes[:, None, :2], others[None, :, :2])
    sides = np.clip(np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - corner, 0, None)
    return np.asarray(sides[..., 0] * sides[..., 1])


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union (N, M) of boxes (N, 4) and others (M, 4)."""
    common = intersections(boxes, others)
    return np.asarray(common / np.maximum(areas(boxes)[:, None] + areas(others)[None] - common, 1e-9))


def suppress(detections: Detections, *, max_iou: float, max_share: float = 1.0) -> Detections:
    """
    Remove boxes that overlap a better one (non-maximum suppression).

    Args:
        max_iou: largest intersection over union that is kept.
        max_share: largest share of the smaller box that may lie in the better one.
    """
    order = np.argsort(-detections.scores, kind="stable")
    kept: list[int] = []
    for index in order:
        box, better = detections.boxes[[index]], detections.boxes[kept]
        common = intersections(box, better)[0]
        share = common / np.maximum(np.minimum(areas(box), areas(better)), 1e-9)
        if not ((box_iou(box, better)[0] > max_iou) | (share > max_share)).any():
            kept.append(int(index))
    return detections[np.array(kept, dtype=int)]
