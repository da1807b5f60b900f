"""Damaged files that the commands left themselves: state, records, results, checkpoints, caches and shards.

A message must name the file that was damaged, or its folder.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fuzz.house import ablation_arguments, evaluation_arguments, report_arguments
from fuzz.mutations import VALUES, damage_file, damage_json, replace_file
from fuzz.running import Attempt, Command, fuzz, run
from safetensors import safe_open
from safetensors.torch import save_file

import run_pretrain
import run_reid_eval
from mmet.ablate import __main__ as ablate
from mmet.data import to_parquet
from mmet.data.synthetic import __main__ as draw
from mmet.report import __main__ as report

DRAWING = [
    "--layout",
    "finegpr",
    "--num_ids",
    "1",
    "--images_per_id",
    "1",
    "--image_height",
    "48",
    "--image_width",
    "24",
    "--output",
]


def command_on(use: str, house: Path, folder: Path, out: Path) -> tuple[Command, list[str]]:
    """A command that reads a folder of its own making."""
    training = [str(house / "recipe.yaml"), "--output_dir"]
    evaluation = [*evaluation_arguments(house)[2:-1], str(out), "--model_name_or_path", str(folder)]
    return {
        "resume": (run_pretrain.main, [*training, str(folder), "--resume_from_checkpoint", "true"]),
        "finished": (run_pretrain.main, [*training, str(folder), "--resume_from_checkpoint", "true"]),
        "continue": (run_pretrain.main, [*training, str(out), "--model_name_or_path", str(folder)]),
        "tokenizer": (run_pretrain.main, [*training, str(out), "--tokenizer_name", str(folder)]),
        "evaluate": (run_reid_eval.main, [*evaluation, "--reliability"]),
        "compare": (run_reid_eval.main, [*evaluation_arguments(house)[:-1], str(out), "--compare", str(folder)]),
        "cached": (
            run_reid_eval.main,
            [*evaluation_arguments(house)[:-1], str(folder), "--calibrate", *_market(house)],
        ),
        "report": (report.main, ["--run", str(folder), *report_arguments(house, out)[2:]]),
        "verify": (verify, [str(folder)]),
        "shards": (to_parquet.main, [f"parquet={folder}", "--output", str(out)]),
        "drawn": (draw.main, [*DRAWING, str(folder)]),
    }[use]


def verify(arguments: Sequence[str]) -> int:
    """Compare shards with their checksums. A difference is what the command is there to find, and no error."""
    return {1: 0}.get(code := to_parquet.main(["--output", *arguments, "--verify"]), code)


def _market(house: Path) -> list[str]:
    return [f"market1501={house / 'market'}"]


OF_VALUES = ("has no codes yet", "loss at step", "finite embeddings")
"""What the values of weights lead to, which headers do not tell."""

SOURCES = {
    "resume": "stopped",
    "cached": "eval",
    "verify": "parquet",
    "shards": "parquet",
    "drawn": "drawn",
}
"""The folder of the house that a use reads; the model where it is not here."""


@pytest.fixture(scope="module")
def drawn(house) -> None:
    assert draw.main([*DRAWING, str(house / "drawn")]) == 0


@pytest.mark.parametrize(
    "use",
    ["resume", "finished", "continue", "tokenizer", "evaluate", "compare", "cached", "report", "verify", "drawn"],
)
def test_state(house, drawn, inputs, tmp_path, use):
    folder, out = tmp_path / "folder", tmp_path / "out"
    command, arguments = command_on(use, house, folder, out)

    def attempt(rng: random.Random) -> Attempt:
        path = rng.choice(_fresh_copy(house / SOURCES.get(use, "model"), folder, out, "*.json"))
        return Attempt(damage_json(rng, path), run(command, arguments), (path.name, str(path.parent)))

    fuzz(f"state: {use}", inputs, attempt)


@pytest.mark.parametrize("use", ["resume", "continue", "evaluate", "cached", "verify", "shards"])
def test_other_files(house, inputs, tmp_path, use):
    folder, out = tmp_path / "folder", tmp_path / "out"
    command, arguments = command_on(use, house, folder, out)

    def attempt(rng: random.Random) -> Attempt:
        files = _fresh_copy(house / SOURCES.get(use, "model"), folder, out, "*")
        path = rng.choice([path for path in files if path.suffix != ".json"])
        damage = rng.choice((damage_file, replace_file))
        return Attempt(damage(rng, path), run(command, arguments), (path.name, str(path.parent), str(folder)))

    fuzz(f"other files: {use}", inputs, attempt)


@pytest.mark.parametrize("use", ["resume", "continue", "evaluate", "report"])
def test_weights_of_other_models(house, inputs, tmp_path, use):
    """Whole safetensors files whose tensors are not those of the configuration."""
    folder, out = tmp_path / "folder", tmp_path / "out"
    command, arguments = command_on(use, house, folder, out)

    def attempt(rng: random.Random) -> Attempt:
        files = _fresh_copy(house / SOURCES.get(use, "model"), folder, out, "model.safetensors")
        return Attempt(_change_tensors(rng, files[0]), run(command, arguments), (str(folder), *OF_VALUES))

    fuzz(f"weights: {use}", inputs, attempt)


def _change_tensors(rng: random.Random, path: Path) -> str:
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    changes = {
        "gone": lambda: tensors.pop(name),
        "renamed": lambda: tensors.update({f"{name}x": tensors.pop(name)}),
        "of other names": lambda: tensors.update({f"module.{key}": tensors.pop(key) for key in list(tensors)}),
        "longer": lambda: tensors.update({name: torch.cat([tensor.reshape(1, -1)] * 2)}),
        "empty": lambda: tensors.update({name: tensor[:0] if tensor.dim() else tensor.reshape(1)[:0]}),
        "a scalar": lambda: tensors.update({name: torch.tensor(1.0)}),
        "of whole numbers": lambda: tensors.update({name: torch.zeros_like(tensor, dtype=torch.int64)}),
        "complex": lambda: tensors.update({name: torch.zeros_like(tensor, dtype=torch.complex64)}),
        "NaN": lambda: tensors.update({name: torch.full_like(tensor, float("nan"))}),
        "huge": lambda: tensors.update({name: torch.full_like(tensor, 1e38)}),
        "all zero": lambda: tensors.update({key: torch.zeros_like(value) for key, value in tensors.items()}),
        "without metadata": lambda: metadata.clear(),
        "none": tensors.clear,
    }
    change = rng.choice(sorted(changes))
    changes[change]()
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    return f"{name} {change}"


@pytest.mark.parametrize("use", ["continue", "evaluate"])
def test_sharded_weights(house, inputs, tmp_path, use):
    """An index of shards that is damaged, or shards that are."""
    folder, out = tmp_path / "folder", tmp_path / "out"
    command, arguments = command_on(use, house, folder, out)

    def attempt(rng: random.Random) -> Attempt:
        (path,) = _fresh_copy(house / "model", folder, out, "model.safetensors")
        files = [_split(path), *sorted(folder.glob("model-*.safetensors"))]
        path = rng.choice(files)
        change = damage_json(rng, path) if path.suffix == ".json" else replace_file(rng, path)
        return Attempt(change, run(command, arguments), (str(folder),))

    fuzz(f"sharded weights: {use}", inputs, attempt)


def _split(path: Path) -> Path:
    """Divide a weight file in two; the index's path."""
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    path.unlink()
    names = sorted(tensors)
    places = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
    for place in set(places.values()):
        save_file({name: tensors[name] for name in names if places[name] == place}, path.with_name(place), metadata)
    index = path.with_name("model.safetensors.index.json")
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}), encoding="utf-8")
    return index


