"""Draw an articulated person as an integer label map, then colour it by palette look-up.

The skeleton (`skeleton`) is turned by the view angle, so that a side or back view shows what a camera there would see.
Every part is painted once (`painter`) into a label map (`canvas`); patterns, faces and hair lines are then decided per
pixel in body coordinates (`patterns`, `zones`). Pixels with a label above zero are the silhouette.

    figure = draw_figure(identity, Pose(), view_degrees=30, height=192, width=96)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from mmet.data.synthetic.canvas import LEVELS, Canvas, Part, View
from mmet.data.synthetic.identity import RGB, Appearance, Identity
from mmet.data.synthetic.keypoints import Joint
from mmet.data.synthetic.painter import SUPERSAMPLING, Painter
from mmet.data.synthetic.skeleton import Pose

LEVEL_LIGHT = np.array([0.70, 0.87, 1.0, 1.12], dtype=np.float32)
"""Brightness of the four shading levels, from the rim of a part to its lit ridge."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawn person at crop size.

    Attributes:
        rgb: float32 (H, W, 3), 0..255, multiplied by `alpha`.
        alpha: float32 (H, W), 0..1, the share of the pixel covered by the person.
        foot: (x, y) of the point on the ground between the feet, in pixels.
        pixels: number of label-map pixels by part, for parts that are seen at all.
        joints: by the names of `KEYPOINT_NAMES`, in pixels; may lie outside the crop.
        parts: uint8 (H, W), the `Part` of each pixel, 0 outside.
    """

    rgb: np.ndarray
    alpha: np.ndarray
    foot: tuple[float, float]
    pixels: Mapping[Part, int]
    joints: Mapping[str, Joint]
    parts: np.ndarray


def draw_figure(
    identity: Identity,
    pose: Pose,
    *,
    view_degrees: float,
    height: int,
    width: int,
    elevation_degrees: float = 6.0,
    body_share: float = 0.88,
    offset: tuple[float, float] = (0.0, 0.0),
    light: float = 0.5,
) -> Figure:
    """Draw `identity` in `pose`.

    Args:
        view_degrees: 0 shows the front, 90 the person's right side, 180 the back, 270 the left side.
        height, width: size of the crop in pixels.
        elevation_degrees: how far the camera looks down.
        body_share: body height over crop height.
        offset: shift of the person, as shares of crop width and height.
        light: horizontal direction of the light, -1 (left) .. 1 (right).
    """
    scale = height * SUPERSAMPLING * body_share
    foot = (width * SUPERSAMPLING * (0.5 + offset[0]), height * SUPERSAMPLING * (0.5 + body_share * 0.5 + offset[1]))
    view = View(math.radians(view_degrees), math.radians(elevation_degrees), scale, foot)
    painter = Painter(identity.appearance, pose, view, Canvas(height * SUPERSAMPLING, width * SUPERSAMPLING, light))
    labels = painter.paint()
    rgb, alpha, pixels = _colour(labels, _palette(identity.appearance))
    place = (foot[0] / SUPERSAMPLING, foot[1] / SUPERSAMPLING)
    middle = slice(SUPERSAMPLING // 2, None, SUPERSAMPLING)
    return Figure(rgb, alpha, place, pixels, painter.joints(labels), labels[middle, middle] >> 2)


def _palette(look: Appearance) -> np.ndarray:
    """uint8 (256 // LEVELS, 3): the colour of each part."""
    skin, hair = look.body.skin, look.body.hair
    sleeve = look.inner if look.upper_kind == "vest" else look.upper
    colors: dict[Part, RGB] = {
        Part.SKIN: skin,
        Part.FACE: _mix(skin, (255, 236, 220), 0.12),
        Part.NOSE: _mix(skin, (120, 50, 30), 0.14),
        Part.HAIR: hair,
        Part.EYE: (34, 26, 26),
        Part.EYE_WHITE: (240, 240, 238),
        Part.BROW: _mix(hair, (20, 14, 12), 0.3),
        Part.MOUTH: _mix(skin, (170, 40, 50), 0.5),
        Part.UPPER: look.upper.rgb,
        Part.UPPER2: look.upper.second_rgb,
        Part.SLEEVE: sleeve.rgb,
        Part.SLEEVE2: sleeve.second_rgb,
        Part.INNER: look.inner.rgb,
        Part.LOWER: look.lower.rgb,
        Part.TROUSER_LEG: look.lower.rgb,
        Part.LOWER2: look.lower.second_rgb,
        Part.LEGWEAR: look.legwear,
        Part.SHOE: look.shoe,
        Part.SOLE: look.sole,
        Part.BAG: look.bag.rgb,
        Part.BAG2: _mix(look.bag.rgb, look.bag.second_rgb, 0.6),
        Part.HAT: look.hat.rgb,
        Part.HAT2: look.hat.second_rgb,
        Part.RIM: (30, 28, 30),
        Part.LENS: (36, 38, 48) if look.glasses_kind == "sunglasses" else _mix(skin, (210, 225, 240), 0.5),
        Part.SCARF: look.scarf.rgb if look.scarf else skin,
        Part.TRIM: _mix(look.upper.rgb, (24, 22, 26) if sum(look.upper.rgb) > 260 else (220, 220, 220), 0.55),
    }
    palette = np.zeros((256 // LEVELS, 3), dtype=np.uint8)
    for part, color in colors.items():
        palette[part] = color
    return palette


def _colour(labels: np.ndarray, palette: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[Part, int]]:
    """Look colours up, soften the shading levels, and average down to crop size: `rgb`, `alpha`, `pixels` of a figure.

    Pillow does the per-pixel work on 8-bit images, and only where the person is; light is stored relative to the
    brightest level, so nothing clips.
    """
    step, brightest = SUPERSAMPLING, float(LEVEL_LIGHT.max())
    rgb = np.zeros((labels.shape[0] // step, labels.shape[1] // step, 3), dtype=np.float32)
    alpha = np.zeros(rgb.shape[:2], dtype=np.float32)
    counts = np.bincount((labels >> 2).ravel(), minlength=len(Part) + 1)
    pixels = {Part(index): int(count) for index, count in enumerate(counts) if index and count}
    box = Image.fromarray(labels).getbbox()
    if box is None:
        return rgb, alpha, pixels
    left, top, right, bottom = box[0] // step, box[1] // step, -(-box[2] // step), -(-box[3] // step)
    picture = Image.fromarray(labels).crop((left * step, top * step, right * step, bottom * step))
    table = np.tile(np.rint(LEVEL_LIGHT / brightest * 255).astype(int), 256 // LEVELS)
    table[:LEVELS] = round(255 / brightest)
    light = picture.point(table.tolist()).filter(ImageFilter.BoxBlur(max(1.0, labels.shape[0] / 190)))
    inside = picture.point([0] * LEVELS + [255] * (256 - LEVELS))
    picture.putpalette(np.repeat(palette, LEVELS, axis=0).tobytes())
    lit = ImageChops.multiply(picture.convert("RGB"), Image.merge("RGB", (light, light, light)))
    window = slice(top, bottom), slice(left, right)
    np.multiply(np.asarray(lit.reduce(step)), np.float32(brightest), out=rgb[window])
    np.minimum(rgb[window], 255, out=rgb[window])
    np.multiply(np.asarray(inside.reduce(step)), np.float32(1 / 255), out=alpha[window])
    return rgb, alpha, pixels


def _mix(color: RGB, other: RGB, share: float) -> RGB:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(color, other, strict=True))
    return red, green, blue
