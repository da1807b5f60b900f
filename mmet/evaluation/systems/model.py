"""A model with its processor as a system.

system = ModelSystem(model, processor, name="model", batch_size=64)
system.evaluate(tasks, EvaluationOptions())
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmet.evaluation.protocols import Items, RetrievalTask
from mmet.evaluation.rescoring import Matcher
from mmet.evaluation.systems.base import EmbeddingSystem
from mmet.evaluation.systems.cache import fingerprint_model
from mmet.evaluation.systems.cross_encoder import MatchingScorer
from mmet.evaluation.systems.embedding import embed_items


class ModelSystem(EmbeddingSystem):
    """A model with its processor; see `embed_items` for what they are called with.

    Args:
        model: a module whose output has `.embeddings`.
        processor: makes its inputs.
        matching_scorer: its cross-encoder, for searches that re-score first entries.
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

    def embed(self, items: Items, *, flip: bool = False) -> NDArray[np.float32]:
        return embed_items(
            self.model,
            self.processor,
            items.dataset,
            items,
            items.modality,
            flip=flip,
            **self.embedding_options(items, flip=flip),
        )

    def identity(self) -> dict[str, Any]:
        if self._identity is None:  # weights are digested once
            self._identity = {"model": fingerprint_model(self.model, self.processor)}
        return self._identity

    def matcher(self, task: RetrievalTask) -> Matcher | None:
        scorer = self.matching_scorer
        return scorer if scorer is not None and scorer.supports(task.query.modality, task.gallery.modality) else None
