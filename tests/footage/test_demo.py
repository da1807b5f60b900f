"""The end of `make footage`: first results against the truth of films, here three of plain colours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_searching import ColorEmbedder, crops_folder

from mmet.footage.demo import FilmTruth, main
from mmet.footage.searching import add_to_gallery
from mmet.gallery import embedding as gallery_embedding

PERSONS = {4: "red", 5: "green", 2: "blue"}


def films(folder: Path, tracks: dict[int, int]) -> Path:
    """The truth of a film in which track n stands at 100 n; `tracks` says whose it is."""
    (folder / "gate" / "gt").mkdir(parents=True)
    rows = [f"11,{track},{100 * track + 1},1,8,16,1,1,1" for track in (1, 2, 3)]
    (folder / "gate" / "gt" / "gt.txt").write_text("\n".join(rows))
    persons = [
        {"person_id": person, "captions": [f"in {color}", f"all {color}", f"{color} alone"]}
        | {"tracks": [{"camera": "gate", "track": tracks[person]}]}
        for person, color in PERSONS.items()
    ]
    (folder / "persons.json").write_text(json.dumps(persons))
    return folder


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One crop track of each colour in frame 10: red at 100, green at 200, blue at 300."""
    monkeypatch.setattr(gallery_embedding.ModelEmbedder, "load", lambda name, backend="auto": ColorEmbedder())
    crops = crops_folder(tmp_path / "crops", [("gate", f"{c}", c, 1.0, 2.0) for c in PERSONS.values()])
    rows = [json.loads(line) for line in (crops / "annotations.jsonl").read_text().splitlines()]
    for row in rows:
        left = 100 * (1 + list(PERSONS.values()).index(row["track_id"]))
        row |= {"frame": 10, "box": [left, 0, 8, 16]}
    (crops / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    add_to_gallery(crops, tmp_path / "gallery", model=ColorEmbedder())
    return tmp_path / "gallery"


@pytest.mark.parametrize(("tracks", "code", "right"), [((1, 2, 3), 0, 3), ((2, 1, 3), 1, 1)])
def test_main__says_how_many_first_results_are_right(tracks, code, right, gallery, tmp_path, capsys) -> None:
    folder = films(tmp_path / "films", dict(zip(PERSONS, tracks, strict=True)))
    assert main(["--films", str(folder), "--gallery", str(gallery)]) == code
    printed = capsys.readouterr().out
    assert f"{right} of these 3 searches; {3 * right} of all 9 captions of the 3 people" in printed
    assert printed.count("$ mmet-gallery search") == 3
    assert (tmp_path / "gallery-person5.html").is_file()
    assert (tmp_path / "gallery-timeline.png").is_file()


def test_person_in__is_the_largest_overlap_of_at_least_a_half(tmp_path) -> None:
    truth = FilmTruth(films(tmp_path / "films", {4: 1, 5: 2, 2: 3}))
    assert truth.person_in("gate", 10, (200, 0, 8, 16)) == 5
    assert truth.person_in("gate", 10, (202, 0, 8, 16)) == 5  # 6 of 10 columns
    assert truth.person_in("gate", 10, (203, 0, 8, 16)) is None  # 5 of 11
    assert truth.person_in("gate", 11, (200, 0, 8, 16)) is None


def test_main__films_of_other_people_are_one_message(gallery, tmp_path, capsys) -> None:
    folder = films(tmp_path / "films", {4: 1, 5: 2, 2: 3})
    (folder / "persons.json").write_text(json.dumps(json.loads((folder / "persons.json").read_text())[:1]))
    assert main(["--films", str(folder), "--gallery", str(gallery)]) == 2
    assert "no person 2" in capsys.readouterr().err