@pytest.mark.parametrize("use", ["continue", "evaluate", "report"])
def test_configurations(house, inputs, tmp_path, use):
    """`config.json` with other values, which the model, or the weights beside it, may not have."""
    folder, out = tmp_path / "folder", tmp_path / "out"
    command, arguments = command_on(use, house, folder, out)

    def attempt(rng: random.Random) -> Attempt:
        _fresh_copy(house / "model", folder, out, "config.json")
        path = folder / "config.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        part = content[rng.choice([key for key, value in content.items() if isinstance(value, dict)])]
        fields = part if rng.random() < 0.5 else content
        field = rng.choice(sorted(fields))
        fields[field] = rng.choice(VALUES)
        path.write_text(json.dumps(content), encoding="utf-8")
        return Attempt(f"{field}: {fields[field]!r:.200}", run(command, arguments), (str(folder),))

    fuzz(f"configurations: {use}", inputs, attempt)


def test_rows_of_shards(house, inputs, tmp_path):
    """Whole Parquet files of other columns, types and values."""
    folder, out = tmp_path / "folder", tmp_path / "out"
    command, arguments = command_on("shards", house, folder, out)

    def attempt(rng: random.Random) -> Attempt:
        path = rng.choice(_fresh_copy(house / "parquet", folder, out, "*.parquet"))
        (folder / "manifest.json").unlink()
        table = pq.read_table(path)
        change, changed = _change_table(rng, table)
        pq.write_table(changed, path)
        return Attempt(change, run(command, arguments), (str(folder),))

    fuzz("rows of shards", inputs, attempt)


