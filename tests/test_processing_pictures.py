"""Reading pictures: the same file gives the same pixels by every way, and what could be read two ways is refused."""

from __future__ import annotations

import base64
import io
import os
import struct
import zlib
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmet.data.decoding import DECODE_ERRORS, decode_rgb
from mmet.evaluation.analyses.ranked_lists import list_entry
from mmet.evaluation.protocols import select_items
from mmet.evaluation.systems.embedding import ItemReader
from mmet.training.dataset import TrainingDataset
from mmet.training.sampling import Draw
from pictures_mmet import png_has_all_rows, read_rgb
from processing_mmet import MMETImageProcessor, MMETProcessor

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 12, 3), dtype=np.uint8)
GRAY = PIXELS[..., 0]
RGB = Image.fromarray(PIXELS)
WHITE = [255, 255, 255]


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    height: int, width: int, data: bytes, *, bits: int = 8, color: int = 2, interlace: int = 0, extra=b""
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlace)
    body = extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def with_alpha(alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([PIXELS, alpha.astype(np.uint8)]), "RGBA")


def on_white(alpha: np.ndarray, colors: np.ndarray = PIXELS) -> np.ndarray:
    """Of a picture that is opaque where `alpha` and else transparent."""
    return np.where(alpha[..., None], colors, 255).astype(np.uint8)


