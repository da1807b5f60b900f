"""Folders of the synthetic world: published layouts, determinism, and never losing what is there."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mmet.data.schema import DatasetError
from mmet.data.synthetic import ATTRIBUTE_VALUES, LAYOUTS, PROVENANCE_FILE, write_world
from mmet.data.synthetic.__main__ import main
from mmet.data.synthetic.layouts import base
from mmet.data.synthetic.layouts.takes import query_indices
from mmet.whole_files import FolderDraft

SMALL = {"images_per_id": 6, "image_height": 100, "image_width": 52, "seed": 4}
COUNTS = {
    "finegpr": {"num_ids": 5},
    "market1501": {"num_train_ids": 3, "num_test_ids": 5},
    "cuhk_pedes": {"num_train_ids": 3, "num_test_ids": 5, "num_val_ids": 2},
}
MARKET_NAME = re.compile(r"(-1|\d{4})_c([1-6])s([1-6])_(\d{6})_(\d{2})\.jpg")
FINEGPR_NAME = re.compile(r"(\d{4})_c(\d{2})_w(\d{2})_l(\d{2})_p(\d{2})\.(jpg|png)")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small world of each layout."""
    base = tmp_path_factory.mktemp("worlds")
    for layout in COUNTS:
        assert write_world(layout, base / layout, **SMALL, **COUNTS[layout])
    return {layout: base / layout for layout in COUNTS}


