"""Embed pictures and sentences for a gallery, and identify the model that does so.

    embedder = ModelEmbedder.load("outputs/run")
    embedder.embed([picture], None), embedder.embed(None, ["a man in a red coat"]), embedder.embed([picture], ["…"])

A gallery accepts any object that satisfies the protocol `Embedder`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from mmet.gallery.results import GalleryError
from mmet.starter import resolve_model

COMPARED = ("weights", "preprocessing")
"""Fields of an identity that decide whether two models' vectors can be compared."""


class Embedder(Protocol):
    """Embeds pictures, sentences, or both together, into one space."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """`model`, `revision`, `preprocessing` and `weights`: what the vectors depend on."""

    def embed(
        self, images: Sequence[PIL.Image.Image] | None, texts: Sequence[str] | None, *, flip: bool = False
    ) -> NDArray[np.float32]:
        """Unit vectors `(n, D)`, float32; with `flip`, means over each picture and its mirror image."""

    def unknown_words(self, text: str) -> tuple[list[str], bool]:
        """The words that the tokenizer does not know, and whether it knows none at all."""

    def calibration(self, query: str) -> Any | None:
        """Calibration of scores between queries of a modality and pictures; None if there is none."""


class ModelEmbedder:
    """An MMET model or its exported files, and the processor."""

    def __init__(self, model: Any, processor: Any, name: str, revision: str | None = None) -> None:
        from mmet.evaluation.systems.cache import fingerprint_processor, fingerprint_weights

        self.model, self.processor, self.name = model, processor, name
        self.identity = {
            "model": name,
            "revision": revision,
            "preprocessing": fingerprint_processor(processor),
            "weights": fingerprint_weights(model),
        }

    @classmethod
    def load(cls, name_or_path: str | Path, backend: str = "auto") -> ModelEmbedder:
        """
        Load a model from a folder or the Hub, to run with `backend` (see `mmet.exported_files.find_exported`).

        Raises:
            ValueError: there is no complete MMET model, or none for this backend.
        """
        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env

        from mmet.evaluation.systems.loading import load_any_embedder

        model, processor = load_any_embedder(str(name_or_path), backend)
        model.to(PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device).train(False)
        return cls(model, processor, str(name_or_path), getattr(model.config, "_commit_hash", None))

    def embed(
        self, images: Sequence[PIL.Image.Image] | None, texts: Sequence[str] | None, *, flip: bool = False
    ) -> NDArray[np.float32]:
        """See `Embedder`. Raises `GalleryError` for embeddings that are not finite."""
        import torch

        from mmet.evaluation.systems.embedding import ModelInputs, RawBatch, add_mirror_images

        batch = RawBatch(None if images is None else list(images), None if texts is None else list(texts))
        device = self.model.device
        with torch.no_grad():
            inputs = {name: value.to(device) for name, value in ModelInputs(self.processor)(batch).items()}

            def forward(values: dict[str, torch.Tensor]) -> torch.Tensor:
                embeddings: torch.Tensor = self.model(**values).embeddings
                return embeddings

            vectors = add_mirror_images(forward, inputs) if flip else forward(inputs)
        return unit(vectors.float().cpu().numpy())

    def unknown_words(self, text: str) -> tuple[list[str], bool]:
        """See `Embedder`."""
        tokenizer = self._tokenizer_of_words
        words = text.split()
        pieces = tokenizer(words, add_special_tokens=False)["input_ids"] if words else []
        unknown = [
            word for word, ids in zip(words, pieces, strict=True) if all(id == tokenizer.unk_token_id for id in ids)
        ]
        return unknown, len(unknown) == len(words)

    @cached_property
    def _tokenizer_of_words(self) -> Any:
        """A copy: servers look words up in other threads than the one that embeds, and a call of a tokenizer sets the
        padding of all calls at that moment."""
        return copy.deepcopy(self.processor.tokenizer)

    def calibration(self, query: str) -> Any | None:
        """See `Embedder`: from `calibration.json` in the model's folder, if it was fitted for these weights."""
        from mmet.evaluation.analyses.calibration import read_saved

        folder = Path(resolve_model(self.name))
        if not (folder / "calibration.json").is_file():
            return None
        saved = read_saved(folder)
        if saved.weights != self.identity["weights"]:
            return None
        return saved.calibrations.get((query, "image"))


def as_embedder(model: Any, backend: str = "auto") -> Embedder:
    """Return an embedder unchanged, or load that of a folder or Hub name, to run with `backend`."""
    if isinstance(model, (str, Path)):
        return ModelEmbedder.load(model, backend)
    if not (hasattr(model, "embed") and hasattr(model, "identity")):
        raise GalleryError(f"model: expected a folder, a Hub name or an embedder, received {type(model).__name__}")
    return model  # type: ignore[no-any-return]


def check_same_model(expected: Mapping[str, Any], received: Mapping[str, Any], place: str) -> None:
    """Raise `GalleryError` if a gallery was embedded by another model than the given one."""
    different = [name for name in COMPARED if expected.get(name) != received.get(name)]
    if different:
        raise GalleryError(
            f"{place} was embedded by {expected.get('model')!r} ({different[0]} {expected.get(different[0])}), "
            f"received {received.get('model')!r} ({received.get(different[0])}): their vectors cannot be "
            "compared. Search with the gallery's own model, or build the gallery again with this one"
        )


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Rows `(n, D)` of length 1. Raises `GalleryError` for rows that are not finite."""
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise GalleryError(f"expected finite embeddings of shape (n, D), received the shape {vectors.shape} or NaN")
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), dtype=np.float32)
