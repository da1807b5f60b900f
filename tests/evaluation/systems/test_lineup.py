"""Names of rows, and where calibrations are kept."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmet.evaluation.analyses import calibration_learning
from mmet.evaluation.analyses.calibration import CALIBRATION_FILE, MatchCalibration, read_calibrations
from mmet.evaluation.analyses.calibration_learning import keep_calibrations, saved_calibrations
from mmet.evaluation.systems import lineup
from mmet.evaluation.systems.lineup import Lineup
from mmet.evaluation.systems.loading import name_systems

PLATT = MatchCalibration("platt", prior=0.1, slope=2.0, intercept=-1.0)


@pytest.mark.parametrize(
    ("arguments", "taken", "names"),
    [
        (["outputs/run", "org/mmet-base"], (), ["run", "mmet-base"]),
        (["a/model", "b/model"], (), ["a/model", "b/model"]),
        (["x/a/model", "y/a/model", "x/b"], (), ["x/a/model", "y/a/model", "b"]),
        (["outputs/a/model"], ("model",), ["a/model"]),
        (["random=a/model", "b/model"], (), ["random", "model"]),
        (["one=a", "two=a"], (), ["one", "two"]),
        (["model"], (), ["model"]),
    ],
)
def test_name_systems__is_as_short_as_tells_apart(arguments, taken, names):
    named = name_systems(arguments, taken)
    assert list(named) == names
    assert list(named.values()) == [argument.rpartition("=")[2] for argument in arguments]


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join), unique=True, max_size=6))
def test_name_systems__every_path_has_a_name_that_ends_it(paths):
    named = name_systems(paths)
    assert sorted(named.values()) == sorted(paths)
    assert all(path == name or path.endswith("/" + name) for name, path in named.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "b", "a/"], "expected each model once, or"),
        (["x=a", "x=b"], "the row name 'x' is taken"),
        (["model"], "the row name 'model' is taken"),
        (["=a"], "expected a folder, a Hub name, or name=folder, received '=a'"),
        (["a="], "received 'a='"),
        ([" "], "expected a folder"),
    ],
)
def test_name_systems__rejects(arguments, message):
    with pytest.raises(ValueError, match=message):
        name_systems(arguments, taken=["model"])


def test_keep_calibrations__beside_the_model_and_together_with_others_of_its_weights(tmp_path):
    model, output = tmp_path / "model", tmp_path / "out"
    model.mkdir()
    output.mkdir()
    for query in ("text", "image"):
        assert keep_calibrations({(query, "image"): PLATT}, model, output, "w1") == model / CALIBRATION_FILE
    assert set(saved_calibrations(model, output, "w1")) == {("text", "image"), ("image", "image")}
    keep_calibrations({("both", "both"): PLATT}, model, output, "w2")
    assert set(saved_calibrations(model, output, "w2")) == {("both", "both")}
    with pytest.raises(ValueError, match="was learnt for other weights"):
        saved_calibrations(model, output, "w1")


def test_keep_calibrations__with_the_results_where_the_model_is_on_the_hub(tmp_path):
    file = keep_calibrations({("text", "image"): PLATT}, tmp_path / "org" / "name", tmp_path, "w")
    assert file == tmp_path / CALIBRATION_FILE
    assert set(saved_calibrations(tmp_path / "org" / "name", tmp_path, "w")) == {("text", "image")}


def test_keep_calibrations__with_the_results_where_the_model_folder_cannot_be_written(tmp_path, caplog):
    model, output = tmp_path / "model", tmp_path / "out"
    (model / CALIBRATION_FILE).mkdir(parents=True)  # nothing can be written under this name
    output.mkdir()
    assert keep_calibrations({("text", "image"): PLATT}, model, output, "w") == output / CALIBRATION_FILE
    assert "cannot be written" in caplog.text
    assert read_calibrations(output / CALIBRATION_FILE)[1] == "w"


def test_saved_calibrations__a_stale_file_of_the_same_weights_is_not_taken(tmp_path, monkeypatch):
    """The model's folder can be written once and not the second time; the later calibration counts."""
    model, output = tmp_path / "model", tmp_path / "out"
    model.mkdir()
    output.mkdir()
    old, new = (MatchCalibration("platt", 0.1, slope=slope) for slope in (1.0, 2.0))
    keep_calibrations({("text", "image"): old, ("image", "image"): old}, model, output, "w")
    save = calibration_learning.save_calibrations

    def refuse(path, *arguments, **options):
        if path.parent == model:
            raise OSError("read-only")
        save(path, *arguments, **options)

    monkeypatch.setattr(calibration_learning, "save_calibrations", refuse)
    assert keep_calibrations({("text", "image"): new}, model, output, "w").parent == output
    calibrations = saved_calibrations(model, output, "w")
    assert (calibrations["text", "image"].slope, calibrations["image", "image"].slope) == (2.0, 1.0)
    monkeypatch.undo()
    keep_calibrations({("text", "image"): old}, model, output, "w")
    assert saved_calibrations(model, output, "w")["text", "image"].slope == 1.0


def test_check_seeds__one_model_twice_is_refused(monkeypatch):
    models = {"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)}
    models["copy"] = models["a"]
    monkeypatch.setattr(lineup, "load_any_embedder", lambda source: (models[source], None))
    monkeypatch.setattr(Lineup, "model", lambda self: SimpleNamespace(model=models["a"]))
    Lineup("a", [], {}, {}, {"second": "b"}).check_seeds()
    with pytest.raises(ValueError, match=r"--seeds: .*very weights of 'model' again as 'third' \(copy\)"):
        Lineup("a", [], {}, {}, {"second": "b", "third": "copy"}).check_seeds()
