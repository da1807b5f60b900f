"""Small models, inputs and processors that the tests share: two layers of width 32 over a 4x2 grid of patches."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from transformers import BertTokenizer, FlavaImageCodebook

from configuration_mmet import MMETConfig
from processing_mmet import MMETImageProcessor, MMETProcessor

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man", "woman", "in", "red", "blue", "coat", "with", "bag")
IMAGE_SIZE = (52, 28)  # rows of patches start at 0, 12, 24, 36 and columns at 0, 12
ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


# Milvus Lite's threads live on in the test process; without this gRPC writes a line to stderr at each later fork.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# On a busy machine a case may take many times longer than the first time, which says nothing about the code.
settings.register_profile("mmet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mmet")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-inputs", type=int, default=1, help="attempts in each area of tests/fuzz (make fuzz: 100)")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def make_config() -> Callable[..., MMETConfig]:
    """
    Factory of tiny configurations: keyword arguments go to `MMETConfig`, the dictionaries `image`, `text` and
    `encoder` to the image encoder, to the text encoder and to all three.

    Weights are initialised ten times as wide as in training, so that outputs depend visibly on their inputs.
    """

    def build(
        image: dict | None = None, text: dict | None = None, encoder: dict | None = None, **kwargs
    ) -> MMETConfig:
        shared = {**ENCODER, "initializer_range": 0.2, **(encoder or {})}
        image_config = {**shared, "image_size": IMAGE_SIZE, **(image or {})}
        text_config = {**shared, "vocab_size": len(WORDS), "max_position_embeddings": 12, **(text or {})}
        defaults = {"projection_dim": 24, "codebook_size": 6, "num_identities": 4, "initializer_range": 0.2}
        return MMETConfig(
            image_config=image_config, text_config=text_config, multimodal_config=shared, **{**defaults, **kwargs}
        )

    return build


@pytest.fixture
def config(make_config) -> MMETConfig:
    """The tiny configuration as it is."""
    return make_config()


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., dict[str, torch.Tensor]]:
    """Factory of clean paired inputs: images, and captions of different lengths with their padding."""

    def build(batch_size: int = 4, length: int = 7, seed: int = 0) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.arange(batch_size) % 3 + length - 2  # one in three captions fills the whole length
        attention_mask = (torch.arange(length)[None, :] < lengths[:, None]).long()
        words = torch.randint(5, len(WORDS), (batch_size, length), generator=generator)
        words[:, 0] = WORDS.index("[CLS]")
        return {
            "pixel_values": torch.randn(batch_size, 3, *IMAGE_SIZE, generator=generator),
            "input_ids": words * attention_mask,  # [PAD] is 0
            "attention_mask": attention_mask,
        }

    return build


@pytest.fixture(scope="session")
def make_pretraining_batch(make_batch) -> Callable[..., dict[str, torch.Tensor]]:
    """Factory of everything the eight losses read: two masked patches and one masked word each, two persons."""

    def build(batch_size: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
        batch = make_batch(batch_size, seed=seed)
        generator = torch.Generator().manual_seed(seed + 1)
        bool_masked_pos = torch.zeros(batch_size, 8, dtype=torch.bool)
        bool_masked_pos[:, [2, 5]] = True
        mlm_labels = torch.full_like(batch["input_ids"], -100)
        mlm_labels[:, 2] = batch["input_ids"][:, 2]
        input_ids_masked = batch["input_ids"].clone()
        input_ids_masked[:, 2] = WORDS.index("[MASK]")
        return batch | {
            "bool_masked_pos": bool_masked_pos,
            "mim_labels": torch.randint(0, 6, (batch_size, 8), generator=generator),
            "input_ids_masked": input_ids_masked,
            "mlm_labels": mlm_labels,
            "itm_labels": (torch.arange(batch_size) % 4 != 3).long(),
            "person_labels": torch.arange(batch_size) // 2,
        }

    return build


@pytest.fixture(scope="session")
def make_patchwork() -> Callable[..., torch.Tensor]:
    """Factory of images `(batch, 3, height, width)` in [0, 1) of one random colour every 8x8 pixels."""

    def build(batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        colours = torch.rand(batch, 3, -(-height // 8), -(-width // 8), generator=generator)
        return colours.repeat_interleave(8, 2).repeat_interleave(8, 3)[..., :height, :width]

    return build


@pytest.fixture(scope="session")
def use_all_codes(make_patchwork) -> Callable[[FlavaImageCodebook], None]:
    """Rescales the scores of a random codebook network, one of whose codes would else win everywhere."""

    @torch.no_grad()
    def rescale(network: FlavaImageCodebook):
        output = network.blocks.output.conv
        output.bias.zero_()
        scores = network.blocks(0.8 * make_patchwork(16, 48, 24) + 0.1)
        deviation, mean = torch.std_mean(scores, dim=(0, 2, 3))
        output.weight /= deviation[:, None, None, None]
        output.bias.copy_(-mean / deviation)

    return rescale


@pytest.fixture(scope="session")
def tokenizer() -> BertTokenizer:
    """A BERT tokenizer of fourteen words."""
    return BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)}, model_max_length=12)


@pytest.fixture
def processor(tokenizer) -> MMETProcessor:
    """A processor that fits the tiny configuration."""
    height, width = IMAGE_SIZE
    return MMETProcessor(MMETImageProcessor(size={"height": height, "width": width}), tokenizer)


@pytest.fixture
def model_folder(model, processor, tmp_path) -> Path:
    """A saved model of a module with a fixture `model`, with the processor."""
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="session")
def crop() -> Image.Image:
    """A random RGB crop of another size and aspect ratio than the model's."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 37, 3), dtype=np.uint8))
