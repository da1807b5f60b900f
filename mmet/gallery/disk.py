"""A gallery in a folder, with one writer at a time and any number of readers; independent of models.

    store = DiskStore.create(folder, GalleryManifest(embedding={"model": "…"}, dimension=256, dtype="float16"))
    store.append(table)
    store.search(vectors, 10, RowFilter())

Each change replaces the manifest in one step. A reader keeps its snapshot until `refresh`. If a compaction has deleted
files that it still needs, it switches to the present generation.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmet.folder_lock import LOCK_FILE, locked
from mmet.gallery.filters import RowFilter
from mmet.gallery.index import (
    GROWTH_ROWS,
    GROWTH_SHARE,
    VectorIndex,
    build_index,
    centre_digest,
    choose_kind,
    covers_first,
    extend_index,
    find_record,
    load_index,
    save_index,
    verify_indexes,
)
from mmet.gallery.nearest import nearest
from mmet.gallery.results import GalleryError
from mmet.gallery.selection import Positions
from mmet.gallery.snapshot import Snapshot, open_snapshot
from mmet.gallery.storage import (
    COLUMNS,
    INDEX,
    MANIFEST,
    REMOVED,
    SEGMENTS,
    GalleryManifest,
    StoredFile,
    conform,
    naming_damage,
    read_manifest,
    user_schema_of,
    verify_files,
    write_columns,
    write_manifest,
    write_table,
)
from mmet.gallery.store import (
    KEEP_SECONDS,
    Appended,
    Description,
    Hit,
    OnConflict,
    Store,
    check_distinct,
    conflict_message,
    missing_message,
)
from mmet.whole_files import check_writable, clear_leftovers, write_whole

logger = logging.getLogger(__name__)

ROWS_PER_SEGMENT = 65_536
BYTES_PER_SEGMENT = 2**28
_MAX_REPLACED = 1024
_CROPS_PER_TRACK = 8
_README = "README.md"
_THREADS = threading.RLock()  # record locks do not tell the threads of a process apart
Answer = TypeVar("Answer")


class DiskStore(Store):
    """The rows of a gallery in a folder. Raises `GalleryError` if there is no gallery or it is incomplete."""

    def __init__(self, place: Path | str) -> None:
        self.place = self.folder = Path(place)
        self._snapshot = open_snapshot(self.folder)
        self._index: tuple[str, VectorIndex] | None = None
        self._searched = -1  # the generation that the index was looked up for

    @classmethod
    def create(cls, place: Path | str, description: Description) -> DiskStore:
        """Create an empty gallery.

        Raises:
            GalleryError: the folder is already a gallery, holds other files, or cannot be written.
        """
        folder, manifest = Path(place), GalleryManifest(**_fields(description))
        try:
            check_writable(folder)
            with _THREADS, locked(folder):
                foreign = [path.name for path in folder.iterdir() if path.name not in (LOCK_FILE, _README)]
                if foreign:
                    raise GalleryError(
                        f"{folder} is not empty (it holds {sorted(foreign)[0]!r}): name a folder to be created"
                    )
                write_whole(folder / _README, _describe(manifest))
                write_manifest(folder, manifest)
        except OSError as error:
            raise GalleryError(f"cannot make a gallery at {folder}: {error.strerror or error}") from error
        return cls(folder)

    @classmethod
    def exists(cls, place: Path | str) -> bool:
        """Whether the folder has a manifest."""
        return (Path(place) / MANIFEST).exists()

    def delete(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- reading ----------------------------------------------------------------------------------------------------

    @property
    def manifest(self) -> GalleryManifest:
        """Of the generation that this object reads."""
        return self._snapshot.manifest

    @property
    def description(self) -> Description:
        """Of the generation that this object reads."""
        return self.manifest

    @property
    def info(self) -> dict[str, Any]:
        """Generation, number of segments and bytes."""
        return {
            "generation": self.manifest.generation,
            "segments": len(self.manifest.segments),
            "bytes": sum(stored.bytes for stored in self.manifest.files),
        }

    def __len__(self) -> int:
        return len(self._snapshot)

    def refresh(self) -> None:
        """Read the present generation from now on."""
        self._snapshot = open_snapshot(self.folder, self._snapshot)

    def present_ids(self, ids: Sequence[str]) -> set[str]:
        """The subset of the given ids that are in the gallery."""
        return self._read(lambda snapshot: set(snapshot.ids_at(snapshot.find(ids))))

    def tables(self) -> Iterator[pa.Table]:
        """Yield all rows of one generation in parts."""
        yield from self._snapshot.tables()

    def cameras(self) -> list[str]:
        """The stored labels of all cameras."""
        return self._read(lambda snapshot: snapshot.cameras)

    def search(
        self, vectors: NDArray[np.float32], k: int, row_filter: RowFilter, *, by_track: bool = False
    ) -> tuple[list[list[Hit]], int]:
        """See `Store.search`."""
        return self._read(lambda snapshot: self._search(snapshot, vectors, k, row_filter, by_track))

    def _read(self, function: Callable[[Snapshot], Answer]) -> Answer:
        for _ in range(5):
            snapshot = self._snapshot
            try:
                with naming_damage(self.folder):
                    return function(snapshot)
            except FileNotFoundError:  # a compaction replaced it, and its time is over
                self.refresh()
        return function(self._snapshot)

    def _search(
        self, snapshot: Snapshot, vectors: NDArray[np.float32], k: int, row_filter: RowFilter, by_track: bool
    ) -> tuple[list[list[Hit]], int]:
        selection = snapshot.select(row_filter)
        total = len(selection)
        if not total:
            return [[] for _ in vectors], 0
        index = self._index_of(snapshot)
        wanted = min(k * _CROPS_PER_TRACK if by_track else k, total)
        while True:
            scores, positions = nearest(snapshot, index, vectors, wanted, selection)
            if not by_track:
                break
            heads = [_first_of_tracks(snapshot.tracks_at(row), k) for row in positions]
            if wanted == total or all(len(head) == k for head in heads):
                scores = [row[head] for row, head in zip(scores, heads, strict=True)]
                positions = [row[head] for row, head in zip(positions, heads, strict=True)]
                break
            wanted = min(4 * wanted, total)
        return [self._hits(snapshot, *pair) for pair in zip(scores, positions, strict=True)], total

    def _hits(self, snapshot: Snapshot, scores: NDArray[np.float32], positions: Positions) -> list[Hit]:
        rows = snapshot.rows(positions)
        if not snapshot.manifest.centre:
            return [Hit(row, score) for row, score in zip(rows, scores.tolist(), strict=True)]
        embeddings = snapshot.embeddings_at(positions)
        return [Hit(*values) for values in zip(rows, scores.tolist(), embeddings, strict=True)]

    # -- writing ----------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the gallery for changes.

        Raises:
            GalleryError: another process is changing it, or it cannot be written; it stays as it was.
        """
        with _THREADS:
            try:
                check_writable(self.folder)
                with locked(self.folder):
                    self.refresh()
                    self._sweep()
                    yield
            except OSError as error:
                raise GalleryError(f"{self.folder} was not changed: {error}") from error

    def append(
        self, tables: Sequence[pa.Table], *, on_conflict: OnConflict = "error", complete: bool | None = None
    ) -> Appended:
        """See `Store.append`."""
        with self.writing():
            snapshot = self._snapshot
            tables = [table for table in tables if table.num_rows]
            new_ids = [name for table in tables for name in table["id"].to_pylist()]
            check_distinct(new_ids)
            old = snapshot.find(new_ids) if new_ids else np.empty(0, dtype=np.int64)
            removed: NDArray[np.int64] = np.empty(0, dtype=np.int64)
            kept = 0
            if len(old) and on_conflict == "error":
                raise GalleryError(conflict_message(self.folder, snapshot.ids_at(old)))
            if len(old) and on_conflict == "keep":
                there = pa.array(snapshot.ids_at(old), pa.string())
                tables = [table.filter(pc.invert(pc.is_in(table["id"], there))) for table in tables]
                kept = len(old)
            elif len(old):
                removed = snapshot.numbers_at(old)
            self._write_rows(tables, removed, complete)
        return Appended(sum(table.num_rows for table in tables), len(removed), kept)

    def remove(self, ids: Sequence[str]) -> int:
        """Remove rows in one change. An unknown id raises `GalleryError`, and nothing is removed."""
        with self.writing():
            positions = self._snapshot.find(ids)
            if len(positions) != len(set(ids)):
                missing = set(ids) - set(self._snapshot.ids_at(positions))
                raise GalleryError(missing_message(self.folder, sorted(missing)))
            if len(positions):
                self._write_rows([], self._snapshot.numbers_at(positions), None)
            return len(positions)

    def update(self, **changes: Any) -> None:
        """Change fields of the manifest, such as `complete`, `centre` and `settings`."""
        with self.writing():
            self._swap(replace(self.manifest, **changes))
            self._update_index()

    def compact(self, *, keep_seconds: float = KEEP_SECONDS) -> None:
        """Rewrite the rows without the removed ones, in segments of full size.

        Args:
            keep_seconds: how long the old files are kept for readers that still use them.
        """
        with self.writing():
            manifest = self.manifest
            if len(manifest.segments) < 2 and manifest.removed is None:
                return
            empty = replace(manifest, segments=(), columns=(), removed=None)
            now = time.time()
            replaced = tuple((stored.file, now) for stored in manifest.segments + manifest.columns)
            self._swap(
                replace(self._with_rows(empty, self._snapshot.tables()), replaced=manifest.replaced + replaced),
                keep_seconds,
            )
            self._update_index()

    def verify(self) -> list[str]:
        """Compare all files with their checksums. Returns one sentence for each problem; empty if there is none."""
        try:
            manifest = read_manifest(self.folder)
        except GalleryError as error:
            return [str(error)]
        problems = verify_files(self.folder, manifest) + verify_indexes(self.folder)
        with suppress(OSError):
            if (self.folder / _README).read_bytes() != _describe(manifest).encode():
                problems.append(f"{_README}: is not as it was written; it is of no importance to searches")
        return problems

    def _write_rows(self, tables: Sequence[pa.Table], removed: NDArray[np.int64], complete: bool | None) -> None:
        """Add rows and tombstones in one change of the manifest."""
        manifest = self.manifest
        schema = self._snapshot.user_schema
        if schema is None and tables:
            schema = user_schema_of(tables[0].schema)
        tables = [conform(table, schema, manifest.dtype) for table in tables if schema is not None]
        if len(removed):
            manifest = replace(manifest, removed=self._write_removed(np.union1d(self._snapshot.removed, removed)))
        if complete is not None:
            manifest = replace(manifest, complete=complete)
        self._swap(self._with_rows(manifest, iter(tables)))
        if self.manifest.complete:
            self._update_index()

    def _swap(self, manifest: GalleryManifest, keep_seconds: float = KEEP_SECONDS) -> None:
        """Replace the manifest, and delete files that no reader needs any more."""
        before = self.manifest
        fresh = [(file, since) for file, since in manifest.replaced if time.time() - since < keep_seconds]
        manifest = replace(manifest, generation=before.generation + 1, replaced=tuple(fresh[-_MAX_REPLACED:]))
        write_manifest(self.folder, manifest)
        self.refresh()
        self._sweep()

    def _sweep(self) -> None:
        """Delete segments and tombstones that the manifest does not list, left by a killed writer."""
        manifest = self.manifest
        named = {stored.file for stored in manifest.files} | {file for file, _ in manifest.replaced}
        for name in (SEGMENTS, COLUMNS, REMOVED):
            clear_leftovers(self.folder / name)
            for path in (self.folder / name).glob("[!.]*"):
                if f"{name}/{path.name}" not in named:
                    path.unlink(missing_ok=True)

    def _with_rows(self, manifest: GalleryManifest, tables: Iterator[pa.Table]) -> GalleryManifest:
        """Write segments and return the manifest that includes them."""
        segments, columns, next_row = list(manifest.segments), list(manifest.columns), manifest.next_row
        for table in _batches(tables):
            name = f"rows-{next_row:012d}"
            segments.append(write_table(self.folder, f"{SEGMENTS}/{name}.parquet", table, next_row))
            columns.append(write_columns(self.folder, f"{COLUMNS}/{name}.arrow", table))
            next_row += table.num_rows
        return replace(manifest, segments=tuple(segments), columns=tuple(columns), next_row=next_row)

    def _write_removed(self, rows: NDArray[np.int64]) -> StoredFile | None:
        if not len(rows):
            return None
        name = f"{REMOVED}/generation-{self.manifest.generation + 1:09d}.parquet"
        return write_table(self.folder, name, pa.table({"row": rows}))

    # -- the index --------------------------------------------------------------------------------------------------

    def _index_of(self, snapshot: Snapshot) -> VectorIndex | None:
        """The index for a snapshot: a saved one, or else a new one; None for an exact scan."""
        kind = choose_kind(snapshot.manifest.settings.get("index", "auto"), len(snapshot))
        if kind == "exact" or not len(snapshot):
            return None
        if self._index is not None and self._searched == snapshot.manifest.generation:
            return self._index[1]
        record = find_record(self.folder, snapshot.manifest, kind)
        if record is not None and self._index is not None and self._index[0] == record.file:
            self._searched = snapshot.manifest.generation
            return self._index[1]
        index = None if record is None else load_index(self.folder, record)
        if index is None:
            segments, centre = snapshot.manifest.segments, centre_digest(snapshot.manifest)
            index = self._saved(build_index(kind, segments, centre, snapshot.vectors_of))
        self._index, self._searched = (index.record.file, index), snapshot.manifest.generation
        return index

    def _saved(self, index: VectorIndex) -> VectorIndex:
        """Save an index for later searches and return it memory-mapped; if it cannot be saved, return it unchanged."""
        try:
            # A lock of its own: a reader that saves an index must not turn a writer away.
            with _THREADS, locked(self.folder / INDEX):
                if not covers_first(read_manifest(self.folder), index.record):
                    return index  # a reader of an earlier generation made it
                record = save_index(self.folder, index)
                return load_index(self.folder, record) or index
        except (OSError, GalleryError) as error:
            logger.warning(
                "%s: the search index was not saved (%s); it is made again when it is needed", self.folder, error
            )
            return index

    def _update_index(self) -> None:
        """Build the index, or add the rows that it does not cover once there are many."""
        snapshot = self._snapshot
        kind = choose_kind(snapshot.manifest.settings.get("index", "auto"), len(snapshot))
        record = None if kind == "exact" else find_record(self.folder, snapshot.manifest, kind)
        if record is None:
            self._index_of(snapshot)
            return
        first = len(record.segments)
        segments = snapshot.manifest.segments[first:]
        rows = sum(segment.rows for segment in segments)
        if rows <= max(GROWTH_ROWS, GROWTH_SHARE * record.rows):
            return
        try:
            if record.rows + rows > 2 * record.trained:
                raise RuntimeError("the gallery has doubled since it was trained")
            index = extend_index(self.folder, record, segments, lambda n: snapshot.vectors_of(first + n))
        except RuntimeError as reason:
            logger.info("%s is made anew: %s", record.file, reason)
            index = build_index(kind, snapshot.manifest.segments, record.centre, snapshot.vectors_of)
        index = self._saved(index)
        self._index, self._searched = (index.record.file, index), snapshot.manifest.generation


