"""The columns of one segment for searches: memory-mapped from Arrow, with rows looked up by label, time and id.

Rows are numbered within the segment. Lookups are built on first use and kept, so that a filter takes time in
proportion to the rows that pass, not to the size of the gallery.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmet.gallery.filters import RowFilter
from mmet.gallery.storage import EMBEDDING, HOLDS_PICTURES, StoredFile, naming_damage, open_columns

Rows = NDArray[np.int64]

_PASSED_LOOKUPS = 16
"""Number of scans for ids before a segment's ids are sorted, which takes about thirty times as long as a scan."""


class Labels:
    """A column of labels: for each row the index of its label in `words`, -1 for none."""

    def __init__(self, column: pa.DictionaryArray) -> None:
        self.words: list[str] = column.dictionary.to_pylist()
        kind = np.int16 if len(self.words) < 2**15 else np.int32  # sorting 16 bits is much faster
        self.codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(kind)

    def __getitem__(self, row: int) -> str | None:
        code = self.codes[row]
        return self.words[code] if code >= 0 else None

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    @cached_property
    def _sorted(self) -> tuple[Rows, Rows]:
        """Rows by label, and where in them each label ends; rows without a label come first."""
        return np.argsort(self.codes, kind="stable"), np.cumsum(np.bincount(self.codes + 1, minlength=1))

    def rows(self, allowed: Iterable[str]) -> Rows:
        """Rows with one of these labels, in no particular order."""
        order, ends = self._sorted
        numbers = [self._numbers[word] for word in allowed if word in self._numbers]
        return np.concatenate([order[:0], *(order[ends[number] : ends[number + 1]] for number in numbers)])

    def among(self, rows: Rows, allowed: frozenset[str]) -> NDArray[np.bool_]:
        """For each of these rows, whether its label is allowed."""
        is_allowed = np.array([word in allowed for word in self.words] + [False])
        return np.asarray(is_allowed[self.codes[rows]])


class Segment:
    """A segment: its Parquet file, which holds the data, and the same rows in an Arrow file for searches."""

    def __init__(self, folder: Path, stored: StoredFile, columns: StoredFile) -> None:
        self.stored = stored
        self.path = folder / stored.file
        self._columns = folder / columns.file
        self._lookups = 0

    @cached_property
    def table(self) -> pa.RecordBatch:
        """All columns, without the bytes of pictures; mapped, not read."""
        return open_columns(self._columns)

    @cached_property
    def cameras(self) -> Labels:
        return Labels(self.table.column("camera_id"))

    @cached_property
    def tracks(self) -> Labels:
        return Labels(self.table.column("track_id"))

    @cached_property
    def times(self) -> NDArray[np.float64]:
        """Seconds of each row; NaN for none."""
        return np.asarray(self.table.column("time").to_numpy(zero_copy_only=False))

    @cached_property
    def _by_time(self) -> tuple[Rows, NDArray[np.float64]]:
        """Rows by time and their times; those without time, NaN, come last."""
        order = np.argsort(self.times, kind="stable")
        return order, self.times[order]

    @cached_property
    def _by_key(self) -> tuple[NDArray[np.uint32], Rows]:
        """Checksums of all ids, ascending, and the rows that they belong to."""
        keys = _keys(self.table.column("id").to_pylist())
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    @cached_property
    def mapped_vectors(self) -> NDArray[Any]:
        """The embeddings `(n, D)`, mapped as they are stored, in float16 or float32."""
        flat = self.table.column(EMBEDDING).flatten().to_numpy(zero_copy_only=True)
        return np.asarray(flat.reshape(len(self.table), -1))

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """The embeddings `(n, D)`, kept in memory."""
        return self.mapped_vectors.astype(np.float32)

    def find(self, ids: Sequence[str]) -> Rows:
        """Rows with one of these distinct ids, in no particular order."""
        if self._lookups < _PASSED_LOOKUPS:
            self._lookups += 1
            names = self.table.column("id")
            return np.flatnonzero(pc.is_in(names, pa.array(ids, names.type)).to_numpy(zero_copy_only=False))
        keys, order = self._by_key
        wanted = _keys(ids)
        first, last = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
        names = self.table.column("id")
        return np.array(
            [
                row
                for number in np.flatnonzero(first < last).tolist()
                for row in order[first[number] : last[number]].tolist()
                if names[row].as_py() == ids[number]  # two ids can have one checksum
            ],
            dtype=np.int64,
        )

    def select(self, row_filter: RowFilter) -> Rows:
        """Ascending rows that have the cameras, tracks and time of a filter, which names at least one of these."""
        cameras, tracks, time = row_filter.cameras, row_filter.tracks, row_filter.time
        parts = []
        if cameras is not None:
            parts.append(self.cameras.rows(cameras))
        if tracks is not None:
            parts.append(self.tracks.rows(tracks))
        if time is not None:
            order, times = self._by_time
            parts.append(order[np.searchsorted(times, time[0], "left") : np.searchsorted(times, time[1], "right")])
        rows = np.sort(min(parts, key=len))  # the others are looked up for these rows alone
        if cameras is not None and len(parts) > 1:
            rows = rows[self.cameras.among(rows, cameras)]
        if tracks is not None and len(parts) > 1:
            rows = rows[self.tracks.among(rows, tracks)]
        if time is not None and len(parts) > 1:
            rows = rows[(self.times[rows] >= time[0]) & (self.times[rows] <= time[1])]
        return rows

    def rows(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The stored columns, but `embedding`, of some rows."""
        values = [{name: read(row) for name, read in self._readers.items()} for row in rows]
        if HOLDS_PICTURES in (self.table.schema.metadata or {}):
            for value, picture in zip(values, self._pictures(np.array(rows)), strict=True):
                value["image"] = picture
        return values

    @cached_property
    def _readers(self) -> dict[str, Callable[[int], Any]]:
        """What gives a row's value of each column that rows are shown with, in their order."""
        columns = zip(self.table.schema.names, self.table.columns, strict=True)
        return {name: _reader(column) for name, column in columns if name != EMBEDDING}

    def _pictures(self, rows: Rows) -> list[dict[str, Any]]:
        """The pictures of some rows, from the row groups that they lie in."""
        with naming_damage(self.path), pq.ParquetFile(self.path) as file:
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
            starts = np.concatenate([[0], np.cumsum(sizes)])
            groups = np.searchsorted(starts, rows, side="right") - 1
            needed, places = np.unique(groups, return_inverse=True)
            column = file.read_row_groups(needed.tolist(), columns=["image"])["image"]
        offsets = np.concatenate([[0], np.cumsum(np.array(sizes)[needed])])
        pictures: list[dict[str, Any]] = column.take(pa.array(offsets[places] + rows - starts[groups])).to_pylist()
        return pictures


def _reader(column: pa.Array) -> Callable[[int], Any]:
    """What gives the value of a row. Structures are read by their fields, which takes half as long."""
    if column.null_count == len(column):
        return lambda _: None
    if pa.types.is_struct(column.type) and not column.null_count:
        fields = {field.name: _reader(column.field(number)) for number, field in enumerate(column.type)}
        return lambda row: {name: read(row) for name, read in fields.items()}
    return lambda row: column[row].as_py()


def _keys(ids: Sequence[str]) -> NDArray[np.uint32]:
    return np.array([zlib.crc32(name.encode()) for name in ids], dtype=np.uint32)
