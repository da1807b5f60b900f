"""Safe joining and the check of picture files, against full decoding."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reid_trees import add_picture, picture_bytes

from mmet.data.defects import Defect, DefectKind
from mmet.data.paths import UnsafePathError, join_inside, list_images
from mmet.data.picture_checks import find_defects, find_undecodable, image_defect
from pictures_mmet import read_rgb

JPEG, PNG = picture_bytes("JPEG"), picture_bytes("PNG")
OTHER_FORMATS = ("BMP", "GIF", "TIFF", "WEBP")
UNREADABLE = "not a readable picture (BMP, GIF, JPEG, PNG, TIFF or WebP)"


def _reason(path: Path) -> str | None:
    defect = image_defect(path)
    return None if defect is None else defect.reason


@given(
    st.lists(st.sampled_from(["..", ".", "", "a", "b.jpg", "/", "\\", "C:", "~", "\0", "é"])).map("/".join) | st.text()
)
def test_join_inside__never_leaves_the_base(relative: str) -> None:
    base = Path("/data/set/imgs")
    try:
        joined = join_inside(base, relative)
    except UnsafePathError:
        return
    assert Path(os.path.normpath(joined)).is_relative_to(base)
    assert os.path.normpath(joined) != str(base)


@pytest.mark.parametrize(
    "relative", ["a.jpg", "CUHK01/a.jpg", "./CUHK01//a.jpg", "CUHK01\\a.jpg", "a..b.jpg", "~/a.jpg"]
)
def test_join_inside__keeps_plain_paths(relative: str) -> None:
    expected = Path("/data", *[part for part in relative.replace("\\", "/").split("/") if part not in ("", ".")])
    assert join_inside(Path("/data"), relative) == expected


def _bomb_png(width: int, height: int) -> bytes:
    """A valid PNG header of any size, with next to nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _without_rows(size: tuple[int, int], rows: int, **options: int) -> bytes:
    """A PNG with right checksums that ends in good order after some of its rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, options.get("interlace", 0))
    data = chunk(b"IDAT", zlib.compress(bytes(rows * (1 + 3 * size[0]))))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def _jpeg_2000() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "JPEG2000")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (JPEG, None),
        (PNG, None),
        (JPEG + b"\0" * 100, None),  # padded to a disk block
        (JPEG + b"trailing notes", None),
        (PNG + b"trailing notes", None),
        (picture_bytes("JPEG", (800, 800)), None),  # longer than what is read at once
        (b"", "empty file"),
        (b"<html>Please log in</html>", UNREADABLE),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", UNREADABLE),
        (_jpeg_2000(), UNREADABLE),
        (b"P6 4 4 255\n" + bytes(48), UNREADABLE),
        (b"RIFF\x24\0\0\0WAVEfmt " + bytes(60), UNREADABLE),
        (b"RIFF\x24\0\0\0WE", "truncated or damaged picture"),
        (_without_rows((24, 48), 48), None),
        (_without_rows((24, 48), 47), "damaged inside: rows are missing"),
        (_without_rows((24, 48), 0), "damaged inside: rows are missing"),
        (_without_rows((24, 48), 48, interlace=1), "damaged inside: rows are missing"),  # its passes need more bytes
        *((picture_bytes(form), None) for form in OTHER_FORMATS),
        *((picture_bytes(form)[:-40], "truncated or damaged picture") for form in OTHER_FORMATS),
        *((picture_bytes(form, (800, 800))[:300_000], "truncated or damaged picture") for form in OTHER_FORMATS),
        (JPEG[:10], "truncated or damaged picture"),
        (JPEG[: len(JPEG) // 2], "truncated or damaged picture"),
        (JPEG[:-2], "truncated or damaged picture"),
        (JPEG[: len(JPEG) // 2] + b"\0" * (len(JPEG) // 2), "truncated or damaged picture"),
        (PNG[:-12], "truncated or damaged picture"),  # Pillow decodes it; only its end is missing
        (PNG[: len(PNG) // 2], "truncated or damaged picture"),
        (PNG[: len(PNG) // 2] + b"\0" * (len(PNG) // 2), "truncated or damaged picture"),
        (picture_bytes("JPEG", (800, 800))[:-20_000], "truncated or damaged picture"),
        (_bomb_png(60_000, 60_000), "more than 50,000,000 pixels"),
        (_bomb_png(8_000, 8_000), "more than 50,000,000 pixels"),
    ],
)
def test_image_defect(tmp_path: Path, content: bytes, expected: str | None) -> None:
    assert _reason(add_picture(tmp_path / "a.jpg", content)) == expected


def test_image_defect__every_cut_of_a_picture_is_noticed(tmp_path: Path) -> None:
    """Whatever the length, the verdict agrees with decoding the file completely."""
    path = tmp_path / "a.jpg"
    for length in range(0, len(JPEG), 97):
        path.write_bytes(JPEG[:length])
        assert image_defect(path) is not None
        with pytest.raises(OSError, match=r"(?i)truncated|identify"):
            Image.open(path).load()


@pytest.mark.parametrize(
    ("picture_format", "options"),
    [
        *((picture_format, {}) for picture_format in OTHER_FORMATS),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("WEBP", {"lossless": True}),
        ("GIF", {"interlace": 1}),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of TIFFs, Pillow warns before it fails
def test_image_defect__every_cut_of_another_format_is_noticed_or_loses_no_pixel(
    tmp_path: Path, picture_format: str, options: dict[str, object]
) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(PNG)).save(buffer, picture_format, **options)
    content, path = buffer.getvalue(), tmp_path / "a.bmp"
    whole = read_rgb(content)
    for length in range(0, len(content), 41):
        path.write_bytes(content[:length])
        if image_defect(path) is None:
            np.testing.assert_array_equal(read_rgb(path), whole)
        else:
            assert length < len(content)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.linspace(0, 1, 48), None),
        (np.linspace(-3, 3, 48), "its pixels cannot be read: expected floats in 0–1 or 0–255, received -3 to 3"),
    ],
)
def test_image_defect__pixels_of_unknown_meaning(tmp_path: Path, values: np.ndarray, expected: str | None) -> None:
    Image.fromarray(values.reshape(8, 6).astype(np.float32)).save(tmp_path / "a.tiff")
    reason = _reason(tmp_path / "a.tiff")
    assert reason == expected or (expected is not None and reason is not None and reason.startswith(expected))


def test_list_images__suffixes(tmp_path: Path) -> None:
    names = ["a.bmp", "b.GIF", "c.jfif", "d.jpe", "e.jpeg", "f.jpg", "g.png", "h.tif", "i.TIFF", "j.webp"]
    for name in [*names, ".k.png", "l.txt", "m.avif", "n.png.gz", "o"]:
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in list_images(tmp_path)] == names


def test_find_undecodable__names_what_decoding_alone_finds(tmp_path: Path) -> None:
    good, bad = add_picture(tmp_path / "a.png"), tmp_path / "b.png"
    bad.write_bytes(_without_rows((24, 48), 20))
    assert find_undecodable([good, bad]) == {bad: Defect(DefectKind.DAMAGED, "damaged inside (OSError)")}


def test_image_defect__things_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for ever
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    assert _reason(tmp_path / "folder.jpg") == "not a regular file"
    assert _reason(tmp_path / "pipe.jpg") == "not a regular file"
    assert _reason(tmp_path / "dangling.jpg") == "missing"
    assert _reason(tmp_path / "none.jpg") == "missing"


def test_find_defects__names_exactly_the_broken_among_many(tmp_path: Path) -> None:
    paths = [add_picture(tmp_path / "p" / f"{number:04d}.jpg", JPEG) for number in range(600)]
    for number in (0, 511, 512, 599):
        paths[number].write_bytes(b"")
    empty = Defect(DefectKind.EMPTY_FILE, "empty file")
    assert find_defects(tmp_path, paths) == dict.fromkeys((paths[number] for number in (0, 511, 512, 599)), empty)
