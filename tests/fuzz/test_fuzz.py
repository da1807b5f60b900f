"""A thousand wrong inputs: every command answers with success, or with one message and exit code 2.

`make fuzz` makes 100 attempts in each of 15 areas, `make test` the first four; the seeds are fixed, so that what
failed can be repeated with `pytest tests/fuzz -k AREA --fuzz-inputs N`.
"""

from __future__ import annotations

import difflib
import json
import random
import shutil
from pathlib import Path

import pytest
import yaml
from fuzz.mutations import damage_file, mutate_arguments, mutate_text, mutate_tree
from fuzz.running import Outcome, fuzz, run
from PIL import Image

import run_pretrain
import run_reid_eval
from mmet.data import doctor, to_parquet
from mmet.data.synthetic import __main__ as draw
from mmet.data.synthetic import write_world
from mmet.report import __main__ as report

ENCODER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture
def inputs(request) -> int:
    """Attempts in each area."""
    return request.config.getoption("--fuzz-inputs")


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Path:
    """Data of several layouts, a recipe, a model that it trained, and its evaluation."""
    root = tmp_path_factory.mktemp("house")
    common = {"images_per_id": 4, "seed": 3, "image_height": 60, "image_width": 30}
    write_world("finegpr", root / "finegpr", num_ids=4, **common)
    write_world("market1501", root / "market", num_train_ids=2, num_test_ids=4, **common)
    write_world("cuhk_pedes", root / "pedes", num_train_ids=2, num_test_ids=3, num_val_ids=2, **common)
    write_crops(root / "crops")
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe_fields(root)), encoding="utf-8")
    assert run_pretrain.main([str(root / "recipe.yaml")]) == 0
    assert run_reid_eval.main(evaluation_arguments(root)) == 0
    return root


def recipe_fields(root: Path) -> dict:
    """A recipe that trains two steps."""
    source = [f"finegpr={root / 'finegpr'}"]
    return {
        "output_dir": str(root / "model"),
        "paired_data": source,
        "image_data": source,
        "text_data": source,
        "model_config": {
            "image_config": {**ENCODER, "image_size": [52, 28]},
            "text_config": {**ENCODER, "max_position_embeddings": 48},
            "multimodal_config": ENCODER,
            "projection_dim": 8,
            "codebook_size": 8,
        },
        "vocab_size": 1000,
        "max_text_length": 24,
        "batch_mix": {"paired": 1, "identity": 1},
        "persons_per_batch": 2,
        "images_per_person": 2,
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "validation_identities": 0,
    }


def evaluation_arguments(root: Path) -> list[str]:
    return [
        *("--model_name_or_path", str(root / "model"), "--data", f"market1501={root / 'market'}"),
        *("--baselines", "chance", "--bootstrap", "10", "--output_dir", str(root / "eval")),
    ]


def write_crops(folder: Path) -> None:
    """A folder of one's own with a table."""
    folder.mkdir()
    lines = ["image,person_id,camera_id,caption,split"]
    for number in range(8):
        Image.new("RGB", (20, 40), (30 * number, 90, 200 - 20 * number)).save(folder / f"{number}.png")
        split = "train" if number < 4 else "query" if number % 2 else "gallery"
        lines.append(f"{number}.png,{number // 2},{number % 2},a person in colour {number},{split}")
    (folder / "annotations.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Relative paths of mutated inputs end here, several folders deep."""
    folder = tmp_path / "a" / "b" / "c" / "d"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)


def option_names(main_module) -> list[str]:
    """The options that a command's `--help` shows; those that start processes or reach for a network are left out."""
    outcome = run(main_module.main, ["--help"])
    words = {word.strip("[],|") for word in outcome.output.split() if word.strip("[").startswith("--")}
    names = {word[2:].partition("=")[0] for word in words}
    return sorted(name for name in names if name and "worker" not in name and "hub" not in name and name != "help")


def test_arguments_of_pretraining(house, inputs, tmp_path):
    options = option_names(run_pretrain)
    base = [str(house / "recipe.yaml"), "--output_dir", str(tmp_path / "run")]

    def attempt(rng: random.Random) -> tuple[str, Outcome]:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        arguments = mutate_arguments(rng, base, options)
        return repr(arguments), run(run_pretrain.main, arguments)

    fuzz("arguments of pretraining", inputs, attempt)


