"""Input that is almost right, broken or hostile: a clear error or a counted skip, and never a stop in mid-epoch."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from reid_trees import add_picture, make_cuhk_pedes, make_finegpr, make_market, pedes_entry, picture_bytes

from mmet.data import DatasetError, dataset_names, get_spec, load_reid_dataset, read_reid_folder, summarize
from mmet.data.annotations import read_captions, read_entries
from mmet.data.paths import display
from mmet.data.picture_checks import image_defect
from mmet.training.augmentation import PersonAugmentation
from mmet.training.dataset import TrainingDataset
from mmet.training.sampling import Draw
from pictures_mmet import read_rgb
from processing_mmet import MMETImageProcessor

T = TypeVar("T")

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 24, 3), dtype=np.uint8)
RGB = Image.fromarray(PIXELS)


def _bytes(image: Image.Image, picture_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, picture_format, **options)
    return buffer.getvalue()


SIXTEEN_BITS = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
SILHOUETTE = np.zeros((48, 24), dtype=np.uint8)
SILHOUETTE[10:40, 6:18] = 1

ODD_PICTURES = {
    "cmyk.jpg": _bytes(RGB.convert("CMYK"), "JPEG"),
    "grey.jpg": _bytes(RGB.convert("L"), "JPEG"),
    "progressive.jpg": _bytes(RGB, "JPEG", progressive=True),
    "palette.png": _bytes(RGB.convert("P"), "PNG"),
    "transparent_palette.png": _bytes(RGB.convert("P"), "PNG", transparency=b"\x00\x80"),
    "transparent.png": _bytes(RGB.convert("RGBA"), "PNG"),
    "grey_transparent.png": _bytes(RGB.convert("LA"), "PNG"),
    "black_and_white.png": _bytes(RGB.convert("1"), "PNG"),
    "animated.png": _bytes(RGB, "PNG", save_all=True, append_images=[RGB.rotate(90), RGB]),
    "one_pixel.jpg": _bytes(RGB.resize((1, 1)), "JPEG"),
    "one_pixel.png": _bytes(RGB.resize((1, 1)), "PNG"),
    "one_column.png": _bytes(RGB.resize((1, 2000)), "PNG"),
    "one_row.jpg": _bytes(RGB.resize((2000, 1)), "JPEG"),
    "png_called.jpg": _bytes(RGB, "PNG"),
    "sixteen_bits.png": _bytes(SIXTEEN_BITS, "PNG"),
    "sixteen_bits.tiff": _bytes(SIXTEEN_BITS, "TIFF"),
    "windows.bmp": _bytes(RGB, "BMP"),
    "palette.gif": _bytes(RGB.convert("P"), "GIF"),
    "animated.gif": _bytes(RGB.convert("P"), "GIF", save_all=True, append_images=[RGB.rotate(90).convert("P")]),
    "transparent.webp": _bytes(RGB.convert("RGBA"), "WEBP"),
    "pages.tif": _bytes(RGB, "TIFF", save_all=True, append_images=[RGB.rotate(90)]),
    "lzw.tiff": _bytes(RGB, "TIFF", compression="tiff_lzw"),
    "camera.jfif": _bytes(RGB, "JPEG"),
    "camera.jpe": _bytes(RGB, "JPEG"),
}

ODD_MASKS = {
    "one.png": _bytes(Image.fromarray(SILHOUETTE), "PNG"),
    "label.png": _bytes(Image.fromarray(SILHOUETTE * 15), "PNG"),
    "white.png": _bytes(Image.fromarray(SILHOUETTE * 255), "PNG"),
    "white.jpg": _bytes(Image.fromarray(SILHOUETTE * 255), "JPEG", quality=95),
    "white.bmp": _bytes(Image.fromarray(SILHOUETTE * 255), "BMP"),
    "one_bit.png": _bytes(Image.fromarray(SILHOUETTE > 0), "PNG"),
    "palette.png": _bytes(Image.fromarray(SILHOUETTE).convert("P"), "PNG"),
    "sixteen.png": _bytes(Image.fromarray(SILHOUETTE.astype(np.uint16) * 65_535), "PNG"),
    "shares.tiff": _bytes(Image.fromarray(SILHOUETTE.astype(np.float32)), "TIFF"),
    "cutout.png": _bytes(Image.fromarray(np.dstack([PIXELS, SILHOUETTE * 255])), "PNG"),
    "larger.gif": _bytes(Image.fromarray(SILHOUETTE.repeat(2, 0).repeat(2, 1)), "GIF"),
}


# -- pictures -------------------------------------------------------------------------------------------------------


def test_odd_pictures_are_accepted_and_train(tmp_path: Path) -> None:
    """Whatever the loader accepts goes through decoding, augmentation and processor, as any picture and as a mask."""
    names = [f"000{number % 10}_c{number % 6 + 1}_{name}" for number, name in enumerate(ODD_PICTURES)]
    home = make_market(tmp_path, train=names, query=["0001_c1_a.jpg"], gallery=["0001_c2_a.jpg"])
    for name, content in zip(names, ODD_PICTURES.values(), strict=True):
        (home / "bounding_box_train" / name).write_bytes(content)
    train = load_reid_dataset("market1501", home, on_skip="error")["train"]
    assert len(train) == len(ODD_PICTURES)
    dataset = TrainingDataset(image=[train], augmentation=PersonAugmentation())
    processor = MMETImageProcessor()
    samples = dataset.__getitems__([Draw("image", index, index) for index in range(len(train))])
    pixels = processor(images=[sample.image for sample in samples], return_tensors="pt")["pixel_values"]
    assert pixels.shape[0] == len(ODD_PICTURES)
    assert pixels.isfinite().all()


def _finegpr_with_masks(root: Path, masks: dict[str, bytes]) -> TrainingDataset:
    stems = [f"{number:04d}_c01_w01_l01_p01" for number in range(len(masks))]
    home = make_finegpr(root / "FineGPR_Dataset", [f"{stem}.jpg" for stem in stems])
    for stem, (name, content) in zip(stems, masks.items(), strict=True):
        add_picture(home / "FineGPR_masks" / stem[:4] / f"{stem}{Path(name).suffix}", content)
    return TrainingDataset(image=[load_reid_dataset("finegpr", home, on_skip="error")["train"]])


def test_masks_of_every_kind_show_the_same_person(tmp_path: Path) -> None:
    dataset = _finegpr_with_masks(tmp_path, ODD_MASKS)
    for index, name in enumerate(ODD_MASKS):
        mask = dataset[Draw("image", index, 0)].person_mask
        assert mask is not None
        np.testing.assert_array_equal(np.asarray(mask), SILHOUETTE * 255, err_msg=name)


def test_masks_that_do_not_say_who_is_the_person_are_named(tmp_path: Path) -> None:
    parts = np.resize(np.arange(5, dtype=np.uint8), (48, 24))
    masks = {"photo.jpg": _bytes(RGB, "JPEG"), "parts.png": _bytes(Image.fromarray(parts), "PNG")}
    dataset = _finegpr_with_masks(tmp_path, masks)
    for index, what in enumerate((r"0_c01.*is ambiguous: it shows \d+ colours", r"1_c01.*shows 5 values from 0 to 4")):
        with pytest.raises(DatasetError, match=rf"FineGPR_masks.*000{what}"):
            dataset[Draw("image", index, 0)]


@pytest.mark.parametrize("picture_format", ["PNG", "TIFF"])
def test_grey_of_16_bits_is_scaled_not_clipped(tmp_path: Path, picture_format: str) -> None:
    path = add_picture(tmp_path / "a.png", _bytes(SIXTEEN_BITS, picture_format))
    assert image_defect(path) is None
    np.testing.assert_array_equal(read_rgb(path), np.repeat(PIXELS[..., :1], 3, axis=-1))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=6),
)
def test_damaged_pictures_are_refused_or_can_be_decoded(picture_format: str, flips: list[tuple[float, int]]) -> None:
    content = bytearray(picture_bytes(picture_format))
    for place, flip in flips:
        content[int(place * len(content))] ^= flip
    _assert_refused_or_decodable(bytes(content))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 700), st.binary(min_size=1, max_size=24))
@example(0, b"\xff\xd8\xff")
def test_damaged_headers_are_refused_or_can_be_decoded(start: int, junk: bytes) -> None:
    content = bytearray(picture_bytes("JPEG"))
    content[start : start + len(junk)] = junk
    _assert_refused_or_decodable(bytes(content))


def _assert_refused_or_decodable(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = add_picture(Path(folder, "a.jpg"), content)
        if image_defect(path) is None:
            read_rgb(path)


# -- names ----------------------------------------------------------------------------------------------------------


def _names_of(splits: str = "") -> st.SearchStrategy[str]:
    """Names that are those of Market-1501 but for a letter, and names of any kind."""
    characters = st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=("Cs",))
    near = st.builds(
        lambda name, place, character: name[: int(place * len(name))] + character + name[int(place * len(name)) + 1 :],
        st.just("0002_c1s1_000451_03"),
        st.floats(0, 1),
        characters | st.just(""),
    )
    return (near | st.text(characters, min_size=1, max_size=40)).filter(lambda name: len(name.encode()) < 200)


@settings(max_examples=30, deadline=None)
@given(_names_of())
@example("._0002_c1s1_000451_03")
@example("-1_c1")
@example("-2_c1")
@example("٣_c1")
@example("line\nbreak")
@example("\U0001f6b6_c1")
@example("0000_c1s1_000451_03")
def test_file_names__each_is_used_ignored_or_counted(name: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        home = make_market(Path(root), train=["0001_c1_a.jpg"], query=["0001_c1_a.jpg"], gallery=["0001_c2_a.jpg"])
        add_picture(home / "bounding_box_train" / f"{name}.jpg")
        folder = read_reid_folder("market1501", home)
        used = [image for image in folder.splits["train"] if image.image_path.name == f"{name}.jpg"]
        fates = [name.startswith("."), bool(used), bool(folder.skipped), bool(folder.set_aside)]
        assert sum(fates) == 1 or name == "0001_c1_a"
        unknown = re.match("0+_c", name) is not None  # a distractor is nobody to learn
        assert all((image.person_id == -1) == unknown and image.camera_id >= 0 for image in used)
        report = summarize(folder, get_spec("market1501"))
        assert all(line.isprintable() for line in report.splitlines())
        load_reid_dataset("market1501", home)  # Arrow takes it


@given(st.text() | st.binary().map(lambda name: name.decode("utf-8", "surrogateescape")))
def test_display__is_one_printable_line(name: str) -> None:
    shown = display(name)
    assert shown.isprintable()
    shown.encode("utf-8")
    if name.isprintable():
        assert shown == name


def test_names_that_are_no_text_in_every_kind_of_dataset(tmp_path: Path) -> None:
    stem = "0001_c01_w01_l01_p01"
    home = make_finegpr(tmp_path / "FineGPR_Dataset", [f"{stem}.jpg"])
    folder = home / "FineGPR" / "0001"
    os.rename(folder / f"{stem}.jpg", os.fsencode(folder) + b"/0002_c01_w01_l01_p01.jpg")  # noqa: PTH104
    add_picture(folder / f"{stem}.jpg")
    odd_masks = os.fsencode(home / "FineGPR_masks") + b"/\xff"
    os.makedirs(odd_masks)  # noqa: PTH103 (a name in bytes)
    with open(odd_masks + f"/{stem}.png".encode(), "wb") as file:  # noqa: PTH123
        file.write(picture_bytes("PNG"))
    read = read_reid_folder("finegpr", home)
    assert [skip.reason for skip in read.skipped] == ["mask: file name is not valid UTF-8"]
    assert [image.person_mask for image in read.splits["train"]] == [None, None]
    assert len(load_reid_dataset("finegpr", home)["train"]) == 2


# -- annotations ----------------------------------------------------------------------------------------------------


LONG = " ".join(f"word{number}" for number in range(10_000))


@pytest.mark.parametrize("caption", [LONG, "🚶‍♀️ with a 🎒", "שלום", "a\u0000b", "a\u2028b", "\ufeffA man."])
def test_captions_of_any_text_are_kept_whole(tmp_path: Path, caption: str) -> None:
    home = make_cuhk_pedes(tmp_path, [pedes_entry("a.jpg", captions=[caption])], ["a.jpg"])
    dataset = load_reid_dataset("cuhk_pedes", home, on_skip="error")["train"]
    assert dataset["captions"][0] == [caption]
    sample = TrainingDataset(paired=[dataset])[Draw("paired", 0, 0)]
    assert sample.caption == caption


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_captions__csv_gives_back_what_was_written(captions: list[str]) -> None:
    captions = [caption.replace("\r", " ").replace("\0", " ") for caption in captions]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "captions.csv")
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([["image", "caption"], *(["a.jpg", caption] for caption in captions)])
        assert read_captions(path) == {"a.jpg": captions}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "split", "captions", "x"]), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "split": st.sampled_from(["train", "val", "test", "Train"]) | JSON,
                "id": st.integers(0, 3) | JSON,
                "file_path": st.sampled_from(["a.jpg", "b.jpg", "../a.jpg", "/a.jpg", "c.jpg"]) | JSON,
                "captions": st.lists(st.text(max_size=5), max_size=2) | JSON,
            },
        )
        | JSON,
        max_size=4,
    )
)
def test_annotations__any_json_is_read_or_refused_by_name(entries: list[object]) -> None:
    with tempfile.TemporaryDirectory() as root:
        home = make_cuhk_pedes(Path(root), [pedes_entry("a.jpg", 1), *entries], ["a.jpg", "b.jpg"])
        folder, message = _outcome(lambda: read_reid_folder("cuhk_pedes", home))
        if folder is None:
            assert "reid_raw.json: entry " in message or "no usable picture" in message
        else:
            images = [image for images in folder.splits.values() for image in images]
            assert all(image.image_path.is_relative_to(home / "imgs") for image in images)


def _outcome(read: Callable[[], T]) -> tuple[T | None, str]:
    """What `read` returns, or the message of its `DatasetError`; any other error fails the test."""
    try:
        return read(), ""
    except DatasetError as error:
        return None, str(error)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([".json", ".jsonl", ".csv"]))
def test_caption_files__any_bytes_are_read_or_refused_by_name(content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"captions{suffix}")
        path.write_bytes(content)
        captions, message = _outcome(lambda: read_captions(path))
        if captions is None:
            assert message.startswith(f"{path}: ")
        else:
            assert all(isinstance(text, str) for texts in captions.values() for text in texts)


def test_annotations__duplicate_keys_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "reid_raw.json"
    path.write_text('[{"id": 1, "id": 2}]')
    with pytest.raises(DatasetError, match=r"reid_raw\.json: key 'id' stands twice in one object"):
        read_entries(path)
    path = tmp_path / "captions.json"
    path.write_text('{"a.jpg": "one", "a.jpg": "two"}')
    with pytest.raises(DatasetError, match=r"captions\.json: key 'a\.jpg' stands twice"):
        read_captions(path)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("id", "12", "field 'id' must be a whole number, not '12'"),
        ("id", 1.0, "field 'id' must be a whole number, not 1.0"),
        ("id", -3, "field 'id' must not be negative, -3 is"),
        ("id", None, "field 'id' must be a whole number, not None"),
        ("split", "Train", "field 'split' must be one of train, val, test, not 'Train'"),
        ("split", "validation", "field 'split' must be one of train, val, test, not 'validation'"),
    ],
)
def test_annotations__ids_and_splits_that_almost_are(tmp_path: Path, field: str, value: object, problem: str) -> None:
    home = make_cuhk_pedes(tmp_path, [pedes_entry("a.jpg"), pedes_entry("a.jpg") | {field: value}], ["a.jpg"])
    with pytest.raises(DatasetError, match=rf"reid_raw\.json: entry 2: {problem}"):
        read_reid_folder("cuhk_pedes", home)


# -- every loader ---------------------------------------------------------------------------------------------------


def test_every_loader__shadow_files_alone_are_not_the_dataset(tmp_path: Path) -> None:
    """What unpacking a macOS archive can leave: the tree, with nothing but shadows in it."""
    for name in ("bounding_box_train", "query", "bounding_box_test", "imgs", "train", "FineGPR/0001"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "._0001_c1.jpg").write_bytes(b"\0\5\x16\7")
    for name in dataset_names():
        with pytest.raises(DatasetError):
            load_reid_dataset(name, tmp_path)


def test_every_loader__link_to_itself_ends(tmp_path: Path) -> None:
    home = tmp_path / "mine"
    add_picture(home / "a" / "1_c1.jpg")
    (home / "a" / "again").symlink_to(home)
    (home / "round").symlink_to(home)
    read = read_reid_folder("folder", home, pattern=r"(?P<person_id>\d+)_c")
    assert {image.image_path for image in read.splits["train"]} >= {home / "a" / "1_c1.jpg"}
    for name in dataset_names():
        if name != "folder":
            with pytest.raises(DatasetError):
                load_reid_dataset(name, home)


def test_report__lists_every_skip_by_reason(tmp_path: Path) -> None:
    entries = [pedes_entry("a.jpg"), *(pedes_entry(f"../{number}.jpg") for number in range(5)), pedes_entry("b.jpg")]
    folder = read_reid_folder("cuhk_pedes", make_cuhk_pedes(tmp_path, entries, ["a.jpg"]))
    report = summarize(folder, get_spec("cuhk_pedes"))
    assert "skipped 6:" in report
    assert (
        "5 × path leaves the dataset folder (../0.jpg (entry 2), ../1.jpg (entry 3), ../2.jpg (entry 4), …)" in report
    )
    assert "1 × missing (imgs/b.jpg)" in report
    assert json.dumps(report)
