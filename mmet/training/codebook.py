"""Prepare the image codebook before the first step: k-means over patch descriptors, or DALL-E's network.

The centroids are a buffer of the model, so a checkpoint contains the codes it was trained on.

    batches = (processor(images=images, return_tensors="pt").pixel_values for images in image_batches)
    print(fit_codebook(model.image_codebook, batches))
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from configuration_mmet import MMETConfig
from mmet.distributed import compute_on_all, compute_once
from mmet.training.arguments import DataArguments, ObjectiveArguments, PretrainingArguments
from mmet.training.dataset import TrainingDataset
from mmet.training.sampling import Draw, draw_examples
from modeling_mmet import MMETDalleCodebook, MMETForPreTraining, MMETImageCodebook
from processing_mmet import MMETImageProcessor, MMETProcessor

logger = logging.getLogger(__name__)

_IMAGES_PER_READ = 64

PATCHES_PER_CODE = 256
"""Patches read for each centroid: faiss's `max_points_per_centroid`, beyond which it draws a sample anyway."""

PATCHES_PER_IMAGE = 64
"""Random patches taken from one image; neighbours overlap and look alike, so more images are better."""


@dataclass(frozen=True)
class CodebookFit:
    """
    The size of a fit, and how well its codes describe the patches.

    Attributes:
        num_images: images read.
        num_patches: number of their patches in the fit.
        variance_left: mean squared distance of a patch to its centroid, as a share of the descriptors' variance (0 is
            perfect, 1 no better than one centroid).
        perplexity: exponential of the entropy of the codes: the number of codes in use if used evenly.
        majority_share: share of the most frequent code: the accuracy of always guessing it.
    """

    num_images: int
    num_patches: int
    variance_left: float
    perplexity: float
    majority_share: float

    def __str__(self) -> str:
        return (
            f"fitted on {self.num_patches:,} patches of {self.num_images:,} images; {self.variance_left:.1%} of the "
            f"variance left, perplexity {self.perplexity:.1f}, most frequent code {self.majority_share:.1%}"
        )


def kinds_that_need_codes(
    model: MMETForPreTraining, data: DataArguments, objectives: ObjectiveArguments
) -> tuple[str, ...]:
    """The kinds of batch in the mix with a loss that classifies patches into codes."""
    if data.image_masking == "none":
        return ()
    weights = {"image": model.config.mim_weight, "paired": model.config.mmm_image_weight}
    return tuple(kind for kind, weight in weights.items() if weight > 0 and kind in objectives.mix)


def prepare_codebook(
    model: MMETForPreTraining,
    processor: MMETProcessor,
    dataset: TrainingDataset,
    kinds: Sequence[str],
    num_images: int,
    arguments: PretrainingArguments,
) -> None:
    """
    Fill the model's image codebook if it is empty: fit `kmeans` on training images of these kinds of batch, or load
    `dalle`.

    Raises:
        ValueError: no codebook can be fitted on the images, the weights are not a codebook, or `dalle` undoes another
            normalisation than the processor's.
        OSError: the weights of `dalle` cannot be found.
    """
    config = model.config
    if isinstance(model.image_codebook, MMETDalleCodebook):
        check_normalisation(config, processor.image_processor)
    if model.image_codebook.is_fitted:
        return
    codebook = model.image_codebook
    if isinstance(codebook, MMETDalleCodebook):
        compute_on_all(partial(codebook.load, config.codebook_name_or_path, use_safetensors=True))
        logger.info("image codebook: %d codes of %s", config.codebook_size, config.codebook_name_or_path)
        return

    def fit() -> tuple[CodebookFit, dict[str, torch.Tensor]]:
        """The report and the fitted state: the other processes have not fitted theirs."""
        needed = min(num_images, num_images_needed(config.codebook_size, config.image_config.num_patches))
        draws = draw_examples(dataset.sizes, kinds, needed, arguments.seed)
        with tqdm(total=len(draws), desc="image codebook", unit="image", disable=arguments.disable_tqdm) as progress:
            report = fit_codebook(codebook, read_images(processor, dataset, draws, progress), seed=arguments.seed)
        return report, codebook.state_dict()

    report, fitted = compute_once(fit)
    codebook.load_state_dict(fitted)
    logger.info("image codebook: %d codes %s", config.codebook_size, report)


def check_normalisation(config: MMETConfig, image_processor: MMETImageProcessor) -> None:
    """Raise `ValueError` unless the codebook undoes the normalisation that the image processor does."""
    for field, name in (("codebook_image_mean", "image_mean"), ("codebook_image_deviation", "image_std")):
        expected, received = getattr(config, field), list(getattr(image_processor, name))
        if not np.allclose(expected, received):
            raise ValueError(
                f"{field}={expected} of the model must be the image processor's {name}, received {received}; "
                "set one as the other"
            )