def test_recipes(house, inputs, tmp_path):
    fields = recipe_fields(house) | {"output_dir": str(tmp_path / "run"), "loss_schedule": {"mim": [[0, 1], [1, 0]]}}
    fields |= {"augmentation": {"flip_probability": 0.5}, "learning_rate": 1.0e-3, "seed": 1, "select_on": "last"}
    path, base = tmp_path / "recipe.yaml", yaml.safe_dump(fields, sort_keys=False).splitlines()

    def attempt(rng: random.Random) -> tuple[str, Outcome]:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        text = yaml.safe_dump(mutate_tree(rng, fields), sort_keys=False)
        path.write_text(mutate_text(rng, text) if rng.random() < 0.3 else text, encoding="utf-8")
        changes = [line for line in difflib.unified_diff(base, path.read_text().splitlines(), n=0) if line[:1] in "+-"]
        return "\n".join(changes), run(run_pretrain.main, [str(path)])

    fuzz("recipes", inputs, attempt)


def test_arguments_of_evaluation(house, inputs, tmp_path):
    options = option_names(run_reid_eval)
    base = [*evaluation_arguments(house)[:-1], str(tmp_path / "eval")]

    def attempt(rng: random.Random) -> tuple[str, Outcome]:
        arguments = mutate_arguments(rng, base, options)
        return repr(arguments), run(run_reid_eval.main, arguments)

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

    def attempt(rng: random.Random) -> tuple[str, Outcome]:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        arguments = mutate_arguments(rng, base, options)
        outcome = run(module.main, arguments)
        return repr(arguments), judge_data(outcome) if tool == "doctor" else outcome

    fuzz(f"arguments of {tool}", inputs, attempt)


def test_tables(house, inputs, tmp_path):
    text = (house / "crops" / "annotations.csv").read_text(encoding="utf-8")

    def attempt(rng: random.Random) -> tuple[str, Outcome]:
        folder = tmp_path / "crops"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(house / "crops", folder)
        changed = mutate_text(rng, text)
        encoding = rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-8-sig"))
        (folder / "annotations.csv").write_text(changed, encoding=encoding, errors="replace")
        return changed[:500], judge_data(run(doctor.main, [f"folder={folder}"]))

    fuzz("tables", inputs, attempt)


@pytest.mark.parametrize("layout", ["market", "pedes", "finegpr", "crops"])
def test_files_of_data(house, inputs, tmp_path, layout):
    name = {"market": "market1501", "pedes": "cuhk_pedes", "finegpr": "finegpr", "crops": "folder"}[layout]

    def attempt(rng: random.Random) -> tuple[str, Outcome]:
        folder = tmp_path / layout
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(house / layout, folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        tables = [path for path in files if path.suffix in (".json", ".csv", ".jsonl", ".txt")]
        path = rng.choice(tables if tables and rng.random() < 0.4 else files)
        return damage_file(rng, path), judge_data(run(doctor.main, [f"{name}={folder}", "--decode"]))

    fuzz(f"files of {layout}", inputs, attempt)


def judge_data(outcome: Outcome) -> Outcome:
    """The doctor ends with 1 where it found something to mend: that is an answer, too."""
    return Outcome(0, outcome.output, outcome.errors) if outcome.code == 1 and outcome.output else outcome


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

    def attempt(rng: random.Random) -> tuple[str, Outcome]:
        for folder in (model, out):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(house / "model", model)
        path = rng.choice(sorted(path for path in model.iterdir() if path.is_file()))
        return damage_file(rng, path), run(command, arguments)

    fuzz(f"files of a model: {use}", inputs, attempt)


def test_results(house, inputs, tmp_path):
    stored = json.loads((house / "eval" / "results.json").read_text(encoding="utf-8"))
    path, out = tmp_path / "results.json", tmp_path / "out"

    def attempt(rng: random.Random) -> tuple[str, Outcome]:
        text = json.dumps(mutate_tree(rng, stored))
        path.write_text(mutate_text(rng, text) if rng.random() < 0.2 else text, encoding="utf-8")
        arguments = ["--run", str(house / "model"), "--results", str(path), "--output", str(out)]
        return text[:400], run(report.main, [*arguments, "--data", f"market1501={house / 'market'}"])

    fuzz("results", inputs, attempt)
