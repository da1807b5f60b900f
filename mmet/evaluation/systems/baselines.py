"""Baselines: chance, a colour histogram, and the untrained model. All are *systems*, like the model itself.

systems = [ModelSystem(model, processor), ChanceSystem(), ColorHistogramSystem()]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mmet.evaluation.expansion import merge_queries
from mmet.evaluation.options import EvaluationOptions
from mmet.evaluation.protocols import Items, Modality, RetrievalTask
from mmet.evaluation.systems.base import EmbeddingSystem
from mmet.evaluation.systems.cache import fingerprint_code
from mmet.evaluation.systems.embedding import RawBatch, embed_with
from mmet.evaluation.task_metrics import expected_task_metrics
from mmet.evaluation.task_result import TaskResult

if TYPE_CHECKING:  # for annotations alone; importing transformers' models takes seconds
    from transformers import PreTrainedConfig, PreTrainedModel

HISTOGRAM_STRIPES = 6
HISTOGRAM_BINS = 16


class ColorHistogramSystem(EmbeddingSystem):
    """Bhattacharyya similarity of striped HSV histograms (`color_histogram`); image→image only.

    A mirror image has the same histograms, so `flip` changes nothing.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"name": "histogram", **options})

    def supports(self, query: Modality, gallery: Modality) -> bool:
        return (query, gallery) == ("image", "image")

    def embed(self, items: Items, *, flip: bool = False) -> NDArray[np.float32]:
        return embed_with(
            _histogram_batch,
            torch.from_numpy,
            items.dataset,
            items,
            items.modality,
            **self.embedding_options(items, flip=flip),
        )

    def identity(self) -> dict[str, Any]:
        return {"model": f"histogram {HISTOGRAM_STRIPES} {HISTOGRAM_BINS}", "code": fingerprint_code(type(self))}


class ChanceSystem:
    """Expected metrics of a gallery in uniformly random order under the task's protocol (`expected_task_metrics`)."""

    name = "chance"

    def supports(self, query: Modality, gallery: Modality) -> bool:
        return True

    def evaluate(self, tasks: Sequence[RetrievalTask], options: EvaluationOptions) -> list[TaskResult]:
        applied = EvaluationOptions(multi_query=options.multi_query, max_rank=options.max_rank)
        if options.multi_query:  # other options leave a random order random
            tasks = [merge_queries(task, np.zeros((len(task.query), 1), np.float32))[0] for task in tasks]
        return [TaskResult(task, applied, expected_task_metrics(task, max_rank=options.max_rank)) for task in tasks]


def untrained_model(model_class: type[PreTrainedModel], config: PreTrainedConfig, *, seed: int) -> PreTrainedModel:
    """Make a model with random weights from `seed`, without changing torch's random state."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model_class(config)


def color_histogram(
    image: Image.Image, *, stripes: int = HISTOGRAM_STRIPES, bins: int = HISTOGRAM_BINS
) -> NDArray[np.float32]:
    """Colour descriptor of a person: a histogram of H, S and V in each of six horizontal stripes.

    The stripes follow Gray and Tao, "Viewpoint Invariant Pedestrian Recognition with an Ensemble of Localized
    Features" (ECCV 2008). Histograms are square-rooted, so that the dot product of two descriptors is the mean
    Bhattacharyya coefficient over stripes and channels: 1 for equal pictures, 0 for disjoint colours.

    Args:
        image: RGB picture, at least `stripes` pixels high.
        stripes: number of horizontal stripes.
        bins: number of bins for each channel.

    Returns:
        `(stripes * 3 * bins,)` float32 of length 1.

    Raises:
        ValueError: the picture has fewer rows than stripes.
    """
    if image.height < stripes:
        raise ValueError(f"expected a picture of at least {stripes} pixels height, received {image.height}")
    hsv = np.asarray(image.convert("HSV"))  # (height, width, 3) uint8
    parts = []
    for stripe in np.array_split(hsv, stripes):
        for channel in range(3):
            counts = np.bincount(stripe[..., channel].ravel().astype(np.int64) * bins // 256, minlength=bins)
            parts.append(counts / counts.sum())
    return np.sqrt(np.concatenate(parts) / len(parts)).astype(np.float32)


def _histogram_batch(batch: RawBatch) -> NDArray[np.float32]:
    assert batch.images is not None  # `supports` admits images only
    return np.stack([color_histogram(image) for image in batch.images])
