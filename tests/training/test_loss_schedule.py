"""Loss schedules: the factors by hand, what is refused, and what training with one does."""

import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_runs import draw_world, save_recipe, tiniest_model, tiny_recipe

from mmet.training.arguments import ObjectiveArguments, parse_arguments
from mmet.training.loss_schedule import LossSchedule
from mmet.training.pretraining import run_pretraining
from modeling_mmet import MMETForPreTraining


@pytest.mark.parametrize(
    ("done", "expected"), [(0, 1), (0.25, 1), (0.5, 1), (0.625, 0.75), (0.75, 0.5), (1, 0), (1.5, 0)]
)
def test_factors__linear_between_points_and_constant_outside(done, expected):
    schedule = LossSchedule({"mim": [[0.5, 1], [1, 0]]})
    assert schedule.factors(done) == {"mim": pytest.approx(expected)}


@given(st.floats(0, 1), st.floats(0, 10), st.floats(0, 10))
def test_factors__one_line_from_start_to_end(done, start, end):
    values = LossSchedule({"mlm": [[0, start], [1, end]], "itm": [[0.3, end]]}).factors(done)
    assert values["mlm"] == pytest.approx(start + (end - start) * done, abs=1e-9)
    assert values["itm"] == end


def test_factors__a_loss_that_is_not_named_has_none():
    assert LossSchedule({}).factors(0.5) == {}


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ({"mimm": [[0, 1]]}, "received 'mimm'"),
        ({"mim": []}, r"for mim.*received \[\]"),
        ({"mim": 1}, "for mim.*received 1"),
        ({"mim": [[0, 1, 2]]}, r"received \[\[0, 1, 2\]\]"),
        ({"mim": [[0, 1], [0, 0]]}, "ascending"),
        ({"mim": [[0, 1], [1.1, 0]]}, "ascending"),
        ({"mim": [[0, -1]]}, "at least 0"),
        ({"mim": [[0, float("nan")]]}, "for mim.*received"),
    ],
)
def test_loss_schedule__refuses_what_is_none(points, message):
    with pytest.raises(ValueError, match=message):
        LossSchedule(points)
    with pytest.raises(ValueError, match=message):
        ObjectiveArguments(loss_schedule=points)


def test_objective_arguments__points_of_the_schedule():
    arguments = ObjectiveArguments(loss_schedule={"mim": [[0, 1], [1, 0]], "mlm": None})
    assert arguments.schedule.to_json() == {"mim": [[0, 1], [1, 0]]}
    assert ObjectiveArguments().schedule.to_json() == {}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return draw_world(tmp_path_factory.mktemp("world") / "source", num_ids=6, image_height=52, image_width=28)


@pytest.fixture
def recipe(world, tmp_path):
    source = [f"finegpr={world}"]
    recipe = tiny_recipe(
        output_dir=str(tmp_path / "run"),
        paired_data=source,
        image_data=source,
        model_config=tiniest_model(identity_pooling="image"),
        vocab_size=1000,
        batch_mix={"identity_image": 1, "image": 1},
        logging_steps=2,
    )
    return save_recipe(tmp_path, recipe)


def pretrain(recipe, folder, schedule, *overrides):
    options = ["--output_dir", folder, "--loss_schedule", json.dumps(schedule), *overrides]
    return run_pretraining(*parse_arguments([recipe, *map(str, options)]))


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_run_pretraining__a_constant_factor_is_another_weight(recipe, tmp_path):
    halved = pretrain(recipe, tmp_path / "halved", {"mim": [[0, 0.5]]})
    weighted = pretrain(recipe, tmp_path / "weighted", {}, "--mim_weight", 0.5)
    assert same(weights_of(halved), weights_of(weighted))
    assert not same(weights_of(halved), weights_of(pretrain(recipe, tmp_path / "plain", {})))
    # The configuration keeps the weight that it was given: the next stage starts from it.
    assert MMETForPreTraining.from_pretrained(halved).config.mim_weight == 1


def test_run_pretraining__factors_are_logged_and_a_resumed_run_is_the_uninterrupted_one(recipe, tmp_path):
    schedule = {"mim": [[0, 1], [1, 0]], "identity": [[0, 0], [0.5, 1]]}
    whole = pretrain(recipe, tmp_path / "whole", schedule)
    history = json.loads((whole / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    logged = {entry["step"]: (entry["mim_factor"], entry["identity_factor"]) for entry in history if "loss" in entry}
    assert logged == {2: (0.75, 0.5), 4: (0.5, 1), 6: (0.25, 1), 8: (0, 1)}
    result = json.loads((whole / "training_result.json").read_text(encoding="utf-8"))
    assert result["training"]["loss_schedule"] == schedule
    assert "mim 1 to 0" in (whole / "README.md").read_text(encoding="utf-8")
    interrupted = tmp_path / "interrupted"
    shutil.copytree(whole / "checkpoint-4", interrupted / "checkpoint-4")
    resumed = pretrain(recipe, interrupted, schedule, "--resume_from_checkpoint", "true")
    assert same(weights_of(whole), weights_of(resumed))
