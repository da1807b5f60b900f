"""Galleries and footage: damaged files of a gallery, wrong tables and detections, and wrong arguments.

Pictures are plain colours and the embedder sees colours, so an attempt takes a fraction of a second.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from colour_embedder import COLOURS, ColourEmbedder
from fuzz.mutations import (
    TEXTS,
    VALUES,
    damage_file,
    damage_json,
    mutate_arguments,
    mutate_text,
    mutate_tree,
    replace_file,
    write_value,
)
from fuzz.running import Attempt, complaint, fuzz, option_names, remove, run
from fuzz.test_fuzz_names import WORDS
from PIL import Image

from mmet.footage import __main__ as footage
from mmet.gallery import Gallery
from mmet.gallery import command as gallery
from mmet.gallery.embedding import ModelEmbedder
from mmet.gallery.storage import MANIFEST, read_sealed, write_sealed

READING = ("info", "verify", "search", "search", "filter", "sheet")
WRITING = ("add", "remove", "compact", "merge", "calibrate")


@pytest.fixture(autouse=True)
def colours(monkeypatch):
    """Every model is one that sees colours."""
    monkeypatch.setattr(ModelEmbedder, "load", classmethod(lambda cls, name, backend="auto": ColourEmbedder()))


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    """`crops` with a table; galleries of them, `indexed` with an index; `frames` of a film and `det.txt` for them."""
    root = tmp_path_factory.mktemp("people")
    crops = root / "crops"
    crops.mkdir()
    rows = []
    for number in range(12):
        Image.new("RGB", (8, 16), list(COLOURS.values())[number % 4]).save(crops / f"{number}.png")
        row = {"image": f"{number}.png", "person_id": number % 4, "camera_id": f"gate {number // 4 % 2}"}
        row |= {"track_id": f"t{number // 2}", "time": float(number), "box": [0, 0, 8, 16], "note": "x"}
        rows.append(row | {"caption": "red and green"})
    (crops / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, kind in (("flat", "exact"), ("indexed", "hnsw")):
        built = Gallery.build(crops, root / name, model=ColourEmbedder(), index=kind)
        built.remove(["3.png"])
        built.add([{"id": "new", "image": crops / "0.png", "person_id": "1", "camera_id": "gate 1"}])
        built.remove(["new"])
    frames = root / "frames"
    frames.mkdir()
    for number in range(6):
        Image.fromarray(np.full((96, 96, 3), 30 * number, dtype=np.uint8)).save(frames / f"{number:02}.png")
    lines = [f"{frame},{track},{5 + 30 * track},10,30,60,1" for frame in range(1, 7) for track in (0, 1)]
    (root / "det.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def arguments_of(rng: random.Random, use: str, place: Path, people: Path) -> list[str]:
    """A command line on a gallery."""
    query = ["search", str(place), "--text", "red", "-k", str(rng.choice((1, 5, 10_000)))]
    return {
        "info": ["info", str(place), *rng.sample(["--json"], rng.randint(0, 1))],
        "verify": ["verify", str(place)],
        "search": [*query, *rng.sample(["--by_track"], rng.randint(0, 1)), rng.choice(("--json", "--csv"))],
        "filter": [*query, "--camera", "gate 1", "--after", "2", "--exclude", "5.png"],
        "sheet": [*query, "--html", str(place.parent / "answer.html")],
        "add": ["add", str(place), str(people / "crops"), "--on_conflict", rng.choice(("keep", "replace", "error"))],
        "remove": ["remove", str(place), rng.choice(("1.png", "2.png", "人"))],
        "compact": ["compact", str(place)],
        "merge": ["merge", str(place), str(people / "flat"), "--on_conflict", "keep"],
        "calibrate": ["calibrate", str(place), "--captions", "caption"],
    }[use]


@pytest.mark.parametrize("kind", ["flat", "indexed"])
def test_files_of_galleries(people, inputs, tmp_path, kind):
    """A gallery with one damaged file: an answer, or a message that names the gallery."""
    place = tmp_path / "gallery"

    def attempt(rng: random.Random) -> Attempt:
        remove(place)
        shutil.copytree(people / kind, place)
        files = sorted(path for path in place.rglob("*") if path.is_file())
        path = rng.choice(files)
        action = rng.choice(("damage", "same size", "same size", "replace", "json"))
        if action == "same size":  # what a size does not tell
            content = bytearray(path.read_bytes())
            for _ in range(rng.choice((1, 8, 64))):
                content[rng.randrange(len(content))] = rng.randrange(256)
            path.write_bytes(content)
            change = f"{path.name} of another content"
        elif action == "json" and path.suffix == ".json":
            change = damage_json(rng, path)
        else:
            change = rng.choice((damage_file, replace_file))(rng, path)
        use = rng.choice(READING + WRITING)
        outcome = run(gallery.main, arguments_of(rng, use, place, people))
        if use == "verify" and outcome.code == 1 and outcome.output:  # a damaged gallery is what it is there to find
            return Attempt(change, run(gallery.main, ["info", "--help"]))
        return Attempt(f"{use}: {change}", outcome, (str(place),))

    fuzz(f"files of galleries: {kind}", inputs, attempt)


def test_sealed_manifests(people, inputs, tmp_path):
    """Manifests with a right checksum whose fields are wrong, as another version may write them."""
    place = tmp_path / "gallery"

    def attempt(rng: random.Random) -> Attempt:
        remove(place)
        shutil.copytree(people / rng.choice(("flat", "indexed")), place)
        paths = [place / MANIFEST] * 3 + sorted((place / "index").glob("*.json"))
        path = rng.choice(paths)
        fields = mutate_tree(rng, read_sealed(path))
        if not isinstance(fields, dict):
            fields = {"a": fields}
        write_sealed(path, fields)
        use = rng.choice(READING + WRITING)
        outcome = run(gallery.main, arguments_of(rng, use, place, people))
        named = () if use == "verify" else (str(place),)
        code = 0 if use == "verify" and outcome.code == 1 and outcome.output else outcome.code
        return Attempt(
            f"{use}: {path.name}: {json.dumps(fields)[:900]}", type(outcome)(code, "", outcome.errors), named
        )

    fuzz("sealed manifests", inputs, attempt)


def test_tables_of_crops(people, inputs, tmp_path):
    """Annotations of crops, and crops, that hold anything."""
    crops = tmp_path / "crops"

    def attempt(rng: random.Random) -> Attempt:
        for path in (crops, tmp_path / "gallery"):
            remove(path)
        shutil.copytree(people / "crops", crops)
        table = crops / "annotations.jsonl"
        rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
        action = rng.choice(("row", "row", "row", "text", "replace", "crop", "word"))
        place = rng.randrange(len(rows))
        if action == "row":
            rows[place] = mutate_tree(rng, rows[place])
        elif action == "word":
            field = rng.choice(sorted(rows[place]))
            rows[place][field] = rng.choice((*WORDS, *TEXTS, *VALUES))
        text = "\n".join(json.dumps(row) for row in rows)
        table.write_text(mutate_text(rng, text) if action == "text" else text, encoding="utf-8")
        change = f"{action}: {json.dumps(rows[place])[:300]}"
        if action == "replace":
            change = replace_file(rng, table)
        elif action == "crop":
            change = replace_file(rng, crops / f"{place}.png")
        command = ["build", str(crops), "--model", "colours", "--output", str(tmp_path / "gallery")]
        if rng.random() < 0.4:
            shutil.copytree(people / "flat", tmp_path / "gallery")
            command = ["add", str(tmp_path / "gallery"), str(crops), "--on_conflict", rng.choice(("keep", "replace"))]
        return Attempt(change, run(gallery.main, [*command, "--num_workers", "1"]))

    fuzz("tables of crops", inputs, attempt)


def test_arguments_of_galleries(people, inputs, tmp_path):
    """Command lines of every subcommand."""
    place = tmp_path / "gallery"
    options = sorted(
        {name for word in gallery.SUBCOMMANDS for name in option_names(_Subcommand(word)) if name != "num_workers"}
    )

    def attempt(rng: random.Random) -> Attempt:
        remove(place)
        shutil.copytree(people / "flat", place)
        arguments = arguments_of(rng, rng.choice(READING + WRITING), place, people)
        if rng.random() < 0.2:
            arguments = ["build", str(people / "crops"), "--model", "m", "--output", str(tmp_path / "built")]
        remove(tmp_path / "built")
        arguments = mutate_arguments(rng, arguments, options)
        if rng.random() < 0.3:
            arguments += [f"--{rng.choice(options)}", rng.choice(WORDS).replace("\0", "")]
        outcome = run(gallery.main, arguments)
        code = 0 if "verify" in arguments and outcome.code == 1 else outcome.code
        return Attempt(repr(arguments), type(outcome)(code, outcome.output, outcome.errors))

    fuzz("arguments of galleries", inputs, attempt)


class _Subcommand:
    """What `option_names` asks for its help."""

    def __init__(self, name: str) -> None:
        self.main = lambda arguments: gallery.main([name, *arguments])


def test_options_of_python(people, inputs, tmp_path):
    """What a program passes to galleries and footage: an answer, or a `ValueError`."""
    place = tmp_path / "gallery"
    shutil.copytree(people / "flat", place)
    others = (1.5, "a\0b", "\ud800", object(), b"\xff", 3 + 4j, np.float32("nan"), np.zeros((2, 2)), {"a"}, Path("x"))
    frames = {"cam": people / "frames"}
    functions = {
        "search": ({"text": "red"}, lambda options: Gallery.open(place, model=ColourEmbedder()).search(**options)),
        "build": (
            {"source": people / "crops", "path": tmp_path / "built", "model": ColourEmbedder()},
            lambda options: Gallery.build(**options),
        ),
        "read": (
            {"videos": frames, "output": tmp_path / "out", "detector": str(people / "det.txt")},
            lambda options: footage.read(**options),
        ),
    }
    names = {
        "search": (
            "text",
            "image",
            "k",
            "blend",
            "camera_id",
            "track_id",
            "time",
            "exclude",
            "flip",
            "by_track",
            "embedding",
        ),
        "build": (
            "source",
            "batch_size",
            "num_workers",
            "dtype",
            "index",
            "flip",
            "centre",
            "keep_images",
            "rows_per_commit",
        ),
        "read": ("every", "crops_per_track", "min_height", "min_boxes", "min_motion", "batch_size", "start_time"),
    }

    def attempt(rng: random.Random) -> Attempt:
        remove(tmp_path / "built", tmp_path / "out")
        name = rng.choice(sorted(functions))
        option, value = rng.choice(names[name]), rng.choice((*VALUES, *WORDS, *others))
        good, function = functions[name]

        def command(_: object) -> int:
            try:
                function({**good, option: value})
            except ValueError as error:
                print(error, file=sys.stderr)
                return 2
            return 0

        return Attempt(f"{name}({option}={value!r})", run(command, []))

    fuzz("options of Python", inputs, attempt)


def test_detections(people, inputs, tmp_path):
    """MOTChallenge files that hold anything, frames that are no pictures, and `seqinfo.ini`."""
    pytest.importorskip("cv2", exc_type=ImportError)
    pytest.importorskip("trackers")
    frames, detections = tmp_path / "frames", tmp_path / "det.txt"

    def attempt(rng: random.Random) -> Attempt:
        remove(frames, detections, tmp_path / "out")
        shutil.copytree(people / "frames", frames)
        shutil.copyfile(people / "det.txt", detections)
        action = rng.choice(("text", "text", "text", "replace", "frame", "rate", "leftover"))
        if action == "text":
            text = mutate_text(rng, detections.read_text(encoding="utf-8"))
            detections.write_text(text, encoding="utf-8", errors="surrogatepass")
            change = f"detections {text[:300]!r}"
        elif action == "replace":
            change = replace_file(rng, detections)
        elif action == "frame":
            change = rng.choice((damage_file, replace_file))(rng, frames / f"{rng.randrange(6):02}.png")
        elif action == "rate":
            rate = rng.choice((*VALUES, *TEXTS))
            text = f"[Sequence]\nframeRate={write_value(rate)}\n"
            (frames / "seqinfo.ini").write_text(text, encoding="utf-8")
            change = f"rate {rate!r:.100}"
        arguments = [str(frames), "--output", str(tmp_path / "out"), "--detector", str(detections)]
        if action == "leftover":
            assert run(footage.main, arguments).code == 0
            path = rng.choice(sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file()))
            change = rng.choice((damage_file, replace_file))(rng, path)
        return Attempt(f"{action}: {change}", run(footage.main, arguments))

    fuzz("detections", inputs, attempt)


def test_arguments_of_footage(people, inputs, tmp_path):
    """Command lines of footage, with a gallery for the crops or without."""
    pytest.importorskip("cv2", exc_type=ImportError)
    pytest.importorskip("trackers")
    options = option_names(footage)

    def attempt(rng: random.Random) -> Attempt:
        remove(tmp_path / "out", tmp_path / "gallery")
        arguments = [str(people / "frames"), "--output", str(tmp_path / "out")]
        arguments += ["--detector", str(people / "det.txt")]
        if rng.random() < 0.3:
            arguments += ["--gallery", str(tmp_path / "gallery"), "--model", "colours"]
        arguments = mutate_arguments(rng, arguments, options)
        if rng.random() < 0.4:
            name = rng.choice(("camera", "start_time", "detector", "output", "gallery"))
            word = rng.choice((*WORDS, *TEXTS)).replace("\0", "")
            arguments.append(f"--{name}={word}={people / 'frames'}" if name == "camera" else f"--{name}={word}")
        return Attempt(repr(arguments), run(footage.main, arguments))

    fuzz("arguments of footage", inputs, attempt)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_terminals_that_cannot_show_it(people, tmp_path, encoding):
    """What is printed in another encoding is shown as well as it can be."""
    crops = tmp_path / "crops"
    crops.mkdir()
    for name in ("人.png", "→ é.png"):
        shutil.copyfile(people / "crops" / "0.png", crops / name)
    place = str(tmp_path / "人 gallery")
    lines = {
        0: [
            ["build", str(crops), "--model", "m", "--output", place],
            *(["search", place, "--text", "人 red", *form] for form in ([], ["--csv"], ["--json"])),
            *(["info", place], ["verify", place], ["remove", place, "人.png"]),
        ],
        2: [
            ["remove", place, "人.png"],
            ["info", f"{place} 人"],
            ["search", place, "--camera", "人", "--text", "red"],
        ],
    }
    for code, commands in lines.items():
        for arguments in commands:
            outcome = run(gallery.main, arguments, encoding=encoding)
            assert "Traceback" not in outcome.errors
            assert outcome.code == code, (arguments, outcome.errors)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_footage_on_terminals_that_cannot_show_it(people, tmp_path, encoding):
    pytest.importorskip("cv2", exc_type=ImportError)
    pytest.importorskip("trackers")
    arguments = ["--camera", f"人={people / 'frames'}", "--output", str(tmp_path / "人"), "--detector"]
    assert run(footage.main, [*arguments, str(people / "det.txt")], encoding=encoding).code == 0
    outcome = run(
        footage.main, [*arguments[:-3], "--output", str(tmp_path / "é"), "--detector", "人.txt"], encoding=encoding
    )
    assert complaint(outcome) is None
    assert outcome.code == 2


@pytest.mark.parametrize("use", ["build", "add", "search"])
def test_ctrl_c_in_galleries(people, tmp_path, monkeypatch, use):
    """One line, exit code 130, and a gallery as it was; the same command then comes to its end."""
    place = tmp_path / "gallery"
    if use != "build":
        shutil.copytree(people / "flat", place)
    command = ["build", str(people / "crops"), "--model", "m", "--output", str(place)]
    command = command if use == "build" else arguments_of(random.Random(1), use, place, people)
    command[-1] = "keep" if use == "add" else command[-1]
    embed = ColourEmbedder.embed

    def press(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        return embed(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ColourEmbedder, "embed", press)
        outcome = run(gallery.main, _with_new_crop(command, people, tmp_path) if use == "add" else command)
    assert (outcome.code, len(outcome.errors.splitlines())) == (130, 1), outcome.errors
    assert run(gallery.main, command).code == 0
    assert run(gallery.main, ["verify", str(place)]).code == 0


def _with_new_crop(command: list[str], people: Path, folder: Path) -> list[str]:
    crops = folder / "new"
    crops.mkdir()
    shutil.copyfile(people / "crops" / "0.png", crops / "another.png")
    return [*command[:2], str(crops), *command[3:]]


def test_ctrl_c_in_footage(people, tmp_path, monkeypatch):
    pytest.importorskip("cv2", exc_type=ImportError)
    pytest.importorskip("trackers")
    from mmet.footage.mot import MotDetector

    arguments = [str(people / "frames"), "--output", str(tmp_path / "out"), "--detector", str(people / "det.txt")]
    detect = MotDetector.detect

    def press(*values):
        signal.raise_signal(signal.SIGINT)
        return detect(*values)

    with monkeypatch.context() as patch:
        patch.setattr(MotDetector, "detect", press)
        outcome = run(footage.main, arguments)
    assert (outcome.code, len(outcome.errors.splitlines())) == (130, 1), outcome.errors
    assert run(footage.main, arguments).code == 0
