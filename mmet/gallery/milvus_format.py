"""The representation of a gallery in Milvus: addresses, the collection's schema, its rows, and filters as expressions.

    MilvusAddress.parse("milvus+http://host:19530/name")
    stored_rows(table, facts, range(n))  # a segment's rows -> the collection's
    table_of(rows, facts)                # and back
    expression(RowFilter.of(camera_id="gate"))

Nothing here talks to a server; `mmet.gallery.milvus` does.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mmet.field_checks import without_password
from mmet.gallery.filters import RowFilter
from mmet.gallery.results import GalleryError
from mmet.gallery.storage import EMBEDDING, FIXED_COLUMNS, make_table, user_rows_of, vectors_of
from mmet.gallery.store import Description, centred

FORMAT = "mmet-gallery-milvus-1"
MAX_TEXT_BYTES = 65_535
"""Largest size of a text or JSON value in Milvus, in bytes."""

PICTURE_PART = 49_149
"""Bytes of a picture in one text, in base64: 4/3 of them are `MAX_TEXT_BYTES` at most."""

MAX_PICTURE_PARTS = 1_024

LABELS = ("person_id", "camera_id", "track_id")
INDEXES: dict[str, tuple[str, dict[str, int], dict[str, int]]] = {
    "auto": ("AUTOINDEX", {}, {}),
    "exact": ("FLAT", {}, {}),
    "ivf": ("IVF_FLAT", {"nlist": 1024}, {"nprobe": 64}),
    "hnsw": ("HNSW", {"M": 32, "efConstruction": 200}, {"ef": 128}),
}
"""A gallery's `index` -> Milvus's kind of index, the parameters it is built with, and those it is searched with."""

_LOCAL = re.compile(r"milvus\+file:(?://)?(?P<file>.*\.db)/(?P<name>[^/]*)")
_REMOTE = re.compile(
    r"milvus\+(?P<scheme>https?):/{1,2}(?:(?P<user>[^/@]*)@)?(?P<host>[^/@]+)(?:/(?P<database>[^/]+))?/(?P<name>[^/]*)"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


@dataclass(frozen=True)
class MilvusAddress:
    """The address of a gallery in Milvus.

    Attributes:
        uri: address of the server, with its password, or a file of Milvus Lite.
        database: database on the server; empty for the default.
        name: name of the collection.
        text: the address without the password, for display.
    """

    uri: str
    database: str
    name: str
    text: str

    @classmethod
    def parse(cls, address: str) -> MilvusAddress:
        """Parse an address as users write it. Raises `GalleryError` with the expected form."""
        local, remote = _LOCAL.fullmatch(address), _REMOTE.fullmatch(address)
        match = local or remote
        if match is None or not _NAME.fullmatch(match["name"]):
            raise GalleryError(
                f"{without_password(address)}: expected milvus+http://HOST:PORT/NAME, "
                "milvus+https://USER:PASSWORD@HOST:PORT/DATABASE/NAME or milvus+file:///FOLDER/FILE.db/NAME; NAME is "
                "made of letters, digits and underscores, and begins with no digit"
            )
        if local:
            return cls(local["file"], "", local["name"], address)
        scheme, user, host, database, name = match.groups()
        uri = f"{scheme}://{user + '@' if user else ''}{host}"
        return cls(uri, database or "", name, without_password(address))

    @property
    def is_local(self) -> bool:
        """Whether Milvus Lite answers, in this process."""
        return self.uri.endswith(".db")


# -- facts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Facts(Description):
    """The description of a gallery in a property of its collection.

    Attributes:
        generation: counts the changes.
        rows: number of rows after the last change.
        cameras: camera labels of its rows, now or before the last `compact`.
        columns: the user's own columns and their types, an Arrow schema in base64; None before the first row.
        removed: whether rows were removed or replaced since the last `compact`.
        moving: whether embeddings are being moved to another centre.
    """

    generation: int = 0
    rows: int = 0
    cameras: tuple[str, ...] = ()
    columns: str | None = None
    removed: bool = False
    moving: bool = False

    @property
    def user_schema(self) -> pa.Schema:
        """The user's own columns."""
        if self.columns is None:
            return pa.schema([])
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.columns)))


