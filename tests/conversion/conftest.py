"""Small random FLAVAs, and inputs that they and our models take."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ancestors_at_hand import CODES, LENGTH, PATCHES, VOCAB, WIDTH, randomised
from transformers import (
    FlavaConfig,
    FlavaForPreTraining,
    PreTrainedModel,
)


@pytest.fixture
def make_flava() -> Callable[..., FlavaForPreTraining]:
    """Factory of small random FLAVAs over 3x2 patches; keyword arguments go to the parts' configurations."""

    def build(
        model_class: type[PreTrainedModel] = FlavaForPreTraining,
        image: dict | None = None,
        text: dict | None = None,
        multimodal: dict | None = None,
        **kwargs,
    ) -> FlavaForPreTraining:
        image_config = {"image_size": [24, 16], "patch_size": 8, "vocab_size": CODES, **WIDTH, **(image or {})}
        text_config = {"vocab_size": VOCAB, "max_position_embeddings": 12, **WIDTH, "num_hidden_layers": 3}
        config = FlavaConfig(
            image_config=image_config,
            text_config=text_config | (text or {}),
            multimodal_config={**WIDTH, "num_hidden_layers": 1, **(multimodal or {})},
            image_codebook_config={"num_groups": 4, "num_blocks_per_group": 1, "hidden_size": 4, "vocab_size": CODES},
            **{"hidden_size": 32, "projection_dim": 20, **kwargs},
        )
        return randomised(model_class(config))

    return build


@pytest.fixture
def pairs() -> dict[str, torch.Tensor]:
    """Four images of 24x16 pixels with captions of different lengths."""
    generator = torch.Generator().manual_seed(3)
    attention_mask = (torch.arange(LENGTH) < torch.tensor([7, 4, 6, 5])[:, None]).long()
    return {
        "pixel_values": torch.randn(4, 3, 24, 16, generator=generator),
        "input_ids": torch.randint(1, VOCAB, (4, LENGTH), generator=generator) * attention_mask,
        "attention_mask": attention_mask,
    }


@pytest.fixture
def masked_pairs(pairs) -> dict[str, torch.Tensor]:
    """The same with masked patches and tokens, their labels, and two captions of somebody else."""
    generator = torch.Generator().manual_seed(4)
    bool_masked_pos = torch.rand(4, PATCHES, generator=generator) < 0.5
    mlm_labels = torch.full((4, LENGTH), -100)
    mlm_labels[:, 1:3] = pairs["input_ids"][:, 1:3]
    return pairs | {
        "bool_masked_pos": bool_masked_pos,
        "mim_labels": torch.randint(0, CODES, (4, PATCHES), generator=generator),
        "input_ids_masked": torch.where(mlm_labels != -100, 9, pairs["input_ids"]),
        "mlm_labels": mlm_labels,
        "itm_labels": torch.tensor([1, 0, 1, 0]),
    }
