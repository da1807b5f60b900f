"""Compare masking strategies: what each hides of training crops, and how much of that is on the person.

masking = compare_masking(dataset["train"], processor, mask_ratio=0.15, rng=np.random.default_rng(0))
masking.shares["pedestrian"], masking.shares["random"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mmet.training.masking import (
    PatchRegion,
    block_masking,
    num_masked_patches,
    pedestrian_masking,
    pedestrian_prior,
    random_masking,
)
from pictures_mmet import read_person_mask, read_rgb
from processing_mmet import MMETProcessor

STRATEGIES = ("pedestrian", "prior", "random", "block")
"""Pedestrian masking by the picture's silhouette, the same without a silhouette, and the two ablations."""

HIDDEN_FILL = (128, 128, 128)
HIDDEN_EDGE = (158, 158, 158)
SILHOUETTE_FILL = (236, 236, 236)
SILHOUETTE_GROUND = (38, 40, 44)


@dataclass(frozen=True, eq=False)
class MaskingExample:
    """A crop (RGB, in its shown size), its silhouette, and the crop with the patches that each strategy hides."""

    image: Image.Image
    silhouette: Image.Image
    hidden: Mapping[str, Image.Image]


@dataclass(frozen=True, eq=False)
class MaskingComparison:
    """The strategies on a sample of training crops.

    Attributes:
        num_images: size of the sample.
        num_masked, num_patches: numbers of hidden patches and of all patches of a picture.
        person_share: mean share of a picture's patch area that is on the person.
        shares: strategy → share of the hidden patches' area that is on the person.
        examples: the first crops of the sample, drawn.
    """

    num_images: int
    num_masked: int
    num_patches: int
    person_share: float
    shares: Mapping[str, float]
    examples: Sequence[MaskingExample]


def compare_masking(
    dataset: Dataset,
    processor: MMETProcessor,
    *,
    mask_ratio: float,
    rng: np.random.Generator,
    num_images: int = 200,
    num_examples: int = 6,
    height: int = 200,
) -> MaskingComparison | None:
    """Hide patches of random crops by every strategy. Returns None if no crop of the sample has a silhouette.

    Args:
        dataset: crops with `image` and `person_mask`.
        processor: determines the patch grid and how much of each patch a person covers.
        mask_ratio: share of the patches to hide.
        rng: chooses the crops and the patches.
        num_images: number of crops to draw; those without a silhouette are left out.
        num_examples: number of crops to show.
        height: least height of the shown crops in pixels; they are whole multiples of the model's input.
    """
    chosen = rng.permutation(len(dataset))[:num_images].tolist()
    rows = [row for row in dataset.select_columns(["image", "person_mask"]).select(chosen) if row["person_mask"]]
    if not rows:
        return None
    coverage = processor.person_patch_coverage([row["person_mask"] for row in rows]).numpy()
    grid = processor.image_processor.patch_grid
    num_masked = num_masked_patches(mask_ratio, grid[0] * grid[1])
    hidden = draw_strategies(coverage, grid, num_masked, rng)
    scale = -(-height // processor.image_processor.size["height"])
    return MaskingComparison(
        num_images=len(rows),
        num_masked=num_masked,
        num_patches=grid[0] * grid[1],
        person_share=float(coverage.mean()),
        shares={name: person_share(coverage, patches) for name, patches in hidden.items()},
        examples=[
            _example(row, {name: patches[number] for name, patches in hidden.items()}, processor, scale)
            for number, row in enumerate(rows[:num_examples])
        ],
    )


def draw_strategies(
    coverage: NDArray[np.floating], grid: tuple[int, int], num_masked: int, rng: np.random.Generator
) -> dict[str, NDArray[np.bool_]]:
    """Choose the patches `(n, num_patches)` that each of `STRATEGIES` hides, given each patch's share of person."""
    prior = pedestrian_prior(*grid)
    region = PatchRegion(coverage, prior, grid)
    unknown = PatchRegion(np.full_like(coverage, np.nan), prior, grid)
    return {
        "pedestrian": pedestrian_masking(region, num_masked, rng),
        "prior": pedestrian_masking(unknown, num_masked, rng),
        "random": random_masking(region, num_masked, rng),
        "block": block_masking(region, num_masked, rng),
    }


def person_share(coverage: NDArray[np.floating], hidden: NDArray[np.bool_]) -> float:
    """Share of the hidden patches' area on the person; both `(n, num_patches)`. NaN if nothing is hidden."""
    return float(coverage[hidden].mean()) if hidden.any() else float("nan")


def _example(
    row: Any, hidden: Mapping[str, NDArray[np.bool_]], processor: MMETProcessor, scale: int
) -> MaskingExample:
    size = processor.image_processor.size
    shown = (size["width"] * scale, size["height"] * scale)
    image = Image.fromarray(read_rgb(row["image"])).resize(shown, Image.Resampling.BICUBIC)
    on_person = read_person_mask(row["person_mask"]).resize(shown, Image.Resampling.BOX)
    on_person = on_person.point(lambda value: 255 * (value > 127))
    silhouette = Image.new("RGB", shown, SILHOUETTE_GROUND)
    silhouette.paste(SILHOUETTE_FILL, mask=on_person)
    return MaskingExample(
        image, silhouette, {name: draw_hidden(image, patches, processor, scale) for name, patches in hidden.items()}
    )


def draw_hidden(image: Image.Image, patches: NDArray[np.bool_], processor: MMETProcessor, scale: int) -> Image.Image:
    """Draw the hidden patches in grey on a copy of the picture. Patches may overlap; each is drawn whole."""
    rows, columns = processor.image_processor.patch_grid
    stride, side = (
        scale * length for length in (processor.image_processor.patch_stride, processor.image_processor.patch_size)
    )
    drawn = image.copy()
    draw = ImageDraw.Draw(drawn)
    for row, column in np.argwhere(patches.reshape(rows, columns)).tolist():
        left, top = column * stride, row * stride
        draw.rectangle((left, top, left + side - 1, top + side - 1), fill=HIDDEN_FILL, outline=HIDDEN_EDGE)
    return drawn
