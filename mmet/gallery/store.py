"""The interface between a gallery and the place of its rows: a folder (`disk.DiskStore`) or a server.

A store handles rows and vectors, not models or pictures. Rows go in as the tables of
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
"""Seconds for which a compaction keeps the replaced files, for readers of the previous generation."""


@dataclass(frozen=True, slots=True)
class Description:
    """The properties of a gallery, apart from its rows.

    Attributes:
        embedding: identity of the embedder of the rows; see `mmet.gallery.embedding`.
        dimension: of the embeddings.
        dtype: `float16` or `float32`, of the stored embeddings.
        settings: how the gallery was built: kind of index, mirror images.
        complete: whether the build that created the gallery has finished.
        next_row: number of the next row; numbers are never reused.
        centre: means that are subtracted from embeddings, by `image` and `text`; empty for none.
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
        score: inner product of the query and the row's vector, after subtracting the centre if there is one.
        embedding: `(D,)` the row's stored unit vector, in a centred gallery; None otherwise.
    """

    row: Mapping[str, Any]
    score: float
    embedding: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Appended:
    """Numbers of rows that were added, that replaced others, and that were left as they were."""

    added: int
    replaced: int = 0
    kept: int = 0


class Store(ABC):
    """The rows of a gallery. Opening a missing or incomplete one raises `GalleryError`.

    Every change is all or nothing, and is finished when its method returns. A store answers from the state that it
    opened or last changed; `refresh` loads what others have changed since.
    """

    place: Path | str
    """The folder or address, as in messages."""

    @abstractmethod
    def __init__(self, place: Path | str) -> None: ...

    @classmethod
    @abstractmethod
    def create(cls, place: Path | str, description: Description) -> Store:
        """Create an empty gallery. Raises `GalleryError` if the place is taken or cannot be written."""

    @classmethod
    @abstractmethod
    def exists(cls, place: Path | str) -> bool:
        """Whether a gallery exists, complete or not."""

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
        """Figures of this kind of store for display: files, bytes, generation."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def refresh(self) -> None:
        """Load what other processes have changed."""

    @abstractmethod
    def present_ids(self, ids: Sequence[str]) -> set[str]:
        """Those of some ids that are in the gallery."""

    @abstractmethod
    def tables(self) -> Iterator[pa.Table]:
        """Yield all rows of one moment with all columns, in parts, in the order in which they were added."""

    @abstractmethod
    def cameras(self) -> list[str]:
        """The stored labels of all cameras, sorted."""

    @abstractmethod
    def search(
        self, vectors: NDArray[np.float32], k: int, row_filter: RowFilter, *, by_track: bool = False
    ) -> tuple[list[list[Hit]], int]:
        """Find the rows nearest to each unit vector of `(Q, D)`, best first, and the number of rows searched.

        Args:
            vectors: the queries, minus the gallery's centre if it has one.
            k: number of rows or tracks for each query, above 0.
            row_filter: the rows to search.
            by_track: whether to return only the best row of each track; a row without a track counts as one.

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
            on_conflict: what to do with ids that exist: `error`, `replace` the old row, or `keep` it.
            complete: whether these rows complete a build; None leaves the mark as it is.

        Raises:
            GalleryError: ids exist (with `error`) or occur twice among the new rows, or nothing can be written.
        """

    @abstractmethod
    def remove(self, ids: Sequence[str]) -> int:
        """Remove rows in one change. An unknown id raises `GalleryError`, and nothing is removed."""

    @abstractmethod
    def update(self, **fields: Any) -> None:
        """Change fields of the description, such as `complete`, `centre` and `settings`."""

    @abstractmethod
    def compact(self, *, keep_seconds: float = KEEP_SECONDS) -> None:
        """Free the space of removed rows; present readers have `keep_seconds` to finish."""

    @abstractmethod
    def verify(self) -> list[str]:
        """List problems, one sentence each; empty if there are none."""


def check_distinct(ids: Sequence[str]) -> None:
    """Raise `GalleryError` for a duplicate id."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise GalleryError(f"two pictures have the id {name!r}: give each an id of its own; nothing was added")
        seen.add(name)


def conflict_message(place: Path | str, ids: Sequence[str]) -> str:
    """The message for ids that are already in the gallery."""
    more = f" and {len(ids) - 1} more of these ids" if len(ids) > 1 else ""
    return (
        f"{place} has a row {ids[0]!r} already{more}; nothing was added. Replace or keep them "
        "(on_conflict), or give the new rows other ids"
    )


def missing_message(place: Path | str, ids: Sequence[str]) -> str:
    """The message for ids to be removed that are not in the gallery."""
    others = f" (nor {len(ids) - 1} others)" if len(ids) > 1 else ""
    return f"{place} has no row {ids[0]!r}{others}: nothing was removed"


def centred(vectors: NDArray[np.float32], mean: Sequence[float] | None) -> NDArray[np.float32]:
    """Subtract a mean `(D,)` from vectors `(n, D)` and scale them to unit length; unchanged without a mean."""
    if mean is None:
        return vectors
    moved = vectors - np.asarray(mean, dtype=np.float32)
    return np.asarray(moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12), dtype=np.float32)
