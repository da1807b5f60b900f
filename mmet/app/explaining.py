"""Why a match was found, for the page: its crop under a map of what made it similar, as a whole and word by word.

    whys = Explanations()
    for panel in whys.panels(answer, match):
        panel.label, panel.picture

Maps of single words take a pass over the crop each, so panels come one after another.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image

from mmet.app.requests import RequestError
from mmet.app.searching import Answer, as_sentence
from mmet.explain import Explainer, ExplanationError
from mmet.explain.figures import overlay
from mmet.gallery import Match
from mmet.serving.batching import BatchingEmbedder

PANEL_HEIGHT = 360
"""Pixels of a panel: crops are often smaller than what shows a map well."""

MAX_WORDS = 20
"""Words that have a panel of their own."""


@dataclass(frozen=True)
class Panel:
    """A picture and what it shows."""

    label: str
    picture: PIL.Image.Image
    is_word: bool = False


class Explanations:
    """Explainers of the models of a page; one explanation at a time."""

    def __init__(self) -> None:
        self._explainers: dict[int, tuple[Any, Explainer]] = {}
        self._lock = threading.Lock()

    def panels(self, answer: Answer, match: Match) -> Iterator[Panel]:
        """
        The crop under the map of the whole query, then of each word of a sentence of several words.

        Raises:
            RequestError: the model cannot explain, or the crop cannot be read.
        """
        explainer = self._explainer(answer.offered.gallery.embedder)
        picture = match.open_image()
        query = answer.query
        with self._lock, _readable():
            values = explainer.explain(picture, image=query.image, text=query.text)
        yield Panel("The whole query", _enlarged(picture, values))
        words = (query.text or "").split()
        if len(words) < 2:
            return
        with self._lock, _readable():
            maps = explainer.explain_words(picture, " ".join(words[:MAX_WORDS]))
        for word, values in maps:
            yield Panel(word, _enlarged(picture, values), is_word=True)

    def _explainer(self, embedder: Any) -> Explainer:
        """The explainer of an embedder's model."""
        inner = embedder.inner if isinstance(embedder, BatchingEmbedder) else embedder
        if not hasattr(inner, "model") or not hasattr(inner, "processor"):
            raise RequestError("This gallery's model cannot explain its answers.")
        with self._lock:
            if id(inner) not in self._explainers:
                explainer = Explainer(sharing_weights(inner.model), copy.deepcopy(inner.processor))
                self._explainers[id(inner)] = (inner, explainer)
            return self._explainers[id(inner)][1]


@contextmanager
def _readable() -> Iterator[None]:
    """Turn what an explainer refuses into a `RequestError`."""
    try:
        yield
    except ExplanationError as error:
        raise RequestError(as_sentence(str(error))) from error


def sharing_weights(model: Any) -> Any:
    """A copy of a model with the same weights in memory. An explanation puts hooks into modules and changes settings,
    which searches that run at the same time must not meet."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _enlarged(picture: PIL.Image.Image, values: np.ndarray[Any, Any]) -> PIL.Image.Image:
    """The overlay of a map `(H, W)` at `PANEL_HEIGHT`."""
    size = (max(1, round(picture.width * PANEL_HEIGHT / picture.height)), PANEL_HEIGHT)
    large = PIL.Image.fromarray(values.astype(np.float32)).resize(size, PIL.Image.Resampling.BILINEAR)
    return overlay(picture.resize(size, PIL.Image.Resampling.LANCZOS), np.clip(np.asarray(large), 0.0, 1.0))
