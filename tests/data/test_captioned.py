"""ICFG-PEDES and RSTPReid: what differs from CUHK-PEDES, whose tests cover the reader that all three share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reid_trees import add_picture, pedes_entry

from mmet.data import DatasetError, get_spec, load_reid_dataset, read_reid_folder, summarize


def _make(home: Path, annotations: str, entries: list[dict[str, Any]], field: str = "file_path") -> Path:
    for entry in entries:
        add_picture(home / "imgs" / entry[field])
    home.mkdir(exist_ok=True)
    (home / annotations).write_text(json.dumps(entries), encoding="utf-8")
    return home


@pytest.mark.parametrize("annotations", ["ICFG-PEDES.json", "ICFG_PEDES.json"])
def test_icfg_pedes__split_is_what_the_annotation_says(tmp_path: Path, annotations: str) -> None:
    entries = [
        pedes_entry("test/0000/a.jpg", 0, "train", ["A man."]),
        pedes_entry("train/0001/b.jpg", 1, "test", ["A woman."]),
    ]
    home = _make(tmp_path / "ICFG-PEDES", annotations, entries)
    for root in (home, tmp_path):
        dataset = load_reid_dataset("icfg_pedes", root, on_skip="error")
        assert list(dataset) == ["train", "test"]
        assert dataset["train"]["image_path"][:] == ["imgs/test/0000/a.jpg"]
        assert dataset["test"]["captions"][:] == [["A woman."]]
        assert dataset["train"]["person_id"][:] == [0]


def test_icfg_pedes__has_no_validation_split(tmp_path: Path) -> None:
    home = _make(tmp_path, "ICFG-PEDES.json", [pedes_entry("train/a.jpg"), pedes_entry("train/b.jpg", split="val")])
    with pytest.raises(DatasetError, match="entry 2: field 'split' must be one of train, test, not 'val'"):
        load_reid_dataset("icfg_pedes", home)


def test_icfg_pedes__picture_that_is_annotated_twice_keeps_both_sentences(tmp_path: Path) -> None:
    entries = [pedes_entry("train/a.jpg", captions=["one"]), pedes_entry("train/a.jpg", captions=["two"])]
    folder = read_reid_folder("icfg_pedes", _make(tmp_path, "ICFG-PEDES.json", entries))
    assert [image.captions for image in folder.splits["train"]] == [("one", "two")]
    assert "published: 34,673 images of 3,102 persons and 34,674 captions" in summarize(folder, get_spec("icfg_pedes"))


def test_rstpreid__pictures_are_named_by_img_path(tmp_path: Path) -> None:
    entries = [
        {"id": number, "img_path": f"{number:04d}_c14_0031.jpg", "captions": ["One.", "Two."], "split": split}
        for number, split in enumerate(["train", "val", "test"])
    ]
    _make(tmp_path / "RSTPReid", "data_captions.json", entries, "img_path")
    dataset = load_reid_dataset("rstpreid", tmp_path, on_skip="error")
    assert {split: rows["person_id"][:] for split, rows in dataset.items()} == {
        "train": [0],
        "validation": [1],
        "test": [2],
    }
    assert dataset["test"]["captions"][:] == [["One.", "Two."]]
    (tmp_path / "RSTPReid" / "data_captions.json").write_text(json.dumps([pedes_entry("a.jpg")]))
    with pytest.raises(DatasetError, match=r"entry 1: has no field 'img_path'; it has: .*'file_path'"):
        load_reid_dataset("rstpreid", tmp_path)


def test_missing_picture_folder_is_named_and_the_rest_used_when_allowed(tmp_path: Path) -> None:
    home = _make(tmp_path, "ICFG-PEDES.json", [pedes_entry("train/a.jpg"), pedes_entry("test/b.jpg")])
    (home / "imgs" / "test").rename(home / "elsewhere")
    with pytest.raises(DatasetError, match=r"(?s)found no imgs/test/\..*allow_partial"):
        load_reid_dataset("icfg_pedes", home)
    assert len(load_reid_dataset("icfg_pedes", home, allow_partial=True)["train"]) == 1
