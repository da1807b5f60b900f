"""Queries and their embedding: a picture, a sentence, both together, or several pictures of one person as one vector.

Query(image="q.jpg", text="with a red bag")     # both in one vector, by the multimodal encoder
Query(image=["a.jpg", "b.jpg"])                 # one person: the mean of both
Query(image="q.jpg", text="…", blend=0.3)       # 0.3 of the sentence's vector and 0.7 of the picture's
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmet.field_checks import SHARE_RANGE, check_number, shown
from mmet.gallery.embedding import Embedder, unit
from mmet.gallery.results import GalleryError
from mmet.gallery.sources import load_picture


@dataclass(frozen=True)
class Query:
    """One query: an image, a sentence, both, or an embedding.

    Attributes:
        image: a file, bytes, array or Pillow image, or a list of them that show one person.
        text: a sentence.
        embedding: a vector `(D,)` instead of image and text.
        blend: weight of the sentence's embedding against the picture's, 0 to 1; None for one embedding of both by the
            multimodal encoder.
        flip: whether to use the mean embedding of each picture and its mirror image.
    """

    image: Any = None
    text: str | None = None
    embedding: Any = None
    blend: float | None = None
    flip: bool = False

    def __post_init__(self) -> None:
        if self.text is not None and not isinstance(self.text, str):
            raise GalleryError(f"text: expected a sentence, received {shown(self.text)}")
        if self.text is not None and not self.text.strip():
            raise GalleryError("text: expected words, received an empty sentence")
        if isinstance(self.image, (list, tuple)) and not self.image:
            raise GalleryError("image: expected at least one picture, received an empty list")
        if (self.image is None and self.text is None) == (self.embedding is None):
            raise GalleryError(
                "expected an image, a text or both, or an embedding in their place; received "
                + ("none of them" if self.embedding is None else "an embedding beside them")
            )
        if self.blend is not None:
            if self.image is None or self.text is None:
                raise GalleryError("blend: expected an image and a text with it, received one of the two")
            check_number("blend", self.blend, float, SHARE_RANGE)

    @property
    def modality(self) -> str:
        """`image`, `text` or `both`; decides which calibration is used."""
        if self.text is None:
            return "image"
        return "text" if self.image is None else "both"


@dataclass(frozen=True, eq=False)
class EmbeddedQuery:
    """A query's unit vector `(D,)`, and what the user should know about it."""

    vector: NDArray[np.float32]
    modality: str
    notes: tuple[str, ...] = ()


def embed_query(embedder: Embedder | None, query: Query, dimension: int) -> EmbeddedQuery:
    """
    Embed one query.

    Raises:
        GalleryError: a picture that cannot be read, a sentence without a word that the tokenizer knows, or an
            embedding of another length.
    """
    if query.embedding is not None:
        vector = np.asarray(query.embedding, dtype=np.float32)
        if vector.shape != (dimension,) or not np.isfinite(vector).all() or not vector.any():
            raise GalleryError(f"embedding: expected {dimension} finite numbers, received the shape {vector.shape}")
        return EmbeddedQuery(unit(vector[None])[0], "image")
    assert embedder is not None
    notes = _notes(embedder, query.text)
    images = query.image if isinstance(query.image, (list, tuple)) else [query.image]
    pictures = None if query.image is None else [load_picture(image) for image in images]
    texts = None if query.text is None else [query.text]
    if pictures is None or texts is None:
        vectors = embedder.embed(pictures, texts, flip=query.flip)
    elif query.blend is None:
        vectors = embedder.embed(pictures, texts * len(pictures), flip=query.flip)
    else:
        of_images = unit(embedder.embed(pictures, None, flip=query.flip).mean(axis=0, keepdims=True))
        vectors = (1 - query.blend) * of_images + query.blend * embedder.embed(None, texts)
    return EmbeddedQuery(unit(vectors.mean(axis=0, keepdims=True))[0], query.modality, notes)


def _notes(embedder: Embedder, text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    unknown, is_all = embedder.unknown_words(text)
    names: Sequence[str] = [repr(word) for word in unknown[:5]]
    if is_all:
        raise GalleryError(
            f"text: the model's vocabulary holds no word of {shown(text)}: write the sentence in the language and "
            "alphabet of the captions that the model was trained on"
        )
    return (f"the model does not know {', '.join(names)}",) if unknown else ()
