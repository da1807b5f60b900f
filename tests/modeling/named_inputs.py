"""The names of a model's inputs that the tests of models choose among, and their tolerance."""

from __future__ import annotations

import torch

import mmet  # noqa: F401 (registers the Auto classes)

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
CLEAN = ("pixel_values", "input_ids", "attention_mask")


def select(batch: dict[str, torch.Tensor], *names: str) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in names}


IMAGE_ONLY = ("pixel_values", "bool_masked_pos", "mim_labels")
TEXT_ONLY = ("input_ids_masked", "mlm_labels", "masked_attention_mask")
L_MMM = ("mmm_image", "mmm_text")
EVERYTHING = (*CLEAN, "bool_masked_pos", "mim_labels", "input_ids_masked", "mlm_labels", "itm_labels", "person_labels")
