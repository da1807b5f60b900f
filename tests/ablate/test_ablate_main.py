"""The command of the ablations on one small table: stopped by Ctrl-C and continued, kept files damaged."""

from __future__ import annotations

import json
import signal

import pytest
import yaml
from tiny_runs import tiniest_model

from mmet.ablate import __main__ as command
from mmet.ablate.experiments import Table, TableRow, TrainingStage
from mmet.data.synthetic import write_world
from modeling_mmet import MMETForPreTraining

RECIPE = {
    "paired_data": ["finegpr=nowhere"],
    "model_config": tiniest_model(),
    "batch_mix": {"paired": 1},
    **{"vocab_size": 1000, "max_text_length": 24, "per_device_train_batch_size": 4, "max_steps": 4, "warmup_steps": 0},
    **{"validation_identities": 0, "logging_steps": 1, "report_to": "none", "disable_tqdm": True},
}
ROW = TableRow("Tiny", (TrainingStage("tiny", "masked", "tiny"),), ())


@pytest.fixture(scope="session")
def worlds(tmp_path_factory):
    root = tmp_path_factory.mktemp("worlds")
    write_world("finegpr", root / "finegpr", num_ids=4, images_per_id=3)
    write_world("market1501", root / "market1501", num_train_ids=2, num_test_ids=4, images_per_id=4)
    return root


@pytest.fixture
def run(tmp_path, monkeypatch, worlds):
    """The command on a table of one row, which is trained for four steps; returns the exit code."""
    return command_in(tmp_path, monkeypatch, worlds)


def command_in(folder, monkeypatch, worlds):
    """The same in a folder, whose `out` has the runs."""
    monkeypatch.setattr(command, "TABLES", {1: Table(1, "One row", ("market1501",), ("mAP",), (ROW,))})
    (folder / "recipes").mkdir(exist_ok=True)
    (folder / "recipes" / "tiny.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    options = ["--tables", "1", "--seeds", "1", "--output", str(folder / "out"), "--recipes", str(folder / "recipes")]
    data = [f"{name}={worlds / name}" for name in ("finegpr", "market1501")]
    return lambda *more: command.main([*options, "--data", *data, *more])


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worlds):
    """A folder in which the command has done all its work."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        assert command_in(folder, patch, worlds)() == 0
    return folder


@pytest.fixture
def kept(finished):
    """The kept evaluation, put back after the test."""
    (path,) = finished.rglob("evaluation-*.json")
    whole = path.read_bytes()
    yield path
    path.write_bytes(whole)


def test_main__ctrl_c_saves_the_step_and_the_same_command_continues(run, tmp_path, monkeypatch, capsys):
    """Ctrl-C comes in the second of four steps: two are left for the next run. A third run trains nothing."""
    forward, steps = MMETForPreTraining.forward, []

    def counted(self, **inputs):
        steps.append(self.training)
        if len(steps) == 2 and interrupted:
            signal.raise_signal(signal.SIGINT)
        return forward(self, **inputs)

    monkeypatch.setattr(MMETForPreTraining, "forward", counted)
    interrupted = True
    assert run() == 130
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("python -m mmet.ablate:")]
    assert "stopped by Ctrl-C" in line
    assert line.endswith("; the same command continues")
    assert len(steps) == 2
    assert not list((tmp_path / "out").rglob("*partial*"))
    assert not list((tmp_path / "out").rglob("evaluation-*"))

    interrupted, _ = False, steps.clear()
    assert run() == 0
    assert "Tiny" in capsys.readouterr().out
    assert len(steps) == 2
    steps.clear()
    tables = (tmp_path / "out" / "tables.json").read_bytes()
    assert run("--report_only") == 0
    assert steps == []
    again = json.loads((tmp_path / "out" / "tables.json").read_bytes())
    assert again["tables"] == json.loads(tables)["tables"]


METRICS = dict.fromkeys(("mAP", "mINP", "rank1", "rank5", "rank10"), 0.5)
DAMAGED = {
    "empty": "",
    "cut": '{"data": "x", "metr',
    "bytes": b"\xff\xfe\xff",
    "nested without end": "[" * 100_000,
    "list": "[]",
    "null": "null",
    "number": "3",
    "word": '"metrics"',
    "nothing in it": {},
    "no metrics": {"data": "x"},
    "no data": {"metrics": METRICS},
    "metrics null": {"data": "x", "metrics": None},
    "metrics in a list": {"data": "x", "metrics": [METRICS]},
    "a word": {"data": "x", "metrics": METRICS | {"mAP": "high"}},
    "a null": {"data": "x", "metrics": METRICS | {"mAP": None}},
    "a truth value": {"data": "x", "metrics": METRICS | {"mAP": True}},
    "NaN": {"data": "x", "metrics": METRICS | {"mAP": float("nan")}},
    "not a share": {"data": "x", "metrics": METRICS | {"mAP": 50.0}},
    "none of the metrics": {"data": "x", "metrics": {}},
    "one metric missing": {"data": "x", "metrics": {name: 0.5 for name in METRICS if name != "mAP"}},
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_main__what_is_no_evaluation_is_one_message_that_names_the_file(
    finished, kept, worlds, monkeypatch, capsys, content
):
    if isinstance(content, dict):
        data = f"market1501={worlds / 'market1501'}"
        content = json.dumps(content | {"data": data} if "data" in content else content)
    kept.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert command_in(finished, monkeypatch, worlds)() == 2
    message = capsys.readouterr().err
    (line,) = [line for line in message.splitlines() if line.startswith("python -m mmet.ablate:")]
    assert f"{kept} is not an evaluation of this command" in line
    assert line.endswith("; remove it")
    assert "Traceback" not in message


@pytest.mark.parametrize(
    "other", [None, {"data": "market1501=/elsewhere", "metrics": METRICS}], ids=["gone", "other data"]
)
def test_main__an_evaluation_of_other_data_or_none_is_measured_anew(finished, kept, worlds, monkeypatch, other):
    expected = json.loads(kept.read_text(encoding="utf-8"))
    kept.unlink()
    if other is not None:
        kept.write_text(json.dumps(other), encoding="utf-8")
    assert command_in(finished, monkeypatch, worlds)() == 0
    received = json.loads(kept.read_text(encoding="utf-8"))
    assert received["data"] == expected["data"]
    assert received["metrics"] == pytest.approx(expected["metrics"])
