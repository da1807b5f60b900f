"""Prepare the image encoder's row projection before the first step, from principal components of the backbone's map.

The stripes of a pretrained backbone's map can already tell people apart. Their principal components, each divided by
the square root of its deviation, keep nearly all of this in few dimensions (docs/starter_model.md), and [CLS_I] starts
from them.

    batches = (processor(images=images, return_tensors="pt").pixel_values for images in image_batches)
    print(fit_row_projection(model.mmet.image_model.embeddings, batches))
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from tqdm.auto import tqdm

from mmet.distributed import compute_once
from mmet.training.arguments import PretrainingArguments
from mmet.training.codebook import read_images
from mmet.training.dataset import TrainingDataset
from mmet.training.sampling import draw_examples
from modeling_mmet import MMETForPreTraining, MMETImageEmbeddings
from processing_mmet import MMETProcessor

logger = logging.getLogger(__name__)

IMAGES_PER_COMPONENT = 8
"""Smallest number of pictures for each component."""


@dataclass(frozen=True)
class RowProjectionFit:
    """
    The size of a fit, and how much of the pictures' variance the components hold.

    Attributes:
        num_images: images read.
        num_components: number of components: the width of the encoder, or fewer if there are fewer images.
        variance_kept: share of the variance of the stripes' means.
    """

    num_images: int
    num_components: int
    variance_kept: float

    def __str__(self) -> str:
        return (
            f"{self.num_components} components of {self.num_images:,} images, {self.variance_kept:.1%} of the variance"
        )


def prepare_row_projection(
    model: MMETForPreTraining,
    processor: MMETProcessor,
    dataset: TrainingDataset,
    mix: Mapping[str, float],
    arguments: PretrainingArguments,
) -> None:
    """
    Fit the row projection on training images of the batch mix, if the model has one that is not fitted yet.

    Raises:
        ValueError: all pictures are alike.
    """
    embeddings = model.mmet.image_model.embeddings
    projection = embeddings.row_projection
    if projection is None or projection.weight.any():
        return

    def fit() -> tuple[RowProjectionFit, dict[str, torch.Tensor]]:
        """The report and the fitted state: the other processes have not fitted theirs."""
        kinds = [kind for kind in mix if kind != "text"]
        needed = IMAGES_PER_COMPONENT * embeddings.config.hidden_size
        draws = draw_examples(dataset.sizes, kinds, needed, arguments.seed)
        with tqdm(total=len(draws), desc="row projection", unit="image", disable=arguments.disable_tqdm) as progress:
            report = fit_row_projection(embeddings, read_images(processor, dataset, draws, progress))
        return report, projection.state_dict()

    report, fitted = compute_once(fit)
    projection.load_state_dict(fitted)
    logger.info("row projection: %s", report)


@torch.no_grad()
def fit_row_projection(embeddings: MMETImageEmbeddings, pixel_values: Iterable[torch.Tensor]) -> RowProjectionFit:
    """
    Fit `embeddings.row_projection` in place: centred, decorrelated, components divided by the root of their deviation
    and the whole scaled to a mean square of 1.

    Args:
        embeddings: the image encoder's, with `class_token_rows`.
        pixel_values: batches `(B, C, H, W)` of normalised images.

    Raises:
        ValueError: all images are alike, or pixels are not finite.
    """
    projection = cast(torch.nn.Linear, embeddings.row_projection)
    device = projection.weight.device
    rows = torch.cat([embeddings.describe_rows(embeddings.run_backbone(batch.to(device))) for batch in pixel_values])
    mean = rows.mean(dim=0)
    # The Gram matrix of the images is smaller than the covariance of the features.
    values, vectors = torch.linalg.eigh(((rows - mean) @ (rows - mean).T).double())
    count = min(projection.out_features, int((values > values[-1] * torch.finfo(rows.dtype).eps).sum()))
    if not torch.isfinite(values).all() or count == 0:
        raise ValueError(f"expected finite images that differ, received {len(rows)} without a variance to analyse")
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    components = (rows - mean).T.double() @ vectors / values.sqrt()  # (features, count), of unit norm
    deviations = (values / len(rows)).sqrt()
    scale = (deviations.mean() * count / projection.out_features).rsqrt()
    weight = (components / deviations.sqrt() * scale).T.to(projection.weight.dtype)
    projection.weight.zero_()
    projection.weight[:count] = weight
    projection.bias.zero_()
    projection.bias[:count] = -weight @ mean
    return RowProjectionFit(len(rows), count, float(values.sum() / ((rows - mean).double() ** 2).sum()))
