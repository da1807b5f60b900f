"""The offline detector: OpenCV's HOG people detector combined with motion in front of a fixed camera.

    detector = HogDetector()
    detections = detector.detect([frame])

The HOG detector's window has a margin around the person, which is removed. A background model (MOG2) finds moving
regions. A moving region with a person's proportions counts as a person even if HOG misses it (from the side, from
above, drawn), and the edges of a HOG box are moved to those of the moving region in it. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np

from mmet.footage.boxes import Detections, areas, box_iou, intersections, no_detections, suppress
from mmet.footage.decode import Frame

MARGIN_X, MARGIN_Y = 0.20, 0.11
"""Share of HOG's window on each side of the person, measured on drawn films with true boxes."""

_WINDOW = (128, 64)
"""Height and width of HOG's window, below which OpenCV reads beyond the picture."""

_WORKING_HEIGHT = 288
"""Height in pixels at which motion is detected."""

_TOO_MUCH = 0.6
"""If a larger share of the picture moves, the motion is not that of persons."""

_FULL_SCAN = 8
"""HOG scans the whole picture in one frame of this many, else only where something moves or a person was."""

_ASPECT = (1.3, 4.6)
"""Range of height divided by width of a region that may be one person."""


class HogDetector:
    """
    HOG people detector and motion.

    Args:
        min_height: smallest person in pixels.
        use_motion: False for a camera that moves.
    """

    def __init__(self, *, min_height: int = 48, use_motion: bool = True) -> None:
        self._cv2 = import_cv2()
        self._hog = self._cv2.HOGDescriptor()
        self._hog.setSVMDetector(self._cv2.HOGDescriptor_getDefaultPeopleDetector())
        self.min_height, self.use_motion = min_height, use_motion
        self._background: Any = None
        self._shape: tuple[int, ...] = ()
        self._calls = 0
        self._seen = no_detections()

    def observe(self, frames: Sequence[Frame]) -> None:
        """Learn the background from frames whose persons are already known."""
        for frame in frames:
            self._moving(frame.image)

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """The persons in each frame."""
        return [self._detect(frame.image) for frame in frames]

    def _detect(self, image: np.ndarray) -> Detections:
        if not self.use_motion:
            return suppress(self._people(image), max_iou=0.5, max_share=0.8)
        mask, scale = self._moving(image)
        if mask.mean() > _TOO_MUCH:  # the light or the camera has changed
            return suppress(self._people(image), max_iou=0.5, max_share=0.8)
        places = self._places(mask, scale) if self._calls % _FULL_SCAN else [(0, 0, image.shape[1], image.shape[0])]
        self._calls += 1
        parts = [self._people(image, place) for place in places]
        persons = Detections(
            np.concatenate([part.boxes for part in parts] or [np.zeros((0, 4))]),
            np.concatenate([part.scores for part in parts] or [np.zeros(0)]),
        )
        self._seen = suppress(persons, max_iou=0.5)
        return _merge(self._snap(persons, mask, scale), self._regions(mask, scale))

    def _places(self, mask: np.ndarray, scale: float) -> list[tuple[int, int, int, int]]:
        """Boxes in which persons may be: moving regions, and where the last frame had a person."""
        _, _, stats, _ = self._cv2.connectedComponentsWithStats(mask, connectivity=8)
        tall = stats[1:][stats[1:, 3] * scale >= 0.5 * self.min_height, :4].astype(float)
        moving = np.concatenate([tall[:, :2], tall[:, :2] + tall[:, 2:]], axis=1) * scale
        boxes = np.concatenate([moving, self._seen.boxes])
        margin = np.maximum(0.3 * (boxes[:, 2:] - boxes[:, :2]), (40, 40))
        limits = np.array([mask.shape[1], mask.shape[0]]) * scale
        boxes = np.concatenate(
            [np.maximum(boxes[:, :2] - margin, 0), np.minimum(boxes[:, 2:] + margin, limits)], axis=1
        )
        return _united(boxes)

    def _people(self, image: np.ndarray, place: tuple[int, int, int, int] | None = None) -> Detections:
        """HOG's boxes without their margin."""
        height, width = image.shape[:2]
        if height < _WINDOW[0] or width < _WINDOW[1]:  # OpenCV crashes
            return no_detections()
        left, top, right, bottom = place or (0, 0, width, height)
        top, bottom = _at_least(_WINDOW[0], top, bottom, height)
        left, right = _at_least(_WINDOW[1], left, right, width)
        windows, weights = self._hog.detectMultiScale(
            np.ascontiguousarray(image[top:bottom, left:right, ::-1]),
            hitThreshold=0.0,
            winStride=(8, 8),
            padding=(16, 16),
            scale=1.07,
        )
        boxes = np.asarray(windows, dtype=float).reshape(-1, 4) + np.array([left, top, 0, 0])
        corner, size = boxes[:, :2], boxes[:, 2:]
        margin = size * (MARGIN_X, MARGIN_Y)
        weights = np.asarray(weights, dtype=float).reshape(-1)
        tight = np.concatenate([corner + margin, corner + size - margin], axis=1)
        return Detections(tight, 1 / (1 + np.exp(-4 * (weights - 0.4))))

    def _moving(self, image: np.ndarray) -> tuple[np.ndarray, float]:
        """A boolean mask of motion at working size, and its scale in pixels of the picture."""
        cv2 = self._cv2
        if self._background is None or self._shape != image.shape:
            self._background, self._shape = cv2.createBackgroundSubtractorMOG2(300, 20, True), image.shape
        scale = max(1.0, image.shape[0] / _WORKING_HEIGHT)
        size = round(image.shape[1] / scale), round(image.shape[0] / scale)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale > 1 else image
        mask = (self._background.apply(cv2.GaussianBlur(small, (3, 3), 0)) == 255).astype(np.uint8)
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
        return cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((9, 3), np.uint8)), scale

    def _regions(self, mask: np.ndarray, scale: float) -> Detections:
        """Moving regions with a person's proportions, groups divided; scores say how full they are."""
        _, labels, stats, _ = self._cv2.connectedComponentsWithStats(mask, connectivity=8)
        boxes, scores = [], []
        for label, (left, top, width, height, _) in enumerate(stats[1:], start=1):
            if height * scale < self.min_height:
                continue
            region = labels[top : top + height, left : left + width] == label
            for first, last in _divide(region):
                rows = np.flatnonzero(region[:, first:last].any(axis=1))
                box = np.array([left + first, top + rows[0], left + last, top + rows[-1] + 1], dtype=float)
                part = region[rows[0] : rows[-1] + 1, first:last]
                aspect, fill = part.shape[0] / part.shape[1], float(part.mean())
                if _ASPECT[0] < aspect < _ASPECT[1] and fill > 0.3 and part.shape[0] * scale >= self.min_height:
                    boxes.append(box * scale)
                    scores.append(0.55 + 0.4 * min(1.0, (fill - 0.3) / 0.4))
        return Detections(np.array(boxes).reshape(-1, 4), np.array(scores))

    def _snap(self, persons: Detections, mask: np.ndarray, scale: float) -> Detections:
        """Move the edges of boxes to those of the motion in them."""
        boxes, scores = persons.boxes.copy(), persons.scores.copy()
        for index, box in enumerate(persons.boxes / scale):
            edges, share = _moving_edges(mask, box)
            scores[index] *= 0.6 + 0.4 * min(1.0, share / 0.35)
            if share > 0.35:
                boxes[index] = edges * scale
        return Detections(boxes, scores)


