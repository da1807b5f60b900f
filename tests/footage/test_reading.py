"""From videos to a folder of crops, on drawn films whose persons are known."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmet import footage
from mmet.data import load_reid_dataset
from mmet.data.synthetic.video import encode_film
from mmet.footage import Detections, FootageError, Frame
from mmet.footage.__main__ import main
from mmet.footage.hog import HogDetector
from mmet.footage.reading import name_cameras
from mmet.stopping import StopRequested
from tests.footage.conftest import overlap

Rows = Callable[[Path], list[dict]]
TRUTH = "{camera}/gt/gt.txt"


def videos(films: Path) -> list[Path]:
    return [films / "camera1.mp4", films / "camera2.mp4"]


def digest(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "FOOTAGE.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def crops(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("read") / "crops"
    footage.read(videos(films), folder, every=2)
    return folder


def true_person(row: dict, truth: dict[int, np.ndarray]) -> int:
    """The true track that a crop shows; -1 where it shows none."""
    left, top, width, height = row["box"]
    people = truth.get(row["frame"], np.zeros((0, 6)))
    iou = overlap(np.array([[left, top, left + width, top + height]]), people[:, 1:5])[0]
    return int(people[iou.argmax(), 0]) if len(iou) and iou.max() > 0.4 else -1


def test_read__crops_of_a_track_show_one_person_and_everybody_is_there(
    crops: Path, truth: Callable[[str], dict[int, np.ndarray]], read_rows: Rows
) -> None:
    rows = read_rows(crops)
    shown: dict[str, list[tuple[str, int]]] = {}
    for row in rows:
        shown.setdefault(row["track_id"], []).append((row["camera_id"], true_person(row, truth(row["camera_id"]))))
    majorities = [Counter(persons).most_common(1)[0] for persons in shown.values()]
    assert sum(count for _, count in majorities) / len(rows) > 0.85  # purity
    persons_seen = {person for person, _ in majorities}
    everybody = {(camera, int(track)) for camera in ("camera1", "camera2") for track in _long_tracks(truth(camera))}
    assert len(everybody & persons_seen) >= 0.8 * len(everybody)
    assert len(shown) <= 2 * len(everybody)


def _long_tracks(truth: dict[int, np.ndarray]) -> list[float]:
    """Tracks that are well seen for a second."""
    counts = Counter(person[0] for people in truth.values() for person in people if person[5] > 0.7)
    return [track for track, count in counts.items() if count >= 10]


def test_read__the_folder_is_a_dataset(crops: Path, read_rows: Rows) -> None:
    rows = read_rows(crops)
    splits = load_reid_dataset("folder", crops)
    assert splits["train"].num_rows == len(rows)
    assert set(splits["train"]["camera_name"]) == {"camera1", "camera2"}
    assert set(splits["train"]["person_name"]) == {row["track_id"] for row in rows}


def test_read__rows_say_where_and_when(crops: Path, films: Path, read_rows: Rows) -> None:
    for row in read_rows(crops):
        left, top, width, height = row["box"]
        with Image.open(crops / row["image"]) as image:
            assert image.size == pytest.approx((width, height), abs=2)
        assert row["frame"] % 2 == 0
        assert row["time"] == pytest.approx(row["frame"] / 10)
        assert row["track_start"] <= row["time"] <= row["track_end"]
        assert 0 <= left <= left + width <= 480
        assert 0 <= top <= top + height <= 270


def test_read__crops_are_few_and_apart(crops: Path, read_rows: Rows) -> None:
    frames: dict[str, list[int]] = {}
    for row in read_rows(crops):
        frames.setdefault(row["track_id"], []).append(row["frame"])
    assert all(1 <= len(part) <= 5 and len(set(part)) == len(part) for part in frames.values())


def test_read__true_tracks_are_taken_as_they_are(films: Path, tmp_path: Path, read_rows: Rows) -> None:
    reports = footage.read(
        {"north": videos(films)[0]},
        tmp_path / "crops",
        detector=str(films / "camera1" / "gt" / "gt.txt"),
        crops_per_track=2,
        start_time="2024-05-01T12:00:00+02:00",
    )
    truth = np.loadtxt(films / "camera1" / "gt" / "gt.txt", delimiter=",")
    rows = read_rows(tmp_path / "crops")
    assert {row["track_id"] for row in rows} == {f"north-{int(track):04d}" for track in np.unique(truth[:, 1])}
    assert reports[0].persons == len(np.unique(truth[:, 1]))
    assert (reports[0].frames, reports[0].looked_at) == (60, 60)
    for row in rows:
        boxes = truth[(truth[:, 0] == row["frame"] + 1) & (truth[:, 1] == int(row["track_id"][-4:])), 2:6]
        np.testing.assert_allclose(boxes[0] - (1, 1, 0, 0), row["box"])
        seconds, tenths = divmod(row["frame"], 10)
        assert row["time"] == f"2024-05-01T12:00:{seconds:02d}.{tenths}00+02:00"


class Stops(HogDetector):
    """Is stopped in its third batch."""

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        if frames[0].index >= 30:
            raise StopRequested
        return super().detect(frames)


def test_read__a_stopped_run_goes_on_and_ends_the_same(
    films: Path, tmp_path: Path, crops: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = tmp_path / "crops"
    with monkeypatch.context() as patch:
        patch.setattr("mmet.footage.detect.HogDetector", Stops)
        with pytest.raises(StopRequested):
            footage.read(videos(films), again, every=2)
    assert not (again / "annotations.jsonl").exists()
    detections = again / "_unfinished" / "camera1.detections.jsonl"
    assert len(detections.read_text().splitlines()) == 16
    with detections.open("a") as file:
        file.write("[32, [[1.0, 2")  # killed while writing
    looked_at: list[int] = []

    class Counts(HogDetector):
        def detect(self, frames: Sequence[Frame]) -> list[Detections]:
            looked_at.extend(frame.index for frame in frames)
            return super().detect(frames)

    monkeypatch.setattr("mmet.footage.detect.HogDetector", Counts)
    footage.read(videos(films), again, every=2)
    assert min(looked_at[:14]) == 32  # nothing is detected twice
    assert digest(again) == digest(crops)


def test_read__a_finished_folder_is_left_alone_and_other_settings_are_refused(films: Path, crops: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in crops.rglob("*")}
    reports = footage.read(videos(films), crops, every=2)
    assert [report.camera for report in reports] == ["camera1", "camera2"]
    with pytest.raises(FootageError, match=r"made with other settings \(every\)"):
        footage.read(videos(films), crops, every=3)
    assert before == {path: path.stat().st_mtime_ns for path in crops.rglob("*")}


def test_read__a_folder_of_something_else_is_refused(films: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FootageError, match="not empty, and no folder of crops"):
        footage.read(videos(films), tmp_path)


@pytest.fixture
def van(tmp_path: Path) -> tuple[Path, Path]:
    """A film and boxes of one that walks 60 pixels and one that stays where it is, but for a jitter of two pixels."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (96, 160, 3), dtype=np.uint8)
    encode_film(tmp_path / "van.mp4", iter([image] * 20), 5)
    lines = [f"{frame + 1},-1,{10 + 3 * frame},20,20,50,0.9\n" for frame in range(20)]
    lines += [f"{frame + 1},-1,{120 + 2 * (frame % 2)},20,20,50,0.9\n" for frame in range(20)]
    (tmp_path / "det.txt").write_text("".join(lines))
    return tmp_path / "van.mp4", tmp_path / "det.txt"


