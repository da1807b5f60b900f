"""Recipes and the command line: what a user writes reaches the dataclasses, and mistakes are named."""

import pytest

from mmet.training.arguments import DataArguments, ObjectiveArguments, PretrainingArguments, parse_arguments
from mmet.training.checkpoint_selection import plan_selection
from mmet.training.model_config import build_config


def write_recipe(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_parse_arguments__recipe_then_command_line(tmp_path):
    recipe = write_recipe(
        tmp_path / "recipe.yaml",
        "paired_data: [finegpr=/data/a]\nlearning_rate: 1.0e-3\n"
        "batch_mix: {paired: 0.5, identity: 0.5}\nmlm_weight: 0\n",
    )
    model, data, objectives, training = parse_arguments(
        [
            recipe,
            *["--learning_rate", "5e-4", "--image_masking", "block", "--max_steps", "7", "--output_dir"],
            str(tmp_path),
        ]
    )
    assert training.learning_rate == 5e-4
    assert training.max_steps == 7
    assert data.paired_data == ["finegpr=/data/a"]
    assert data.image_masking == "block"
    assert objectives.mix == {"paired": 0.5, "identity": 0.5}
    assert objectives.loss_weights == {"mlm_weight": 0}
    assert model.model_name_or_path is None


def test_parse_arguments__nested_values_as_json(tmp_path):
    arguments = {"text_data": "finegpr=/x", "batch_mix": '{"text": 1}', "augmentation": '{"flip_probability": 0}'}
    command_line = [part for name, value in arguments.items() for part in (f"--{name}", value)]
    _, data, objectives, _ = parse_arguments([*command_line, "--output_dir", str(tmp_path)])
    assert objectives.mix == {"text": 1}
    assert data.augmentation == {"flip_probability": 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rte: 1\npaired_data: [a=b]", "learning_rte.*did you mean 'learning_rate'"),
        ("- a\n- b", "expected a mapping"),
        ("a: [1", "not YAML"),
    ],
)
def test_parse_arguments__bad_recipe_is_named(tmp_path, text, message):
    recipe = write_recipe(tmp_path / "bad.yaml", text)
    with pytest.raises(ValueError, match=message) as error:
        parse_arguments([recipe])
    assert "bad.yaml" in str(error.value)


