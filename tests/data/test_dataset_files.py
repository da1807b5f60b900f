"""Safe joining and the check of picture files, against full decoding."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reid_trees import add_picture, picture_bytes

from mmet.data.files import UnsafePathError, find_defects, image_defect, join_inside

JPEG, PNG = picture_bytes("JPEG"), picture_bytes("PNG")


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


def _gif() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "GIF")
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
        (b"<html>Please log in</html>", "not a readable picture (BMP, GIF, JPEG, PNG, TIFF or WebP)"),
        (_gif(), "not a readable picture (BMP, GIF, JPEG, PNG, TIFF or WebP)"),
        (JPEG[:10], "not a readable picture (BMP, GIF, JPEG, PNG, TIFF or WebP)"),
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
    assert image_defect(add_picture(tmp_path / "a.jpg", content)) == expected


def test_image_defect__every_cut_of_a_picture_is_noticed(tmp_path: Path) -> None:
    """Whatever the length, the verdict agrees with decoding the file completely."""
    path = tmp_path / "a.jpg"
    for length in range(0, len(JPEG), 97):
        path.write_bytes(JPEG[:length])
        assert image_defect(path) is not None
        with pytest.raises(OSError, match=r"(?i)truncated|identify"):
            Image.open(path).load()


def test_image_defect__things_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for ever
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    assert image_defect(tmp_path / "folder.jpg") == "not a regular file"
    assert image_defect(tmp_path / "pipe.jpg") == "not a regular file"
    assert image_defect(tmp_path / "dangling.jpg") == "missing"
    assert image_defect(tmp_path / "none.jpg") == "missing"


def test_find_defects__names_exactly_the_broken_among_many(tmp_path: Path) -> None:
    paths = [add_picture(tmp_path / "p" / f"{number:04d}.jpg", JPEG) for number in range(600)]
    for number in (0, 511, 512, 599):
        paths[number].write_bytes(b"")
    assert find_defects(tmp_path, paths) == {paths[number]: "empty file" for number in (0, 511, 512, 599)}
