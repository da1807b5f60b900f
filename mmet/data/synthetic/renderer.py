"""Takes one picture of a synthetic person: figure, place, weather, light, whatever stands in front, and the camera.

shot = plan_shots(SOURCE, seed=0, person=1, count=1)[0] picture = render_shot(identity, shot, SOURCE, height=192,
width=96) picture.image, picture.mask
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from mmet.data.synthetic.figure import Figure, Part, Pose, draw_figure
from mmet.data.synthetic.identity import Identity, draw_identity
from mmet.data.synthetic.scene import backdrop
from mmet.data.synthetic.style import Camera, Shot, WorldStyle, style_rng

MIN_SIZE = (48, 24)
MAX_SIZE = (1024, 512)
"""Smallest and largest (height, width) of a crop: below, a face is one pixel; above, panoramas show their pixels."""

_NOISE_SIDE = 1200
_NOISE_MEAN = 128
_NOISE_DEVIATION = 32
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Weather:
    """How weather changes a picture: haze before the place and the person, falling and lying snow, shadow, colour."""

    haze: float = 0.0
    veil: float = 0.0
    flakes: int = 0
    snow: float = 0.0
    shadow: float = 0.25
    saturation: float = 1.0
    brightness: float = 1.0


WEATHERS: tuple[Weather, ...] = (
    Weather(shadow=0.5, saturation=1.12, brightness=1.06),
    Weather(shadow=0.28),
    Weather(shadow=0.16, saturation=0.78, brightness=0.9, haze=0.06),
    Weather(haze=0.62, veil=0.2, shadow=0.1, saturation=0.85),
    Weather(),
    Weather(haze=0.45, veil=0.14, flakes=70, snow=0.85, shadow=0.12, saturation=0.85),
    Weather(haze=0.12, veil=0.04, flakes=26, snow=0.5, shadow=0.18, saturation=0.95),
)
"""In the order of `WEATHER`."""


@dataclass(frozen=True, slots=True)
class Light:
    """The time of day: colour of the light on the place and on the person, and how much lamps and windows glow."""

    place: tuple[float, float, float]
    person: tuple[float, float, float]
    glow: float = 0.0


LIGHTS: tuple[Light, ...] = (
    Light((0.26, 0.31, 0.48), (0.46, 0.48, 0.62), 1.0),
    Light((0.92, 0.76, 0.80), (0.94, 0.82, 0.84), 0.15),
    Light((0.98, 1.0, 1.02), (0.98, 1.0, 1.0)),
    Light((1.09, 1.08, 1.04), (1.06, 1.05, 1.02)),
    Light((1.08, 0.96, 0.80), (1.06, 0.96, 0.84)),
    Light((0.82, 0.58, 0.52), (0.86, 0.68, 0.62), 0.5),
    Light((0.36, 0.33, 0.40), (0.62, 0.56, 0.54), 0.9),
)
"""In the order of `LIGHT`."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished crop: RGB `image`, `mask` (mode L, 255 = person), JPEG `quality`, pixel counts of visible parts."""

    image: Image.Image
    mask: Image.Image
    quality: int
    pixels: Mapping[Part, int]


def render_shot(identity: Identity, shot: Shot, style: WorldStyle, *, height: int = 192, width: int = 96) -> Picture:
    """Take the picture of `identity` that `shot` describes; equal arguments give equal pixels.

    Raises `ValueError` when the size is outside `MIN_SIZE`..`MAX_SIZE`.
    """
    check_size(height, width)
    rng = style_rng(style, *shot.seed)
    camera, weather, light = style.cameras[shot.camera - 1], WEATHERS[shot.weather - 1], LIGHTS[shot.light - 1]
    figure = draw_figure(
        identity,
        draw_pose(rng),
        view_degrees=shot.view,
        height=height,
        width=width,
        elevation_degrees=camera.elevation,
        body_share=rng.uniform(*style.body_share),
        offset=(float(rng.normal(0, style.jitter)), float(rng.normal(0, style.jitter))),
        light=float(rng.uniform(-1, 1)),
    )
    rgb = _place(shot, weather, light, figure, rng, height, width)
    rgb += _lit_person(figure, weather, light)
    alpha = figure.alpha
    if rng.random() < style.occlusion:
        cover = _occluder(style, rng, height, width)
        rgb = rgb * (1 - cover.alpha[..., None]) + cover.rgb
        alpha = alpha * (1 - cover.alpha)
    _falling_snow(rgb, weather, rng)
    image = _expose(rgb, camera, weather.saturation, float(rng.lognormal(0, style.exposure)), rng)
    mask = Image.fromarray(np.where(alpha >= 0.5, 255, 0).astype(np.uint8))
    return Picture(image, mask, int(rng.integers(camera.quality[0], camera.quality[1] + 1)), figure.pixels)


