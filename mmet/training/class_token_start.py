"""Prepare what [CLS_I] starts from before the first step: principal components of what the backbone sees.

The stripes of a pretrained backbone's map can already tell people apart. Their principal components, each divided by
the square root of its deviation, keep nearly all of this in few dimensions (docs/starter_model.md), and [CLS_I] starts
from them.
Those of an earlier map (`detail_grid`) are fitted in the same way, for the network that reads details.

    batches = (processor(images=images, return_tensors="pt").pixel_values for images in image_batches)
    for name, fit in fit_starting_projections(model.mmet.image_model.embeddings, batches).items():
        print(name, fit)
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from layers_mmet import MMETImageEmbeddings
from mmet.distributed import compute_once
from mmet.training.arguments import PretrainingArguments
from mmet.training.codebook import read_images
from mmet.training.dataset import TrainingDataset
from mmet.training.sampling import draw_examples
from modeling_mmet import MMETForPreTraining
from processing_mmet import MMETProcessor

logger = logging.getLogger(__name__)

IMAGES_PER_COMPONENT = 8
"""Smallest number of pictures for each component."""


@dataclass(frozen=True)
class ProjectionFit:
    """
    The size of a fit, and how much of the pictures' variance the components hold.

    Attributes:
        num_rows: images read, or their stripes.
        num_components: number of components: as many as the projection has, or fewer if there are fewer images.
        variance_kept: share of the variance of the cells' means.
    """

    num_rows: int
    num_components: int
    variance_kept: float

    def __str__(self) -> str:
        return f"{self.num_components} components of {self.num_rows:,} rows, {self.variance_kept:.1%} of the variance"


def prepare_starting_projections(
    model: MMETForPreTraining,
    processor: MMETProcessor,
    dataset: TrainingDataset,
    mix: Mapping[str, float],
    arguments: PretrainingArguments,
) -> None:
    """
    Fit the projections that [CLS_I] starts from on training images of the mix of batches, unless they are fitted.

    Raises:
        ValueError: all pictures are alike.
    """
    embeddings = model.mmet.image_model.embeddings
    projections = embeddings.starting_projections()
    if not projections or any(projection.weight.any() for projection in projections.values()):
        return

    def fit() -> tuple[dict[str, ProjectionFit], list[dict[str, torch.Tensor]]]:
        """The reports and the fitted states: the other processes have not fitted theirs."""
        kinds = [kind for kind in mix if kind != "text"]
        needed = IMAGES_PER_COMPONENT * max(projection.out_features for projection in projections.values())
        draws = draw_examples(dataset.sizes, kinds, needed, arguments.seed)
        with tqdm(total=len(draws), desc="class token", unit="image", disable=arguments.disable_tqdm) as progress:
            reports = fit_starting_projections(embeddings, read_images(processor, dataset, draws, progress))
        return reports, [projection.state_dict() for projection in projections.values()]

    reports, fitted = compute_once(fit)
    for projection, state in zip(projections.values(), fitted, strict=True):
        projection.load_state_dict(state)
    for name, report in reports.items():
        logger.info("%s: %s", name, report)


@torch.no_grad()
def fit_starting_projections(
    embeddings: MMETImageEmbeddings, pixel_values: Iterable[torch.Tensor]
) -> dict[str, ProjectionFit]:
    """
    Fit the image encoder's starting projections in place, on means of the cells of the backbone's maps.

    Args:
        embeddings: the image encoder's, with `class_token_rows` or `detail_grid`.
        pixel_values: batches `(B, C, H, W)` of normalised images.

    Returns:
        A report for each of `class_token_channels`, `class_token_rows` and `detail_grid` that the encoder has.

    Raises:
        ValueError: all images are alike, or pixels are not finite.
    """
    projections = embeddings.starting_projections()
    stripes, cells = [], []
    for batch in pixel_values:
        features, detail_map = embeddings.run_backbone(batch.to(embeddings.cls_token.device))
        if "class_token_rows" in projections:
            stripes.append(embeddings.describe_rows(features))
        if embeddings.details is not None and detail_map is not None:
            cells.append(embeddings.details.describe_cells(detail_map))
    fits = {}
    if stripes:
        rows = torch.cat(stripes)
        if channels := projections.get("class_token_channels"):
            fits["class_token_channels"] = fit_projection(channels, rows.flatten(0, 1), power=0)
            rows = channels(rows)
        fits["class_token_rows"] = fit_projection(projections["class_token_rows"], rows.flatten(1))
    if cells:
        fits["detail_grid"] = fit_projection(projections["detail_grid"], torch.cat(cells))
    return fits


def fit_projection(projection: torch.nn.Linear, features: torch.Tensor, power: float = 0.5) -> ProjectionFit:
    """
    Make a linear map that of principal components in place: centred, decorrelated, each divided by a power of its
    deviation, and the whole scaled to a mean square of 1.

    Args:
        projection: of D features.
        features: `(N, D)`, one row an image or a stripe.
        power: 0 keeps the distances, 1 gives all components the same deviation.

    Raises:
        ValueError: all rows are alike, or are not finite.
    """
    mean = features.mean(dim=0)
    centred = (features - mean).double()
    # Of the covariance of the features and the Gram matrix of the rows, the smaller is analysed.
    wide = features.shape[1] > len(features)
    values, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    count = min(projection.out_features, int((values > values[-1] * torch.finfo(features.dtype).eps).sum()))
    if not torch.isfinite(values).all() or count == 0:
        raise ValueError(f"expected finite images that differ, received {len(features)} without a variance to analyse")
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    components = centred.T @ vectors / values.sqrt() if wide else vectors  # (D, count), of unit norm
    deviations = (values / len(features)).sqrt()
    mean_square = deviations.pow(2 - 2 * power).mean() * count / projection.out_features
    weight = (components / deviations**power * mean_square.rsqrt()).T.to(projection.weight.dtype)
    with torch.no_grad():
        projection.weight.zero_()
        projection.weight[:count] = weight
        projection.bias.zero_()
        projection.bias[:count] = -weight @ mean
    return ProjectionFit(len(features), count, float(values.sum() / centred.square().sum()))
