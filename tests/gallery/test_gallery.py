"""Building, searching and changing a gallery: answers that are seen by eye, and a message for every bad input.

All tests run on a folder and on Milvus Lite.
"""

from __future__ import annotations

import json

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from colour_embedder import COLOURS, ColourEmbedder
from PIL import Image

from mmet.evaluation.analyses.calibration import MatchCalibration
from mmet.gallery import Gallery, GalleryError, Query
from mmet.gallery.disk import DiskStore


@pytest.fixture(params=["disk", "milvus"])
def backend(request):
    return request.param


def is_there(path):
    if str(path).startswith("milvus+"):
        from mmet.gallery.milvus import MilvusStore

        return MilvusStore.exists(path)
    return path.exists() or DiskStore.exists(path)


def ids(result):
    return [match.id for match in result.matches]


def test_search__finds_by_image_text_and_both(gallery, entries):
    assert ids(gallery.search(image=entries[2]["image"], k=1)) == ["c"]
    assert ids(gallery.search(text="a blue coat", k=1)) == ["d"]
    both = gallery.search(image=entries[2]["image"], text="a blue coat", k=3)
    assert ids(both)[0] == "e"  # half green and half blue is nearest to grey
    assert set(ids(both)) == {"c", "d", "e"}
    assert ids(gallery.search(image=np.full((4, 4, 3), (255, 0, 0), np.uint8), k=2)) == ["a", "b"]
    assert ids(gallery.search(image=entries[2]["image"], text="a blue coat", blend=0.9, k=1)) == ["d"]


def test_search__rows_hold_what_the_user_gave(gallery, entries):
    match = gallery.search(text="blue", k=1).matches[0]
    assert (match.camera_id, match.track_id, match.time, match.box) == (7, 2, 3.0, (1.0, 2.0, 8.0, 16.0))
    assert match.image_path == entries[3]["image"]
    assert match.row == {"note": "seen in blue"}
    assert match.open_image().getpixel((0, 0)) == COLOURS["blue"]
    assert match.score == pytest.approx(1, abs=1e-2)


def test_search__columns_of_lists_and_structures(entries, gallery_path, embedder):
    bags = [{"colour": "red", "sizes": [1, 2]}, None, {"colour": None, "sizes": []}, {"colour": "blue", "sizes": None}]
    rows = [entry | {"bag": bag, "words": [name]} for entry, bag, name in zip(entries, bags, "abcd", strict=False)]
    rows_found = {
        match.id: match.row for match in Gallery.build(rows, gallery_path, model=embedder).search(text="red")
    }
    assert [rows_found[name].get("bag") for name in "abcd"] == bags
    assert [rows_found[name]["words"] for name in "abcd"] == [["a"], ["b"], ["c"], ["d"]]


def test_search__filters(gallery):
    assert set(ids(gallery.search(text="red", camera_id="gate"))) == {"a", "b", "c"}
    assert set(ids(gallery.search(text="red", camera_id=[7, "gate"]))) == {"a", "b", "c", "d", "e"}
    assert set(ids(gallery.search(text="red", time=(1, 2)))) == {"b", "c"}
    assert set(ids(gallery.search(text="red", time=(2, None)))) == {"c", "d"}
    assert set(ids(gallery.search(text="red", track_id=2))) == {"c", "d"}
    assert "a" not in ids(gallery.search(text="red", exclude=["a", "not there"]))
    assert ids(gallery.search(text="red", camera_id=7, time=(0, 1))) == []


def test_search__by_track_gives_the_best_crop_of_each(gallery):
    """Track 2 of the gate and track 2 of camera 7 are two tracks; a crop without a track stands for itself."""
    assert ids(gallery.search(text="red", by_track=True))[0] == "a"
    assert set(ids(gallery.search(text="red", by_track=True))) == {"a", "c", "d", "e"}
    assert len(gallery.search(text="red", by_track=True, k=2)) == 2


