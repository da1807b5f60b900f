"""A finished crop of the synthetic world, with its annotations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from mmet.data.synthetic.canvas import Part
from mmet.data.synthetic.keypoints import Keypoint


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished crop.

    Attributes:
        image: RGB.
        mask: mode L, 255 where the person is.
        quality: JPEG quality.
        pixels: number of pixels of each visible part.
        keypoints: by the names of `KEYPOINT_NAMES`.
        parts: mode L, a class of `mmet.data.synthetic.part_masks.PART_CLASSES` for each pixel.
    """

    image: Image.Image
    mask: Image.Image
    quality: int
    pixels: Mapping[Part, int]
    keypoints: Mapping[str, Keypoint]
    parts: Image.Image
