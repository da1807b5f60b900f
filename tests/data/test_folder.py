"""A folder of one's own: tables with and without optional columns, file-name patterns, and what is wrong in them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from reid_trees import add_picture

from mmet.data import (
    NO_CAMERA,
    REID_FEATURES,
    DatasetError,
    get_spec,
    load_reid_dataset,
    parse_data_argument,
    read_reid_folder,
    summarize,
)
from mmet.data import folder as folder_module
from mmet.data.doctor import diagnose

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
        ({"pattern": "(?P<person_id>"}, "is not a regular expression"),
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


# -- columns and rows that contradict themselves ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("image,person_id,person_id", r"line 1: column 'person_id' stands twice"),
        ("image,person_id, person_id", r"line 1: column 'person_id' stands twice"),
        ("image,person_id,camera", r"column 'camera' is not one of .*; is 'camera_id' meant\?"),
        ("image,person_id,Camera_ID", r"column 'Camera_ID' is not one of .*; is 'camera_id' meant\?"),
        ("image,person_id,cam", r"is 'camera_id' meant\?"),
        ("image,person_id,splt", r"is 'split' meant\?"),
        ("image,person_id,phase", r"column 'phase' is not one of .*; is 'split' meant\?"),
        ("image,person_id,set", r"column 'set' is not one of .*; is 'split' meant\?"),
        ("image,person_id,Description", r"column 'Description' is not one of .*; is 'caption' meant\?"),
        ("image,person_id,Split", r"is 'split' meant\?"),
        ("image,person_id,captoin", r"is 'caption' meant\?"),
        ("image,person_id,mask", r"is 'person_mask' meant\?"),
        ("image,personid,split", r"is 'person_id' meant\?"),
        ("file,person_id,split", r"is 'image' meant\?"),
        ("image;person_id;split", r"columns are separated by semicolons; expected commas"),
    ],
)
def test_csv__headers_that_are_not_what_they_should_be(home: Path, header: str, problem: str) -> None:
    values = "a/1.jpg;1;1" if ";" in header else "a/1.jpg,1,1"
    with pytest.raises(DatasetError, match=rf"annotations\.csv: .*{problem}"):
        read_reid_folder("folder", _table(home, f"{header}\n{values}\n"))


def test_jsonl__misspelt_field_beside_rows_that_have_it_is_an_error(home: Path) -> None:
    rows = [
        '{"image": "a.jpg", "person_id": 1, "split": "query"}',
        '{"image": "b.jpg", "person_id": 1, "spilt": "gallery"}',
    ]
    (home / "annotations.csv").unlink(missing_ok=True)
    (home / "annotations.jsonl").write_text("\n".join(rows))
    with pytest.raises(DatasetError, match=r"column 'spilt' is not one of .*; is 'split' meant\?"):
        read_reid_folder("folder", home)


def test_two_tables__one_must_be_named(home: Path) -> None:
    add_picture(home / "1_a.jpg")
    (home / "annotations.csv").write_text("image,person_id\n1_a.jpg,1")
    (home / "annotations.jsonl").write_text('{"image": "1_a.jpg", "person_id": 2}')
    with pytest.raises(DatasetError, match=r"annotations\.csv and annotations\.jsonl.*annotations=annotations\.csv"):
        read_reid_folder("folder", home)
    (image,) = read_reid_folder("folder", home, annotations="annotations.jsonl").splits["train"]
    assert image.person_id == 2
    (image,) = read_reid_folder("folder", home, pattern=r"(?P<person_id>\d+)_").splits["train"]
    assert image.person_id == 1


def test_jsonl__misspelt_field_of_one_row_is_an_error(home: Path) -> None:
    _lines(home, {"image": "a/1.jpg", "person_id": 1}, {"image": "a/2.png", "person_id": 1, "camera": 2})
    with pytest.raises(DatasetError, match=r"column 'camera' is not one of .*; is 'camera_id' meant"):
        read_reid_folder("folder", home)


def test_columns_that_are_no_misspelling_are_named_and_not_read(home: Path) -> None:
    header = "image,person_id,camera_id,camera_angle,person_age,caption,split_seed,"
    folder = read_reid_folder("folder", _table(home, f"{header}\na/1.jpg,1,2,45,30,Hi.,0,\n"))
    assert folder.splits["train"][0].camera_id == 2
    assert "columns that are not read: camera_angle, person_age, split_seed" in folder.notes


@pytest.mark.parametrize("name", ["annotations.csv", "annotations.jsonl"])
@pytest.mark.parametrize("rest", ["", "\n\n"])
def test_empty_table_says_so(home: Path, name: str, rest: str) -> None:
    text = ("image,person_id\n" if name.endswith("csv") else "") + rest
    with pytest.raises(DatasetError, match=rf"{name}: the table has no rows"):
        load_reid_dataset("folder", _table(home, text, name))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_with_a_byte_order_mark_are_read(home: Path, encoding: str) -> None:
    (home / "annotations.csv").write_bytes("image,person_id,caption\na/1.jpg,1,Größe\n".encode(encoding))
    assert load_reid_dataset("folder", home)["train"]["captions"][:] == [["Größe"]]


def test_table_in_latin_1_names_the_line(home: Path) -> None:
    (home / "annotations.csv").write_bytes("image,person_id,caption\na/1.jpg,1,Größe\n".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"annotations\.csv: not UTF-8 text \(byte \d+ on line 2.*save the file"):
        load_reid_dataset("folder", home)


ROWS = (
    "a/1.jpg,1,1,query,asked\n",
    "a/1.jpg,1,1,gallery,searched\n",
    "a/2.png,1,2,gallery,\n",
    "b/3.jpg,2,1,gallery,\n",
)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2), (2, 3, 0, 1)])
def test_picture_may_be_query_and_gallery_whatever_the_order_of_rows(home: Path, order: tuple[int, ...]) -> None:
    table = "image,person_id,camera_id,split,caption\n" + "".join(ROWS[place] for place in order)
    folder = read_reid_folder("folder", _table(home, table))
    people = {
        split: sorted((folder.name_of(image.image_path), image.person_id, image.captions) for image in images)
        for split, images in folder.splits.items()
    }
    assert people == {
        "query": [("a/1.jpg", 1, ("asked",))],
        "gallery": [("a/1.jpg", 1, ("searched",)), ("a/2.png", 1, ()), ("b/3.jpg", 2, ())],
    }
    assert folder.skipped == []


def test_picture_in_train_and_query_is_a_contradiction(home: Path) -> None:
    table = "image,person_id,split\na/1.jpg,1,train\na/1.jpg,1,query\na/2.png,1,query\n"
    (skipped,) = read_reid_folder("folder", _table(home, table)).skipped
    assert skipped.path == "a/1.jpg (line 3)"


def test_pictures_that_no_row_names_are_told(home: Path) -> None:
    _table(home, "image,person_id,person_mask\na/1.jpg,1,m/1.png\nb/3.jpg,-1,\ngone.jpg,2,\n")
    folder = read_reid_folder("folder", home)
    assert folder.unlisted == ["a/2.png"]
    report = summarize(folder, get_spec("folder"))
    assert "not used, since no table or list names them: 1 pictures (a/2.png)" in report
    assert "1 × missing (gone.jpg)" in report


# -- persons and cameras that are words -------------------------------------------------------------------------------


def test_words__numbered_by_the_alphabet_and_kept(home: Path) -> None:
    _table(home, "image,person_id,camera_id\na/1.jpg,bob,front-door\na/2.png,alice,3\nb/3.jpg,bob,\n")
    rows = load_reid_dataset("folder", home)["train"].remove_columns(["image", "person_mask"])
    assert rows["person_id"][:] == [1, 0, 1]
    assert rows["person_name"][:] == ["bob", "alice", "bob"]
    assert rows["camera_id"][:] == [4, 3, NO_CAMERA]
    assert rows["camera_name"][:] == ["front-door", None, None]


def test_words__numbers_that_are_written_as_numbers_stay(home: Path) -> None:
    _lines(
        home,
        *({"image": name, "person_id": who} for name, who in (("a/1.jpg", "007"), ("a/2.png", 12), ("b/3.jpg", "x"))),
    )
    rows = load_reid_dataset("folder", home)["train"]
    assert rows["person_id"][:] == [7, 12, 13]
    assert rows["person_name"][:] == [None, None, "x"]


def test_words__no_columns_of_names_where_there_are_none(home: Path) -> None:
    rows = load_reid_dataset("folder", _table(home, "image,person_id,camera_id\na/1.jpg,1,2\n"))["train"]
    assert rows.features == REID_FEATURES


def test_words__in_file_names(tmp_path: Path) -> None:
    for name in ("query/alice/front-door_1.jpg", "gallery/alice/back_2.jpg", "gallery/bob/back_1.jpg"):
        add_picture(tmp_path / "shop" / name)
    pattern = r"(?P<split>query|gallery)/(?P<person_id>[^/]+)/(?P<camera_id>[a-z-]+)_"
    splits = load_reid_dataset("folder", tmp_path / "shop", pattern=pattern)
    assert splits["query"]["person_id"][:] == [0]
    assert splits["gallery"]["person_id"][:] == [0, 1]
    assert splits["gallery"]["camera_name"][:] == ["back", "back"]
    assert set(splits["query"]["camera_id"]) != set(splits["gallery"]["camera_id"])


# -- patterns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "part"),
    [
        (r"(?P<person_id>\d+)_c(?P<camera_id>\d)", "camera_id"),
        (r"(?P<person_id>\d+)_c(?P<camera_id>\d).*", "camera_id"),
        (r".*(?P<person_id>\d+)_c(?P<camera_id>\d+)", "person_id"),
        (r"(?P<person_id>\d{3})", "person_id"),
        (r"(?P<person_id>\d+)_(?P<camera_id>c\d)", "camera_id"),
    ],
)
def test_pattern__parts_of_numbers_are_not_read(tmp_path: Path, pattern: str, part: str) -> None:
    add_picture(tmp_path / "0002_c14_0001.jpg")
    add_picture(tmp_path / "002_c1_0001.jpg" if part == "camera_id" else tmp_path / "2_c3.jpg")
    pattern = pattern if part == "camera_id" else pattern.replace(r"\d{3}", r"\d{1,3}")
    folder = read_reid_folder("folder", tmp_path, pattern=pattern)
    (skipped,) = folder.skipped
    assert (skipped.path, skipped.reason) == (
        "0002_c14_0001.jpg",
        f"the pattern reads a part of a number or word as {part}",
    )


def test_pattern__the_beginning_of_a_word_is_not_read(tmp_path: Path) -> None:
    """`gatehouse` is another camera than `gate`; letters that the pattern itself names are no cut."""
    for name in ("ann_gate.png", "bob_gatehouse.png", "ann_yardcam.png"):
        add_picture(tmp_path / name)
    folder = read_reid_folder("folder", tmp_path, pattern=r"(?P<person_id>[a-z]+)_(?P<camera_id>[a-z]{4})")
    reason = "the pattern reads a part of a number or word as camera_id"
    assert {(skipped.path, skipped.reason) for skipped in folder.skipped} == {
        ("bob_gatehouse.png", reason),
        ("ann_yardcam.png", reason),
    }
    named = read_reid_folder("folder", tmp_path, pattern=r"(?P<person_id>[a-z]+)_(?P<camera_id>[a-z]{4})cam")
    assert [image.image_path.name for image in named.splits["train"]] == ["ann_yardcam.png"]


def test_pattern__numbers_side_by_side_are_read_where_groups_say_so(tmp_path: Path) -> None:
    add_picture(tmp_path / "00021400.jpg")
    folder = read_reid_folder("folder", tmp_path, pattern=r"(?P<person_id>\d{4})(?P<camera_id>\d\d)(\d\d)")
    assert [(image.person_id, image.camera_id) for image in folder.splits["train"]] == [(2, 14)]


def test_pattern__that_backtracks_for_ever_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_PATTERN_SECONDS", 0.2)
    add_picture(tmp_path / ("x" * 60 + ".jpg"))
    pattern = r"(?P<person_id>(x|xx)+)$y"
    with pytest.raises(DatasetError, match=r"option pattern: .* takes more than 0\.2 seconds for the name 'xxx"):
        read_reid_folder("folder", tmp_path, pattern=pattern)


def test_pattern__too_long_is_refused(home: Path) -> None:
    with pytest.raises(DatasetError, match=r"is not a regular expression \(longer than 1,000 characters"):
        read_reid_folder("folder", home, pattern="(?P<person_id>" + "a?" * 600 + ")")


# -- files that are not what they should be ---------------------------------------------------------------------------


def test_folder_linked_into_itself_is_counted_once(home: Path) -> None:
    pattern = r".*/(?P<person_id>\d+)\."
    once = read_reid_folder("folder", home, pattern=pattern)
    (home / "again").symlink_to(home)
    (home / "b" / "above").symlink_to(home.parent)
    (home / "z").symlink_to(home / "a")
    folder = read_reid_folder("folder", home, pattern=pattern)
    assert len(folder.splits["train"]) == len(once.splits["train"]) == 4
    assert folder.set_aside == {"pictures that a linked folder shows again": 2}


def test_linked_folder_may_stand_for_another_split(tmp_path: Path) -> None:
    add_picture(tmp_path / "query" / "1.jpg")
    (tmp_path / "gallery").symlink_to(tmp_path / "query")
    folder = read_reid_folder("folder", tmp_path, pattern=r"(?P<split>query|gallery)/(?P<person_id>\d+)")
    assert {split: len(images) for split, images in folder.splits.items()} == {"query": 1, "gallery": 1}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 300 + ".jpg", "path holds a name of more than 255 bytes"),
        ("ü" * 130 + ".jpg", "path holds a name of more than 255 bytes"),
        ("/".join(["folder"] * 700) + ".jpg", "path has more than 4,095 bytes"),
        ("a/\0.jpg", "path is not a valid file name"),
        ("a/\ud800.jpg", "path is not a valid file name"),
    ],
)
@pytest.mark.parametrize("column", ["image", "person_mask"])
def test_one_impossible_path_does_not_stop_the_load(home: Path, name: str, reason: str, column: str) -> None:
    row = {"image": "a/2.png", "person_id": 1, column: name}
    folder = read_reid_folder("folder", _lines(home, {"image": "a/1.jpg", "person_id": 1}, row))
    (skipped,) = folder.skipped
    assert skipped.reason == (reason if column == "image" else f"mask: {reason}")
    assert "line 2" in skipped.path
    assert "1 ×" in summarize(folder, get_spec("folder"))


def test_table_that_is_a_pipe_a_device_or_too_large(home: Path) -> None:
    os.mkfifo(home / "pipe.csv")
    (home / "endless.csv").symlink_to("/dev/zero")
    (home / "large.csv").write_text("image,person_id\na/1.jpg,1\n")
    os.truncate(home / "large.csv", 2**40)  # takes no room on the disk
    for name, problem in (
        ("pipe", "not a regular file"),
        ("endless", "not a regular file"),
        ("large", "expected at most"),
    ):
        with pytest.raises(DatasetError, match=rf"{name}\.csv: {problem}"):
            read_reid_folder("folder", home, annotations=f"{name}.csv")


def test_folders_of_any_depth_are_looked_into(tmp_path: Path) -> None:
    add_picture(tmp_path / "shop" / "1.jpg")
    place = os.open(tmp_path / "shop", os.O_RDONLY)
    for _ in range(1_500):
        os.mkdir("deep", dir_fd=place)
        inner = os.open("deep", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)
    try:
        folder = read_reid_folder("folder", tmp_path / "shop", pattern=r"(?P<person_id>\d+)")
        diagnose(parse_data_argument(rf"folder={tmp_path / 'shop'}?pattern=(?P<person_id>\d+)"))
    finally:
        _remove_deep(tmp_path / "shop")
    assert len(folder.splits["train"]) == 1
    assert [skip.reason for skip in folder.skipped] == ["folder cannot be looked into"]


def _remove_deep(root: Path) -> None:
    """Take a chain of folders apart from its top: the path to its end is too long for `rmtree`."""
    while (root / "deep").is_dir():
        (root / "deep").rename(root / "gone")
        if (root / "gone" / "deep").is_dir():
            (root / "gone" / "deep").rename(root / "deep")
        (root / "gone").rmdir()