def digest(root: Path) -> dict[str, str]:
    """Relative path -> hash of every file below `root`."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def market_people(folder: Path) -> dict[str, set[str]]:
    """Person id -> cameras."""
    people: dict[str, set[str]] = {}
    for path in folder.iterdir():
        match = MARKET_NAME.fullmatch(path.name)
        assert match, path.name
        people.setdefault(match[1], set()).add(match[2])
    return people


@pytest.mark.parametrize("layout", ["finegpr", "market1501", "cuhk_pedes"])
def test_write_world__gives_the_same_bytes_with_two_processes(
    layout: str, worlds: dict[str, Path], tmp_path: Path
) -> None:
    write_world(layout, tmp_path / "again", **SMALL, **COUNTS[layout], num_workers=2)
    assert digest(tmp_path / "again") == digest(worlds[layout])


def test_finegpr__images_masks_attributes_and_captions_agree(worlds: dict[str, Path]) -> None:
    root = worlds["finegpr"]
    images = sorted(root.glob("FineGPR/*/*.jpg"))
    assert len(images) == 5 * SMALL["images_per_id"]
    limits = (36, 7, 7, 9)
    for path in images:
        match = FINEGPR_NAME.fullmatch(path.name)
        assert match
        assert match[1] == path.parent.name
        assert all(1 <= int(code) <= most for code, most in zip(match.groups()[1:5], limits, strict=True))
        mask = Image.open(root / "FineGPR_masks" / path.parent.name / f"{path.stem}.png")
        assert mask.mode == "L"
        assert mask.size == Image.open(path).size == (52, 100)
        assert set(mask.tobytes()) == {0, 255}
    captions = json.loads((root / "FineGPR-C.json").read_text(encoding="utf-8"))
    assert sorted(entry["image"] for entry in captions) == [str(path.relative_to(root / "FineGPR")) for path in images]
    assert all(entry["captions"] and all(isinstance(text, str) for text in entry["captions"]) for entry in captions)
    with (root / "attributes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row.pop("id") for row in rows] == sorted({path.parent.name for path in images})
    assert all(list(row) == list(ATTRIBUTE_VALUES) for row in rows)
    assert all(value in ATTRIBUTE_VALUES[name] for row in rows for name, value in row.items())


def test_market1501__follows_the_published_protocol(worlds: dict[str, Path]) -> None:
    root = worlds["market1501"]
    train, test, query = (market_people(root / name) for name in ("bounding_box_train", "bounding_box_test", "query"))
    assert train.keys() == {"0001", "0002", "0003"}
    assert test.keys() == {"-1", "0000", *query}
    assert len(query) == 5
    assert not train.keys() & test.keys()
    assert all(test[name] - {camera} for name in query for camera in query[name]), "a query without a match elsewhere"
    per_camera = [path.name[:7] for path in (root / "query").iterdir()]
    assert len(per_camera) == len(set(per_camera)), "more than one query of a person in one camera"
    hand_drawn = {path.name for path in (root / "gt_bbox").iterdir()}
    assert len(hand_drawn) == 8 * SMALL["images_per_id"]


def test_query_indices__takes_the_first_of_every_camera_that_keeps_one() -> None:
    assert query_indices([3, 1, 3, 1, 2]) == {0, 1}
    assert query_indices([3, 1, 2]) == {0}


def test_cuhk_pedes__has_the_published_fields_and_disjoint_people(worlds: dict[str, Path]) -> None:
    root = worlds["cuhk_pedes"]
    records = json.loads((root / "reid_raw.json").read_text(encoding="utf-8"))
    assert len(records) == 10 * SMALL["images_per_id"]
    people = {
        split: {record["id"] for record in records if record["split"] == split} for split in ("train", "val", "test")
    }
    assert [len(people[split]) for split in ("train", "val", "test")] == [3, 2, 5]
    assert set.union(*people.values()) == set(range(1, 11))
    assert {path.name for path in (root / "imgs").iterdir()} == {
        "cam_a", "cam_b", "CUHK01", "CUHK03", "Market", "test_query", "train_query",
    }  # fmt: skip
    for record in records:
        assert record.keys() == {"split", "captions", "file_path", "processed_tokens", "id"}
        assert len(record["captions"]) == len(record["processed_tokens"]) == 2
        assert all(
            token in text.lower()
            for text, tokens in zip(record["captions"], record["processed_tokens"], strict=True)
            for token in tokens
        )
        with Image.open(root / "imgs" / record["file_path"]) as picture:
            assert picture.size == (52, 100)
            assert (picture.format == "BMP") == record["file_path"].startswith("cam_")
    viper = [record["file_path"] for record in records if record["file_path"].startswith("cam_")]
    assert viper  # named like the original's imgs/cam_a/000_45.bmp
    assert all(re.fullmatch(r"cam_[ab]/\d{3}_\d+\.bmp", name) for name in viper)
    assert len({record["file_path"] for record in records}) == len(records)


def test_market_and_pedes__hold_the_same_pictures_of_the_same_people(worlds: dict[str, Path]) -> None:
    def pixels(paths) -> set[bytes]:
        return {Image.open(path).tobytes() for path in paths}

    market = pixels((worlds["market1501"] / "gt_bbox").iterdir())
    records = json.loads((worlds["cuhk_pedes"] / "reid_raw.json").read_text(encoding="utf-8"))
    pedes = pixels(
        worlds["cuhk_pedes"] / "imgs" / record["file_path"] for record in records if record["split"] != "val"
    )
    assert market == pedes


def test_provenance__says_that_it_is_synthetic_and_how_it_was_made(worlds: dict[str, Path]) -> None:
    for layout, root in worlds.items():
        content = json.loads((root / PROVENANCE_FILE).read_text(encoding="utf-8"))
        assert content["synthetic"] is True
        assert LAYOUTS[layout].title in content["notice"]
        assert content["arguments"]["seed"] == SMALL["seed"]
        assert content["layout_version"] == LAYOUTS[layout].version


def test_write_world__leaves_the_same_complete_world_alone(worlds: dict[str, Path]) -> None:
    root = worlds["finegpr"]
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert not write_world("finegpr", root, **SMALL, **COUNTS["finegpr"], num_workers=2)
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_write_world__refuses_what_it_would_destroy(worlds: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="other arguments"):
        write_world("finegpr", worlds["finegpr"], num_ids=6, **SMALL)
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(DatasetError, match="not empty and not a synthetic world"):
        write_world("finegpr", tmp_path, num_ids=1, **SMALL)
    with pytest.raises(DatasetError, match="found a file"):
        write_world("finegpr", tmp_path / "thesis.txt", num_ids=1, **SMALL)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_write_world__notices_missing_files(tmp_path: Path) -> None:
    arguments = {"num_ids": 1, **SMALL}
    write_world("finegpr", tmp_path / "world", **arguments)
    next(tmp_path.glob("world/FineGPR/*/*.jpg")).unlink()
    with pytest.raises(DatasetError, match="expected 14 files of this synthetic world, found 13"):
        write_world("finegpr", tmp_path / "world", **arguments)


def test_write_world__notices_a_shortened_file(tmp_path: Path) -> None:
    arguments = {"num_ids": 1, **SMALL}
    write_world("finegpr", tmp_path / "world", **arguments)
    picture = next(tmp_path.glob("world/FineGPR/*/*.jpg"))
    picture.write_bytes(picture.read_bytes()[:-5])
    with pytest.raises(DatasetError, match=r"expected [0-9]+ bytes of this synthetic world, found [0-9]+; remove it"):
        write_world("finegpr", tmp_path / "world", **arguments)


def spoil(harm: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do `harm` to a picture that is written before the annotations are."""
    write_json = base.write_json

    def write_then_harm(folder: FolderDraft, name: str, content: object) -> None:
        write_json(folder, name, content)
        harm(min(path for path in folder.root.rglob("*.*") if path.suffix in {".jpg", ".png", ".bmp"}))

    monkeypatch.setattr("mmet.data.synthetic.world.write_json", write_then_harm)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (Path.unlink, "missing"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "changed"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "changed"),
    ],
)
def test_write_world__a_picture_lost_while_drawing_is_an_error(
    harm: Callable[[Path], None], reason: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(harm, monkeypatch)
    with pytest.raises(OSError, match=rf"1 of [0-9]+ files are not as they were written: .*\({reason}\)"):
        write_world(layout, tmp_path / "world", num_ids=2, images_per_id=2, image_height=60, image_width=30)
    assert not list(tmp_path.iterdir())


def test_command__says_which_picture_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(Path.unlink, monkeypatch)
    command = ["--layout", "finegpr", "--output", str(tmp_path / "world"), "--num_ids", "1", "--images_per_id", "1"]
    assert main([*command, "--num_workers", "2"]) == 2
    output, error = capsys.readouterr()
    assert "FineGPR/0001/0001_c" in error
    assert "written" not in output


def test_write_world__a_folder_lost_while_drawing_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(lambda picture: shutil.rmtree(picture.parents[2]), monkeypatch)
    with pytest.raises(OSError, match="files are not as they were written"):
        write_world("finegpr", tmp_path / "world", num_ids=1, **SMALL)
    assert not list(tmp_path.iterdir())


def test_write_world__clears_what_a_killed_drawing_left(tmp_path: Path) -> None:
    """Also where the killed process had the number of this one, as is usual in containers."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for pid in (gone.pid, os.getpid()):
        leftover = tmp_path / f".world.partial-{pid}"
        leftover.mkdir()
        (leftover / "half.jpg").write_bytes(b"half")
    assert write_world("finegpr", tmp_path / "world", num_ids=1, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["world"]
    assert not list(tmp_path.rglob("half.jpg"))


def test_write_world__workers_end_with_a_killed_drawing(tmp_path: Path) -> None:
    script = (
        "from mmet.data.synthetic import write_world\n"
        f"write_world('finegpr', {str(tmp_path / 'world')!r}, num_ids=500, images_per_id=8, num_workers=2)\n"
    )
    drawing = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    wait_until(lambda: any(tmp_path.glob(".world.partial-*/FineGPR/*/*.jpg")))
    os.kill(drawing.pid, signal.SIGKILL)
    drawing.wait()
    wait_until(lambda: not is_group_alive(drawing.pid))


def is_group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_write_world__leaves_nothing_behind_when_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmet.data.synthetic.world.write_json", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_world("market1501", tmp_path / "deep" / "world", num_ids=2, **SMALL)
    assert not list((tmp_path / "deep").iterdir())


@pytest.mark.parametrize(
    ("layout", "arguments", "message"),
    [
        ("mars", {}, "layout: expected one of"),
        ("finegpr", {"num_ids": 0}, "num_ids: expected at least 1, received 0"),
        ("finegpr", {"images_per_id": 0}, "images_per_id: expected at least 1"),
        ("finegpr", {"num_test_ids": 3}, "num_test_ids: FineGPR has no such split"),
        ("finegpr", {"num_ids": 10_000}, "number of people: expected at most 9000"),
        ("finegpr", {"images_per_id": 36 * 7 * 7 * 9 + 1}, "images_per_id: expected at most 15876"),
        ("market1501", {"images_per_id": 1}, "images_per_id: expected at least 2"),
        ("market1501", {"num_ids": 1}, "expected people for training and for testing"),
        ("market1501", {"num_train_ids": 0}, "num_train_ids: expected at least 1"),
        ("market1501", {"num_val_ids": 3}, "num_val_ids: Market-1501 has no such split"),
        ("market1501", {"test_fraction": 1.0}, "test_fraction: expected between 0 and 1"),
        ("cuhk_pedes", {"style": "noir"}, "style: expected one of source, target.* received 'noir'"),
        ("cuhk_pedes", {"num_workers": 0}, "num_workers: expected a whole number of at least 1"),
        ("cuhk_pedes", {"num_workers": 1025}, "num_workers: .*at most 1024, received 1025"),
        ("cuhk_pedes", {"num_ids": 3.5}, "num_ids: expected a whole number.*received 3.5"),
        ("cuhk_pedes", {"seed": 2**32}, "seed: .*at most 4294967295"),
        ("cuhk_pedes", {"occlusion_rate": float("nan")}, "occlusion_rate: expected a number"),
        ("cuhk_pedes", {"seed": -1}, "seed: expected a whole number of at least 0"),
    ],
)
def test_write_world__names_the_bad_argument(layout: str, arguments: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_world(layout, tmp_path / "world", **arguments)
    assert not list(tmp_path.iterdir())


def test_market1501__keeps_to_six_cameras_in_any_style(tmp_path: Path) -> None:
    write_world("market1501", tmp_path / "world", style="source", num_ids=2, **SMALL)
    assert set.union(*market_people(tmp_path / "world" / "gt_bbox").values()) <= set("123456")


def test_command__writes_then_recognises_and_reports_errors_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--layout", "finegpr", "--output", str(tmp_path / "world"), "--num_ids", "1", "--images_per_id", "1"]
    main(command)
    main(command)
    assert [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()] == ["written", "already written"]
    for bad in (
        ["--num_ids", "0"],
        ["--image_height", "1"],
        ["--output", str(tmp_path / "world" / "attributes.csv" / "below")],
    ):
        assert main([*command, *bad]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
