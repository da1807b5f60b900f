"""Every recipe is read by the real parser and makes a model and datasets' names, so that a slip in one fails here."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch.optim import SGD
from transformers import Trainer

from configuration_mmet import MMETConfig
from mmet.data import parse_data_argument
from mmet.training.arguments import parse_arguments
from mmet.training.augmentation import build_augmentation
from mmet.training.model_config import build_config, override_config
from mmet.training.sampling import BATCH_KINDS, IDENTITY_KINDS
from modeling_mmet import LOSS_NAMES, MMETForPreTraining

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
OF_THIS_PROJECT = ("demo", "synthetic", "starter", "lora", "strong_start")
PAPER = [path for path in RECIPES if not path.stem.startswith(OF_THIS_PROJECT)]


def read(name):
    return parse_arguments([str(FOLDER / f"{name}.yaml")])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe__arguments_model_and_data_exist(path):
    model, data, objectives, training = parse_arguments([str(path)])
    makes_all = model.model_name_or_path is None or model.text_model_name_or_path is not None
    if makes_all or "image_config" in (model.model_config or {}):  # as where `mmet.starter.start` reads the sizes, too
        config = build_config(model.model_config, vocab_size=100, num_identities=4, loss_weights={})
        with torch.device("meta"):
            MMETForPreTraining(config)
        assert data.max_text_length <= config.text_config.max_position_embeddings
    else:
        override_config(MMETConfig(), model.model_config)
    for argument in (*data.paired_data, *data.image_data, *data.text_data, *data.eval_data):
        parse_data_argument(argument)
    build_augmentation(data.augmentation)
    assert set(objectives.mix) <= set(BATCH_KINDS)
    sources = {"paired": data.paired_data, "image": data.image_data, "text": data.text_data}
    assert all(sources["paired" if kind in IDENTITY_KINDS else kind] for kind in objectives.mix)
    if set(objectives.mix) & set(IDENTITY_KINDS):
        assert objectives.persons_per_batch * objectives.images_per_person == training.per_device_train_batch_size


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_recipe__opens_with_data_command_figure_and_interpretation(path):
    text = path.read_text(encoding="utf-8")
    opening = text[: re.search(r"^[^#]", text, re.MULTILINE).start()]
    assert all(f"# {part}" in opening for part in ("Data:", "Command:", "Paper:", "Interpreted:"))
    assert f"recipes/{path.name}" in opening
    assert (output := yaml.safe_load(text)["output_dir"]).startswith("outputs/")
    assert output in opening or output.endswith("stage1")


def test_recipe__paper_text_is_the_papers_sgd():
    _, _, objectives, training = read("paper_text")
    optimizer, options = Trainer.get_optimizer_cls_and_kwargs(training)
    assert optimizer is SGD
    assert options == {"lr": 1e-3, "momentum": 0.9}
    assert (training.weight_decay, training.lr_scheduler_type, training.per_device_train_batch_size) == (
        0.1,
        "cosine",
        64,
    )
    assert (objectives.persons_per_batch, objectives.images_per_person) == (16, 4)


def test_recipe__released_code_has_its_numbers():
    first, second = read("released_code_stage1")[-1], read("released_code_stage2")[-1]
    assert (first.learning_rate, first.weight_decay, first.warmup_steps) == (2e-4, 0.01, 2000)
    assert (first.max_steps, first.per_device_train_batch_size) == (450_000, 16)
    assert (second.learning_rate, second.adam_beta1, second.adam_beta2) == (1e-5, 0.9, 0.98)
    assert (second.adam_epsilon, second.weight_decay, second.per_device_train_batch_size) == (1e-6, 0.1, 64)


def test_recipe__rows_of_table_1_differ_in_masking_alone():
    random, pedestrian = (
        yaml.safe_load((FOLDER / f"table1_{name}.yaml").read_text(encoding="utf-8"))
        for name in ("random", "pedestrian")
    )
    assert {name for name in random if random[name] != pedestrian[name]} == {"output_dir", "image_masking"}


def test_override_config__heads_and_losses_may_change_and_sizes_may_not():
    config = override_config(MMETConfig(projection_dim=32), {"triplet_margin": None, "identity_pooling": "image"})
    assert (config.triplet_margin, config.identity_pooling, config.projection_dim) == (None, "image", 32)
    assert config.image_config.to_dict() == MMETConfig().image_config.to_dict()
    with pytest.raises(ValueError, match="received projection_dim 8 where it has 768"):
        override_config(MMETConfig(), {"projection_dim": 8})
    with pytest.raises(ValueError, match=r"received image_config.image_size \[64, 32\] where it has \[256, 128\]"):
        override_config(MMETConfig(), {"image_config": {"image_size": [64, 32]}})
    same = {
        "projection_dim": 32,
        "image_config": {"patch_stride": 12, "image_size": (256, 128)},
        "codebook_size": None,
    }
    assert override_config(MMETConfig(projection_dim=32), same).projection_dim == 32
    with pytest.raises(ValueError, match="unknown fields"):
        override_config(MMETConfig(), {"projection": 8})


PAPER_TEXT = {"triplet_margin": 0.3, "label_smoothing": 0, "triplet_normalize": False}
RELEASED = {"triplet_margin": None, "label_smoothing": 0, "triplet_normalize": False}
LOSSES = {
    # Equations 1 and 2: cross-entropy, hinge of plain distances; their weights are not said. The margin is ours.
    "paper_text": (PAPER_TEXT, "multimodal", 12, "pedestrian"),
    # The release: cross-entropy, soft margin of plain distances, FLAVA's six multimodal layers.
    "released_code_stage1": (RELEASED, "multimodal", 6, "pedestrian"),
    # Table 1: image encoder alone; random masks; masks on the pedestrian.
    "table1_baseline": (RELEASED, "image", 6, "pedestrian"),
    "table1_random": (RELEASED, "multimodal", 6, "random"),
    "table1_pedestrian": (RELEASED, "multimodal", 6, "pedestrian"),
    # Table 2: one modality, then both.
    "table2_mim": (RELEASED, "image", 6, "pedestrian"),
    "table2_mlm": (RELEASED, "text", 6, "none"),
    "table2_mmm": (RELEASED, "multimodal", 6, "pedestrian"),
    "table3_mmet": (RELEASED, "multimodal", 6, "pedestrian"),
    "table4_finegpr": (RELEASED, "multimodal", 6, "pedestrian"),
    "table4_randperson": (RELEASED, "multimodal", 6, "pedestrian"),
}


def test_recipe__every_first_stage_of_the_paper_has_its_losses_written_down():
    assert {path.stem for path in PAPER} - {"released_code_stage2"} == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_recipe__trains_the_losses_of_the_paper_or_its_release(name):
    losses, pooling, depth, masking = LOSSES[name]
    model, data, objectives, _ = read(name)
    config = build_config(model.model_config, vocab_size=100, num_identities=4, loss_weights=objectives.loss_weights)
    assert {field: getattr(config, field) for field in losses} == losses
    assert (config.identity_pooling, config.multimodal_config.num_hidden_layers) == (pooling, depth)
    # Section 4.2: ViT-B/16, 256 x 128, blocks every 12 pixels; section 3.3: 15 % of patches and of tokens.
    image = config.image_config
    assert (list(image.image_size), image.patch_size, image.patch_stride) == ([256, 128], 16, 12)
    assert (image.hidden_size, image.num_hidden_layers, image.num_attention_heads) == (768, 12, 12)
    assert (data.mask_ratio, data.mlm_probability, data.image_masking) == (0.15, 0.15, masking)
    weights = {f"{name}_weight": getattr(config, f"{name}_weight") for name in LOSS_NAMES}
    assert weights == dict.fromkeys(weights, 1.0)


def test_recipe__second_stage_keeps_the_losses_of_the_first():
    model, _, objectives, training = read("released_code_stage2")
    first = MMETConfig(**RELEASED)
    config = override_config(first, model.model_config)
    assert {field: getattr(config, field) for field in RELEASED} == RELEASED
    assert objectives.mix == {"identity": 1.0}
    assert objectives.loss_weights == {"global_contrastive_weight": 0}
    assert (objectives.persons_per_batch, objectives.images_per_person) == (16, 4)
    assert training.per_device_train_batch_size == 64


@pytest.mark.parametrize("name", LOSSES)
def test_recipe__first_stages_have_the_optimizer_of_the_paper_or_its_release(name):
    _, data, _, training = read(name)
    shared = (training.warmup_steps, training.lr_scheduler_type, data.max_text_length)
    assert shared == (2000, "cosine", 77)
    numbers = (training.optim, training.learning_rate, training.weight_decay, training.max_steps)
    expected = ("adamw_torch", 2e-4, 0.01, 450_000)  # the release
    if name == "paper_text":  # section 4.2; steps are not said
        expected = ("sgd", 1e-3, 0.1, 450_000)
    if name == "table1_baseline":  # identities alone: the second stage's decay and steps
        expected = ("adamw_torch", 2e-4, 0.1, 230_000)
    assert numbers == expected