def gray_png(values: np.ndarray, transparent: int | None = None) -> bytes:
    """Of 16 bits, with one transparent value."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    extra = b"" if transparent is None else chunk(b"tRNS", struct.pack(">H", transparent))
    return png(*values.shape, zlib.compress(rows), bits=16, color=0, extra=extra)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


LEFT = np.zeros((20, 12), dtype=bool)
LEFT[:, :5] = True
ALPHA = Image.fromarray(255 * LEFT.astype(np.uint8))
KEY_GRAY, KEY_RGB = int(GRAY[0, 0]), tuple(PIXELS[0, 0].tolist())  # the colour that is transparent
OTHER_GRAY, OTHER_RGB = GRAY != KEY_GRAY, (PIXELS != KEY_RGB).any(axis=-1)
PALETTE = RGB.quantize(64)
PALETTE_COLORS = np.asarray(PALETTE.convert("RGB"))
FIRST = np.asarray(PALETTE) != 0  # opaque where the palette's entry 0 is transparent
SIXTEEN = GRAY.astype(np.uint16) * 257
GRAY_RGB = np.repeat(GRAY[..., None], 3, axis=-1)

FILES: dict[str, tuple[bytes, np.ndarray | None]] = {
    "rgb.png": (encoded(RGB), PIXELS),
    "rgb.bmp": (encoded(RGB, "BMP"), PIXELS),
    "rgb.tiff": (encoded(RGB, "TIFF"), PIXELS),
    "lzw.tif": (encoded(RGB, "TIFF", compression="tiff_lzw"), PIXELS),
    "lossless.webp": (encoded(RGB, "WEBP", lossless=True), PIXELS),
    "lossy.webp": (encoded(RGB, "WEBP"), None),
    "plain.jpg": (encoded(RGB, "JPEG"), None),
    "progressive.jfif": (encoded(RGB, "JPEG", progressive=True), None),
    "cmyk.jpe": (encoded(RGB.convert("CMYK"), "JPEG"), None),
    "cmyk.tiff": (encoded(RGB.convert("CMYK"), "TIFF"), np.asarray(RGB.convert("CMYK").convert("RGB"))),
    "gray.png": (encoded(Image.fromarray(GRAY)), GRAY_RGB),
    "gray.jpg": (encoded(Image.fromarray(GRAY), "JPEG"), None),
    "one_bit.png": (encoded(Image.fromarray(LEFT)), np.where(LEFT[..., None], 255, 0).repeat(3, -1)),
    "palette.png": (encoded(PALETTE), PALETTE_COLORS),
    "palette.gif": (encoded(PALETTE, "GIF"), PALETTE_COLORS),
    "animated.gif": (
        encoded(PALETTE, "GIF", save_all=True, append_images=[Image.new("P", (12, 20)), PALETTE]),
        PALETTE_COLORS,
    ),
    "animated.png": (encoded(RGB, save_all=True, append_images=[RGB.rotate(180)]), PIXELS),
    "animated.webp": (encoded(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(180)], lossless=True), PIXELS),
    "pages.tiff": (encoded(RGB, "TIFF", save_all=True, append_images=[RGB.rotate(180)]), PIXELS),
    "cutout.png": (encoded(with_alpha(255 * LEFT)), on_white(LEFT)),
    "cutout.webp": (encoded(with_alpha(255 * LEFT), "WEBP", lossless=True, exact=True), on_white(LEFT)),
    "cutout.tiff": (encoded(with_alpha(255 * LEFT), "TIFF"), on_white(LEFT)),
    "half.png": (encoded(with_alpha(np.full((20, 12), 128))), None),
    "gray_cutout.png": (encoded(Image.merge("LA", (Image.fromarray(GRAY), ALPHA))), on_white(LEFT, GRAY_RGB)),
    "palette_index.png": (encoded(PALETTE, transparency=0), on_white(FIRST, PALETTE_COLORS)),
    "palette_alpha.png": (encoded(PALETTE, transparency=b"\0" + b"\xff" * 63), on_white(FIRST, PALETTE_COLORS)),
    "palette_index.gif": (encoded(PALETTE, "GIF", transparency=0), on_white(FIRST, PALETTE_COLORS)),
    "key_gray.png": (encoded(Image.fromarray(GRAY), transparency=KEY_GRAY), on_white(OTHER_GRAY, GRAY_RGB)),
    "key_rgb.png": (encoded(RGB, transparency=KEY_RGB), on_white(OTHER_RGB)),
    "sixteen.png": (encoded(Image.fromarray(SIXTEEN)), GRAY_RGB),
    "sixteen.tiff": (encoded(Image.fromarray(SIXTEEN), "TIFF"), GRAY_RGB),
    "key_sixteen.png": (gray_png(SIXTEEN, KEY_GRAY * 257), on_white(OTHER_GRAY, GRAY_RGB)),
    "int32.tiff": (encoded(Image.fromarray(GRAY.astype(np.int32)), "TIFF"), GRAY_RGB),
    "int32_of_16_bits.tiff": (encoded(Image.fromarray(SIXTEEN.astype(np.int32)), "TIFF"), GRAY_RGB),
    "float_bytes.tiff": (encoded(Image.fromarray(GRAY.astype(np.float32)), "TIFF"), GRAY_RGB),
    "float_shares.tiff": (encoded(Image.fromarray(GRAY.astype(np.float32) / 255), "TIFF"), GRAY_RGB),
    **{
        f"turned_{orientation}.{suffix}": (encoded(RGB, file_format, exif=exif(orientation), **options), upright)
        for orientation, upright in ((3, PIXELS[::-1, ::-1]), (6, np.rot90(PIXELS, -1)), (2, PIXELS[:, ::-1]))
        for suffix, file_format, options in (
            ("png", "PNG", {}), ("tiff", "TIFF", {}), ("webp", "WEBP", {"lossless": True})
        )
    },
    "turned.jpg": (encoded(RGB, "JPEG", exif=exif(6)), None),
    "turned_cutout.png": (encoded(with_alpha(255 * LEFT), exif=exif(6)), np.rot90(on_white(LEFT), -1)),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_read_rgb__one_file_one_picture_by_every_way(name: str, tmp_path: Path) -> None:
    content, expected = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    pixels = read_rgb(path)
    if expected is not None:
        np.testing.assert_array_equal(pixels, expected)
    assert pixels.dtype == np.uint8
    stored = {"bytes": None, "path": str(path)}
    decoded = datasets.Image().decode_example(stored)  # what an untransformed row of a dataset holds
    row = {"person_id": 0, "camera_id": 0, "captions": [], "person_mask": None, "image_path": name, "domain": "d"}
    dataset = datasets.Dataset.from_list([{"image": stored, **row}]).cast_column("image", datasets.Image())
    items = ItemReader(dataset, select_items(dataset, "test", "image"))
    with Image.open(path) as lazy:
        ways = {
            "str": read_rgb(str(path)),
            "bytes": read_rgb(content),
            "bytearray": read_rgb(bytearray(content)),
            "Pillow, not loaded": read_rgb(lazy),
            "datasets": read_rgb(decoded),
            "decode_rgb of bytes": decode_rgb({"bytes": content, "path": None}),
            "decode_rgb of a path": decode_rgb(stored),
            "training": TrainingDataset(image=[dataset])[Draw("image", 0, 0)].image,
            "evaluation": np.asarray(items.read(np.array([0])).images[0]),
            "figure": np.asarray(list_entry(select_items(dataset, "test", "image"), 0).image),
            "array": read_rgb(pixels, "channels_last"),
            "tensor": read_rgb(torch.tensor(pixels.copy()).permute(2, 0, 1)),
            "floats": read_rgb(pixels / 255),
        }
    for way, received in ways.items():
        np.testing.assert_array_equal(received, pixels, err_msg=way)
    processor = MMETImageProcessor(size={"height": 20, "width": 12})
    processed = [
        processor(image, return_tensors="np")["pixel_values"]
        for image in (pixels, path, str(path), content, decoded, [pixels / 255], Image.fromarray(pixels))
    ]
    for received in processed[1:]:
        np.testing.assert_array_equal(received, processed[0])


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "RGBX", "HSV", "YCbCr", "LA"])
def test_read_rgb__modes_that_no_file_has(mode: str) -> None:
    image = RGB.convert("LA" if mode == "La" else "RGBA" if mode == "RGBa" else "P" if mode == "PA" else mode)
    if mode in ("La", "RGBa", "PA", "LA"):
        image.putalpha(ALPHA)
        image = image.convert(mode) if image.mode != mode else image
    pixels = read_rgb(image)
    if mode in ("La", "RGBa", "PA", "LA"):
        assert (pixels[~LEFT] == 255).all()
        assert not (pixels[LEFT] == 255).all()
    else:
        np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    "dtype", [np.int8, np.int16, np.uint16, np.int32, np.int64, np.uint32, np.float16, np.float32, np.float64]
)
def test_read_rgb__arrays_of_bytes_in_any_type(dtype: type) -> None:
    pixels = PIXELS // 2 if dtype == np.int8 else PIXELS
    np.testing.assert_array_equal(read_rgb(pixels.astype(dtype)), pixels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.uint8, torch.int64])
def test_read_rgb__tensors(dtype: torch.dtype) -> None:
    pixels = torch.tensor(PIXELS).to(dtype)
    np.testing.assert_array_equal(read_rgb(pixels), PIXELS)
    np.testing.assert_array_equal(read_rgb(torch.tensor(PIXELS / 255).requires_grad_()), PIXELS)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GRAY, GRAY_RGB),
        (GRAY[None], GRAY_RGB),
        (GRAY[..., None], GRAY_RGB),
        (PIXELS.transpose(2, 0, 1), PIXELS),
        (np.dstack([PIXELS, 255 * LEFT]).astype(np.uint8), on_white(LEFT)),
        (np.dstack([PIXELS, 255 * LEFT]).transpose(2, 0, 1).astype(np.float32) / 255, on_white(LEFT)),
        (PIXELS.astype(np.uint16) * 257, PIXELS),
        (PIXELS.astype(">u2") * 257, PIXELS),
        (LEFT, np.where(LEFT[..., None], 255, 0).repeat(3, -1)),
        (np.zeros((5, 4), np.float32), np.zeros((5, 4, 3))),
        (np.float32([[0, 1.0000002]]), [[[0] * 3, WHITE]]),
        (PIXELS[:1, :1], PIXELS[:1, :1]),
        (PIXELS[:1], PIXELS[:1]),
    ],
    ids=["gray", "1HW", "HW1", "CHW", "RGBA", "RGBA floats first", "16 bits", "big endian", "bool", "black", "over 1",
         "one pixel", "one row"],
)  # fmt: skip
def test_read_rgb__arrays(array: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(read_rgb(array), expected)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (None, "received None"),
        (12, "received int"),
        ([[1, 2]], "received list"),
        (np.zeros((0, 4, 3)), "with pixels, received shape"),
        (np.zeros((4, 0)), "with pixels, received shape"),
        (Image.new("RGB", (0, 4)), "with pixels, received one of 0 x 4"),
        (np.zeros(4), "received shape"),
        (np.zeros((1, 1, 4, 4)), "received shape"),
        (np.zeros((6, 5, 2)), "expected 1, 3 or 4 channels"),
        (np.zeros((6, 5, 7)), "expected 1, 3 or 4 channels"),
        (np.zeros((3, 8, 3)), "channels_first and channels_last"),
        (np.full((6, 5, 3), np.nan), "finite pixels"),
        (np.full((6, 5, 3), np.inf), "finite pixels"),
        (np.full((6, 5, 3), -1), "whole numbers in 0–255 .*received -1 to -1"),
        (np.full((6, 5, 3), 256), "whole numbers in 0–255 .*received 256 to 256"),
        (np.linspace(-2, 2.6, 90).reshape(6, 5, 3), "that are not normalised"),
        (np.linspace(0, 1.3, 90).reshape(6, 5, 3), "could be either"),
        (np.linspace(0, 300, 90).reshape(6, 5, 3), "received 0 to 300"),
        (np.full((6, 5, 3), 1j), "dtype complex128"),
        (np.full((6, 5, 3), "a"), "dtype <U1"),
        (torch.full((3, 6, 5), torch.nan), "finite pixels"),
        (Image.fromarray(np.full((6, 5), -3, np.int32)), "received -3 to -3"),
        (Image.fromarray(np.full((6, 5), 70_000, np.int32)), "received 70000 to 70000"),
        (Image.fromarray(np.full((6, 5), np.nan, np.float32)), "finite pixels"),
    ],
)
def test_read_rgb__what_nobody_means_is_refused(picture: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_rgb(picture)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(5, 9), st.integers(5, 9), st.sampled_from([None, 1, 3, 4]), st.booleans(), st.integers(0, 99),
    st.sampled_from(["bytes", "shares", "floats", "int64"]),
)  # fmt: skip
def test_read_rgb__layout_and_type_do_not_matter(height, width, channels, first, seed, kind):
    shape = (height, width) if channels is None else (height, width, channels)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    pixels.flat[0] = 200  # not all nearly black
    expected = read_rgb(pixels)
    laid_out = np.moveaxis(pixels, -1, 0) if first and channels is not None else pixels
    values = {"bytes": laid_out, "shares": laid_out / 255, "floats": laid_out * 1.0, "int64": laid_out.astype(int)}[
        kind
    ]
    np.testing.assert_array_equal(read_rgb(values), expected)


def test_read_rgb__data_address() -> None:
    address = "data:image/png;base64," + base64.b64encode(encoded(with_alpha(255 * LEFT))).decode()
    np.testing.assert_array_equal(read_rgb(address), on_white(LEFT))


def test_read_rgb__files_that_are_no_pictures(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "text.png").write_bytes(b"<html>")
    (tmp_path / "program.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n")
    for name in ("gone.png", "pipe.png", "text.png", "program.jpg", "."):
        with pytest.raises(OSError, match=r"no such picture file|cannot identify"):
            read_rgb(tmp_path / name)


def test_read_rgb__an_enormous_file_is_not_decoded() -> None:
    with pytest.raises(ValueError, match="at most 50,000,000 pixels, received 8000 x 8000"):
        read_rgb(encoded(Image.new("1", (8_000, 8_000))))


# --- PNGs without all their rows ---------------------------------------------------------------------------------


def raw_rows(height: int, width: int, bytes_per_row: int, seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    return b"".join(b"\0" + rng.integers(1, 256, bytes_per_row, dtype=np.uint8).tobytes() for _ in range(height))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 20), st.integers(1, 20), st.sampled_from([(8, 2), (16, 2), (8, 0), (16, 0), (1, 0), (8, 6)]),
    st.integers(0, 1), st.data(),
)  # fmt: skip
def test_png_has_all_rows__of_any_kind_and_cut(height, width, kind, interlace, data):
    """As many bytes as all rows have are enough, and none fewer, whatever the checksums say."""
    bits, color = kind
    channels = {0: 1, 2: 3, 6: 4}[color]
    if interlace:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
        pixels = np.zeros((height, width), dtype=bool)
        sizes = [pixels[top::down, left::across].shape for left, top, across, down in passes]
    else:
        sizes = [(height, width)]
    needed = sum(rows * (1 + (columns * bits * channels + 7) // 8) for rows, columns in sizes if rows and columns)
    whole = png(height, width, zlib.compress(bytes(needed)), bits=bits, color=color, interlace=interlace)
    assert png_has_all_rows(io.BytesIO(whole))
    read_rgb(whole)
    short = data.draw(st.integers(0, needed - 1))
    cut = png(height, width, zlib.compress(bytes(short)), bits=bits, color=color, interlace=interlace)
    assert not png_has_all_rows(io.BytesIO(cut))
    with pytest.raises(OSError, match=r"rows are missing|truncated"):
        read_rgb(cut)


def test_read_rgb__rows_behind_the_last_are_no_matter() -> None:
    data = zlib.compress(raw_rows(10, 4, 12) + raw_rows(3, 4, 12))
    assert read_rgb(png(10, 4, data)).shape == (10, 4, 3)


# --- the processor names the item ------------------------------------------------------------------------------------


def cutouts() -> list[bytes]:
    return [encoded(with_alpha(255 * LEFT)), encoded(RGB)]


def test_processor__mixed_kinds_in_one_list(processor: MMETProcessor, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(RGB))
    mixed = [path, str(path), encoded(RGB), RGB, PIXELS, torch.tensor(PIXELS), PIXELS.transpose(2, 0, 1), PIXELS / 255]
    pixels = processor(images=mixed, return_tensors="pt")["pixel_values"]
    assert all(torch.equal(pixels[0], other) for other in pixels[1:])


def test_processor__floats_are_rescaled_once(processor: MMETProcessor) -> None:
    expected = processor(images=PIXELS, return_tensors="pt")["pixel_values"]
    assert torch.equal(processor(images=PIXELS / 255, return_tensors="pt")["pixel_values"], expected)
    assert torch.equal(processor(images=PIXELS * 1.0, return_tensors="pt")["pixel_values"], expected)


def test_processor__floats_with_transparency_that_are_not_rescaled(processor: MMETProcessor) -> None:
    floats = np.dstack([PIXELS / 255, LEFT]).astype(np.float32)
    options = {"do_rescale": False, "do_resize": False, "do_normalize": False, "return_tensors": "np"}
    (received,) = processor(images=floats, **options)["pixel_values"]
    np.testing.assert_allclose(received.transpose(1, 2, 0), on_white(LEFT) / 255, atol=1e-6)
    (gray,) = processor(images=floats[..., 0], **options)["pixel_values"]
    np.testing.assert_allclose(gray, np.repeat(PIXELS[None, ..., 0] / 255, 3, 0), atol=1e-6)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (None, "received None"),
        ("gone.png", "no such picture file"),
        (b"junk", "cannot identify"),
        (7, "received int"),
        (np.zeros((0, 4, 3), np.uint8), "with pixels"),
        (np.full((8, 6, 3), np.nan), "finite pixels"),
        (np.full((8, 6, 3), -1), "received -1 to -1"),
        (np.full((8, 6, 3), 999), "received 999 to 999"),
        (np.linspace(-2, 2, 144).reshape(8, 6, 3), "not normalised"),
        (np.zeros((8, 6, 5), np.uint8), "1, 3 or 4 channels"),
        (np.zeros((3, 6, 3), np.uint8), "say which with input_data_format"),
        (encoded(RGB)[:60], "truncated|broken|cannot identify"),
        (png(8, 6, zlib.compress(raw_rows(3, 6, 18))), "rows are missing"),
    ],
)
def test_processor__says_which_image_is_wrong(processor: MMETProcessor, bad: object, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^images\[1\]: .*({message})"):
        processor(images=[PIXELS, bad, RGB], return_tensors="pt")
    with pytest.raises(ValueError, match=rf"^images\[0\]: .*({message})"):
        processor.image_processor(bad, return_tensors="pt")


@pytest.mark.parametrize("do_convert_rgb", [True, False])
def test_processor__floats_must_be_finite_even_if_nothing_is_done_to_them(processor, do_convert_rgb) -> None:
    with pytest.raises(ValueError, match=r"^images\[0\]: .*finite"):
        processor(images=np.full((8, 6, 3), np.inf), do_rescale=False, do_convert_rgb=do_convert_rgb)


@pytest.mark.parametrize("images", [[], (), [[]], np.zeros((0, 8, 6, 3), np.uint8)])
def test_processor__no_images(processor: MMETProcessor, images: object) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        processor(images=images, return_tensors="pt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ([], "at least one sentence"),
        ("", r"text\[0\]: expected a sentence, received an empty one"),
        (["a man", " \n"], r"text\[1\]: expected a sentence, received an empty one"),
        (["a man", None], r"text\[1\]: expected a sentence, received NoneType"),
        (["a man", 3], r"text\[1\]: expected a sentence, received int"),
        ([["a", "man"]], r"text\[0\]: expected a sentence, received list"),
        (b"a man", r"text\[0\]: expected a sentence, received int"),
        (7, "expected a sentence or a list of sentences, received int"),
        ("a \ud800", r"text\[0\]: expected valid Unicode"),
    ],
)
def test_processor__says_which_sentence_is_wrong(processor: MMETProcessor, text: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor(text=text, return_tensors="pt")


def test_processor__as_many_sentences_as_images(processor: MMETProcessor) -> None:
    for images, text, counts in (([RGB, RGB], "a man", "2 images and 1 "), (RGB, ["a man"] * 3, "1 images and 3 ")):
        with pytest.raises(ValueError, match=f"one sentence per image, received {counts}sentences"):
            processor(images=images, text=text, return_tensors="pt")
    batch = np.stack([PIXELS, PIXELS])
    assert len(processor(images=batch, text=["a man", "a coat"], return_tensors="pt")["input_ids"]) == 2


def test_processor__padding_on_the_left_is_refused(processor: MMETProcessor) -> None:
    text = ["a man", "a man in red"]
    for options in ({"padding_side": "left"}, {"text_kwargs": {"padding_side": "left"}}):
        with pytest.raises(ValueError, match="padding_side 'right', received 'left'"):
            processor(text=text, return_tensors="pt", **options)
    assert processor(text=text, padding_side="right", return_tensors="pt")["input_ids"][0, 0] == 2
    tokenizer = type(processor.tokenizer)(vocab=processor.tokenizer.get_vocab(), padding_side="left")
    with pytest.raises(ValueError, match="padding_side"):
        MMETProcessor(processor.image_processor, tokenizer)(text=text, return_tensors="pt")


@pytest.mark.parametrize(
    "option",
    [
        {"add_special_tokens": False},
        {"is_split_into_words": True},
        {"text_pair": "a woman"},
        {"return_overflowing_tokens": True},
        {"stride": 1},
        {"text_kwargs": {"add_special_tokens": False}},
    ],
)
def test_processor__other_options_that_the_model_cannot_read_are_refused(processor: MMETProcessor, option) -> None:
    with pytest.raises(ValueError, match=r"expected \w+ (True|False|None|0), received"):
        processor(text=["a man in red"], return_tensors="pt", **option)
    defaults = {"add_special_tokens": True, "is_split_into_words": False, "stride": 0}
    plain = processor(text=["a man in red"], return_tensors="pt")
    assert processor(text=["a man in red"], return_tensors="pt", **defaults)["input_ids"].equal(plain["input_ids"])


@pytest.mark.parametrize("length", [0, -1, 10**6, 1.5, True, "64", None])
@pytest.mark.parametrize("side", ["height", "width"])
def test_image_processor__sizes_that_no_picture_has(side: str, length: object) -> None:
    size = {"height": 64, "width": 32, side: length}
    with pytest.raises((ValueError, TypeError), match=r"size"):
        MMETImageProcessor(size=size)
    with pytest.raises((ValueError, TypeError), match=r"size"):
        MMETImageProcessor()(RGB, size=size, return_tensors="pt")


@pytest.mark.parametrize("size", ["64", 1.5, True, {"height": "5", "width": 4}, {"shortest_edge": 4}, [0, 3], -5])
def test_processor__sizes_are_refused_by_a_value_error(processor: MMETProcessor, size: object) -> None:
    for options in ({"size": size}, {"images_kwargs": {"size": size}}):
        with pytest.raises(ValueError, match=r"expected (a )?size"):
            processor(images=PIXELS, return_tensors="pt", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"image_std": 0.0}, {"image_std": [0.5, 0.0, 0.5]}, {"image_std": [0.5, np.nan, 0.5]},
        {"image_mean": [np.inf] * 3},
        {"image_mean": [0.5, 0.5]}, {"rescale_factor": np.nan}, {"rescale_factor": -1.0},
    ],
    ids=str,
)  # fmt: skip
def test_image_processor__arithmetic_that_ruins_every_pixel(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        MMETImageProcessor(**options)
    with pytest.raises(ValueError, match=next(iter(options))):
        MMETImageProcessor()(PIXELS, return_tensors="pt", **options)


@pytest.mark.parametrize(
    "options", [{"patch_size": 0}, {"patch_size": 100}, {"patch_stride": -1}, {"patch_stride": 1.5}]
)
def test_processor__patches_of_one_call(processor: MMETProcessor, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="patch"):
        processor.person_patch_coverage([LEFT], **options)


@pytest.mark.parametrize("max_length", [0, 2, -5, 7.0])
def test_processor__texts_have_room_for_a_word(processor: MMETProcessor, max_length: object) -> None:
    with pytest.raises(ValueError, match="max_length"):
        processor(text="a man", max_length=max_length, return_tensors="pt")


@pytest.mark.parametrize("name", ["patch_size", "patch_stride"])
@pytest.mark.parametrize("length", [0, -4, 10**6, 2.5])
def test_image_processor__patches_that_no_picture_has(name: str, length: object) -> None:
    with pytest.raises((ValueError, TypeError), match=name):
        MMETImageProcessor(**{name: length})


def test_decode_rgb__errors_are_those_that_callers_know() -> None:
    for stored in (
        {"bytes": None, "path": None},
        {"bytes": b"", "path": None},
        {"bytes": b"\xff\xd8\xff", "path": None},
    ):
        with pytest.raises(DECODE_ERRORS):
            decode_rgb(stored)
