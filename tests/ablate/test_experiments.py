"""The rows of the paper's tables: their figures, and stages that the recipes and the small recipes can make."""

from pathlib import Path

import pytest
import torch
import yaml

from mmet.ablate.experiments import METRICS, TABLES, TableRow
from mmet.ablate.runs import MissingDataError, Runner
from mmet.data import dataset_names
from mmet.training.arguments import parse_arguments
from mmet.training.model_config import build_config
from modeling_mmet import MMETForPreTraining

DATA = {name: f"{name}=/data/{name}" for name in dataset_names() if name != "folder"}
ROWS = [(table.number, row) for table in TABLES.values() for row in table.rows]

# Copied from the paper's Tables 1, 2 and 4 and MMET's row of Table 3, row by row, left to right.
PAPER = {
    1: [[15.4, 38.9, 9.8, 19.5], [], [], [], [26.7, 51.1, 19.2, 35.1], [28.8, 59.2, 23.5, 43.6]],
    2: [[24.6, 36.7, 47.6], [14.4, 27.8, 39.5], [25.6, 38.8, 50.4], [], [], [], []],
    3: [[28.8, 59.2, 23.5, 43.6, 20.3, 23.6]],
    4: [[28.8, 55.6, 27.1, 47.6, 10.8, 13.4], [28.8, 59.2, 23.5, 43.6, 20.3, 23.6]],
}


@pytest.mark.parametrize("number", TABLES)
def test_tables__figures_of_the_paper(number):
    table = TABLES[number]
    assert table.number == number
    assert set(table.metrics) <= set(METRICS)
    rows = [
        [row.paper[name][metric] for name in table.datasets for metric in table.metrics] if row.paper else []
        for row in table.rows
    ]
    assert rows == PAPER[number]
    assert len({row.title for row in table.rows}) == len(table.rows)


@pytest.mark.parametrize("size", ["paper", "small"])
@pytest.mark.parametrize(("number", "row"), ROWS, ids=lambda value: getattr(value, "title", value))
def test_rows__every_stage_is_a_recipe_that_the_parser_takes(number, row, size, tmp_path):
    runner, before = Runner(tmp_path, DATA, size=size), None
    for stage in row.stages_of(size):
        fields = runner.fields_of(stage, before, seed=7)
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(fields), encoding="utf-8")
        model, data, objectives, training = parse_arguments([str(path)])
        assert training.seed == 7
        assert all(argument.startswith(tuple(f"{name}=/data/" for name in DATA)) for argument in data.paired_data)
        assert objectives.mix
        if before is None:
            config = build_config(model.model_config, vocab_size=50, num_identities=3, loss_weights={})
            with torch.device("meta"):
                MMETForPreTraining(config)
            searched = {row.query, row.gallery}
            assert config.identity_pooling in ("multimodal", *searched)  # the model embeds what is searched
        before = Path("/stage/before")
        assert model.model_name_or_path in (None, str(before))


def test_rows__one_training_serves_the_rows_that_share_it(tmp_path):
    runner = Runner(tmp_path, DATA)
    shared = [row.stages for _, row in ROWS if row.stages[0].name == "mmm_masked"]
    assert len(shared) == 7
    assert len({str([runner.fields_of(stage, None, seed=1) for stage in stages]) for stages in shared}) == 1


def test_rows__all_of_them_have_a_small_form():
    assert all(row.small_stages for _, row in ROWS)


def test_rows__randperson_is_read_without_sentences(tmp_path):
    row = next(row for _, row in ROWS if row.title.startswith("RandPerson"))
    masked, identity = (
        Runner(tmp_path, DATA, size="small").fields_of(stage, None, seed=1) for stage in row.small_stages
    )
    assert (masked["batch_mix"], identity["batch_mix"]) == ({"image": 1}, {"identity_image": 1})
    assert masked["image_data"] == identity["paired_data"] == [DATA["randperson"]]


def test_rows__missing_data_or_size_is_said(tmp_path):
    runner = Runner(tmp_path, {"market1501": DATA["market1501"]})
    with pytest.raises(MissingDataError, match="no folder of finegpr"):
        runner.train(TABLES[1].rows[0], seed=1)
    with pytest.raises(MissingDataError, match="no small recipes"):
        Runner(tmp_path, DATA, size="small").train(TableRow("row", TABLES[4].rows[0].stages, ()), seed=1)
