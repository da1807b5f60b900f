"""Runs of seconds that the tests share: a drawn world, a recipe of a tiny model, and what training on it logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from mmet.data.synthetic import write_world
from mmet.training.arguments import parse_arguments
from mmet.training.pretraining import run_pretraining
from modeling_mmet import LOSS_NAMES

ENCODER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
TINIEST = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def tiny_model(encoder: dict[str, int] = ENCODER, **fields: Any) -> dict[str, Any]:
    """Fields of a model over 4x2 patches of 52x28 pixels."""
    return {
        "image_config": {**encoder, "image_size": [52, 28]},
        "text_config": {**encoder, "max_position_embeddings": 48},
        "multimodal_config": encoder,
        **{"projection_dim": 16, "codebook_size": 16, **fields},
    }


def tiniest_model(**fields: Any) -> dict[str, Any]:
    """The same at half the width, where what is learnt does not matter."""
    return tiny_model(TINIEST, **{"projection_dim": 8, "codebook_size": 8, **fields})


def tiny_recipe(**fields: Any) -> dict[str, Any]:
    """Eight steps with every kind of batch but one, a checkpoint after the fourth; `fields` in place of these."""
    return {
        "model_config": tiny_model(),
        "vocab_size": 1200,
        "max_text_length": 48,
        "batch_mix": {"paired": 1, "identity": 1, "image": 1, "text": 1},
        "persons_per_batch": 4,
        "images_per_person": 2,
        "per_device_train_batch_size": 8,
        "max_steps": 8,
        "learning_rate": 1.0e-3,
        "logging_steps": 4,
        "save_steps": 4,
        "report_to": "none",
        "disable_tqdm": True,
        "validation_identities": 0,
        **fields,
    }


def draw_world(folder: Path, **options: Any) -> Path:
    """Eight captioned persons with four pictures and masks each."""
    sizes = {"num_ids": 8, "images_per_id": 4, "seed": 3, "image_height": 100, "image_width": 52}
    write_world("finegpr", folder, **{**sizes, **options})
    return folder


def write_recipe(folder: Path, world: Path, **fields: Any) -> str:
    """The path of a recipe that trains in `folder` on all of a drawn world; `fields` as in `tiny_recipe`."""
    source = [f"finegpr={world}"]
    data = {"paired_data": source, "image_data": source, "text_data": source}
    return save_recipe(folder, tiny_recipe(output_dir=str(folder / "run"), **{**data, **fields}))


def save_recipe(folder: Path, fields: dict[str, Any]) -> str:
    """The path of a recipe with these fields in `folder`."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return str(path)


def run(recipe: str, *overrides: Any) -> Path:
    """Train as a recipe and arguments over it say; the folder of the model."""
    return run_pretraining(*parse_arguments([recipe, *map(str, overrides)]))


def read_losses(folder: Path) -> set[str]:
    """The losses that a run logged."""
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return {name for entry in history for name in LOSS_NAMES if f"{name}_loss" in entry}
