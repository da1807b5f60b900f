"""What a camera makes of light: colour cast, exposure, tone, low resolution, sharpening, blur, and noise of the sensor."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from mmet.data.synthetic.style import Camera

_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_NOISE_SIDE = 640
_DEVIATION = 40.0


def develop(image: Image.Image, camera: Camera, exposure: float, rng: np.random.Generator) -> Image.Image:
    """The picture that `camera` takes of the scene `image` (RGB, the size of the crop)."""
    width, height = image.size
    image = _tones(image, camera, exposure)
    share = float(rng.uniform(*camera.resolution))
    if share < 0.95:
        small = (max(10, round(width * share)), max(20, round(height * share)))
        image = image.resize(small, Image.Resampling.BILINEAR, reducing_gap=1.5)
    kind = rng.random()
    if kind < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 1.1)) * image.height / 160))
    elif kind < 0.4:
        image = image.filter(ImageFilter.UnsharpMask(1.5, int(rng.integers(60, 160)), 2))
    image = _noisy(image, camera.noise * float(rng.uniform(0.5, 1.5)), rng)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return image


def _tones(image: Image.Image, camera: Camera, exposure: float) -> Image.Image:
    """Cast, exposure, gamma and contrast as one table for each channel, then saturation as a matrix."""
    values = np.arange(256, dtype=np.float32) / 255
    table: list[int] = []
    for gain in camera.gain:
        curve = np.clip(values * np.float32(gain * exposure * 1.12), 0, 1) ** camera.gamma
        curve = np.clip((curve - 0.5) * camera.contrast + 0.5, 0, 1) * 255
        table += np.rint(curve).astype(int).tolist()
    image = image.point(table)
    vivid = camera.saturation
    if abs(vivid - 1) < 0.02:
        return image
    red, green, blue = ((1 - vivid) * float(share) for share in _GREY)
    matrix = (red + vivid, green, blue, 0, red, green + vivid, blue, 0, red, green, blue + vivid, 0)
    return image.convert("RGB", matrix)


def _noisy(image: Image.Image, deviation: float, rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    x, y = (int(rng.integers(max(1, _NOISE_SIDE - side))) for side in (width, height))
    noise = _noise().crop((x, y, x + width, y + height))
    table = [round(128 + (value - 128) / _DEVIATION * deviation) for value in range(256)] * 3
    return ImageChops.add(image, noise.point(table), 1, -128)


@cache
def _noise() -> Image.Image:
    """Normal noise, mostly equal in the three channels, coarser in colour, about 128."""
    rng = np.random.default_rng(_NOISE_SIDE)
    side = _NOISE_SIDE
    bright = rng.standard_normal((side, side, 1), dtype=np.float32) * 0.8
    colored = rng.standard_normal((side // 2, side // 2, 3), dtype=np.float32).repeat(2, 0).repeat(2, 1) * 0.6
    return Image.fromarray(np.clip(128 + _DEVIATION * (bright + colored), 0, 255).astype(np.uint8))
