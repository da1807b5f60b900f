"""The report from the command line: its files, its errors, and the commands it prints."""

from __future__ import annotations

import io
import json
import math
import shlex
from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image

from mmet.data.synthetic import __main__ as synthetic_main
from mmet.report.__main__ import main
from mmet.report.builder import plan_figures, reproduction_commands, uniform_guesses, world_command
from mmet.report.charts import smooth
from mmet.report.results_file import read_evaluation
from mmet.report.training_history import read_history
from modeling_mmet import MMETForReID


def command_line(request, **changes):
    """The arguments of `python -m mmet.report` for a request; `changes` replaces values by name."""
    values = {
        "run": request.run,
        "results": request.results,
        "data": [str(argument) for argument in request.data],
        "training_data": [str(argument) for argument in request.training_data],
        "output": request.output,
        **changes,
    }
    words = []
    for name, value in values.items():
        words += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return words


def test_command_line_writes_page_overview_and_figures(request_of, tmp_path, capsys):
    assert main(command_line(request_of, output=tmp_path / "a" / "b")) == 0
    names = {path.name for path in (tmp_path / "a" / "b").iterdir()}  # a leftover temporary file would be among them
    galleries = {f"gallery_{kind}.png" for kind in ("image", "text", "both")}
    assert names == galleries | {"index.html", "report.png", "map.png", "cmc.png", "losses.png", "masks.png"}
    assert str(tmp_path / "a" / "b" / "index.html") in capsys.readouterr().out


def test_overview_is_1600_pixels_wide(page):
    assert Image.open(io.BytesIO(plan_figures(page)["report.png"]())).width == 1600


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("run", "nowhere"),
        ("results", "nowhere.json"),
        ("data", ["market1501=nowhere"]),
        ("training_data", ["finegpr=nowhere"]),
        ("data", ["nowhere"]),
        ("data", ["nowhere=x"]),
    ],
)
def test_wrong_paths_and_names_end_with_one_line_and_exit_code_2(request_of, tmp_path, capsys, argument, value):
    output = tmp_path / "out"
    assert main(command_line(request_of, output=output, **{argument: value})) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("python -m mmet.report: error: ")
    assert "nowhere" in lines[0]
    assert not output.exists()


def test_run_without_a_model_is_named(request_of, tmp_path, capsys):
    assert main(command_line(request_of, run=tmp_path, output=tmp_path / "out")) == 2
    assert f"--run: {tmp_path} holds no model" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"results": [{}]}', '{"results": [1]}', '{"results": 3}'])
def test_results_that_are_none_are_refused_by_file_name(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"results\.json"):
        read_evaluation(path)


def test_missing_metric_is_named(results, tmp_path):
    content = json.loads(results.read_text(encoding="utf-8"))
    del content["results"][0]["metrics"]["mINP"]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="'mINP'"):
        read_evaluation(path)


def test_history_holds_the_losses_that_were_logged(run):
    history = read_history(run)
    assert (history.num_steps, history.seconds) == (50, 228.4)
    losses = {series.name: series for series in history.losses}
    assert set(losses) == {"total", "itm", "identity"}
    assert losses["total"].steps.tolist() == [10, 20, 30, 40, 50]
    assert losses["total"].values.tolist() == pytest.approx([8, 7, 6, 5, 4])


def test_interrupted_run_has_no_duration(tmp_path):
    state = {"global_step": 7, "log_history": [{"step": 7, "loss": 1.5}]}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    assert read_history(tmp_path).seconds is None


def test_smooth_is_a_gaussian_mean_of_the_neighbours():
    values = [4.0, 0.0, 8.0, 1.0]
    for position, smoothed in enumerate(smooth(values, sigma=1)):
        weights = [math.exp(-((position - other) ** 2) / 2) for other in range(4)]
        expected = sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
        assert smoothed == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, 2, 50, 500])
def test_smooth_keeps_length_and_does_not_lag(count):
    falling = np.linspace(5, 1, count)
    smoothed = smooth(falling)
    assert smoothed.shape == (count,)
    assert np.mean(smoothed - falling) == pytest.approx(0, abs=1e-9)


def test_uniform_guesses_are_logarithms_of_class_counts(run):
    config = MMETForReID.from_pretrained(run).config
    guesses = uniform_guesses(config)
    assert guesses["mim"] == guesses["mmm_image"] == math.log(8)
    assert guesses["itm"] == math.log(2)
    assert guesses["identity"] == math.log(3)
    assert "triplet" not in guesses


@pytest.mark.parametrize("name", ["finegpr", "market1501", "cuhk_pedes"])
def test_printed_command_draws_the_very_same_world(worlds, capsys, name):
    words = shlex.split(world_command(worlds[name]))
    assert words[:3] == ["python", "-m", "mmet.data.synthetic"]
    synthetic_main.main(words[3:])
    assert capsys.readouterr().out.strip() == f"{worlds[name]}: already written"


def test_data_that_is_not_synthetic_has_no_drawing_command(tmp_path):
    assert world_command(tmp_path) is None
    (tmp_path / "SYNTHETIC.json").write_text("{}", encoding="utf-8")
    assert world_command(tmp_path) is None


def test_printed_report_command_parses_to_the_request(request_of, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("mmet.report.__main__.build_report", lambda request: seen.append(request) or tmp_path / "x")
    request = replace(request_of, output=tmp_path / "a folder")
    what, command = reproduction_commands(request)[-1]
    assert what == "Make this report"
    assert main(shlex.split(command)[3:]) == 0
    shown = [name.name for name in fields(request) if name.name not in ("data", "training_data")]
    assert all(getattr(seen[0], name) == getattr(request, name) for name in shown)
    assert list(seen[0].data) == list(request.data)
