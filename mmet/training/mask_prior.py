"""The prior of pedestrian masking for pictures without a mask, as `mask_prior` chooses it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmet.training.collator import MMETDataCollator
from mmet.training.dataset import TrainingDataset
from mmet.training.masking import mean_coverage_prior, picture_prior
from mmet.training.sampling import draw_examples
from processing_mmet import MMETProcessor

logger = logging.getLogger(__name__)

_IMAGES_PER_READ = 64


_PRIOR_IMAGES = 1024
"""Maximum number of masks that a measured prior averages; a patch's share is then accurate to about 0.03."""


def measure_prior(
    collator: MMETDataCollator, dataset: TrainingDataset, kinds: Sequence[str], seed: int
) -> NDArray[np.float32]:
    """The mean of the masks, augmented as in training, of some pictures of these kinds: `(num_patches,)`."""
    draws = draw_examples(dataset.sizes, kinds, _PRIOR_IMAGES, seed)
    batches = (draws[start : start + _IMAGES_PER_READ] for start in range(0, len(draws), _IMAGES_PER_READ))
    coverage = np.concatenate([collator.person_coverage(dataset.__getitems__(batch)) for batch in batches])
    try:
        prior = mean_coverage_prior(coverage, sharpness=collator.sharpness)
    except ValueError:
        raise ValueError(
            f"mask_prior=masks: none of {len(draws)} training pictures has a mask that shows a person; take "
            "mask_prior=figure, or name a person_segmenter"
        ) from None
    logger.info("mask prior: the mean of %d masks", int((~np.isnan(coverage[:, 0])).sum()))
    return prior


def read_prior(path: Path, processor: MMETProcessor, sharpness: float) -> NDArray[np.float32]:
    """Read the prior from a grey picture. Raises `ValueError` for a file that is not a picture, or is black."""
    geometry = processor.image_processor
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            size = (geometry.size["height"], geometry.size["width"])
            return picture_prior(picture, size, geometry.patch_size, geometry.patch_stride, sharpness=sharpness)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"mask_prior: expected figure, masks or a grey picture, received {path} ({error})") from None
