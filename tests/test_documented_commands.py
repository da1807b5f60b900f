"""Every command that README, documents and docstrings show does what they say: each is run, on data small enough.

Folders of published datasets become drawn ones in the same layout, models become one that two steps trained, and runs
are cut to a step. Commands that take minutes whatever their input, or never end (`LONG`), are held against their
`--help` alone.
"""

from __future__ import annotations

import ast
import configparser
import contextlib
import importlib
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tiny_runs import tiniest_model

from mmet.data.__main__ import TOOLS
from mmet.data.synthetic import write_world
from mmet.data.synthetic.video import write_films
from mmet.gallery import Gallery

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path
    for folder in (".", "docs", "docs/api", "benchmarks", "app/space", "mmet/starter", "mmet/evaluation/reid")
    for path in ROOT.glob(f"{folder}/*.md")
)
MODULES = sorted([*ROOT.glob("*.py"), *ROOT.glob("mmet/**/*.py"), *ROOT.glob("benchmarks/*.py")])
COMMAND = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:(?:\.venv/bin/)?python|accelerate launch|torchrun|mmet-\w+) .*")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ELSEWHERE = {
    "make": "targets are looked up below",
    "pip": "extras are looked up below; tests/packaging installs the wheel",
    "git": "a clone and a worktree of the reader's",
    "for": "a loop around commands that are checked",
    "done": "its end",
    "export": "a variable for such commands",
    "curl": "tests/serving asks the same of a server",
    "docker": "no container can be built here",
    "hf": "needs an account of the Hub",
    "apt-get": "fetches a public video",
    "cp": "puts it in its place",
}
"""Programs in documents that no test here runs, and why."""

INSTALLED = {
    "mmet-ablate": "mmet.ablate",
    "mmet-app": "mmet.app",
    "mmet-doctor": "mmet.data.doctor",
    "mmet-eval": "run_reid_eval.py",
    "mmet-explain": "mmet.explain",
    "mmet-export": "mmet.export",
    "mmet-footage": "mmet.footage",
    "mmet-gallery": "mmet.gallery",
    "mmet-pretrain": "run_pretrain.py",
    "mmet-report": "mmet.report",
    "mmet-serve": "mmet.serving",
} | {f"mmet-data {name}": tool.module.removesuffix(".__main__") for name, tool in TOOLS.items()}
"""Installed commands, and what they are in a checkout; the options of others are held against their `--help`."""

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
ENTRY_POINTS = dict(re.findall(r"(\S+) = (\S+)", SETUP["options.entry_points"]["console_scripts"]))

LAYOUTS = {
    "finegpr": {"num_ids": 4},
    "market1501": {"num_train_ids": 2, "num_test_ids": 4},
    "cuhk_pedes": {"num_train_ids": 2, "num_test_ids": 3, "num_val_ids": 2},
    "msmt17": {"num_train_ids": 3, "num_test_ids": 3},
    "dukemtmc": {"num_train_ids": 2, "num_test_ids": 4},
    "randperson": {"num_ids": 4},
}
GALLERIES = {name: name for name in ("people", "people-of-the-yard")}
GALLERIES |= {"vtest-people": "people", "people-of-two": "people-of-the-yard"}
"""Galleries that commands name, and which of `house` is copied to their place."""

FILMS = {"num_people": 2, "num_cameras": 1, "seconds": 2.0, "fps": 5, "image_height": 136, "image_width": 240}
LONG = ("mmet.ablate", "mmet.app", "mmet.export", "mmet.serving", "mmet.starter", "benchmarks/")
TINY = {
    "model_config": tiniest_model(),
    **{"vocab_size": 1000, "max_text_length": 24, "persons_per_batch": 2, "images_per_person": 2},
    **{"per_device_train_batch_size": 4, "max_steps": 1, "warmup_steps": 0, "save_strategy": "no", "logging_steps": 1},
    **{
        "validation_identities": 0,
        "report_to": "none",
        "disable_tqdm": True,
        "batch_mix": {"paired": 1, "identity": 1},
    },
}


