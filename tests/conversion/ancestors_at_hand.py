"""Sizes of small ancestors, random weights for them, and when outputs count as equal."""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)

WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
VOCAB, CODES, PATCHES, LENGTH = 40, 11, 6, 7


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5):
    """Equal shapes, and values to `tolerance`, absolute and relative."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def randomised(model: nn.Module, seed: int = 0) -> PreTrainedModel:
    """Every weight drawn anew, norms and biases too, so that two exchanged ones give another output."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        is_norm_scale = "norm" in name.lower() and name.endswith("weight")
        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + float(is_norm_scale))
    return model.eval()


def make_vit(model_class: type[PreTrainedModel] = ViTModel, **kwargs) -> PreTrainedModel:
    """A small random ViT over 4x4 patches of 8 pixels."""
    return randomised(model_class(ViTConfig(**{"image_size": 32, "patch_size": 8, **WIDTH, **kwargs})))


def make_bert(model_class: type[PreTrainedModel] = BertModel, **kwargs) -> PreTrainedModel:
    """A small random BERT of three layers."""
    return randomised(model_class(BertConfig(**{"vocab_size": VOCAB, **WIDTH, "num_hidden_layers": 3, **kwargs})))
