"""Augmentation: deterministic, in step with the person mask, and each part does what its name says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmet.training.augmentation import PersonAugmentation

OFF: dict[str, Any] = {
    "flip_probability": 0.0,
    "crop_scale": (1.0, 1.0),
    "padding": 0.0,
    "colour_probability": 0.0,
    "low_resolution_probability": 0.0,
    "erasing_probability": 0.0,
}


def only(**changes: Any) -> PersonAugmentation:
    return PersonAugmentation(**(OFF | changes))


@pytest.fixture
def picture() -> Image.Image:
    """Noise of 96 × 192 pixels that never is pure black, nor the fill colour."""
    pixels = np.random.default_rng(0).integers(1, 100, size=(192, 96, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def mask_of_picture(picture: Image.Image) -> Image.Image:
    """True where the picture is bright: geometry must keep the two in step."""
    return picture.convert("L").point(lambda value: 255 * (value > 50), mode="L")


def test_same_seed_same_picture(picture: Image.Image, mask_of_picture: Image.Image) -> None:
    augmentation = PersonAugmentation(erasing_probability=0.5)
    results = [augmentation(picture, mask_of_picture, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    for part in (0, 1):
        assert results[0][part].tobytes() == results[1][part].tobytes()  # type: ignore[union-attr]
    assert results[0][0].tobytes() != results[2][0].tobytes()


def test_inputs_stay_as_they_were(picture: Image.Image, mask_of_picture: Image.Image) -> None:
    before = picture.tobytes(), mask_of_picture.tobytes()
    augmentation = PersonAugmentation(erasing_probability=1.0, low_resolution_probability=1.0)
    for seed in range(20):
        augmentation(picture, mask_of_picture, np.random.default_rng(seed))
    assert (picture.tobytes(), mask_of_picture.tobytes()) == before


def test_off_changes_nothing(picture: Image.Image, mask_of_picture: Image.Image) -> None:
    for augmentation in (only(), PersonAugmentation.off()):
        image, mask = augmentation(picture, mask_of_picture, np.random.default_rng(0))
        assert mask is not None
        assert image.tobytes() == picture.tobytes()
        assert mask.tobytes() == mask_of_picture.tobytes()


def test_geometry_keeps_mask_and_picture_together(picture: Image.Image, mask_of_picture: Image.Image) -> None:
    augmentation = only(flip_probability=0.5, crop_scale=(0.6, 1.0), padding=0.1)
    sizes = set()
    for seed in range(30):
        image, mask = augmentation(picture, mask_of_picture, np.random.default_rng(seed))
        assert mask is not None
        assert image.size == mask.size
        sizes.add(image.size)
        pixels = np.asarray(image)
        outside = (pixels == augmentation.fill).all(axis=2)
        bright = np.asarray(image.convert("L")) > 50
        np.testing.assert_array_equal(np.asarray(mask) > 0, bright & ~outside)
    assert len(sizes) > 20
    assert all(width <= 96 and height <= 192 for width, height in sizes)


def test_padding_moves_the_picture_at_full_size(picture: Image.Image) -> None:
    shifts = set()
    for seed in range(60):
        image, _ = only(padding=0.04)(picture, None, np.random.default_rng(seed))
        assert image.size == picture.size
        pixels = np.asarray(image)
        inside = ~(pixels == (124, 116, 104)).all(axis=2)
        rows, columns = inside.any(axis=1).sum() - 192, inside.any(axis=0).sum() - 96
        shifts.add((int(rows), int(columns)))
    assert min(row for row, _ in shifts) == -8  # round(0.04 × 192)
    assert min(column for _, column in shifts) == -4
    assert len(shifts) > 15


def test_flip__always_half_and_never(picture: Image.Image, mask_of_picture: Image.Image) -> None:
    mirrored = np.asarray(picture)[:, ::-1]
    image, mask = only(flip_probability=1.0)(picture, mask_of_picture, np.random.default_rng(0))
    np.testing.assert_array_equal(np.asarray(image), mirrored)
    np.testing.assert_array_equal(np.asarray(mask), np.asarray(mask_of_picture)[:, ::-1])
    flipped = [
        only(flip_probability=0.5)(picture, None, np.random.default_rng(seed))[0].tobytes() != picture.tobytes()
        for seed in range(300)
    ]
    assert np.mean(flipped) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("strength", ["brightness", "contrast", "saturation", "colour_cast", "gamma"])
def test_colour__each_strength_alone(strength: str) -> None:
    """A grey and a red pixel under one kind of change, seen over many seeds."""
    picture = Image.fromarray(np.array([[[100, 100, 100], [200, 60, 60]]], dtype=np.uint8))
    none = dict.fromkeys(("brightness", "contrast", "saturation", "colour_cast", "gamma"), 0.0)
    augmentation = only(colour_probability=1.0, **(none | {strength: 0.3}))
    pixels = np.array(
        [np.asarray(augmentation(picture, None, np.random.default_rng(seed))[0])[0] for seed in range(100)], dtype=int
    )
    grey, red = pixels[:, 0], pixels[:, 1]
    grey_stays_grey = (np.ptp(grey, axis=1) <= 1).all()
    assert grey_stays_grey == (strength != "colour_cast")
    assert ((grey.mean(axis=1) - 100).round() != 0).any() == (strength != "saturation")
    assert red[:, 0].min() < 195
    assert red[:, 0].max() > 205
    if strength == "saturation":
        assert np.abs(np.ptp(red, axis=1) / 140 - 1).max() == pytest.approx(0.3, abs=0.03)


def test_low_resolution__loses_detail_and_keeps_size_and_mean(picture: Image.Image) -> None:
    augmentation = only(low_resolution_probability=1.0, low_resolution_scale=(0.25, 0.25))
    image, _ = augmentation(picture, None, np.random.default_rng(0))
    before, after = np.asarray(picture, dtype=float), np.asarray(image, dtype=float)
    assert after.shape == before.shape
    assert after.mean() == pytest.approx(before.mean(), rel=0.02)
    assert after.std() < before.std() / 3


def test_erasing__covers_the_stated_area_and_clears_the_mask(picture: Image.Image) -> None:
    everywhere = Image.new("L", picture.size, 255)
    for seed in range(40):
        image, mask = only(erasing_probability=1.0, erasing_area=(0.1, 0.15))(
            picture, everywhere, np.random.default_rng(seed)
        )
        erased = np.asarray(mask) == 0
        assert 0.05 < erased.mean() < 0.17  # a very flat rectangle may be cut at the border
        pixels = np.asarray(image)
        assert len(np.unique(pixels[erased], axis=0)) == 1
        np.testing.assert_array_equal(pixels[~erased], np.asarray(picture)[~erased])


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (300, 20)])
def test_any_size_works(size: tuple[int, int]) -> None:
    augmentation = PersonAugmentation(
        crop_scale=(0.1, 1.0), low_resolution_probability=1.0, erasing_probability=1.0, colour_probability=1.0
    )
    for seed in range(20):
        image, mask = augmentation(Image.new("RGB", size), Image.new("L", size), np.random.default_rng(seed))
        assert mask is not None
        assert image.size == mask.size
        assert min(image.size) >= 1


@pytest.mark.parametrize(
    "changes",
    [
        {"flip_probability": 1.5},
        {"erasing_probability": -0.1},
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.9, 0.8)},
        {"low_resolution_scale": (0.5, 2.0)},
        {"saturation": 1.0},
        {"gamma": -0.1},
    ],
)
def test_settings_out_of_range_are_rejected(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=name):
        PersonAugmentation(**changes)


def test_other_pictures_are_rejected(picture: Image.Image) -> None:
    with pytest.raises(ValueError, match="mode L"):
        PersonAugmentation()(picture.convert("L"), None, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"received \(5, 5\)"):
        PersonAugmentation()(picture, Image.new("L", (5, 5)), np.random.default_rng(0))
