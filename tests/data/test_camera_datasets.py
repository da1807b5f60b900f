"""Datasets with cameras and file names or lists that say who is shown: DukeMTMC-reID, CUHK03, MSMT17, RandPerson."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from reid_trees import add_picture, make_market, make_msmt17

from mmet.data import DatasetError, ReidFolder, get_spec, load_reid_dataset, read_reid_folder, summarize

DUKE = "0005_c2_f0046985.jpg"


def _rows(folder: ReidFolder, split: str) -> list[tuple[str, int, int]]:
    images = folder.splits[split]
    return [(folder.name_of(image.image_path), image.person_id, image.camera_id) for image in images]


# -- DukeMTMC-reID --------------------------------------------------------------------------------------------------


@pytest.fixture
def duke(tmp_path: Path) -> Path:
    gallery = ["0005_c1_f0046985.jpg", "7140_c8_f0000001.jpg"]
    return make_market(tmp_path / "DukeMTMC-reID", train=["0001_c2_f0046182.jpg"], query=[DUKE], gallery=gallery)


def test_dukemtmc__splits_and_withdrawal(duke: Path) -> None:
    folder = read_reid_folder("dukemtmc", duke.parent)
    assert _rows(folder, "train") == [("bounding_box_train/0001_c2_f0046182.jpg", 1, 2)]
    assert _rows(folder, "query") == [(f"query/{DUKE}", 5, 2)]
    assert [person for _, person, _ in _rows(folder, "gallery")] == [5, 7140]
    assert "withdrawn by its authors" in summarize(folder, get_spec("dukemtmc"))


@pytest.mark.parametrize(
    "name", ["-1_c1_f0046985.jpg", "0005_c2_0046985.jpg", "05_c2_f0046985.jpg", "0005_c2_f004.jpg"]
)
def test_dukemtmc__names_that_almost_match_are_skips(duke: Path, name: str) -> None:
    add_picture(duke / "query" / name)
    (skipped,) = read_reid_folder("dukemtmc", duke).skipped
    assert (skipped.path, skipped.reason) == (
        f"query/{name}",
        "name is not like 0005_c2_f0046985.jpg (<person>_c<camera>_f<frame>)",
    )


def test_partial_copy_is_used_when_allowed(duke: Path) -> None:
    for name in ("bounding_box_train", "query"):
        (duke / name).rename(duke / f"{name}_elsewhere")
    with pytest.raises(DatasetError, match=r"(?s)found no bounding_box_train/ and no query/\..*allow_partial=True"):
        load_reid_dataset("dukemtmc", duke)
    folder = read_reid_folder("dukemtmc", duke, allow_partial=True)
    assert list(folder.splits) == ["gallery"]
    report = summarize(folder, get_spec("dukemtmc"))
    assert "incomplete: no bounding_box_train/" in report
    assert "split query has no usable picture and is left out" in report
    assert list(load_reid_dataset("dukemtmc", duke, allow_partial=True)) == ["gallery"]


def test_partial_copy_of_nothing_is_an_error(duke: Path) -> None:
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        for path in (duke / folder).iterdir():
            path.write_bytes(b"")
    with pytest.raises(DatasetError, match="no usable picture"):
        load_reid_dataset("dukemtmc", duke, allow_partial=True)


# -- CUHK03 ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def cuhk03(tmp_path: Path) -> Path:
    home = tmp_path / "cuhk03-np"
    for boxes, frame in (("detected", 1), ("labeled", 2)):
        train, query, gallery = f"0001_c1_{frame}.png", f"0002_c1_{frame}.png", f"0002_c2_{frame + 5}.png"
        make_market(home / boxes, train=[train], query=[query], gallery=[gallery])
    return home


def test_cuhk03__detected_unless_told_otherwise(cuhk03: Path) -> None:
    for root in (cuhk03, cuhk03.parent, cuhk03 / "detected"):
        folder = read_reid_folder("cuhk03", root)
        assert folder.root == cuhk03 / "detected"
        assert _rows(folder, "gallery") == [("bounding_box_test/0002_c2_6.png", 2, 2)]
        assert "published: 7,365 images of 767 persons" in summarize(folder, get_spec("cuhk03"))


def test_cuhk03__labeled_by_option_or_folder(cuhk03: Path) -> None:
    for folder in (
        read_reid_folder("cuhk03", cuhk03, boxes="labeled"),
        read_reid_folder("cuhk03", cuhk03 / "labeled"),
        read_reid_folder("cuhk03", cuhk03 / "labeled", boxes="labeled"),
    ):
        assert _rows(folder, "train") == [("bounding_box_train/0001_c1_2.png", 1, 1)]
        assert "published: 7,368 images of 767 persons" in summarize(folder, get_spec("cuhk03"))
    with pytest.raises(DatasetError, match="holds the detected boxes; for boxes=labeled name the folder labeled"):
        read_reid_folder("cuhk03", cuhk03 / "detected", boxes="labeled")


def test_cuhk03__mat_file_is_answered_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "cuhk03_release").mkdir()
    (tmp_path / "cuhk03_release" / "cuhk-03.mat").write_bytes(b"\x89HDF")
    with pytest.raises(DatasetError, match=r"extract_cuhk03 --mat .*cuhk03_release/cuhk-03\.mat --output"):
        read_reid_folder("cuhk03", tmp_path)


def _write_mat(path: Path) -> np.ndarray:
    """A file in the structure of the original: pair 1 with two persons, pair 2 with one; two splits. Returns the first
    labeled picture, height 6 and width 4."""
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (6, 4, 3), dtype=np.uint8)
    with h5py.File(path, "w") as file:
        cells = file.create_group("#refs#")

        def cell(array: np.ndarray) -> object:
            return cells.create_dataset(str(len(cells)), data=array).ref

        def references(rows: list[list[object]]) -> np.ndarray:
            return np.array(rows, dtype=object).astype(h5py.ref_dtype)

        empty = cell(np.zeros(2, dtype=np.uint64))  # as MATLAB writes []

        def pair(pictures: list[list[np.ndarray | None]]) -> object:
            """One camera pair from pictures by person; MATLAB's arrays are stored transposed."""
            refs = [[empty if pixels is None else cell(pixels.T) for pixels in person] for person in pictures]
            return cells.create_dataset(f"pair{len(cells)}", data=references(refs).T, dtype=h5py.ref_dtype).ref

        def person(pixels: np.ndarray) -> list[np.ndarray | None]:
            return [pixels, None, None, None, None, pixels, pixels, None, None, None]

        for boxes in ("labeled", "detected"):
            people = [person(first), person(first // 2), person(first // 3)]
            row = references([[pair(people[:2]), pair(people[2:])]])
            file.create_dataset(boxes, data=row, dtype=h5py.ref_dtype)
        splits = [[[1, 2]], [[2, 1], [1, 1]]]
        refs = [cell(np.array(split, dtype=np.float64).T) for split in splits]
        file.create_dataset("testsets", data=references([refs]), dtype=h5py.ref_dtype)
    return first


def test_cuhk03__classic_splits_from_the_mat_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    from mmet.data.extract_cuhk03 import main

    first = _write_mat(tmp_path / "cuhk-03.mat")
    home = tmp_path / "classic"
    assert main(["--mat", str(tmp_path / "cuhk-03.mat"), "--output", str(home)]) == 0
    assert "18 pictures" in capsys.readouterr().out
    with Image.open(home / "labeled" / "1_001_1_01.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), first)
    assert json.loads((home / "splits.json").read_text()) == [[1002], [2001, 1001]]
    folder = read_reid_folder("cuhk03", home, boxes="labeled")
    assert _rows(folder, "train")[:3] == [
        ("labeled/1_001_1_01.png", 1001, 1),
        ("labeled/1_001_2_06.png", 1001, 2),
        ("labeled/1_001_2_07.png", 1001, 2),
    ]
    assert {person for _, person, _ in _rows(folder, "query")} == {1002}
    assert _rows(folder, "query") == _rows(folder, "gallery")
    second = read_reid_folder("cuhk03", home, split=2)
    assert {person for _, person, _ in _rows(second, "gallery")} == {2001, 1001}
    with pytest.raises(DatasetError, match=r"splits\.json: has the splits 1 to 2, no split 3"):
        read_reid_folder("cuhk03", home, split=3)
    assert main(["--mat", str(tmp_path / "cuhk-03.mat"), "--output", str(home)]) == 2
    assert "exists; name a folder to be created" in capsys.readouterr().err


@pytest.mark.parametrize(("content", "message"), [(b"no HDF5", "not a readable HDF5 file"), (None, "has no detected")])
def test_extract_cuhk03__wrong_file(
    tmp_path: Path, content: bytes | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    h5py = pytest.importorskip("h5py")
    from mmet.data.extract_cuhk03 import main

    mat = tmp_path / "cuhk-03.mat"
    if content is None:
        h5py.File(mat, "w").close()
    else:
        mat.write_bytes(content)
    assert main(["--mat", str(mat), "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_cuhk03__folder_of_another_dataset_is_refused(tmp_path: Path) -> None:
    """Market-1501's names begin as those of CUHK03 do."""
    names = ["0002_c1s1_000451_03.jpg"]
    home = make_market(tmp_path / "market", train=names, query=names, gallery=names)
    for options in ({"boxes": "labeled"}, {}):
        with pytest.raises(DatasetError, match=r"does not hold CUHK03-NP: found no picture named like 0001_c1_1\.png"):
            read_reid_folder("cuhk03", home, **options)


@pytest.mark.parametrize(
    "name", ["0002_c14.png", "0002_c14_1.png", "0002_c3_1.png", "0002_c1x_1.png", "0002_c1s1_1.png", "0002_c1_1x.png"]
)
def test_cuhk03__names_that_almost_match_are_skips(cuhk03: Path, name: str) -> None:
    add_picture(cuhk03 / "detected" / "query" / name)
    (skipped,) = read_reid_folder("cuhk03", cuhk03).skipped
    assert skipped.path == f"query/{name}"


# -- MSMT17 ---------------------------------------------------------------------------------------------------------

MSMT_NAME = "{person:04d}/{person:04d}_{number:03d}_{camera:02d}_0303morning_0008_0.jpg"


def _msmt(person: int, number: int, camera: int) -> tuple[str, int]:
    return MSMT_NAME.format(person=person, number=number, camera=camera), person


def _make_msmt17(home: Path, version: str = "V1") -> Path:
    lists = {
        "train": [_msmt(0, 0, 1), _msmt(1, 0, 15)],
        "val": [_msmt(0, 1, 2)],
        "query": [_msmt(0, 0, 3)],
        "gallery": [_msmt(0, 1, 4), _msmt(3059, 0, 5)],
    }
    return make_msmt17(home, lists, version)


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_msmt17__both_versions_with_persons_of_their_own(tmp_path: Path, version: str) -> None:
    home = _make_msmt17(tmp_path / f"MSMT17_{version}", version)
    for root in (home, tmp_path):
        folder = read_reid_folder("msmt17", root)
        train = {"V1": "train", "V2": "mask_train_v2"}[version]
        assert _rows(folder, "train") == [
            (f"{train}/0000/0000_000_01_0303morning_0008_0.jpg", 0, 1),
            (f"{train}/0001/0001_000_15_0303morning_0008_0.jpg", 1, 15),
            (f"{train}/0000/0000_001_02_0303morning_0008_0.jpg", 0, 2),
        ]
        assert [row[1:] for row in _rows(folder, "query")] == [(1041, 3)]
        assert [row[1:] for row in _rows(folder, "gallery")] == [(1041, 4), (4100, 5)]
        assert f"MSMT17 {version}" in summarize(folder, get_spec("msmt17"))


def test_msmt17__train_alone(tmp_path: Path) -> None:
    folder = read_reid_folder("msmt17", _make_msmt17(tmp_path), train="train")
    assert len(folder.splits["train"]) == 2
    assert folder.set_aside == {"pictures of list_val.txt (train=train)": 1}
    assert "published: 30,248 images" in summarize(folder, get_spec("msmt17"))


def test_msmt17__both_versions_in_one_folder(tmp_path: Path) -> None:
    (_make_msmt17(tmp_path) / "mask_test_v2").mkdir()
    with pytest.raises(DatasetError, match="V1 and V2 of MSMT17 at once"):
        read_reid_folder("msmt17", tmp_path)


@pytest.mark.parametrize(
    ("line", "problem"),
    [("0000/0000_000_01_x.jpg", "must be"), ("0000/0000_000_01_x.jpg seven", "must be"), ("a.jpg -1", "must be")],
)
def test_msmt17__malformed_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    home = _make_msmt17(tmp_path)
    with (home / "list_query.txt").open("a") as file:
        file.write(f"{line}\r\n")
    with pytest.raises(DatasetError, match=rf"list_query\.txt: line 2: {problem}"):
        read_reid_folder("msmt17", home)


def test_msmt17__odd_entries_are_skips(tmp_path: Path) -> None:
    home = _make_msmt17(tmp_path)
    names = ["../secret.jpg", _msmt(0, 0, 3)[0], "0000/odd.jpg", _msmt(0, 9, 3)[0]]
    with (home / "list_query.txt").open("a") as file:
        file.writelines(f"{name} 0\n" for name in names)
    assert [(skip.path, skip.reason) for skip in read_reid_folder("msmt17", home).skipped] == [
        ("../secret.jpg (list_query.txt, line 2)", "path leaves the dataset folder"),
        (f"test/{names[1]}", "listed twice"),
        ("test/0000/odd.jpg", "name is not like 0000_000_01_0303morning_0008_0.jpg"),
        (f"test/{names[3]}", "missing"),
    ]


def test_msmt17__pictures_that_no_list_names_are_told(tmp_path: Path) -> None:
    home = _make_msmt17(tmp_path)
    add_picture(home / "train" / "0009" / "0009_000_01_0303morning_0008_0.jpg")
    name = "train/0009/0009_000_01_0303morning_0008_0.jpg"
    assert read_reid_folder("msmt17", home).unlisted == [name]
    assert read_reid_folder("msmt17", home, train="train").unlisted == [name]  # list_val.txt names the others


def test_msmt17__missing_lists_and_folders_are_named(tmp_path: Path) -> None:
    home = _make_msmt17(tmp_path)
    (home / "list_val.txt").unlink()
    (home / "test").rename(home / "tests")
    with pytest.raises(DatasetError, match=r"found no list_val\.txt and no test/\."):
        read_reid_folder("msmt17", home)
    assert list(read_reid_folder("msmt17", home, allow_partial=True).splits) == ["train"]


# -- RandPerson -----------------------------------------------------------------------------------------------------


def test_randperson__nineteen_cameras_over_all_scenes(tmp_path: Path) -> None:
    cameras = {0: 2, 1: 2, 2: 2, 3: 2, 4: 1, 5: 1, 6: 2, 7: 1, 8: 1, 9: 1, 10: 4}
    every = [(scene, camera) for scene, count in cameras.items() for camera in range(count)]
    for scene, camera in every:
        add_picture(tmp_path / "randperson_subset" / f"000007_s{scene:02d}_c{camera:02d}_f000264.jpg")
    for root in (tmp_path, tmp_path / "randperson_subset"):
        folder = read_reid_folder("randperson", root)
        assert [row[1:] for row in _rows(folder, "train")] == [(7, camera) for camera in range(19)]
        assert folder.skipped == []
    assert len(every) == 19


def test_randperson__either_order_of_camera_and_scene(tmp_path: Path) -> None:
    add_picture(tmp_path / "000001_s10_c03_f000264.jpg")
    add_picture(tmp_path / "000002_c03_s10_f000264.png")
    folder = read_reid_folder("randperson", tmp_path)
    assert [row[1:] for row in _rows(folder, "train")] == [(1, 18), (2, 18)]


def test_randperson__full_set_below_its_scenes(tmp_path: Path) -> None:
    name = "000001_s01_c00_f000264.jpg"
    add_picture(tmp_path / "images" / "scene01" / "camera0_1" / name)
    for root in (tmp_path, tmp_path / "images"):
        folder = read_reid_folder("randperson", root)
        assert [row[1:] for row in _rows(folder, "train")] == [(1, 2)]
        assert "published: 1,801,816 images of 8,000 persons" in summarize(folder, get_spec("randperson"))


def test_randperson__linked_folders_are_counted_once(tmp_path: Path) -> None:
    add_picture(tmp_path / "images" / "scene01" / "camera0_1" / "000001_s01_c00_f000264.jpg")
    (tmp_path / "images" / "scene02").symlink_to(tmp_path / "images" / "scene01")
    (tmp_path / "images" / "scene01" / "round").symlink_to(tmp_path / "images")
    assert len(read_reid_folder("randperson", tmp_path).splits["train"]) == 1


def test_randperson__cameras_that_do_not_exist_are_skips(tmp_path: Path) -> None:
    names = ["000001_s11_c00_f0.jpg", "000001_s04_c01_f0.jpg", "000001_s04_c00.jpg", "000001_s04_c00_f0.jpg"]
    for name in names:
        add_picture(tmp_path / "randperson_subset" / name)
    folder = read_reid_folder("randperson", tmp_path)
    assert {(skip.path, skip.reason) for skip in folder.skipped} == {
        (f"randperson_subset/{names[0]}", "RandPerson has no such scene or camera"),
        (f"randperson_subset/{names[1]}", "RandPerson has no such scene or camera"),
        (f"randperson_subset/{names[2]}", "name is not like 000000_s00_c00_f000264.jpg"),
    }
    assert len(folder.splits["train"]) == 1