def test_search__several_images_are_averaged_and_batches_equal_single_searches(gallery, entries):
    two = gallery.search(image=[entries[2]["image"], entries[3]["image"]], k=5)
    scores = {match.id: match.score for match in two}
    assert scores["c"] == pytest.approx(scores["d"], abs=1e-2)
    assert scores["a"] < scores["c"]
    queries = [Query(text="red"), Query(image=entries[3]["image"])]
    assert [ids(result) for result in gallery.search_batch(queries)] == [
        ids(gallery.search(text="red")),
        ids(gallery.search(image=entries[3]["image"])),
    ]
    assert gallery.search_batch([]) == []


def test_open__answers_as_the_built_one_and_iterates(gallery, gallery_path, embedder, entries):
    again = Gallery.open(gallery_path, model=embedder)
    assert ids(again.search(text="green")) == ids(gallery.search(text="green"))
    assert [row.id for row in again] == [entry["id"] for entry in entries]
    assert len(again) == 5
    assert "a" in again
    assert "z" not in again
    assert again.cameras == [7, "gate"]


def test_segments__are_parquet_that_datasets_reads_with_pictures(gallery, gallery_path, tmp_path, backend):
    if backend != "disk":
        pytest.skip("only a gallery in a folder has Parquet files")
    files = [str(path) for path in gallery_path.glob("segments/*.parquet")]
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert rows[0]["image"].size == (8, 16)
    assert rows["note"][0] == "seen in red"
    assert len(rows[0]["embedding"]) == 3
    assert str(pq.read_schema(files[0]).field("embedding").type) == "fixed_size_list<element: halffloat>[3]"


def test_add_remove_compact__keep_the_rest(gallery, gallery_path, embedder, backend):
    blue = np.full((4, 4, 3), (0, 0, 250), np.uint8)
    report = gallery.add([{"id": "f", "image": blue, "shirt": "plain", "note": 5}, {"image": blue}])
    assert (report.added, len(gallery)) == (2, 7)
    assert gallery.remove(["d", "a"]) == 2
    assert set(ids(gallery.search(text="blue", k=2))) == {"f", "6"}  # the fifth and sixth row number are 5 and 6
    before = {row.id: row for row in gallery}
    gallery.compact(keep_seconds=0)
    assert {row.id: row for row in Gallery.open(gallery_path, model=embedder)} == before
    assert before["f"].row == {"shirt": "plain", "note": 5}  # of another type than the column of the others
    assert before["f"].open_image().getpixel((0, 0)) == (0, 0, 250)
    if backend == "disk":
        assert len(list((gallery_path / "segments").iterdir())) == 1
    assert gallery.verify() == []


def test_add__of_known_ids(gallery, entries):
    with pytest.raises(GalleryError, match=r"has a row 'a' already.*nothing was added"):
        gallery.add(entries[:2])
    assert gallery.add(entries[:2], on_conflict="keep").kept == 2
    green = {"id": "a", "image": np.full((4, 4, 3), (0, 255, 0), np.uint8)}
    assert gallery.add([green], on_conflict="replace").replaced == 1
    assert set(ids(gallery.search(text="green", k=2))) == {"a", "c"}
    assert len(gallery) == 5


def test_merge__of_two_galleries(gallery, new_place, embedder):
    other = Gallery.build(
        [{"id": "z", "image": np.zeros((4, 4, 3), np.uint8), "age": 3}], new_place("b"), model=embedder
    )
    assert gallery.merge(other).added == 1
    assert {row.id: row for row in gallery}["z"].row == {"age": 3}
    with pytest.raises(GalleryError, match=r"nothing was added"):
        gallery.merge(other)
    stranger = Gallery.build([np.zeros((4, 4, 3), np.uint8)], new_place("c"), model=ColourEmbedder("two"))
    with pytest.raises(GalleryError, match=r"cannot be compared"):
        gallery.merge(stranger)


def test_build__of_a_folder_skips_what_is_no_picture(tmp_path, gallery_path, embedder, entries):
    (tmp_path / "crops" / "bad.png").write_bytes(b"nothing")
    (tmp_path / "crops" / "below").mkdir()
    Image.new("RGB", (8, 16)).save(tmp_path / "crops" / "below" / "x.jpg")
    gallery = Gallery.build(tmp_path / "crops", gallery_path, model=embedder)
    assert sorted(row.id for row in gallery) == ["a.png", "b.png", "below/x.jpg", "c.png", "d.png", "e.png"]
    assert [skip.name for skip in gallery.skipped] == ["bad.png"]


