"""What a gallery asks of the place that its rows lie in: a folder (`disk.DiskStore`) or a server.

A store knows rows and vectors, and nothing of models or pictures. Rows go in as the tables of
`mmet.gallery.storage.make_table` and come out of searches as mappings with the same columns, without `embedding`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmet.gallery.filters import RowFilter
from mmet.gallery.results import GalleryError

OnConflict = Literal["error", "replace", "keep"]
ON_CONFLICT: tuple[OnConflict, ...] = ("error", "replace", "keep")

KEEP_SECONDS = 3600.0
"""How long a compaction keeps the files that it replaced, for readers of the generation before."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a gallery is, apart from its rows.

    Attributes:
        embedding: identity of what embedded the rows; see `mmet.gallery.embedding`.
        dimension: of the embeddings.
        dtype: `float16` or `float32`, of the stored embeddings.
        settings: how the gallery was built: kind of index, mirror images.
        complete: whether the build that began the gallery came to its end.
        next_row: number of the next row; numbers are never given twice.
        centre: means that embeddings are compared about, by `image` and `text`; empty for none.
    """

    embedding: Mapping[str, Any]
    dimension: int
    dtype: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = False
    next_row: int = 0
    centre: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


class Hit(NamedTuple):
    """A row that a search found.

    Attributes:
        row: its stored columns, without `embedding`.
        score: inner product of the query and the row's vector, about the centre where the gallery has one.
        embedding: `(D,)` the row's unit vector as it is stored, in a centred gallery; None elsewhere.
    """

    row: Mapping[str, Any]
    score: float
    embedding: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Appended:
    """How many rows were added, of them put in the place of others, and left as they were."""

    added: int
    replaced: int = 0
    kept: int = 0


class Store(ABC):
    """The rows of a gallery. Opening one that is not there, or not whole, raises `GalleryError`.

    Every change is all or nothing, and is done when its method returns. A store answers from the state that it opened,
    or changed itself, at least; `refresh` shows what others did since.
    """

    place: Path | str
    """The folder or address, as in messages."""

    @abstractmethod
    def __init__(self, place: Path | str) -> None: ...

    @classmethod
    @abstractmethod
    def create(cls, place: Path | str, description: Description) -> Store:
        """Begin an empty gallery. Raises `GalleryError` where one or anything else is, or nothing can be written."""

    @classmethod
    @abstractmethod
    def exists(cls, place: Path | str) -> bool:
        """Whether a gallery is there, whole or not."""

    @abstractmethod
    def delete(self) -> None:
        """Undo `create`: remove the gallery and all its rows."""

    # -- reading ----------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def description(self) -> Description: ...

    @property
    @abstractmethod
    def info(self) -> dict[str, Any]:
        """What this kind of store can tell of itself, for people to read: files, bytes, generation."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def refresh(self) -> None:
        """See what other processes changed."""

    @abstractmethod
    def present_ids(self, ids: Sequence[str]) -> set[str]:
        """Those of some ids that are in the gallery."""

    @abstractmethod
    def tables(self) -> Iterator[pa.Table]:
        """All rows of one moment with all columns, some at a time, in the order in which they were added."""

    @abstractmethod
    def cameras(self) -> list[str]:
        """The stored labels of all cameras, sorted."""

    @abstractmethod
    def search(
        self, vectors: NDArray[np.float32], k: int, row_filter: RowFilter, *, by_track: bool = False
    ) -> tuple[list[list[Hit]], int]:
        """The nearest rows to each of some unit vectors `(Q, D)`, best first, and how many rows were searched.

        Args:
            vectors: the queries, about the gallery's centre where it has one.
            k: rows a query, or tracks; any number above 0.
            row_filter: which rows.
            by_track: the best row of each track of each camera alone; a row without a track stands for itself.

        Raises:
            GalleryError: an unknown camera.
        """

    # -- writing ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def append(
        self, tables: Sequence[pa.Table], *, on_conflict: OnConflict = "error", complete: bool | None = None
    ) -> Appended:
        """Add rows in one change.

        Args:
            tables: as `mmet.gallery.storage.make_table` makes them; ids are unique among them.
            on_conflict: what happens to ids that are in the gallery: an error, the new row in the place of the old
                one, or the old one stays.
            complete: whether a build has come to its end with these; None leaves it as it is.

        Raises:
            GalleryError: ids that are there already (with `error`) or twice among the new rows; it cannot be written.
        """

    @abstractmethod
    def remove(self, ids: Sequence[str]) -> int:
        """Remove rows in one change. Raises `GalleryError`, removing nothing, where an id is not in the gallery."""

    @abstractmethod
    def update(self, **fields: Any) -> None:
        """Change fields of the description, such as `complete`, `centre` and `settings`."""

    @abstractmethod
    def compact(self, *, keep_seconds: float = KEEP_SECONDS) -> None:
        """Free the space of removed rows; readers at work have `keep_seconds` to finish."""

    @abstractmethod
    def verify(self) -> list[str]:
        """What is wrong, a sentence each; empty when all is well."""


def check_distinct(ids: Sequence[str]) -> None:
    """Raise `GalleryError` for an id that stands twice."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise GalleryError(f"two pictures have the id {name!r}: give each an id of its own; nothing was added")
        seen.add(name)


def conflict_message(place: Path | str, ids: Sequence[str]) -> str:
    """What to say about ids that are in the gallery already."""
    more = f" and {len(ids) - 1} more of these ids" if len(ids) > 1 else ""
    return (
        f"{place} has a row {ids[0]!r} already{more}; nothing was added. Replace or keep them "
        "(on_conflict), or give the new rows other ids"
    )


def missing_message(place: Path | str, ids: Sequence[str]) -> str:
    """What to say about ids to be removed that are not in the gallery."""
    others = f" (nor {len(ids) - 1} others)" if len(ids) > 1 else ""
    return f"{place} has no row {ids[0]!r}{others}: nothing was removed"


def centred(vectors: NDArray[np.float32], mean: Sequence[float] | None) -> NDArray[np.float32]:
    """Unit vectors `(n, D)` about a mean `(D,)`; as they are where there is none."""
    if mean is None:
        return vectors
    moved = vectors - np.asarray(mean, dtype=np.float32)
    return np.asarray(moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12), dtype=np.float32)