def documented_commands() -> Iterator[tuple[str, str]]:
    """Each distinct command with the place where it stands first; lines that end in a backslash are joined."""
    seen = set()
    for path in (*DOCUMENTS, *MODULES):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            text = ast.get_docstring(ast.parse(text)) or ""
        text = re.sub(r"\s*\\\\?\n\s*", " ", text)
        lines = [line.strip() for line in text.splitlines()]
        for span in lines + re.findall(r"`([^`\n]+)`", text):
            command = re.sub(r"\s+#.*", "", span).strip()
            least = 2 if command.startswith("mmet-") and span in lines else 4
            # Few words name a program, and are no example of its use.
            names_a_program = len(command.split()) < least and "benchmarks/" not in command
            if (
                COMMAND.match(command)
                and not names_a_program
                and not re.search("…|DIR", command + span)
                and command not in seen
            ):
                seen.add(command)
                yield f"{path.relative_to(ROOT)}: {command}", command


COMMANDS = dict(documented_commands())


def test_commands_are_found():
    programs = " ".join(COMMANDS.values())
    for program in ("run_pretrain.py", "run_reid_eval.py", "mmet.data.doctor", "mmet.data.synthetic", "benchmarks/"):
        assert program in programs


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Path:
    """A folder like a user's: drawn datasets by layout, a tiny recipe, and the model that it trains."""
    root = tmp_path_factory.mktemp("documented")
    for layout, counts in LAYOUTS.items():
        write_world(layout, root / layout, images_per_id=4, seed=3, image_height=60, image_width=30, **counts)
    write_world("cuhk03", root / "cuhk03", form="mat", num_train_ids=2, num_test_ids=4, images_per_id=4, seed=3)
    write_films(root / "films", **FILMS)
    to_parquet = importlib.import_module("mmet.data.to_parquet").main
    assert to_parquet([f"finegpr={root / 'finegpr'}", "--output", str(root / "parquet")]) == 0
    source = [f"finegpr={root / 'finegpr'}"]
    fields = {**TINY, "output_dir": str(root / "model"), "paired_data": source}
    (root / "tiny.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
    assert importlib.import_module("run_pretrain").main([str(root / "tiny.yaml")]) == 0
    evaluation = ["--model_name_or_path", str(root / "model"), "--data", f"market1501={root / 'market1501'}"]
    arguments = [*evaluation, "--bootstrap", "10", "--output_dir", str(root / "eval")]
    assert importlib.import_module("run_reid_eval").main(arguments) == 0
    build_galleries(root)
    return root


def build_galleries(root: Path) -> None:
    """`people` and `people-of-the-yard`, of two cameras with names."""
    pictures = sorted((root / "market1501" / "bounding_box_test").glob("*.jpg"))
    rows = [
        {"id": f"{camera}/{number:04d}_000120.jpg", "image": pictures[number], "camera_id": camera, "track_id": number}
        | {"time": f"2024-05-01T12:00:{number:02d}", "person_id": number // 4}
        for number, camera in enumerate(["yard", "gate"] * 4)
    ]
    Gallery.build(rows, root / "people", model=root / "model")
    others = [{**row, "id": f"other {row['id']}"} for row in rows]
    Gallery.build(others, root / "people-of-the-yard", model=root / "model")


def marks(command: str) -> list[pytest.MarkDecorator]:
    """Exporting the model takes half a minute; `tests/export` uses exported files in every command sooner."""
    return [pytest.mark.slow] if "onnx" in command else []


@pytest.mark.parametrize(
    "place", [pytest.param(place, id=place, marks=marks(command)) for place, command in COMMANDS.items()]
)
def test_documented_command(place, house, tmp_path, monkeypatch, capsys):
    words = [word for word in shlex.split(COMMANDS[place]) if not re.match(r"^[A-Z_]+=", word)]
    program, arguments = split_program(words)
    if program.startswith(LONG) or program in ENTRY_POINTS or "$" in COMMANDS[place]:
        check_options(program, arguments, monkeypatch, capsys)
        return
    monkeypatch.chdir(tmp_path)
    if "onnx" in COMMANDS[place]:
        export_once(house)
    shutil.copytree(house / "model", tmp_path / "trained")
    examines = program == "mmet.data.doctor" or (program == "mmet.data" and arguments[0] == "doctor")
    codes = (0, 1) if examines else (0,)  # a drawn world is an incomplete copy: not fit
    assert run_in_process(program, adapt(program, arguments, house, tmp_path)) in codes


def export_once(house: Path) -> None:
    """Exported files of the model, in its folder."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    if not (house / "model" / "onnx").exists():
        importlib.import_module("mmet.export").export_model(house / "model")


def split_program(words: list[str]) -> tuple[str, list[str]]:
    """The module or script that a command runs, without the launcher before it, and what follows."""
    for length in (2, 1):  # `mmet-data draw` is one name
        if " ".join(words[:length]) in INSTALLED:
            return INSTALLED[" ".join(words[:length])], words[length:]
    if words[0] in ENTRY_POINTS:
        return words[0], words[1:]
    if "-m" in words:
        place = words.index("-m") + 1
        return words[place], words[place + 1 :]
    script = next(place for place, word in enumerate(words) if word.endswith(".py"))
    return words[script].removeprefix("$tree/"), words[script + 1 :]


def check_options(program: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Every option of the command is one that its `--help` shows."""
    monkeypatch.setattr(sys, "argv", [program, "--help"])
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    with pytest.raises(SystemExit) as ended:
        start(program)
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert [word for word in arguments if word.startswith("--") and word not in shown] == []


def start(program: str) -> None:
    """Run an installed command, a script or a module as a process would."""
    if program in ENTRY_POINTS:
        module, function = ENTRY_POINTS[program].split(":")
        getattr(importlib.import_module(module), function)()
    elif program.endswith(".py"):
        runpy.run_path(str(ROOT / program), run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__")


def adapt(program: str, arguments: list[str], house: Path, folder: Path) -> list[str]:
    """The arguments with data, model and results of `house` in place of the reader's."""
    adapted = [adapt_word(word, house) for word in arguments]
    adapted = [str(folder / Path(word).name) if word.startswith(("outputs/", "/data/")) else word for word in adapted]
    if program == "run_pretrain.py":
        return [str(house / "tiny.yaml"), *drop_recipe(adapted), *outputs(adapted, folder), "--max_steps", "1"]
    for option in ("--model_name_or_path", "--run", "--model"):
        if option in adapted:
            number = adapted.index(option) + 1
            adapted[number] = str(house / "model" / ("onnx" if adapted[number].endswith("/onnx") else ""))
    if program == "mmet.data.to_parquet" and "--verify" in adapted and len(adapted) == 3:
        shutil.copytree(house / "parquet", adapted[1])
    if program == "run_reid_eval.py":
        adapted += ["--bootstrap", "10", *outputs(adapted, folder)]
    if program in ("mmet.gallery", "mmet.explain"):
        adapt_gallery(adapted, house, folder)
    if program == "mmet.footage":
        adapted = adapt_footage(adapted, house, folder)
    if program == "mmet.data.synthetic.video":
        for option, value in FILMS.items():
            adapted += [f"--{option}", str(value)]
    if program == "mmet.data.synthetic" or (program == "mmet.data" and adapted[0] == "draw"):
        adapted += ["--images_per_id", "2", "--image_height", "60", "--image_width", "30"]
        for option in ("--num_ids", "--num_train_ids", "--num_test_ids"):
            if option in adapted:
                adapted[adapted.index(option) + 1] = "3"
        adapted += [] if "--output" in adapted else ["--output", str(folder / "drawn")]
    return adapted


def adapt_gallery(arguments: list[str], house: Path, folder: Path) -> None:
    """Puts crops, query pictures and galleries where the command looks for them."""
    pictures = sorted((house / "market1501" / "bounding_box_test").glob("*.jpg"))
    for word in arguments:
        place = folder / word
        if word in GALLERIES and arguments[0] != "build":
            shutil.copytree(house / GALLERIES[word], place)
        elif word.endswith("crops"):
            place = folder / word.removeprefix("folder=")
            place.mkdir()
            for picture in pictures[:3]:
                shutil.copy(picture, place)
            if word != place.name:
                table = ["image,person_id,camera_id", *(f"{picture.name},1,gate" for picture in pictures[:3])]
                (place / "annotations.csv").write_text("\n".join(table), encoding="utf-8")
        elif word.endswith(".jpg") and "/" not in word:
            shutil.copy(pictures[0], place)


def adapt_footage(arguments: list[str], house: Path, folder: Path) -> list[str]:
    """
    Puts a drawn film where each video should be, and a gallery where its timeline is asked for; detectors that are
    downloaded become the offline one.
    """
    if arguments[0] == "timeline":
        shutil.copytree(house / GALLERIES[arguments[1]], folder / arguments[1])
        if "--person" in arguments:
            arguments[arguments.index("--person") + 1] = "gate/0001_000120.jpg"
        return arguments
    for word in arguments:
        video = folder / word.rpartition("=")[2]
        if video.suffix in (".mp4", ".avi"):
            video.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(house / "films" / "camera1.mp4", video)
    truth = str(house / "films" / "camera1" / "gt" / "gt.txt")
    if "--detector" in arguments:
        place = arguments.index("--detector") + 1
        arguments[place] = truth if arguments[place].endswith(".txt") else "hog"
    return arguments


def adapt_word(word: str, house: Path) -> str:
    """`name=folder` with the drawn folder of that layout, and other files of the reader's."""
    if word.endswith("cuhk-03.mat"):
        return str(house / "cuhk03" / "cuhk03_release" / "cuhk-03.mat")
    if word.endswith("results.json"):
        return str(house / "eval" / "results.json")
    name, separator, place = word.partition("=")
    options = place.partition("?")[1:]
    return f"{name}={house / name}{''.join(options)}" if separator and name in ("parquet", *LAYOUTS) else word


def drop_recipe(arguments: list[str]) -> list[str]:
    return arguments[1:] if arguments and not arguments[0].startswith("-") else arguments


def outputs(arguments: list[str], folder: Path) -> list[str]:
    return [] if "--output_dir" in arguments else ["--output_dir", str(folder / "out")]


def run_in_process(program: str, arguments: list[str]) -> int:
    """Run a `main(arguments)`; the exit code."""
    module = importlib.import_module(program.removesuffix(".py"))
    if program == "mmet.data.synthetic":
        module = importlib.import_module("mmet.data.synthetic.__main__")
    with contextlib.suppress(AttributeError):
        module = importlib.import_module(f"{program}.__main__") if not hasattr(module, "main") else module
    return module.main(arguments) or 0


def test_documents__are_all_there_are():
    inside = {path: path.relative_to(ROOT).parts[0] for path in ROOT.rglob("*.md")}
    elsewhere = ("outputs", "tests", "build")  # `build` is what packaging leaves
    written = {path for path, folder in inside.items() if folder not in elsewhere and not folder.startswith(".")}
    assert written == set(DOCUMENTS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents__every_command_is_run_here_or_named_with_a_reason(document):
    for language, block in BLOCK.findall(document.read_text(encoding="utf-8")):
        lines = re.sub(r"\s*\\\n\s*", " ", re.sub(r"'[^']*'", "''", block)).splitlines()
        commands = [re.sub(r"\s+#.*", "", line).strip() for line in lines]
        if language == "bash":
            known = [COMMAND.match(command) or command.split()[0] in ELSEWHERE for command in commands if command]
            assert all(known), block
        elif language == "":
            assert not any(COMMAND.match(command) for command in commands), "commands stand in blocks of bash"


def test_documents__make_targets_and_extras_exist():
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    targets = set(re.findall(r"^([a-z][\w-]*)(?: [a-z][\w-]*)*:", (ROOT / "Makefile").read_text(), re.MULTILINE))
    targets |= {"demo-market1501", "demo-cuhk_pedes"}
    named = set(re.findall(r"^make ([\w-]+)", text, re.MULTILINE)) | set(re.findall(r"`make ([\w-]+)[ `]", text))
    assert "demo" in named
    assert named <= targets
    extras = set(re.findall(r"pip install '(?:mmet|\.)\[(\w+)\]'", text))
    assert "footage" in extras
    assert extras <= set(SETUP["options.extras_require"])


def test_installed_commands__exist():
    assert {name.split()[0] for name in INSTALLED} <= set(ENTRY_POINTS)