def test_build__of_a_dataset_and_of_pillow_images(new_place, embedder, entries):
    rows = datasets.Dataset.from_list([{"image": e["image"], "camera_id": str(e["camera_id"])} for e in entries])
    rows = rows.cast_column("image", datasets.Image())
    gallery = Gallery.build(rows, new_place("one"), model=embedder)
    assert [row.camera_id for row in gallery] == ["gate", "gate", "gate", 7, 7]
    with Image.open(entries[0]["image"]) as picture:
        images = Gallery.build([picture, picture.copy()], new_place("two"), model=embedder)
    assert [row.id for row in images] == ["0", "1"]


def test_build__goes_on_where_it_stopped(gallery_path, entries, embedder):
    class Stops(ColourEmbedder):
        def embed(self, images, texts, *, flip=False):
            if self.calls >= 4:
                raise KeyboardInterrupt
            return super().embed(images, texts, flip=flip)

    with pytest.raises(KeyboardInterrupt):
        Gallery.build(entries, gallery_path, model=Stops(), rows_per_commit=1)
    assert len(Gallery.open(gallery_path)) == 3
    gallery = Gallery.build(entries, gallery_path, model=embedder, rows_per_commit=1)
    assert [row.id for row in gallery] == ["a", "b", "c", "d", "e"]
    assert embedder.calls == 2


def test_probabilities__come_from_the_models_calibration(entries, gallery_path):
    platt = MatchCalibration("platt", 0.2, slope=20.0, intercept=-15.0)
    gallery = Gallery.build(entries, gallery_path, model=ColourEmbedder(calibrations={"text": platt}))
    result = gallery.search(text="blue", k=3)
    assert result.matches[0].probability == pytest.approx(1 / (1 + np.exp(-5)), abs=1e-2)
    assert 0.9 < result.in_gallery <= 1
    assert gallery.search(image=entries[0]["image"]).in_gallery is None


def test_centre__scores_about_the_mean(gallery, entries):
    gallery.set_centre()
    vectors = np.stack([ColourEmbedder().embed([Image.open(entry["image"])], None)[0] for entry in entries])
    mean = vectors.mean(axis=0)
    about = (vectors - mean) / np.linalg.norm(vectors - mean, axis=1, keepdims=True)
    result = gallery.search(image=entries[2]["image"])
    expected = dict(zip("abcde", about @ about[2], strict=True))
    assert [match.score for match in result] == pytest.approx([expected[m.id] for m in result], abs=1e-2)
    gallery.set_centre(False)
    assert gallery.search(text="red", k=1).matches[0].score == pytest.approx(1, abs=1e-2)


# -- bad input ------------------------------------------------------------------------------------------------------


def test_query_by_another_model__is_refused(gallery, gallery_path):
    with pytest.raises(GalleryError, match=r"cannot be compared.*own model, or build the gallery again"):
        Gallery.open(gallery_path, model=ColourEmbedder(weights="two"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "received none of them"),
        ({"text": " "}, "empty sentence"),
        ({"text": 3}, "expected a sentence"),
        ({"text": "женщина"}, "holds no word"),
        ({"image": "absent.png"}, r"absent\.png"),
        ({"image": []}, "empty list"),
        ({"image": 5}, "expected a file"),
        ({"image": np.zeros((0, 4, 3), np.uint8)}, "expected a file"),
        ({"text": "red", "k": 0}, "k: expected a whole number"),
        ({"text": "red", "k": 1.5}, "k: expected a whole number"),
        ({"text": "red", "camera_id": "gat"}, "no camera 'gat'.*did you mean 'gate'"),
        ({"text": "red", "camera_id": []}, "camera_id: expected one or several"),
        ({"text": "red", "time": (3, 1)}, "start that is not after"),
        ({"text": "red", "time": 3}, "pair"),
        ({"text": "red", "time": ("noon", None)}, "expected seconds"),
        ({"text": "red", "blend": 0.5}, "an image and a text"),
        ({"embedding": [1.0, 2.0]}, "expected 3 finite numbers"),
    ],
)
def test_search__bad_input(gallery, arguments, message):
    with pytest.raises(ValueError, match=message):
        gallery.search(**arguments)


