"""Runs: what names their folders, what continues and what is not repeated, and the command from end to end."""

import json
import shutil

import pytest
import yaml

from mmet.ablate import runs
from mmet.ablate.__main__ import main, parse_settings
from mmet.ablate.experiments import TableRow, TrainingStage
from mmet.ablate.runs import NotTrainedError, Runner, fingerprint, merge_fields, settings_for

FIRST = {
    "output_dir": "nowhere",
    "paired_data": ["finegpr=nowhere?captions=attributes"],
    "model_config": {"projection_dim": 8, "text_config": {"hidden_size": 8, "num_hidden_layers": 1}},
    "batch_mix": {"paired": 1, "image": 1},
    "max_steps": 9,
}


@pytest.fixture
def recipes(tmp_path):
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "first.yaml").write_text(yaml.safe_dump(FIRST), encoding="utf-8")
    return folder


@pytest.fixture
def runner(tmp_path, recipes):
    return Runner(tmp_path / "out", {"finegpr": "finegpr=/data/gpr"}, recipes=recipes)


def test_fields_of__recipe_then_row_then_user_then_data_and_seed(runner):
    runner.settings = {"max_steps": 6, "masked.max_steps": 4, "identity.max_steps": 5}
    stage = TrainingStage(
        "a", "masked", "first", {"max_steps": 8, "model_config": {"text_config": {"hidden_size": 16}}}
    )
    fields = runner.fields_of(stage, None, seed=3)
    assert "output_dir" not in fields
    assert fields["paired_data"] == ["finegpr=/data/gpr"]
    assert (fields["max_steps"], fields["seed"]) == (4, 3)
    assert fields["model_config"]["text_config"] == {"hidden_size": 16, "num_hidden_layers": 1}
    assert fields["model_config"]["projection_dim"] == 8
    assert runner.fields_of(TrainingStage("a", "masked", "first", share=0.5), None, seed=3)["max_steps"] == 2


def test_merge_fields__everything_but_the_model_is_replaced_whole():
    assert merge_fields(FIRST, {"batch_mix": {"text": 1}})["batch_mix"] == {"text": 1}
    assert merge_fields({}, {"model_config": {"a": 1}}) == {"model_config": {"a": 1}}


def test_settings_for__a_kinds_own_win():
    settings = {"identity.seed": 2, "seed": 1, "masked.lr": 3}
    assert settings_for(settings, "identity") == {"seed": 2}
    assert settings_for(settings, "masked") == {"seed": 1, "lr": 3}


def test_fingerprint__counts_what_has_an_effect():
    fields = {"max_steps": 1, "seed": 2}
    assert fingerprint(fields) == fingerprint({"seed": 2, "max_steps": 1, "logging_steps": 5, "output_dir": "x"})
    assert fingerprint(fields) != fingerprint({"max_steps": 1, "seed": 3})
    assert len(fingerprint(fields)) == 8


def test_train_stage__finished_runs_are_not_repeated_and_others_continue(runner, monkeypatch):
    calls = []

    def train(recipe):
        calls.append(recipe)
        if len(calls) > 1:  # the first is killed
            (recipe.parent / "training_result.json").write_text("{}", encoding="utf-8")

    monkeypatch.setattr(runner, "_run", train)
    stage = TrainingStage("a", "masked", "first")
    first = runner.train_stage(stage, None, seed=1)
    assert runner.train_stage(stage, None, seed=1) == first
    assert runner.train_stage(stage, None, seed=1) == first
    assert calls == [first / "recipe.yaml"] * 2
    assert yaml.safe_load(calls[0].read_text(encoding="utf-8"))["output_dir"] == str(first)
    assert runner.train_stage(stage, None, seed=2) != first
    assert len(calls) == 3


def test_train_stage__report_only_trains_nothing(runner, monkeypatch):
    stage = TrainingStage("a", "masked", "first")
    with monkeypatch.context() as patch:
        patch.setattr(runner, "_run", lambda recipe: (recipe.parent / "training_result.json").write_text("{}"))
        finished = runner.train_stage(stage, None, seed=1)
    monkeypatch.setattr(runner, "_run", lambda recipe: pytest.fail("trained"))
    runner.report_only = True
    assert runner.train_stage(stage, None, seed=1) == finished
    with pytest.raises(NotTrainedError, match=r"a-seed2-\w+ is not trained to its end"):
        runner.train_stage(stage, None, seed=2)


