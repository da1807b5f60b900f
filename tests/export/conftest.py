"""A model of random weights as a folder, and pictures to embed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_mmet import MMETForReID
from processing_mmet import MMETImageProcessor, MMETProcessor


def save_model(folder: Path, config, tokenizer) -> Path:
    """A model of random weights in a folder, as a checkpoint is."""
    torch.manual_seed(0)
    height, width = config.image_config.image_size
    MMETForReID(config).eval().save_pretrained(folder)
    MMETProcessor(MMETImageProcessor(size={"height": height, "width": width}), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path) -> list[str]:
    """Paths of four random crops."""
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (52, 28, 3), dtype=np.uint8)).save(path)
    return [str(path) for path in paths]