@pytest.mark.parametrize(("min_motion", "persons"), [(None, 2), (0.3, 1), (2.0, 0)])
def test_read__what_does_not_move_is_dropped(
    van: tuple[Path, Path], tmp_path: Path, min_motion: float | None, persons: int
) -> None:
    video, detections = van
    report = footage.read([video], tmp_path / "crops", detector=str(detections), min_motion=min_motion)[0]
    assert (report.persons, report.dropped) == (persons, 2 - persons)


def test_read__boxes_outside_the_picture_are_cut(van: tuple[Path, Path], tmp_path: Path, read_rows: Rows) -> None:
    (tmp_path / "det.txt").write_text(
        "".join(f"{frame},1,-9,-19,60,400,1\n" for frame in range(1, 9)) + "9,1,500,1,9,9\n"
    )
    footage.read([van[0]], tmp_path / "crops", detector=str(tmp_path / "det.txt"))
    rows = read_rows(tmp_path / "crops")
    assert rows
    assert all(row["box"] == [0, 0, 50, 96] for row in rows)


def test_read__what_a_damaged_video_shows_is_kept(
    van: tuple[Path, Path], tmp_path: Path, read_rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(1)
    encode_film(tmp_path / "whole.avi", (rng.integers(0, 255, (96, 160, 3), np.uint8) for _ in range(20)), 5)
    content = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: int(0.7 * len(content))])
    report = footage.read([tmp_path / "cut.avi"], tmp_path / "crops", detector=str(van[1]))[0]
    assert report.problem
    assert "cut.avi" in caplog.text
    assert "what was read is kept" in caplog.text
    assert read_rows(tmp_path / "crops")


