"""The evaluation script from its command line: a model and data whose answers are known, and whole checkpoints."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTImageProcessor, ViTModel

import mmet.evaluation.command as command
import mmet.evaluation.systems.lineup as lineup
import mmet.evaluation.systems.loading as loading
import run_reid_eval
from mmet.data.schema import REID_FEATURES, DatasetError
from modeling_mmet import MMETForPreTraining, MMETForReID, MMETModel

COLOURS = {1: "red", 2: "lime", 3: "blue"}


class ColourModel(torch.nn.Module):
    """Mean colour plus named colour; untrained, it gives everything one embedding."""

    def __init__(self, config, trained=False):
        super().__init__()
        self.trained = trained

    def forward(self, pixel_values=None, input_ids=None, attention_mask=None):
        embeddings = sum(part for part in (pixel_values, input_ids) if part is not None)
        return SimpleNamespace(embeddings=embeddings if self.trained else torch.ones_like(embeddings))


class ColourProcessor:
    @classmethod
    def from_pretrained(cls, path):
        return cls()

    def save_pretrained(self, path):
        pass

    def __call__(self, images=None, text=None, **_):
        inputs = {}
        if images is not None:
            means = np.array([np.asarray(image).reshape(-1, 3).mean(axis=0) for image in images])
            inputs["pixel_values"] = torch.tensor(means, dtype=torch.float32)
        if text is not None:
            words = [[colour in sentence for colour in COLOURS.values()] for sentence in text]
            inputs["input_ids"] = inputs["attention_mask"] = torch.tensor(words, dtype=torch.float32)
        return inputs


def make_split(rows, size=(6, 12)):
    """A split of (person_id, camera_id, has_caption) rows."""
    return Dataset.from_list(
        [
            {
                "image": Image.new("RGB", size, COLOURS[person]),
                "person_id": person,
                "camera_id": camera,
                "captions": [f"a man in red coat {COLOURS[person]}"[: 40 - number % 3]] * has_caption,
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
    """The script, wired to data sets of coloured pictures in memory."""
    sentences = [(1, -1, 1), (1, -1, 1), (2, -1, 1), (2, -1, 1), (3, -1, 1), (3, -1, 1)]
    datasets = {
        "cameras": DatasetDict(
            query=make_split([(1, 1, 0), (2, 1, 0), (3, 1, 0)]),
            gallery=make_split([(1, 1, 0), (1, 2, 0), (2, 2, 0), (3, 2, 0)]),
        ),
        "sentences": DatasetDict(test=make_split(sentences)),
        "with_validation": DatasetDict(test=make_split(sentences), validation=make_split(sentences[:4])),
        "one_camera": DatasetDict(query=make_split([(1, 1, 0)]), gallery=make_split([(1, 1, 0), (2, 1, 0)])),
        "one_person": DatasetDict(test=make_split([(1, -1, 1), (1, -1, 1)])),
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

    monkeypatch.setattr(command, "load_reid_dataset", load)
    monkeypatch.setattr(command, "parse_data_argument", parse)
    return run_reid_eval


@pytest.fixture
def run(script, tmp_path, capsys, caplog):
    """Run with `--model_name_or_path` and `--output_dir` filled in; returns exit code, report and what was said."""

    def call(*arguments, model=tmp_path, output_dir=tmp_path / "out"):
        code = script.main(["--model_name_or_path", str(model), "--output_dir", str(output_dir), *map(str, arguments)])
        path = output_dir / "results.json"
        report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        printed = capsys.readouterr()
        return code, report, SimpleNamespace(out=printed.out, err=printed.err + caplog.text)

    return call


@pytest.fixture
def colours(monkeypatch):
    """Checkpoints are colour models, whatever their folders hold."""
    monkeypatch.setattr(lineup, "check_checkpoint", lambda _: None)
    monkeypatch.setattr(loading, "load_any_embedder", lambda _: (ColourModel(None, trained=True), ColourProcessor()))
    monkeypatch.setattr(lineup, "MMETForReID", ColourModel)
    monkeypatch.setattr(lineup, "MMETProcessor", ColourProcessor)
    monkeypatch.setattr(lineup, "MMETConfig", SimpleNamespace(from_pretrained=lambda _: None))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory, make_config, tokenizer):
    """Folders of tiny models with random weights: two of pretraining, one of embeddings alone, one without head."""
    from processing_mmet import MMETImageProcessor, MMETProcessor

    root = tmp_path_factory.mktemp("checkpoints")
    config = make_config()
    processor = MMETProcessor(MMETImageProcessor(size={"height": 52, "width": 28}), tokenizer)
    kinds = {"first": MMETForPreTraining, "second": MMETForPreTraining, "embedder": MMETForReID, "trunk": MMETModel}
    for seed, (name, kind) in enumerate(kinds.items()):
        torch.manual_seed(seed)
        kind(config).save_pretrained(root / name)
        processor.save_pretrained(root / name)
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**tiny, image_size=16, patch_size=8)).save_pretrained(root / "vit")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(root / "vit")
    text = {**tiny, "vocab_size": 20, "max_position_embeddings": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config={**tiny, "image_size": 16, "patch_size": 8})).save_pretrained(
        root / "no_processor"
    )
    return root


def test_main__ctrl_c_is_one_line_and_the_next_run_uses_what_is_cached(run, tmp_path, colours, monkeypatch):
    """Ctrl-C comes at the second batch: pictures are embedded and kept, sentences are not."""
    forward, batches = ColourModel.forward, []

    def counted(self, **inputs):
        batches.append(inputs)
        if interrupted and len(batches) == 2:
            signal.raise_signal(signal.SIGINT)
        return forward(self, **inputs)

    monkeypatch.setattr(ColourModel, "forward", counted)
    interrupted, arguments = True, ("--data", f"sentences={tmp_path}")
    code, report, captured = run(*arguments)
    assert (code, report) == (130, None)
    expected = "run_reid_eval.py: stopped by Ctrl-C; the same command goes on with the embeddings that are cached\n"
    assert captured.err.count("stopped by") == 1
    assert expected in captured.err
    assert captured.out == ""
    assert not list((tmp_path / "out").rglob("*partial*"))
    interrupted, _ = False, batches.clear()
    code, report, _ = run(*arguments)
    assert code == 0
    continued = len(batches)
    batches.clear()
    whole_code, whole, _ = run(*arguments, output_dir=tmp_path / "whole")
    assert whole_code == 0
    assert len(batches) == continued + 1
    assert [row["metrics"] for row in report["results"]] == [row["metrics"] for row in whole["results"]]


def rows_of(report, **fields):
    return [row for row in report["results"] if all(row[name] == value for name, value in fields.items())]


def test_main__standard_tasks_and_all_baselines(run, tmp_path, colours):
    code, report, captured = run(
        "--data", f"cameras={tmp_path}", f"sentences={tmp_path}", "--baselines", "chance", "histogram", "untrained"
    )
    assert code == 0
    results = report["results"]
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
    assert {r["metrics"]["mAP"] for r in results if r["system"] == "histogram"} == {1.0}
    assert all(r["metrics"]["mAP"] < 0.8 for r in results if r["system"] in ("chance", "untrained"))
    assert {r["data_root"] for r in results} == {str(tmp_path)}
    assert "| sentences | text→text" in captured.out
    files = ["cache", "cmc.png", "results.json", "results.md"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files


def test_main__a_plain_run_has_every_option_off_and_says_so(run, tmp_path, colours):
    code, report, _ = run("--data", f"sentences={tmp_path}", "--query", "image", "--bootstrap", "0")
    assert code == 0
    (row,) = report["results"]
    off = {"flip": False, "multi_query": False, "query_expansion": 0, "rerank": False, "itm_top_k": 0}
    assert row["options"].items() >= off.items()
    assert not {"intervals", "verification", "open_set", "calibration", "ranked_lists"} & set(row)
    assert (report["comparisons"], report["seeds"]) == ([], [])
    assert report["systems"] == {"model": str(tmp_path)}
    assert report["settings"]["max_rank"] == 50


def test_main__one_query_kind_searches_images_by_default(run, tmp_path, colours):
    code, report, _ = run("--data", f"sentences={tmp_path}", "--query", "text", "--max_rank", "12")
    assert code == 0
    (row,) = report["results"]
    assert (row["query"], row["gallery"], row["system"], len(row["cmc"])) == ("text", "image", "model", 12)


def test_main__no_camera_protocol(run, tmp_path, colours):
    code, report, _ = run("--data", f"one_camera={tmp_path}", "--protocol", "no-camera")
    assert code == 0
    assert report["results"][0]["protocol"] == "no-camera"
    assert report["results"][0]["protocol_rules"]["removed_from_gallery"] == "nothing"


def test_main__intervals_hold_the_metrics_and_are_in_the_tables(run, tmp_path, colours):
    arguments = ("--data", f"sentences={tmp_path}", "--query", "image", "--baselines", "histogram", "untrained")
    code, report, captured = run(*arguments, "--bootstrap", "50", "--bootstrap_unit", "query", "--confidence", "0.9")
    assert code == 0
    for row in report["results"]:
        intervals = row["intervals"]
        assert (intervals["resamples"], intervals["unit"], intervals["confidence"]) == (50, "query", 0.9)
        assert all(low <= row["metrics"][name] <= high for name, (low, high) in intervals["metrics"].items())
        assert set(intervals["metrics"]) == set(row["metrics"])
    assert "100.0 [100.0, 100.0]" in captured.out
    assert "90% confidence from 50 resamples of the queries" in (tmp_path / "out" / "results.md").read_text()


def test_main__an_interval_from_one_person_is_none(run, tmp_path, colours):
    code, report, _ = run("--data", f"one_person={tmp_path}", "--query", "text")
    assert (code, report["results"][0]["intervals"]["metrics"]) == (0, None)


def test_main__everything_at_once_on_real_checkpoints(run, tmp_path, checkpoints):
    code, report, captured = run(
        "--data", f"with_validation={tmp_path}", "--query", "text", "--itm_top_k", "2", "--itm_weight", "0.5",
        "--flip", "--query_expansion", "1", "--compare", checkpoints / "embedder" / ".." / "second",
        "--seeds", f"seed2={checkpoints / 'second'}", "--backbones", checkpoints / "vit",
        "--open_set", "--absent_share", "0.4", "--calibrate", f"with_validation={tmp_path}",
        "--calibration_method", "platt", "--ranked_lists", "1", "--bootstrap", "20",
        model=checkpoints / "first",
    )  # fmt: skip
    assert code == 0, captured.err
    assert [row["system"] for row in report["results"]] == ["model", "second", "seed2"]
    assert "vit has no row: it can search none of the tasks" in captured.err
    first, second, seed = report["results"]
    assert first["options"] == {
        "flip": True, "multi_query": False, "query_expansion": 1, "rerank": False, "itm_top_k": 2, "itm_weight": 0.5
    }  # fmt: skip
    assert second["metrics"] == seed["metrics"]
    (comparison,) = report["comparisons"]
    assert (comparison["system"], comparison["reference"]) == ("second", "model")
    difference = comparison["metrics"]["mAP"]
    assert difference["difference"] == pytest.approx(second["metrics"]["mAP"] - first["metrics"]["mAP"])
    assert difference["low"] <= difference["difference"] <= difference["high"]
    (summary,) = report["seeds"]
    values = [first["metrics"]["mAP"], seed["metrics"]["mAP"]]
    assert summary["metrics"]["mAP"]["mean"] == pytest.approx(np.mean(values))
    assert [point["max_fpr"] for point in first["verification"]["operating_points"]] == [1e-2, 1e-3, 1e-4]
    assert first["open_set"]["num_absent_persons"] == 1
    assert first["calibration"]["method"] == "platt"
    assert first["calibration"]["about"]["split"] == "validation"
    assert "calibration" not in second
    calibration = json.loads((checkpoints / "first" / "calibration.json").read_text())
    assert [(entry["query"], entry["gallery"]) for entry in calibration["calibrations"]] == [("text", "image")]
    assert all((tmp_path / "out" / name).is_file() for name in first["ranked_lists"])
    assert len(first["ranked_lists"]) == 3
    for name in ("cmc.png", "roc.png", "reliability.png"):
        assert (tmp_path / "out" / name).is_file()
    markdown = (tmp_path / "out" / "results.md").read_text()
    for title in ("Intervals", "Differences", "Over seeds", "By threshold", "Calibration", "Ranked lists"):
        assert f"## {title}\n" in markdown

    code, report, captured = run(
        "--data", f"with_validation={tmp_path}", "--query", "text", "--flip", "--query_expansion", "1",
        "--reliability", model=checkpoints / "first",
    )  # fmt: skip
    assert (code, report["results"][0]["calibration"]["method"]) == (0, "platt"), captured.err


def test_main__rerank_is_recorded_and_drawn(run, tmp_path, colours):
    code, report, captured = run("--data", f"cameras={tmp_path}", "--rerank", "--multi_query", "--ranked_lists", "1")
    assert code == 0, captured.err
    (row,) = report["results"]
    assert row["options"]["rerank"] == {"k1": 20, "k2": 6, "lambda_value": 0.3, "metric": "euclidean"}
    assert row["metrics"]["mAP"] == 1.0
    assert len(row["ranked_lists"]) == 3


def test_main__a_second_run_embeds_nothing(run, tmp_path, checkpoints, monkeypatch):
    arguments = ("--data", f"sentences={tmp_path}", "--query", "image")
    _, first, _ = run(*arguments, model=checkpoints / "first")

    def forward(*_, **__):
        raise AssertionError("embedded again")

    monkeypatch.setattr(MMETForReID, "forward", forward)
    code, second, captured = run(*arguments, model=checkpoints / "first")
    assert (code, second["results"]) == (0, first["results"])
    assert "6 items, 6 of them from the cache" in captured.err
    with pytest.raises(AssertionError, match="embedded again"):
        run(*arguments, "--no_use_cache", model=checkpoints / "first")
    with pytest.raises(AssertionError, match="embedded again"):
        run(*arguments, model=checkpoints / "second")


def test_main__cache_dir_is_where_embeddings_go(run, tmp_path, colours):
    run("--data", f"cameras={tmp_path}", "--cache_dir", tmp_path / "elsewhere")
    assert list((tmp_path / "elsewhere").glob("*/*.safetensors"))
    assert not (tmp_path / "out" / "cache").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "cameras=/no/such/folder"], "/no/such/folder does not exist"),
        (["--data", "cameras"], "expected name=folder"),
        (["--data", "cameras={here}", "--query", "text"], "no captions"),
        (["--data", "one_camera={here}"], "--protocol no-camera"),
        (["--data", "sentences={here}", "--gallery", "text"], "query modality"),
        (["--data", "cameras={here}", "--max_rank", "5"], "max_rank: expected a whole number of at least 10"),
        # more rows than a picture of at most 2**16 pixels has room for
        (["--data", "cameras={here}", "--ranked_lists", "200"], "ranked_lists: expected a whole number of at least 0"),
        (
            ["--data", "cameras={here}", "--batch_size", "0"],
            "batch_size: expected a whole number of at least 1 and at most 65536, received 0",
        ),
        (
            ["--data", "cameras={here}", "--bootstrap", "-1"],
            "bootstrap: expected a whole number of at least 0 and at most 1000000, received -1",
        ),
        (["--data", "cameras={here}", "--confidence", "95"], "above 0 and below 1, received 95"),
        (
            ["--data", "cameras={here}", "--absent_share", "1"],
            "absent_share: expected a number above 0 and below 1, received 1",
        ),
        (["--data", "cameras={here}", "--multi_query", "--itm_top_k", "3"], "choose one of the two"),
        (["--data", "cameras={here}", "--rerank", "--itm_top_k", "3"], "choose one of the two"),
        (
            ["--data", "cameras={here}", "--query_expansion", "-2"],
            "query_expansion: expected a whole number of at least 0",
        ),
        (["--data", "one_person={here}", "--query", "text", "--open_set"], "pairs of different persons"),
        (["--data", "sentences={here}", "--calibrate", "one_person={here}"], "--calibrate one_person={here}: a cali"),
        (
            ["--data", "sentences={here}", "--calibrate", "one_person=/none"],
            "--calibrate one_person=/none: one_person: /none does not exist",
        ),
        (["--data", "sentences={here}", "--reliability"], "there is no calibration in"),
        (["--data", "sentences={here}", "--compare", "model={here}"], "the row name 'model' is taken"),
        (["--data", "sentences={here}", "--cache_dir", "{here}/file/x"], "Choose another --cache_dir"),
        (["--data", "sentences={here}", "--backbones", "{here}/absent"], "cannot load a backbone"),
    ],
)
def test_main__user_errors_are_one_message_and_exit_code_2(run, tmp_path, colours, arguments, message):
    (tmp_path / "file").write_text("no folder")
    code, report, captured = run(*(argument.format(here=tmp_path) for argument in arguments))
    assert (code, report) == (2, None)
    assert any(part in captured.err for part in message.format(here=tmp_path).split("|")), captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("absent", [], "cannot load a model and its processor from '{root}/absent'"),
        ("vit", [], "expected the model type 'mmet' in its config.json, received 'vit'"),
        ("trunk_without_encoder", [], "of its weights are missing and would be random"),
        ("embedder", ["--itm_top_k", "3"], "holds no ITM head, which --itm_top_k re-scores with"),
        ("first", ["--compare", "{root}/vit"], "expected the model type 'mmet'"),
        ("first", ["--seeds", "{root}/second", "{root}/second"], "each model once"),
        ("first", ["--backbones", "{root}/no_processor"], "cannot load a backbone with its processor"),
    ],
)
def test_main__wrong_models_are_one_message_and_exit_code_2(run, tmp_path, checkpoints, model, arguments, message):
    if model == "trunk_without_encoder":
        make_incomplete(checkpoints / "first", checkpoints / model)
    arguments = [argument.format(root=checkpoints) for argument in arguments]
    code, report, captured = run("--data", f"sentences={tmp_path}", *arguments, model=checkpoints / model)
    assert (code, report) == (2, None)
    assert message.format(root=checkpoints) in captured.err
    assert "Traceback" not in captured.err


def make_incomplete(source, target):
    """A copy of a checkpoint without the weights of its text encoder."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target, dirs_exist_ok=True)
    weights = load_file(target / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "text_model" not in name}
    save_file(kept, target / "model.safetensors", {"format": "pt"})


