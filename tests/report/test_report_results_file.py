"""`results.json` as the report reads it: whatever is not an evaluation's is refused by file and field."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from test_report_builder import command_line

from mmet.data import load_reid_dataset
from mmet.report.__main__ import main
from mmet.report.builder import collect_page, evaluation_words
from mmet.report.examples import ExampleSearch
from mmet.report.results_file import read_evaluation


def write(folder, rows, **fields):
    path = folder / "results.json"
    content = {"model": "run", "created": "2026-01-02", "versions": {"torch": "2.8"}, "results": rows, **fields}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def a_row(system="model", **changes):
    """A row of `results.json`; `metrics__mAP=1` changes a metric, `query="text"` a field."""
    row = {
        "data": "market1501",
        "data_root": "/data/market1501",
        "protocol": "market",
        "query": "image",
        "gallery": "image",
        "system": system,
        "metrics": {"mAP": 0.4, "mINP": 0.2, "rank1": 0.4, "rank5": 0.48, "rank10": 0.58},
        "cmc": [min(1.0, 0.4 + rank / 50) for rank in range(50)],
        "num_queries": 12,
        "num_valid_queries": 11,
        "num_gallery": 40,
    }
    for name, value in changes.items():
        holder, _, key = name.rpartition("__")
        (row[holder] if holder else row)[key] = value
    return row


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics__mAP": 57.3}, r"results\[0\]\.metrics\.mAP: .*at most 1, received 57\.3"),
        ({"metrics__rank1": float("nan")}, r"metrics\.rank1.*nan"),
        ({"metrics__mINP": -0.1}, r"metrics\.mINP.*-0\.1"),
        ({"metrics__mAP": "0.4"}, r"metrics\.mAP: expected a number"),
        ({"metrics": []}, r"metrics: expected an object"),
        ({"cmc": []}, "cmc: expected a curve, received an empty list"),
        ({"cmc": [0.5, 0.4]}, "cmc: expected a curve that never falls"),
        ({"metrics__rank10": 0.3}, r"metrics\.rank10: expected 0\.5\d+, as in its cmc, received 0\.3"),
        ({"cmc": [0.5, 1.4]}, r"cmc\[1\]"),
        ({"cmc": 0.5}, "cmc: expected a list"),
        ({"query": "audio"}, "query: expected one of image, text, both; received 'audio'"),
        ({"gallery": 3}, "gallery: expected text"),
        ({"protocol": "markt"}, "protocol: .*did you mean 'market'"),
        ({"num_valid_queries": 13}, "num_valid_queries: expected at most num_queries, 12"),
        ({"num_gallery": 1.5}, "num_gallery: expected a whole number"),
        ({"num_gallery": True}, "num_gallery: expected a whole number"),
        ({"intervals": {"metrics": {"mAP": [0.5, 0.3]}}}, r"intervals\.metrics\.mAP: .*reversed"),
        ({"intervals": {"metrics": {"mAP": [0.5]}}}, r"expected \[low, high\]"),
        ({"intervals": {"metrics": {"mAP": [-3, 40]}}}, r"intervals\.metrics\.mAP"),
        ({"system": None}, "system: expected text"),
        ({"options": 7}, "options: expected an object"),
    ],
)
def test_read_evaluation__names_file_and_field(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"results\.json.*{message}"):
        read_evaluation(write(tmp_path, [a_row(**changes)]))


def test_read_evaluation__one_system_twice_and_wrong_comparisons(tmp_path):
    with pytest.raises(ValueError, match="'model' twice"):
        read_evaluation(write(tmp_path, [a_row(), a_row()]))
    entry = {"metrics": {"mAP": {"difference": 0.1, "low": 0.2, "high": -0.1}}}
    with pytest.raises(ValueError, match=r"comparisons\[0\]\.metrics\.mAP"):
        read_evaluation(write(tmp_path, [a_row()], comparisons=[entry]))


@pytest.mark.parametrize("content", ["[]", "[" * 100_000, '{"a":' * 100_000, "", "null"], ids=range(5))
def test_main__results_that_are_none_are_one_line_and_exit_code_2(request_of, tmp_path, capsys, content):
    path = tmp_path / "results.json"
    path.write_text(content, encoding="utf-8")
    assert main(command_line(request_of, results=path, output=tmp_path / "out")) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "results.json" in line


def test_read_evaluation__every_row_keeps_its_own_name(tmp_path):
    rows = [a_row(name) for name in ("chance", "untrained", "siglip", "model", "random masking")]
    (task,) = read_evaluation(write(tmp_path, rows)).tasks
    labels = [result.label for result in task.results]
    assert labels == ["Chance", "MMET, untrained", "siglip", "MMET, trained", "random masking"]
    assert [result.variant for result in task.results] == [None, None, 0, None, 1]
    assert task.trained.system == "model"
    (without,) = read_evaluation(write(tmp_path, rows[:3])).tasks
    assert without.trained is None


def test_page_and_figures_show_a_backbone_by_its_name(request_of, tmp_path):
    rows = [a_row(), a_row(r"$\frac{ <siglip>")]
    path = write(tmp_path, rows)
    assert main(command_line(request_of, results=path, output=tmp_path / "out")) == 0
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert r"$\frac{ &lt;siglip&gt;" in page
    assert 'class="other0"' in page


def test_collect_page__searches_by_the_recorded_protocol_and_options(request_of, tmp_path):
    options = {"flip": True, "query_expansion": 2, "rerank": False, "multi_query": True, "itm_top_k": 0}
    path = write(tmp_path, [a_row(protocol="no-camera", options=options)])
    page = collect_page(replace(request_of, results=path))
    (search,) = [s for s in page.searches if isinstance(s, ExampleSearch) and s.task.query.modality == "image"]
    assert search.task.protocol == "no-camera"
    cameras_of = [(row.person_id, row.camera_id) for row in query_rows(request_of)]
    assert search.metrics.num_queries <= len(set(cameras_of))


def query_rows(request):
    """Person and camera of every query of the first data set."""
    name, root, _ = request.data[0]
    rows = load_reid_dataset(name, root)["query"].select_columns(["person_id", "camera_id"])
    return [SimpleNamespace(**row) for row in rows]


def test_collect_page__options_that_are_none_are_named(request_of, tmp_path):
    path = write(tmp_path, [a_row(options={"query_expansion": -1})])
    with pytest.raises(ValueError, match=r"results\.json.*query_expansion"):
        collect_page(replace(request_of, results=path))


def test_evaluation_words__repeat_what_the_run_was_told(tmp_path):
    settings = {"protocol": "no-camera", "baselines": ["chance"], "rerank": True, "rerank_k1": 7, "rerank_k2": 3}
    settings |= {"rerank_lambda": 0.2, "flip": False, "itm_top_k": 0, "itm_weight": 1.0, "batch_size": 9}
    evaluation = read_evaluation(write(tmp_path, [a_row()], settings=settings))
    words = " ".join(evaluation_words(evaluation))
    assert words == "--protocol no-camera --baselines chance --rerank --rerank_k1 7 --rerank_k2 3 --rerank_lambda 0.2"