def _change_table(rng: random.Random, table: pa.Table) -> tuple[str, pa.Table]:
    name = rng.choice(table.column_names)
    place, count = table.column_names.index(name), table.num_rows
    change = rng.choice(("drop", "rename", "double", "no rows", "nulls", "values", "values", "type", "no metadata"))
    if change == "drop":
        return f"without {name}", table.drop_columns([name])
    if change == "rename":
        return f"{name} renamed", table.rename_columns([f"{c}x" if c == name else c for c in table.column_names])
    if change == "double":
        return f"{name} twice", table.append_column(name, table.column(name))
    if change == "no rows":
        return "no rows", table.slice(0, 0)
    if change == "no metadata":
        return "no metadata", table.replace_schema_metadata(None)
    if change == "type":
        kind = rng.choice(
            (pa.null(), pa.float64(), pa.bool_(), pa.binary(), pa.large_string(), pa.date32(), pa.uint64())
        )
        return f"{name} as {kind}", table.set_column(place, name, pa.nulls(count, kind)).replace_schema_metadata(None)
    value: object = None
    if change == "values":
        value = rng.choice(
            (-2, 2**63, 1.5, "alice", "", "\ud800", b"\xff", [], ["a"], [None], {"bytes": b"", "path": ""})
        )
        value = rng.choice((value, {"bytes": b"\x89PNG", "path": "/dev/zero"}, {"bytes": None, "path": "0.png"}))
    try:
        column = pa.array([value] * count)
    except (pa.ArrowException, UnicodeError, OverflowError):
        column = pa.nulls(count)
    return f"{name}: {value!r}", table.set_column(place, name, column).replace_schema_metadata(None)


def test_manifests(house, inputs, tmp_path):
    """A conversion that was killed goes on from a folder `<output>.partial` whose manifest is damaged."""
    out, partial = tmp_path / "out", tmp_path / "out.partial"

    def attempt(rng: random.Random) -> Attempt:
        shutil.rmtree(partial, ignore_errors=True)
        _fresh_copy(house / "parquet", partial, out, "*")
        path = partial / "manifest.json"
        change = damage_json(rng, path)
        arguments = [f"folder={house / 'crops'}", "--output", str(out), "--shard_size", "5kB"]
        return Attempt(change, run(to_parquet.main, arguments), (str(partial),))

    fuzz("manifests", inputs, attempt)


def test_ablation(ablation, inputs, tmp_path):
    """What a measured table left, read by the same command."""
    folder = ablation / "ablate"

    def attempt(rng: random.Random) -> Attempt:
        _fresh_copy(ablation / "ablate.kept", folder, tmp_path / "out", "*")
        files = [*folder.rglob("evaluation-*.json"), *folder.rglob("training_result.json"), folder / "tables.json"]
        files += [*folder.rglob("config.json"), *folder.rglob("run_record.json"), *folder.rglob("recipe.yaml")]
        path = rng.choice(sorted(files))
        change = damage_json(rng, path) if path.suffix == ".json" else replace_file(rng, path)
        return Attempt(change, run(ablate.main, ablation_arguments(ablation)), (path.name, str(path.parent)))

    fuzz("ablation", inputs, attempt)


def _fresh_copy(source: Path, folder: Path, out: Path, pattern: str) -> Sequence[Path]:
    """Copy a folder of the house; its files whose names fit the pattern."""
    for path in (folder, out):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(source, folder)
    return sorted(path for path in folder.rglob(pattern) if path.is_file())
