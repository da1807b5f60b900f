"""A gallery on disk as it was at one moment: what readers read, whatever a writer does meanwhile.

    snapshot = open_snapshot(Path("my_gallery"))
    mask = snapshot.mask(RowFilter.of(camera_id="gate"))
    rows = snapshot.take(np.flatnonzero(mask))

*Positions* count all rows of the segments in order, those that were removed too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmet.gallery.filters import RowFilter, check_cameras
from mmet.gallery.results import GalleryError
from mmet.gallery.storage import (
    EMBEDDING,
    Manifest,
    StoredFile,
    check_files,
    read_manifest,
    read_removed,
    user_schema_of,
    vectors_of,
)

_ATTEMPTS = 20


class Words(NamedTuple):
    """A column of labels: the number of each row's label in `words`, -1 for none."""

    codes: NDArray[np.int64]
    words: list[str]

    def among(self, allowed: frozenset[str]) -> NDArray[np.bool_]:
        """Whether each row's label is allowed."""
        return np.array([word in allowed for word in self.words] + [False])[self.codes]


class Segment:
    """One segment's columns, each read when it is first asked for and kept."""

    def __init__(self, folder: Path, stored: StoredFile, dimension: int) -> None:
        self.stored = stored
        self.path = folder / stored.file
        self._dimension = dimension

    @cached_property
    def ids(self) -> pa.ChunkedArray:
        return pq.read_table(self.path, columns=["id"])["id"]

    @cached_property
    def cameras(self) -> Words:
        return self._words("camera_id")

    @cached_property
    def tracks(self) -> Words:
        return self._words("track_id")

    @cached_property
    def times(self) -> NDArray[np.float64]:
        """Seconds of each row; NaN for none."""
        return np.asarray(pq.read_table(self.path, columns=["time"])["time"].to_numpy())

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """The embeddings `(n, D)`, kept in memory."""
        return self.read_vectors()

    def read_vectors(self) -> NDArray[np.float32]:
        """The embeddings `(n, D)`, read anew."""
        return vectors_of(pq.read_table(self.path, columns=[EMBEDDING])[EMBEDDING], self._dimension)

    def take(self, rows: NDArray[np.int64], with_embedding: bool) -> pa.Table:
        """Some rows, from the row groups that they lie in."""
        with pq.ParquetFile(self.path) as file:
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
            starts = np.concatenate([[0], np.cumsum(sizes)])
            groups = np.searchsorted(starts, rows, side="right") - 1
            needed, places = np.unique(groups, return_inverse=True)
            names = [name for name in file.schema_arrow.names if with_embedding or name != EMBEDDING]
            table = file.read_row_groups(needed.tolist(), columns=names)
        offsets = np.concatenate([[0], np.cumsum(np.array(sizes)[needed])])
        return table.take(offsets[places] + rows - starts[groups])

    def _words(self, name: str) -> Words:
        column = pc.dictionary_encode(pq.read_table(self.path, columns=[name])[name]).combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # of older pyarrow
            column = pa.concat_arrays(column.chunks)
        codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return Words(codes, column.dictionary.to_pylist())


