"""Choose the best crops of a track: large, sharp, complete, not covered, and spread over time.

chooser = CropChooser(count=5)
chooser.add(Crop(frame=12, time=1.2, box=box, score=0.9, quality=0.7, image=image))
crops = chooser.best()
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mmet.footage.appearance import clothing_colors
from mmet.footage.boxes import areas, intersections

_CANDIDATES = 3
"""Number of candidates kept in memory for each crop to be chosen."""

_GOOD_HEIGHT = 128
_SHARP = 12.0
_LEAST = 0.4
"""Smallest value of a crop, relative to the best one's."""

_CUT = 0.35
"""Factor on the quality of a person who is cut off by the edge of the picture."""


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """
    A person cut out of a frame.

    Attributes:
        frame: number in the video from 0.
        time: seconds.
        box: left, top, right and bottom in the frame.
        score: of the detector.
        quality: see `crop_quality`.
        image: uint8 (H, W, 3).
    """

    frame: int
    time: float
    box: tuple[float, float, float, float]
    score: float
    quality: float
    image: np.ndarray


class CropChooser:
    """
    Keeps candidates in bounded memory, and chooses among them at the end of the track.

    Args:
        count: number of crops to choose.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._kept: list[Crop] = []

    def add(self, crop: Crop) -> None:
        """Add a later crop. If there are too many, the worse of the two closest in time is dropped."""
        self._kept.append(crop)
        if len(self._kept) > _CANDIDATES * self.count:
            gaps = [later.time - earlier.time for earlier, later in pairwise(self._kept)]
            first = int(np.argmin(gaps))
            worse = first if self._kept[first].quality < self._kept[first + 1].quality else first + 1
            del self._kept[worse]

    def best(self) -> list[Crop]:
        """The chosen crops, in order of time: the best, and others not close to a better one nor much worse."""
        if not self._kept:
            return []
        gap = (self._kept[-1].time - self._kept[0].time) / (2 * self.count)
        chosen: list[Crop] = []
        values = np.array([crop.quality for crop in self._kept]) * _typical([crop.image for crop in self._kept])
        for place in np.argsort(-values, kind="stable"):
            crop = self._kept[place]
            is_apart = all(abs(crop.time - other.time) >= gap for other in chosen)
            if len(chosen) < self.count and is_apart and values[place] >= _LEAST * values.max():
                chosen.append(crop)
        return sorted(chosen, key=lambda crop: crop.frame)


def _typical(images: Sequence[np.ndarray]) -> np.ndarray:
    """
    How much each crop is dressed like the others of its track, (N,) in 0..1.

    It is low if the track jumps to somebody else for a moment, and for a box around two persons.
    """
    boxes = [np.array([[0, 0, image.shape[1], image.shape[0]]]) for image in images]
    colors = np.concatenate([clothing_colors(image, box) for image, box in zip(images, boxes, strict=True)])
    return np.asarray(np.clip((np.median(colors @ colors.T, axis=1) - 0.4) / 0.4, 0, 1))


def cut_out(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The pixels of a box, uint8 (h, w, 3), as a copy. At least one pixel."""
    left, top = np.floor(box[:2]).astype(int)
    right, bottom = np.maximum(np.ceil(box[2:]).astype(int), (left + 1, top + 1))
    return image[top:bottom, left:right].copy()


def crop_quality(crop: np.ndarray, box: np.ndarray, others: np.ndarray, score: float, size: tuple[int, int]) -> float:
    """
    How suitable a crop is for recognising the person, 0..1.

    Args:
        crop: uint8 (h, w, 3).
        box: (4,) in the frame.
        others: boxes (N, 4) of the other persons in the frame.
        score: of the detector.
        size: height and width of the frame.
    """
    height, width = size
    cut = _CUT if box[0] <= 1 or box[1] <= 1 or box[2] >= width - 1 or box[3] >= height - 1 else 1.0
    large = min(1.0, (box[3] - box[1]) / _GOOD_HEIGHT)
    return float(cut * large * _sharpness(crop) * (1 - _covered(box, others)) * (0.5 + 0.5 * score))


def _sharpness(crop: np.ndarray) -> float:
    """Mean difference between neighbours in brightness, relative to what a sharp picture has, 0.2..1."""
    grey = crop.mean(axis=2, dtype=np.float32)
    if min(grey.shape) < 2:
        return 0.2
    edges = np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()
    return float(np.clip(edges / _SHARP, 0.2, 1.0))


def _covered(box: np.ndarray, others: np.ndarray) -> float:
    """Share of the box behind persons who stand nearer, that is, whose feet are lower in the picture."""
    nearer = others[others[:, 3] > box[3]]
    return float(min(1.0, (intersections(box[None], nearer) / max(float(areas(box[None])[0]), 1e-9)).sum()))
