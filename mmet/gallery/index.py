"""Approximate search for large galleries: a faiss index that is derived from the segments and can be rebuilt.

Below `EXACT_BELOW` rows, and for rows that an index does not cover yet, search is an exact scan. Larger galleries get
an index, `ivf` unless they were built with `index="hnsw"`; both hold the vectors in float16. An index lies in `index/`
beside a record of the segments that it covers, and is rebuilt if it is missing, damaged or stale.

- `ivf`: lists of near vectors, memory-mapped; rows are added to it without training it again.
- `hnsw`: a graph; nothing can be removed from one, so removed rows are passed over (as they are in `ivf`).

Removed rows and filters become faiss selectors. The fewer rows pass a selector, the more lists or neighbours must be
searched; if very few pass, they are compared one by one.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmet.digests import sha256_of
from mmet.field_checks import check_fields
from mmet.gallery.results import GalleryError
from mmet.gallery.selection import Selection
from mmet.gallery.storage import INDEX, GalleryManifest, StoredFile, read_sealed, write_sealed
from mmet.whole_files import clear_leftovers, whole_file

logger = logging.getLogger(__name__)

IndexKind = Literal["auto", "exact", "ivf", "hnsw"]
KINDS: tuple[IndexKind, ...] = ("auto", "exact", "ivf", "hnsw")

EXACT_BELOW = 50_000
"""Number of rows from which `auto` builds an index."""

GROWTH_SHARE, GROWTH_ROWS = 0.005, 8_192
"""Rows that an index does not cover are scanned until there are more than both of these limits."""

TARGET_RECALL = 0.98
"""Target recall@10; the search effort is set to reach it when an index is built."""

_FILES = "[!._]*."  # neither drafts nor the lock, which a killed process leaves behind
_MIN_EXACT_ROWS = 2_000  # so few matching rows are always compared one by one
_EXACT_SHARE = 0.02
_FILTER_EFFORT = 12  # a filter's rows lie farther apart than all rows do
_TRAINING_ROWS_PER_LIST, _TRAINING_ROUNDS = 40, 8
_TRIAL_QUERIES, _TRIAL_NOISE = 200, 0.5
_GRAPH_DEGREE, _GRAPH_BUILD_EFFORT, _GRAPH_EFFORT = 32, 80, 64

Vectors = NDArray[np.float32]
ReadSegment = Callable[[int], Vectors]
"""The vectors `(n, D)` of a segment by its number, as they are compared."""


@dataclass(frozen=True)
class IndexRecord:
    """What an index covers and its search effort; `trained` is the number of rows at training."""

    kind: str
    file: str
    segments: tuple[tuple[str, str], ...]
    centre: str
    rows: int
    trained: int
    effort: int
    bytes: int = 0
    sha256: str = ""


class VectorIndex:
    """An index and its record."""

    def __init__(self, index: Any, record: IndexRecord) -> None:
        self.index = index
        self.record = record

    @property
    def rows(self) -> int:
        """How many of a gallery's first rows it covers; its positions are those of the gallery."""
        return self.record.rows

    @property
    def few(self) -> int:
        """Largest number of matching rows that are compared one by one, which is faster then."""
        return max(_MIN_EXACT_ROWS, round(_EXACT_SHARE * self.rows))

    def search(self, queries: Vectors, k: int, selection: Selection) -> tuple[Vectors, NDArray[np.int64]]:
        """Scores and positions `(Q, k)` of the nearest selected rows; missing ones have position -1."""
        faiss = _faiss()

        share = selection.count_below(self.rows) / self.rows
        # A bitmap may be longer than the index, never shorter.
        selector = None if selection.is_all else faiss.IDSelectorBitmap(selection.bits)
        if self.record.kind == "ivf":
            wider = self.record.effort * max(1.0, k / 10) * (1 + _FILTER_EFFORT * (1 - share)) / share
            parameters = faiss.SearchParametersIVF(sel=selector, nprobe=min(self.index.nlist, round(wider)))
        else:
            # `bounded_queue` stays on: without it faiss passes the selector over and returns rows that it excludes.
            effort = max(self.record.effort, 2 * k) / share
            parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=round(effort))
        scores, positions = self.index.search(np.ascontiguousarray(queries), k, params=parameters)
        return scores, positions


