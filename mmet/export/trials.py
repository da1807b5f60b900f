"""Inputs for the comparison of exported files with their model: random ones, and drawn people with captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch

from configuration_mmet import MMETImageConfig, MMETTextConfig
from mmet.data.synthetic import SOURCE, person, plan_shots, render_shot
from mmet.data.synthetic.captions import write_captions
from mmet.data.synthetic.observation import Observation
from mmet.exported_files import KINDS
from modeling_mmet import MMETForReID

Inputs = dict[str, torch.Tensor]

DRAWN_PEOPLE = 8
RANDOM_BATCHES = 3


def random_batch(model: MMETForReID, batch_size: int, length: int, seed: int = 0) -> Inputs:
    """Draw a batch of normally distributed pixels and of random tokens, in captions of different lengths."""
    images, texts = cast(MMETImageConfig, model.config.image_config), cast(MMETTextConfig, model.config.text_config)
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, length + 1, (batch_size, 1), generator=generator)
    lengths[0] = length
    height, width = cast(list[int], images.image_size)
    return {
        "pixel_values": torch.randn(batch_size, images.num_channels, height, width, generator=generator),
        "input_ids": torch.randint(0, texts.vocab_size, (batch_size, length), generator=generator),
        "attention_mask": (torch.arange(length) < lengths).long(),
    }


def drawn_batch(processor: Any, count: int = DRAWN_PEOPLE) -> Inputs:
    """Draw a batch of `count` people: one picture with one caption of each."""
    pictures: list[Any] = []
    captions: list[str] = []
    for number in range(1, count + 1):
        identity: Any = person(SOURCE, 0, number)
        shot = plan_shots(SOURCE, seed=0, person=number, count=1)[0]
        picture = render_shot(identity, shot, SOURCE)
        observation = Observation(identity, shot, picture.pixels)
        pictures.append(picture.image)
        captions += write_captions(observation, SOURCE.captions, np.random.default_rng(number), count=1)
    return dict(processor(images=pictures, text=captions, padding=True, truncation=True, return_tensors="pt"))


def trial_batches(model: MMETForReID, processor: Any) -> dict[str, list[Inputs]]:
    """Make batches by origin (`random`, `drawn`): different sizes down to one sample, lengths up to the longest."""
    longest = cast(MMETTextConfig, model.config.text_config).max_position_embeddings
    lengths = np.linspace(2, longest, RANDOM_BATCHES).astype(int).tolist()
    return {
        "random": [random_batch(model, 2 * i + 1, length, seed=i) for i, length in enumerate(lengths)],
        "drawn": [drawn_batch(processor)],
    }


@torch.no_grad()
def measure_parity(
    model: torch.nn.Module, exported: torch.nn.Module, kind: str, batches: Mapping[str, list[Inputs]]
) -> dict[str, float]:
    """Largest difference between elements of two models' embeddings of one kind of input, by origin of the inputs."""
    differences = {}
    for origin, trials in batches.items():
        largest = 0.0
        for batch in trials:
            inputs = {name: batch[name] for name in KINDS[kind]}
            difference = (model(**inputs).embeddings - exported(**inputs).embeddings).abs().max()
            largest = max(largest, float(difference.nan_to_num(torch.inf)))
        differences[origin] = largest
    return differences
