"""The folders that fuzz tests damage copies of: data of several layouts, a recipe, and what commands made of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml
from PIL import Image
from tiny_runs import tiniest_model

import run_pretrain
import run_reid_eval
from mmet.ablate import __main__ as ablate
from mmet.data import to_parquet
from mmet.data.synthetic import write_world


def build_house(root: Path) -> None:
    """
    Fill a folder.

    `finegpr`, `market`, `pedes` and `crops` are data; `model` is what `recipe.yaml` trains, `stopped` the same run
    after its first step; `eval` is the model's evaluation, with calibration and cached embeddings; `parquet` holds
    the crops.
    """
    common = {"images_per_id": 4, "seed": 3, "image_height": 60, "image_width": 30}
    write_world("finegpr", root / "finegpr", num_ids=4, **common)
    write_world("market1501", root / "market", num_train_ids=2, num_test_ids=4, **common)
    write_world("cuhk_pedes", root / "pedes", num_train_ids=2, num_test_ids=3, num_val_ids=2, **common)
    write_crops(root / "crops")
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe_fields(root)), encoding="utf-8")
    succeed(run_pretrain, [str(root / "recipe.yaml")])
    stopped = ["--output_dir", str(root / "stopped"), "--save_strategy", "steps", "--save_steps", "1"]
    succeed(run_pretrain, [str(root / "recipe.yaml"), *stopped, "--max_steps", "1"])
    for path in (root / "stopped").iterdir():
        if path.is_file():
            path.unlink()
    (root / "stopped" / "skipped_images.json").write_text('{"num_images": 0, "num_times": 0, "images": []}')
    market = f"market1501={root / 'market'}"
    succeed(run_reid_eval, [*evaluation_arguments(root), "--calibrate", market, "--open_set"])
    succeed(to_parquet, [f"folder={root / 'crops'}", "--output", str(root / "parquet"), "--shard_size", "5kB"])


def build_ablation(root: Path) -> None:
    """Measure table 3 with tiny recipes in `ablate`, and keep a copy of it in `ablate.kept`."""
    recipes = root / "recipes"
    recipes.mkdir()
    for stage in ("masked", "identity"):
        text = yaml.safe_dump({**recipe_fields(root), "batch_mix": {"paired": 1}, "image_data": [], "text_data": []})
        (recipes / f"synthetic_{stage}.yaml").write_text(text, encoding="utf-8")
    succeed(ablate, ablation_arguments(root))
    shutil.copytree(root / "ablate", root / "ablate.kept")


def succeed(module, arguments: Sequence[str]) -> None:
    code = module.main(list(arguments))
    assert code == 0, f"{module.__name__} {arguments} ended with {code}"


def recipe_fields(root: Path) -> dict:
    """A recipe that trains two steps."""
    source = [f"finegpr={root / 'finegpr'}"]
    return {
        "output_dir": str(root / "model"),
        "paired_data": source,
        "image_data": source,
        "text_data": source,
        "model_config": tiniest_model(),
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


def ablation_arguments(root: Path) -> list[str]:
    return [
        *("--tables", "3", "--seeds", "1", "--size", "small", "--recipes", str(root / "recipes")),
        *("--data", f"finegpr={root / 'finegpr'}", f"market1501={root / 'market'}", "--output", str(root / "ablate")),
    ]


def report_arguments(root: Path, output: Path) -> list[str]:
    return [
        *("--run", str(root / "model"), "--results", str(root / "eval" / "results.json")),
        *("--data", f"market1501={root / 'market'}", "--output", str(output)),
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
