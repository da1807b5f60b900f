"""A resume that is not the run that was begun says what differs; what cannot matter says nothing."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_runs import save_recipe, tiny_recipe

from mmet.data import load_reid_dataset, save_parquet
from mmet.data.synthetic import write_world
from mmet.training import run_record
from mmet.training.arguments import parse_arguments
from mmet.training.pretraining import run_pretraining
from mmet.training.run_record import RECORD_FILE, DataRecord, RunRecord, check_resume

SIZE = {"images_per_id": 4, "image_height": 100, "image_width": 52}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Three sets of eight people: one, the same in another place, and other people under the same names."""
    folder = tmp_path_factory.mktemp("worlds")
    write_world("market1501", folder / "one", num_train_ids=8, num_test_ids=1, seed=3, **SIZE)
    shutil.copytree(folder / "one", folder / "moved")
    write_world("market1501", folder / "others", num_train_ids=8, num_test_ids=1, seed=4, **SIZE)
    write_world("finegpr", folder / "captioned", num_ids=8, seed=3, **SIZE)
    write_world("finegpr", folder / "more", num_ids=9, seed=3, **SIZE)
    return folder


@pytest.fixture(scope="module")
def begun(worlds):
    """A recipe, and the folder of a run of it that stopped after its second of four steps."""
    data = {"paired_data": [f"finegpr={worlds / 'captioned'}"], "image_data": [f"market1501={worlds / 'one'}"]}
    steps = {"max_steps": 4, "logging_steps": 2, "save_steps": 2}
    mix = {"paired": 1, "image": 1, "identity": 1}
    recipe = tiny_recipe(output_dir=str(worlds / "run"), batch_mix=mix, **data, **steps)
    path = Path(save_recipe(worlds, recipe))
    run_pretraining(*parse_arguments([str(path)]))
    return path, worlds / "run" / "checkpoint-2"


def resume(begun, folder: Path, *changes: object) -> Path:
    """Go on after the second step, in a folder of its own."""
    recipe, checkpoint = begun
    shutil.copytree(checkpoint, folder / checkpoint.name)
    arguments = [recipe, "--output_dir", folder, "--resume_from_checkpoint", "true", *changes]
    return run_pretraining(*parse_arguments([*map(str, arguments)]))


CHANGED = {
    "seed": (["--seed", "7"], "seed: 42 → 7"),
    "masking": (["--image_masking", "random"], "image_masking: pedestrian → random"),
    "mask ratio": (["--mask_ratio", "0.2"], r"mask_ratio: 0.15 → 0.2"),
    "batch size": (
        ["--per_device_train_batch_size", "4", "--persons_per_batch", "2"],
        "persons_per_batch: 4 → 2.*per_device_train_batch_size: 8 → 4",
    ),
    "schedule": (["--lr_scheduler_type", "cosine"], "lr_scheduler_type: linear → cosine"),
    "learning rate": (["--learning_rate", "0.01"], r"learning_rate: 0.001 → 0.01"),
    "mix": (
        ["--batch_mix", '{"paired": 1, "identity": 1}'],
        r'batch_mix: .*"image": 1.* → \{"paired": 1.0, "identity": 1.0\}',
    ),
    "augmentation": (["--augmentation", '{"padding": 0.2}'], r'augmentation: null → \{"padding": 0.2\}'),
    "a loss weight": (["--itm_weight", "0.5"], "itm_weight: null → 0.5"),
    "loss schedule": (["--loss_schedule", '{"mim": [[0, 1], [1, 0]]}'], "loss_schedule: null → "),
    "other persons": (["--image_data", "market1501={worlds}/others"], "data market1501: .*other images"),
    "use of data": (
        ["--paired_data", "finegpr={worlds}/captioned", "--image_data", "finegpr={worlds}/captioned"],
        "data",
    ),
    "fewer data": (["--image_data", "finegpr={worlds}/captioned"], "data market1501: not used any more"),
}
NEVER = {
    "held out persons": (["--validation_identities", "2"], r"num_identities: 8 → .*validation_identities: 0.* → 2"),
    "optimizer": (["--optim", "sgd"], "optim: .*adamw.* → sgd"),
    "vocabulary": (["--vocab_size", "1000"], r"vocabulary: .* words .* → .* words .*"),
    "more persons": (["--paired_data", "finegpr={worlds}/more"], "data finegpr: 8 persons → 9 persons"),
    "model": (["--model_config", '{"projection_dim": 8}'], "model_config"),
}


