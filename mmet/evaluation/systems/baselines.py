"""What a model is compared with: chance, a colour histogram, and itself untrained. All are *systems*, as the model is.

A system says which (query, gallery) modalities it can search and turns tasks into `SearchResult`s; the evaluation
knows nothing else about it.

    systems = [ModelSystem(model, processor), ChanceSystem(), ColorHistogramSystem()]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL import Image

from mmet.distributed import compute_on_all, compute_once
from mmet.evaluation.expansion import merge_queries
from mmet.evaluation.protocols import Items, Modality, RetrievalTask
from mmet.evaluation.search import Matcher, SearchOptions, SearchResult, run_search
from mmet.evaluation.systems.cache import EmbeddingCache, fingerprint_code, fingerprint_items, fingerprint_model
from mmet.evaluation.systems.cross_encoder import MatchingScorer
from mmet.evaluation.systems.embedding import RawBatch, embed_items, embed_with
from mmet.evaluation.task_metrics import expected_task_metrics

if TYPE_CHECKING:  # for annotations alone; importing transformers' models takes seconds
    from transformers import PreTrainedConfig, PreTrainedModel

HISTOGRAM_STRIPES = 6
HISTOGRAM_BINS = 16


class System(Protocol):
    """Anything that can run retrieval tasks; `name` is its row in the table."""

    name: str

    def supports(self, query: Modality, gallery: Modality) -> bool:
        """Whether the system can search such a gallery by such queries."""
        ...

    def evaluate(
        self, tasks: Sequence[RetrievalTask], *, max_rank: int, options: SearchOptions | None = None
    ) -> list[SearchResult]:
        """Run one data set's tasks. Raises `ValueError` when no query of one has a true match."""
        ...


class EmbeddingSystem:
    """A system that embeds items one by one; subclasses say how. Items that tasks share are embedded once.

    Args:
        name: row of the table.
        batch_size: items a batch on each process.
        accelerator: processes, device and precision.
        num_workers: processes that decode ahead.
        flip: whether pictures count with their mirror image.
        cache_dir: where embeddings are kept; None keeps none.
    """

    def __init__(
        self,
        *,
        name: str,
        batch_size: int = 64,
        accelerator: Accelerator | None = None,
        num_workers: int = 0,
        flip: bool = False,
        cache_dir: Path | None = None,
    ) -> None:
        self.name = name
        self.batch_size = batch_size
        self.accelerator = accelerator or Accelerator()
        self.num_workers = num_workers
        self.flip = flip
        self.cache_dir = cache_dir

    def supports(self, query: Modality, gallery: Modality) -> bool:
        return True

    def embed(self, items: Items) -> NDArray[np.float32]:
        """L2-normalised embeddings `(n, D)` of the items, in their order."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """What the embeddings depend on beside the items, as JSON values; the cache goes by it."""
        raise NotImplementedError

    def matcher(self, task: RetrievalTask) -> Matcher | None:
        """The cross-encoder for a task; None where there is none."""
        return None

    def evaluate(
        self, tasks: Sequence[RetrievalTask], *, max_rank: int, options: SearchOptions | None = None
    ) -> list[SearchResult]:
        # All items of one split and modality are the same items, see `select_items`.
        items = {(side.split, side.modality): side for task in tasks for side in (task.query, task.gallery)}
        embeddings = {key: self.embed(side) for key, side in items.items()}
        return [
            run_search(
                task,
                embeddings[task.query.split, task.query.modality],
                embeddings[task.gallery.split, task.gallery.modality],
                options,
                max_rank=max_rank,
                matcher=self.matcher(task),
            )
            for task in tasks
        ]

    def open_cache(self, items: Items) -> EmbeddingCache | None:
        """The cache of the embeddings of some items, the same on every process."""
        if self.cache_dir is None:
            return None
        root, identity = self.cache_dir, {"flip": self.flip, "precision": self.accelerator.mixed_precision}
        identity = compute_once(lambda: {**identity, **self.identity(), "items": fingerprint_items(items)})
        return compute_on_all(lambda: EmbeddingCache(root, identity))


class ModelSystem(EmbeddingSystem):
    """A model with its processor; see `embed_items` for what they are called with.

    Args:
        model: gives `.embeddings`.
        processor: makes its inputs.
        matching_scorer: its cross-encoder, which re-scores first entries where a search asks for it.
        options: as `EmbeddingSystem`; the name is `model` unless given.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        processor: Callable[..., Any],
        *,
        matching_scorer: MatchingScorer | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**{"name": "model", **options})
        self.model = model
        self.processor = processor
        self.matching_scorer = matching_scorer
        self._identity: dict[str, Any] | None = None

    def embed(self, items: Items) -> NDArray[np.float32]:
        return embed_items(
            self.model,
            self.processor,
            items.dataset,
            items,
            items.modality,
            batch_size=self.batch_size,
            accelerator=self.accelerator,
            num_workers=self.num_workers,
            description=f"{self.name}: {items.split} {items.modality}",
            flip=self.flip,
            cache=self.open_cache(items),
        )

    def identity(self) -> dict[str, Any]:
        if self._identity is None:  # weights are digested once
            self._identity = {"model": fingerprint_model(self.model, self.processor)}
        return self._identity

    def matcher(self, task: RetrievalTask) -> Matcher | None:
        scorer = self.matching_scorer
        return scorer if scorer is not None and scorer.supports(task.query.modality, task.gallery.modality) else None


class ColorHistogramSystem(EmbeddingSystem):
    """Bhattacharyya similarity of striped HSV histograms (`color_histogram`); image→image only.

    A mirror image has the same histograms, so `flip` changes nothing.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"name": "histogram", **options})

    def supports(self, query: Modality, gallery: Modality) -> bool:
        return (query, gallery) == ("image", "image")

    def embed(self, items: Items) -> NDArray[np.float32]:
        return embed_with(
            _histogram_batch,
            torch.from_numpy,
            items.dataset,
            items,
            items.modality,
            batch_size=self.batch_size,
            accelerator=self.accelerator,
            num_workers=self.num_workers,
            description=f"{self.name}: {items.split} {items.modality}",
            cache=self.open_cache(items),
        )

    def identity(self) -> dict[str, Any]:
        return {"model": f"histogram {HISTOGRAM_STRIPES} {HISTOGRAM_BINS}", "code": fingerprint_code(type(self))}


class ChanceSystem:
    """The expected metrics of a gallery in uniformly random order by the task's protocol (`expected_task_metrics`)."""

    name = "chance"

    def supports(self, query: Modality, gallery: Modality) -> bool:
        return True

    def evaluate(
        self, tasks: Sequence[RetrievalTask], *, max_rank: int, options: SearchOptions | None = None
    ) -> list[SearchResult]:
        if options is not None and options.multi_query:  # other options leave a random order random
            tasks = [merge_queries(task, np.zeros((len(task.query), 1), np.float32))[0] for task in tasks]
        return [SearchResult(task, expected_task_metrics(task, max_rank=max_rank)) for task in tasks]


def untrained_model(model_class: type[PreTrainedModel], config: PreTrainedConfig, *, seed: int) -> PreTrainedModel:
    """A model of the given config with fresh weights drawn from `seed`; torch's random state is left alone."""
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
        bins: bins a channel.

    Returns:
        `(stripes * 3 * bins,)` float32 of length 1.

    Raises:
        ValueError: a picture lower than the number of stripes.
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
