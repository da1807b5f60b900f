"""A folder of one's own: tables with and without optional columns, file-name patterns, and what is wrong in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reid_trees import add_picture

from mmet.data import NO_CAMERA, DatasetError, load_reid_dataset, parse_data_argument, read_reid_folder

PATTERN = r"(?P<person_id>\d+)_c(?P<camera_id>\d+)"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("a/1.jpg", "a/2.png", "b/3.jpg", "m/1.png"):
        add_picture(tmp_path / "shop" / name)
    return tmp_path / "shop"


def _table(home: Path, text: str, name: str = "annotations.csv") -> Path:
    (home / name).write_text(text, encoding="utf-8")
    return home


def _lines(home: Path, *rows: dict[str, Any]) -> Path:
    return _table(home, "".join(json.dumps(row) + "\n" for row in rows), "annotations.jsonl")


def test_csv__all_columns(home: Path) -> None:
    _table(
        home,
        "image,person_id,camera_id,split,caption,person_mask\n"
        'a/1.jpg,0012,3,query,"A man, walking.",m/1.png\n'
        "a/1.jpg,12,3,query,Red coat.,m/1.png\n"
        "a/2.png,12,4,gallery,,\n"
        "b/3.jpg,7,,train,,\n",
    )
    dataset = load_reid_dataset("folder", home, on_skip="error")
    assert list(dataset) == ["train", "query", "gallery"]
    row = dataset["query"][0]
    assert row.pop("image").size == row.pop("person_mask").size == (24, 48)
    assert row == {
        "person_id": 12,
        "camera_id": 3,
        "captions": ["A man, walking.", "Red coat."],
        "image_path": "a/1.jpg",
        "domain": "shop",
    }
    assert dataset["train"]["camera_id"][:] == [NO_CAMERA]
    assert dataset["gallery"]["captions"][:] == [[]]


def test_jsonl__fewest_columns_and_the_split_of_the_option(home: Path) -> None:
    _lines(home, {"image": "a/1.jpg", "person_id": 5}, {"image": "b/3.jpg", "person_id": 6, "captions": ["x", "y"]})
    name, root, options = parse_data_argument(f"folder={home}?split=test")
    dataset = load_reid_dataset(name, root, **options)
    assert dataset["test"]["person_id"][:] == [5, 6]
    assert dataset["test"]["captions"][:] == [[], ["x", "y"]]


def test_table_of_another_name(home: Path) -> None:
    _table(home, "image,person_id\na/1.jpg,1\n", "people.csv")
    assert len(load_reid_dataset("folder", home, annotations="people.csv")["train"]) == 1
    with pytest.raises(DatasetError, match=r"option annotations=others\.csv: .* does not exist"):
        load_reid_dataset("folder", home, annotations="others.csv")
    with pytest.raises(DatasetError, match=r"option annotations=../x.csv: path leaves the dataset folder"):
        load_reid_dataset("folder", home, annotations="../x.csv")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("a/1.jpg,,,train", "field 'person_id' must be a whole number or a word, not ''"),
        ("a/1.jpg,NaN,,train", "field 'person_id' must be a whole number or a word, not 'NaN'"),
        ("a/1.jpg,18446744073709551615,,train", "field 'person_id' must fit into 64 bits, '18446744073709551615'"),
        ("a/1.jpg,-2,,train", "field 'person_id' must be 0 or more, or -1 for junk, -2 is not"),
        ("a/1.jpg,1.0,,train", "field 'person_id' must be a whole number"),
        ("a/1.jpg,1,1e3,train", "field 'camera_id' must be a whole number or a word, not '1e3'"),
        ("a/1.jpg,1,-2,train", "field 'camera_id' must be 0 or more, -2 is not"),
        (
            "a/1.jpg,1,,training",
            "field 'split' must be one of train, validation, test, query, gallery, not 'training'",
        ),
        ("a/1.jpg", "has no field 'person_id': expected 4 values, as the header has, received 1"),
        ("a/1.jpg,12", "has no field 'camera_id': expected 4 values, as the header has, received 2"),
        ("a/1.jpg,12,1,train,", "more values than the header has"),
    ],
)
def test_csv__malformed_row_names_line_and_field(home: Path, row: str, problem: str) -> None:
    _table(home, f"image,person_id,camera_id,split\nb/3.jpg,1,,\n{row}\n")
    with pytest.raises(DatasetError, match=rf"annotations\.csv: line 3: {problem}"):
        load_reid_dataset("folder", home)


def test_jsonl__numbers_written_as_text_are_numbers(home: Path) -> None:
    _lines(home, {"image": "a/1.jpg", "person_id": "0012", "camera_id": "3"})
    assert load_reid_dataset("folder", home)["train"]["person_id"][:] == [12]
    _lines(home, {"image": "a/1.jpg", "person_id": "1.5"})
    with pytest.raises(DatasetError, match=r"annotations\.jsonl: line 1: field 'person_id' must be a whole number"):
        load_reid_dataset("folder", home)


def test_rows_that_cannot_be_used_are_skips(home: Path) -> None:
    _lines(
        home,
        {"image": "a/1.jpg", "person_id": 1},
        {"image": "../other.jpg", "person_id": 1},
        {"image": "a/1.jpg", "person_id": 2},
        {"image": "a/2.png", "person_id": 1, "person_mask": "/etc/mask.png"},
        {"image": "gone.jpg", "person_id": 1},
        {"image": "b/3.jpg", "person_id": -1},
    )
    folder = read_reid_folder("folder", home)
    assert [(skip.path, skip.reason) for skip in folder.skipped] == [
        ("../other.jpg (line 2)", "path leaves the dataset folder"),
        ("a/1.jpg (line 3)", "row says something else of its picture than an earlier row"),
        ("a/2.png (line 4)", "mask: absolute path"),
        ("gone.jpg", "missing"),
    ]
    assert folder.set_aside == {"junk detections (person -1)": 1}


def test_pattern__file_names_with_masks_and_captions(tmp_path: Path) -> None:
    for name in ("0007_c2_a.jpg", "sub/0008_c1_b.jpg", "-1_c1_x.jpg", "masks/sub/0008_c1_b.png", "odd.jpg"):
        add_picture(tmp_path / name)
    (tmp_path / "captions.csv").write_text("image,caption\nsub/0008_c1_b.jpg,Hi.\nelse.jpg,Ho.\n")
    folder = read_reid_folder(
        "folder", tmp_path, pattern=r"(?P<person_id>-?\d+)_c(?P<camera_id>\d)", masks="masks", captions="captions.csv"
    )
    first, second = folder.splits["train"]
    assert (first.person_id, first.camera_id, first.person_mask, first.captions) == (7, 2, None, ())
    assert (second.person_id, second.camera_id, second.captions) == (8, 1, ("Hi.",))
    assert second.person_mask == tmp_path / "masks/sub/0008_c1_b.png"
    assert [(skip.path, skip.reason) for skip in folder.skipped] == [
        ("odd.jpg", "name does not begin as the pattern says"),
        ("else.jpg", "caption of a picture that is not there"),
    ]
    assert folder.set_aside == {"junk detections (person -1)": 1}


def test_pattern__folders_as_splits_and_persons(tmp_path: Path) -> None:
    for name in ("train/12/x.jpg", "query/13/x.jpg", "gallery/13/y.jpg", "extra/14/y.jpg"):
        add_picture(tmp_path / name)
    argument = parse_data_argument(rf"folder={tmp_path}?pattern=(?P<split>\w+)/(?P<person_id>\d+)/")
    folder = read_reid_folder(argument.name, argument.root, **argument.options)
    assert {split: [image.person_id for image in images] for split, images in folder.splits.items()} == {
        "train": [12],
        "query": [13],
        "gallery": [13],
    }
    (skipped,) = folder.skipped
    assert skipped.path == "extra/14/y.jpg"
    assert parse_data_argument(str(argument)) == argument


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"pattern": "(?P<person_id>"}, "is no regular expression"),
        ({"pattern": r"(?P<person>\d+)"}, "must have the group person_id.*; it has: person"),
        ({"pattern": r"(?P<person_id>\d+)(?P<cam>\d)"}, "must have the group person_id.*; it has: person_id, cam"),
        ({"pattern": PATTERN, "annotations": "annotations.csv"}, "either annotations=annotations.csv or pattern="),
        ({"masks": "none"}, "option masks=none: .* does not exist"),
        ({"masks": "annotations.csv"}, "option masks: .* is not a folder"),
        ({"captions": "/etc/passwd"}, "option captions=/etc/passwd: absolute path"),
    ],
)
def test_bad_options_are_named(home: Path, options: dict[str, str], problem: str) -> None:
    _table(home, "image,person_id\na/1.jpg,1\n")
    with pytest.raises(DatasetError, match=problem):
        load_reid_dataset("folder", home, **options)


def test_neither_table_nor_pattern_is_answered_with_both(home: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"(?s)found no annotations\.csv or annotations\.jsonl.*pattern=\(\?P<person"
    ):
        load_reid_dataset("folder", home)


def test_two_folders_are_two_domains(home: Path, tmp_path: Path) -> None:
    add_picture(tmp_path / "street" / "1_c1.jpg")
    _table(home, "image,person_id\na/1.jpg,1\n")
    shop, street = load_reid_dataset("folder", home), load_reid_dataset("folder", tmp_path / "street", pattern=PATTERN)
    assert (shop["train"]["domain"][0], street["train"]["domain"][0]) == ("shop", "street")