def in_place(worlds, arguments):
    return [argument.replace("{worlds}", str(worlds)) for argument in arguments]


@pytest.mark.parametrize("case", [*CHANGED, *NEVER])
def test_resume__what_changes_the_result_is_refused_and_named(begun, worlds, tmp_path, case):
    arguments, message = (CHANGED | NEVER)[case]
    with pytest.raises(ValueError, match=message) as raised:
        resume(begun, tmp_path, *in_place(worlds, arguments))
    assert "checkpoint-2" in str(raised.value)
    assert ("--allow_changed_resume true" in str(raised.value)) == (case in CHANGED)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("case", NEVER)
def test_resume__what_no_checkpoint_fits_is_refused_even_if_it_is_meant(begun, worlds, tmp_path, case):
    arguments, message = NEVER[case]
    with pytest.raises(ValueError, match=f"belong to another model.*{message}"):
        resume(begun, tmp_path, *in_place(worlds, arguments), "--allow_changed_resume", "true")


def test_resume__a_change_that_is_meant_is_said_and_recorded(begun, worlds, tmp_path, caplog):
    data = f"market1501={worlds / 'others'}"
    folder = resume(begun, tmp_path, "--seed", 7, "--image_data", data, "--allow_changed_resume", "true")
    assert "checkpoint-2 is continued although seed: 42 → 7" in caplog.text
    assert "is continued although data market1501: other persons (8 as before), other images" in caplog.text
    record = RunRecord.load(folder / "checkpoint-4")
    assert record.recipe["seed"] == 7
    assert record.data["market1501"] != RunRecord.load(begun[1]).data["market1501"]


def test_resume__what_cannot_matter_goes_on(begun, worlds, tmp_path, caplog):
    changes = ["--dataloader_num_workers", 1, "--logging_steps", 1, "--save_steps", 1, "--save_total_limit", 1]
    changes += ["--run_name", "again", "--disable_tqdm", "true", "--per_device_eval_batch_size", 2]
    folder = resume(begun, tmp_path, *changes, "--image_data", f"market1501={worlds / 'moved'}")
    assert (folder / "model.safetensors").is_file()
    assert "is continued although" not in caplog.text


def test_resume__a_longer_run_needs_no_option_and_is_said(begun, tmp_path, caplog):
    folder = resume(begun, tmp_path, "--max_steps", 6)
    assert (folder / "checkpoint-6").is_dir()
    assert "is continued although max_steps: 4 → 6" in caplog.text


def test_resume__a_checkpoint_without_record_goes_on_and_says_so(begun, tmp_path, caplog):
    recipe, checkpoint = begun
    older = shutil.copytree(checkpoint, tmp_path / "older" / checkpoint.name)
    (older / RECORD_FILE).unlink()
    resume((recipe, older), tmp_path / "run")
    assert "no record of its data and recipe" in caplog.text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', '{"format": 2, "recipe": 3, "data": {}}'])
def test_load__a_file_that_is_no_record_is_named(tmp_path, content):
    (tmp_path / RECORD_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=f"{RECORD_FILE} is not a record of a run"):
        RunRecord.load(tmp_path)