def write_facts(facts: Facts) -> str:
    """Facts as JSON."""
    return json.dumps({"format": FORMAT, **asdict(facts)})


def read_facts(text: str) -> Facts:
    """Read what `write_facts` wrote. Raises `ValueError` for any other text."""
    try:
        fields = json.loads(text)
        if fields.pop("format") != FORMAT:
            raise ValueError(f"expected the format {FORMAT!r}")
        centre = {name: tuple(values) for name, values in fields.pop("centre").items()}
        return Facts(**fields | {"cameras": tuple(fields["cameras"]), "centre": centre})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error


def write_columns(schema: pa.Schema) -> str:
    """A schema as text; see `Facts.columns`."""
    return base64.b64encode(schema.remove_metadata().serialize().to_pybytes()).decode()


# -- schema ---------------------------------------------------------------------------------------------------------


def make_schema(dimension: int) -> Any:
    """The schema of a collection; searches compare `embedding`.

    Beside a gallery's own columns it has `number`, which counts the rows in the order of adding, `track_key`, the
    camera and the track together, and, in a gallery with a centre, `raw`, the embedding as it was before.
    """
    from pymilvus import DataType, MilvusClient

    text = {"datatype": DataType.VARCHAR, "max_length": MAX_TEXT_BYTES}
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", is_primary=True, **text)
    schema.add_field(EMBEDDING, DataType.FLOAT_VECTOR, dim=dimension)
    schema.add_field("number", DataType.INT64)
    schema.add_field("track_key", **text)
    for name in (*LABELS, "image_path", "raw"):
        schema.add_field(name, nullable=True, **text)
    schema.add_field("time", DataType.DOUBLE, nullable=True)
    schema.add_field("box", DataType.ARRAY, element_type=DataType.FLOAT, max_capacity=4, nullable=True)
    schema.add_field(
        "image",
        DataType.ARRAY,
        element_type=DataType.VARCHAR,
        max_length=MAX_TEXT_BYTES,
        max_capacity=MAX_PICTURE_PARTS,
        nullable=True,
    )
    schema.add_field("row", DataType.JSON, nullable=True)
    return schema


# -- rows -----------------------------------------------------------------------------------------------------------


def stored_rows(table: pa.Table, facts: Facts, numbers: Iterable[int]) -> Iterator[dict[str, Any]]:
    """
    Convert the rows of a segment to rows of a collection.

    Args:
        table: as `mmet.gallery.storage.make_table` makes it, with the gallery's columns.
        facts: description of the collection; its centre is subtracted from the embeddings.
        numbers: numbers of the rows.

    Raises:
        GalleryError: Milvus cannot store a value.
    """
    raw = vectors_of(table[EMBEDDING], facts.dimension)
    vectors = centred(raw, facts.centre.get("image"))
    columns = table.select(list(FIXED_COLUMNS)).to_pylist()
    for place, (number, row, user_row) in enumerate(zip(numbers, columns, user_rows_of(table), strict=True)):
        image = row.pop("image") or {"bytes": None, "path": None}
        stored = row | {
            EMBEDDING: vectors[place],
            "number": number,
            "track_key": json.dumps(
                [row["id"]] if row["track_id"] is None else [row["camera_id"], row["track_id"]], ensure_ascii=False
            ),
            "image_path": image["path"],
            "image": None if image["bytes"] is None else _parts(row["id"], image["bytes"]),
            "raw": base64.b64encode(raw[place].astype(facts.dtype).tobytes()).decode() if facts.centre else None,
            "row": _user_json(row["id"], user_row),
        }
        for name in ("id", "track_key", "image_path", *LABELS):
            if stored[name] is not None and len(stored[name].encode()) > MAX_TEXT_BYTES:
                raise GalleryError(
                    f"{name} of the row {row['id'][:40]!r}: expected at most {MAX_TEXT_BYTES:,} bytes of text, which "
                    f"is what Milvus holds, received {len(stored[name].encode()):,}"
                )
        yield stored


