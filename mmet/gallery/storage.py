"""The files of a gallery: a manifest, replaced in one step, and the Parquet files that it lists.

    manifest.json            generation, model, and every other file with rows, bytes and SHA-256
    segments/*.parquet       rows: id, picture, person, camera, track, time, box, embedding, the user's columns
    columns/*.arrow          the same rows without pictures' bytes, for searches, which map them into memory
    removed/*.parquet        numbers of the rows that were removed since (tombstones)
    index/                   derived from the segments; see `mmet.gallery.index`

Files that the manifest does not list are not part of the gallery. A change writes new files first and the manifest
last, so that a reader, or the next writer after a kill, sees either all of a change or nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmet.digests import sha256_of
from mmet.field_checks import Range, check_choice, check_fields
from mmet.gallery.results import GalleryError
from mmet.gallery.store import Description
from mmet.whole_files import parse_json, read_regular_file, whole_file, write_whole

MANIFEST = "manifest.json"
SEGMENTS, COLUMNS, REMOVED, INDEX = "segments", "columns", "removed", "index"
FORMAT = "mmet-gallery-1"
ROWS_PER_GROUP, PICTURES_PER_GROUP = 1024, 64
"""Rows in a row group of a segment; fewer if it holds pictures, of which a search shows only some."""

HOLDS_PICTURES = b"holds pictures"
"""Metadata of the columns' file where the segment holds pictures' bytes."""

_MAX_MANIFEST_BYTES = 2**28
_NO_CHECKSUM = "0" * 64
_COUNT = Range(at_least=0, at_most=2**63 - 1)

DTYPES = ("float16", "float32")
"""Of stored embeddings."""

FIXED_COLUMNS = {
    "id": pa.string(),
    "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "person_id": pa.string(),
    "camera_id": pa.string(),
    "track_id": pa.string(),
    "time": pa.float64(),
    "box": pa.list_(pa.float32(), 4),
}
"""Columns that every segment has, before `embedding`, the user's own, and `extra`."""

LABEL_COLUMNS = ("person_id", "camera_id", "track_id")

EMBEDDING, EXTRA = "embedding", "extra"
"""`extra` holds, as JSON, the user's values that do not fit the gallery's columns."""

RESERVED_COLUMNS = frozenset({*FIXED_COLUMNS, EMBEDDING, EXTRA})


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file below the gallery's folder and its expected content. `first` is the number of a segment's first row."""

    file: str
    rows: int
    bytes: int
    sha256: str
    first: int = 0


@dataclass(frozen=True, slots=True)
class GalleryManifest(Description):
    """The complete state of a gallery on disk at one moment.

    Attributes:
        generation: counts the changes.
        segments: in the order of their rows.
        columns: for each segment, the file of its columns for searches.
        removed: the file of tombstones; None if no row was removed.
        replaced: files that readers of an earlier generation may still read -> when they were replaced.
    """

    generation: int = 0
    segments: tuple[StoredFile, ...] = ()
    columns: tuple[StoredFile, ...] = ()
    removed: StoredFile | None = None
    replaced: tuple[tuple[str, float], ...] = ()

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """The files that hold the gallery."""
        return self.segments + self.columns + ((self.removed,) if self.removed else ())


def write_manifest(folder: Path, manifest: GalleryManifest) -> None:
    """Replace the manifest. If this raises `OSError`, the gallery stays as it was."""
    write_sealed(folder / MANIFEST, {"format": FORMAT, **asdict(manifest)})


def read_manifest(folder: Path) -> GalleryManifest:
    """Read the manifest of a gallery.

    Raises:
        GalleryError: there is none, or it is damaged.
    """
    path = folder / MANIFEST
    try:
        fields = read_sealed(path)
        if fields.pop("format") != FORMAT:
            raise ValueError(f"expected the format {FORMAT!r}")
        segments, columns = (tuple(map(_stored_file, fields.pop(name))) for name in ("segments", "columns"))
        removed = fields.pop("removed")
        replaced = tuple((str(file), float(since)) for file, since in fields.pop("replaced"))
        centre = {name: tuple(values) for name, values in fields.pop("centre").items()}
        manifest = GalleryManifest(
            **fields,
            segments=segments,
            columns=columns,
            removed=None if removed is None else _stored_file(removed),
            replaced=replaced,
            centre=centre,
        )
        check_fields(manifest, {"dimension": Range(at_least=1), "next_row": _COUNT, "generation": _COUNT})
        check_choice("dtype", manifest.dtype, DTYPES)
        return manifest
    except FileNotFoundError as error:
        raise GalleryError(_no_gallery(folder)) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GalleryError(
            f"{path} cannot be read as the manifest of a gallery ({error}): restore it from a copy, or build the "
            "gallery again"
        ) from error


def _stored_file(fields: Mapping[str, Any]) -> StoredFile:
    stored = StoredFile(**fields)
    check_fields(stored, {"rows": _COUNT, "bytes": _COUNT, "first": _COUNT})
    return stored


def _no_gallery(folder: Path) -> str:
    if not folder.exists():
        return f"there is no gallery at {folder}: build one with mmet-gallery build or Gallery.build"
    if (folder / SEGMENTS).is_dir():
        return f"{folder} has segments and no {MANIFEST}: it was not copied completely. Copy it again"
    return f"{folder} is not a gallery: it has no {MANIFEST}. Build one with mmet-gallery build or Gallery.build"


def write_sealed(path: Path, fields: Mapping[str, Any]) -> None:
    """Write JSON with the SHA-256 of its own text, computed with zeros in place of the checksum."""
    text = json.dumps({"seal": _NO_CHECKSUM, **fields}, indent=1) + "\n"
    checksum = hashlib.sha256(text.encode()).hexdigest()
    write_whole(path, text.replace(_NO_CHECKSUM, checksum, 1))


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote, without the checksum. Raises `ValueError` if any bit has changed."""
    content = read_regular_file(path, _MAX_MANIFEST_BYTES)  # once: a writer may swap the file at any moment
    fields = parse_json(content.decode("utf-8"))
    if not isinstance(fields, dict) or not isinstance(fields.get("seal"), str):
        raise ValueError("the field seal is missing")
    checksum = fields.pop("seal")
    blank = content.replace(checksum.encode(), _NO_CHECKSUM.encode(), 1)
    if hashlib.sha256(blank).hexdigest() != checksum:
        raise ValueError("its checksum does not fit its content")
    return fields