def check_size(height: int, width: int) -> None:
    """Raise `ValueError` when a crop size is outside `MIN_SIZE`..`MAX_SIZE`."""
    for name, value, low, high in zip(
        ("image_height", "image_width"), (height, width), MIN_SIZE, MAX_SIZE, strict=True
    ):
        if not low <= value <= high:
            raise ValueError(f"{name}: expected {low}..{high}, received {value}")


def draw_pose(rng: np.random.Generator) -> Pose:
    """Mostly walking, at times standing; arms swing, hang, hold a phone or rest in pockets."""
    standing = rng.random() < 0.2
    arms = ("swing", "hang", "phone", "pockets")[
        int(rng.choice(4, p=(0.1, 0.5, 0.2, 0.2) if standing else (0.78, 0.0, 0.1, 0.12)))
    ]
    return Pose(
        stride=float(rng.uniform(0.05, 0.12) if standing else rng.uniform(0.28, 0.5)),
        phase=float(rng.uniform(0, 2 * math.pi)),
        arms=arms,
        head_turn=float(rng.normal(0, 0.22)),
        sway=float(rng.normal(0, 0.02)),
    )


def _place(
    shot: Shot, weather: Weather, light: Light, figure: Figure, rng: np.random.Generator, height: int, width: int
) -> np.ndarray:
    """The surroundings in their weather and light, float32 (H, W, 3), already darkened where the person will be."""
    rgb, glow, horizon = backdrop(
        shot.scene_name,
        variant=shot.variant,
        turn_degrees=shot.view + rng.uniform(-25, 25),
        zoom=rng.uniform(0.72, 1.0),
        drop=rng.uniform(0.2, 0.9),
        height=height,
        width=width,
    )
    if weather.snow:
        rows = np.clip((np.arange(height, dtype=np.float32) - horizon) / (0.12 * height), 0, 1)[:, None, None]
        cover = rows * np.float32(weather.snow)
        rgb *= 1 - cover
        rgb += 238 * cover
    ambient = np.asarray(light.place, dtype=np.float32) * np.float32(weather.brightness)
    rgb *= _ground_shadow(figure, weather.shadow, rng, height, width)[..., None]
    rgb *= ambient * np.float32(1 - weather.haze)
    rgb += ambient * np.float32(214 * weather.haze)
    if light.glow:
        rgb += (glow * np.float32(light.glow))[..., None] * np.array([215, 170, 96], dtype=np.float32)
    rgb *= 1 - figure.alpha[..., None]
    return rgb


