"""Films of the synthetic world: what the pictures show is what the true boxes and tracks say."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from mmet.data.schema import DatasetError
from mmet.data.synthetic import TARGET
from mmet.data.synthetic.video import FilmRequest, film, main, write_films
from mmet.data.synthetic.walks import plan_walks

av = pytest.importorskip("av")

SMALL = {
    "num_people": 3,
    "num_cameras": 2,
    "seconds": 4.0,
    "fps": 5,
    "image_height": 136,
    "image_width": 240,
    "seed": 3,
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films") / "films"
    assert write_films(folder, **SMALL)
    return folder


def read_truth(path: Path) -> list[dict[str, float]]:
    names = ("frame", "track", "left", "top", "width", "height", "flag", "kind", "visibility")
    with path.open(newline="") as file:
        return [dict(zip(names, map(float, row), strict=True)) for row in csv.reader(file)]


def test_write_films__holds_as_many_frames_as_asked_for(films: Path) -> None:
    for camera in ("camera1", "camera2"):
        with av.open(str(films / f"{camera}.mp4")) as container:
            frames = list(container.decode(video=0))
        assert len(frames) == 20
        assert (frames[0].height, frames[0].width) == (136, 240)
        assert frames[-1].time == pytest.approx(19 / 5)


def test_write_films__says_which_tracks_are_whose(films: Path) -> None:
    persons = json.loads((films / "persons.json").read_text())
    assert [person["person_id"] for person in persons] == [1, 2, 3]
    assert all(len(person["captions"]) == 3 and all(person["captions"]) for person in persons)
    for camera in ("camera1", "camera2"):
        rows = read_truth(films / camera / "gt" / "gt.txt")
        tracks = [track for person in persons for track in person["tracks"] if track["camera"] == camera]
        assert sorted(track["track"] for track in tracks) == sorted({int(row["track"]) for row in rows})
        for track in tracks:  # a track has no gap: who comes back is a new one
            frames = [int(row["frame"]) for row in rows if row["track"] == track["track"]]
            assert frames == list(range(track["first_frame"], track["last_frame"] + 1))
    assert (films / "camera1" / "seqinfo.ini").read_text().splitlines()[2:4] == ["frameRate=5", "seqLength=20"]


def test_film__boxes_are_tight_about_what_is_not_background() -> None:
    request = FilmRequest(TARGET, 1, 1, 4.0, 5, 136, 240, seed=3)
    frames = list(film(request, 0))
    background = np.median(np.stack([image for image, _ in frames]).astype(np.int16), axis=0)
    checked = 0
    for image, boxes in frames:
        changed = np.abs(image - background).max(axis=2) > 60
        for box in (box for box in boxes if box.visibility > 0.97):
            left, top, width, height = box.box
            outside = changed.copy()
            outside[top : top + height, left : left + width] = False
            inside = changed[top : top + height, left : left + width]
            assert outside.sum() <= 0.05 * inside.sum()
            # the person reaches all four sides
            assert inside[: height // 8].any()
            assert inside[-height // 8 :].any()
            assert inside[:, : width // 4].any()
            assert inside[:, -width // 4 :].any()
            checked += 1
    assert checked >= 3


def test_film__who_is_covered_is_less_visible() -> None:
    frames = list(film(FilmRequest(TARGET, 4, 1, 4.0, 5, 136, 240, seed=3), 0))
    shares = [box.visibility for _, boxes in frames for box in boxes]
    assert min(shares) < 0.6
    assert max(shares) > 0.98
    assert all(0 <= share <= 1 for share in shares)


def test_plan_walks__nobody_is_in_two_cameras_at_once_and_all_change_cameras() -> None:
    walks = plan_walks(num_people=5, num_cameras=2, seconds=18.0, rng=np.random.default_rng(0))
    for person in range(5):
        own_walks = sorted((walk for walk in walks if walk.person == person), key=lambda walk: walk.times[0])
        assert [walk.camera for walk in own_walks] == [person % 2, (person + 1) % 2]
        assert own_walks[0].times[-1] <= own_walks[1].times[0]
        assert own_walks[0].at(own_walks[0].times[0] - 0.1) is None


def test_plan_walks__those_who_meet_stand_beside_each_other() -> None:
    first, second = plan_walks(num_people=2, num_cameras=1, seconds=8.0, rng=np.random.default_rng(0))
    places = first.at(4.0), second.at(4.0)
    assert not places[0].walks
    assert not places[1].walks
    assert 0.05 < abs(places[0].x - places[1].x) < 0.15


def test_plan_walks__one_leaves_the_picture_and_comes_back() -> None:
    walks = plan_walks(num_people=3, num_cameras=1, seconds=9.0, rng=np.random.default_rng(0))
    inside = [0 < walks[2].at(time).x < 1 for time in np.linspace(walks[2].times[0], walks[2].times[-1] - 1e-6, 50)]
    assert np.abs(np.diff(inside)).sum() == 4  # in, out, in, out


def test_write_films__equal_requests_are_found_done_and_others_refused(films: Path) -> None:
    assert not write_films(films, **SMALL)
    with pytest.raises(DatasetError, match="other arguments"):
        write_films(films, **{**SMALL, "seed": 4})


def test_write_films__equal_seeds_give_equal_truth(films: Path, tmp_path: Path) -> None:
    """The encoder's bytes may differ between runs."""
    write_films(tmp_path / "again", **SMALL)
    for name in ("persons.json", "camera1/gt/gt.txt", "camera2/gt/gt.txt"):
        assert (tmp_path / "again" / name).read_bytes() == (films / name).read_bytes(), name


def test_film__equal_requests_give_equal_pictures() -> None:
    request = FilmRequest(TARGET, 2, 1, 1.0, 5, 136, 240, seed=3)
    for (first, _), (second, _) in zip(film(request, 0), film(request, 0), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_width": 241}, "image_width: expected an even number"),
        ({"seconds": 0.0}, "seconds: expected a number above 0"),
        ({"style": "sorce"}, "did you mean 'source'"),
        ({"num_people": 0}, "num_people: expected a whole number of at least 1"),
    ],
)
def test_write_films__bad_arguments_are_named(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_films(tmp_path / "films", **{**SMALL, **options})
    assert not (tmp_path / "films").exists()


def test_main__bad_arguments_end_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--output", str(tmp_path / "films"), "--fps", "0"])
    assert end.value.code == 2
    assert "--fps" in capsys.readouterr().err
