"""The page as a reader's browser sees it: parsed, not searched for strings the template happens to hold."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from mmet.data import DataArgument, DatasetError
from mmet.report.builder import collect_page, plan_figures
from mmet.report.examples import ExampleSearch
from mmet.report.page import describe_duration, headline, render_page
from mmet.report.results_file import read_evaluation

LOADING_ATTRIBUTES = {"src", "srcset", "href", "data", "poster", "action", "xlink:href"}


class PageReader(HTMLParser):
    """Collects table rows, pictures, tags, what would be loaded, and the text of a page."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.images, self.loads, self.tags, self.text = [], [], [], [], []
        self.in_cell = False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in LOADING_ATTRIBUTES]
        if tag == "img":
            self.images.append(values)
        if tag == "tr":
            self.rows.append({"class": values.get("class", ""), "cells": []})
        if tag == "td":
            self.in_cell = True
            self.rows[-1]["cells"].append("")

    def handle_endtag(self, tag):
        if tag == "td":
            self.in_cell = False

    def handle_data(self, data):
        self.text.append(data)
        if self.in_cell:
            self.rows[-1]["cells"][-1] += data

    @property
    def words(self):
        return re.sub(r"\s+", " ", "".join(self.text))


@pytest.fixture(scope="module")
def html(page):
    return render_page(page)


@pytest.fixture(scope="module")
def reader(html):
    return PageReader(html)


def test_every_result_is_a_row_in_percent_and_the_trained_ones_stand_out(reader, results):
    labels = {"chance": "Chance", "histogram": "Colour histogram", "untrained": "MMET, untrained"}
    expected = [
        [labels.get(row["system"], "MMET, trained")]
        + [f"{100 * row['metrics'][name]:.1f}" for name in ("mAP", "mINP", "rank1", "rank5", "rank10")]
        for row in json.loads(results.read_text(encoding="utf-8"))["results"]
    ]
    shown = [row for row in reader.rows if row["cells"]]
    assert [row["cells"] for row in shown] == expected
    assert [row["class"] == "trained" for row in shown] == [
        "trained" in row[0] and "un" not in row[0] for row in expected
    ]


def test_page_loads_nothing_from_outside(html, reader):
    assert reader.loads
    assert all(value.startswith(("data:image/", "#")) for value in reader.loads)
    assert not {"script", "link", "iframe", "object", "base"} & set(reader.tags)
    assert "://" not in html
    assert not re.search(r"url\(|@import", html)


def test_pictures_decode_and_have_alternative_text(reader, page):
    num_crops = sum(len(ranked.candidates) for search in page.searches for ranked in search.lists)
    assert len(reader.images) > num_crops == 3 * 3 * 10
    for image in reader.images:
        assert image["alt"].strip()
        Image.open(io.BytesIO(base64.b64decode(image["src"].partition("base64,")[2]))).verify()


def test_ranked_crops_say_in_words_what_frames_say_in_colour(reader, page):
    matches = [c.is_match for search in page.searches for ranked in search.lists for c in ranked.candidates]
    verdicts = [image["alt"] for image in reader.images if image["alt"].startswith("Rank ")]
    assert ["the same person" in verdict for verdict in verdicts] == matches
    assert ["another person" in verdict for verdict in verdicts] == [not match for match in matches]


def test_captions_and_paths_are_text_not_markup(page):
    caption = """<script>alert("x")</script> & <img src=x onerror='y'> $x_{ \\frac"""
    search = next(search for search in page.searches if search.task.query.modality == "text")
    hostile = replace(search, lists=[replace(r, query=replace(r.query, caption=caption)) for r in search.lists])
    changed = replace(
        page, searches=[hostile], files=[("Model", "a<b>c</b>")], commands=[("Run", "x < y && <i>z</i>")]
    )
    reader = PageReader(render_page(changed))
    assert "script" not in reader.tags
    assert all("onerror" not in image for image in reader.images)
    assert all(text in "".join(reader.text) for text in (caption, "a<b>c</b>", "x < y && <i>z</i>"))
    # Nor does a figure take it for mathematics.
    assert plan_figures(changed)["gallery_text.png"]().startswith(b"\x89PNG")


def test_synthetic_pictures_are_declared_and_real_ones_are_not_called_synthetic(page, reader):
    assert page.is_synthetic
    assert "no real person is shown" in reader.words
    real = replace(page, targets=[replace(page.targets[0], is_synthetic=False, title="Market-1501")])
    assert "no real person is shown" not in PageReader(render_page(real)).words


def test_headline_states_model_training_and_search(page):
    sentence = headline(page)
    assert f"An MMET of {page.model.num_parameters:,} parameters, trained for" in sentence
    large = replace(page, model=replace(page.model, num_parameters=2_061_000))
    assert "An MMET of 2.1 million parameters, trained for" in headline(large)
    assert "50 steps (3 min 48 s)" in sentence
    assert "12 pictures of 3 people (synthetic, FineGPR layout)" in sentence
    assert "5 people in 30 pictures (synthetic, CUHK-PEDES layout)" in sentence


def test_parts_that_are_missing_are_left_out_with_a_reason(request_of, run, tmp_path):
    bare_run = tmp_path / "run"
    bare_run.mkdir()
    for file in run.iterdir():
        if file.name != "trainer_state.json":
            (bare_run / file.name).symlink_to(file)
    page = collect_page(replace(request_of, run=bare_run, data=request_of.data[:1], training_data=[]))
    one_task = replace(page, evaluation=replace(page.evaluation, tasks=page.evaluation.tasks[:1]))
    words = PageReader(render_page(one_task)).words
    assert "holds no trainer_state.json" in words
    assert "no training data was named" in words
    assert "“By sentence” is left out: split 'query' has no captions" in words
    assert "“By image and sentence” is left out" in words
    assert [isinstance(search, ExampleSearch) for search in page.searches] == [True, False, False]
    assert set(plan_figures(one_task)) == {"gallery_image.png", "map.png", "cmc.png", "report.png"}


def test_training_data_without_a_training_split_is_refused(request_of, tmp_path):
    Image.new("RGB", (8, 16)).save(tmp_path / "a.png")
    (tmp_path / "annotations.csv").write_text("image,person_id,split\na.png,1,test\n")
    with pytest.raises(DatasetError, match="has no training split, only test"):
        collect_page(replace(request_of, training_data=[DataArgument("folder", tmp_path, {})]))


def test_training_data_without_silhouettes_is_said_so(request_of):
    page = collect_page(replace(request_of, training_data=request_of.data[:1], data=request_of.data[:1]))
    assert "which the training data does not have" in PageReader(render_page(page)).words
    assert "masks.png" not in plan_figures(page)


def test_no_results_at_all(page):
    empty = replace(page, evaluation=replace(page.evaluation, tasks=[]))
    assert "the results file holds no result" in PageReader(render_page(empty)).words
    assert "map.png" not in plan_figures(empty)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.7, "1 min 0 s"), (228, "3 min 48 s"), (7500, "2 h 5 min")]
)
def test_describe_duration(seconds, words):
    assert describe_duration(seconds) == words


def test_results_are_grouped_by_task_in_their_order(results):
    tasks = read_evaluation(results).tasks
    assert [(task.data, task.query, task.gallery, len(task.results)) for task in tasks] == [
        ("market1501", "image", "image", 3),
        ("cuhk_pedes", "text", "image", 2),
    ]
    assert [task.trained.metrics["mAP"] for task in tasks] == [0.4267, 0.2938]