def _first_of_tracks(tracks: Sequence[Hashable | None], k: int) -> list[int]:
    """Positions of the first row of each track, at most `k`; a row without a track counts as one."""
    seen: set[Hashable] = set()
    places = []
    for place, track in enumerate(tracks):
        if track is None or track not in seen:
            seen.add(track)
            places.append(place)
    return places[:k]


def _batches(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Tables joined to the size of segments."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(t.num_rows for t in waiting) >= ROWS_PER_SEGMENT or sum(t.nbytes for t in waiting) >= BYTES_PER_SEGMENT:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting = []
    if any(table.num_rows for table in waiting):
        yield pa.concat_tables(waiting).combine_chunks()


def _fields(description: Description) -> dict[str, Any]:
    return {entry.name: getattr(description, entry.name) for entry in fields(description)}


def _describe(manifest: GalleryManifest) -> str:
    return f"""# A gallery of people

Made by `mmet.gallery`, with the model {manifest.embedding.get("model")!r}. Rows are in `segments/*.parquet`:

    datasets.load_dataset("parquet", data_files="segments/*.parquet")

Rows whose numbers stand in `removed/` were removed. `manifest.json` lists all files with their SHA-256; `index/` is
derived and can be deleted.

    from mmet.gallery import Gallery

    Gallery.open("this folder").search(text="a woman in a red jacket")
"""
