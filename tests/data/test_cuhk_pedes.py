"""CUHK-PEDES: splits and captions, repeated entries, paths that lead elsewhere, annotations of the wrong kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reid_trees import add_picture, make_cuhk_pedes, pedes_entry

from mmet.data import NO_CAMERA, DatasetError, load_reid_dataset, read_reid_folder, summarize
from mmet.data.cuhk_pedes import CUHK_PEDES


def test_read__splits_persons_captions(tmp_path: Path) -> None:
    entries = [
        pedes_entry("Market/c.jpg", 3, "test", ["A red coat."]),
        pedes_entry("CUHK01/a.png", 1, "train", ["  A man.\n", "He walks."]),
        pedes_entry("cam_a/b.jpg", 2, "val", ["A woman."]),
    ]
    home = make_cuhk_pedes(tmp_path / "CUHK-PEDES", entries, ["Market/c.jpg", "CUHK01/a.png", "cam_a/b.jpg"])
    for root in (home, tmp_path):
        dataset = load_reid_dataset("cuhk_pedes", root, on_skip="error")
        assert list(dataset) == ["train", "validation", "test"]
        row = dataset["train"][0]
        assert row["image"].size == (24, 48)
        del row["image"]
        assert row == {
            "person_id": 1,
            "camera_id": NO_CAMERA,
            "captions": ["A man.", "He walks."],
            "person_mask": None,
            "image_path": "imgs/CUHK01/a.png",
            "domain": "cuhk_pedes",
        }
        assert [dataset[split]["person_id"][:] for split in ("validation", "test")] == [[2], [3]]


def test_read__repeated_entries_are_merged_and_contradictions_skipped(tmp_path: Path) -> None:
    entries = [
        pedes_entry("a.jpg", 1, captions=["one", "one"]),
        pedes_entry("./a.jpg", 1, captions=["one", "two"]),
        pedes_entry("a.jpg", 2, captions=["other person"]),
        pedes_entry("a.jpg", 1, split="test", captions=["other split"]),
        pedes_entry("b.jpg", 2, split="test"),
    ]
    folder = read_reid_folder("cuhk_pedes", make_cuhk_pedes(tmp_path, entries, ["a.jpg", "b.jpg"]))
    assert [image.captions for image in folder.splits["train"]] == [("one", "one", "two")]
    assert [skip.path for skip in folder.skipped] == ["a.jpg (entry 3)", "a.jpg (entry 4)"]


def test_read__empty_captions_are_counted_and_the_picture_kept(tmp_path: Path) -> None:
    entries = [pedes_entry("a.jpg", captions=[" ", ""]), pedes_entry("b.jpg"), pedes_entry("c.jpg", captions=[])]
    folder = read_reid_folder("cuhk_pedes", make_cuhk_pedes(tmp_path, entries, ["a.jpg", "b.jpg", "c.jpg"]))
    assert [len(image.captions) for image in folder.splits["train"]] == [0, 1, 0]
    report = summarize(folder, CUHK_PEDES)
    assert "2 × empty caption (a.jpg (entry 1), a.jpg (entry 1))" in report
    assert "kept without a caption: 2 pictures (imgs/a.jpg, imgs/c.jpg)" in report


@pytest.mark.parametrize(
    ("file_path", "reason"),
    [
        ("../secret.jpg", "path leaves the dataset folder"),
        ("CUHK01/../../../secret.jpg", "path leaves the dataset folder"),
        ("..\\secret.jpg", "path leaves the dataset folder"),
        ("{outside}/secret.jpg", "absolute path"),
        ("C:\\secret.jpg", "absolute path"),
        ("", "empty path"),
        ("a\0b.jpg", "path is not a valid file name"),
        ("\ud800.jpg", "path is not a valid file name"),
        ("link.jpg", "link leads out of the dataset folder"),
        ("linked/secret.jpg", "link leads out of the dataset folder"),
    ],
)
def test_read__paths_never_leave_the_root(tmp_path: Path, file_path: str, reason: str) -> None:
    secret = add_picture(tmp_path / "outside" / "secret.jpg")
    add_picture(tmp_path / "secret.jpg")
    file_path = file_path.replace("{outside}", str(secret.parent))
    home = make_cuhk_pedes(tmp_path / "data", [pedes_entry(file_path), pedes_entry("a.jpg")], ["a.jpg"])
    (home / "imgs" / "link.jpg").symlink_to(secret)
    (home / "imgs" / "linked").symlink_to(secret.parent)
    folder = read_reid_folder("cuhk_pedes", home)
    assert [image.image_path.name for image in folder.splits["train"]] == ["a.jpg"]
    assert [skip.reason for skip in folder.skipped] == [reason]


def test_read__picture_folder_and_root_may_be_links(tmp_path: Path) -> None:
    home = make_cuhk_pedes(tmp_path / "data", [pedes_entry("x/a.jpg"), pedes_entry("x/b.jpg")], ["x/a.jpg"])
    (home / "imgs" / "x" / "b.jpg").symlink_to("a.jpg")  # within the folder
    (home / "imgs").rename(tmp_path / "big_disk")
    (home / "imgs").symlink_to(tmp_path / "big_disk")
    (tmp_path / "shortcut").symlink_to(home)
    folder = read_reid_folder("cuhk_pedes", tmp_path / "shortcut")
    assert len(folder.splits["train"]) == 2
    assert folder.skipped == []


def test_read__missing_pictures_are_named_with_their_folder(tmp_path: Path) -> None:
    entries = [pedes_entry(name) for name in ("a.jpg", "b.jpg", "train_query/p1.jpg", "train_query/p2.jpg")]
    folder = read_reid_folder("cuhk_pedes", make_cuhk_pedes(tmp_path, entries, ["a.jpg"]), allow_partial=True)
    assert {(skip.path, skip.reason) for skip in folder.skipped} == {
        ("imgs/b.jpg", "missing"),
        ("imgs/train_query/p1.jpg", "missing, its whole folder train_query/ is not there"),
        ("imgs/train_query/p2.jpg", "missing, its whole folder train_query/ is not there"),
    }


def test_read__split_whose_entries_were_all_refused_is_an_error(tmp_path: Path) -> None:
    home = make_cuhk_pedes(tmp_path, [pedes_entry("a.jpg"), pedes_entry("../b.jpg", split="test")], ["a.jpg"])
    with pytest.raises(DatasetError, match="split test of CUHK-PEDES has no usable picture"):
        read_reid_folder("cuhk_pedes", home)


def test_read__old_annotation_file_is_recognised(tmp_path: Path) -> None:
    home = make_cuhk_pedes(tmp_path, [], ["a.jpg"])
    (home / "reid_raw.json").rename(home / "caption_all.json")
    with pytest.raises(DatasetError, match=r"(?s)found no reid_raw\.json\..*caption_all\.json is there, but.*authors"):
        read_reid_folder("cuhk_pedes", home)


def test_read__missing_picture_folder(tmp_path: Path) -> None:
    (tmp_path / "reid_raw.json").write_text("[]")
    with pytest.raises(DatasetError, match=r"found no imgs/\.\nIt holds: reid_raw\.json\."):
        read_reid_folder("cuhk_pedes", tmp_path)


def _without(field: str) -> dict[str, Any]:
    return {name: value for name, value in pedes_entry("a.jpg").items() if name != field}


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (_without("file_path") | {"img_path": "a.jpg"}, "has no field 'file_path'; it has: .*'img_path'"),
        (_without("split"), "has no field 'split'"),
        (pedes_entry("a.jpg") | {"id": "7"}, "field 'id' must be a whole number, not '7'"),
        (pedes_entry("a.jpg") | {"id": True}, "field 'id' must be a whole number, not True"),
        (pedes_entry("a.jpg") | {"id": 2**63}, "field 'id' must fit into 64 bits"),
        (pedes_entry("a.jpg") | {"captions": "A man."}, "field 'captions' must be a list, not 'A man.'"),
        (pedes_entry("a.jpg") | {"captions": ["A man.", None]}, "item 2 of field 'captions' must be text, not None"),
        (pedes_entry("a.jpg", split="dev"), "field 'split' must be one of train, val, test, not 'dev'"),
        ("a.jpg", "must be an object, not 'a.jpg'"),
    ],
)
def test_read__ill_typed_field_names_file_entry_and_field(tmp_path: Path, entry: Any, problem: str) -> None:
    home = make_cuhk_pedes(tmp_path, [pedes_entry("a.jpg"), entry], ["a.jpg"])
    with pytest.raises(DatasetError, match=rf"reid_raw\.json: entry 2: {problem}"):
        read_reid_folder("cuhk_pedes", home)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (json.dumps([pedes_entry("a.jpg")], indent=1)[:-3], r"line \d+, column \d+: not valid JSON"),
        ("", "line 1, column 1: not valid JSON"),
        ('{"annotations": []}', "must be a list of objects, not "),
        ('[{"id": ' + "9" * 5000 + "}]", "Exceeds the limit"),
    ],
)
def test_read__annotation_file_that_is_no_list(tmp_path: Path, content: str, problem: str) -> None:
    home = make_cuhk_pedes(tmp_path, [], ["a.jpg"])
    (home / "reid_raw.json").write_text(content)
    with pytest.raises(DatasetError, match=rf"reid_raw\.json: {problem}"):
        read_reid_folder("cuhk_pedes", home)


def test_read__pictures_that_no_entry_names_are_told(tmp_path: Path) -> None:
    home = make_cuhk_pedes(tmp_path, [pedes_entry("a.jpg")], ["a.jpg", "CUHK01/b.jpg"])
    folder = read_reid_folder("cuhk_pedes", home)
    assert folder.unlisted == ["imgs/CUHK01/b.jpg"]
    assert "no table or list names them: 1 pictures (imgs/CUHK01/b.jpg)" in summarize(folder, CUHK_PEDES)


def test_read__no_entries_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"reid_raw\.json: the list has no entries"):
        read_reid_folder("cuhk_pedes", make_cuhk_pedes(tmp_path, [], ["a.jpg"]))
