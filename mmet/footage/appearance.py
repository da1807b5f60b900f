"""Describe a person's clothes by colour histograms, to tell people apart while they pass each other.

colors = clothing_colors(image, boxes)               # (N, D)
similarity = colors @ colors.T                       # 1 where two are dressed alike, 0 where they share no colour
"""

from __future__ import annotations

import numpy as np

_STRIPES = ((0.15, 0.35), (0.35, 0.55), (0.55, 0.75), (0.75, 0.95))
"""Parts of the body from top to bottom, as fractions of its height."""

_MIDDLE = (0.22, 0.78)
_LEVELS = 5


def clothing_colors(image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """
    Square roots of colour histograms of parts of the body; their dot product is the Bhattacharyya coefficient.

    Args:
        image: uint8 (H, W, 3).
        boxes: (N, 4) of left, top, right and bottom, inside the image.

    Returns:
        float32 (N, D), rows of length 1.
    """
    features = np.zeros((len(boxes), len(_STRIPES) * _LEVELS**3), dtype=np.float32)
    for row, (left, top, right, bottom) in zip(features, boxes, strict=True):
        width, height = right - left, bottom - top
        columns = slice(int(left + _MIDDLE[0] * width), int(left + _MIDDLE[1] * width) + 1)
        for part, (start, end) in enumerate(_STRIPES):
            pixels = image[int(top + start * height) : int(top + end * height) + 1, columns].reshape(-1, 3)
            row[part * _LEVELS**3 : (part + 1) * _LEVELS**3] = _histogram(pixels)
    return np.sqrt(features / len(_STRIPES))


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """Shares (`_LEVELS`³,) of the colours of pixels (P, 3), each pixel shared between neighbouring brightnesses."""
    counts = np.zeros(_LEVELS**3, dtype=np.float32)
    for shift in (0, 25):
        levels = np.minimum((pixels.astype(np.int32) + shift) * _LEVELS // 281, _LEVELS - 1)
        codes = (levels[:, 0] * _LEVELS + levels[:, 1]) * _LEVELS + levels[:, 2]
        counts += np.bincount(codes, minlength=_LEVELS**3)
    return np.asarray(counts / max(1.0, counts.sum()))
