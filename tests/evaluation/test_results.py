"""The written report, read back as its users read it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmet.evaluation import (
    BootstrapOptions,
    EvaluationOptions,
    EvaluationReport,
    RankMetrics,
    RerankParameters,
    ResultRecord,
)
from mmet.evaluation.analyses.base import summarize
from mmet.evaluation.analyses.cmc import CmcCurves, plot_cmc
from mmet.evaluation.analyses.intervals import Differences, compare_systems, format_comparisons, format_intervals
from mmet.evaluation.analyses.open_set import OpenSet
from mmet.evaluation.analyses.reliability import CalibrationCheck
from mmet.evaluation.analyses.seeds import OverSeeds, summarize_seeds
from mmet.evaluation.metrics.bootstrap import QueryValues
from mmet.evaluation.results import format_console, format_table, save_report
from mmet.figure_style import LIGHT

ANALYSES = [CmcCurves(), Differences("model", [], None), OverSeeds(), OpenSet(0.5, 0), CalibrationCheck("model", {})]


def record(system="model", data="market1501", query="image", valid=3368, mean_ap=0.28349):
    cmc = np.linspace(0.5, 1, 50)
    metrics = RankMetrics(mean_ap, 0.1, cmc, num_queries=3368, num_valid_queries=valid, num_gallery=15913)
    return ResultRecord(data, "/data/x", "market", query, "image", system, metrics)


def test_save_report__json_has_the_documented_fields(tmp_path):
    report = EvaluationReport.now(
        "outputs/run", [record()], settings={"max_rank": 50}, summaries=summarize([], ANALYSES)
    )
    save_report(report, tmp_path / "new" / "folder", ANALYSES)
    content = json.loads((tmp_path / "new" / "folder" / "results.json").read_text(encoding="utf-8"))
    assert set(content) == {
        "model",
        "created",
        "versions",
        "settings",
        "systems",
        "results",
        "comparisons",
        "seeds",
    }
    assert (content["settings"], content["systems"], content["comparisons"], content["seeds"]) == (
        {"max_rank": 50},
        {},
        [],
        [],
    )
    assert content["model"] == "outputs/run"
    assert {"python", "torch", "transformers"} <= set(content["versions"])
    (row,) = content["results"]
    rules = row.pop("protocol_rules")
    assert (rules["name"], rules["ap"], rules["denominator"]) == ("market", "mean-precision", "valid")
    assert row.pop("cmc") == pytest.approx(np.linspace(0.5, 1, 50).tolist())
    assert row.pop("metrics") == pytest.approx(
        {"mAP": 0.28349, "mINP": 0.1, "rank1": 0.5, "rank5": 0.5 + 4 * 0.5 / 49, "rank10": 0.5 + 9 * 0.5 / 49}
    )
    assert row == {
        "data": "market1501",
        "data_root": "/data/x",
        "protocol": "market",
        "query": "image",
        "gallery": "image",
        "system": "model",
        "num_queries": 3368,
        "num_valid_queries": 3368,
        "num_gallery": 15913,
        "options": {},
    }


def test_save_report__replaces_and_leaves_no_temporary_files(tmp_path):
    for system in ("first", "second"):
        save_report(EvaluationReport.now("model", [record(system)]), tmp_path, ANALYSES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cmc.png", "results.json", "results.md"]
    markdown = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "second" in markdown
    assert "first" not in markdown
    assert "market1501 image→image: market" in markdown
    with Image.open(tmp_path / "cmc.png") as picture:
        picture.load()
        assert picture.width > 500


def test_save_report__keeps_the_old_file_when_writing_fails(tmp_path, monkeypatch):
    save_report(EvaluationReport.now("model", [record("first")]), tmp_path, ANALYSES)

    def fail_halfway(path, content, **_):
        with path.open("w") as file:
            file.write(content[:10])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fail_halfway)
    with pytest.raises(OSError, match="disk full"):
        save_report(EvaluationReport.now("model", [record("second")]), tmp_path, ANALYSES)
    assert json.loads((tmp_path / "results.json").read_bytes())["results"][0]["system"] == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cmc.png", "results.json", "results.md"]


def test_format_table__is_aligned_markdown_in_percent():
    table = format_table([record(), record("chance", data="cuhk_pedes", query="text", valid=3000, mean_ap=0.005)])
    assert table == (
        "| data       | query→gallery | system |  mAP | mINP | Rank-1 | Rank-5 | Rank-10 |   queries | gallery |\n"
        "| ---------- | ------------- | ------ | ---: | ---: | -----: | -----: | ------: | --------: | ------: |\n"
        "| market1501 | image→image   | model  | 28.3 | 10.0 |   50.0 |   54.1 |    59.2 |      3368 |   15913 |\n"
        "| cuhk_pedes | text→image    | chance |  0.5 | 10.0 |   50.0 |   54.1 |    59.2 | 3000/3368 |   15913 |\n"
    )


def test_plot_cmc__one_panel_a_query_kind_one_colour_a_system():
    figure = plot_cmc([record("chance"), record("model"), record("model", query="text")])
    first, second, *_ = LIGHT.series
    panels = {ax.get_title(loc="left"): {line.get_color() for line in ax.lines} for ax in figure.axes}
    assert panels == {"market1501, image→image": {first, second}, "market1501, text→image": {second}}
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xydata()[0], [1, 0.5])


def record_of(system, values, persons, query="image"):
    """A row whose mAP is the mean of `values`; the other metrics follow it."""
    metrics = RankMetrics(float(np.nanmean(values)), 0.1, np.linspace(0.5, 1, 50), len(values), len(values), 9)
    return ResultRecord(
        "market1501",
        "/data/x",
        "market",
        query,
        "image",
        system,
        metrics,
        query_values=QueryValues({"mAP": values}, persons),
    )


def test_compare_systems__a_constant_gain_is_certain_although_queries_differ_widely():
    persons = np.arange(40) // 2
    values = np.random.default_rng(0).uniform(0, 0.9, 40)
    rows = [record_of("model", values, persons), record_of("other", values + 0.05, persons)]
    (entry,) = compare_systems(rows, "model", ["other"], BootstrapOptions(100))
    assert (entry["system"], entry["reference"], entry["query"]) == ("other", "model", "image")
    assert entry["metrics"]["mAP"] == pytest.approx({"difference": 0.05, "low": 0.05, "high": 0.05})
    assert "| other - model | +5.0 [+5.0, +5.0] |" in format_comparisons([entry])


def test_compare_systems__compares_within_a_task_and_what_has_values():
    persons, values = np.arange(4), np.linspace(0, 1, 4)
    rows = [
        record_of("model", values, persons),
        record_of("model", values, persons, query="text"),
        record_of("other", 1 - values, persons, query="text"),
        record_of("third", values, persons),
        record("other"),
    ]
    compared = compare_systems(rows, "model", ["other"], BootstrapOptions(10))
    assert [(entry["query"], entry["system"]) for entry in compared] == [("text", "other")]


def test_compare_systems__one_person_gives_a_difference_without_interval():
    rows = [
        record_of(name, np.array([0.2, gain]), np.zeros(2, int)) for name, gain in (("model", 0.4), ("other", 0.6))
    ]
    (entry,) = compare_systems(rows, "model", ["other"], BootstrapOptions(10))
    assert entry["metrics"]["mAP"] == {"difference": pytest.approx(0.1), "low": None, "high": None}
    assert "+10.0 |" in format_comparisons([entry])


def test_compare_systems__other_queries_are_an_error():
    rows = [record_of("model", np.ones(2), np.array([1, 2])), record_of("other", np.ones(2), np.array([1, 3]))]
    with pytest.raises(ValueError, match="same queries"):
        compare_systems(rows, "model", ["other"], BootstrapOptions(10))


def test_summarize_seeds__mean_and_sample_deviation():
    rows = [record(system, mean_ap=value) for system, value in (("a", 0.2), ("b", 0.3), ("c", 0.7), ("other", 0.9))]
    (summary,) = summarize_seeds(rows, ["a", "b", "c"])
    assert summary["systems"] == ["a", "b", "c"]
    assert summary["metrics"]["mAP"].pop("values") == [0.2, 0.3, 0.7]
    assert summary["metrics"]["mAP"] == pytest.approx({"mean": 0.4, "std": np.sqrt(0.07)})


def test_format_intervals__is_empty_without_any():
    assert format_intervals([record()]) == ""
    assert format_comparisons([]) == ""


def options_line(records, folder):
    """What the written report says of options."""
    save_report(EvaluationReport.now("outputs/run", records), folder, ANALYSES)
    lines = (folder / "results.md").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("- Options: ")).removeprefix("- Options: ")


def test_save_report__a_plain_search_has_no_options(tmp_path):
    plain = {**EvaluationOptions().to_json()}
    rows = [replace(record(name), options=plain) for name in ("chance", "model")]
    assert options_line(rows, tmp_path) == "none (a plain search by cosine similarity)"


def test_save_report__options_of_all_rows_are_told_once(tmp_path):
    options = {**EvaluationOptions(flip=True, rerank=RerankParameters(k1=7)).to_json()}
    line = options_line([replace(record(query=query), options=options) for query in ("image", "both")], tmp_path)
    assert line == "flip, rerank with k1 7, k2 6, lambda_value 0.3, metric euclidean"


def test_save_report__options_of_some_rows_are_told_with_them(tmp_path):
    """Re-scoring touches one of a model's tasks, and no later task's row may hide it."""
    plain, rescored = EvaluationOptions().to_json(), EvaluationOptions(itm_top_k=5, itm_weight=0.5).to_json()
    rows = [
        replace(record("chance", query="text"), options=plain),
        replace(record("model", query="text"), options=rescored),
        replace(record("model", query="image"), options=plain),
    ]
    line = options_line(rows, tmp_path)
    assert line == (
        "none (chance; model on market1501 image→image); itm_top_k 5, itm_weight 0.5 (model on market1501 text→image)"
    )


def test_align_table__a_pipe_in_a_name_ends_no_cell():
    lines = format_table([record("a|b\nc")]).splitlines()
    assert len(lines) == 3
    assert r"a\|b" in lines[2]
    assert {line.replace(r"\|", "").count("|") for line in lines} == {11}


@pytest.mark.parametrize("name", [r"$\frac{", "a|b", "_hidden", "x\x00y\nz", "half \udc80", "{}%", "$_$^$"])
def test_save_report__any_name_can_be_written_and_drawn(tmp_path, name):
    save_report(EvaluationReport.now(name, [record(name, data=name)]), tmp_path, ANALYSES)
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert content["results"][0]["system"] == name
    assert (tmp_path / "cmc.png").stat().st_size > 1000


def test_format_console__says_protocol_and_options_and_has_every_table():
    options = {**EvaluationOptions(flip=True, query_expansion=3, rerank=RerankParameters()).to_json()}
    rates = {"verification": {"operating_points": [{"max_fpr": 0.01, "tpr": 0.5}]}}
    rates["open_set"] = {"absent_share": 0.5, "seed": 0, "operating_points": [{"max_fpir": 0.1, "fnir": 0.25}]}
    measured = {"ece": 0.125, "brier": 0.0625}
    extras = {**rates, "calibration": {"pairs": measured, "first": measured}}
    text = format_console(EvaluationReport.now("run", [replace(record(), options=options, extras=extras)]), ANALYSES)
    for part in ("market1501 image→image: market", "flip", "query_expansion 3", "rerank with k1 20", "TPR@FPR 0.01"):
        assert part in text
    for part in ("FNIR@FPIR 0.1", "25.0", "0.1250", "0.0625"):
        assert part in text