def test_search__absurd_k_and_words_that_are_unknown(gallery):
    assert len(gallery.search(text="red", k=10**12)) == 5
    assert gallery.search(text="red пальто").notes == ("the model does not know 'пальто'",)


def test_a_gallery_of_one_and_of_none(gallery_path, embedder):
    gallery = Gallery.build([np.zeros((4, 4, 3), np.uint8)], gallery_path, model=embedder)
    assert ids(gallery.search(text="red")) == ["0"]
    gallery.remove("0")
    assert ids(gallery.search(text="red")) == []
    gallery.compact()
    assert (len(gallery), list(gallery)) == (0, [])
    gallery.add([np.zeros((4, 4, 3), np.uint8)])
    assert len(gallery) == 1


def test_build__bad_sources(tmp_path, gallery_path, embedder, entries):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty2").mkdir()
    (tmp_path / "empty2" / "x.png").write_bytes(b"no picture")
    cases = [
        (tmp_path / "empty", "holds no pictures"),
        (tmp_path / "absent", "there is no folder"),
        (tmp_path / "empty2", "no picture could be read.*x.png"),
        ([], "holds no pictures"),
        (5, "expected a folder"),
        ([entries[0], entries[0]], "two pictures have the id 'a'"),
        ([{"image": entries[0]["image"], "camera_id": 1.5}], "camera_id: expected a whole number or a word"),
        ([{"image": entries[0]["image"], "box": (1, 2)}], "box: expected four numbers"),
    ]
    for source, message in cases:
        with pytest.raises(GalleryError, match=message):
            Gallery.build(source, gallery_path, model=embedder)
        assert not is_there(gallery_path)


def test_build__refuses_what_is_there(gallery, gallery_path, entries, embedder, tmp_path, new_place):
    with pytest.raises(GalleryError, match=r"is a gallery already"):
        Gallery.build(entries, gallery_path, model=embedder)
    with pytest.raises(GalleryError, match=r"is not empty"):
        Gallery.build(entries, tmp_path / "crops", model=embedder)
    with pytest.raises(GalleryError, match=r"no gallery at"):
        Gallery.open(new_place("absent"))


def test_remove__an_unknown_id_removes_nothing(gallery):
    with pytest.raises(GalleryError, match=r"no row 'z'.*nothing was removed"):
        gallery.remove(["a", "z"])
    assert len(gallery) == 5


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_build__of_a_folder_with_a_table_has_its_columns(tmp_path, gallery_path, embedder, entries, kind):
    folder = tmp_path / "crops"
    if kind == "csv":
        lines = ["image,person_id,camera_id,time,box,shirt", 'a.png,anna,gate,1.5,"1 2 8 16",red', "b.png,-1,3,,,"]
        (folder / "annotations.csv").write_text("\n".join([*lines, "../x.png,1,3,,,", "c.png,7,3,,,"]) + "\n")
    else:
        anna = {"image": "a.png", "person_id": "anna", "camera_id": "gate", "time": 1.5, "box": [1, 2, 8, 16]}
        rows = [anna | {"shirt": "red"}, {"image": "b.png", "person_id": -1}, {"image": "../x.png", "person_id": 1}]
        rows.append({"image": "c.png", "person_id": 7, "camera_id": 3})
        (folder / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    gallery = Gallery.build(folder, gallery_path, model=embedder)
    first, second = gallery
    assert (first.id, first.person_id, first.camera_id, first.time, first.box) == (
        "a.png",
        "anna",
        "gate",
        1.5,
        (1, 2, 8, 16),
    )
    assert first.row == {"shirt": "red"}
    assert (second.id, second.person_id, second.camera_id, second.time) == ("c.png", 7, 3, None)
    assert len(gallery.skipped) == 2


def test_build__of_a_broken_table_names_the_line(tmp_path, gallery_path, embedder, entries):
    (tmp_path / "crops" / "annotations.csv").write_text("image,time\na.png,1\nb.png,noon\n")
    with pytest.raises(GalleryError, match="line 3: time"):
        Gallery.build(tmp_path / "crops", gallery_path, model=embedder)
