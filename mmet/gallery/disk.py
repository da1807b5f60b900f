"""A gallery in a folder: one writer at a time, any number of readers, and nothing of a model.

    store = DiskStore.create(folder, Manifest(embedding={"model": "…"}, dimension=256, dtype="float16"))
    store.append(table)
    store.search(vectors, 10, RowFilter())

Each change is one swap of the manifest. A reader keeps to its snapshot until `refresh`; when a compaction has deleted
files that it still needed, it goes over to the present generation and answers from that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

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
    extend_index,
    find_record,
    load_index,
    save_index,
    scan,
    verify_indexes,
)
from mmet.gallery.results import GalleryError
from mmet.gallery.snapshot import Snapshot, open_snapshot
from mmet.gallery.storage import (
    REMOVED,
    SEGMENTS,
    Manifest,
    StoredFile,
    conform,
    read_manifest,
    user_schema_of,
    verify_files,
    write_manifest,
    write_table,
)
from mmet.whole_files import check_writable, clear_leftovers, write_whole

logger = logging.getLogger(__name__)

OnConflict = Literal["error", "replace", "keep"]
ON_CONFLICT: tuple[OnConflict, ...] = ("error", "replace", "keep")

ROWS_PER_SEGMENT = 65_536
BYTES_PER_SEGMENT = 2**28
KEEP_SECONDS = 3600.0
"""How long a compaction keeps the files that it replaced, for readers of the generation before."""

_MAX_REPLACED = 256
_README = "README.md"
_THREADS = threading.RLock()  # record locks do not tell the threads of a process apart
Answer = TypeVar("Answer")


class Found(NamedTuple):
    """A row that a search found: its stored columns (`embedding` among them in a centred gallery), and its score."""

    row: Mapping[str, Any]
    score: float


@dataclass(frozen=True)
class Appended:
    """How many rows were added, of them put in the place of others, and left as they were."""

    added: int
    replaced: int
    kept: int


class DiskStore:
    """The rows of a gallery in a folder. Raises `GalleryError` where there is no whole gallery."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._snapshot = open_snapshot(folder)
        self._index: tuple[str, VectorIndex] | None = None
        self._searched = -1  # the generation that the index was looked up for

    @classmethod
    def create(cls, folder: Path, manifest: Manifest) -> DiskStore:
        """Begin an empty gallery.

        Raises:
            GalleryError: the folder is one already, holds other files, or cannot be written.
        """
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

    # -- reading ----------------------------------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """Of the generation that this object reads."""
        return self._snapshot.manifest

    def __len__(self) -> int:
        return len(self._snapshot)

    def refresh(self) -> None:
        """Read the present generation from now on."""
        self._snapshot = open_snapshot(self.folder, self._snapshot.segments)

    def present_ids(self, ids: Sequence[str]) -> set[str]:
        """Those of some ids that are in the gallery."""
        return self._read(lambda snapshot: set(snapshot.ids_at(snapshot.find(ids))))

    def tables(self) -> Iterator[pa.Table]:
        """All rows, some at a time, of one generation."""
        yield from self._snapshot.tables()

    def cameras(self) -> list[str]:
        """The stored labels of all cameras."""
        return self._read(
            lambda snapshot: sorted({word for segment in snapshot.segments for word in segment.cameras.words})
        )

    def search(
        self, vectors: NDArray[np.float32], k: int, row_filter: RowFilter, *, by_track: bool = False
    ) -> tuple[list[list[Found]], int]:
        """The nearest rows to each of some unit vectors `(Q, D)`, best first, and how many rows were searched.

        Args:
            vectors: the queries, about the gallery's centre where it has one.
            k: rows a query, or tracks.
            row_filter: which rows.
            by_track: the best row of each track alone; a row without a track stands for itself.

        Raises:
            GalleryError: an unknown camera.
        """
        return self._read(lambda snapshot: self._search(snapshot, vectors, k, row_filter, by_track))

    def _read(self, function: Callable[[Snapshot], Answer]) -> Answer:
        for _ in range(5):
            snapshot = self._snapshot
            try:
                return function(snapshot)
            except FileNotFoundError:  # a compaction replaced it, and its time is over
                self.refresh()
        return function(self._snapshot)

    def _search(
        self, snapshot: Snapshot, vectors: NDArray[np.float32], k: int, row_filter: RowFilter, by_track: bool
    ) -> tuple[list[list[Found]], int]:
        mask = snapshot.mask(row_filter)
        total = int(mask.sum())
        if not total:
            return [[] for _ in vectors], 0
        index = self._index_of(snapshot)
        wanted = min(k, total)
        while True:
            scores, positions = nearest(snapshot, index, vectors, wanted, mask)
            if not by_track:
                break
            heads = [_first_of_tracks(snapshot.track_keys, row, k) for row in positions]
            if wanted == total or all(len(head) == k for head in heads):
                scores = [row[head] for row, head in zip(scores, heads, strict=True)]
                positions = [row[head] for row, head in zip(positions, heads, strict=True)]
                break
            wanted = min(4 * wanted, total)
        return [self._found(snapshot, *pair) for pair in zip(scores, positions, strict=True)], total

    def _found(self, snapshot: Snapshot, scores: NDArray[np.float32], positions: NDArray[np.int64]) -> list[Found]:
        if not len(positions):
            return []
        rows = snapshot.take(positions, with_embedding=bool(snapshot.manifest.centre)).to_pylist()
        return [Found(row, float(score)) for row, score in zip(rows, scores, strict=True)]

    # -- writing ----------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the gallery for some changes.

        Raises:
            GalleryError: another process changes it, or it cannot be written; it is then as it was.
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
        """Add rows in one change.

        Args:
            tables: as `mmet.gallery.storage.make_table` makes them; ids are unique among them.
            on_conflict: what happens to ids that are in the gallery: an error, the new row in the place of the old
                one, or the old one stays.
            complete: whether a build has come to its end with these; None leaves it as it is.

        Raises:
            GalleryError: ids that are there already (with `error`) or twice among the new rows; it cannot be written.
        """
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
                removed = snapshot.row_numbers[old]
            self._write_rows(tables, removed, complete)
        return Appended(sum(table.num_rows for table in tables), len(removed), kept)

    def remove(self, ids: Sequence[str]) -> int:
        """Remove rows in one change. Raises `GalleryError`, removing nothing, where an id is not in the gallery."""
        with self.writing():
            positions = self._snapshot.find(ids)
            if len(positions) != len(set(ids)):
                missing = sorted(set(ids) - set(self._snapshot.ids_at(positions)))
                raise GalleryError(
                    f"{self.folder} has no row {missing[0]!r}"
                    + (f" (nor {len(missing) - 1} others)" if len(missing) > 1 else "")
                    + ": nothing was removed"
                )
            if len(positions):
                self._write_rows([], self._snapshot.row_numbers[positions], None)
            return len(positions)

    def update(self, **fields: Any) -> None:
        """Change fields of the manifest, such as `complete`, `centre` and `settings`."""
        with self.writing():
            self._swap(replace(self.manifest, **fields))
            self._update_index()

    def compact(self, *, keep_seconds: float = KEEP_SECONDS) -> None:
        """Write the rows anew without the removed ones, in segments of full size.

        Args:
            keep_seconds: how long the present files are kept for readers that are at work.
        """
        with self.writing():
            manifest, segments = self.manifest, []
            next_row = manifest.next_row
            for table in _batches(self._snapshot.tables()):
                segments.append(self._write_segment(table, next_row))
                next_row += table.num_rows
            now = time.time()
            replaced = tuple((stored.file, now) for stored in manifest.segments)
            self._swap(
                replace(
                    manifest,
                    segments=tuple(segments),
                    removed=None,
                    next_row=next_row,
                    replaced=manifest.replaced + replaced,
                ),
                keep_seconds,
            )
            self._update_index()

    def verify(self) -> list[str]:
        """Compare all files with their checksums: what is wrong, a sentence each; empty when all is well."""
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
        """Add rows and tombstones by one swap."""
        manifest = self.manifest
        schema = self._snapshot.user_schema
        if schema is None and tables:
            schema = user_schema_of(tables[0].schema)
        tables = [conform(table, schema, manifest.dtype) for table in tables if schema is not None]
        segments, next_row = list(manifest.segments), manifest.next_row
        for table in _batches(iter(tables)):
            segments.append(self._write_segment(table, next_row))
            next_row += table.num_rows
        self._swap(
            replace(
                manifest,
                segments=tuple(segments),
                removed=self._write_removed(np.union1d(self._snapshot.removed, removed))
                if len(removed)
                else manifest.removed,
                next_row=next_row,
                complete=manifest.complete if complete is None else complete,
            )
        )
        if self.manifest.complete:
            self._update_index()

    def _swap(self, manifest: Manifest, keep_seconds: float = KEEP_SECONDS) -> None:
        """Put a manifest in the place of the present one; delete what nobody needs any more."""
        before = self.manifest
        fresh = [(file, since) for file, since in manifest.replaced if time.time() - since < keep_seconds]
        manifest = replace(manifest, generation=before.generation + 1, replaced=tuple(fresh[-_MAX_REPLACED:]))
        write_manifest(self.folder, manifest)
        self.refresh()
        self._sweep()

    def _sweep(self) -> None:
        """Delete segments and tombstones that the manifest does not name: a killed writer left them."""
        manifest = self.manifest
        named = {stored.file for stored in manifest.files} | {file for file, _ in manifest.replaced}
        for name in (SEGMENTS, REMOVED):
            clear_leftovers(self.folder / name)
            for path in (self.folder / name).glob("*.parquet"):
                if f"{name}/{path.name}" not in named:
                    path.unlink(missing_ok=True)

    def _write_segment(self, table: pa.Table, first: int) -> StoredFile:
        return write_table(self.folder, f"{SEGMENTS}/rows-{first:012d}.parquet", table, first)

    def _write_removed(self, rows: NDArray[np.int64]) -> StoredFile | None:
        if not len(rows):
            return None
        name = f"{REMOVED}/generation-{self.manifest.generation + 1:09d}.parquet"
        return write_table(self.folder, name, pa.table({"row": rows}))

    # -- the index --------------------------------------------------------------------------------------------------

    def _index_of(self, snapshot: Snapshot) -> VectorIndex | None:
        """The index to search a snapshot with: a saved one, else one that is made now; None for an exact scan."""
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
            index = build_index(
                kind, snapshot.manifest.segments, centre_digest(snapshot.manifest), lambda n: vectors_at(snapshot, n)
            )
            with suppress(OSError):  # a folder that cannot be written: it is made anew the next time
                index = save_index(self.folder, index)
        self._index, self._searched = (index.record.file, index), snapshot.manifest.generation
        return index

    def _update_index(self) -> None:
        """Make the index, or add the rows that it does not cover once they are many."""
        snapshot = self._snapshot
        kind = choose_kind(snapshot.manifest.settings.get("index", "auto"), len(snapshot))
        record = None if kind == "exact" else find_record(self.folder, snapshot.manifest, kind)
        if record is None:
            self._index_of(snapshot)
            return
        covered = set(record.segments)
        rest = [n for n, s in enumerate(snapshot.manifest.segments) if (s.file, s.sha256) not in covered]
        rows = sum(snapshot.manifest.segments[n].rows for n in rest)
        if rows <= max(GROWTH_ROWS, GROWTH_SHARE * record.rows):
            return
        segments = [snapshot.manifest.segments[n] for n in rest]
        try:
            if record.rows + rows > 2 * record.trained:
                raise RuntimeError("the gallery has doubled since it was trained")
            index = extend_index(self.folder, record, segments, lambda n: vectors_at(snapshot, rest[n]))
        except RuntimeError as reason:
            logger.info("%s is made anew: %s", record.file, reason)
            index = build_index(kind, snapshot.manifest.segments, record.centre, lambda n: vectors_at(snapshot, n))
        saved = save_index(self.folder, index)
        self._index = (saved.record.file, saved)


