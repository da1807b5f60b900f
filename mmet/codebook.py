"""Fit the image codebook: k-means over the patch descriptors of a sample of training images, with faiss.

The centroids become a buffer of the model, so a checkpoint carries the codes it was trained on and nothing is
downloaded.

    fit_codebook(model.image_codebook, (processor(images=batch, return_tensors="pt").pixel_values for batch in
    batches))
"""

from __future__ import annotations

from collections.abc import Iterable

import faiss
import numpy as np
import torch

from modeling_mmet import MMETImageCodebook

MAX_PATCHES = 200_000
"""Descriptors kept for fitting: more does not move centroids of a few dozen dimensions."""


@torch.no_grad()
def fit_codebook(
    codebook: MMETImageCodebook,
    pixel_values: Iterable[torch.Tensor],
    *,
    num_iterations: int = 20,
    max_patches: int = MAX_PATCHES,
    seed: int = 0,
) -> float:
    """
    Fit the centroids of `codebook` in place.

    Args:
        codebook: the model's codebook; K and the descriptor are its own.
        pixel_values: batches `(B, C, H, W)` of normalised images, read until `max_patches` patches are gathered.
        num_iterations: Lloyd iterations of k-means.
        max_patches: number of patches to fit on.
        seed: seed of the initial centroids.

    Returns:
        The mean squared distance of a patch to its centroid, as a share of the descriptors' variance (0 is perfect).

    Raises:
        ValueError: when there are fewer patches than centroids.
    """
    descriptors = _gather_descriptors(codebook, pixel_values, max_patches)
    num_codes, size = codebook.centroids.shape
    if len(descriptors) < num_codes:
        raise ValueError(
            f"expected at least {num_codes} patches, one for each of the codebook's centroids, "
            f"received {len(descriptors)}; give more images or lower codebook_size"
        )
    kmeans = faiss.Kmeans(size, num_codes, niter=num_iterations, seed=seed + 1, min_points_per_centroid=1)
    kmeans.train(descriptors)
    codebook.centroids.copy_(torch.from_numpy(kmeans.centroids))
    distances, _ = kmeans.index.search(descriptors, 1)
    return float(distances.mean() / max(descriptors.var(axis=0).sum(), 1e-12))


def _gather_descriptors(
    codebook: MMETImageCodebook, pixel_values: Iterable[torch.Tensor], max_patches: int
) -> np.ndarray:
    """Up to `max_patches` descriptors `(M, descriptor_size)` in float32."""
    parts: list[np.ndarray] = []
    gathered = 0
    for batch in pixel_values:
        part = codebook.describe(batch.to(codebook.centroids.device)).flatten(0, 1).cpu().numpy()
        parts.append(part)
        gathered += len(part)
        if gathered >= max_patches:
            break
    if not parts:
        return np.empty((0, codebook.descriptor_size), dtype=np.float32)
    return np.ascontiguousarray(np.concatenate(parts)[:max_patches], dtype=np.float32)