def _at_least(length: int, start: int, end: int, limit: int) -> tuple[int, int]:
    """Extend the interval start..end to at least this length, inside 0..limit."""
    missing = max(0, length - (end - start))
    start = min(max(0, start - missing // 2), limit - length) if missing else start
    return start, max(end, start + length)


def _united(boxes: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Round boxes (N, 4) to whole numbers, and replace overlapping ones by one that contains them."""
    united: list[np.ndarray] = []
    for box in boxes:
        joined = box
        while True:
            touching = [
                other for other in united if (np.minimum(joined, other)[2:] > np.maximum(joined, other)[:2]).all()
            ]
            if not touching:
                break
            united = [other for other in united if not any(other is touched for touched in touching)]
            members = np.stack([joined, *touching])
            joined = np.concatenate([members[:, :2].min(axis=0), members[:, 2:].max(axis=0)])
        united.append(joined)
    return [(int(x0), int(y0), int(np.ceil(x1)), int(np.ceil(y1))) for x0, y0, x1, y1 in united]


def _moving_edges(mask: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, float]:
    """The box of the motion in and around `box`, and the share of `box` that moves."""
    width, height = box[2] - box[0], box[3] - box[1]
    around = box + np.array([-0.2 * width, -0.1 * height, 0.2 * width, 0.1 * height])
    x0, y0 = np.maximum(np.floor(around[:2]), 0).astype(int)
    x1, y1 = np.ceil(around[2:]).astype(int)
    window = mask[y0:y1, x0:x1]
    inner = mask[max(0, int(box[1])) : int(box[3]) + 1, max(0, int(box[0])) : int(box[2]) + 1]
    share = float(inner.mean()) if inner.size else 0.0
    rows, columns = window.sum(axis=1), window.sum(axis=0)
    if not rows.any():
        return box, 0.0
    rows, columns = np.flatnonzero(rows > 0.08 * width), np.flatnonzero(columns > 0.12 * height)
    if not len(rows) or not len(columns):
        return box, 0.0
    return np.array([x0 + columns[0], y0 + rows[0], x0 + columns[-1] + 1, y0 + rows[-1] + 1], dtype=float), share


def _divide(region: np.ndarray) -> list[tuple[int, int]]:
    """Columns of the persons in a moving region, bool (H, W): people side by side have gaps between them."""
    height, width = region.shape
    parts = round(width / height / 0.4)
    if width / height < 0.55 or parts < 2 or parts > 4:
        return [(0, width)]
    profile = np.convolve(region.sum(axis=0), np.ones(3) / 3, mode="same")
    cuts = [0]
    for part in range(1, parts):
        low, high = int(width * (part - 0.3) / parts), int(width * (part + 0.3) / parts) + 1
        cuts.append(low + int(np.argmin(profile[low:high])))
    cuts.append(width)
    for cut, (start, middle, end) in zip(cuts[1:-1], zip(cuts, cuts[1:], cuts[2:], strict=False), strict=False):
        if profile[cut] > 0.7 * min(profile[start:middle].max(initial=0), profile[middle:end].max(initial=0)):
            return [(0, width)]
    return list(pairwise(cuts))


def _merge(persons: Detections, regions: Detections) -> Detections:
    """
    One box for each person of HOG boxes and moving regions.

    A region that holds two or more HOG boxes is a group, and HOG's boxes are its persons. Otherwise the region is the
    tighter box, and the better score counts.
    """
    share = intersections(persons.boxes, regions.boxes) / np.maximum(areas(persons.boxes), 1e-9)[:, None]
    group = (share > 0.6).sum(axis=0) >= 2
    apart = box_iou(persons.boxes, persons.boxes)
    group &= np.array(
        [_has_two_apart(apart, np.flatnonzero(share[:, region] > 0.6)) for region in range(len(regions))], bool
    )
    regions = regions[~group]
    boxes = np.concatenate([regions.boxes, persons.boxes])
    scores = np.concatenate([regions.scores + 1, persons.scores])
    kept = suppress(Detections(boxes, scores), max_iou=0.4, max_share=0.65)
    return Detections(kept.boxes, np.where(kept.scores > 1, kept.scores - 1, kept.scores))


def _has_two_apart(iou: np.ndarray, members: np.ndarray) -> bool:
    """Whether two of the boxes overlap so little that they are two persons."""
    return bool((iou[np.ix_(members, members)] < 0.35).any())


def import_cv2() -> ModuleType:
    """Import OpenCV with its HOG detector. Raises `ValueError` that says how to install it."""
    try:
        import cv2
    except ImportError as error:
        hint = "apt-get install libgl1, or the like" if "libGL" in str(error) else "pip install 'mmet[footage]'"
        raise ValueError(f"the hog detector needs OpenCV ({error}): {hint}") from error
    if not hasattr(cv2, "HOGDescriptor"):
        raise ValueError(
            f"the hog detector needs OpenCV below 5, this is {cv2.__version__}: pip install 'mmet[footage]', or name "
            "another detector"
        )
    return cv2
