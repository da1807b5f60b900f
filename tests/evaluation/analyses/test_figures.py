"""What the figures of an evaluation show, read back from their lines, labels and pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from mmet.evaluation import EvaluationOptions, RankMetrics, ResultRecord, build_task
from mmet.evaluation.analyses.cmc import CmcCurves
from mmet.evaluation.analyses.panels import figure_bytes
from mmet.evaluation.analyses.ranked_lists import RankedLists, choose_queries, list_rows, plot_ranked_lists
from mmet.evaluation.analyses.reliability import CALIBRATION, CalibrationCheck
from mmet.evaluation.search import run_search
from mmet.figure_style import LIGHT


def record(system="model", data="market1501", query="image", cmc=(0.5, 0.75, 1.0), extras=None):
    metrics = RankMetrics(0.6, 0.3, np.array(cmc), num_queries=4, num_valid_queries=4, num_gallery=9)
    return ResultRecord(data, "/data/x", "market", query, "image", system, metrics, extras=extras or {})


@pytest.fixture
def result(market_dataset):
    """Three queries whose lists hold right and wrong entries."""
    task = build_task(market_dataset, "image", "image")
    queries = np.eye(3, dtype=np.float32)
    order = {0: [1, 0.1, 0.2, 0.3, 0], 1: [0, 0.1, 0.8, 0, 0.9], 2: [0.3, 0.2, 0.1, 0, 0.4]}
    scores = np.array([order[query] for query in range(3)], np.float32).T[: len(task.gallery)]
    rest = np.sqrt(np.maximum(0, 1 - (scores**2).sum(axis=1, keepdims=True)))
    gallery = np.hstack([scores, rest]).astype(np.float32)
    return run_search(task, np.hstack([queries, np.zeros((3, 1), np.float32)]), gallery, EvaluationOptions())


def test_cmc__lines_are_the_rows_values_and_legends_their_rank_1():
    rows = [record(cmc=(0.5, 0.75, 1.0)), record("_other $x", cmc=(0.25, 0.5, 0.5))]
    (ax,) = CmcCurves().figures(rows)["cmc.png"].axes
    for line, row in zip(ax.lines, rows, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
        np.testing.assert_allclose(line.get_ydata(), row.metrics.cmc)
    assert [text.get_text().strip() for text in ax.get_legend().get_texts()] == ["model (50.0%)", "_other $x (25.0%)"]


def test_cmc__data_sets_of_one_name_in_two_folders_have_a_panel_each():
    other = ResultRecord("market1501", "/data/y", "market", "image", "image", "model", record().metrics)
    assert len(CmcCurves().figures([record(), other])["cmc.png"].axes) == 2


def test_reliability__curves_are_the_bins_and_rare_bins_are_hollow():
    bins = [
        {"predicted": 0.1, "observed": 0.2, "count": 3},
        {"predicted": 0.7, "observed": 0.6, "count": 400},
        {"predicted": 0.9, "observed": 1.0, "count": 9},
    ]
    measured = {kind: {"ece": 0.0123, "brier": 0.2, "bins": bins} for kind in ("pairs", "first")}
    check = CalibrationCheck("model", {})
    (ax,) = check.figures([record(extras={CALIBRATION: measured}), record("chance")])["reliability.png"].axes
    curves = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in curves] == [
        "all pairs: ECE 0.012, Brier 0.200",
        "first answers: ECE 0.012, Brier 0.200",
    ]
    for line in curves:
        assert line.get_xydata().tolist() == [[0.1, 0.2], [0.7, 0.6], [0.9, 1.0]]
    hollow = [line.get_xydata().tolist() for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert hollow == [[[0.1, 0.2], [0.9, 1.0]]] * 2


def test_reliability__no_figure_without_a_calibrated_row():
    assert CalibrationCheck("model", {}).figures([record()]) == {}


def test_choose_queries__best_worst_and_random_ones_of_those_with_a_match():
    precisions = np.array([0.5, np.nan, 0.9, 0.1, 0.9, 0.5])
    chosen = choose_queries(precisions, 2, seed=0)
    assert (chosen["best"], chosen["worst"]) == ([2, 4], [3, 0])
    drawn = {tuple(choose_queries(precisions, 2, seed=seed)["random"]) for seed in range(60)}
    assert {query for pair in drawn for query in pair} == {0, 2, 3, 4, 5}
    assert all(pair == tuple(sorted(set(pair))) and len(pair) == 2 for pair in drawn)
    assert [len(queries) for queries in choose_queries(precisions, 99, seed=0).values()] == [5, 5, 5]


def test_ranked_lists__are_in_the_order_of_a_sorted_list(result):
    queries, gallery = result.query_embeddings, result.gallery_embeddings
    persons = result.task.gallery.person_ids
    cameras = (result.task.query_exclusion_ids, result.task.gallery_exclusion_ids)
    for query, row in enumerate(list_rows(result, range(3), count=10)):
        person = result.task.query.person_ids[query]
        allowed = [g for g in range(len(gallery)) if persons[g] != person or cameras[0][query] != cameras[1][g]]
        ranked = sorted(allowed, key=lambda g: -float(gallery[g] @ queries[query]))
        assert [entry.score for entry in row[1:]] == pytest.approx(
            [float(gallery[g] @ queries[query]) for g in ranked]
        )
        assert [entry.is_match for entry in row[1:]] == [persons[g] == person for g in ranked]
        assert (row[0].is_match, row[0].score) == (None, None)


def test_plot_ranked_lists__frames_and_ticks_say_what_is_right(result):
    rows = list_rows(result, [1], count=2)
    query, *candidates = plot_ranked_lists(rows, ["a $\\frac{ label"], "title").axes
    for rank, (ax, entry) in enumerate(zip(candidates, rows[0][1:], strict=True), start=1):
        assert to_hex(ax.spines["top"].get_edgecolor()) == (LIGHT.match if entry.is_match else LIGHT.mismatch)
        assert ax.texts[0].get_text() == f"{rank} {'✓' if entry.is_match else '✗'}"
        assert f"{entry.score:.3f}" in ax.get_xlabel()
        np.testing.assert_array_equal(ax.images[0].get_array(), np.asarray(entry.image))
    assert query.get_title(loc="left") == "a $\\frac{ label"


def test_ranked_lists__the_files_that_a_row_names_are_pictures(result, tmp_path):
    analysis = RankedLists(tmp_path / "new", "model", count=2, seed=0, length=3)
    row = ResultRecord.of(result, system="model", data="a/b", data_root="/x")
    names = [name for _ in range(2) for name in analysis.compute(result, row)["ranked_lists"]]
    assert len(set(names)) == 6  # two data sets of one name keep their pictures apart
    assert {path.name for path in (tmp_path / "new").iterdir()} == set(names)
    for name in names:
        with Image.open(tmp_path / "new" / name) as picture:
            assert picture.format == "PNG"
    other = ResultRecord.of(result, system="chance", data="a/b", data_root="/x")
    assert analysis.compute(result, other) == {}


def test_figure_bytes__is_a_png_of_the_figures_size():
    figure = CmcCurves().figures([record(), record(data="other"), record(data="third"), record(data="fourth")])[
        "cmc.png"
    ]
    with Image.open(io.BytesIO(figure_bytes(figure))) as picture:
        assert picture.format == "PNG"
        assert picture.width == pytest.approx(150 * figure.get_figwidth(), abs=1)