def _ground_shadow(figure: Figure, strength: float, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Factor on the ground (H, W): a soft contact shadow, drawn out to one side when the sun shines."""
    x, y = figure.foot
    lean = float(rng.uniform(-1, 1)) * (strength > 0.3)
    across = (np.arange(width, dtype=np.float32) - np.float32(x))[None, :] / np.float32(
        0.15 * height * (1 + abs(lean))
    )
    down = (np.arange(height, dtype=np.float32) - np.float32(y - 0.012 * height))[:, None] / np.float32(0.035 * height)
    far = np.exp(-((across - np.float32(lean * 0.6)) ** 2) - down**2)
    return 1 - np.float32(min(0.75, strength + 0.2)) * far


def _lit_person(figure: Figure, weather: Weather, light: Light) -> np.ndarray:
    tint = np.asarray(light.person, dtype=np.float32) * np.float32(weather.brightness)
    rgb = figure.rgb * tint
    if weather.veil:
        fog = np.float32(214 * weather.veil) * np.asarray(light.place, dtype=np.float32)
        rgb = rgb * np.float32(1 - weather.veil) + fog * figure.alpha[..., None]
    return rgb


@dataclass(frozen=True, slots=True)
class _Cover:
    rgb: np.ndarray
    alpha: np.ndarray


def _occluder(style: WorldStyle, rng: np.random.Generator, height: int, width: int) -> _Cover:
    """Something in front of the person: a passer-by at the edge, a bicycle, a pole, a bush or boxes."""
    if rng.random() < 0.4:
        other = draw_identity(rng)
        side = rng.choice((-1, 1)) * rng.uniform(0.42, 0.56)
        figure = draw_figure(
            other,
            draw_pose(rng),
            view_degrees=rng.uniform(0, 360),
            height=height,
            width=width,
            offset=(side, rng.uniform(0, 0.1)),
        )
        return _Cover(figure.rgb * np.float32(0.9), figure.alpha)
    sheet = Image.new("RGBA", (width * 2, height * 2))
    _OCCLUDERS[int(rng.integers(len(_OCCLUDERS)))](ImageDraw.Draw(sheet), rng, height * 2, width * 2)
    small = np.asarray(sheet.reduce(2), dtype=np.float32)
    alpha = small[..., 3] / np.float32(255)
    return _Cover(small[..., :3] * alpha[..., None], alpha)


def _bicycle(pen: ImageDraw.ImageDraw, rng: np.random.Generator, height: int, width: int) -> None:
    x, y, r = width * rng.uniform(0.2, 0.8), height * 0.86, height * 0.11
    color = (*(int(c) for c in rng.integers(30, 200, 3)), 255)
    for wx in (x - 1.5 * r, x + 1.5 * r):
        pen.ellipse((wx - r, y - r, wx + r, y + r), outline=(40, 40, 42, 255), width=max(2, round(r * 0.14)))
    frame = ((x - 1.5 * r, y), (x - 0.5 * r, y - 1.3 * r), (x + 1.1 * r, y - 1.3 * r), (x, y), (x - 1.5 * r, y))
    pen.line(frame, fill=color, width=max(3, round(r * 0.2)), joint="curve")
    pen.line(((x + 1.5 * r, y), (x + r, y - 1.9 * r)), fill=color, width=max(3, round(r * 0.18)))


def _pole(pen: ImageDraw.ImageDraw, rng: np.random.Generator, height: int, width: int) -> None:
    x, half = width * rng.choice((0.2, 0.32, 0.7, 0.82)), width * rng.uniform(0.03, 0.06)
    grey = int(rng.integers(60, 170))
    pen.rectangle((x - half, 0, x + half, height), fill=(grey, grey, grey + 4, 255))
    pen.rectangle((x - half, 0, x - half * 0.4, height), fill=(grey - 26, grey - 26, grey - 22, 255))


def _shrub(pen: ImageDraw.ImageDraw, rng: np.random.Generator, height: int, width: int) -> None:
    left = width * rng.uniform(-0.2, 0.5)
    for _ in range(46):
        x, y, r = (
            left + rng.uniform(0, 0.7) * width,
            height * rng.uniform(0.82, 1.0),
            height * rng.uniform(0.015, 0.045),
        )
        pen.ellipse(
            (x - r, y - r, x + r, y + r), fill=(int(rng.integers(36, 80)), int(rng.integers(80, 134)), 48, 255)
        )


def _boxes(pen: ImageDraw.ImageDraw, rng: np.random.Generator, height: int, width: int) -> None:
    x, y = width * rng.uniform(-0.1, 0.6), height * rng.uniform(0.78, 0.88)
    for row in range(2):
        wide, top = width * rng.uniform(0.35, 0.5), y + row * height * 0.1
        shade = int(rng.integers(120, 190))
        pen.rectangle(
            (x, top, x + wide, top + height * 0.12),
            fill=(shade, int(shade * 0.8), int(shade * 0.56), 255),
            outline=(80, 62, 44, 255),
        )


_OCCLUDERS = (_bicycle, _pole, _shrub, _boxes)


def _falling_snow(rgb: np.ndarray, weather: Weather, rng: np.random.Generator) -> None:
    """Add flakes in place; heavy snow is driven by wind."""
    if not weather.flakes:
        return
    height, width = rgb.shape[:2]
    sheet = Image.new("L", (width, height))
    pen = ImageDraw.Draw(sheet)
    wind = 0.035 * height * (weather.flakes > 40)
    for x, y, size in zip(*(rng.random(weather.flakes) for _ in range(3)), strict=True):
        r = height * (0.003 + 0.005 * size**2)
        px, py = x * width, y * height
        if wind:
            pen.line((px, py, px + wind * size, py + wind * 0.7 * size), fill=215, width=max(1, round(r)))
        else:
            pen.ellipse((px - r, py - r, px + r, py + r), fill=230)
    cover = np.asarray(sheet.filter(ImageFilter.BoxBlur(0.5)), dtype=np.float32)[..., None] / np.float32(255)
    rgb += (np.float32(240) - rgb) * cover


def _expose(
    rgb: np.ndarray, camera: Camera, saturation: float, exposure: float, rng: np.random.Generator
) -> Image.Image:
    """What the camera makes of the light that reaches it: saturation, cast, contrast, gamma, resolution and noise."""
    height, width = rgb.shape[:2]
    colorful = np.float32(camera.saturation * saturation)
    mix = (np.eye(3, dtype=np.float32) * colorful + (1 - colorful) * _GREY) * np.asarray(
        camera.gain, dtype=np.float32
    )[:, None]
    seen = rgb.reshape(-1, 3) @ (mix.T * np.float32(exposure))
    image = Image.fromarray(np.clip(seen, 0, 255, out=seen).astype(np.uint8).reshape(height, width, 3))
    if camera.gamma != 1 or camera.contrast != 1:
        image = image.point(_tone_curve(camera.gamma, camera.contrast))
    share = rng.uniform(*camera.resolution)
    if share < 0.97:
        small = (max(8, round(width * share)), max(16, round(height * share)))
        image = image.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BILINEAR)
    left, top = int(rng.integers(_NOISE_SIDE - MAX_SIZE[1])), int(rng.integers(_NOISE_SIDE - MAX_SIZE[0]))
    grain = _noise_field().crop((left, top, left + width, top + height)).point(_grain_table(camera.noise))
    return ImageChops.add(image, Image.merge("RGB", (grain, grain, grain)), 1, -_NOISE_MEAN)


def _tone_curve(gamma: float, contrast: float) -> list[int]:
    """Look-up table for the three channels: gamma, then contrast about mid-grey."""
    values = (np.arange(256) / 255) ** gamma
    curve = np.clip((values - 0.5) * contrast + 0.5, 0, 1) * 255
    return [round(float(value)) for value in curve] * 3


def _grain_table(deviation: float) -> list[int]:
    """Look-up table that brings the noise field to a standard deviation, keeping its mean."""
    return [round(_NOISE_MEAN + (value - _NOISE_MEAN) / _NOISE_DEVIATION * deviation) for value in range(256)]


@cache
def _noise_field() -> Image.Image:
    """Normal noise as an 8-bit image; pictures take random windows of it."""
    noise = np.random.default_rng(_NOISE_SIDE).standard_normal((_NOISE_SIDE, _NOISE_SIDE), dtype=np.float32)
    return Image.fromarray(np.clip(_NOISE_MEAN + _NOISE_DEVIATION * noise, 0, 255).astype(np.uint8))
