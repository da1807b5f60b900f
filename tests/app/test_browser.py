"""The page in a real browser, Chromium without a window: what an operator does, from the first word to the export."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from page_people import EVIL, served
from PIL import Image

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT = 60_000
"""Milliseconds: tests may share two cores with others."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory, make_config, tokenizer):
    """An untrained model, which can explain itself."""
    import torch

    from mmet.gallery.embedding import ModelEmbedder
    from modeling_mmet import MMETForReID
    from processing_mmet import MMETImageProcessor, MMETProcessor

    torch.manual_seed(0)
    processor = MMETProcessor(MMETImageProcessor(size={"height": 52, "width": 28}), tokenizer)
    return ModelEmbedder(MMETForReID(make_config()).eval(), processor, "tiny")


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    """A page over a small gallery, served on this machine."""
    from page_people import build_people

    from mmet.app.catalogue import Catalogue
    from mmet.app.handlers import Handlers, PageOptions
    from mmet.app.service import ServiceOptions, build_service

    folder = tmp_path_factory.mktemp("browser")
    (folder / "uploads").mkdir()
    catalogue = Catalogue.open([build_people(folder, model)], model=model)
    service = build_service(Handlers(catalogue, PageOptions(), folder / "uploads"), ServiceOptions())
    with served(service) as address:
        yield address
    catalogue.close()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """The page, loaded; at the end, nothing was asked of other hosts and no script failed."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(WAIT)
    elsewhere, errors = [], []
    page.on("request", lambda request: elsewhere.append(request.url) if not is_here(request.url, address) else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector(".mm-welcome")
    yield page
    context.close()
    assert not elsewhere
    assert not errors


def is_here(url, address):
    return url.startswith((address, "data:", "blob:"))


def search(page, sentence):
    page.fill("#mm-text textarea, #mm-text input", sentence)
    page.keyboard.press("Enter")
    page.wait_for_selector(".mm-answer .mm-card")


def test_a_sentence_by_keyboard_to_details_and_explanation(page):
    search(page, "a man in red")
    assert page.locator(".mm-answer .mm-card").count() == 5  # tracks
    assert "text=a+man+in+red" in page.evaluate("location.hash")
    page.locator(".mm-answer .mm-card").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".mm-details")
    page.wait_for_selector(".mm-panels li:nth-child(5)")
    assert page.locator(".mm-panels span").all_inner_texts() == ["The whole query", "a", "man", "in", "red"]
    page.keyboard.press("Escape")
    page.wait_for_selector(".mm-details", state="detached")
    assert page.evaluate("document.activeElement.dataset.rank") == "1"


def test_words_of_files_are_text(page):
    search(page, "blue")
    page.locator(f".mm-card:has-text('{EVIL[:8]}')").first.click()
    page.wait_for_selector(".mm-details")
    assert EVIL in page.locator("#mm-results").inner_text()
    assert EVIL in page.locator("#mm-detail").inner_text()
    assert page.title() != "1"


def test_find_this_person_and_the_timeline(page):
    search(page, "red coat")
    page.locator(".mm-answer .mm-card").first.click()
    page.locator("[data-timeline]").click()
    page.wait_for_selector(".mm-timeline .mm-seen li")
    page.locator("[data-find]").click()
    page.wait_for_function("location.hash.includes('crop=')")
    page.wait_for_selector("#mm-picture img")
    page.wait_for_selector(".mm-details", state="detached")
    link = page.evaluate("location.href")
    page.goto("about:blank")
    page.goto(link)  # the link restores the query
    page.wait_for_selector(".mm-answer .mm-card")
    page.wait_for_selector("#mm-picture img")


def test_a_picture_filters_and_exports(page, tmp_path):
    Image.new("RGB", (30, 60), (255, 0, 0)).save(tmp_path / "red.png")
    page.set_input_files("#mm-picture input[type=file]", tmp_path / "red.png")
    page.wait_for_selector(".mm-answer .mm-card")
    page.locator("#mm-unit label:has-text('Crops')").click()
    page.wait_for_function("document.querySelectorAll('.mm-answer .mm-card').length == 6")
    page.fill("#mm-before textarea, #mm-before input", "0:30")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('.mm-answer .mm-card').length == 4")
    with page.expect_download() as download:
        page.locator("#mm-csv").click()
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert (download.value.suggested_filename, len(lines)) == ("people.csv", 5)
    with page.expect_download() as download:
        page.locator("#mm-sheet").click()
    assert Path(download.value.path()).read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("sentence", "words"), [("", "Type whom"), ("x" * 5_000, "5,000 characters"), ("红色", "holds no word")]
)
def test_messages(page, sentence, words):
    page.fill("#mm-text textarea, #mm-text input", sentence)
    page.locator("#mm-search").click()
    page.wait_for_selector(".mm-message")
    assert words in page.locator(".mm-message").inner_text()


def test_a_broken_picture(page, tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    page.set_input_files("#mm-picture input[type=file]", tmp_path / "a.png")
    page.wait_for_selector(".mm-message")
    assert "not a picture" in page.locator(".mm-message").inner_text()


def test_own_pictures(page, tmp_path):
    for colour in ("red", "blue"):
        Image.new("RGB", (30, 60), colour).save(tmp_path / f"{colour}.png")
    page.locator("#mm-own button").first.click()
    page.set_input_files("#mm-own input[type=file]", [tmp_path / "red.png", tmp_path / "blue.png"])
    page.wait_for_selector("#mm-own :text('blue')")
    page.locator("#mm-use").click()
    page.wait_for_selector(".mm-message:has-text('2 pictures can be searched')")
    search(page, "red")
    assert page.locator(".mm-answer .mm-card").count() == 2


def test_an_example_to_click(page):
    page.locator(".mm-samples .mm-card").first.click()
    page.wait_for_selector(".mm-answer .mm-card")
    assert re.search("crop=", page.evaluate("location.hash"))


def test_a_narrow_screen_does_not_scroll_sideways(page):
    page.set_viewport_size({"width": 375, "height": 800})
    search(page, "red")
    page.locator(".mm-answer .mm-card").first.click()
    page.wait_for_selector(".mm-details")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_both_colour_schemes(browser, address):
    grounds = []
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.goto(address)
        page.wait_for_selector(".mm-welcome")
        grounds.append(page.evaluate("getComputedStyle(document.querySelector('.mm-chip')).backgroundColor"))
        context.close()
    assert grounds[0] != grounds[1]
