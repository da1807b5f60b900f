"""LoRA runs: little is trained, a stopped run goes on as if nothing had happened, and an ordinary model is left."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import draw_world, run, tiniest_model, write_recipe

from mmet.training.arguments import ModelArguments
from mmet.training.lora import add_lora, merge_lora
from modeling_mmet import MMETForPreTraining, MMETForReID

STEPS = {"max_steps": 4, "save_steps": 2, "logging_steps": 1, "save_total_limit": 3}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return draw_world(tmp_path_factory.mktemp("world") / "source", num_ids=4, images_per_id=4)


@pytest.fixture(scope="module")
def base(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    recipe = write_recipe(folder, world, model_config=tiniest_model(), max_steps=2, save_steps=2)
    run(recipe, "--output_dir", folder / "model")
    return folder / "model"


@pytest.fixture
def recipe(world, base, tmp_path):
    fields = {"batch_mix": {"identity": 1}, "persons_per_batch": 2, "images_per_person": 2}
    return write_recipe(
        tmp_path,
        world,
        model_name_or_path=str(base),
        model_config={},
        lora_rank=2,
        per_device_train_batch_size=4,
        learning_rate=0.05,
        **fields,
        **STEPS,
    )


def test_add_lora__starts_at_the_model_and_merges_into_it(config, make_batch):
    torch.manual_seed(0)
    model, batch = MMETForPreTraining(config).eval(), make_batch()
    names = set(model.state_dict())
    with torch.no_grad():
        before = model.get_multimodal_features(**batch).pooler_output
        add_lora(model, 3)
        torch.testing.assert_close(model.get_multimodal_features(**batch).pooler_output, before)
        for name, weight in model.named_parameters():
            assert weight.requires_grad == ("lora_" in name or name.startswith("identity_head.")), name
            if "lora_" in name:
                weight.normal_()
        changed = model.get_multimodal_features(**batch).pooler_output
        assert not torch.allclose(changed, before, atol=1e-2)
        merge_lora(model)
        torch.testing.assert_close(model.get_multimodal_features(**batch).pooler_output, changed, rtol=1e-4, atol=1e-4)
    assert set(model.state_dict()) == names


def test_run__leaves_an_ordinary_model_with_other_layers_and_the_same_embeddings_of_words(recipe, base, tmp_path):
    run(recipe, "--output_dir", tmp_path / "run")
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "run"))
    assert after.keys() == before.keys()
    changed = {
        name for name in before if before[name].shape == after[name].shape and not before[name].equal(after[name])
    }
    assert all(".encoder.layers." in name or name.startswith("identity_head.") for name in changed)
    assert {name.split(".layers.0.")[1] for name in changed if ".layers.0." in name} == {
        "attention.qkv_proj.weight",
        "attention.out_proj.weight",
        "mlp.fc1.weight",
        "mlp.fc2.weight",
    }
    assert MMETForReID.from_pretrained(tmp_path / "run").identity_head.is_trained


def test_run__resumed_is_the_same_run(recipe, tmp_path):
    run(recipe, "--output_dir", tmp_path / "whole")
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    assert checkpoint.is_dir()
    (tmp_path / "parts").mkdir()
    checkpoint.rename(tmp_path / "parts" / "checkpoint-2")
    run(recipe, "--output_dir", tmp_path / "parts", "--resume_from_checkpoint", "true")
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_checkpoint__is_no_model_to_start_from(recipe, tmp_path):
    run(recipe, "--output_dir", tmp_path / "run")
    with pytest.raises(ValueError, match="weights are missing and would be random"):
        run(recipe, "--output_dir", tmp_path / "other", "--model_name_or_path", str(tmp_path / "run" / "checkpoint-2"))


def test_arguments__need_a_model_to_add_to():
    with pytest.raises(ValueError, match="lora_rank: expected model_name_or_path"):
        ModelArguments(lora_rank=4)
