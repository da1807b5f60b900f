"""The contact sheet: one file that says everything and runs nothing that users wrote."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from colour_embedder import ColourEmbedder
from PIL import Image

from mmet.evaluation.analyses.calibration import MatchCalibration
from mmet.gallery import Gallery, Query
from mmet.gallery.sheet import render_sheet

EVIL = '<script>alert("x")</script>'


class Page(HTMLParser):
    """The tags of a page, its text, and what it loads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.sources: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attributes if name in ("src", "srcset", "href")]

    def handle_data(self, data):
        self.text += data


def sheet_of(gallery, query, filters=(), **options):
    (result,) = gallery.search_batch([query], **options)
    return render_sheet(gallery, query, result, filters)


def test_sheet__shows_query_crops_and_facts(gallery, entries):
    page = Page(sheet_of(gallery, Query(image=entries[2]["image"], text="a green coat"), ["camera gate"], k=4))
    assert page.tags.count("img") == 1 + 4
    text = " ".join(page.text.split())
    for words in ("“a green coat”", "4 of 5 rows", "camera gate", "gate", "0:02", "seen in green", "score"):
        assert words in text
    assert "neither the model nor the gallery was calibrated for queries by image and sentence" in text


def test_sheet__asks_the_network_for_nothing(gallery, entries):
    html = sheet_of(gallery, Query(image=[entries[0]["image"], entries[1]["image"]]))
    assert all(source.startswith("data:image/jpeg") for source in Page(html).sources)
    assert not re.search(r"https?://|@import|url\(", html)
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_sheet__what_users_wrote_is_text(tmp_path, embedder):
    row = {"id": EVIL, "image": Image.new("RGB", (4, 8)), "camera_id": EVIL, "track_id": EVIL, EVIL: EVIL}
    gallery = Gallery.build([row], tmp_path / "g", model=embedder)
    page = Page(sheet_of(gallery, Query(text=f"red {EVIL}"), [EVIL]))
    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 6


@pytest.mark.parametrize(
    ("probability", "words"), [(0.99, "Probably here"), (0.2, "Cannot tell"), (0.001, "Probably not here")]
)
def test_sheet__says_in_words_whether_the_person_is_there(tmp_path, entries, probability, words):
    """Five rows of a prior of 1/5, all with one probability: odds four times as high as the probability's own."""
    flat = MatchCalibration("isotonic", 0.2, scores=(0.0,), probabilities=(probability,))
    gallery = Gallery.build(entries, tmp_path / "g", model=ColourEmbedder(calibrations={"text": flat}))
    text = Page(sheet_of(gallery, Query(text="red"))).text
    assert words in text
    assert ("most likely they show other people" in text) == (words == "Probably not here")


def test_sheet__a_crop_that_is_gone_leaves_a_place(gallery, entries, tmp_path):
    (tmp_path / "crops" / "a.png").unlink()
    html = sheet_of(gallery, Query(text="red"), k=2)
    assert Page(html).tags.count("img") == 1
    assert "cannot be read" in html


def test_sheet__without_a_match(gallery):
    assert "No row passes the filters" in sheet_of(gallery, Query(text="red"), camera_id=7, time=(0, 1))
