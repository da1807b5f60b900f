"""Names and words that no data set should hold: of pictures, folders, persons, cameras, models and rows of results."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest
from fuzz.house import ablation_arguments, evaluation_arguments
from fuzz.mutations import TEXTS, VALUES, damage_file, mutate_arguments, mutate_text, mutate_tree, replace_file
from fuzz.running import Attempt, Command, fuzz, judge_data, option_names, remove, run

import run_reid_eval
from mmet.ablate import __main__ as ablate
from mmet.data import doctor, to_parquet

WORDS = (
    *(
        "a\nb",
        "a|b",
        "a\0b",
        "\ud800",
        "\udcff",
        "-x",
        "--help",
        "..",
        ".",
        "x" * 251,
        "x" * 252,
        "人" * 83,
        "人" * 84,
        "",
    ),
    *(
        " ",
        "a/b",
        "a\\b",
        "C:\\x",
        "/x",
        "~",
        "*",
        "?",
        "[a]",
        "{0}",
        "%s",
        "$\\frac{",
        "<b>",
        "&amp;",
        "\x1b[31m",
        "\u202e",
    ),
    *(
        "'",
        '"',
        "`",
        "=1+1",
        "#",
        "a=b",
        "a?b=c",
        "人",
        "💥",
        "e\u0301",
        "\u00e9",
        "NUL",
        "a.",
        "\ufeff",
        "\u2028",
        "\r",
        "\t",
    ),
)

COMMANDS = ["doctor", "parquet", "evaluate"]


def command_on(name: str, house: Path, data: str, out: Path) -> tuple[Command, list[str]]:
    """A command that reads a data set."""
    model = ["--model_name_or_path", str(house / "model"), "--baselines", "histogram", "--ranked_lists", "1"]
    return {
        "doctor": (doctor.main, [data]),
        "parquet": (to_parquet.main, [data, "--output", str(out)]),
        "evaluate": (run_reid_eval.main, [*model, "--data", data, "--output_dir", str(out)]),
    }[name]


def rows_of(folder: Path) -> list[dict]:
    """The table of the crops as objects."""
    header, *lines = (folder / "annotations.csv").read_text(encoding="utf-8").splitlines()
    (folder / "annotations.csv").unlink()
    return [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]


@pytest.mark.parametrize("name", COMMANDS)
def test_words(house, inputs, tmp_path, name):
    """Pictures of odd names, and odd words for persons, cameras, captions and splits."""
    folder, out = tmp_path / "crops", tmp_path / "out"

    def attempt(rng: random.Random) -> Attempt:
        _fresh(house, folder, out)
        rows = rows_of(folder)
        changes = [_rename(rng, folder, rng.choice(rows)) for _ in range(rng.randint(1, 3))]
        lines = "\n".join(json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows)
        (folder / "annotations.jsonl").write_text(lines, encoding="utf-8", errors="surrogatepass")
        command, arguments = command_on(name, house, f"folder={folder}", out)
        return Attempt(repr(changes), judge_data(run(command, arguments)))

    fuzz(f"words: {name}", inputs, attempt)


def _rename(rng: random.Random, folder: Path, row: dict) -> str:
    field, word = rng.choice(sorted(row)), rng.choice(WORDS)
    if field == "image":
        picture, word = folder / row["image"], f"{word}.png" if rng.random() < 0.8 else word
        with contextlib.suppress(OSError, ValueError):  # a name that no file can have
            (folder / word).parent.mkdir(parents=True, exist_ok=True)
            picture.rename(folder / word)
    row[field] = word
    return f"{field}: {word!r}"


def test_lines_of_json(house, inputs, tmp_path):
    """Tables of one object a line."""
    folder, out = tmp_path / "crops", tmp_path / "out"

    def attempt(rng: random.Random) -> Attempt:
        _fresh(house, folder, out)
        rows = rows_of(folder)
        place = rng.randrange(len(rows))
        rows[place] = mutate_tree(rng, rows[place])
        table = folder / "annotations.jsonl"
        text = "\n".join(json.dumps(row) for row in rows)
        table.write_text(mutate_text(rng, text) if rng.random() < 0.3 else text, encoding="utf-8")
        change = replace_file(rng, table) if rng.random() < 0.2 else json.dumps(rows[place])
        return Attempt(change, judge_data(run(doctor.main, [f"folder={folder}"])))

    fuzz("lines of JSON", inputs, attempt)


@pytest.mark.parametrize("layout", ["market", "pedes", "finegpr", "crops"])
def test_foreign_files(house, inputs, tmp_path, layout):
    """Pictures, tables and folders of odd names beside those of the data set; files that never end; deep folders."""
    name = {"market": "market1501", "pedes": "cuhk_pedes", "finegpr": "finegpr", "crops": "folder"}[layout]
    folder = tmp_path / layout

    def attempt(rng: random.Random) -> Attempt:
        _fresh(house, folder, tmp_path / "out", layout)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        path = rng.choice(files)
        action = rng.choice(("rename", "copy", "replace", "deep", "damage"))
        if action == "replace":
            change = replace_file(rng, path)
        elif action == "damage":
            change = damage_file(rng, path)
        elif action == "deep":
            change = _put_deep(path, rng.choice((10, 1_500, 1_900)))
        else:
            word = rng.choice(WORDS) + rng.choice(("", path.suffix))
            change = f"{action} {path.name} to {word!r}"
            with contextlib.suppress(OSError, ValueError):  # a name that no file can have
                (shutil.copyfile if action == "copy" else os.rename)(path, path.parent / word)
        outcome = judge_data(run(doctor.main, [f"{name}={folder}"]))
        remove(folder)
        return Attempt(change, outcome)

    fuzz(f"foreign files: {layout}", inputs, attempt)


def _put_deep(path: Path, depth: int) -> str:
    """Move a file down some folders named `d`."""
    place = Path.cwd()
    os.chdir(path.parent)
    try:
        for _ in range(depth):
            Path("d").mkdir()
            os.chdir("d")
        os.rename(path, "deep" + path.suffix)  # noqa: PTH104 (relative to a folder too deep to be named)
    finally:
        os.chdir(place)
    return f"{path.name} {depth} folders deep"


@pytest.mark.parametrize("name", COMMANDS)
def test_data_arguments(house, inputs, tmp_path, name):
    """`name=folder?option=value` in every wrong form, and folders of odd names."""
    options = (
        "annotations",
        "pattern",
        "split",
        "captions",
        "mask",
        "masks",
        "seed",
        "test_fraction",
        "form",
        "images",
    )

    def attempt(rng: random.Random) -> Attempt:
        out = tmp_path / "out"
        word = rng.choice(WORDS)
        folder = tmp_path / "data" / word if rng.random() < 0.5 else tmp_path / "data" / "crops"
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)
        try:
            shutil.copytree(house / "crops", folder)
        except (OSError, ValueError):
            folder = house / "crops"
        data = f"{rng.choice(('folder', 'folder', 'folder', 'market1501', 'parquet', 'x', ''))}={folder}"
        if rng.random() < 0.6:
            value = rng.choice((*WORDS, *TEXTS, "(?P<person>.*)*$", "(a+)+$", "/dev/zero", "/dev/stdin", "true"))
            data += f"?{rng.choice(options)}={value}"
        command, arguments = command_on(name, house, data, out)
        return Attempt(repr(data), judge_data(run(command, arguments)))

    fuzz(f"data arguments: {name}", inputs, attempt)


def test_rows_of_results(house, inputs, tmp_path):
    """Every option of the evaluation in likely combinations, and rows of odd names."""
    options = option_names(run_reid_eval)
    choices = {
        "query": ("image", "text", "both"),
        "gallery": ("image", "text", "both"),
        "protocol": ("market", "cuhk03-classic", "text-to-image", "vehicle"),
        "baselines": ("chance", "histogram", "untrained"),
        "query_expansion": ("1", "1000000"),
        "itm_top_k": ("1", "1000000"),
        "itm_weight": ("0", "-1", "1e300", "nan"),
        "absent_share": ("0.01", "0.99"),
        "calibrate": (f"market1501={house / 'market'}", f"cuhk_pedes={house / 'pedes'}", f"folder={house / 'crops'}"),
        "calibration_method": ("isotonic", "platt"),
        "ranked_lists": ("1", "10"),
        "bootstrap": ("0", "1", "3"),
        "confidence": ("0.001", "0.999999"),
        "max_rank": ("10", "1000000000000"),
        "rerank_k1": ("1", "1000000"),
        "rerank_k2": ("1", "1000000"),
        "rerank_lambda": ("0", "1"),
        "batch_size": ("1", "65536"),
        "seed": ("0", str(2**32 - 1)),
        "bootstrap_unit": ("person", "query"),
    }
    flags = ("flip", "multi_query", "rerank", "open_set", "reliability", "no_use_cache")

    def attempt(rng: random.Random) -> Attempt:
        shutil.rmtree(tmp_path / "eval", ignore_errors=True)
        layout = rng.choice(
            (f"market1501={house / 'market'}", f"cuhk_pedes={house / 'pedes'}", f"folder={house / 'crops'}")
        )
        arguments = [*evaluation_arguments(house)[:2], "--data", layout, "--output_dir", str(tmp_path / "eval")]
        for name in rng.sample(sorted(choices), rng.randint(0, 4)):
            arguments += [f"--{name}", rng.choice(choices[name])]
        arguments += [f"--{flag}" for flag in rng.sample(flags, rng.randint(0, 2))]
        if rng.random() < 0.3:
            arguments += [
                rng.choice(("--compare", "--seeds", "--backbones")),
                f"{rng.choice(WORDS)}={house / 'model'}",
            ]
        if rng.random() < 0.3:
            arguments = mutate_arguments(rng, arguments, options)
        return Attempt(repr(arguments), run(run_reid_eval.main, arguments))

    fuzz("rows of results", inputs, attempt)


def test_arguments_of_ablation(ablation, inputs, tmp_path):
    """Nothing is trained: what a wrong argument leaves over is stopped by `--report_only`."""
    options = option_names(ablate)
    base = [*ablation_arguments(ablation)[:-1], str(tmp_path / "tables")]
    small = ["--world_persons", "2", "--world_images", "1", "--world_test_persons", "2", "--report_only"]

    def attempt(rng: random.Random) -> Attempt:
        arguments = mutate_arguments(rng, base, options)
        if rng.random() < 0.3:
            name = rng.choice(
                ("max_steps", "masked.max_steps", "identity.", ".", "", "seed", "output_dir", "batch_mix.x")
            )
            arguments += ["--set", f"{name}={rng.choice((*VALUES, *TEXTS))}".replace("\0", "")]
        return Attempt(repr(arguments), run(ablate.main, [*arguments, *small]))

    fuzz("arguments of ablation", inputs, attempt)


def _fresh(house: Path, folder: Path, out: Path, layout: str = "crops") -> None:
    for path in (folder, out):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(house / layout, folder)