def nearest(
    snapshot: Snapshot, index: VectorIndex | None, vectors: NDArray[np.float32], k: int, mask: NDArray[np.bool_]
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.int64]]]:
    """Scores and positions of the nearest rows of a mask, a pair of arrays a query, best first."""
    parts = []
    number_of = {(s.stored.file, s.stored.sha256): n for n, s in enumerate(snapshot.segments)}
    covered = [] if index is None else [number_of.pop(name) for name in index.record.segments]
    if index is not None:
        places = _places(snapshot, covered)
        scores, found = index.search(vectors, min(k, len(places)), mask[places])
        parts.append((scores, np.where(found >= 0, places[found], -1)))
    rest = sorted(number_of.values())
    places = _places(snapshot, rest)
    allowed = mask[places]
    if allowed.any():
        matrix = _scan_matrix(snapshot, rest)
        chosen = matrix if allowed.all() else matrix[allowed]
        parts.append(scan(vectors, chosen, k, places[allowed]))
    scores, positions = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    return _merge(scores, positions, k)


def _merge(
    scores: NDArray[np.float32], positions: NDArray[np.int64], k: int
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.int64]]]:
    all_scores, all_positions = [], []
    for row_scores, row in zip(scores, positions, strict=True):
        there = row >= 0
        order = np.lexsort((row[there], -row_scores[there]))[:k]
        all_scores.append(row_scores[there][order])
        all_positions.append(row[there][order])
    return all_scores, all_positions