def test_parse_arguments__missing_recipe(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.yaml does not exist"):
        parse_arguments([str(tmp_path / "nowhere.yaml")])


def test_parse_arguments__no_data():
    with pytest.raises(ValueError, match="no training data"):
        parse_arguments([])


def test_parse_arguments__a_codebook_needs_an_image():
    with pytest.raises(ValueError, match="codebook_images: expected a whole number of at least 1, received 0"):
        parse_arguments(["--image_data", "a=b", "--codebook_images", "0"])


def test_parse_arguments__unknown_masking_is_refused():
    with pytest.raises(ValueError, match=r"--image_masking.*pedestrian"):
        parse_arguments(["--paired_data", "a=b", "--image_masking", "everything"])


def test_build_config__fields_and_sizes():
    config = build_config(
        {"image_config": {"hidden_size": 96, "num_attention_heads": 3}, "codebook_size": 32},
        vocab_size=123,
        num_identities=9,
        loss_weights={"itm_weight": 0.5},
    )
    assert config.image_config.hidden_size == 96
    assert config.text_config.vocab_size == 123
    assert (config.codebook_size, config.num_identities, config.itm_weight) == (32, 9, 0.5)


@pytest.mark.parametrize("fields", [{"codebok_size": 3}, {"image_config": {"hidden": 3}}])
def test_build_config__misspelt_fields_are_refused(fields):
    with pytest.raises(ValueError, match=r"unknown fields: .*(codebok_size|hidden)"):
        build_config(fields, vocab_size=10, num_identities=0, loss_weights={})


def test_parse_arguments__mappings_merge_and_the_mix_is_replaced(tmp_path):
    recipe = write_recipe(
        tmp_path / "r.yaml",
        "paired_data: [finegpr=/a]\nmodel_config: {image_config: {hidden_size: 96, num_attention_heads: 3}}\n"
        "batch_mix: {paired: 1, identity: 1}\n",
    )
    changes = ["--model_config", "{image_config: {image_size: [128, 64]}}", "--batch_mix", "{identity: 1}"]
    model, _, objectives, _ = parse_arguments([recipe, *changes])
    assert model.model_config["image_config"] == {
        "hidden_size": 96,
        "num_attention_heads": 3,
        "image_size": [128, 64],
    }
    assert objectives.mix == {"identity": 1}


def test_parse_arguments__data_replaces_all_streams_and_others_their_own(tmp_path):
    streams = "".join(f"{name}: [finegpr=/old]\n" for name in ("paired_data", "image_data", "text_data"))
    recipe = write_recipe(tmp_path / "r.yaml", streams)
    data = parse_arguments([recipe, "--data", "finegpr=/new", "--text_data", "finegpr=/words"])[1]
    assert (data.paired_data, data.image_data, data.text_data) == (["finegpr=/new"],) * 2 + (["finegpr=/words"],)
    assert set(data.data_places.values()) == {"command line"}
    data = parse_arguments([recipe, "--paired_data", "finegpr=/new"])[1]
    assert (data.paired_data, data.image_data) == (["finegpr=/new"], ["finegpr=/old"])
    assert data.data_places["image_data"] == f"recipe {recipe}"


@pytest.mark.parametrize(
    "line",
    [
        "batch_mix: [paired]",
        "batch_mix: true",
        "loss_schedule: [mim, 0]",
        "eval_split: validaton",
        "select_on: vaildation",
        "image_data: finegpr=x",
        "seed: 1.5",
        "learning_rate: [1, 2]",
        "mim_weight: .nan",
        "max_steps: 0",
        "gradient_accumulation_steps: 0",
        "max_text_length: 2",
        "metric_for_best_model: loss",
        "load_best_model_at_end: true",
        "label_smoothing_factor: 0.1",
        "report_to: tensorbord",
        "lr_scheduler_kwargs: {nothing: 1}",
        "model_config: {image_config: {num_hidden_layers: 0}}",
        "model_config: {text_config: {hidden_act: gelo}}",
    ],
)
def test_parse_arguments__what_a_recipe_may_not_say_names_the_field(tmp_path, line):
    recipe = write_recipe(tmp_path / "r.yaml", f"paired_data: [finegpr=/a]\n{line}\n")
    with pytest.raises(ValueError, match=line.partition(":")[0]) as error:
        parse_arguments([recipe])
    assert "\n" not in str(error.value)


def test_parse_arguments__slips_get_a_suggestion():
    for arguments, near in ((["--max_step", "3"], "--max_steps"), (["--image_masking", "pedestrain"], "pedestrian")):
        with pytest.raises(ValueError, match=f"did you mean '{near}'"):
            parse_arguments(["--data", "finegpr=/a", *arguments])


@pytest.mark.parametrize("name", ["image_config", "text_config", "multimodal_config"])
def test_build_config__a_part_that_is_null_is_not_the_default(name):
    with pytest.raises(ValueError, match=rf"model_config.{name}: expected a mapping of fields, received None"):
        build_config({name: None}, vocab_size=10, num_identities=2, loss_weights={})


@pytest.mark.parametrize("options", [{"eval_strategy": "steps"}, {"eval_strategy": "epoch"}, {"eval_on_start": True}])
def test_plan_selection__evaluation_without_anything_to_evaluate_is_refused(tmp_path, options):
    arguments = PretrainingArguments(output_dir=str(tmp_path), use_cpu=True, eval_steps=1, **options)
    with pytest.raises(ValueError, match="would have no effect: nobody is held out and there is no eval_data"):
        plan_selection(DataArguments(paired_data=["finegpr=x"]), ObjectiveArguments(), arguments, [])
    plan_selection(
        DataArguments(paired_data=["finegpr=x"]),
        ObjectiveArguments(),
        PretrainingArguments(output_dir=str(tmp_path), use_cpu=True),
        [],
    )


@pytest.mark.parametrize("name", ["data", "paired_data", "image_data", "text_data", "eval_data"])
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("''", r"\[1\]: expected name=folder.*got ''; names: cuhk03"),
        ("' '", r"\[1\]: expected name=folder"),
        ("market=x", r"\[1\]: unknown dataset 'market'; known: cuhk03"),
        ("'market1501=x?splt=1'", r"\[1\]: .*there is no option 'splt'"),
        ("null", r"\[1\]: expected text, received None"),
        ("7", r"\[1\]: expected text, received 7"),
        ("[finegpr=x]", r"\[1\]: expected text, received \['finegpr=x'\]"),
    ],
)
def test_parse_arguments__a_wrong_entry_names_its_field_and_place(tmp_path, name, entry, message):
    """Also of `data` where all three streams are given, and nothing reads it."""
    streams = [f"{stream}: [finegpr=/x]" for stream in ("paired_data", "image_data", "text_data") if stream != name]
    text = "\n".join([*streams, f"{name}: [finegpr=/x, {entry}]"])
    recipe = write_recipe(tmp_path / "recipe.yaml", text)
    with pytest.raises(ValueError, match=f"recipe.yaml: {name}{message}"):
        parse_arguments([recipe, "--output_dir", str(tmp_path)])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("augmentation: {flip: 1}", "augmentation: expected one of flip_probability, .*received 'flip'"),
        ("augmentation: {fill: [1, 2]}", r"augmentation.fill: expected 3 values, received \[1, 2\]"),
        ("augmentation: {fill: [0, 0, 256]}", r"augmentation.fill\[2\]: expected a whole number .* received 256"),
        ("augmentation: {gamma: null}", "augmentation.gamma: expected a number of at least 0, received None"),
        ("augmentation: {crop_scale: [1, 0.5]}", "augmentation.crop_scale: expected the smaller share first"),
        ("loss_schedule: {mmm: null}", "loss_schedule: expected one of mim, .*received 'mmm'"),
        ("model_config: {image_config: 3}", "model_config.image_config: expected a mapping"),
        (
            "model_config: {image_config: {backbone_config: 3}}",
            ".*backbone_config: expected a mapping",
        ),
        (
            "model_config: {image_config: {backbone_config: {model_type: mobilenet_v2, tf_pading: false}}}",
            r".*backbone_config of mobilenet_v2 has unknown fields: \['tf_pading'\].*tf_padding",
        ),
        ("model_config: {'': 1}", r"model_config has unknown fields: \[''\]"),
    ],
)
def test_parse_arguments__a_wrong_mapping_names_its_field(tmp_path, fields, message):
    recipe = write_recipe(tmp_path / "recipe.yaml", f"data: [finegpr=/x]\n{fields}\n")
    with pytest.raises(ValueError, match=f"recipe.yaml: {message}"):
        parse_arguments([recipe, "--output_dir", str(tmp_path)])
