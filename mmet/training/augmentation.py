"""Augmentation of person crops: crop, flip, colour, resolution, erasing; the person mask follows the geometry.

Crops keep their size, since the image processor resizes them anyway. Every step draws from the given generator, so
the same seed gives the same picture.

    augmentation = PersonAugmentation(flip_probability=0.0)  # captions say "left" and "right"
    image, person_mask = augmentation(image, person_mask, np.random.default_rng(seed))
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmet.field_checks import SHARE_RANGE, Range, check_choice, check_fields, check_value

_PROBABILITIES = ("flip_probability", "colour_probability", "low_resolution_probability", "erasing_probability")
_AMOUNTS = ("padding", "brightness", "contrast", "saturation", "colour_cast")
_RANGES = {
    **dict.fromkeys(_PROBABILITIES, SHARE_RANGE),
    **dict.fromkeys(_AMOUNTS, Range(at_least=0, below=1)),
    **dict.fromkeys(("crop_scale", "low_resolution_scale", "erasing_area"), Range(above=0, at_most=1)),
    "gamma": Range(at_least=0),
    "fill": Range(at_least=0, at_most=255),
}
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow converts RGB to L


@dataclass(frozen=True, slots=True)
class PersonAugmentation:
    """Random changes that keep a person recognisable. 0 switches a change off (`(1, 1)` for `crop_scale`).

    Attributes:
        flip_probability: probability of mirroring. Set 0 if captions name sides.
        crop_scale: range of the share of the height that a crop keeps, and independently of the width.
        padding: how far a crop may reach beyond the picture, as a share of height and width.
        colour_probability: probability of changing colours.
        brightness: factor in `1 ± brightness`.
        contrast: factor in `1 ± contrast`, about the middle grey.
        saturation: factor in `1 ± saturation`; 0 would be grey.
        colour_cast: factor in `1 ± colour_cast` for each channel separately, as lamps and cameras tint a picture.
        gamma: exponent in `[1 / (1 + gamma), 1 + gamma]`.
        low_resolution_probability: probability of shrinking and enlarging the picture, as for a person far away.
        low_resolution_scale: range of the factor that it is shrunk to.
        erasing_probability: probability of covering a rectangle with a random colour, also in the mask.
        erasing_area: range of the covered share of the picture.
        fill: RGB colour beyond the edge of the picture.
    """

    flip_probability: float = 0.5
    crop_scale: tuple[float, float] = (0.85, 1.0)
    padding: float = 0.04
    colour_probability: float = 0.8
    brightness: float = 0.2
    contrast: float = 0.15
    saturation: float = 0.3
    colour_cast: float = 0.1
    gamma: float = 0.3
    low_resolution_probability: float = 0.2
    low_resolution_scale: tuple[float, float] = (0.3, 0.8)
    erasing_probability: float = 0.0
    erasing_area: tuple[float, float] = (0.02, 0.2)
    fill: tuple[int, int, int] = (124, 116, 104)  # the mean colour of ImageNet

    def __post_init__(self) -> None:
        check_fields(self, _RANGES)
        for name in ("crop_scale", "low_resolution_scale", "erasing_area"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: expected the smaller share first, received {(low, high)}")

    @classmethod
    def off(cls) -> PersonAugmentation:
        """An augmentation that changes nothing."""
        zeros = {f.name: 0.0 for f in fields(cls) if isinstance(f.default, float)}
        return cls(crop_scale=(1.0, 1.0), **zeros)  # type: ignore[arg-type]

    def __call__(
        self, image: Image.Image, person_mask: Image.Image | None, rng: np.random.Generator
    ) -> tuple[Image.Image, Image.Image | None]:
        """Augment an RGB picture and, in the same way, its person mask (mode L, same size; None stays None)."""
        if image.mode != "RGB":
            raise ValueError(f"expected an RGB picture, received mode {image.mode}")
        if person_mask is not None and person_mask.size != image.size:
            raise ValueError(f"expected a person mask of the picture's size {image.size}, received {person_mask.size}")
        image, person_mask = self._crop(image, person_mask, rng)
        if rng.random() < self.flip_probability:
            image, person_mask = _mirror(image), person_mask and _mirror(person_mask)
        if rng.random() < self.colour_probability:
            image = self._change_colours(image, rng)
        if rng.random() < self.low_resolution_probability:
            image = _lower_resolution(image, rng.uniform(*self.low_resolution_scale))
        if rng.random() < self.erasing_probability:
            image, person_mask = self._erase(image, person_mask, rng)
        return image, person_mask

    def _crop(
        self, image: Image.Image, person_mask: Image.Image | None, rng: np.random.Generator
    ) -> tuple[Image.Image, Image.Image | None]:
        """Cut the same window from both. It keeps its size; the image processor's resize makes it a zoom."""
        size = np.array(image.size)
        margin = np.round(self.padding * size)
        window = np.maximum(np.round(rng.uniform(*self.crop_scale, size=2) * size), 1)
        corner = np.floor(-margin + rng.random(2) * (size + 2 * margin - window + 1))
        if (corner == 0).all() and (window == size).all():
            return image, person_mask
        left, top, width, height = (int(number) for number in (*corner, *window))
        return (
            _cut(image, left, top, width, height, self.fill),
            None if person_mask is None else _cut(person_mask, left, top, width, height, 0),
        )

    def _change_colours(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        spread = (self.brightness, self.contrast, self.saturation)
        brightness, contrast, saturation = 1 + rng.uniform(-1, 1, size=3) * spread
        gains = brightness * (1 + rng.uniform(-1, 1, size=3) * self.colour_cast)
        exponent = (1 + self.gamma) ** rng.uniform(-1, 1)
        if self.saturation:
            image = image.convert("RGB", _saturation_matrix(saturation))
        return image.point(_tone_curves(gains, contrast, exponent))

    def _erase(
        self, image: Image.Image, person_mask: Image.Image | None, rng: np.random.Generator
    ) -> tuple[Image.Image, Image.Image | None]:
        area = rng.uniform(*self.erasing_area) * image.width * image.height
        aspect_ratio = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
        height = min(max(round(np.sqrt(area * aspect_ratio)), 1), image.height)
        width = min(max(round(np.sqrt(area / aspect_ratio)), 1), image.width)
        left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
        box = (left, top, left + width, top + height)
        image = image.copy()
        image.paste(tuple(rng.integers(256, size=3).tolist()), box)
        if person_mask is not None:
            person_mask = person_mask.copy()
            person_mask.paste(0, box)
        return image, person_mask


def build_augmentation(values: Any) -> PersonAugmentation:
    """Build the augmentation of a recipe's fields (None: the defaults). Raises `ValueError` for invalid fields."""
    options = check_value("augmentation", values, dict[str, Any] | None) or {}
    for name in options:
        check_choice("augmentation", name, [field.name for field in fields(PersonAugmentation)])
    try:
        return PersonAugmentation(**options)
    except ValueError as error:
        raise ValueError(f"augmentation.{error}") from error


def _mirror(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _cut(
    image: Image.Image, left: int, top: int, width: int, height: int, fill: int | tuple[int, int, int]
) -> Image.Image:
    """Cut the window, which is filled with `fill` where it reaches beyond the picture."""
    if left >= 0 and top >= 0 and left + width <= image.width and top + height <= image.height:
        return image.crop((left, top, left + width, top + height))
    window = Image.new(image.mode, (width, height), fill)
    window.paste(image, (-left, -top))
    return window


def _lower_resolution(image: Image.Image, scale: float) -> Image.Image:
    small = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    return image.resize(small, Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)


def _saturation_matrix(saturation: float) -> tuple[float, ...]:
    """The 3 × 4 matrix, row by row, that moves every colour towards (< 1) or away from (> 1) its grey."""
    matrix = saturation * np.eye(3) + (1 - saturation) * _LUMINANCE
    return tuple(np.hstack([matrix, np.zeros((3, 1))]).ravel().tolist())


def _tone_curves(gains: NDArray[np.floating], contrast: float, exponent: float) -> list[int]:
    """Look-up tables of the three channels, one after the other: gamma, then gain, then contrast."""
    values = np.linspace(0, 1, 256) ** exponent
    curves = (gains[:, None] * values - 0.5) * contrast + 0.5  # (3, 256)
    return np.clip(np.round(curves * 255), 0, 255).astype(int).ravel().tolist()
