"""FineGPR: full set and sample, masks, captions in several shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reid_trees import add_picture, make_finegpr

from mmet.data import DatasetError, load_reid_dataset, read_reid_folder, summarize
from mmet.data.finegpr import FINEGPR
from mmet.data.schema import ReidFolder

FIRST, SECOND, THIRD = "0001_c01_w01_l01_p01.jpg", "0001_c36_w07_l07_p09.jpg", "0012_c05_w02_l03_p04.jpg"
TWO = ["A woman.", "With a hat."]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_finegpr(tmp_path / "FineGPR_Dataset", [THIRD, FIRST, SECOND])


def _captions(root: Path) -> dict[str, tuple[str, ...]]:
    return {image.image_path.name: image.captions for image in _train(read_reid_folder("finegpr", root))}


def _train(folder: ReidFolder) -> list:
    return folder.splits["train"]


@pytest.mark.parametrize("below", ["..", ".", "FineGPR"])
def test_read__full_set_from_any_of_its_folders(home: Path, below: str) -> None:
    dataset = load_reid_dataset("finegpr", (home / below).resolve())["train"]
    assert dataset["image_path"][:] == [f"FineGPR/{name[:4]}/{name}" for name in (FIRST, SECOND, THIRD)]
    assert dataset["person_id"][:] == [1, 1, 12]
    assert dataset["camera_id"][:] == [1, 36, 5]
    assert dataset["captions"][:] == [[], [], []]


@pytest.mark.parametrize("below", [".", "FineGPR_subset"])
def test_read__flat_sample_is_not_held_against_the_full_counts(tmp_path: Path, below: str) -> None:
    make_finegpr(tmp_path, [FIRST, SECOND], "FineGPR_subset", flat=True)
    (tmp_path / "FineGPR-C.json").write_text(json.dumps({FIRST: "A man.", THIRD: "Not in the sample."}))
    folder = read_reid_folder("finegpr", tmp_path / below)
    assert [image.image_path.name for image in _train(folder)] == [FIRST, SECOND]
    assert folder.skipped == []
    assert folder.set_aside == {"captions of pictures outside the sample": 1}
    assert "2,028,600" not in summarize(folder, FINEGPR)


def test_read__folder_of_another_name_holding_the_pictures(tmp_path: Path) -> None:
    make_finegpr(tmp_path, [FIRST], "mine", flat=True)
    folder = read_reid_folder("finegpr", tmp_path / "mine")
    assert folder.root == tmp_path / "mine"
    assert len(_train(folder)) == 1


def test_read__masks_by_stem(home: Path) -> None:
    mask = add_picture(home / "FineGPR_masks" / "0001" / "0001_c36_w07_l07_p09.png")
    add_picture(home / "FineGPR_masks" / "0099" / "0099_c01_w01_l01_p01.png")
    folder = read_reid_folder("finegpr", home)
    assert [image.person_mask for image in _train(folder)] == [None, mask, None]
    (skipped,) = folder.skipped
    assert (skipped.path, skipped.reason) == (
        "FineGPR_masks/0099/0099_c01_w01_l01_p01.png",
        "mask of a picture that is not there",
    )


def test_read__second_picture_of_a_name_is_skipped(home: Path) -> None:
    add_picture(home / "FineGPR" / "0001 (copy)" / FIRST)
    folder = read_reid_folder("finegpr", home)
    assert [image.image_path.name for image in _train(folder)] == [FIRST, SECOND, THIRD]
    assert [(skip.path, skip.reason) for skip in folder.skipped] == [
        (f"FineGPR/0001 (copy)/{FIRST}", "another picture has the same name")
    ]


def test_read__broken_mask_is_forgotten_and_its_picture_kept(home: Path) -> None:
    add_picture(home / "FineGPR_masks" / "0001" / "0001_c36_w07_l07_p09.png", b"no picture")
    folder = read_reid_folder("finegpr", home)
    assert [image.person_mask for image in _train(folder)] == [None, None, None]
    assert [skip.reason for skip in folder.skipped] == [
        "mask: not a readable picture (BMP, GIF, JPEG, PNG, TIFF or WebP)"
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("FineGPR-C.json", json.dumps({FIRST: "A man.", f"0001/{SECOND}": [" A woman. ", "With a hat."]})),
        (
            "FineGPR-C.json",
            json.dumps([{"image": FIRST, "text": "A man."}, {"image": SECOND, "captions": TWO}]),
        ),
        (
            "FineGPR-C.json",
            "\ufeff"
            + json.dumps(
                [
                    {"file_path": f"FineGPR\\0001\\{FIRST}", "sentence": "A man."},
                    {"image_name": SECOND, "caption": "A woman."},
                    {"img_path": SECOND, "sentences": ["With a hat."]},
                ]
            ),
        ),
        (
            "FineGPR-C.jsonl",
            f'{{"file_name": "{FIRST}", "caption": "A man."}}\n\n{json.dumps({"image": SECOND, "caption": TWO})}\n',
        ),
        ("FineGPR-C.csv", f'image,caption\r\n{FIRST},A man.\r\n{SECOND},"A woman."\r\n{SECOND},With a hat.\r\n'),
        ("FineGPR-C.csv", f",image_name,text\n0,{FIRST},A man.\n1,{SECOND},A woman.\n2,{SECOND},With a hat.\n"),
    ],
)
def test_read__caption_files(home: Path, name: str, content: str) -> None:
    (home / name).write_text(content, encoding="utf-8", newline="")
    assert _captions(home) == {FIRST: ("A man.",), SECOND: ("A woman.", "With a hat."), THIRD: ()}


def test_read__captions_without_picture_and_empty_ones_are_skips(home: Path) -> None:
    captions = {FIRST: ["", "A man."], "0077_c01_w01_l01_p01.jpg": "Nobody.", SECOND: "\ud800"}
    (home / "FineGPR-C.json").write_text(json.dumps(captions))
    folder = read_reid_folder("finegpr", home)
    assert {(skip.path, skip.reason) for skip in folder.skipped} == {
        (FIRST, "empty caption"),
        ("0077_c01_w01_l01_p01.jpg", "caption of a picture that is not there"),
        (SECOND, "caption is not valid text"),
    }
    assert f"kept without a caption: 2 pictures (FineGPR/0001/{SECOND}, FineGPR/0012/{THIRD})" in summarize(
        folder, FINEGPR
    )


def test_read__attributes_alone_leave_captions_empty_and_are_mentioned(home: Path) -> None:
    (home / "attributes.csv").write_text("id,gender\n1,male\n")
    folder = read_reid_folder("finegpr", home)
    assert all(image.captions == () for image in _train(folder))
    assert "attributes.csv" in summarize(folder, FINEGPR)


@pytest.mark.parametrize(
    ("suffix", "content", "expected"),
    [
        ("json", '[{"image": "a.jpg",\n "caption": }]', r"FineGPR-C\.json: line 2, column 13: not valid JSON"),
        ("jsonl", '{"image": "a", "text": "b"}\n{"image" "a"}', r"FineGPR-C\.jsonl: line 2, column 10"),
        ("json", '[{"image": "a", "text": "b"}, {"text": "b"}]', r"entry 2: needs one of .*image_name.*has: text"),
        ("json", '[{"image": "a", "text": ["b", 3]}]', r"entry 1: item 2 of field 'text' must be text, not 3"),
        ("json", '{"a": ["b", 3]}', r"key 'a': item 2 of field 'caption' must be text, not 3"),
        ("json", '[{"image": 5, "text": "b"}]', r"entry 1: field 'image' must be text, not 5"),
        ("json", '["a"]', r"entry 1: must be an object"),
        ("json", "7", r"must be a list of objects or an object, not 7"),
        ("json", "[]", r"holds no captions"),
        ("json", '{"a.jpg": [], "b.jpg": []}', r"holds no captions"),
        ("json", "[" * 100_000, r"FineGPR-C\.json: nested too deep"),
        ("csv", "image,caption\na.jpg,red, blue\n", r"line 2: more values than the header"),
        ("csv", "picture,caption\na.jpg,red\n", r"line 2: needs one of the fields image"),
        ("csv", 'image,caption\na.jpg,"red\n', r"not valid CSV"),
    ],
)
def test_read__malformed_caption_file_names_the_place(home: Path, suffix: str, content: str, expected: str) -> None:
    (home / f"FineGPR-C.{suffix}").write_text(content)
    with pytest.raises(DatasetError, match=expected):
        read_reid_folder("finegpr", home)


def test_read__caption_file_in_another_encoding(home: Path) -> None:
    (home / "FineGPR-C.json").write_bytes('{"a.jpg": "café"}'.encode("latin-1"))
    with pytest.raises(DatasetError, match=r"FineGPR-C\.json: not UTF-8 text \(byte 14"):
        read_reid_folder("finegpr", home)


def test_read__wrong_folder_shows_what_is_there(tmp_path: Path) -> None:
    add_picture(tmp_path / "holiday.jpg")
    with pytest.raises(DatasetError, match=r"(?s)0001_c01_w01_l01_p01\.jpg.*It holds: holiday\.jpg\..*FineGPR_masks/"):
        read_reid_folder("finegpr", tmp_path)