def test_data_record__sees_persons_captions_and_pictures_wherever_they_lie(worlds):
    first, moved, others = (
        DataRecord.of(load_reid_dataset("market1501", worlds / name)["train"], ["image"])
        for name in ("one", "moved", "others")
    )
    assert first.differences(moved) == []
    (line,) = [line for line in first.differences(others) if "images" in line]
    assert line == f"other images ({first.images} as before)"
    table = load_reid_dataset("finegpr", worlds / "captioned")["train"]
    record = DataRecord.of(table, ["paired"])
    columns = {
        "persons": ("person_id", lambda row: {"person_id": row["person_id"] + 1}),
        "captions": ("captions", lambda row: {"captions": [text.upper() for text in row["captions"]]}),
        "images": ("image_path", lambda row: {"image_path": f"x{row['image_path']}"}),
    }
    for name, (_, change) in columns.items():
        changed = table.with_format(None).map(change, load_from_cache_file=False)
        count = getattr(record, name)
        assert record.differences(DataRecord.of(changed, ["paired"])) == [f"other {name} ({count} as before)"]


@pytest.mark.parametrize("in_shards", [False, True])
@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.parametrize("what", ["image", "person_mask"])
def test_data_record__sees_a_single_file_outside_of_the_sample(
    worlds, tmp_path, monkeypatch, what, selected, in_shards
):
    """By its size; a file of the same size is seen only inside of the sample, as the module says."""
    monkeypatch.setattr(run_record, "_SAMPLED_PICTURES", 2)

    def record(source):
        table = load_reid_dataset("finegpr", source)["train"]
        if in_shards:
            save_parquet({"train": table}, folder := Path(tempfile.mkdtemp(dir=tmp_path)) / "shards")
            table = load_reid_dataset("parquet", folder)["train"]
        return DataRecord.of(table.select(range(1, 20)) if selected else table, ["paired"])

    copy = shutil.copytree(worlds / "captioned", tmp_path / "copy")
    before = record(copy)
    assert before.differences(record(worlds / "captioned")) == []
    assert before.masks == before.images
    folder, name = ("FineGPR", "images") if what == "image" else ("FineGPR_masks", "masks")
    files = sorted((copy / folder).glob("*/*"))
    with Image.open(files[7]) as picture:
        changed = picture.transpose(Image.Transpose.ROTATE_180)
    changed.crop((0, 0, 50, 100)).save(files[7])
    assert before.differences(record(copy)) == [f"other {name} ({before.images} as before)"]


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.lists(st.integers())
)
fields = st.dictionaries(st.text(min_size=1), values, max_size=4)
sources = st.builds(
    DataRecord,
    st.lists(st.sampled_from(["paired", "image", "text"]), unique=True).map(tuple),
    st.integers(0),
    st.integers(0),
    st.integers(0),
    st.integers(0),
    st.fixed_dictionaries({name: st.text(max_size=2) for name in ("persons", "images", "captions", "masks")}),
)
records = st.builds(RunRecord, fields, fields, fields, st.dictionaries(st.text(min_size=1), sources, max_size=3))


@given(records, records)
def test_record__comes_back_whole_and_sees_every_difference(tmp_path_factory, then, now):
    folder = tmp_path_factory.mktemp("record")
    then.save(folder)
    loaded = RunRecord.load(folder)
    assert loaded == then
    assert check_resume(folder, then, allow_changes=False) == []
    shared = [name for name in then.recipe if name in now.recipe and then.recipe[name] != now.recipe[name]]
    lines = loaded.differences(now)
    assert [line.partition(":")[0] for line in lines[: len(shared)]] == [name.partition(":")[0] for name in shared]
    assert bool(lines[len(shared) :]) == (list(then.data.items()) != list(now.data.items()))


def test_record__is_json_for_people(begun):
    content = json.loads((begun[1] / RECORD_FILE).read_text(encoding="utf-8"))
    assert content["recipe"]["image_masking"] == "pedestrian"
    assert content["data"]["finegpr"]["persons"] == 8
    assert content["model"]["optim"].startswith("adamw")
    assert not {"output_dir", "dataloader_num_workers", "hub_token"} & set(content["recipe"])
