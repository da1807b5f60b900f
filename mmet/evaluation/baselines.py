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
from mmet.evaluation.cache import EmbeddingCache, fingerprint_code, fingerprint_items, fingerprint_model
from mmet.evaluation.cross_encoder import MatchingScorer
from mmet.evaluation.embedding import RawBatch, embed_items, embed_with
from mmet.evaluation.expansion import merge_queries
from mmet.evaluation.matches import GalleryMatches
from mmet.evaluation.protocols import Items, Modality, RetrievalTask
from mmet.evaluation.ranking import RankMetrics
from mmet.evaluation.search import Matcher, SearchOptions, SearchResult, run_search

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
    """The expected metrics of a gallery in uniformly random order, in closed form (`expected_random_metrics`)."""

    name = "chance"

    def supports(self, query: Modality, gallery: Modality) -> bool:
        return True

    def evaluate(
        self, tasks: Sequence[RetrievalTask], *, max_rank: int, options: SearchOptions | None = None
    ) -> list[SearchResult]:
        if options is not None and options.multi_query:  # other options leave a random order random
            tasks = [merge_queries(task, np.zeros((len(task.query), 1), np.float32))[0] for task in tasks]
        return [SearchResult(task, expected_random_metrics(task.matches(), max_rank=max_rank)) for task in tasks]


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


def expected_random_metrics(matches: GalleryMatches, *, max_rank: int) -> RankMetrics:
    """Expected mAP, mINP and CMC when every query's gallery is in uniformly random order; exact, no sampling.

    For P matches among N entries, by linearity over positions and the distribution of the first and last match:

    - E[AP] = (H_N + (N - H_N)(P - 1) / (N - 1)) / N, with the harmonic number H_N;
    - E[INP] = Σ_m (P / m) C(m - 1, P - 1) / C(N, P) over the rank m of the last match;
    - P(hit within k) = 1 - C(N - P, k) / C(N, k).

    Raises:
        ValueError: no query has a true match.
    """
    matches.require_valid_query()
    num_matches, num_candidates = matches.counts()
    valid = num_matches > 0
    # Queries with the same P and N have the same expectation.
    cases, repeats = np.unique(
        np.stack([num_matches[valid], num_candidates[valid]], axis=1), axis=0, return_counts=True
    )
    precision = [_expected_average_precision(p, n) for p, n in cases]
    penalty = [_expected_inverse_penalty(p, n) for p, n in cases]
    hits = np.stack([_hit_probability(p, n, max_rank) for p, n in cases])  # (cases, max_rank)
    return RankMetrics(
        mAP=float(np.average(precision, weights=repeats)),
        mINP=float(np.average(penalty, weights=repeats)),
        cmc=np.average(hits, axis=0, weights=repeats),
        num_queries=matches.num_queries,
        num_valid_queries=int(valid.sum()),
        num_gallery=matches.num_gallery,
    )


def _expected_average_precision(num_matches: int, num_candidates: int) -> float:
    harmonic = np.sum(1 / np.arange(1, num_candidates + 1))
    if num_candidates == 1:
        return 1.0
    other_matches = (num_matches - 1) / (num_candidates - 1)
    return float((harmonic + (num_candidates - harmonic) * other_matches) / num_candidates)


def _expected_inverse_penalty(num_matches: int, num_candidates: int) -> float:
    # P(last match at m) = C(m - 1, P - 1) / C(N, P): P / N at m = N, and downwards by the ratio of neighbours.
    ranks = np.arange(num_candidates, num_matches - 1, -1)  # N, N - 1, …, P
    ratios = (ranks[:-1] - num_matches) / (ranks[:-1] - 1)  # C(m - 2, P - 1) / C(m - 1, P - 1)
    probability = num_matches / num_candidates * np.concatenate([[1.0], np.cumprod(ratios)])
    return float(np.sum(probability * num_matches / ranks))


def _hit_probability(num_matches: int, num_candidates: int, max_rank: int) -> NDArray[np.float64]:
    """Probability of a match among the first 1, 2, …, `max_rank` entries."""
    drawn = np.arange(max_rank)
    # The chance that draw number k misses too, given that all before it did.
    misses = np.clip(num_candidates - num_matches - drawn, 0, None) / np.clip(num_candidates - drawn, 1, None)
    return 1 - np.cumprod(misses, dtype=np.float64)


def _histogram_batch(batch: RawBatch) -> NDArray[np.float32]:
    assert batch.images is not None  # `supports` admits images only
    return np.stack([color_histogram(image) for image in batch.images])