def choose_kind(kind: str, rows: int) -> str:
    """Choose `exact`, `ivf` or `hnsw` for a gallery of this many rows."""
    if kind == "auto":
        return "exact" if rows < EXACT_BELOW else "ivf"
    return kind


def centre_digest(manifest: GalleryManifest) -> str:
    """Digest that distinguishes indexes of differently centred vectors."""
    return hashlib.sha256(json.dumps(manifest.centre.get("image")).encode()).hexdigest()[:16]


def build_index(kind: str, segments: Sequence[StoredFile], centre: str, read: ReadSegment) -> VectorIndex:
    """Train an index on some of the rows, add all of them, and set its effort by a trial."""
    faiss = _faiss()

    rows = sum(segment.rows for segment in segments)
    logger.info("making a search index (%s) over %d rows", kind, rows)
    sample = _sample(segments, rows, read)
    dimension = sample.shape[1]
    half = faiss.ScalarQuantizer.QT_fp16
    if kind == "ivf":
        lists = _number_of_lists(rows)
        quantizer = faiss.IndexFlatIP(dimension)
        index = faiss.IndexIVFScalarQuantizer(quantizer, dimension, lists, half, faiss.METRIC_INNER_PRODUCT, False)
        index.cp.niter, index.cp.max_points_per_centroid = _TRAINING_ROUNDS, _TRAINING_ROWS_PER_LIST
        index.cp.min_points_per_centroid = 1
        index.train(sample)
    else:
        index = faiss.IndexHNSWSQ(dimension, half, _GRAPH_DEGREE, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _GRAPH_BUILD_EFFORT
        index.train(sample[:1])
    for number in range(len(segments)):
        index.add(read(number))
    record = IndexRecord(kind, "", _names(segments), centre, rows, rows, 1)
    return VectorIndex(index, IndexRecord(**{**asdict(record), "effort": _trial(kind, index, sample)}))


def extend_index(folder: Path, record: IndexRecord, segments: Sequence[StoredFile], read: ReadSegment) -> VectorIndex:
    """A copy of an index with the rows of further segments. Raises `RuntimeError` if faiss cannot read it."""
    faiss = _faiss()

    index = faiss.read_index(str(folder / record.file))
    for number in range(len(segments)):
        index.add(read(number))
    names, rows = record.segments + _names(segments), record.rows + sum(segment.rows for segment in segments)
    return VectorIndex(index, IndexRecord(**{**asdict(record), "segments": names, "rows": rows}))


def save_index(folder: Path, vector_index: VectorIndex) -> IndexRecord:
    """Write an index and its record, and remove the others. Raises `OSError`."""
    faiss = _faiss()

    record = vector_index.record
    digest = hashlib.sha256(json.dumps([record.segments, record.centre]).encode()).hexdigest()[:16]
    file = f"{INDEX}/{record.kind}-{digest}.faiss"
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    try:
        with whole_file(path) as draft:
            faiss.write_index(vector_index.index, str(draft))
            checksum, size = sha256_of(draft), draft.stat().st_size
    except RuntimeError as error:  # of faiss: a full disk, among others
        raise OSError(f"{path} could not be written ({error})") from error
    saved = IndexRecord(**{**asdict(record), "file": file, "sha256": checksum, "bytes": size})
    write_sealed(path.with_suffix(".json"), asdict(saved))
    clear_leftovers(path.parent)
    for other in sorted(path.parent.glob(f"{_FILES}*"), key=lambda other: other.suffix != ".json"):  # records first
        if other.stem != path.stem:
            other.unlink(missing_ok=True)
    return saved


def find_record(folder: Path, manifest: GalleryManifest, kind: str) -> IndexRecord | None:
    """The record of the index that covers most rows of a gallery, from the first on; None if there is no index."""
    fitting = [record for record in _records(folder) if record.kind == kind and covers_first(manifest, record)]
    return max(fitting, key=lambda record: record.rows, default=None)


def covers_first(manifest: GalleryManifest, record: IndexRecord) -> bool:
    """Whether an index covers the first segments of a gallery and has the same centre."""
    present = _names(manifest.segments[: len(record.segments)])
    return record.segments == present and record.centre == centre_digest(manifest)


def load_index(folder: Path, record: IndexRecord) -> VectorIndex | None:
    """Load the index of a record, memory-mapped; None if it is missing or damaged."""
    faiss = _faiss()

    path = folder / record.file
    try:
        if path.stat().st_size != record.bytes:
            raise RuntimeError(f"expected {record.bytes:,} bytes")
        flag = faiss.IO_FLAG_MMAP if record.kind == "ivf" else faiss.IO_FLAG_MMAP_IFC
        index = faiss.read_index(str(path), flag)
        if record.kind == "ivf":  # no threads that read ahead: starting them takes longer than a search
            faiss.downcast_InvertedLists(index.invlists).prefetch_nthread = 0
        return VectorIndex(index, record)
    except (OSError, RuntimeError) as error:
        logger.warning("%s cannot be read (%s): it is made anew", path, error)
        return None


def verify_indexes(folder: Path) -> list[str]:
    """Problems of the files in `index/`; any of them can be deleted and is then rebuilt."""
    problems = []
    for path in sorted((folder / INDEX).glob(f"{_FILES}json")):
        file = f"{INDEX}/{path.name}"
        try:
            record = _parse_record(read_sealed(path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"{file}: {error}; delete {INDEX}/, which is made anew from the segments")
            continue
        index = folder / record.file
        if not index.is_file() or sha256_of(index) != record.sha256:
            problems.append(f"{record.file}: is not as it was written; delete {INDEX}/, which is made anew")
    return problems


def _records(folder: Path) -> list[IndexRecord]:
    records = []
    for path in (folder / INDEX).glob(f"{_FILES}json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            records.append(_parse_record(read_sealed(path)))
    return records


def _parse_record(fields: dict[str, Any]) -> IndexRecord:
    segments = tuple((str(file), str(checksum)) for file, checksum in fields.pop("segments"))
    record = IndexRecord(**fields, segments=segments)
    check_fields(record)
    return record


def _names(segments: Sequence[StoredFile]) -> tuple[tuple[str, str], ...]:
    return tuple((segment.file, segment.sha256) for segment in segments)


def _faiss() -> Any:
    """The module, whose own type hints are wrong about parameters of searches."""
    import faiss

    return faiss


def _number_of_lists(rows: int) -> int:
    """About four times the root of the rows, a power of two: 4,096 for a million."""
    return max(1, min(int(2 ** round(np.log2(4 * np.sqrt(rows)))), rows))


def _sample(segments: Sequence[StoredFile], rows: int, read: ReadSegment) -> Vectors:
    """A sample of rows, spread evenly over all segments, for training."""
    share = min(1.0, (_number_of_lists(rows) * _TRAINING_ROWS_PER_LIST) / rows)
    generator = np.random.default_rng(0)
    parts = []
    for number, segment in enumerate(segments):
        picked = generator.choice(segment.rows, max(1, round(share * segment.rows)), replace=False)
        parts.append(read(number)[np.sort(picked)])
    return np.concatenate(parts)


def _trial(kind: str, index: Any, sample: Vectors) -> int:
    """The smallest effort, doubled step by step, that reaches the target recall for queries near rows."""
    faiss = _faiss()

    generator = np.random.default_rng(1)
    queries = sample[generator.choice(len(sample), min(_TRIAL_QUERIES, len(sample)), replace=False)]
    noise = generator.standard_normal(queries.shape).astype(np.float32)
    queries = queries + _TRIAL_NOISE * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    k = min(10, index.ntotal)
    if kind == "ivf":
        limit, effort = index.nlist, 1
        _, truth = index.search(queries, k, params=faiss.SearchParametersIVF(nprobe=limit))
    else:
        limit, effort = 4096, _GRAPH_EFFORT
        _, truth = index.storage.search(queries, k)
    while effort < limit:
        parameters: Any = (
            faiss.SearchParametersIVF(nprobe=effort) if kind == "ivf" else faiss.SearchParametersHNSW(efSearch=effort)
        )
        _, answer = index.search(queries, k, params=parameters)
        if (answer[:, :, None] == truth[:, None, :]).any(axis=2).mean() >= TARGET_RECALL:
            break
        effort *= 2
    return int(min(effort, limit))


def check_kind(kind: str) -> None:
    """Raise `GalleryError` for an unknown kind of index."""
    if kind not in KINDS:
        raise GalleryError(f"index: expected one of {', '.join(KINDS)}, received {kind!r}")
