"""The page's HTML: what it says, and that words from outside stay words."""

from __future__ import annotations

import html
from pathlib import Path

import pytest
from page_people import EVIL
from PIL import Image

from mmet.app.explaining import Panel
from mmet.app.requests import SearchRequest
from mmet.app.searching import search, sightings_of
from mmet.app.views import Thumbnails, Views
from mmet.gallery import SearchResult


@pytest.fixture
def views():
    return Views()


@pytest.fixture
def answer(catalogue):
    return search(catalogue, SearchRequest(text=f"red {EVIL}", k=6))


def test_an_answer_lists_its_matches(views, answer):
    page = views.answer(answer)
    assert page.count("data-rank=") == 6
    assert 'src="data:image/jpeg;base64,' in page
    assert "0:00" in page
    assert "1:00" in page
    assert "There are no probabilities" in page


@pytest.mark.parametrize("part", ["answer", "details", "timeline", "message", "welcome"])
def test_words_from_outside_are_text(part, views, answer):
    match = next(match for match in answer.result if match.camera_id == EVIL)
    page = {
        "answer": lambda: views.answer(answer),
        "details": lambda: views.details(
            answer, match, 1, track=answer.track_of(match), panels=[Panel(EVIL, Image.new("RGB", (9, 9)))], note=EVIL
        ),
        "timeline": lambda: views.timeline(sightings_of(answer, match)),
        "message": lambda: views.message(EVIL),
        "welcome": lambda: views.welcome(answer.offered),
    }[part]()
    assert html.escape(EVIL, quote=False).split(" ")[0] in page
    assert "<img src=x" not in page


@pytest.mark.parametrize(
    ("probability", "words"),
    [(0.9, "Probably here"), (0.5, "Cannot tell"), (0.1, "Probably not here")],
)
def test_whether_the_person_is_there_is_said_in_words(views, answer, probability, words):
    from dataclasses import replace

    page = views.answer(replace(answer, result=SearchResult(answer.result.matches, probability, (), 6)))
    assert words in page
    assert f"{100 * probability:.0f} %" in page
    assert "There are no probabilities" not in page


def test_no_match_is_no_empty_page(views, catalogue):
    answer = search(catalogue, SearchRequest(text="red", after="5:00:00"))
    assert "No crop passes these filters" in views.answer(answer)


def test_a_picture_that_is_gone_leaves_its_place(views, answer):
    for match in answer.result:
        Path(match.image_path).unlink()
    assert views.answer(answer).count("The picture cannot be read") == 6
    assert "cannot be read any more" in views.details(answer, answer.match(1), 1)


def test_thumbnails_follow_their_files_and_are_few(answer):
    thumbnails = Thumbnails(kept=2)
    match = answer.match(1)
    first = thumbnails(match)
    assert thumbnails(match) is first
    Image.new("RGB", (30, 60), "purple").save(match.image_path)
    assert thumbnails(match) != first
    for other in answer.result:
        thumbnails(other)
    assert len(thumbnails._pictures) == 2


def test_removing_is_offered_where_it_is_allowed(views, answer):
    assert "data-remove" not in views.details(answer, answer.match(1), 1)
    assert "data-remove" in views.details(answer, answer.match(1), 1, can_remove=True)


def test_the_footer_says_what_is_recorded(views):
    assert "keeps no record" in views.footer(logs=False)
    assert "are recorded" in views.footer(logs=True)
    assert "lawful" in views.footer(logs=False)