def read_images(
    processor: Any, dataset: TrainingDataset, draws: Sequence[Draw], progress: tqdm
) -> Iterator[torch.Tensor]:
    """Batches `(B, C, H, W)` of the draws' pictures."""
    for start in range(0, len(draws), _IMAGES_PER_READ):
        samples = dataset.__getitems__(draws[start : start + _IMAGES_PER_READ])
        pictures = [sample.image for sample in samples]
        yield processor(images=pictures, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        progress.update(len(pictures))


def num_images_needed(num_codes: int, num_patches: int) -> int:
    """How many images with `num_patches` patches `fit_codebook` reads for `num_codes` centroids by default."""
    return math.ceil(PATCHES_PER_CODE * num_codes / min(PATCHES_PER_IMAGE, num_patches))


@torch.no_grad()
def fit_codebook(
    codebook: MMETImageCodebook,
    pixel_values: Iterable[torch.Tensor],
    *,
    num_iterations: int = 20,
    max_patches: int | None = None,
    patches_per_image: int = PATCHES_PER_IMAGE,
    seed: int = 0,
) -> CodebookFit:
    """
    Fit the centroids of `codebook` in place.

    Args:
        codebook: the model's codebook, which defines K and the descriptor.
        pixel_values: batches `(B, C, H, W)` of normalised images, read until `max_patches` patches are gathered.
        num_iterations: Lloyd iterations of k-means.
        max_patches: number of patches to fit on; `PATCHES_PER_CODE` for each centroid when not given.
        patches_per_image: number of patches drawn from an image; all if it has fewer.
        seed: seed of the drawn patches and the initial centroids.

    Returns:
        The size and quality of the fit.

    Raises:
        ValueError: pixels are not finite, or there are fewer different patches than centroids (too few images, or
            images that are all alike).
    """
    num_codes, size = codebook.centroids.shape
    max_patches = PATCHES_PER_CODE * num_codes if max_patches is None else max_patches
    rng = np.random.default_rng(seed)
    descriptors, num_images = _gather_descriptors(codebook, pixel_values, max_patches, patches_per_image, rng)
    _check_descriptors(descriptors, num_codes, num_images)
    # Far from the origin float32 distances lose digits (faiss expands the square); k-means does not mind a shift.
    mean = descriptors.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = descriptors - mean
    kmeans = faiss.Kmeans(size, num_codes, niter=num_iterations, seed=seed + 1, min_points_per_centroid=1)
    kmeans.train(centred)
    codebook.centroids.copy_(torch.from_numpy(kmeans.centroids + mean))
    distances, codes = kmeans.index.search(centred, 1)
    shares = np.bincount(codes.ravel(), minlength=num_codes) / len(codes)
    entropy = -np.sum(shares * np.log(shares, where=shares > 0, out=np.zeros_like(shares)))
    return CodebookFit(
        num_images=num_images,
        num_patches=len(descriptors),
        variance_left=float(distances.mean(dtype=np.float64) / centred.var(axis=0, dtype=np.float64).sum()),
        perplexity=float(np.exp(entropy)),
        majority_share=float(shares.max()),
    )


def _gather_descriptors(
    codebook: MMETImageCodebook,
    pixel_values: Iterable[torch.Tensor],
    max_patches: int,
    patches_per_image: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], int]:
    """Up to `max_patches` descriptors `(M, descriptor_size)`, and the number of images they are of."""
    parts = [np.empty((0, codebook.descriptor_size), dtype=np.float32)]
    gathered = num_images = 0
    for batch in pixel_values:
        described = codebook.describe(batch.to(codebook.centroids.device)).cpu().numpy()  # (B, N, D)
        order = rng.permuted(np.tile(np.arange(described.shape[1]), (len(described), 1)), axis=1)
        chosen = np.take_along_axis(described, order[:, :patches_per_image, None], axis=1)
        parts.append(chosen.reshape(-1, codebook.descriptor_size))
        gathered += len(parts[-1])
        num_images += len(batch)
        if gathered >= max_patches:
            break
    return np.ascontiguousarray(np.concatenate(parts)[:max_patches]), num_images


def _check_descriptors(descriptors: NDArray[np.float32], num_codes: int, num_images: int) -> None:
    """Raise `ValueError` for patches that k-means cannot divide into `num_codes` clusters."""
    if not np.isfinite(descriptors).all():
        broken = np.unique(np.flatnonzero(~np.isfinite(descriptors).all(axis=1)))
        raise ValueError(
            f"the image codebook expects finite pixels, received NaN or infinite ones in {len(broken)} of "
            f"{len(descriptors)} patches; look at the images and at how they are normalised"
        )
    if len(descriptors) < num_codes:
        raise ValueError(
            f"expected at least {num_codes} patches, one for each of the codebook's centroids, "
            f"received {len(descriptors)} of {num_images} images; give more images or lower codebook_size"
        )
    # The first rows nearly always suffice; sorting all of them would cost more than the fit of a small codebook.
    different = len(np.unique(descriptors[: 4 * num_codes], axis=0))
    if different < num_codes:
        different = len(np.unique(descriptors, axis=0))
    if different < num_codes:
        raise ValueError(
            f"expected at least {num_codes} different patches, one for each of the codebook's centroids, received "
            f"{different} in {num_images} images: they are too much alike; give other images or lower codebook_size"
        )