def test_read__mistakes_are_told_before_the_work_begins(films: Path, tmp_path: Path) -> None:
    with pytest.raises(FootageError, match=r"none\.mp4: no such file"):
        footage.read([videos(films)[0], tmp_path / "none.mp4"], tmp_path / "crops")
    with pytest.raises(ValueError, match="start_time: expected a moment"):
        footage.read(videos(films), tmp_path / "crops", start_time="noon")
    with pytest.raises(ValueError, match="every: expected a whole number of at least 1, received 0"):
        footage.read(videos(films), tmp_path / "crops", every=0)
    assert not (tmp_path / "crops").exists()


def test_name_cameras__by_file_or_by_name() -> None:
    assert name_cameras(["a/north gate.mp4", "rtsp://host/live?x=1", "seq/"]) == {
        "north_gate": "a/north gate.mp4",
        "live": "rtsp://host/live?x=1",
        "seq": "seq/",
    }
    assert name_cameras({"yard": Path("b.mp4")}) == {"yard": "b.mp4"}
    with pytest.raises(FootageError, match=r"camera a: x/a\.mp4 and y/a\.mp4 would be one camera"):
        name_cameras(["x/a.mp4", "y/a.mp4"])
    for name in ("../up", "", "tracks", "a/b"):
        with pytest.raises(FootageError, match="camera: expected letters"):
            name_cameras({name: "a.mp4"})
    with pytest.raises(FootageError, match="at least one"):
        name_cameras([])


def test_main__says_what_was_found(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--camera", f"yard={films / 'camera1.mp4'}", "--output", str(tmp_path / "crops"), "--every", "3"]
    arguments += ["--detector", str(films / "camera1" / "gt" / "gt.txt"), "--min_boxes", "2"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "yard: 60 frames (20 looked at)" in printed
    assert "one of 3 frames was looked at" in printed
    report = json.loads((tmp_path / "crops" / "FOOTAGE.json").read_text())
    assert report["cameras"][0]["frames"] == 60
    assert main(arguments) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.mp4"], "none.mp4: no such file"),
        ([], "expected at least one file"),
        (["--camera", "yard"], "expected NAME=VIDEO, received 'yard'"),
        (["--camera", "a=x.mp4", "--camera", "a=y.mp4"], "named twice, for x.mp4 and y.mp4"),
    ],
)
def test_main__mistakes_are_one_line_and_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--output", str(tmp_path / "crops")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_main__an_unknown_detector_is_one_line(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(films / "camera1.mp4", tmp_path)
    assert main([str(tmp_path / "camera1.mp4"), "--output", str(tmp_path / "crops"), "--detector", "hgo"]) == 2
    assert "did you mean 'hog'" in capsys.readouterr().err
