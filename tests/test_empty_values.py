"""An argument that is the empty string, as an unset variable of a shell leaves it, or holds a NUL: one message."""

from __future__ import annotations

import pytest
import yaml

from mmet.data.synthetic.__main__ import main as draw
from mmet.data.to_parquet import main as to_parquet
from mmet.report.__main__ import main as report
from run_pretrain import main as pretrain
from run_reid_eval import main as evaluate

EVALUATION = (
    "model_name_or_path",
    "data",
    "output_dir",
    "backbones",
    "compare",
    "seeds",
    "calibrate",
    "cache_dir",
    "query",
    "protocol",
    "baselines",
    "batch_size",
)
TRAINING = (
    "output_dir",
    "paired_data",
    "image_data",
    "text_data",
    "eval_data",
    "model_name_or_path",
    "model_config",
    "tokenizer_name",
    "person_segmenter",
    "mask_prior",
    "resume_from_checkpoint",
    "hub_model_id",
    "run_name",
    "report_to",
    "learning_rate",
)


def check_message(message: str, program: str, option: str) -> None:
    """One line that begins with the program, names the option and says what is wrong."""
    assert message.count("\n") == 1
    assert message.startswith(f"{program}: error: ")
    assert option in message
    assert "received an empty one" in message


@pytest.mark.parametrize("value", ["", "  "])
@pytest.mark.parametrize("name", EVALUATION)
def test_run_reid_eval__names_the_empty_argument(tmp_path, monkeypatch, capsys, name, value):
    monkeypatch.chdir(tmp_path)
    whole = {"model_name_or_path": "model", "data": "market1501=data"}
    options = [text for key, text_value in {**whole, name: value}.items() for text in (f"--{key}", text_value)]
    assert evaluate(options) == 2
    check_message(capsys.readouterr().err, "run_reid_eval.py", f"--{name}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", TRAINING)
def test_run_pretrain__names_the_empty_argument(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    fields = {"paired_data": ["finegpr=data"], "output_dir": "out"}
    recipe.write_text(yaml.safe_dump(fields), encoding="utf-8")
    assert pretrain([str(recipe), f"--{name}", ""]) == 2
    check_message(capsys.readouterr().err, "run_pretrain.py", f"--{name}")
    assert list(tmp_path.iterdir()) == [recipe]


@pytest.mark.parametrize("name", ["output_dir", "tokenizer_name", "mask_prior", "person_segmenter"])
def test_run_pretrain__names_the_empty_field_of_a_recipe(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    fields = {"paired_data": ["finegpr=data"], "output_dir": "out", name: ""}
    recipe.write_text(yaml.safe_dump(fields), encoding="utf-8")
    assert pretrain([str(recipe)]) == 2
    check_message(capsys.readouterr().err, "run_pretrain.py", name)


@pytest.mark.parametrize(
    ("main", "arguments", "option"),
    [
        (report, ["--run", "", "--results", "r", "--data", "market1501=x", "--output", "o"], "--run"),
        (report, ["--run", "r", "--results", "r", "--data", "market1501=x", "--output", ""], "--output"),
        (to_parquet, ["market1501=x", "--output", ""], "--output"),
        (draw, ["--layout", "finegpr", "--output", ""], "--output"),
    ],
)
def test_commands__name_the_empty_argument(tmp_path, monkeypatch, capsys, main, arguments, option):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    message = capsys.readouterr().err
    check_message(message, message.partition(": error")[0], option)
    assert list(tmp_path.iterdir()) == []


def test_nul__is_refused_with_the_arguments_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for main, options in (
        (evaluate, ["--model_name_or_path", "m", "--data", "market1501=x", "--output_dir", "a\0b"]),
        (pretrain, ["recipe.yaml", "--output_dir", "a\0b"]),
    ):
        (tmp_path / "recipe.yaml").write_text("paired_data: [finegpr=data]", encoding="utf-8")
        assert main(options) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert "argument --output_dir: expected text without NUL, received 'a\\x00b'" in message