class Snapshot:
    """The rows of one generation.

    Args:
        folder: the gallery's.
        manifest: of the generation.
        removed: numbers of the rows that were removed, ascending.
        known: segments of an earlier snapshot, whose columns need not be read again.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, removed: NDArray[np.int64], known: Sequence[Segment] = ()
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        kept = {segment.stored: segment for segment in known}
        self.segments = [
            kept.get(stored) or Segment(folder, stored, manifest.dimension) for stored in manifest.segments
        ]
        self.starts = np.concatenate([[0], np.cumsum([stored.rows for stored in manifest.segments])]).astype(np.int64)
        self.removed = removed
        self.scan_rows: dict[tuple[str, ...], NDArray[np.float32]] = {}

    @cached_property
    def row_numbers(self) -> NDArray[np.int64]:
        """The number of the row at each position."""
        parts = [np.arange(stored.first, stored.first + stored.rows) for stored in self.manifest.segments]
        return np.concatenate([np.empty(0, dtype=np.int64), *parts])

    @cached_property
    def live(self) -> NDArray[np.bool_]:
        """Whether the row at each position is part of the gallery."""
        live = np.ones(self.starts[-1], dtype=bool)
        if len(self.removed):
            live[np.isin(self.row_numbers, self.removed, assume_unique=True)] = False
        return live

    def __len__(self) -> int:
        return int(self.starts[-1]) - len(self.removed)

    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Positions of the live rows with one of these ids."""
        wanted = pa.array(ids, pa.string())
        masks = [pc.is_in(segment.ids, value_set=wanted).to_numpy() for segment in self.segments]
        return np.flatnonzero(_joined(masks, bool) & self.live)

    def ids_at(self, positions: NDArray[np.int64]) -> list[str]:
        """The ids at some positions."""
        segments = np.searchsorted(self.starts, positions, side="right") - 1
        return [
            self.segments[segment].ids[int(position - self.starts[segment])].as_py()
            for segment, position in zip(segments.tolist(), positions.tolist(), strict=True)
        ]

    def mask(self, row_filter: RowFilter) -> NDArray[np.bool_]:
        """Whether the row at each position is live and passes. Raises `GalleryError` for an unknown camera."""
        if not row_filter:
            return self.live
        mask = self.live.copy()
        if row_filter.cameras is not None:
            check_cameras(row_filter.cameras, {word for segment in self.segments for word in segment.cameras.words})
            mask &= _joined([segment.cameras.among(row_filter.cameras) for segment in self.segments], bool)
        if row_filter.tracks is not None:
            mask &= _joined([segment.tracks.among(row_filter.tracks) for segment in self.segments], bool)
        if row_filter.time is not None:
            times = _joined([segment.times for segment in self.segments], np.float64)
            mask &= (times >= row_filter.time[0]) & (times <= row_filter.time[1])
        if row_filter.excluded:
            mask[self.find(sorted(row_filter.excluded))] = False
        return mask

    @cached_property
    def track_keys(self) -> NDArray[np.int64]:
        """A number for the track of the row at each position: of camera and track together; -1 for no track."""
        keys: dict[tuple[str | None, str], int] = {}
        parts = []
        for segment in self.segments:
            cameras, tracks = segment.cameras, segment.tracks
            pairs, inverse = np.unique(np.stack([cameras.codes, tracks.codes]), axis=1, return_inverse=True)
            numbers = [
                -1
                if track < 0
                else keys.setdefault((cameras.words[camera] if camera >= 0 else None, tracks.words[track]), len(keys))
                for camera, track in pairs.T
            ]
            parts.append(np.array(numbers, dtype=np.int64)[inverse.reshape(-1)])
        return _joined(parts, np.int64)

    def take(self, positions: NDArray[np.int64], *, with_embedding: bool = False) -> pa.Table:
        """The rows at some positions, in that order."""
        segments = np.searchsorted(self.starts, positions, side="right") - 1
        order = np.argsort(segments, kind="stable")
        tables = [
            self.segments[number].take(
                positions[order][segments[order] == number] - self.starts[number], with_embedding
            )
            for number in np.unique(segments).tolist()
        ]
        return pa.concat_tables(tables).take(np.argsort(order, kind="stable"))

    def tables(self) -> Iterator[pa.Table]:
        """All live rows, a row group at a time. The files are open from the start: a writer may delete them."""
        files = [pq.ParquetFile(segment.path) for segment in self.segments]
        try:
            for number, file in enumerate(files):
                start = int(self.starts[number])
                for group in range(file.metadata.num_row_groups):
                    table = file.read_row_group(group)
                    live = self.live[start : start + table.num_rows]
                    start += table.num_rows
                    yield table if live.all() else table.filter(pa.array(live))
        finally:
            for file in files:
                file.close()

    @property
    def user_schema(self) -> pa.Schema | None:
        """The user's own columns; None for a gallery that has never had a row."""
        return user_schema_of(pq.read_schema(self.segments[0].path)) if self.segments else None


def open_snapshot(folder: Path, known: Sequence[Segment] = ()) -> Snapshot:
    """The gallery as it is now.

    Raises:
        GalleryError: there is no gallery, or not all of one.
    """
    for attempt in range(_ATTEMPTS):
        manifest = read_manifest(folder)
        try:
            check_files(folder, manifest)
            return Snapshot(folder, manifest, read_removed(folder, manifest), known)
        except (GalleryError, FileNotFoundError):
            # A writer may have replaced files since the manifest was read; then there is another manifest by now.
            if attempt == _ATTEMPTS - 1 or read_manifest(folder).generation == manifest.generation:
                raise
    raise AssertionError("unreachable")


def _joined(parts: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype=dtype), *parts])
