"""The interface of systems: a system states which (query, gallery) modalities it can search, and runs tasks.

    results = system.evaluate(tasks, EvaluationOptions(flip=True))

The evaluation, validation during training, the report and the ablations use only this interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from mmet.distributed import compute_on_all, compute_once
from mmet.evaluation.options import EvaluationOptions
from mmet.evaluation.protocols import Items, Modality, RetrievalTask
from mmet.evaluation.rescoring import Matcher
from mmet.evaluation.search import run_search
from mmet.evaluation.systems.cache import EmbeddingCache, fingerprint_items
from mmet.evaluation.task_result import TaskResult


class System(Protocol):
    """Anything that can run retrieval tasks; `name` is its row in the table."""

    name: str

    def supports(self, query: Modality, gallery: Modality) -> bool:
        """Whether the system can search a gallery of this modality with queries of that one."""
        ...

    def evaluate(self, tasks: Sequence[RetrievalTask], options: EvaluationOptions) -> list[TaskResult]:
        """Run tasks with the options that the system supports.

        Raises:
            ValueError: no query of a task has a true match.
        """
        ...


class EmbeddingSystem:
    """A system that embeds items one by one, in a subclass. Items shared by several tasks are embedded once.

    Args:
        name: name of the row in the table.
        batch_size: number of items in a batch on each process.
        accelerator: processes, device and precision.
        num_workers: number of worker processes that decode ahead.
        cache_dir: folder of cached embeddings; None for no cache.
    """

    def __init__(
        self,
        *,
        name: str,
        batch_size: int = 64,
        accelerator: Accelerator | None = None,
        num_workers: int = 0,
        cache_dir: Path | None = None,
    ) -> None:
        self.name = name
        self.batch_size = batch_size
        self.accelerator = accelerator or Accelerator()
        self.num_workers = num_workers
        self.cache_dir = cache_dir

    def supports(self, query: Modality, gallery: Modality) -> bool:
        return True

    def embed(self, items: Items, *, flip: bool = False) -> NDArray[np.float32]:
        """L2-normalised embeddings `(n, D)` of the items, in order; with `flip`, means with those of mirror images."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """Everything else that the embeddings depend on, as JSON values; part of the cache key."""
        raise NotImplementedError

    def matcher(self, task: RetrievalTask) -> Matcher | None:
        """Return the cross-encoder for a task, or None."""
        return None

    def evaluate(self, tasks: Sequence[RetrievalTask], options: EvaluationOptions) -> list[TaskResult]:
        items = {side.identity: side for task in tasks for side in (task.query, task.gallery)}
        embeddings = {identity: self.embed(side, flip=options.flip) for identity, side in items.items()}
        return [
            run_search(
                task,
                embeddings[task.query.identity],
                embeddings[task.gallery.identity],
                options,
                matcher=self.matcher(task),
            )
            for task in tasks
        ]

    def embedding_options(self, items: Items, *, flip: bool) -> dict[str, Any]:
        """Arguments of `embed_with` about batches, processes and the cache."""
        return {
            "batch_size": self.batch_size,
            "accelerator": self.accelerator,
            "num_workers": self.num_workers,
            "description": f"{self.name}: {items.split} {items.modality}",
            "cache": self.open_cache(items, flip=flip),
        }

    def open_cache(self, items: Items, *, flip: bool) -> EmbeddingCache | None:
        """The cache of the embeddings of some items, the same on every process."""
        if self.cache_dir is None:
            return None
        root, identity = self.cache_dir, {"flip": flip, "precision": self.accelerator.mixed_precision}
        identity = compute_once(lambda: {**identity, **self.identity(), "items": fingerprint_items(items)})
        return compute_on_all(lambda: EmbeddingCache(root, identity))
