"""A gallery on disk as it was at one moment, which readers use whatever a writer does meanwhile.

    snapshot = open_snapshot(Path("my_gallery"))
    selection = snapshot.select(RowFilter.of(camera_id="gate"))
    rows = snapshot.rows(selection.positions)

*Positions* count all rows of the segments in order, including removed ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmet.gallery.columns import Segment
from mmet.gallery.filters import RowFilter, check_cameras
from mmet.gallery.results import GalleryError
from mmet.gallery.selection import Positions, Selection
from mmet.gallery.storage import (
    GalleryManifest,
    check_files,
    naming_damage,
    read_manifest,
    read_removed,
    user_schema_of,
)
from mmet.gallery.store import centred

_ATTEMPTS = 20
_KEPT_SELECTIONS = 4


class Snapshot:
    """The rows of one generation.

    Args:
        folder: the gallery's.
        manifest: of the generation.
        removed: numbers of the rows that were removed, ascending.
        known: segments of an earlier snapshot, reused without reading their columns again.
    """

    def __init__(
        self, folder: Path, manifest: GalleryManifest, removed: NDArray[np.int64], known: Sequence[Segment] = ()
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        kept = {segment.stored: segment for segment in known}
        self.segments = [
            kept.get(stored) or Segment(folder, stored, columns)
            for stored, columns in zip(manifest.segments, manifest.columns, strict=True)
        ]
        sizes = [stored.rows for stored in manifest.segments]
        self.starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._firsts = np.array([stored.first for stored in manifest.segments], dtype=np.int64)
        self.removed = removed
        self.select = lru_cache(_KEPT_SELECTIONS)(self._select)
        self._vectors: tuple[int, NDArray[np.float32]] | None = None

    def __len__(self) -> int:
        return int(self.starts[-1]) - len(self.removed)

    # -- which rows -------------------------------------------------------------------------------------------------

    @cached_property
    def live(self) -> Selection:
        """The positions of the rows that are part of the gallery."""
        if not self.segments:
            return Selection(0)
        numbers = np.searchsorted(self._firsts, self.removed, side="right") - 1
        return Selection(int(self.starts[-1]), removed=self.removed - self._firsts[numbers] + self.starts[numbers])

    def numbers_at(self, positions: Positions) -> NDArray[np.int64]:
        """The numbers of the rows at these positions, by which tombstones refer to them."""
        segments = self._segments_of(positions)
        return np.asarray(positions - self.starts[segments] + self._firsts[segments])

    def find(self, ids: Sequence[str]) -> Positions:
        """Ascending positions of the live rows with one of these ids."""
        wanted = list(dict.fromkeys(ids))
        parts = [start + segment.find(wanted) for start, segment in zip(self.starts, self.segments, strict=False)]
        positions = np.sort(np.concatenate([np.empty(0, dtype=np.int64), *parts]))
        return positions[self.live.has(positions)]

    def _select(self, row_filter: RowFilter) -> Selection:
        """The rows that pass. Raises `GalleryError` for an unknown camera."""
        selection = self.live
        if row_filter.cameras is not None:
            check_cameras(row_filter.cameras, self.cameras)
        if row_filter.names_rows:
            parts = [
                start + segment.select(row_filter) for start, segment in zip(self.starts, self.segments, strict=False)
            ]
            positions = np.concatenate([np.empty(0, dtype=np.int64), *parts])
            selection = Selection(selection.total, positions[selection.has(positions)])
        return selection.without(self.find(sorted(row_filter.excluded))) if row_filter.excluded else selection

    @cached_property
    def cameras(self) -> list[str]:
        """The stored labels of all cameras, sorted."""
        return sorted({word for segment in self.segments for word in segment.cameras.words})

    # -- their columns ----------------------------------------------------------------------------------------------

    def ids_at(self, positions: Positions) -> list[str]:
        """The ids at some positions."""
        return [segment.table.column("id")[row].as_py() for segment, row in self._places(positions)]

    def tracks_at(self, positions: Positions) -> list[tuple[str | None, str] | None]:
        """Camera and track at some positions; None for rows without a track."""
        return [
            None if (track := segment.tracks[row]) is None else (segment.cameras[row], track)
            for segment, row in self._places(positions)
        ]

    def rows(self, positions: Positions) -> list[dict[str, Any]]:
        """The stored columns, but `embedding`, of the rows at some positions, in that order."""
        segments = self._segments_of(positions)
        rows: list[dict[str, Any]] = [{} for _ in positions]
        for number in set(segments.tolist()):
            places = np.flatnonzero(segments == number)
            values = self.segments[number].rows((positions[places] - self.starts[number]).tolist())
            for place, value in zip(places.tolist(), values, strict=True):
                rows[place] = value
        return rows

    def _segments_of(self, positions: Positions) -> NDArray[np.int64]:
        return np.searchsorted(self.starts, positions, side="right") - 1

    def _places(self, positions: Positions) -> Iterator[tuple[Segment, int]]:
        segments = self._segments_of(positions)
        rows = positions - self.starts[segments]
        for number, row in zip(segments.tolist(), rows.tolist(), strict=True):
            yield self.segments[number], row

    # -- their vectors ----------------------------------------------------------------------------------------------

    def vectors_of(self, number: int) -> NDArray[np.float32]:
        """The vectors of a segment for comparison: minus the centre, if there is one."""
        return centred(self.segments[number].mapped_vectors.astype(np.float32), self.manifest.centre.get("image"))

    def embeddings_at(self, positions: Positions) -> NDArray[np.float32]:
        """The embeddings `(n, D)` at some positions, as they are stored."""
        vectors = np.empty((len(positions), self.manifest.dimension), dtype=np.float32)
        segments = self._segments_of(positions)
        for number in np.unique(segments).tolist():
            places = np.flatnonzero(segments == number)
            vectors[places] = self.segments[number].mapped_vectors[positions[places] - self.starts[number]]
        return vectors

    def vectors_at(self, positions: Positions) -> NDArray[np.float32]:
        """The vectors `(n, D)` at some positions as they are compared."""
        return centred(self.embeddings_at(positions), self.manifest.centre.get("image"))

    def vectors_from(self, position: int) -> NDArray[np.float32]:
        """The vectors, as they are compared, from the first position of a segment on; kept for the next search."""
        if self._vectors is None or self._vectors[0] != position:
            first = int(np.searchsorted(self.starts, position))
            parts = [segment.vectors for segment in self.segments[first:]]
            matrix = np.concatenate(parts) if len(parts) > 1 else (parts or [self._no_vectors])[0]
            self._vectors = position, centred(matrix, self.manifest.centre.get("image"))
        return self._vectors[1]

    @property
    def _no_vectors(self) -> NDArray[np.float32]:
        return np.empty((0, self.manifest.dimension), dtype=np.float32)

    def tables(self) -> Iterator[pa.Table]:
        """Yield all live rows by row groups. The files are opened first, because a writer may delete them."""
        files = []
        try:
            for segment in self.segments:
                with naming_damage(segment.path):
                    files.append(pq.ParquetFile(segment.path))
            for number, file in enumerate(files):
                start = int(self.starts[number])
                for group in range(file.metadata.num_row_groups):
                    with naming_damage(self.segments[number].path):
                        table = file.read_row_group(group)
                    live = self.live.mask(start, start + table.num_rows)
                    start += table.num_rows
                    yield table if live.all() else table.filter(pa.array(live))
        finally:
            for file in files:
                file.close()

    @property
    def user_schema(self) -> pa.Schema | None:
        """The user's own columns; None for a gallery that has never had a row."""
        if not self.segments:
            return None
        with naming_damage(self.segments[0].path):
            return user_schema_of(pq.read_schema(self.segments[0].path))


def open_snapshot(folder: Path, known: Snapshot | None = None) -> Snapshot:
    """Open the present state of a gallery.

    Args:
        folder: the gallery's.
        known: an earlier snapshot; it is returned if nothing has changed, else its segments are reused.

    Raises:
        GalleryError: there is no gallery, or it is incomplete.
    """
    for attempt in range(_ATTEMPTS):
        manifest = read_manifest(folder)
        try:
            check_files(folder, manifest)
            if known is not None and known.manifest == manifest:
                return known
            return Snapshot(folder, manifest, read_removed(folder, manifest), known.segments if known else ())
        except (GalleryError, FileNotFoundError):
            # A writer may have replaced files since the manifest was read; then there is another manifest by now.
            if attempt == _ATTEMPTS - 1 or read_manifest(folder).generation == manifest.generation:
                raise
    raise AssertionError("unreachable")
