"""Pictures of visitors: limits, messages, and galleries of their own that leave nothing behind."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mmet.app import uploads
from mmet.app.requests import RequestError, SearchRequest
from mmet.app.searching import search
from mmet.app.uploads import OWN_NAME, OwnGallery, read_picture


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def test_pictures_are_read_upright_in_rgb():
    exif = Image.Exif()
    exif[274] = 6  # lies on its side
    file = io.BytesIO()
    Image.new("L", (20, 10), 128).save(file, "JPEG", exif=exif)
    picture = read_picture(file.getvalue())
    assert (picture.size, picture.mode) == ((10, 20), "RGB")


def test_large_pictures_are_made_smaller():
    assert read_picture(encoded(Image.new("RGB", (3000, 2000)))).size == (1024, 683)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a picture"),
        (b"hello", "is not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not a picture"),
        (encoded(Image.new("RGB", (64, 64)))[:60], "is damaged"),
        (encoded(Image.new("1", (9000, 9000))), "million pixels"),
        (encoded(Image.new("1", (15_000, 15_000))), "million pixels"),  # which Pillow itself warns of
    ],
)
def test_what_is_no_usable_picture_is_said(content, message):
    with pytest.raises(RequestError, match=f"^This file .*{message}"):
        read_picture(content)


def test_large_files_are_not_read(monkeypatch, tmp_path):
    monkeypatch.setattr(uploads, "MAX_FILE_BYTES", 100)
    (tmp_path / "a.png").write_bytes(bytes(101))
    for source in (tmp_path / "a.png", bytes(101)):
        with pytest.raises(RequestError, match="larger than"):
            read_picture(source)


def test_a_gallery_of_ones_own(catalogue, embedder, tmp_path):
    parent = tmp_path / "uploads"
    parent.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (16, 8, 3), dtype=np.uint8)
    for name, picture in {"x": Image.new("RGB", (8, 16), "red"), "y": Image.fromarray(noise)}.items():
        picture.save(parent / f"{name}.png")
    (parent / "z.txt").write_text("no picture")
    files = [(f"{name}", parent / name) for name in ("x.png", "y.png", "z.txt")]
    uploaded = OwnGallery.build([*files, ("x.png", parent / "x.png")], embedder, parent)
    assert uploaded.description.startswith("3 pictures can be searched. Left out")
    assert "z.txt" in uploaded.description
    answer = search(catalogue, SearchRequest(gallery=OWN_NAME, text="red", k=3), own_gallery=uploaded.offered)
    assert {match.id for match in answer.result.matches[:2]} == {"x.png", "x.png (2)"}
    assert answer.result.matches[0].open_image().size == (8, 16)
    with pytest.raises(RequestError, match="no gallery"):  # it is nobody else's
        search(catalogue, SearchRequest(gallery=OWN_NAME, text="red"))
    uploaded.delete()
    assert not uploaded.folder.exists()


@pytest.mark.parametrize("count", [0, uploads.MAX_PICTURES + 1])
def test_no_pictures_and_too_many(count, embedder, tmp_path):
    with pytest.raises(RequestError, match=r"Choose the pictures first|at most 500"):
        OwnGallery.build([("a", tmp_path / "a")] * count, embedder, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_of_which_none_is_a_picture(embedder, tmp_path):
    (tmp_path / "a").write_text("no")
    with pytest.raises(RequestError, match="None of these files is a picture"):
        OwnGallery.build([("a", tmp_path / "a")], embedder, tmp_path)
