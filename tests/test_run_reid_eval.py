"""The evaluation script from its command line, with a model and data whose answers are known."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image

import mmet.data
from mmet.data.schema import REID_FEATURES, DatasetError

SCRIPT = Path(__file__).parents[1] / "run_reid_eval.py"
COLOURS = {1: "red", 2: "lime", 3: "blue"}


class ColourModel(torch.nn.Module):
    """Mean colour plus named colour; untrained, it gives everything one embedding."""

    def __init__(self, config, trained=False):
        super().__init__()
        self.config = config
        self.trained = trained

    @classmethod
    def from_pretrained(cls, path):
        if not Path(path).is_dir():
            raise OSError(f"{path} is not a local folder")
        return cls(SimpleNamespace(), trained=True)

    def forward(self, pixel_values=None, input_ids=None, attention_mask=None):
        embeddings = sum(part for part in (pixel_values, input_ids) if part is not None)
        return SimpleNamespace(embeddings=embeddings if self.trained else torch.ones_like(embeddings))


class ColourProcessor:
    @classmethod
    def from_pretrained(cls, path):
        return cls()

    def __call__(self, images=None, text=None, **_):
        inputs = {}
        if images is not None:
            means = np.array([np.asarray(image).reshape(-1, 3).mean(axis=0) for image in images])
            inputs["pixel_values"] = torch.tensor(means, dtype=torch.float32)
        if text is not None:
            words = [[colour in sentence for colour in COLOURS.values()] for sentence in text]
            inputs["input_ids"] = inputs["attention_mask"] = torch.tensor(words, dtype=torch.float32)
        return inputs


def make_split(rows):
    """A split of (person_id, camera_id, has_caption) rows."""
    return Dataset.from_list(
        [
            {
                "image": Image.new("RGB", (6, 12), COLOURS[person]),
                "person_id": person,
                "camera_id": camera,
                "captions": [f"someone in {COLOURS[person]}"] * has_caption,
                "person_mask": None,
                "image_path": f"{number}.png",
                "domain": "test",
            }
            for number, (person, camera, has_caption) in enumerate(rows)
        ],
        features=REID_FEATURES,
    )


@pytest.fixture
def script(monkeypatch):
    """The script as a module, wired to the colour model and to two data sets named `cameras` and `sentences`."""
    datasets = {
        "cameras": DatasetDict(
            query=make_split([(1, 1, 0), (2, 1, 0), (3, 1, 0)]),
            gallery=make_split([(1, 1, 0), (1, 2, 0), (2, 2, 0), (3, 2, 0)]),
        ),
        "sentences": DatasetDict(test=make_split([(1, -1, 1), (1, -1, 1), (2, -1, 1), (2, -1, 1)])),
        "one_camera": DatasetDict(query=make_split([(1, 1, 0)]), gallery=make_split([(1, 1, 0), (2, 1, 0)])),
    }

    def load(name, root, **options):
        if not Path(root).is_dir():
            raise DatasetError(f"{name}: {root} does not exist")
        return datasets[name]

    def parse(argument):
        name, separator, folder = argument.partition("=")
        if not separator:
            raise ValueError(f"expected name=folder, received {argument!r}")
        return name, Path(folder), {}

    monkeypatch.setattr(mmet.data, "load_reid_dataset", load, raising=False)
    monkeypatch.setattr(mmet.data, "parse_data_argument", parse, raising=False)
    for name, attribute, value in (
        ("modeling_mmet", "MMETForReID", ColourModel),
        ("processing_mmet", "MMETProcessor", ColourProcessor),
    ):
        module = ModuleType(name)
        setattr(module, attribute, value)
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("run_reid_eval_under_test", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(script, tmp_path, capsys):
    """Run with `--model_name_or_path` and `--output_dir` filled in; returns exit code, results and captured text."""

    def call(*arguments, model=tmp_path):
        output_dir = tmp_path / "out"
        code = script.main(["--model_name_or_path", str(model), "--output_dir", str(output_dir), *map(str, arguments)])
        path = output_dir / "results.json"
        results = json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else None
        return code, results, capsys.readouterr()

    return call


def test_main__standard_tasks_and_all_baselines(run, tmp_path):
    code, results, captured = run(
        "--data", f"cameras={tmp_path}", f"sentences={tmp_path}", "--baselines", "chance", "histogram", "untrained"
    )
    assert code == 0
    rows = [(r["data"], r["query"], r["gallery"], r["protocol"], r["system"]) for r in results]
    assert rows == [
        *[("cameras", "image", "image", "market", s) for s in ("chance", "histogram", "untrained", "model")],
        *[("sentences", "text", "image", "text-to-image", s) for s in ("chance", "untrained", "model")],
        *[("sentences", "both", "both", "leave-one-image-out", s) for s in ("chance", "untrained", "model")],
        *[
            ("sentences", "image", "image", "leave-one-image-out", s)
            for s in ("chance", "histogram", "untrained", "model")
        ],
        *[("sentences", "text", "text", "leave-one-image-out", s) for s in ("chance", "untrained", "model")],
    ]
    assert {r["metrics"]["mAP"] for r in results if r["system"] in ("model", "histogram")} == {1.0}
    assert all(r["metrics"]["mAP"] < 0.8 for r in results if r["system"] in ("chance", "untrained"))
    assert {r["data_root"] for r in results} == {str(tmp_path)}
    assert "| sentences | text→text" in captured.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cmc.png", "results.json", "results.md"]


def test_main__one_query_kind_searches_images_by_default(run, tmp_path):
    code, results, _ = run("--data", f"sentences={tmp_path}", "--query", "text", "--max_rank", "12")
    assert code == 0
    (row,) = results
    assert (row["query"], row["gallery"], row["system"], len(row["cmc"])) == ("text", "image", "model", 12)


def test_main__no_camera_protocol(run, tmp_path):
    code, results, _ = run("--data", f"one_camera={tmp_path}", "--protocol", "no-camera")
    assert code == 0
    assert results[0]["protocol"] == "no-camera"
    assert results[0]["protocol_rules"]["removed_from_gallery"] == "nothing"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "cameras=/no/such/folder"], "/no/such/folder does not exist"),
        (["--data", "cameras"], "expected name=folder"),
        (["--data", "cameras={here}", "--query", "text"], "no captions"),
        (["--data", "one_camera={here}"], "--protocol no-camera"),
        (["--data", "sentences={here}", "--gallery", "text"], "query modality"),
        (["--data", "cameras={here}", "--max_rank", "5"], "--max_rank of at least 10, received 5"),
        (["--data", "cameras={here}", "--batch_size", "0"], "--batch_size of at least 1, received 0"),
    ],
)
def test_main__user_errors_are_one_message_and_exit_code_2(run, tmp_path, arguments, message):
    code, results, captured = run(*(argument.format(here=tmp_path) for argument in arguments))
    assert (code, results) == (2, None)
    assert any(part in captured.err for part in message.split("|"))
    assert "Traceback" not in captured.err


def test_main__missing_model_folder(run, tmp_path):
    code, _, captured = run("--data", f"cameras={tmp_path}", model=tmp_path / "absent")
    assert code == 2
    assert f"cannot load a model and its processor from '{tmp_path / 'absent'}'" in captured.err


@pytest.mark.parametrize("arguments", [["--query", "sound"], ["--baselines", "magic"], ["--unknown", "1"]])
def test_main__bad_options_exit_with_code_2(run, tmp_path, arguments):
    try:
        code, _, _ = run("--data", f"cameras={tmp_path}", *arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
