"""Draw one picture of a synthetic person: figure, place, weather, light, things in front, and the camera's effects.

shot = plan_shots(SOURCE, seed=0, person=1, count=1)[0]
picture = render_shot(identity, shot, SOURCE, height=192, width=96)
picture.image, picture.mask
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from mmet.data.synthetic.figure import Figure, draw_figure
from mmet.data.synthetic.identity import Identity
from mmet.data.synthetic.keypoints import seen_keypoints
from mmet.data.synthetic.lifelike.people import Person
from mmet.data.synthetic.lifelike.renderer import render_lifelike
from mmet.data.synthetic.occluders import draw_occluder
from mmet.data.synthetic.part_masks import part_classes
from mmet.data.synthetic.picture import Picture
from mmet.data.synthetic.scene import backdrop
from mmet.data.synthetic.skeleton import draw_pose
from mmet.data.synthetic.style import Camera, Shot, WorldStyle, style_rng

MIN_SIZE = (48, 24)
MAX_SIZE = (1024, 512)
"""Smallest and largest (height, width) of a crop: below, a face is one pixel; above, panoramas show their pixels."""

_FEET_SHARE = 2 / 3
_MISSED_FEET, _MISSED_HEAD = (0.1, 0.4), (0.07, 0.2)
"""Shares of body height that a cut box misses at the bottom or at the top."""
_MARGIN = 0.05

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


def render_shot(
    identity: Identity | Person, shot: Shot, style: WorldStyle, *, height: int = 192, width: int = 96
) -> Picture:
    """Draw the picture of `identity` that `shot` describes; equal arguments give equal pixels.

    Raises `ValueError` when the size is outside `MIN_SIZE`..`MAX_SIZE`.
    """
    check_size(height, width)
    if isinstance(identity, Person):
        return render_lifelike(identity, shot, style, height=height, width=width)
    rng = style_rng(style, *shot.seed)
    camera, weather, light = style.cameras[shot.camera - 1], WEATHERS[shot.weather - 1], LIGHTS[shot.light - 1]
    pose = draw_pose(rng)
    box = draw_box(style, shot, rng)
    figure = draw_figure(
        identity,
        pose,
        view_degrees=shot.view,
        height=height,
        width=width,
        elevation_degrees=camera.elevation,
        body_share=box.body_share,
        offset=box.offset,
        light=float(rng.uniform(-1, 1)),
    )
    rgb = _place(shot, weather, light, figure, rng, height, width)
    rgb += lit_person(figure, weather, light)
    alpha = figure.alpha
    if rng.random() < style.occlusion:
        cover = draw_occluder(style.occluders, rng, height, width)
        rgb = rgb * (1 - cover.alpha[..., None]) + cover.rgb
        alpha = alpha * (1 - cover.alpha)
    _falling_snow(rgb, weather, rng)
    image = expose(rgb, camera, weather.saturation, float(rng.lognormal(0, style.exposure)), rng)
    mask = Image.fromarray(np.where(alpha >= 0.5, 255, 0).astype(np.uint8))
    quality = int(rng.integers(camera.quality[0], camera.quality[1] + 1))
    parts = np.where(alpha >= 0.5, part_classes()[figure.parts], 0).astype(np.uint8)
    keypoints = seen_keypoints(figure.joints, alpha)
    return Picture(image, mask, quality, figure.pixels, keypoints, Image.fromarray(parts))


def check_size(height: int, width: int) -> None:
    """Raise `ValueError` when a crop size is outside `MIN_SIZE`..`MAX_SIZE`."""
    for name, value, low, high in zip(
        ("image_height", "image_width"), (height, width), MIN_SIZE, MAX_SIZE, strict=True
    ):
        if not low <= value <= high:
            raise ValueError(f"{name}: expected {low}..{high}, received {value}")


@dataclass(frozen=True, slots=True)
class Box:
    """How a crop is cut: body height over crop height, and the person's shift as shares of width and height."""

    body_share: float
    offset: tuple[float, float]


def draw_box(style: WorldStyle, shot: Shot, rng: np.random.Generator) -> Box:
    """Draw the box of the whole person or, with the style's rate, one that cuts off the feet or the head.

    The decision to cut has its own random stream, so the rate does not change the other pictures.
    """
    share = float(rng.uniform(*style.body_share))
    shift = float(rng.normal(0, style.jitter)), float(rng.normal(0, style.jitter))
    rng = style_rng(style, *shot.seed, 1)
    if not style.crop or rng.random() >= style.crop:
        return Box(share, shift)
    feet = rng.random() < _FEET_SHARE
    missed = float(rng.uniform(*(_MISSED_FEET if feet else _MISSED_HEAD)))
    share = (1 - _MARGIN) / (1 - missed)
    top = _MARGIN if feet else -missed * share  # where the head begins
    return Box(share, (shift[0], top + share / 2 - 0.5))


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
    rgb *= ground_shadow(figure, weather.shadow, rng, height, width)[..., None]
    rgb *= ambient * np.float32(1 - weather.haze)
    rgb += ambient * np.float32(214 * weather.haze)
    if light.glow:
        rgb += (glow * np.float32(light.glow))[..., None] * np.array([215, 170, 96], dtype=np.float32)
    rgb *= 1 - figure.alpha[..., None]
    return rgb


def ground_shadow(figure: Figure, strength: float, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Factor on the ground (H, W): a soft contact shadow, drawn out to one side when the sun shines."""
    x, y = figure.foot
    lean = float(rng.uniform(-1, 1)) * (strength > 0.3)
    across = (np.arange(width, dtype=np.float32) - np.float32(x))[None, :] / np.float32(
        0.15 * height * (1 + abs(lean))
    )
    down = (np.arange(height, dtype=np.float32) - np.float32(y - 0.012 * height))[:, None] / np.float32(0.035 * height)
    far = np.exp(-((across - np.float32(lean * 0.6)) ** 2) - down**2)
    return 1 - np.float32(min(0.75, strength + 0.2)) * far


def lit_person(figure: Figure, weather: Weather, light: Light) -> np.ndarray:
    """The figure's colours, multiplied by its alpha, in weather and light: float32 (H, W, 3) in 0..255."""
    tint = np.asarray(light.person, dtype=np.float32) * np.float32(weather.brightness)
    rgb: np.ndarray = figure.rgb * tint
    if weather.veil:
        fog = np.float32(214 * weather.veil) * np.asarray(light.place, dtype=np.float32)
        rgb = rgb * np.float32(1 - weather.veil) + fog * figure.alpha[..., None]
    return rgb


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


def expose(
    rgb: np.ndarray, camera: Camera, saturation: float, exposure: float, rng: np.random.Generator
) -> Image.Image:
    """Apply the camera's saturation, colour cast, contrast, gamma, resolution and noise."""
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
    left, top = (int(rng.integers(_NOISE_SIDE - max(side))) for side in ((MAX_SIZE[1], width), (MAX_SIZE[0], height)))
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