def table_of(rows: Sequence[Mapping[str, Any]], facts: Facts) -> pa.Table:
    """Convert the rows of a collection to a segment's table."""
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in ("id", *LABELS, "time")}
    columns["box"] = [None if row["box"] is None else list(row["box"]) for row in rows]
    columns["image"] = [{"bytes": _joined(row["image"]), "path": row["image_path"]} for row in rows]
    vectors = np.stack([raw_vector(row, facts) for row in rows])
    schema = facts.user_schema
    return make_table(columns, [_typed(row["row"] or {}, schema) for row in rows], schema, vectors, facts.dtype)


def raw_vector(row: Mapping[str, Any], facts: Facts) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The embedding `(D,)` of a collection's row before the centre was subtracted."""
    if row["raw"] is None:
        return np.asarray(row[EMBEDDING], dtype=np.float32)
    return np.frombuffer(base64.b64decode(row["raw"]), dtype=facts.dtype).astype(np.float32)


def _parts(row_id: str, content: bytes) -> list[str]:
    if len(content) > PICTURE_PART * MAX_PICTURE_PARTS:
        raise GalleryError(
            f"the picture of {row_id!r} has {len(content):,} bytes, more than a row in Milvus holds: store it as a "
            "file and give its path"
        )
    return [
        base64.b64encode(content[start : start + PICTURE_PART]).decode()
        for start in range(0, len(content), PICTURE_PART)
    ]


def _joined(parts: Iterable[str] | None) -> bytes | None:
    return None if parts is None else b"".join(map(base64.b64decode, parts))


def _user_json(row_id: str, values: Mapping[str, Any]) -> str | None:
    """The user's columns of a row as JSON. NaN, which pandas writes for missing values, is left out."""
    kept = {name: value for name, value in values.items() if not (isinstance(value, float) and math.isnan(value))}
    try:
        text = json.dumps(kept, ensure_ascii=False, default=_iso)
        json.loads(text, parse_constant=_refuse, parse_int=_as_int64)
    except (TypeError, ValueError) as error:
        raise GalleryError(
            f"the columns {', '.join(kept)} of {row_id!r} cannot be stored in Milvus: {error}"
        ) from error
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise GalleryError(
            f"the columns {', '.join(kept)} of {row_id!r} have {len(text.encode()):,} bytes, more than the "
            f"{MAX_TEXT_BYTES:,} that Milvus holds"
        )
    return text if kept else None


def _iso(value: Any) -> str:
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    raise TypeError(f"expected text, numbers, moments, lists or mappings, received {type(value).__name__}")


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not a JSON number")


def _as_int64(digits: str) -> int:
    if not -(2**63) <= int(digits) < 2**63:
        raise ValueError(f"{digits} has more than 64 bits")
    return int(digits)


def _typed(values: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """The user's columns of a row, with datetimes instead of their ISO 8601 text."""
    typed = dict(values)
    for entry in schema:
        if pa.types.is_temporal(entry.type) and isinstance(typed.get(entry.name), str):
            typed[entry.name] = pa.scalar(typed[entry.name]).cast(entry.type).as_py()
    return typed


# -- filters --------------------------------------------------------------------------------------------------------


def expression(row_filter: RowFilter) -> str:
    """A filter as a boolean expression of Milvus; empty for all rows."""
    parts = []
    if row_filter.cameras is not None:
        parts.append(among("camera_id", row_filter.cameras))
    if row_filter.tracks is not None:
        parts.append(among("track_id", row_filter.tracks))
    if row_filter.time is not None:
        start, end = row_filter.time
        bounds = [f"time >= {start!r}"] * (start > -math.inf) + [f"time <= {end!r}"] * (end < math.inf)
        parts += bounds or ["time is not null"]
    if row_filter.excluded:
        parts.append(among("id", row_filter.excluded, negate=True))
    return both(*parts)


def among(field: str, words: Iterable[str], *, negate: bool = False) -> str:
    """`field in ["a", "b"]`, or `not in`."""
    return f"{field} {'not ' if negate else ''}in [{', '.join(map(quoted, sorted(words)))}]"


def both(*conditions: str) -> str:
    """Join conditions with `and`."""
    return " and ".join(filter(None, conditions))


_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})


def quoted(text: str) -> str:
    """A text literal of an expression."""
    return f'"{text.translate(_ESCAPES)}"'