def write_table(folder: Path, file: str, table: pa.Table, first: int = 0) -> StoredFile:
    """Write a Parquet file, completely or not at all. Raises `OSError`."""
    words = [name for name in LABEL_COLUMNS if name in table.column_names]
    rows = PICTURES_PER_GROUP if _holds_pictures(table) else ROWS_PER_GROUP

    def write(draft: Path) -> None:
        pq.write_table(table, draft, row_group_size=rows, compression="zstd", use_dictionary=words or False)

    return _write_file(folder, file, write, table.num_rows, first)


def write_columns(folder: Path, file: str, table: pa.Table) -> StoredFile:
    """Write a segment's columns as an Arrow file of one batch, completely or not at all. Raises `OSError`."""
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    for name in LABEL_COLUMNS:
        columns[name] = columns[name].dictionary_encode()
    paths = pc.struct_field(columns["image"], "path")
    columns["image"] = pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), paths], ["bytes", "path"])
    metadata = {HOLDS_PICTURES: b"1"} if _holds_pictures(table) else {}
    batch = pa.RecordBatch.from_pydict(columns).replace_schema_metadata(metadata)

    def write(draft: Path) -> None:
        with pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)

    return _write_file(folder, file, write, table.num_rows)


def open_columns(path: Path) -> pa.RecordBatch:
    """Map what `write_columns` wrote into memory. Raises `FileNotFoundError` or `GalleryError`."""
    with naming_damage(path):
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        batch.validate()
    return batch


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Raise `GalleryError` with the path if a file cannot be read as it was written."""
    try:
        yield
    except FileNotFoundError:  # a writer replaced it: no damage
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise GalleryError(
            f"{path} cannot be read ({reason}): restore it from a copy, or build the gallery again; mmet-gallery "
            "verify names all damaged files"
        ) from error


def _holds_pictures(table: pa.Table) -> bool:
    return "image" in table.column_names and pc.struct_field(table["image"], "bytes").null_count < table.num_rows


def _write_file(folder: Path, file: str, write: Callable[[Path], None], rows: int, first: int = 0) -> StoredFile:
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    try:
        with whole_file(path) as draft:
            write(draft)
            checksum, size = sha256_of(draft), draft.stat().st_size
    except pa.ArrowException as error:
        raise OSError(f"{path} could not be written ({error})") from error
    return StoredFile(file, rows, size, checksum, first)


def read_removed(folder: Path, manifest: GalleryManifest) -> NDArray[np.int64]:
    """Read the numbers of the removed rows, ascending."""
    if manifest.removed is None:
        return np.empty(0, dtype=np.int64)
    path = folder / manifest.removed.file
    with naming_damage(path):
        return np.asarray(pq.read_table(path, columns=["row"])["row"].to_numpy())


def check_files(folder: Path, manifest: GalleryManifest) -> None:
    """Raise `GalleryError` if files are missing or truncated, for instance after an incomplete copy."""
    problems = [problem for stored in manifest.files for problem in _size_problems(folder, stored)]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise GalleryError(
            f"{folder} is not a whole gallery: {'; '.join(problems[:3])}{more}. Copy it again, or build it again"
        )


def verify_files(folder: Path, manifest: GalleryManifest) -> list[str]:
    """List the files of a manifest that are missing or have another size or content."""
    problems = []
    for stored in manifest.files:
        wrong = _size_problems(folder, stored)
        if not wrong and sha256_of(folder / stored.file) != stored.sha256:
            wrong = [f"{stored.file}: its SHA-256 is not the one it was written with; restore it from a copy"]
        problems += wrong
    return problems


def _size_problems(folder: Path, stored: StoredFile) -> list[str]:
    try:
        size = (folder / stored.file).stat().st_size
    except OSError:
        return [f"{stored.file}: is missing"]
    return [] if size == stored.bytes else [f"{stored.file}: expected {stored.bytes:,} bytes, received {size:,}"]


# -- tables ---------------------------------------------------------------------------------------------------------


def embedding_column(vectors: NDArray[np.float32], dtype: str) -> pa.Array:
    """Vectors `(n, D)` as a column of fixed-size lists."""
    flat = pa.array(np.ascontiguousarray(vectors, dtype=dtype).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])


def vectors_of(column: pa.ChunkedArray, dimension: int) -> NDArray[np.float32]:
    """The vectors `(n, D)` of a column of fixed-size lists, in float32."""
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    flat = np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)
    return flat.reshape(-1, dimension).astype(np.float32, copy=False)


def make_table(
    columns: Mapping[str, Sequence[Any]],
    user_rows: Sequence[Mapping[str, Any]],
    user_schema: pa.Schema,
    vectors: NDArray[np.float32],
    dtype: str,
) -> pa.Table:
    """Make the table of a segment.

    Args:
        columns: the values of each of `FIXED_COLUMNS`.
        user_rows: the user's own values of each row.
        user_schema: the columns for them; values that do not fit go into `extra`.
        vectors: `(n, D)`.
        dtype: of the stored embeddings.

    Raises:
        GalleryError: a value fits neither a column nor JSON.
    """
    arrays = {name: pa.array(columns[name], kind) for name, kind in FIXED_COLUMNS.items()}
    arrays[EMBEDDING] = embedding_column(vectors, dtype)
    extra: list[dict[str, Any]] = [
        {name: value for name, value in row.items() if name not in user_schema.names} for row in user_rows
    ]
    for entry in user_schema:
        arrays[entry.name] = _user_column(entry, [row.get(entry.name) for row in user_rows], extra)
    arrays[EXTRA] = pa.array([_to_json(values) for values in extra], pa.string())
    return with_features(pa.table(arrays))


def _user_column(entry: pa.Field, values: list[Any], extra: list[dict[str, Any]]) -> pa.Array:
    """Make a user column; values of another type go to `extra`."""
    try:
        return pa.array(values, entry.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        pass
    kept: list[Any] = []
    for place, value in enumerate(values):
        try:
            pa.array([value], entry.type)
            kept.append(value)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            kept.append(None)
            extra[place][entry.name] = value
    return pa.array(kept, entry.type)


def _to_json(values: Mapping[str, Any]) -> str | None:
    if not values:
        return None
    try:
        return json.dumps(values, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise GalleryError(f"the columns {', '.join(values)} cannot be stored: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"expected text, numbers, lists or mappings, received {type(value).__name__}")


def infer_schema(rows: Iterable[Mapping[str, Any]]) -> pa.Schema:
    """Choose columns for the user's values: a name gets a column if all of its values have one type."""
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    fields = []
    for name, column in values.items():
        try:
            kind = pa.array(column).type
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue  # of several types: in `extra`
        if not pa.types.is_null(kind):
            fields.append(pa.field(name, kind))
    return pa.schema(fields)