def test_main__a_checkpoint_without_identity_head_is_evaluated_and_said(run, tmp_path, checkpoints):
    code, _, captured = run("--data", f"cameras={tmp_path}", model=checkpoints / "trunk")
    assert code == 0
    assert "has no identity head" in captured.err


def test_main__a_calibration_of_other_weights_is_refused(run, tmp_path, checkpoints):
    shown = run("--data", f"sentences={tmp_path}", "--calibrate", f"sentences={tmp_path}", model=checkpoints / "first")
    assert "is both calibrated and evaluated on" in shown[2].err
    stale = (checkpoints / "first" / "calibration.json").read_bytes()
    (checkpoints / "second" / "calibration.json").write_bytes(stale)
    code, _, captured = run("--data", f"sentences={tmp_path}", "--reliability", model=checkpoints / "second")
    assert code == 2
    assert "was learnt for other weights" in captured.err


def test_main__an_output_folder_that_cannot_be_written(run, tmp_path, colours):
    (tmp_path / "file").write_text("no folder")
    code, _, captured = run("--data", f"cameras={tmp_path}", output_dir=tmp_path / "file" / "out")
    assert code == 2
    assert "cannot write results to" in captured.err
    assert "Choose another --output_dir" in captured.err


@pytest.mark.parametrize("arguments", [["--query", "sound"], ["--baselines", "magic"], ["--unknown", "1"]])
def test_main__bad_options_exit_with_code_2(run, tmp_path, colours, arguments):
    code, _, captured = run("--data", f"cameras={tmp_path}", *arguments)
    assert code == 2
    assert arguments[0] in captured.err
    assert captured.err.count("\n") == 1, captured.err


def test_main__on_a_full_disk_the_earlier_results_stay(run, script, tmp_path, colours, monkeypatch):
    def save_on_a_full_disk(*arguments):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))  # no file may grow beyond
        try:
            return save_report(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    save_report = command.save_report
    arguments = ["--data", f"cameras={tmp_path}", "--bootstrap", "0"]
    assert run(*arguments)[0] == 0
    files = {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    monkeypatch.setattr(command, "save_report", save_on_a_full_disk)
    code, _, captured = run(*arguments, "--query_expansion", "1")
    assert code == 2
    assert "results.json could not be written (File too large); what was there before is unchanged" in captured.err
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()} == files
