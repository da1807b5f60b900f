"""A gallery on a Milvus server: any number of rows on any number of machines, behind the same class.

    Gallery.build("crops/", "milvus+http://host:19530/station", model="outputs/run")
    Gallery.open("milvus+http://host:19530/station")
    Gallery.open("milvus+file:///data/gallery.db/station")     # Milvus Lite, in this process

A gallery is one collection, and a property of the collection describes it. Needs the extra `[milvus]`.

What differs from a gallery in a folder:

- Rows are sent in batches, and each batch is complete or absent. If one fails, the new rows of earlier batches are
  removed again; after a kill or the loss of the server they stay, and replaced rows stay replaced. The same call with
  `on_conflict="keep"` then completes the change. `build` continues where it stopped.
- There is no lock: only one process at a time may change a gallery. Readers see each batch as soon as it is written,
  so iterating during a change mixes old and new rows.
- `verify` compares numbers of rows only; checksums are left to the server.
- One answer has at most 16,384 rows.
- A change of the centre rewrites all rows. Searches are refused until it is done.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmet.field_checks import suggestion
from mmet.gallery.filters import RowFilter, check_cameras
from mmet.gallery.milvus_format import (
    INDEXES,
    Facts,
    MilvusAddress,
    among,
    both,
    expression,
    make_schema,
    raw_vector,
    read_facts,
    stored_rows,
    table_of,
    write_columns,
    write_facts,
)
from mmet.gallery.results import GalleryError
from mmet.gallery.storage import EMBEDDING, conform, user_schema_of
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

PROPERTY = "mmet.gallery"
"""The collection's property that holds its `Facts`."""

CONNECT_SECONDS, ANSWER_SECONDS, WRITE_SECONDS, WAIT_SECONDS = 5.0, 20.0, 60.0, 600.0
"""Seconds to wait for a connection, an answer, a batch of rows, and for loading or compaction."""

MAX_ANSWER = 16_384
"""Largest number of rows that Milvus returns for one query."""

BATCH_ROWS, BATCH_BYTES = 1_000, 2**24
FILTERED_COLUMNS = ("camera_id", "track_id", "track_key", "time", "number")
_SILENT = ("pymilvus.decorators", "pymilvus.client.connection_manager", "milvus_lite.server_manager")
_MAX_REASON = 300

Row = dict[str, Any]