def user_schema_of(schema: pa.Schema) -> pa.Schema:
    """The user's own columns of a segment."""
    return pa.schema([entry for entry in schema if entry.name not in RESERVED_COLUMNS])


def user_rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """The user's values of every row, including those in `extra`; null values are left out."""
    names = user_schema_of(table.schema).names
    rows = []
    for row in table.select([*names, EXTRA]).to_pylist():
        extra = json.loads(row.pop(EXTRA) or "{}")
        rows.append({name: value for name, value in row.items() if value is not None} | extra)
    return rows


def conform(table: pa.Table, user_schema: pa.Schema, dtype: str) -> pa.Table:
    """A segment's rows with the columns of another gallery."""
    if user_schema_of(table.schema).equals(user_schema) and table.schema.field(EMBEDDING).type.value_type == dtype:
        return table
    columns = {name: table[name].to_pylist() for name in FIXED_COLUMNS}
    dimension = table.schema.field(EMBEDDING).type.list_size
    return make_table(columns, user_rows_of(table), user_schema, vectors_of(table[EMBEDDING], dimension), dtype)


def with_features(table: pa.Table) -> pa.Table:
    """The table with the types that `datasets` reads its columns as: the picture column shows pictures."""
    import datasets

    features = datasets.Features.from_arrow_schema(table.schema.remove_metadata())
    features["image"] = datasets.Image()
    metadata = {"info": {"features": features.to_dict()}}
    return table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
