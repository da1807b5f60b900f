"""Outputs that cannot be written, and a standard output that cannot show what is printed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz.house import ablation_arguments, evaluation_arguments, report_arguments
from fuzz.running import Attempt, Command, fuzz, judge_data, remove, run

import run_pretrain
import run_reid_eval
from mmet.ablate import __main__ as ablate
from mmet.data import doctor, extract_cuhk03, to_parquet
from mmet.data.synthetic import __main__ as draw
from mmet.report import __main__ as report

NOBODY = 65534

COMMANDS = ["pretrain", "evaluate", "report", "parquet", "draw", "ablate"]


def command_to(name: str, house: Path, output: str) -> tuple[Command, list[str]]:
    """A command that writes to a place of any name."""
    return {
        "pretrain": (run_pretrain.main, [str(house / "recipe.yaml"), f"--output_dir={output}"]),
        "evaluate": (run_reid_eval.main, [*evaluation_arguments(house)[:-2], f"--output_dir={output}"]),
        "report": (report.main, [*report_arguments(house, Path("x"))[:-2], f"--output={output}"]),
        "parquet": (to_parquet.main, [f"folder={house / 'crops'}", f"--output={output}"]),
        "draw": (
            draw.main,
            [*["--layout", "finegpr", "--num_ids", "1", "--images_per_id", "1"], f"--output={output}"],
        ),
        "ablate": (ablate.main, [*ablation_arguments(house)[:-2], f"--output={output}", "--report_only"]),
    }[name]


NAMES = (
    *(
        "",
        ".",
        "..",
        "-",
        "--",
        "-x",
        " ",
        "a b",
        "a\nb",
        "a|b",
        "a=b",
        "a?b=c",
        "a*[b]",
        "ä",
        "人",
        "\udcff",
        "~",
        "%s",
        "{0}",
    ),
    *(
        "$\\frac{",
        "<b>",
        "x" * 255,
        "x" * 256,
        "人" * 85,
        "人" * 86,
        "a/" * 1_500 + "b",
        "a/" * 2_100 + "b",
        "a\0b",
        "a/../b",
    ),
    *("/dev/null", "/dev/full", "/proc/none", "/sys/none", "/", "CON", "a\\b", "'", '"', "`", "\x1b[31m", "\u202e"),
)


@pytest.mark.parametrize("name", COMMANDS)
def test_names_of_outputs(ablation, inputs, tmp_path, name):
    def attempt(rng: random.Random) -> Attempt:
        remove(*Path.cwd().iterdir())
        output = rng.choice(NAMES)
        if rng.random() < 0.5:
            output = rng.choice((str(tmp_path / "new"), ".")) + "/" + output.lstrip("/")
        command, arguments = command_to(name, ablation, output)
        return Attempt(repr(output), run(command, arguments))

    fuzz(f"names of outputs: {name}", inputs, attempt)


@pytest.mark.parametrize("name", COMMANDS)
def test_places_of_outputs(ablation, inputs, name):
    """Something else in the place of the folder, or above it; a folder of another user; a full disk."""

    def attempt(rng: random.Random) -> Attempt:
        with tempfile.TemporaryDirectory() as root:
            Path(root).chmod(0o755)
            place = Path(root) / "place"
            kinds = {
                "a file": place.touch,
                "a pipe": lambda: os.mkfifo(place),
                "a device": lambda: place.symlink_to("/dev/zero"),
                "a link to nothing": lambda: place.symlink_to("nowhere"),
                "a link to itself": lambda: place.symlink_to("place"),
                "a folder of others": place.mkdir,
                "a folder that is not empty": lambda: shutil.copytree(ablation / "crops", place),
                "no folder": lambda: None,
            }
            kind = rng.choice(sorted(kinds))
            kinds[kind]()
            output = str(place / "below") if rng.random() < 0.3 else str(place)
            file_bytes = rng.choice((None, None, 0, 100, 1_000, 10_000, 100_000))
            others = nobody(ablation) if kind == "a folder of others" else contextlib.nullcontext()
            command, arguments = command_to(name, ablation, output)
            with others:
                outcome = run(command, arguments, file_bytes=file_bytes)
            return Attempt(f"{kind}, {output}, files up to {file_bytes}", outcome)

    fuzz(f"places of outputs: {name}", inputs, attempt)


@contextlib.contextmanager
def nobody(house: Path) -> Iterator[None]:
    """Not the superuser, whom no permission stops; one who may read the house."""
    if os.geteuid():
        yield
        return
    for folder in house.parents:
        if folder.is_relative_to(tempfile.gettempdir()) and folder != Path(tempfile.gettempdir()):
            folder.chmod(0o755)
    house.chmod(0o755)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def show_commands(house: Path, output: Path) -> dict[str, tuple[Command, list[str]]]:
    """Every command with arguments that make it print."""
    commands = {name: command_to(name, house, str(output)) for name in COMMANDS}
    commands["doctor"] = (doctor.main, [f"market1501={house / 'market'}", f"folder={house / 'crops'}"])
    commands["extract"] = (extract_cuhk03.main, ["no-such-file→.mat", str(output)])
    return commands


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16"])
def test_encodings(ablation, inputs, tmp_path, encoding):
    """Help, results and errors, all of which hold characters that the encoding lacks."""

    def attempt(rng: random.Random) -> Attempt:
        output = tmp_path / "→人\udcff"
        for path in tmp_path.iterdir():
            shutil.rmtree(path, ignore_errors=True)
        commands = show_commands(ablation, output)
        name = rng.choice(sorted(commands))
        command, arguments = commands[name]
        more = rng.choice(([], ["--help"], ["--→"], ["→人"]))
        outcome = run(command, [*arguments, *more], encoding=encoding)
        return Attempt(f"{name} {more}", judge_data(outcome))

    fuzz(f"encodings: {encoding}", inputs, attempt)
