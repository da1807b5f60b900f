"""Market-1501: splits, junk and distractors, names, layouts that are not it."""

from __future__ import annotations

from pathlib import Path

import pytest
from reid_trees import add_picture, make_market

from mmet.data import DatasetError, count_split, load_reid_dataset, read_reid_folder
from mmet.training.dataset import TrainingDataset


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_market(
        tmp_path / "Market-1501-v15.09.15",
        train=["0007_c3s3_077419_03.jpg", "0002_c1s1_000451_03.jpg", "0002_c2s1_000301_01.JPG"],
        query=["0001_c1s1_001051_00.jpg"],
        gallery=["-1_c1s1_000401_03.jpg", "-1_c2s1_000401_03.jpg", "0000_c6s3_000000_01.jpg", "0001_c2s1_00_00.png"],
    )


def _rows(root: Path, split: str) -> list[tuple[str, int, int]]:
    dataset = load_reid_dataset("market1501", root)[split]
    return [(row["image_path"], row["person_id"], row["camera_id"]) for row in dataset.remove_columns("image")]


def test_read__splits_ids_cameras_in_sorted_order(home: Path) -> None:
    assert list(load_reid_dataset("market1501", home)) == ["train", "query", "gallery"]
    assert _rows(home, "train") == [
        ("bounding_box_train/0002_c1s1_000451_03.jpg", 2, 1),
        ("bounding_box_train/0002_c2s1_000301_01.JPG", 2, 2),
        ("bounding_box_train/0007_c3s3_077419_03.jpg", 7, 3),
    ]
    assert _rows(home, "query") == [("query/0001_c1s1_001051_00.jpg", 1, 1)]


def test_read__junk_is_set_aside_and_distractors_stay(home: Path) -> None:
    assert _rows(home, "gallery") == [
        ("bounding_box_test/0000_c6s3_000000_01.jpg", 0, 6),
        ("bounding_box_test/0001_c2s1_00_00.png", 1, 2),
    ]
    folder = read_reid_folder("market1501", home)
    assert folder.set_aside == {"junk detections (person -1)": 2}
    assert folder.skipped == []


def test_read__parent_folder_gives_the_same_dataset(home: Path) -> None:
    direct, parent = load_reid_dataset("market1501", home), load_reid_dataset("market1501", home.parent)
    for split in direct:
        assert direct[split].remove_columns("image")[:] == parent[split].remove_columns("image")[:]


def test_read__ignores_shadow_and_foreign_files(home: Path) -> None:
    for name in ("._0002_c1s1_000451_03.jpg", ".DS_Store", "Thumbs.db", "readme.txt"):
        (home / "bounding_box_train" / name).write_bytes(b"\x00\x05\x16\x07")
    folder = read_reid_folder("market1501", home)
    assert len(folder.splits["train"]) == 3
    assert folder.skipped == []


@pytest.mark.parametrize("name", ["person.jpg", "0002-c1.jpg", "--1_c1.jpg", "12345678901_c1.jpg"])
def test_read__odd_names_are_skipped_by_name(home: Path, name: str) -> None:
    add_picture(home / "query" / name)
    (skipped,) = read_reid_folder("market1501", home).skipped
    assert skipped.path == f"query/{name}"
    assert "<person>_c<camera>" in skipped.reason


def test_read__missing_split_folder_is_named_with_the_expected_tree(home: Path) -> None:
    (home / "query").rename(home / "queries")
    with pytest.raises(DatasetError) as caught:
        load_reid_dataset("market1501", home)
    message = str(caught.value)
    assert "found no query/" in message
    assert "queries/" in message  # what is there
    assert "├── bounding_box_train/" in message  # what should be


def test_read__split_without_usable_picture_is_an_error(home: Path) -> None:
    (home / "query" / "0001_c1s1_001051_00.jpg").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"split query of Market-1501 has no usable picture(.|\n)*1 × empty file"):
        load_reid_dataset("market1501", home)


@pytest.mark.parametrize(
    ("name", "camera"),
    [("0002_c14_0001.jpg", 14), ("0002_c1s1_000451_03.jpg", 1), ("0002_c015s2_000451_03.jpg", 15), ("0002_c3.jpg", 3)],
)
def test_read__all_digits_of_the_camera(home: Path, name: str, camera: int) -> None:
    add_picture(home / "query" / name)
    folder = read_reid_folder("market1501", home)
    (number,) = [image.camera_id for image in folder.splits["query"] if image.image_path.name == name]
    assert number == camera


@pytest.mark.parametrize("name", ["0002_c1x_0001.jpg", "0002_c14 copy.jpg", "0002_c1s_1.jpg", "0002_c1s1x_1.jpg"])
def test_read__numbers_that_go_on_as_something_else_are_skipped(home: Path, name: str) -> None:
    add_picture(home / "query" / name)
    (skipped,) = read_reid_folder("market1501", home).skipped
    assert (skipped.path, "<person>_c<camera>" in skipped.reason) == (f"query/{name}", True)


def test_read__distractors_are_nobody_outside_of_the_gallery(home: Path) -> None:
    for split in ("bounding_box_train", "query"):
        add_picture(home / split / "0000_c1s1_000000_00.jpg")
    folder = read_reid_folder("market1501", home)
    assert folder.set_aside["distractors (person 0) among the queries"] == 1
    assert "split train: 1 distractors (person 0) count as unknown persons" in folder.notes
    people = {split: {image.person_id for image in images} for split, images in folder.splits.items()}
    assert people == {"train": {-1, 2, 7}, "query": {1}, "gallery": {0, 1}}
    assert count_split(folder.splits["train"]).persons == 2
    dataset = TrainingDataset(paired=[load_reid_dataset("market1501", home)["train"]])
    assert (dataset.num_identities, dataset.person_labels.tolist()) == (2, [-100, 0, 0, 1])
