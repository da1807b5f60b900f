"""The timeline of a person: table, picture, and messages for what cannot be shown."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_searching import COLORS, ColorEmbedder, crops_folder

from mmet.footage.__main__ import main
from mmet.footage.searching import add_to_gallery, find_sightings
from mmet.footage.timeline import axis_marks, draw_timeline, stack_rows, write_sightings
from mmet.gallery import Gallery
from mmet.gallery import embedding as gallery_embedding

TRACKS = [
    ("gate", "gate-1", "red", 1.0, 4.0),
    ("gate", "gate-2", "blue", 3.0, 5.0),
    ("yard", "yard-1", "red", 9.0, 12.0),
]


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gallery:
    """A gallery whose model the command line finds by the name `colours`."""
    monkeypatch.setattr(gallery_embedding.ModelEmbedder, "load", lambda name, backend="auto": ColorEmbedder())
    return add_to_gallery(crops_folder(tmp_path / "monday", TRACKS), tmp_path / "gallery", model=ColorEmbedder())


def timeline(gallery: Gallery, *words: str) -> int:
    return main(["timeline", str(gallery.path), *words])


@pytest.mark.parametrize(
    "query",
    [
        ["--person", "monday/gate-1"],
        ["--person", "monday/yard/yard-1_0.png"],
        ["--text", "somebody in red"],
        ["--image", "{here}/monday/gate/gate-1_0.png"],
    ],
    ids=["track", "crop", "sentence", "image"],
)
def test_main__prints_and_draws_sightings_by_camera_and_time(query, gallery, tmp_path, capsys) -> None:
    figure = tmp_path / "timeline.png"
    query = [word.format(here=tmp_path) for word in query]
    assert timeline(gallery, *query, "--min_score", "0.9", "--figure", str(figure)) == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [line[:5] for line in lines[2:4]] == [
        ["1", "0:01", "0:04", "gate", "monday/gate-1"],
        ["2", "0:09", "0:12", "yard", "monday/yard-1"],
    ]
    with Image.open(figure) as image:
        assert image.format == "PNG"


def test_main__filters(gallery, capsys) -> None:
    assert timeline(gallery, "--text", "red", "--camera", "gate", "--after", "2.5") == 0
    printed = capsys.readouterr().out
    assert "gate-2" in printed
    assert "yard" not in printed
    assert timeline(gallery, "--text", "red", "--after", "100") == 0
    assert "no track passes" in capsys.readouterr().out


def test_main__knows_persons_of_the_gallery(tmp_path, gallery, capsys) -> None:
    entries = [
        {"id": f"c{number}", "image": Image.new("RGB", (8, 16), COLORS["green"]), "person_id": 7, "camera_id": camera}
        | {"time": 20.0 + number}
        for number, camera in enumerate(("gate", "yard"))
    ]
    Gallery.open(gallery.path, model=ColorEmbedder()).add(entries)
    assert timeline(gallery, "--person", "7", "--min_score", "0.95") == 0
    assert "2 sightings: 1 on gate, 1 on yard" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--person", "nobody"], "'nobody' is not a crop, track or person"),
        ([], "whom to look for"),
        (["--person", "monday/gate-1", "--text", "red"], "whom to look for"),
        (["--text", "red", "--figure", "timeline.svg"], "ends with .png"),
        (["--text", "red", "--camera", "roof"], "no camera 'roof'"),
        (["--text", "red", "--after", "soon"], "--after"),
        (["--image", "none.jpg"], "none.jpg"),
    ],
)
def test_main__bad_input_is_one_message(words, message, gallery, capsys) -> None:
    assert timeline(gallery, *words) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert message in errors[0]


def test_main__no_gallery_and_an_empty_one(gallery, tmp_path, capsys) -> None:
    assert main(["timeline", str(tmp_path / "none"), "--text", "red"]) == 2
    assert "no gallery at" in capsys.readouterr().err
    gallery.remove([row.id for row in gallery])
    assert timeline(gallery, "--text", "red") == 2
    assert "holds no crops" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["time", "camera_id"])
def test_main__crops_without_times_or_cameras_have_no_timeline(missing, gallery, tmp_path, capsys) -> None:
    where = {"time": {"camera_id": "gate"}, "camera_id": {"time": 3.0}}[missing]
    bare = {"id": "a", "image": Image.new("RGB", (8, 16), COLORS["red"]), **where}
    Gallery.build([bare], tmp_path / "bare", model=ColorEmbedder())
    assert main(["timeline", str(tmp_path / "bare"), "--text", "red"]) == 2
    assert "time and a camera" in capsys.readouterr().err
    gallery.add([bare])
    assert timeline(gallery, "--text", "red", "--min_score", "0.9") == 0  # the others have them: said, and left out
    assert "2 sightings" in capsys.readouterr().out


def test_main__a_video_named_timeline_is_read_by_its_path(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("timeline").write_text("no video")
    assert main(["./timeline", "--output", "crops"]) == 2
    assert "timeline: cannot be read as a video" in capsys.readouterr().err


def test_draw_timeline__darker_bars_are_more_alike(gallery) -> None:
    sightings = find_sightings(gallery, text="red")
    assert write_sightings(sightings).count("\n") == 4
    with Image.open(io.BytesIO(draw_timeline(sightings, title="red $x$", cameras=gallery.cameras))) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    blueness = pixels[..., 2] - pixels[..., 0]
    # At two pixels a logical one: the axis begins at 150, the first line at 24 + 48 + 16.
    gate, second, yard = (blueness[2 * (88 + 26 * row + 13) + 10, 300:] for row in range(3))
    assert gate.max() > second.max() > 20
    assert yard.max() == gate.max()


INTERVALS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 8)).map(lambda pair: (pair[0], sum(pair))), max_size=12
).map(sorted)


@given(INTERVALS)
def test_stack_rows__no_overlap_and_as_few_rows_as_can_be(intervals) -> None:
    rows = stack_rows(intervals, range(len(intervals)))
    assert sorted(name for row in rows for name in row) == list(range(len(intervals)))
    for row in rows:
        assert all(intervals[a][1] < intervals[b][0] for a, b in pairwise(row))
    crowds = [sum(start <= moment <= end for start, end in intervals) for moment in range(30)]
    assert len(rows) == max(1, *crowds)


@given(st.integers(0, 2 * 10**9), st.integers(1, 10**8))
def test_axis_marks__few_and_inside(start, length) -> None:
    marks = axis_marks(start, start + length)
    assert len(marks) <= 6
    assert all(start <= mark <= start + length for mark in marks)


def test_axis_marks__whole_units() -> None:
    assert axis_marks(0.7, 11.2) == [5.0, 10.0]
    assert axis_marks(0.0, 10.0) == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert axis_marks(50.0, 350.0) == [60.0, 120.0, 180.0, 240.0, 300.0]