def vectors_at(snapshot: Snapshot, number: int) -> NDArray[np.float32]:
    """The vectors of a segment as they are compared: about the centre, where there is one."""
    return centred(snapshot.segments[number].read_vectors(), snapshot.manifest.centre.get("image"))


def centred(vectors: NDArray[np.float32], mean: Sequence[float] | None) -> NDArray[np.float32]:
    """Unit vectors `(n, D)` about a mean `(D,)`; as they are where there is none."""
    if mean is None:
        return vectors
    moved = vectors - np.asarray(mean, dtype=np.float32)
    return np.asarray(moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def check_distinct(ids: Sequence[str]) -> None:
    """Raise `GalleryError` for an id that stands twice."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise GalleryError(f"two pictures have the id {name!r}: give each an id of its own; nothing was added")
        seen.add(name)


def _scan_matrix(snapshot: Snapshot, numbers: Sequence[int]) -> NDArray[np.float32]:
    """The vectors of some segments, kept for the next search."""
    key = tuple(snapshot.segments[number].stored.file for number in numbers)
    if key not in snapshot.scan_rows:
        mean = snapshot.manifest.centre.get("image")
        parts = [centred(snapshot.segments[number].vectors, mean) for number in numbers]
        snapshot.scan_rows[key] = np.concatenate(parts)
    return snapshot.scan_rows[key]


def _places(snapshot: Snapshot, numbers: Sequence[int]) -> NDArray[np.int64]:
    parts = [np.arange(snapshot.starts[number], snapshot.starts[number + 1]) for number in numbers]
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])


def _first_of_tracks(keys: NDArray[np.int64], positions: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Places among `positions` of the first row of each track, at most `k`."""
    seen: set[int] = set()
    places = []
    for place, key in enumerate(keys[positions].tolist()):
        if key < 0 or key not in seen:
            seen.add(key)
            places.append(place)
    return np.array(places[:k], dtype=np.int64)


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


def conflict_message(folder: Path, ids: Sequence[str]) -> str:
    """What to say about ids that are in the gallery already."""
    more = f" and {len(ids) - 1} more of these ids" if len(ids) > 1 else ""
    return (
        f"{folder} has a row {ids[0]!r} already{more}; nothing was added. Replace or keep them "
        "(on_conflict), or give the new rows other ids"
    )


def _describe(manifest: Manifest) -> str:
    return f"""# A gallery of people

Made by `mmet.gallery`, with the model {manifest.embedding.get("model")!r}. Rows are in `segments/*.parquet`:

    datasets.load_dataset("parquet", data_files="segments/*.parquet")

Rows whose numbers stand in `removed/` were removed. `manifest.json` lists all files with their SHA-256; `index/` is
derived and can be deleted.

    from mmet.gallery import Gallery

    Gallery.open("this folder").search(text="a woman in a red jacket")
"""
