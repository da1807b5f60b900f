"""Effects of a camera on a picture: colour cast, exposure, tone, low resolution, sharpening, blur, sensor noise."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageFilter

from mmet.data.synthetic.style import Camera

_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_NOISE_SIDE = 640


def develop(
    image: Image.Image, camera: Camera, light: tuple[float, float, float], rng: np.random.Generator
) -> Image.Image:
    """The picture that `camera` takes of the scene `image` (RGB, the size of the crop) in light of a colour."""
    width, height = image.size
    image = _tones(image, camera, light)
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


def _tones(image: Image.Image, camera: Camera, light: tuple[float, float, float]) -> Image.Image:
    """Cast, exposure, gamma and contrast as one table for each channel, then saturation as a matrix."""
    values = np.linspace(0, 1, 256, dtype=np.float32)
    curves = np.outer(np.multiply(camera.gain, light), values).clip(0, 1) ** camera.gamma
    curves = ((curves - 0.5) * camera.contrast + 0.5).clip(0, 1) * 255
    image = image.point(np.rint(curves).astype(int).ravel().tolist())
    vivid = camera.saturation
    red, green, blue = ((1 - vivid) * float(share) for share in _GREY)
    matrix = (red + vivid, green, blue, 0, red, green + vivid, blue, 0, red, green, blue + vivid, 0)
    return image.convert("RGB", matrix)


def _noisy(image: Image.Image, deviation: float, rng: np.random.Generator) -> Image.Image:
    """`image` with noise of a standard deviation in grey levels."""
    width, height = image.size
    top, left = (int(rng.integers(max(1, _NOISE_SIDE - side))) for side in (height, width))
    noise = _noise()[top : top + height, left : left + width]
    if noise.shape[:2] != (height, width):  # a crop larger than the field
        noise = np.resize(noise, (height, width, 3))
    pixels = noise * np.float32(deviation)
    pixels += np.asarray(image)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@cache
def _noise() -> np.ndarray:
    """Normal noise, mostly equal in the three channels, coarser in colour: float32, standard deviation 1."""
    rng = np.random.default_rng(_NOISE_SIDE)
    side = _NOISE_SIDE
    bright = rng.standard_normal((side, side, 1), dtype=np.float32) * np.float32(0.8)
    colored = rng.standard_normal((side // 2, side // 2, 3), dtype=np.float32).repeat(2, 0).repeat(2, 1)
    return np.asarray(bright + np.float32(0.6) * colored, dtype=np.float32)
