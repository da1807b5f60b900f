"""What happens on the page, without a browser: each handler gives the page what it is to show."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import gradio as gr
import pytest
from page_people import EVIL
from PIL import Image

from mmet.app.explaining import Explanations
from mmet.app.handlers import CROPS, TRACKS, Visit
from mmet.app.page import UploadedFiles, UploadedPicture, build_page
from mmet.gallery import Gallery, ModelEmbedder
from modeling_mmet import MMETForReID

FILTERS = ([], "", "", 24, CROPS)


def event(**data):
    return gr.EventData(None, data)


@pytest.fixture
def page(make_page):
    return make_page()


@pytest.fixture
def visit(page):
    """After a search for red."""
    return page.search(None, "people", "red", None, "", *FILTERS)[0]


def values_in(part):
    if isinstance(part, dict):
        part = list(part.values())
    return [value for inner in part for value in values_in(inner)] if isinstance(part, (list, tuple)) else [part]


def test_the_description_of_the_page__holds_nothing_that_leads_to_the_model(page):
    """Gradio copies it, and all that it leads to, whenever somebody opens the page."""
    values = values_in(build_page(page).config)
    assert "mm-search" in values
    assert [value for value in values if hasattr(value, "__self__")] == []


def test_an_explainer_has_a_tokenizer_of_its_own(config, processor):
    """A call of a tokenizer sets its padding, and a batch may be embedded at that moment."""
    embedder = ModelEmbedder(MMETForReID(config).eval(), processor, "tiny")
    explainer = Explanations()._explainer(embedder)
    assert explainer.processor.tokenizer.backend_tokenizer is not processor.tokenizer.backend_tokenizer
    assert explainer.model.get_input_embeddings() is not embedder.model.get_input_embeddings()


def test_a_search_gives_matches_and_a_link(page):
    visit, answer, details, timeline, link = page.search(None, "people", "red", None, "", ["gate"], "", "", 12, TRACKS)
    assert answer.count("data-rank=") == 2
    assert (details, timeline) == ("", "")
    assert link == "gallery=people&text=red&camera=gate&k=12&tracks=1"
    assert visit.answer.match(1).camera_id == "gate"


@pytest.mark.parametrize(
    ("text", "words"), [("", "Type whom"), ("x" * 5000, "5,000 characters"), ("红色", "holds no word")]
)
def test_a_search_for_nothing_is_a_message(page, text, words):
    visit, answer, *_, link = page.search(None, "people", text, None, "", *FILTERS)
    assert words in answer
    assert 'role="alert"' in answer
    assert (visit.answer, link) == (None, "")


def test_a_picture_that_is_none_is_a_message(page, tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    assert "is not a picture" in page.search(None, "", "", str(tmp_path / "a.png"), "", *FILTERS)[1]


def test_what_nobody_expected_is_said_without_its_words(page, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("secret")

    monkeypatch.setattr("mmet.app.handlers.search", fail)
    answer = page.search(None, "", "red", None, "", *FILTERS)[1]
    assert "Something went wrong" in answer
    assert "secret" not in answer
    assert "secret" in caplog.text


def test_filters_do_nothing_before_there_is_anybody_to_search_for(page):
    assert all(value == gr.skip() for value in page.search_again(None, "", "", None, "", *FILTERS))
    assert "data-rank" in page.search_again(None, "", "red", None, "", *FILTERS)[1]


def test_a_link_restores_the_page(page):
    *fields, visit, answer, _, _, link = page.restore(None, "text=red&camera=gate&k=12&tracks=1")
    gallery, text, picture, crop, cameras, after, before, count, unit = fields
    assert (gallery, text, picture, crop, after, before, count, unit) == (
        "people",
        "red",
        None,
        "",
        "",
        "",
        12,
        TRACKS,
    )
    assert cameras["value"] == ["gate"]
    assert answer.count("data-rank=") == 2
    assert link == "gallery=people&text=red&camera=gate&k=12&tracks=1"
    assert visit.answer is not None


def test_a_link_of_a_crop_shows_its_picture(page):
    fields = page.restore(None, "crop=c")
    assert fields[2].getpixel((0, 0)) == (0, 255, 0)
    assert fields[3] == "c"


def test_no_link_and_a_damaged_one(page):
    assert all(value == gr.skip() for value in page.restore(None, ""))  # what was typed meanwhile stays
    assert "mm-welcome" in page.restore(None, "gallery=people")[10]
    assert "damaged" in page.restore(None, "k=x")[10]
    assert "no gallery" in page.restore(None, "gallery=x&text=red")[10]


def test_details_come_at_once_and_say_why_there_is_no_explanation(page, visit):
    first, *_, last = page.show_details(visit, event(rank=1))
    assert "Computing what made it similar" in first
    assert "cannot explain" in last  # colours are no model
    assert "Its track" in last or "track" in last


@pytest.mark.parametrize("data", [{}, {"rank": 0}, {"rank": 99}, {"rank": "1"}, {"rank": True}, {"rank": None}])
def test_details_of_what_is_not_there(page, visit, data):
    (only,) = page.show_details(visit, event(**data))
    assert 'role="alert"' in only


def test_details_before_a_search(page):
    assert "search first" in next(iter(page.show_details(None, event(rank=1))))


def test_find_this_person(page, visit):
    text, picture, crop = page.find_person(visit, event(find=1))
    assert text == ""
    assert picture.getpixel((0, 0)) == (255, 0, 0)
    outcome = page.search(visit, "people", text, "a stored copy", crop, *FILTERS)[0].answer
    assert crop not in {match.id for match in outcome.result}
    with pytest.raises(gr.Error, match="search again"):
        page.find_person(visit, event(find=99))


def test_errors_over_the_page_are_text(page, visit):
    """Gradio shows them as HTML."""
    match = visit.answer.match(1)
    Path(match.image_path).unlink()
    object.__setattr__(match, "id", EVIL)
    with pytest.raises(gr.Error) as caught:
        page.find_person(visit, event(find=1))
    assert "&lt;img src=x" in caught.value.message
    assert "<img" not in caught.value.message


def test_examples(page):
    assert page.take_example(None, "people", event(text="a man")) == ("a man", None, "")
    text, picture, crop = page.take_example(None, "people", event(sample=1))
    assert (text, crop, picture.getpixel((0, 0))) == ("", "a", (255, 0, 0))
    with pytest.raises(gr.Error, match="not here any more"):
        page.take_example(None, "people", event(sample=99))


def test_the_timeline(page, visit):
    shown = page.show_timeline(visit, event(timeline=1))
    assert "Where and when" in shown
    assert "yard" in shown


def test_a_timeline_without_times_is_a_message(page, visit, monkeypatch, tmp_path, embedder):
    visit = page.build_own(None, "people", _files(tmp_path))[0]
    visit = page.search(visit, "My pictures", "red", None, "", *FILTERS)[0]
    assert "time and a camera" in page.show_timeline(visit, event(timeline=1))


def _files(folder):
    Image.new("RGB", (8, 16), "red").save(folder / "own.png")
    return [str(folder / "own.png")]


def test_own_pictures_are_searched_and_forgotten(page, tmp_path):
    visit, choice, message = page.build_own(None, "people", _files(tmp_path))
    assert "1 picture can be searched" in message
    assert choice["value"] == "My pictures"
    assert page.search(visit, "My pictures", "red", None, "", *FILTERS)[0].answer.match(1).id == "own.png"
    again, *_ = page.build_own(visit, "My pictures", _files(tmp_path))
    assert not visit.own_gallery.folder.exists()
    page.forget(again)
    assert not again.own_gallery.folder.exists()
    assert page.build_own(Visit(), "people", None)[2].count("Choose the pictures first") == 1


def test_exports(page, visit):
    lines = page.export(visit, "csv").splitlines()
    assert lines[0].startswith("rank,id,score")
    assert len(lines) == 7
    sheet = page.export(visit, "html")
    assert sheet.startswith("<!doctype html>")
    assert "<img src=x" not in sheet
    with pytest.raises(gr.Error, match="search first"):
        page.export(None, "csv")


def test_galleries_are_read_only(page, visit, gallery_path, tmp_path):
    assert "read-only" in page.add_pictures("people", "gate", _files(tmp_path))
    assert "read-only" in page.remove_match(visit, event(remove=1))
    assert len(Gallery.open(gallery_path)) == 6


def test_unless_they_are_writable(make_page, gallery_path, tmp_path):
    page = make_page(writable=True)
    assert "1 added to “people”" in page.add_pictures("people", " gate ", _files(tmp_path))
    assert "own.png" in Gallery.open(gallery_path).known(["own.png"])
    visit = page.search(None, "people", "blue", None, "", *FILTERS)[0]
    name = visit.answer.match(1).id
    assert "Removed" in page.remove_match(visit, event(remove=1))
    assert not Gallery.open(gallery_path).known([name])


def test_searches_are_recorded_when_asked(make_page, tmp_path):
    page = make_page(log=tmp_path / "log.jsonl")
    page.search(None, "people", f"red {EVIL}\n", None, "", *FILTERS)
    page.search(None, "people", "", None, "", *FILTERS)
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["text"] == f"red {EVIL}\n"


def test_another_gallery(page):
    cameras, unit, answer, *_ = page.choose_gallery(None, "people")
    assert cameras["choices"] == sorted(["gate", "yard", EVIL])
    assert unit == TRACKS
    assert "mm-welcome" in answer
    assert "no gallery" in page.choose_gallery(None, "x")[2]


@pytest.mark.parametrize("component", [UploadedPicture, UploadedFiles])
def test_fields__made_anew_by_an_update_take_uploads_alone(component):
    field = component(label="a", render=False)
    anew = type(field)(**{**field.constructor_args, "label": "b"})  # as Gradio does for a visitor's page
    assert (anew.get_block_name(), anew.label) == (field.get_block_name(), "b")
    with pytest.raises(gr.Error, match="addresses are not fetched"):
        anew.move_resource_to_block_cache("http://127.0.0.1:1/a.png")
    with pytest.raises(gr.Error, match="addresses are not fetched"):
        asyncio.run(anew.async_move_resource_to_block_cache("data:image/png;base64,AAAA"))
