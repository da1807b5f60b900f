"""Decoding: pixels, modes, orientation and errors are Pillow's, whichever decoder did the work."""

import io

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmet.data import decoding
from mmet.data.decoding import DECODE_ERRORS, decode_rgb


def picture(height: int, width: int, seed: int = 0, mode: str = "RGB") -> PIL.Image.Image:
    """Smooth colours with some noise, so that a JPEG of it has coefficients of every frequency."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, height)[:, None, None] * np.linspace(0.2, 1, width)[None, :, None]
    pixels = np.clip(ramp * rng.random(3) + rng.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def encoded(image: PIL.Image.Image, file_format: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def by_pillow(file: bytes) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(file)).convert("RGB"))


@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 100),
    st.sampled_from([0, 1, 2]),
    st.booleans(),
    st.sampled_from(["RGB", "L"]),
    st.integers(0, 5),
)
@settings(max_examples=150, deadline=None)
def test_decode_rgb__equals_pillow_on_jpegs_of_every_kind(
    height, width, quality, subsampling, progressive, mode, restart
):
    options = {"quality": quality, "progressive": progressive, "restart_marker_blocks": restart}
    if mode == "RGB":
        options["subsampling"] = subsampling
    file = encoded(picture(height, width, quality, mode), **options)
    decoded = decode_rgb({"bytes": file, "path": None})
    np.testing.assert_array_equal(decoded, by_pillow(file))
    np.testing.assert_array_equal(decoding._decode_plain_jpeg(file), by_pillow(file))


@pytest.mark.parametrize(
    "file",
    [
        encoded(picture(20, 10), "PNG"),
        encoded(picture(20, 10, mode="P"), "PNG"),
        encoded(picture(20, 10, mode="CMYK")),
        encoded(picture(20, 10), keep_rgb=True),
        encoded(picture(20, 10), "BMP"),
    ],
    ids=["png", "palette", "cmyk", "rgb_jpeg", "bmp"],
)
def test_decode_rgb__equals_pillow_on_other_files(file):
    np.testing.assert_array_equal(decode_rgb({"bytes": file, "path": None}), by_pillow(file))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_rgb__turns_pictures_upright(orientation):
    exif = PIL.Image.Exif()
    exif[PIL.Image.ExifTags.Base.Orientation] = orientation
    file = encoded(picture(20, 10), exif=exif, quality=95)
    upright = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(file)))
    np.testing.assert_array_equal(decode_rgb({"bytes": file, "path": None}), np.asarray(upright))


def test_decode_rgb__reads_files_and_prefers_bytes(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(picture(20, 10, 1)))
    read = decode_rgb({"bytes": None, "path": str(path)})
    np.testing.assert_array_equal(np.asarray(read), by_pillow(path.read_bytes()))
    other = encoded(picture(20, 10, 2))
    np.testing.assert_array_equal(decode_rgb({"bytes": other, "path": str(path)}), by_pillow(other))


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_decode_rgb__a_damaged_jpeg_does_what_pillow_does(data):
    """A byte changed or the end cut off: Pillow's pixels, or one of the errors that callers know."""
    file = bytearray(encoded(picture(32, 16), quality=data.draw(st.sampled_from([50, 90]))))
    position = data.draw(st.integers(2, len(file) - 1))
    if data.draw(st.booleans()):
        file = file[:position]
    else:
        file[position] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_rgb({"bytes": bytes(file), "path": None})
    except DECODE_ERRORS:
        with pytest.raises(DECODE_ERRORS):
            by_pillow(bytes(file))
    else:
        np.testing.assert_array_equal(decoded, by_pillow(bytes(file)))


@pytest.mark.parametrize("file", [b"", b"\xff\xd8", b"not a picture"])
def test_decode_rgb__what_is_no_picture_is_an_error(file):
    with pytest.raises(DECODE_ERRORS):
        decode_rgb({"bytes": file, "path": None})


def test_decode_rgb__a_missing_file_is_an_error(tmp_path):
    with pytest.raises(OSError, match=r"gone\.jpg"):
        decode_rgb({"bytes": None, "path": str(tmp_path / "gone.jpg")})


def test_decode_rgb__an_enormous_jpeg_meets_pillows_guard(monkeypatch):
    file = encoded(PIL.Image.new("L", (6_000, 6_000)))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(PIL.Image.DecompressionBombError):
        decode_rgb({"bytes": file, "path": None})
