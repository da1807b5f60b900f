"""Explanations for the page: a match's crop under maps of what made it similar, to the whole query and to each word.

    explanations = Explanations()
    for panel in explanations.panels(answer, match):
        panel.label, panel.picture

The panel of the whole query comes first. Those of the words follow together, after one pass over the crop for each.
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
"""Height of a panel in pixels; crops themselves are often too small to show a map well."""

MAX_WORDS = 20
"""Words of a sentence that get a panel, at most."""


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
        Yield the crop under the map of the whole query, then under that of each word if a sentence has several.

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
    """Turn an explainer's `ExplanationError` into a `RequestError`."""
    try:
        yield
    except ExplanationError as error:
        raise RequestError(as_sentence(str(error))) from error


def sharing_weights(model: Any) -> Any:
    """
    Copy a model without copying its weights.

    An explanation adds hooks to the model and changes its settings; searches at the same time must not see them.
    """
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _enlarged(picture: PIL.Image.Image, values: np.ndarray[Any, Any]) -> PIL.Image.Image:
    """Overlay a map `(H, W)` on a picture, both resized to the height `PANEL_HEIGHT`."""
    size = (max(1, round(picture.width * PANEL_HEIGHT / picture.height)), PANEL_HEIGHT)
    large = PIL.Image.fromarray(values.astype(np.float32)).resize(size, PIL.Image.Resampling.BILINEAR)
    return overlay(picture.resize(size, PIL.Image.Resampling.LANCZOS), np.clip(np.asarray(large), 0.0, 1.0))
