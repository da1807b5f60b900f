"""Searches of a gallery of colours: the right people, and sentences for what goes wrong."""

from __future__ import annotations

import shutil
import threading

import pytest
from page_people import EVIL
from PIL import Image

from mmet.app.catalogue import Catalogue
from mmet.app.requests import RequestError, SearchRequest
from mmet.app.searching import as_sentence, search, sightings_of
from mmet.gallery import Gallery, GalleryError


def ids(answer):
    return [match.id for match in answer.result]


def test_a_sentence_finds_its_colour(catalogue):
    answer = search(catalogue, SearchRequest(text="somebody in red", k=3))
    assert sorted(ids(answer)) == ["a", "b", "e"]
    assert answer.result.searched == 6


def test_filters_and_tracks(catalogue):
    assert ids(search(catalogue, SearchRequest(text="red", cameras=("yard",), k=1))) == ["e"]
    assert ids(search(catalogue, SearchRequest(text="red", before="0:30", k=9)))[:2] == ["a", "b"]
    tracks = search(catalogue, SearchRequest(text="red", by_track=True, k=9))
    assert len([name for name in ids(tracks) if name in "ab"]) == 1


def test_a_picture_and_both(catalogue):
    green = Image.new("RGB", (8, 16), (0, 250, 0))
    assert ids(search(catalogue, SearchRequest(picture=green, k=1))) == ["c"]
    assert ids(search(catalogue, SearchRequest(picture=green, text="green", k=1))) == ["c"]


def test_a_crop_of_the_gallery_finds_other_tracks_alone(catalogue):
    answer = search(catalogue, SearchRequest(crop="a", k=9))
    assert ids(answer)[0] == "e"
    assert not {"a", "b"} & set(ids(answer))  # its own track is no news
    assert answer.request.picture.getpixel((0, 0)) == (255, 0, 0)


def test_the_track_of_a_match_in_the_order_of_time(catalogue):
    answer = search(catalogue, SearchRequest(text="red", k=3))
    first = next(match for match in answer.result if match.id == "b")
    assert [row.id for row in answer.track_of(first)] == ["a", "b"]


def test_a_crop_without_a_track_has_none(catalogue):
    answer = search(catalogue, SearchRequest(text="red", cameras=("yard",), k=2))
    assert answer.track_of(next(match for match in answer.result if match.id == "f")) == []


def test_sightings_are_in_the_order_of_time(catalogue):
    answer = search(catalogue, SearchRequest(text="red", cameras=("gate",), k=1))
    sightings = sightings_of(answer, answer.match(1))
    assert [seen.start for seen in sightings] == sorted(seen.start for seen in sightings)
    assert "e" in {seen.best.id for seen in sightings}  # other cameras than those that were filtered


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (SearchRequest(text="红色"), "The model's vocabulary holds no word of '红色'"),
        (SearchRequest(text="red", cameras=("gatee",)), "There is no camera 'gatee'.*did you mean 'gate'"),
        (SearchRequest(text="red", gallery="nowhere"), "There is no gallery “nowhere” here; there is people"),
        (SearchRequest(crop="zz"), "The crop 'zz' is not in “people” any more"),
    ],
)
def test_what_goes_wrong_is_a_sentence(catalogue, request_, message):
    with pytest.raises(RequestError, match=message) as caught:
        search(catalogue, request_)
    assert str(caught.value).endswith((".", "?"))


def test_a_gallery_that_disappears(catalogue, gallery_path):
    search(catalogue, SearchRequest(text="red"))
    shutil.rmtree(gallery_path)
    with pytest.raises(RequestError, match="“people” cannot be read any more"):
        search(catalogue, SearchRequest(text="red"))


def test_rows_that_another_process_adds_are_found(catalogue, gallery_path, embedder):
    other = Gallery.open(gallery_path, model=embedder)
    other.add([{"id": "new", "image": Image.new("RGB", (8, 16), (0, 0, 255))}])
    assert "new" in ids(search(catalogue, SearchRequest(text="blue", k=2)))


def test_a_rank_that_is_not_there(catalogue):
    answer = search(catalogue, SearchRequest(text="red", k=2))
    for rank in (0, 3, -1):
        with pytest.raises(RequestError, match="search again"):
            answer.match(rank)


def test_a_wide_picture_is_noted(catalogue):
    answer = search(catalogue, SearchRequest(picture=Image.new("RGB", (200, 100), "red"), k=1))
    assert any("wider than high" in note for note in answer.result.notes)


def test_many_threads_get_their_own_answers(catalogue):
    wrong = []

    def ask(colour, expected):
        for _ in range(5):
            if ids(search(catalogue, SearchRequest(text=colour, k=1)))[0] not in expected:
                wrong.append(colour)

    threads = [threading.Thread(target=ask, args=pair) for pair in [("red", "abe"), ("green", "c"), ("blue", "d")] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_galleries_share_one_model_and_have_names_of_their_own(gallery_path, embedder, tmp_path):
    copy = tmp_path / "second" / "people"
    shutil.copytree(gallery_path, copy)
    catalogue = Catalogue.open([gallery_path, copy], model=embedder)
    assert catalogue.names == ["people", "people (2)"]
    assert len(catalogue.embedders) == 1
    assert catalogue.get("").name == "people"
    assert catalogue.get("people").cameras == sorted(["gate", "yard", EVIL])
    catalogue.close()


def test_an_empty_gallery_is_refused(gallery_path, embedder):
    Gallery.open(gallery_path, model=embedder).remove(["a", "b", "c", "d", "e", "f"])
    with pytest.raises(GalleryError, match="holds no crops"):
        Catalogue.open([gallery_path], model=embedder)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("text: expected words", "Expected words."),
        ("there is no camera 'x'; did you mean 'y'?", "There is no camera 'x'; did you mean 'y'?"),
    ],
)
def test_errors_as_sentences(message, sentence):
    assert as_sentence(message) == sentence
