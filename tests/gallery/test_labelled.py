"""Probabilities learnt from labelled rows: who is there and who is not, on vectors of known persons."""

from __future__ import annotations

import numpy as np
import pytest
from colour_embedder import ColourEmbedder
from PIL import Image

from mmet.gallery import Gallery, GalleryError


def draw_people(first: int, last: int, seed: int, **fields) -> list[dict]:
    """Persons of one colour each, seen six times by three cameras under light of their own."""
    entries = []
    generator = np.random.default_rng(seed)
    for person in range(first, last):
        colour = np.random.default_rng(person).uniform(0, 255, 3)
        for number in range(6):
            light = generator.normal(0, 3, 3)
            pixels = np.full((4, 2, 3), np.clip(colour + light, 0, 255), np.uint8)
            entries.append(
                {
                    "id": f"{person}-{number}",
                    "image": pixels,
                    "person_id": person,
                    "camera_id": f"camera {number % 3}",
                    **fields,
                }
            )
    return entries


@pytest.fixture
def people(tmp_path, embedder):
    return Gallery.build(draw_people(0, 30, 0), tmp_path / "people", model=embedder)


def test_calibrate__tells_present_from_absent_people(people, tmp_path, embedder):
    assert people.search(image=np.full((4, 2, 3), 90, np.uint8)).in_gallery is None
    assert people.calibrate() == {"image": 30 * 6 * 4}
    present = [people.search(image=e["image"]).in_gallery for e in draw_people(0, 30, seed=7)[::6]]
    absent = [people.search(image=e["image"]).in_gallery for e in draw_people(100, 130, seed=8)[::6]]
    assert np.mean(present) > np.mean(absent) + 0.15
    assert 0.3 < np.mean([*present, *absent]) < 0.8  # half of these people are there
    again = Gallery.open(tmp_path / "people", model=embedder).search(image=draw_people(3, 4, 9)[0]["image"])
    assert again.in_gallery == people.search(image=draw_people(3, 4, 9)[0]["image"]).in_gallery
    assert again.matches[0].probability > again.matches[-1].probability


def test_in_gallery__does_not_depend_on_how_many_are_shown(people):
    people.calibrate()
    query = draw_people(3, 4, seed=9)[0]["image"]
    few, many = people.search(image=query, k=1), people.search(image=query, k=50)
    assert few.in_gallery == pytest.approx(many.in_gallery)
    assert len(few) == 1
    assert [m.probability for m in many] == sorted((m.probability for m in many), reverse=True)


def test_calibrate__pairs_of_one_camera_count_only_where_no_cameras_are_known(tmp_path, embedder):
    rows = draw_people(0, 4, 0)
    alike = [{**row, "camera_id": "gate"} for row in rows]
    gallery = Gallery.build(alike, tmp_path / "one-camera", model=embedder)
    with pytest.raises(GalleryError, match=r"seen by two cameras.*received 0 pairs of one person"):
        gallery.calibrate()
    unknown = [{**row, "camera_id": None} for row in rows]
    assert Gallery.build(unknown, tmp_path / "none", model=embedder).calibrate() == {"image": 4 * 6 * 5}


def test_calibrate__needs_labels(gallery):
    with pytest.raises(GalleryError, match="person_id of at least two persons"):
        gallery.calibrate()
    assert gallery.info["calibration"] == []


def test_calibrate__sentences_and_both(tmp_path, embedder):
    rows = []
    for person, colour in enumerate(("red", "green", "blue")):
        rows += [{**row, "note": f"a {colour} coat"} for row in draw_people(person, person + 1, 0)]
    gallery = Gallery.build(rows, tmp_path / "told", model=embedder)
    with pytest.raises(GalleryError, match=r"no labelled row has a column 'words'; .*note"):
        gallery.calibrate(captions="words")
    assert set(gallery.calibrate(captions="note")) == {"image", "text", "both"}
    assert gallery.search(text="red").in_gallery is not None
    gallery.set_centre()  # other scores
    assert gallery.search(text="red").in_gallery is None
    gallery.calibrate()
    assert gallery.info["calibration"] == ["image"]


def test_calibrate__of_an_unlabelled_rest(tmp_path, embedder):
    """Rows without a person are searched, and nothing is learnt from them."""
    crowd = [{"id": f"x{n}", "image": Image.new("RGB", (2, 4), (n, 0, 0))} for n in range(50)]
    gallery = Gallery.build([*draw_people(0, 5, 0), *crowd], tmp_path / "some", model=ColourEmbedder())
    assert gallery.calibrate(method="platt") == {"image": 5 * 6 * 4}
