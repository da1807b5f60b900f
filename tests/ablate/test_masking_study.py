"""The study of masked pretraining: trials are runs that the parser takes, and tables say what was measured."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from mmet.data import load_reid_dataset
from mmet.data.synthetic import write_world
from mmet.training.arguments import parse_arguments

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import masking_study
from masking_study import FACTORS, StudyRunner, build_row

TRIALS = [(name, title) for name, factor in FACTORS.items() for title in factor.trials]
DATA = {"finegpr": "finegpr=/data/few"}


@pytest.mark.parametrize(("name", "title"), TRIALS)
def test_build_row__stages_that_the_parser_takes(name, title, tmp_path):
    trial = FACTORS[name].trials[title]
    runner, before = StudyRunner(tmp_path, DATA, size="small"), None
    runner.labelled, runner.unlabelled = "finegpr=/data/few", ["finegpr=/data/all"]
    stages = build_row(title, trial).small_stages
    assert len(stages) == (2 if trial.masked is not None else 1)
    for stage in stages:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(runner.fields_of(stage, before, seed=1)), encoding="utf-8")
        model, data, objectives, training = parse_arguments([str(path)])
        assert ("image" in objectives.mix) == bool(data.image_data)
        assert data.paired_data == (["finegpr=/data/few"] if stage.kind == "identity" else [])
        if before is None:
            assert model.model_config["image_config"]["image_size"] == list(trial.image_size)
            assert model.model_config["identity_pooling"] == "image"
        before = Path("/stage/before")
    assert training.max_steps == trial.identity["max_steps"]


def test_build_row__trials_that_factors_share_are_one_run(tmp_path):
    runner = StudyRunner(tmp_path, DATA, size="small")
    runs = [
        [runner.fields_of(stage, None, seed=1) for stage in build_row("row", FACTORS[name].trials[title]).small_stages]
        for name, title in (
            ("weights", "masked 200, then identities 200"),
            ("region", "pedestrian, by silhouettes"),
            ("size", "100×52: masked 200, identities 200"),
        )
    ]
    assert runs[0] == runs[1] == runs[2]


def test_save__means_and_missing_seeds(tmp_path):
    figures = {look: {"mAP": 0.25, "rank1": 0.5} for look in masking_study.TARGETS}
    other = {look: {"mAP": 0.35, "rank1": 0.5} for look in masking_study.TARGETS}
    measured = {("region", "random", 1): figures, ("region", "random", 2): other, ("region", "block", 1): figures}
    masking_study.save(measured, ["region"], (1, 2), tmp_path)
    text = (tmp_path / "masking_study.md").read_text(encoding="utf-8")
    assert f"{np.mean([25, 35]):.1f} ± {np.std([25, 35], ddof=1):.1f}" in text
    assert "- block: 1 of 2 seeds" in text
    assert "- random:" not in text
    content = json.loads((tmp_path / "masking_study.json").read_text(encoding="utf-8"))
    assert content["region"]["random"]["unseen_look_mAP"]["values"] == pytest.approx([25, 35])


def test_without_silhouettes__the_same_pictures_and_no_masks(tmp_path):
    world = tmp_path / "world"
    write_world("finegpr", world, num_ids=2, images_per_id=2, image_height=52, image_width=28)
    argument = masking_study.without_silhouettes(f"finegpr={world}")
    assert masking_study.without_silhouettes(f"finegpr={world}") == argument
    splits = [load_reid_dataset("finegpr", folder)["train"] for folder in (world, argument.partition("=")[2])]
    assert [bool(split[0]["person_mask"]) for split in splits] == [True, False]
    first, second = ([Path(path).name for path in split["image_path"]] for split in splits)
    assert first == second