class MilvusStore(Store):
    """The rows of a gallery in a Milvus collection; see the module for what differs from a folder."""

    def __init__(self, place: Path | str) -> None:
        self._address = MilvusAddress.parse(str(place))
        self.place = self._address.text
        if self._address.is_local and not Path(self._address.uri).exists():
            raise GalleryError(f"there is no gallery at {self.place}: {self._address.uri} does not exist")
        self._client = connect(self._address)
        if not self._call("has_collection"):
            others = self._names()
            raise GalleryError(
                f"there is no gallery at {self.place}: build one with Gallery.build(source, {self.place!r}, model=…)"
                + suggestion(self._address.name, others)
            )
        self._check_schema()
        self._make_ready()

    @classmethod
    def create(cls, place: Path | str, description: Description) -> MilvusStore:
        """Create an empty gallery. Raises `GalleryError` if the collection exists or cannot be created."""
        store = cls.__new__(cls)
        store._address = MilvusAddress.parse(str(place))
        store.place = store._address.text
        store._client = connect(store._address)
        if store._call("has_collection"):
            raise GalleryError(f"{store.place}: there is a collection of this name already: choose another name")
        facts = Facts(
            embedding=description.embedding,
            dimension=description.dimension,
            dtype=description.dtype,
            settings=description.settings,
            complete=description.complete,
        )
        store._call(
            "create_collection",
            schema=make_schema(facts.dimension),
            properties={PROPERTY: write_facts(facts)},
            consistency_level="Strong",
        )
        store._make_ready()
        return store

    @classmethod
    def exists(cls, place: Path | str) -> bool:
        """Whether there is a collection of this name. Raises `GalleryError` if the server does not answer."""
        address = MilvusAddress.parse(str(place))
        if address.is_local and not Path(address.uri).exists():
            return False
        store = cls.__new__(cls)
        store._address, store.place, store._client = address, address.text, connect(address)
        return bool(store._call("has_collection"))

    def delete(self) -> None:
        """Drop the collection."""
        self._call("drop_collection")

    # -- reading ----------------------------------------------------------------------------------------------------

    @property
    def description(self) -> Facts:
        """The description on the server. Raises `GalleryError` if another program made the collection."""
        text = self._call("describe_collection")["properties"].get(PROPERTY)
        try:
            if text is None:
                raise ValueError(f"it has no property {PROPERTY!r}")
            return read_facts(text)
        except ValueError as error:
            raise GalleryError(
                f"{self.place}: this collection is not a gallery ({error}): name another one, or build a gallery "
                "under another name"
            ) from error

    @property
    def info(self) -> dict[str, Any]:
        """Number of changes, and the server's version."""
        version = self._ask("get_server_version", ANSWER_SECONDS)
        return {"generation": self.description.generation, "server": version}

    def __len__(self) -> int:
        return self._count("")

    def refresh(self) -> None:
        """Nothing to do: each method asks the server."""

    def present_ids(self, ids: Sequence[str]) -> set[str]:
        """The subset of the given ids that are in the gallery."""
        if not ids or not self.description.next_row:
            return set()
        return {row["id"] for part in _chunks(ids) for row in self._query(among("id", part), ["id"])}

    def tables(self) -> Iterator[pa.Table]:
        """Yield all rows in the order of adding; rows added or removed meanwhile may or may not be among them."""
        facts = self.description
        for rows in self._in_order(facts):
            yield table_of(rows, facts)

    def cameras(self) -> list[str]:
        """The labels of all cameras that the gallery has, or had before the last `compact`."""
        return sorted(self.description.cameras)

    def search(
        self, vectors: NDArray[np.float32], k: int, row_filter: RowFilter, *, by_track: bool = False
    ) -> tuple[list[list[Hit]], int]:
        """See `Store.search`. Also raises `GalleryError` for more rows than Milvus returns, and while the centre is
        being changed."""
        facts = self.description
        if facts.moving:
            raise GalleryError(
                f"{self.place}: its centre is being changed, or that was broken off: wait, or call set_centre again"
            )
        if row_filter.cameras is not None:
            check_cameras(row_filter.cameras, facts.cameras)
        condition = expression(row_filter)
        total = self._count(condition)
        if not total:
            return [[] for _ in vectors], 0
        if min(k, total) > MAX_ANSWER:
            raise GalleryError(f"k: Milvus returns at most {MAX_ANSWER:,} rows, received {k:,} of {total:,}")
        if by_track:
            hits = [self._best_of_tracks(facts, vector, min(k, total), condition) for vector in vectors]
        else:
            hits = self._nearest(facts, vectors, min(k, total), condition)
        return [_hits(facts, rows) for rows in hits], total

    def _nearest(
        self, facts: Facts, vectors: NDArray[np.float32], k: int, condition: str
    ) -> list[list[tuple[float, Row]]]:
        """Scores and rows for each query; of equal scores, the row that was added first comes first."""
        _, _, effort = INDEXES[facts.settings.get("index", "auto")]
        if "ef" in effort:
            effort = {"ef": max(effort["ef"], 2 * k)}
        answers = []
        for part in _chunks(vectors, max(1, MAX_ANSWER // k)):
            answers += self._call(
                "search",
                data=np.asarray(part, dtype=np.float32).tolist(),
                filter=condition,
                limit=k,
                output_fields=["*"],
                search_params={"metric_type": "IP", "params": effort},
            )
        rows = [[(float(hit["distance"]), {**hit["entity"], "id": hit["id"]}) for hit in hits] for hits in answers]
        return [sorted(hits, key=lambda hit: (-hit[0], hit[1]["number"])) for hits in rows]

    def _best_of_tracks(
        self, facts: Facts, vector: NDArray[np.float32], k: int, condition: str
    ) -> list[tuple[float, Row]]:
        """The best row of each track: each answer's tracks are excluded from the next request."""
        best: dict[str, tuple[float, Row]] = {}
        limit = min(4 * k, MAX_ANSWER)
        while len(best) < k:
            others = among("track_key", best, negate=True) if best else ""
            (hits,) = self._nearest(facts, vector[None], limit, both(condition, others))
            for score, row in hits:
                best.setdefault(row["track_key"], (score, row))
            if len(hits) < limit:
                break
        return list(best.values())[:k]

    # -- writing ----------------------------------------------------------------------------------------------------

    def append(
        self, tables: Sequence[pa.Table], *, on_conflict: OnConflict = "error", complete: bool | None = None
    ) -> Appended:
        """See `Store.append`; the module says what remains after a failure."""
        tables = [table for table in tables if table.num_rows]
        names = [name for table in tables for name in table["id"].to_pylist()]
        check_distinct(names)
        present = self.present_ids(names)
        if present and on_conflict == "error":
            raise GalleryError(conflict_message(self.place, [name for name in names if name in present]))
        kept = len(present) if on_conflict == "keep" else 0
        if kept:
            there = pa.array(sorted(present), pa.string())
            tables = [table.filter(pc.invert(pc.is_in(table["id"], there))) for table in tables]
            names, present = [name for name in names if name not in present], set()
        before = self.description
        facts = self._with_rows(before, tables, len(names), len(names) - len(present), complete)
        tables = [conform(table, facts.user_schema, facts.dtype) for table in tables if table.num_rows]
        for _ in _numbered(
            tables, facts, before.next_row
        ):  # so that a row that cannot be stored is met before a change
            pass
        self._write(facts)
        self._send(_numbered(tables, facts, before.next_row), before, present)
        return Appended(len(names), len(present), kept)

    def _with_rows(
        self, facts: Facts, tables: Sequence[pa.Table], rows: int, new: int, complete: bool | None
    ) -> Facts:
        columns = facts.columns
        if columns is None and tables:
            columns = write_columns(user_schema_of(tables[0].schema))
        cameras = chain(facts.cameras, *(table["camera_id"].unique().to_pylist() for table in tables))
        return replace(
            facts,
            next_row=facts.next_row + rows,
            rows=len(self) + new,
            removed=facts.removed or new < rows,
            cameras=tuple(sorted({camera for camera in cameras if camera is not None})),
            columns=columns,
            complete=facts.complete if complete is None else complete,
        )

    def _send(self, rows: Iterable[Row], before: Facts, replaced: set[str]) -> None:
        """Write rows; after an error, remove those that are new."""
        sent: list[str] = []
        try:
            for batch in _batches(rows):
                sent += [row["id"] for row in batch if row["id"] not in replaced]
                self._call("upsert", data=batch, seconds=WRITE_SECONDS)
        except BaseException:
            with suppress(GalleryError):
                self._delete_rows(sent)
                self._write(replace(self.description, rows=before.rows, complete=before.complete))
            raise

    def remove(self, ids: Sequence[str]) -> int:
        """See `Store.remove`."""
        present = self.present_ids(ids)
        missing = sorted(set(ids) - present)
        if missing:
            raise GalleryError(missing_message(self.place, missing))
        self._delete_rows(sorted(present))
        self._write(replace(self.description, rows=len(self), removed=True))
        return len(present)

    def update(self, **fields: Any) -> None:
        """See `Store.update`. A new centre rewrites all rows."""
        before = self.description
        after = replace(before, **fields)
        if before.moving or after.centre.get("image") != before.centre.get("image"):
            self._write(replace(before, moving=True))
            for rows in self._in_order(after):
                moved = stored_rows(table_of(rows, after), after, [row["number"] for row in rows])
                for batch in _batches(moved):
                    self._call("upsert", data=batch, seconds=WRITE_SECONDS)
        self._write(replace(after, moving=False))

    def compact(self, *, keep_seconds: float = KEEP_SECONDS) -> None:
        """Let the server seal and join its segments, and record the present rows and cameras."""
        self._call("flush", seconds=WAIT_SECONDS)
        self._call("compact", seconds=WAIT_SECONDS)
        facts = self.description
        cameras = facts.cameras
        if facts.removed:
            cameras = tuple(word for word in cameras if self._query(among("camera_id", [word]), ["id"], limit=1))
        self._write(replace(facts, rows=len(self), cameras=cameras, removed=False))

    def verify(self) -> list[str]:
        """Compare the numbers of rows with those that the gallery recorded."""
        try:
            facts, rows = self.description, len(self)
            outside = self._count(f"number < 0 or number >= {facts.next_row}")
            moved = self._count("raw is not null")
        except GalleryError as error:
            return [str(error)]
        problems = []
        if rows != facts.rows:
            problems.append(
                f"{self.place}: expected {facts.rows:,} rows, received {rows:,}: a change was broken off, or another "
                "program changed the collection. Make that change again, or call compact to note what is there"
            )
        if outside:
            problems.append(f"{self.place}: {outside:,} rows have numbers that no change gave: remove and add them")
        if facts.moving or moved != (rows if facts.centre else 0):
            problems.append(f"{self.place}: a change of its centre was broken off: call set_centre again")
        return problems

    def _write(self, facts: Facts) -> None:
        facts = replace(facts, generation=facts.generation + 1)
        self._call("alter_collection_properties", {PROPERTY: write_facts(facts)})

    def _delete_rows(self, ids: Sequence[str]) -> None:
        for part in _chunks(ids):
            self._call("delete", filter=among("id", part), seconds=WRITE_SECONDS)

    # -- the server -------------------------------------------------------------------------------------------------

    def _call(self, method: str, *arguments: Any, seconds: float = ANSWER_SECONDS, **options: Any) -> Any:
        """Call a method of the client on the gallery's collection."""
        return self._ask(method, seconds, self._address.name, *arguments, **options)

    def _ask(self, method: str, seconds: float, *arguments: Any, **options: Any) -> Any:
        """Call a method of the client. Raises `GalleryError` for any failure, after about this many seconds."""
        import grpc
        from pymilvus import MilvusException

        try:
            return getattr(self._client, method)(*arguments, timeout=seconds, **options)
        except (MilvusException, grpc.RpcError) as error:
            raise GalleryError(
                f"{self.place}: {method.replace('_', ' ')} failed ({_reason(error)}): see that the server runs and "
                "has room, and try again"
            ) from error

    def _names(self) -> list[str]:
        return list(self._ask("list_collections", ANSWER_SECONDS))

    def _query(self, condition: str, fields: Sequence[str], **options: Any) -> list[Row]:
        return [dict(row) for row in self._call("query", filter=condition, output_fields=list(fields), **options)]

    def _count(self, condition: str) -> int:
        (row,) = self._query(condition, ["count(*)"])
        return int(row["count(*)"])

    def _in_order(self, facts: Facts) -> Iterator[list[Row]]:
        """Yield all rows in parts, in the order of their numbers."""
        for first in range(0, facts.next_row, BATCH_ROWS):
            rows = self._query(f"number >= {first} and number < {first + BATCH_ROWS}", ["*"])
            if rows:
                yield sorted(rows, key=lambda row: int(row["number"]))

    def _check_schema(self) -> None:
        dimension = self.description.dimension
        expected = {entry.name for entry in make_schema(dimension).fields}
        fields = {entry["name"]: entry for entry in self._call("describe_collection")["fields"]}
        size = fields.get(EMBEDDING, {}).get("params", {}).get("dim")
        if expected != set(fields) or int(size) != dimension:
            raise GalleryError(
                f"{self.place}: this collection has another schema than a gallery's; expected {sorted(expected)} and "
                f"{dimension} dimensions, received {sorted(fields)} and {size}. Build the gallery again"
            )

    def _make_ready(self) -> None:
        """Create missing indexes, and load the collection."""
        from pymilvus import MilvusClient

        if EMBEDDING not in self._call("list_indexes"):
            kind, parameters, _ = INDEXES[self.description.settings.get("index", "auto")]
            indexes = MilvusClient.prepare_index_params()
            for name in FILTERED_COLUMNS:
                indexes.add_index(name, index_type="INVERTED", index_name=name)
            indexes.add_index(EMBEDDING, index_type=kind, metric_type="IP", params=parameters, index_name=EMBEDDING)
            self._call("create_index", indexes, seconds=WAIT_SECONDS, sync=False)
        self._call("load_collection", seconds=WAIT_SECONDS)


_WITHOUT_PINGS = {"grpc.keepalive_time_ms": 2**31 - 1}
"""Milvus Lite's server closes the connection if a client pings it every ten seconds, as pymilvus does."""


def connect(address: MilvusAddress) -> Any:
    """Connect a client. Raises `GalleryError` if a package is missing or the server does not answer in time."""
    missing = [name for name in ("pymilvus",) + ("milvus_lite",) * address.is_local if not _installed(name)]
    if missing:
        raise GalleryError(f"{address.text}: needs {missing[0]}: pip install 'mmet[milvus]'")
    if address.is_local and not Path(address.uri).parent.is_dir():
        raise GalleryError(f"{address.text}: there is no folder {Path(address.uri).parent}")
    from pymilvus import MilvusClient, MilvusException

    for name in _SILENT:  # they write a traceback for each error that is raised as well
        logging.getLogger(name).disabled = True
    try:
        return MilvusClient(
            address.uri,
            db_name=address.database,
            timeout=CONNECT_SECONDS,
            grpc_options=_WITHOUT_PINGS if address.is_local else {},
        )
    except MilvusException as error:
        advice = (
            "Milvus Lite serves a file to one process at a time; is another one using it?"
            if address.is_local
            else "is Milvus running there, and are host, port and password right?"
        )
        raise GalleryError(f"{address.text}: cannot connect ({_reason(error)}): {advice}") from error


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _reason(error: Any) -> str:
    """The first line of the client's error message."""
    lines = str(getattr(error, "message", None) or error).strip().splitlines()
    return lines[0][:_MAX_REASON] if lines else type(error).__name__


def _hits(facts: Facts, hits: Sequence[tuple[float, Row]]) -> list[Hit]:
    if not hits:
        return []
    rows = table_of([row for _, row in hits], facts).drop_columns([EMBEDDING]).to_pylist()
    vectors = [raw_vector(row, facts) if facts.centre else None for _, row in hits]
    return [Hit(row, score, vector) for row, (score, _), vector in zip(rows, hits, vectors, strict=True)]


def _numbered(tables: Sequence[pa.Table], facts: Facts, first: int) -> Iterator[Row]:
    """The collection's rows for some tables, one after the other."""
    for table in tables:
        yield from stored_rows(table, facts, range(first, first + table.num_rows))
        first += table.num_rows


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Split rows into parts that fit into one message."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += _size(row)
        if len(batch) == BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _size(row: Mapping[str, Any]) -> int:
    """Approximate size of a row in a message, in bytes."""
    texts = sum(len(value) for value in row.values() if isinstance(value, str))
    return int(row[EMBEDDING].nbytes) + texts + sum(map(len, row["image"] or ()))


def _chunks(items: Any, size: int = BATCH_ROWS) -> Iterator[Any]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
