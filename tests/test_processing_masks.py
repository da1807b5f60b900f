"""Reading silhouettes: whatever says who is the person gives the same mask, and what does not is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmet.data.decoding import decode_person_mask
from mmet.training.augmentation import PersonAugmentation
from pictures_mmet import AmbiguousMaskError, read_person_mask
from processing_mmet import MMETProcessor

PERSON = np.zeros((24, 12), dtype=bool)
PERSON[5:20, 3:8] = True
NOISE = np.random.default_rng(0).integers(0, 256, (24, 12, 3), dtype=np.uint8)
ALPHA = Image.fromarray(255 * PERSON.astype(np.uint8))


def of_values(nobody: float, person: float, dtype: type = np.uint8) -> np.ndarray:
    return np.where(PERSON, person, nobody).astype(dtype)


def colored(nobody: tuple[int, ...], person: tuple[int, ...], mode: str = "RGB") -> Image.Image:
    values = np.where(PERSON[..., None], np.uint8(person), np.uint8(nobody))
    return Image.fromarray(values if values.shape[-1] > 1 else values[..., 0], mode)


def with_palette(nobody: int, person: int, colors: dict[int, tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(of_values(nobody, person), "P")
    palette = np.zeros((256, 3), np.uint8)
    for number, color in colors.items():
        palette[number] = color
    image.putpalette(palette.tobytes())
    return image


def file_of(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


SOFT = np.where(PERSON, 0.9, 0.1) + np.random.default_rng(1).uniform(-0.09, 0.09, PERSON.shape)
CUTOUT = Image.fromarray(np.dstack([NOISE, 255 * PERSON]).astype(np.uint8))

MASKS: dict[str, object] = {
    "bool": PERSON,
    "0 and 1": of_values(0, 1),
    "0 and 255": of_values(0, 255),
    "two labels": of_values(0, 15),
    "two other labels": of_values(3, 4),
    "signed": of_values(-1, 1, np.int8),
    "integers": of_values(0, 1, np.int64),
    "instance number": of_values(0, 24_001, np.int32),
    "16 bits": of_values(0, 65_535, np.uint16),
    "floats 0 and 1": of_values(0, 1, np.float32),
    "floats 0 and 255": of_values(0, 255, np.float64),
    "two floats": of_values(0.2, 0.4, np.float32),
    "soft": SOFT,
    "soft half precision": SOFT.astype(np.float16),
    "soft bytes": (255 * SOFT).astype(np.uint8),
    "soft floats of bytes": 255 * SOFT,
    "soft integers": (255 * SOFT).astype(np.int32),
    "soft 16 bits": (65_535 * SOFT).astype(np.uint16),
    "1HW": PERSON[None],
    "HW1": PERSON[..., None],
    "floats 1HW": of_values(0, 1, np.float32)[None],
    "tensor": torch.tensor(PERSON),
    "tensor 1HW": torch.tensor(PERSON[None]).float(),
    "tensor of gradients": torch.tensor(SOFT, requires_grad=True),
    "bfloat16": torch.tensor(PERSON).bfloat16(),
    "HW3": np.repeat(of_values(0, 255)[..., None], 3, -1),
    "3HW floats": np.repeat(of_values(0, 1, np.float32)[None], 3, 0),
    "L": Image.fromarray(of_values(0, 1)),
    "1": Image.fromarray(PERSON),
    "I": Image.fromarray(of_values(0, 1, np.int32)),
    "F": Image.fromarray(of_values(0, 1, np.float32)),
    "I;16": Image.fromarray(of_values(0, 1, np.uint16)),
    "red on black": colored((0, 0, 0), (255, 0, 0)),
    "black on red": colored((200, 0, 0), (255, 255, 255)),
    "white on transparent": colored((0, 0, 0, 0), (255, 255, 255, 255), "RGBA"),
    "black on transparent": colored((0, 0, 0, 0), (0, 0, 0, 255), "RGBA"),
    "white on transparent white": colored((255, 255, 255, 0), (255, 255, 255, 255), "RGBA"),
    "white on transparent, LA": Image.merge("LA", (Image.new("L", (12, 24), 255), ALPHA)),
    "opaque": colored((0, 0, 0, 255), (255, 255, 255, 255), "RGBA"),
    "RGBA array": np.asarray(colored((255, 255, 255, 0), (255, 255, 255, 255), "RGBA")),
    "cut-out": CUTOUT,
    "palette": with_palette(0, 1, {0: (0, 0, 0), 1: (128, 0, 0)}),
    "palette of one colour": with_palette(0, 7, {}),
    "palette, white first": with_palette(1, 0, {0: (255, 255, 255), 1: (0, 0, 0)}),
    "transparent palette": file_of(with_palette(0, 1, {0: (0, 0, 0), 1: (255, 255, 255)}), transparency=0),
    "PNG": file_of(Image.fromarray(of_values(0, 1))),
    "16-bit PNG": file_of(Image.fromarray(of_values(0, 65_535, np.uint16))),
    "BMP": file_of(Image.fromarray(of_values(0, 1)), "BMP"),
    "GIF": file_of(Image.fromarray(of_values(0, 1)), "GIF"),
    "TIFF of floats": file_of(Image.fromarray(SOFT.astype(np.float32)), "TIFF"),
    "JPEG": file_of(Image.fromarray(of_values(0, 255)), "JPEG", quality=95),
    "WebP cut-out": file_of(CUTOUT, "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", MASKS)
def test_read_person_mask__every_way_to_say_who_is_the_person(name: str, processor: MMETProcessor) -> None:
    mask = read_person_mask(MASKS[name])
    assert (mask.mode, set(mask.tobytes())) == ("L", {0, 255})
    np.testing.assert_array_equal(np.asarray(mask) > 0, PERSON)
    np.testing.assert_array_equal(np.asarray(read_person_mask(mask)), np.asarray(mask))
    expected = processor.person_patch_coverage([PERSON])
    assert 0 < expected.mean() < 1
    assert torch.equal(processor.person_patch_coverage([MASKS[name]]), expected)
    features = processor(images=[NOISE], person_masks=MASKS[name], return_tensors="pt")
    assert torch.equal(features["person_patch_coverage"], expected)


@given(
    st.sampled_from([np.uint8, np.uint16, np.int16, np.int32, np.int64, np.float32, np.float64]),
    st.tuples(st.integers(-300, 70_000), st.integers(-300, 70_000)).filter(lambda values: values[0] != values[1]),
)
def test_read_person_mask__of_two_values_the_larger_is_the_person(dtype: type, values: tuple[int, int]) -> None:
    low, high = sorted(np.array(values).astype(dtype).tolist())
    if low != high:
        np.testing.assert_array_equal(np.asarray(read_person_mask(of_values(low, high, dtype))) > 0, PERSON)


@pytest.mark.parametrize(
    ("mask", "share"),
    [
        (np.zeros((4, 3), np.uint8), 0),
        (np.zeros((4, 3), bool), 0),
        (np.zeros((4, 3), np.float32), 0),
        (np.full((4, 3), 0.3), 0),
        (np.full((4, 3), 0.7), 1),
        (np.ones((4, 3), np.uint8), 1),
        (np.ones((4, 3), bool), 1),
        (np.ones((4, 3), np.float32), 1),
        (np.full((4, 3), 255, np.uint8), 1),
        (np.full((4, 3), 255.0), 1),
        (np.full((4, 3), 65_535, np.uint16), 1),
        (Image.new("1", (3, 4), 1), 1),
        (Image.new("RGBA", (3, 4), (255, 255, 255, 0)), 0),
        (Image.new("RGBA", (3, 4), (255, 255, 255, 255)), 1),
        (Image.new("RGB", (3, 4), (255, 255, 255)), 1),
    ],
)
def test_read_person_mask__one_value(mask: object, share: float) -> None:
    assert (np.asarray(read_person_mask(mask)) > 0).mean() == share


def labels(*values: float, dtype: type = np.uint8) -> np.ndarray:
    return np.resize(np.array(values, dtype=dtype), (6, len(values)))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (labels(0, 1, 2), "3 values from 0 to 2, as class labels do"),
        (labels(*range(19)), "19 values from 0 to 18"),
        (labels(0, 11, 24, 33), "4 values from 0 to 33"),
        (labels(0, 15, 255), "3 values from 0 to 255"),  # VOC: 255 is what has no label
        (labels(0, 1, 2, dtype=np.float32), "3 values from 0 to 2"),
        (labels(0, 1_001, 24_005, dtype=np.int32), "3 values from 0 to 24005"),
        (labels(-4, 0.5, 3, dtype=np.float32), "3 values from -4 to 3"),  # logits
        (labels(-1, 0, 1, dtype=np.int8), "3 values from -1 to 1"),
        (np.full((5, 4), 7, np.uint8), "1 value from 7 to 7"),
        (np.full((5, 4), -1, np.int64), "1 value from -1 to -1"),
        (Image.fromarray(NOISE), "colours, as a map of classes or a photograph does"),
        (Image.fromarray(labels(0, 1, 2), "P"), "3 values from 0 to 2"),
        (
            Image.fromarray(np.resize(np.uint8([[0, 0, 0, 0], [0, 0, 0, 255], [255] * 4]), (6, 5, 4))),
            "two colours and",
        ),
    ],
)
def test_read_person_mask__what_does_not_say_it_is_refused(mask: object, message: str) -> None:
    with pytest.raises(AmbiguousMaskError, match=message):
        read_person_mask(mask)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("a mask", "no such picture file"),
        (b"junk", "cannot identify"),
        (5, "received int"),
        (np.zeros((0, 3)), "with pixels"),
        (np.zeros((5, 6, 7)), "1, 3 or 4 channels"),
        (np.full((4, 3), np.nan), "finite values"),
        (np.full((4, 3), "x"), "received dtype"),
    ],
)
def test_read_person_mask__what_is_no_mask(mask: object, message: str) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        read_person_mask(mask)


def test_read_person_mask__is_turned_upright() -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    mask = read_person_mask(file_of(Image.fromarray(of_values(0, 1)), exif=tags))
    np.testing.assert_array_equal(np.asarray(mask) > 0, np.rot90(PERSON, -1))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(2, 12))
def test_read_person_mask__soft_masks_are_cut_at_the_half(seed: int, height: int, width: int) -> None:
    soft = np.random.default_rng(seed).uniform(0, 1, (height, width))
    for values in (soft, soft.astype(np.float32), Image.fromarray(soft.astype(np.float32))):
        np.testing.assert_array_equal(np.asarray(read_person_mask(values)) > 0, soft > 0.5)


def test_augmented_masks_stay_readable() -> None:
    """A part of a mask can show nobody or nothing else; the processor reads what training made of it."""
    image, augmentation = Image.fromarray(NOISE), PersonAugmentation()
    mask = decode_person_mask({"bytes": file_of(Image.fromarray((255 * SOFT).astype(np.uint8))), "path": None})
    for seed in range(50):
        _, part = augmentation(image, mask, np.random.default_rng(seed))
        assert part is not None
        np.testing.assert_array_equal(np.asarray(read_person_mask(part)), np.asarray(part))


# --- in the processor ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "to_batch",
    [
        lambda mask: [mask, mask],
        lambda mask: (mask, mask),
        lambda mask: np.stack([mask, mask]),
        lambda mask: torch.tensor(np.stack([mask, mask]))[:, None],
        lambda mask: np.stack([mask, mask])[..., None].astype(np.float32),
        lambda mask: [mask.astype(np.uint8), Image.fromarray(mask)],
    ],
)
def test_processor__batches_of_masks(processor: MMETProcessor, to_batch) -> None:
    features = processor(images=[NOISE, NOISE], person_masks=to_batch(PERSON), return_tensors="pt")
    expected = processor.person_patch_coverage([PERSON, PERSON])
    assert torch.equal(features["person_patch_coverage"], expected)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (labels(*range(12)).repeat(4, 0), "12 values from 0 to 11"),
        ("gone.png", "no such picture file"),
        (np.zeros((0, 4)), "with pixels"),
        (PERSON.T, "image's 24 x 12 pixels, or of about these proportions, received 12 x 24"),
        (np.ones((24, 24), bool), "received 24 x 24"),
        (np.ones((8, 1), bool), "received 8 x 1"),
    ],
)
def test_processor__says_which_mask_is_wrong(processor: MMETProcessor, mask: object, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^person_masks\[2\]: .*{message}"):
        processor(images=[NOISE] * 3, person_masks=[None, PERSON, mask], return_tensors="pt")


def test_processor__masks_of_files_and_turned_pictures(processor: MMETProcessor, tmp_path: Path) -> None:
    """The picture lies on its side in its file, and its mask upright in another."""
    tags = Image.Exif()
    tags[0x0112] = 6
    for name, options in (("a.png", {}), ("a.tiff", {}), ("a.jpg", {})):
        Image.fromarray(np.rot90(NOISE)).save(tmp_path / name, exif=tags, **options)
        Image.fromarray(of_values(0, 1)).save(tmp_path / "mask.png")
        expected = processor.person_patch_coverage([PERSON])
        with Image.open(tmp_path / name) as lazy:
            for image in (tmp_path / name, (tmp_path / name).read_bytes(), lazy):
                features = processor(images=[image], person_masks=tmp_path / "mask.png", return_tensors="pt")
                assert torch.equal(features["person_patch_coverage"], expected)


def test_processor__masks_of_a_size_of_the_same_proportions(processor: MMETProcessor) -> None:
    for scale in (2, 3):
        larger = PERSON.repeat(scale, 0).repeat(scale, 1)
        features = processor(images=NOISE, person_masks=larger, return_tensors="pt")
        assert features["person_patch_coverage"].isfinite().all()
    model_size = np.ones((52, 28), bool)
    square = np.zeros((30, 30, 3), np.uint8)
    features = processor(images=square, person_masks=model_size, return_tensors="pt")
    assert (features["person_patch_coverage"] == 1).all()