def test_run__resumes_whatever_is_there(runner, monkeypatch, recipes):
    seen = []
    monkeypatch.setattr(runs, "parse_arguments", lambda arguments: seen.append(arguments) or ())
    monkeypatch.setattr(runs, "run_pretraining", lambda *arguments: None)
    runner._run(recipes / "first.yaml")
    assert seen == [[str(recipes / "first.yaml"), "--resume_from_checkpoint", "true"]]


def test_run__a_launcher_that_fails_is_named(runner, recipes):
    runner.launcher = ["false"]
    with pytest.raises(OSError, match=r"false .*run_pretrain.py .*first.yaml .* ended with status 1"):
        runner._run(recipes / "first.yaml")


def test_train__stages_follow_each_other(runner, monkeypatch):
    monkeypatch.setattr(runner, "_run", lambda recipe: None)
    last = runner.train(
        TableRow("row", (TrainingStage("a", "masked", "first"), TrainingStage("b", "identity", "first")), ()), seed=1
    )
    recipe = yaml.safe_load((last / "recipe.yaml").read_text(encoding="utf-8"))
    assert last.name.startswith("b-seed1-")
    assert recipe["model_name_or_path"].startswith(str(last.parent / "a-seed1-"))


def test_parse_settings__values_are_yaml():
    expected = {"max_steps": 5, "batch_mix": {"image": 1}, "learning_rate": 1e-3}
    assert parse_settings(["max_steps=5", "batch_mix={image: 1}", "learning_rate=1.0e-3"]) == expected
    with pytest.raises(ValueError, match="expected FIELD=VALUE, received 'max_steps'"):
        parse_settings(["max_steps"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nothing"], "expected name=folder"),
        (["--data", "market1501=/data/market", "--seeds", "0"], "--seeds: expected at least 1"),
        (["--data", "market1501=/data/market", "--set", "x"], "expected FIELD=VALUE"),
    ],
)
def test_main__bad_input_is_one_message(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--output", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def tables_of(printed):
    """What the command prints at its end; training prints its log before."""
    return printed[printed.index("# Ablations") :]


@pytest.mark.slow
def test_main__tables_on_a_tiny_world_and_again_from_what_is_kept(tmp_path, capsys, monkeypatch):
    world = ["--world_persons", 24, "--world_images", 4, "--world_test_persons", 6]
    settings = ["codebook_images=32", "disable_tqdm=true"]
    command = ["--tables", 1, 2, 3, 4, "--seeds", 2, "--data", "synthetic", "--output", tmp_path, "--max_steps", 2]
    command = [*map(str, (*command, *world, "--set", *settings))]
    assert main(command) == 0
    printed = tables_of(capsys.readouterr().out)
    tables = json.loads((tmp_path / "tables.json").read_text(encoding="utf-8"))
    for table in tables["tables"]:
        for row in table["rows"]:
            for cells in row["results"].values():
                assert len(cells["mAP"]["values"]) == 2, row["title"]
    assert "(paper 59.2)" in printed
    assert "no figure here is a result on a real dataset" in printed
    # Again: nothing is trained, evaluations that are gone are measured anew, the tables are the same.
    monkeypatch.setattr(runs, "run_pretraining", lambda *arguments: pytest.fail("trained again"))
    for kept in (tmp_path / "runs").glob("baseline-*/evaluation-*"):
        kept.unlink()
    assert main(command) == 0
    assert tables_of(capsys.readouterr().out) == printed
    # A run that has to be done again is done again, and alone; without it the table says how many seeds it has.
    shutil.rmtree(next((tmp_path / "runs").glob("baseline-seed2-*")))
    assert main([*command, "--report_only"]) == 0
    assert "Baseline (image encoder, identities alone): 1 of 2 seeds so far" in tables_of(capsys.readouterr().out)
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        main(command)
