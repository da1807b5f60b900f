"""Crops in a gallery, and when and where a person was seen: plain colours, whose right answers are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmet.footage import FootageError
from mmet.footage.__main__ import main
from mmet.footage.searching import add_to_gallery, find_sightings
from mmet.gallery import Gallery, GalleryError

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColorEmbedder:
    def __init__(self):
        self.identity = {"model": "colours", "revision": None, "preprocessing": "mean", "weights": "one"}

    def embed(self, images, texts, *, flip=False):
        if images is not None:
            vectors = np.array([np.asarray(image).reshape(-1, 3).mean(axis=0) for image in images]) + 1
        else:
            vectors = np.array([next(color for word, color in COLORS.items() if word in text) for text in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def unknown_words(self, text):
        return [], False

    def calibration(self, query):
        return None


def crops_folder(folder: Path, tracks: list[tuple[str, str, str, float, float]]) -> Path:
    """A folder as `read` leaves it, of two crops for each (camera, track, colour, start, end)."""
    rows = []
    for camera, track, color, start, end in tracks:
        (folder / camera).mkdir(parents=True, exist_ok=True)
        for number, time in enumerate((start, end)):
            name = f"{camera}/{track}_{number}.png"
            Image.new("RGB", (8, 16), COLORS[color]).save(folder / name)
            row = {"image": name, "person_id": track, "camera_id": camera, "track_id": track, "time": time}
            rows.append(row | {"box": [0, 0, 8, 16], "track_start": start, "track_end": end})
    (folder / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    tracks = [
        ("gate", "gate-1", "red", 1.0, 4.0),
        ("gate", "gate-2", "blue", 3.0, 5.0),
        ("yard", "yard-1", "red", 9.0, 12.0),
    ]
    return crops_folder(tmp_path / "monday", tracks)


@pytest.fixture
def gallery(crops: Path, tmp_path: Path) -> Gallery:
    return add_to_gallery(crops, tmp_path / "gallery", model=ColorEmbedder())


def test_add_to_gallery__rows_have_camera_track_and_time_and_no_person(gallery: Gallery) -> None:
    row = next(row for row in gallery if row.id == "monday/yard/yard-1_1.png")
    assert (row.camera_id, row.track_id, row.time, row.person_id) == ("yard", "monday/yard-1", 12.0, None)
    assert row.box == (0, 0, 8, 16)
    assert row.row["track_start"] == 9.0


def test_add_to_gallery__again_adds_nothing_and_another_day_is_added(gallery: Gallery, crops: Path) -> None:
    assert len(add_to_gallery(crops, gallery.path, model=ColorEmbedder())) == 6
    other = crops_folder(crops.parent / "tuesday", [("gate", "gate-1", "green", 2.0, 3.0)])
    assert len(add_to_gallery(other, gallery.path, model=ColorEmbedder())) == 8
    tracks = {
        match.track_id for match in Gallery.open(gallery.path, model=ColorEmbedder()).search(text="red", by_track=True)
    }
    assert {"monday/gate-1", "tuesday/gate-1"} <= tracks


def test_add_to_gallery__refuses_other_crops_of_the_same_names(gallery: Gallery, tmp_path: Path) -> None:
    other = crops_folder(tmp_path / "elsewhere" / "monday", [("gate", "gate-1", "green", 2.0, 3.0)])
    with pytest.raises(FootageError, match="another name"):
        add_to_gallery(other, gallery.path, model=ColorEmbedder())
    assert len(Gallery.open(gallery.path)) == 6


def test_find_sightings__of_a_sentence_in_the_order_of_time(gallery: Gallery) -> None:
    sightings = find_sightings(gallery, text="somebody in red", min_score=0.9)
    assert [(seen.camera_id, seen.start, seen.end) for seen in sightings] == [("gate", 1.0, 4.0), ("yard", 9.0, 12.0)]


def test_find_sightings__of_a_track_a_crop_and_in_one_camera(gallery: Gallery) -> None:
    sightings = find_sightings(gallery, person="monday/gate-1", min_score=0.9)
    assert [seen.track_id for seen in sightings] == ["monday/gate-1", "monday/yard-1"]
    sightings = find_sightings(gallery, person="monday/gate-1", min_score=0.9, filters={"camera_id": "yard"})
    assert [seen.track_id for seen in sightings] == ["monday/yard-1"]
    with pytest.raises(GalleryError, match="gate-9"):
        find_sightings(gallery, person="gate-9")


def test_add_to_gallery__bad_input(tmp_path: Path, crops: Path) -> None:
    with pytest.raises(FootageError, match="no finished folder of crops"):
        add_to_gallery(tmp_path, tmp_path / "gallery", model=ColorEmbedder())
    with pytest.raises(ValueError, match="absent"):
        add_to_gallery(crops, tmp_path / "gallery", model=tmp_path / "absent")
    assert not (tmp_path / "gallery").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--model", "m"], "--gallery"), (["--gallery", "{here}/none", "--model", "{here}/absent"], "absent")],
)
def test_main__refuses_what_a_gallery_lacks_before_it_reads(arguments, message, tmp_path, capsys) -> None:
    arguments = [argument.format(here=tmp_path) for argument in arguments]
    assert main(["film.mp4", "--output", str(tmp_path / "crops"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "crops").exists()
