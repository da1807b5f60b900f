"""The galleries that a page offers, by name, and the models that search them.

    catalogue = Catalogue.open(["people"], model="outputs/demo/model")
    catalogue.get("people").gallery.search(text="a woman in a red jacket")

Galleries of one model share it. A gallery is read again after another process has changed it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mmet.app.requests import RequestError
from mmet.gallery import Gallery, GalleryError, Row
from mmet.gallery.embedding import Embedder, as_embedder
from mmet.gallery.labels import counted
from mmet.serving.batching import BatchingEmbedder

SAMPLES = 12
"""Crops that the page shows before the first search."""

_SAMPLED_ROWS = 5_000


@dataclass(eq=False)
class OfferedGallery:
    """A gallery under the name that visitors see."""

    name: str
    gallery: Gallery

    @property
    def cameras(self) -> list[str]:
        """Names of the gallery's cameras."""
        return [str(camera) for camera in self.gallery.cameras]

    @property
    def description(self) -> str:
        """Numbers of crops and cameras in words."""
        cameras = len(self.gallery.cameras)
        return counted(len(self.gallery), "crop") + (f" · {counted(cameras, 'camera')}" if cameras else "")

    @cached_property
    def samples(self) -> list[Row]:
        """Crops of different tracks, spread over the first rows."""
        rows: dict[Any, Row] = {}
        for row in itertools.islice(self.gallery, _SAMPLED_ROWS):
            rows.setdefault(row.id if row.track_id is None else (row.camera_id, row.track_id), row)
        distinct = list(rows.values())
        step = max(1, len(distinct) // SAMPLES)
        return distinct[::step][:SAMPLES]

    def refresh(self) -> None:
        """Read what other processes have changed. Raises `RequestError` if the gallery cannot be read any more."""
        try:
            self.gallery.refresh()
        except (GalleryError, OSError) as error:
            raise RequestError(
                f"The gallery “{self.name}” cannot be read any more: it was moved, removed or damaged. Choose another "
                "one, or ask whoever runs this page."
            ) from error


@dataclass(eq=False)
class Catalogue:
    """
    The galleries of a page.

    Attributes:
        offered: the galleries by name, in the order of the page.
        embedders: the embedders of queries; `close` closes them.
    """

    offered: dict[str, OfferedGallery] = field(default_factory=dict)
    embedders: list[BatchingEmbedder] = field(default_factory=list)

    @classmethod
    def open(cls, paths: Sequence[str | Path], *, model: Any = None) -> Catalogue:
        """
        Open galleries and load their models.

        Args:
            paths: folders or addresses of galleries, at least one.
            model: as for `Gallery.open`; None for the model that each gallery names.

        Raises:
            GalleryError: as for `Gallery.open`, or a gallery has no rows.
        """
        catalogue = cls()
        shared = None if model is None else catalogue._batching(as_embedder(model))
        by_weights: dict[Any, BatchingEmbedder] = {}
        for path in paths:
            gallery = Gallery.open(path, model=shared)
            if not len(gallery):
                raise GalleryError(f"{path}: the gallery holds no crops; add some first (mmet-gallery add)")
            if shared is None:
                weights = gallery.info["weights"], gallery.info["preprocessing"]
                if weights not in by_weights:
                    by_weights[weights] = catalogue._batching(gallery.embedder)
                gallery = Gallery.open(path, model=by_weights[weights])
            name = catalogue._new_name(Path(str(path)).name or str(path))
            catalogue.offered[name] = OfferedGallery(name, gallery)
        return catalogue

    @property
    def names(self) -> list[str]:
        """Names of all galleries; the page shows the first at the start."""
        return list(self.offered)

    def get(self, name: str) -> OfferedGallery:
        """A gallery by name, read anew; the first for an empty name. Raises `RequestError` for an unknown name."""
        name = name or self.names[0]
        if name not in self.offered:
            raise RequestError(f"There is no gallery “{name}” here; there is {', '.join(self.names)}.")
        offered = self.offered[name]
        offered.refresh()
        return offered

    def close(self) -> None:
        """Finish the queries that are being embedded, and refuse others."""
        for embedder in self.embedders:
            embedder.close()

    def _batching(self, embedder: Embedder) -> BatchingEmbedder:
        self.embedders.append(BatchingEmbedder(embedder))
        return self.embedders[-1]

    def _new_name(self, name: str) -> str:
        numbered = (f"{name} ({number})" for number in itertools.count(2))
        return next(candidate for candidate in itertools.chain([name], numbered) if candidate not in self.offered)
