"""The six model classes in turn, and the batch that they read."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, Case

import mmet  # noqa: F401 (registers the Auto classes)


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request) -> Case:
    return request.param


@pytest.fixture
def batch(make_pretraining_batch) -> dict[str, torch.Tensor]:
    """Four paired samples, all of them matching, so that each has the same masked positions in the losses."""
    return make_pretraining_batch() | {"itm_labels": torch.ones(4, dtype=torch.long)}
