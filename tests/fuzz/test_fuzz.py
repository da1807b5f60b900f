"""A thousand wrong inputs: every command answers with success, or with one message and exit code 2.

`make fuzz` makes 100 attempts in each area, `make test` the first one; the seeds are fixed, so that what
failed can be repeated with `pytest tests/fuzz -k AREA --fuzz-inputs N`.
"""

from __future__ import annotations

import difflib
import json
import random
import shutil

import pytest
import yaml
from fuzz.house import evaluation_arguments, recipe_fields
from fuzz.mutations import damage_file, mutate_arguments, mutate_text, mutate_tree
from fuzz.running import Attempt, fuzz, judge_data, option_names, run

import run_pretrain
import run_reid_eval
from mmet.data import doctor, to_parquet
from mmet.data.synthetic import __main__ as draw
from mmet.report import __main__ as report


def test_arguments_of_pretraining(house, inputs, tmp_path):
    options = option_names(run_pretrain)
    base = [str(house / "recipe.yaml"), "--output_dir", str(tmp_path / "run")]

    def attempt(rng: random.Random) -> Attempt:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        arguments = mutate_arguments(rng, base, options)
        return Attempt(repr(arguments), run(run_pretrain.main, arguments))

    fuzz("arguments of pretraining", inputs, attempt)


def test_recipes(house, inputs, tmp_path):
    fields = recipe_fields(house) | {"output_dir": str(tmp_path / "run"), "loss_schedule": {"mim": [[0, 1], [1, 0]]}}
    fields |= {"augmentation": {"flip_probability": 0.5}, "learning_rate": 1.0e-3, "seed": 1, "select_on": "last"}
    path, base = tmp_path / "recipe.yaml", yaml.safe_dump(fields, sort_keys=False).splitlines()

    def attempt(rng: random.Random) -> Attempt:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        text = yaml.safe_dump(mutate_tree(rng, fields), sort_keys=False)
        path.write_text(mutate_text(rng, text) if rng.random() < 0.3 else text, encoding="utf-8")
        changes = [line for line in difflib.unified_diff(base, path.read_text().splitlines(), n=0) if line[:1] in "+-"]
        return Attempt("\n".join(changes), run(run_pretrain.main, [str(path)]))

    fuzz("recipes", inputs, attempt)


def test_arguments_of_evaluation(house, inputs, tmp_path):
    options = option_names(run_reid_eval)
    base = [*evaluation_arguments(house)[:-1], str(tmp_path / "eval")]

    def attempt(rng: random.Random) -> Attempt:
        arguments = mutate_arguments(rng, base, options)
        return Attempt(repr(arguments), run(run_reid_eval.main, arguments))

    fuzz("arguments of evaluation", inputs, attempt)


@pytest.mark.parametrize("tool", ["doctor", "parquet", "drawing", "report"])
def test_arguments_of_tools(house, inputs, tmp_path, tool):
    module, base = {
        "doctor": (doctor, [f"market1501={house / 'market'}", f"folder={house / 'crops'}"]),
        "parquet": (to_parquet, [f"folder={house / 'crops'}", "--output", str(tmp_path / "out")]),
        "drawing": (draw, f"--layout finegpr --num_ids 1 --images_per_id 1 --output {tmp_path / 'out'}".split()),
        "report": (
            report,
            [
                *("--run", str(house / "model"), "--results", str(house / "eval" / "results.json")),
                *("--data", f"market1501={house / 'market'}", "--output", str(tmp_path / "out")),
            ],
        ),
    }[tool]
    options = option_names(module)

    def attempt(rng: random.Random) -> Attempt:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        arguments = mutate_arguments(rng, base, options)
        outcome = run(module.main, arguments)
        return Attempt(repr(arguments), judge_data(outcome) if tool == "doctor" else outcome)

    fuzz(f"arguments of {tool}", inputs, attempt)


def test_tables(house, inputs, tmp_path):
    text = (house / "crops" / "annotations.csv").read_text(encoding="utf-8")

    def attempt(rng: random.Random) -> Attempt:
        folder = tmp_path / "crops"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(house / "crops", folder)
        changed = mutate_text(rng, text)
        encoding = rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-8-sig"))
        (folder / "annotations.csv").write_text(changed, encoding=encoding, errors="replace")
        return Attempt(changed[:500], judge_data(run(doctor.main, [f"folder={folder}"])))

    fuzz("tables", inputs, attempt)


@pytest.mark.parametrize("layout", ["market", "pedes", "finegpr", "crops"])
def test_files_of_data(house, inputs, tmp_path, layout):
    name = {"market": "market1501", "pedes": "cuhk_pedes", "finegpr": "finegpr", "crops": "folder"}[layout]

    def attempt(rng: random.Random) -> Attempt:
        folder = tmp_path / layout
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(house / layout, folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        tables = [path for path in files if path.suffix in (".json", ".csv", ".jsonl", ".txt")]
        path = rng.choice(tables if tables and rng.random() < 0.4 else files)
        return Attempt(damage_file(rng, path), judge_data(run(doctor.main, [f"{name}={folder}", "--decode"])))

    fuzz(f"files of {layout}", inputs, attempt)


@pytest.mark.parametrize("use", ["evaluate", "continue", "report"])
def test_files_of_a_model(house, inputs, tmp_path, use):
    model = tmp_path / "model"
    out = tmp_path / "out"
    data = f"market1501={house / 'market'}"
    command, arguments = {
        "evaluate": (
            run_reid_eval.main,
            [*("--model_name_or_path", str(model), "--data", data, "--output_dir", str(out))],
        ),
        "continue": (
            run_pretrain.main,
            [str(house / "recipe.yaml"), "--model_name_or_path", str(model), "--output_dir", str(out)],
        ),
        "report": (
            report.main,
            [
                *("--run", str(model), "--results", str(house / "eval" / "results.json")),
                *("--data", data, "--output", str(out)),
            ],
        ),
    }[use]

    def attempt(rng: random.Random) -> Attempt:
        for folder in (model, out):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(house / "model", model)
        path = rng.choice(sorted(path for path in model.iterdir() if path.is_file()))
        return Attempt(damage_file(rng, path), run(command, arguments))

    fuzz(f"files of a model: {use}", inputs, attempt)


def test_results(house, inputs, tmp_path):
    stored = json.loads((house / "eval" / "results.json").read_text(encoding="utf-8"))
    path, out = tmp_path / "results.json", tmp_path / "out"

    def attempt(rng: random.Random) -> Attempt:
        text = json.dumps(mutate_tree(rng, stored))
        path.write_text(mutate_text(rng, text) if rng.random() < 0.2 else text, encoding="utf-8")
        arguments = ["--run", str(house / "model"), "--results", str(path), "--output", str(out)]
        return Attempt(text[:400], run(report.main, [*arguments, "--data", f"market1501={house / 'market'}"]))

    fuzz("results", inputs, attempt)
