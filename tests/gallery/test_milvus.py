"""Galleries on Milvus: what a server alone can do wrong, and how rows and filters are written. The tests of
`test_gallery.py` run on Milvus Lite as well.
"""

from __future__ import annotations

import math
import socket
import subprocess
import sys
import time
from datetime import date, datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from colour_embedder import ColourEmbedder
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from operations import run_operations
from stores import DIMENSION, ids_of, table_of, vector_of

from mmet.gallery import Gallery, GalleryError
from mmet.gallery.filters import RowFilter
from mmet.gallery.milvus import MilvusStore, connect
from mmet.gallery.milvus_format import PICTURE_PART, MilvusAddress, expression
from mmet.gallery.storage import EMBEDDING, FIXED_COLUMNS, make_table
from mmet.gallery.store import Description


@pytest.fixture
def backend(lite_file):
    return "milvus"


@pytest.fixture
def create(new_place):
    """A function that begins an empty store of random vectors."""

    def make(index="exact", dtype="float32"):
        return MilvusStore.create(
            new_place("store"), Description({"model": "random"}, DIMENSION, dtype, {"index": index}, complete=True)
        )

    return make


def search_ids(store, number, k, **options):
    (neighbors,), _ = store.search(vector_of(str(number))[None], k, RowFilter(), **options)
    return [hit.row["id"] for hit in neighbors]


# -- the store ------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # minutes of idle time on a busy machine, after which Lite's server drops the connection
def test_random_operations__agree_with_a_dictionary(create):
    run_operations(create, examples=3, steps=15)


@pytest.mark.slow
def test_a_thousand_random_operations__agree_with_a_dictionary(create):
    run_operations(create, examples=20, steps=50)


@pytest.mark.parametrize("index", ["auto", "ivf", "hnsw"])
def test_index__answers_as_an_exact_scan_where_rows_are_few(create, index):
    store = create(index)
    store.append([table_of([str(n) for n in range(300)])])
    store.compact()
    store.append([table_of([str(n) for n in range(300, 320)])])
    store.remove([str(n) for n in range(0, 320, 7)])
    expected = sorted((n for n in range(320) if n % 7), key=lambda n: -float(vector_of(str(n)) @ vector_of("7")))
    assert search_ids(store, 7, 5) == [str(n) for n in expected[:5]]


def test_by_track__asks_again_until_there_are_enough_tracks(create):
    """500 rows of one track are all nearer to the query than the only row of each of three others."""
    store = create()
    names = sorted((str(n) for n in range(503)), key=lambda name: -float(vector_of(name) @ vector_of("0")))
    store.append([table_of(names[:500], track="near")])
    for number, name in enumerate(names[500:]):
        store.append([table_of([name], track=f"far {number}")])
    assert search_ids(store, 0, 3, by_track=True) == [names[0], names[500], names[501]]
    assert search_ids(store, 0, 9, by_track=True) == [names[0], *names[500:]]


def test_append__that_fails_removes_its_rows_again(create, monkeypatch):
    store = create()
    store.append([table_of(["1", "2"])])
    monkeypatch.setattr("mmet.gallery.milvus.BATCH_ROWS", 2)
    upsert, calls = store._client.upsert, []

    def fails_at_the_third(*arguments, **options):
        from pymilvus import MilvusException

        calls.append(1)
        if len(calls) == 3:
            raise MilvusException(message="no room")
        return upsert(*arguments, **options)

    monkeypatch.setattr(store._client, "upsert", fails_at_the_third)
    with pytest.raises(GalleryError, match=r"upsert failed \(no room\)"):
        store.append([table_of([str(n) for n in range(10, 20)])])
    assert ids_of(store) == ["1", "2"]
    assert store.verify() == []
    store.append([table_of([str(n) for n in range(10, 20)])])
    assert len(store) == 12


def test_verify__tells_of_a_change_that_was_broken_off(create):
    store = create()
    store.append([table_of(["1", "2"])])
    store._call("delete", filter='id in ["1"]')  # as after a kill between the rows and the facts
    assert "expected 2 rows, received 1" in store.verify()[0]
    store.append([table_of(["1", "2"])], on_conflict="keep")
    assert store.verify() == []


def test_open__sees_what_others_did_since(create):
    store = create()
    other = MilvusStore(store.place)
    store.append([table_of(["1"], "gate")])
    assert (len(other), other.cameras(), ids_of(other)) == (1, ["gate"], ["1"])
    store.remove(["1"])
    store.compact()
    assert other.cameras() == []


def test_centre__is_taken_and_given_back_to_the_bit(create):
    store = create(dtype="float16")
    store.append([table_of([str(n) for n in range(9)])])
    before = pa.concat_tables(store.tables())
    mean = tuple(np.mean([vector_of(str(n)) for n in range(9)], axis=0).tolist())
    store.update(centre={"image": mean, "text": mean})
    store.append([table_of(["9"])])
    (neighbors,), _ = store.search(vector_of("3")[None], 10, RowFilter())
    moved = np.stack([vector_of(hit.row["id"]) for hit in neighbors]) - mean
    scores = moved / np.linalg.norm(moved, axis=1, keepdims=True) @ vector_of("3")
    assert [hit.score for hit in neighbors] == pytest.approx(scores.tolist(), abs=2e-3)
    assert neighbors[0].embedding == pytest.approx(vector_of(neighbors[0].row["id"]), abs=2e-3)
    assert store.verify() == []
    store.remove(["9"])
    store.update(centre={})
    assert pa.concat_tables(store.tables()) == before
    assert store.verify() == []


def test_centre__broken_off_is_told_and_done_again(create, monkeypatch):
    store = create()
    store.append([table_of(["1", "2", "3"])])
    before = pa.concat_tables(store.tables())

    def stops(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store._client, "upsert", stops)
        with pytest.raises(KeyboardInterrupt):
            store.update(centre={"image": (0.1,) * DIMENSION})
    with pytest.raises(GalleryError, match=r"centre is being changed.*set_centre again"):
        store.search(vector_of("1")[None], 1, RowFilter())
    assert "set_centre again" in store.verify()[0]
    store.update(centre={"image": (0.2,) * DIMENSION})
    assert store.verify() == []
    assert pa.concat_tables(store.tables()) == before


def test_answers__in_any_order_are_put_in_order(create, monkeypatch):
    """A server may return the rows of a question, and those of equal scores, as it likes."""
    store = create()
    store.append([table_of(["1", "2", "3"])])
    equal = table_of(["1", "1", "1"]).set_column(0, "id", pa.array(["4", "5", "6"]))
    store.append([equal])
    query, search = store._client.query, store._client.search
    monkeypatch.setattr(store._client, "query", lambda *a, **o: list(query(*a, **o))[::-1])
    monkeypatch.setattr(store._client, "search", lambda *a, **o: [list(hits)[::-1] for hits in search(*a, **o)])
    assert ids_of(store) == ["1", "2", "3", "4", "5", "6"]
    assert search_ids(store, 1, 6)[:4] == ["1", "4", "5", "6"]


def test_search__more_rows_than_milvus_returns(create, monkeypatch):
    monkeypatch.setattr("mmet.gallery.milvus.MAX_ANSWER", 4)
    store = create()
    store.append([table_of([str(n) for n in range(9)])])
    assert len(search_ids(store, 0, 4)) == 4
    with pytest.raises(GalleryError, match=r"k: Milvus returns at most 4 rows, received 5 of 9"):
        search_ids(store, 0, 5)
    answers, _ = store.search(np.stack([vector_of("1"), vector_of("2"), vector_of("3")]), 2, RowFilter())
    assert [hits[0].row["id"] for hits in answers] == ["1", "2", "3"]  # asked for in several questions


# -- rows -----------------------------------------------------------------------------------------------------------


def table_with(user_rows, schema, **columns):
    count = len(user_rows)
    columns = (
        dict.fromkeys(FIXED_COLUMNS, [None] * count) | {"image": [{"bytes": None, "path": None}] * count} | columns
    )
    columns["id"] = [str(n) for n in range(count)]
    vectors = np.stack([vector_of(name) for name in columns["id"]])
    return make_table(columns, user_rows, schema, vectors, "float16")


def test_rows__come_back_as_they_were(create):
    moment = datetime(2024, 5, 1, 12, 0, 0, 250, tzinfo=timezone.utc)
    rows = [
        {
            "age": 3,
            "weight": 1.0,
            "seen": moment,
            "born": date(1999, 1, 2),
            "words": ["\u00e4", '"\\\n'],
            "at": {"x": 1},
        },
        {"age": 2**63 - 1, "weight": 1e300, "words": [], "other": {"of": ["any", {"kind": None}]}, 'odd name"': True},
        {},
    ]
    types = {"age": pa.int64(), "weight": pa.float64(), "seen": pa.timestamp("us", tz="UTC"), "born": pa.date32()}
    schema = pa.schema([*types.items(), ("words", pa.list_(pa.string())), ("at", pa.struct([("x", pa.int64())]))])
    table = table_with(
        rows,
        schema,
        image=[
            {"bytes": bytes(range(256)) * (2 * PICTURE_PART // 256), "path": "/a.png"},
            {"bytes": b"", "path": None},
            {"bytes": None, "path": "/\u4f60.png"},
        ],
        camera_id=["gate", None, "7"],
        track_id=[None, "1", "2"],
        person_id=["0", "\x00\u2028", None],
        time=[-0.1, None, 1e300],
        box=[[1, 2, 3.5, 4], None, [0, 0, 0, 0]],
    )
    store = create(dtype="float16")
    store.append([table])
    assert pa.concat_tables(store.tables()) == table
    (neighbors,), _ = store.search(vector_of("1")[None], 3, RowFilter())
    assert [hit.row for hit in neighbors if hit.row["id"] == "0"] == table.drop_columns([EMBEDDING]).to_pylist()[:1]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("big", 2**70, "'0' cannot be stored in Milvus: .* has more than 64 bits"),
        ("far", math.inf, "Infinity is not a JSON number"),
        ("raw", b"bytes", "received bytes"),
        ("long", "x" * 70_000, "more than the 65,535 that Milvus holds"),
    ],
)
def test_rows__that_milvus_cannot_hold_are_refused_and_nothing_is_changed(create, column, value, message):
    store = create()
    kind = pa.schema([(column, pa.binary())]) if isinstance(value, bytes) else pa.schema([])
    with pytest.raises(GalleryError, match=message):
        store.append([table_of(["5"]), table_with([{column: value}], kind)])
    assert (len(store), store.description.next_row) == (0, 0)


def test_ids__that_are_too_long_are_refused(create):
    table = table_of(["1"]).set_column(0, "id", pa.array(["\u4f60" * 30_000]))
    with pytest.raises(GalleryError, match=r"id of the row .*at most 65,535 bytes.*received 90,000"):
        create().append([table])


def test_nan_of_pandas__is_nothing(create):
    store = create()
    store.append([table_with([{"age": math.nan, "shirt": "red"}], pa.schema([("age", pa.float64())]))])
    (table,) = store.tables()
    assert (table["age"].to_pylist(), table["extra"].to_pylist()) == ([None], ['{"shirt": "red"}'])


# -- filters --------------------------------------------------------------------------------------------------------

WORDS = st.text(min_size=1, max_size=6) | st.sampled_from(
    ['"', "'", "\\", '\\"', "\n", "a] or id in [", "{x}", "%", "None"]
)
WORDS = WORDS.filter(lambda word: word.encode("utf-8", "ignore").decode() == word)


@pytest.fixture(scope="module")
def word_store(lite_file):
    """Rows are added by each example; the answers are those of the filter alone."""
    return MilvusStore.create(
        f"milvus+file://{lite_file}/words", Description({"model": "random"}, DIMENSION, "float32", {"index": "exact"})
    )


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    words=st.lists(WORDS, min_size=1, max_size=6, unique=True),
    data=st.data(),
    bounds=st.tuples(
        st.floats(allow_nan=False, allow_infinity=False) | st.just(-math.inf),
        st.floats(allow_nan=False, allow_infinity=False) | st.just(math.inf),
    ).map(sorted),
)
@example(words=["a"], data=None, bounds=[-math.inf, math.inf])
def test_expression__lets_through_what_the_filter_says(word_store, words, data, bounds):
    """Ids, cameras and tracks of any characters; each row passes just where plain Python says so."""
    store = word_store
    if len(store):
        store.remove(ids_of(store))
    times = [data.draw(st.sampled_from([None, bounds[0], bounds[1], 0.0, 5e-324])) if data else None for _ in words]
    times = [None if time is None or math.isinf(time) else time for time in times]
    columns = {"camera_id": words, "track_id": [None, *words[1:]], "time": times}
    table = table_with([{} for _ in words], pa.schema([]), **columns).set_column(0, "id", pa.array(words))
    store.append([table])
    subsets = st.none() | st.sets(st.sampled_from(words), min_size=1).map(frozenset)
    cameras, tracks = (data.draw(subsets), data.draw(subsets)) if data else (None, None)
    excluded = (data.draw(subsets) if data else None) or frozenset()
    row_filter = RowFilter(cameras, tracks, tuple(bounds), excluded)
    expected = {
        word
        for word, track, time in zip(words, columns["track_id"], times, strict=True)
        if (cameras is None or word in cameras)
        and (tracks is None or track in tracks)
        and time is not None
        and bounds[0] <= time <= bounds[1]
        and word not in excluded
    }
    assert {row["id"] for row in store._query(expression(row_filter), ["id"])} == expected
    without_time = RowFilter(cameras, tracks, None, excluded)
    (neighbors,), total = store.search(vector_of("1")[None], 9, without_time)
    assert len(neighbors) == total >= len(expected)


# -- addresses and servers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "uri", "database", "name"),
    [
        ("milvus+http://host:19530/people", "http://host:19530", "", "people"),
        ("milvus+https://me:se%20cret@host:443/db/people_2", "https://me:se%20cret@host:443", "db", "people_2"),
        ("milvus+http:/host:19530/people", "http://host:19530", "", "people"),  # as pathlib makes it
        ("milvus+file:///data/my file.db/people", "/data/my file.db", "", "people"),
        ("milvus+file:some.db/people", "some.db", "", "people"),
    ],
)
def test_address__is_taken_apart(address, uri, database, name):
    parsed = MilvusAddress.parse(address)
    assert (parsed.uri, parsed.database, parsed.name) == (uri, database, name)
    assert "cret" not in parsed.text


@pytest.mark.parametrize(
    "address",
    [
        "milvus+http://host:19530",
        "milvus+http://host:19530/",
        "milvus+http://host:19530/my-people",
        "milvus+http://host:19530/1st",
        "milvus+ftp://host/people",
        "milvus://host/people",
        "milvus+file:///data/file/people",
        "milvus+http://me:secret@host:19530/no name",
    ],
)
def test_address__that_is_none(address):
    with pytest.raises(GalleryError, match=r"expected milvus\+http://HOST:PORT/NAME") as error:
        Gallery.open(address)
    assert "secret" not in str(error.value)


@pytest.fixture
def silent_port():
    """A port where connections are taken and never answered."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_server_that_is_not_there__is_told_within_seconds(silent_port, monkeypatch, caplog, entries, embedder):
    monkeypatch.setattr("mmet.gallery.milvus.CONNECT_SECONDS", 1.0)
    start = time.monotonic()
    for port in (1, silent_port):
        address = f"milvus+http://me:secret@127.0.0.1:{port}/people"
        with pytest.raises(GalleryError, match=r"cannot connect .*is Milvus running there") as error:
            Gallery.open(address)
        assert "secret" not in str(error.value)
        with pytest.raises(GalleryError, match=r"cannot connect"):
            Gallery.build(entries, address, model=embedder)
    assert time.monotonic() - start < 8
    assert not caplog.records


def test_server_that_goes_away__is_one_message(tmp_path, monkeypatch):
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    server, database, port = start_server_in_thread(data_dir=str(tmp_path / "served.db"), host="127.0.0.1", port=0)
    description = Description({"model": "random"}, DIMENSION, "float32", complete=True)
    store = MilvusStore.create(f"milvus+http://127.0.0.1:{port}/people", description)
    store.append([table_of(["1", "2"])])
    assert search_ids(MilvusStore(store.place), 1, 1) == ["1"]
    server.stop(grace=None).wait()
    database.close()
    monkeypatch.setattr("mmet.gallery.milvus.ANSWER_SECONDS", 2.0)
    start = time.monotonic()
    for change in (lambda: len(store), lambda: store.append([table_of(["3"])]), lambda: search_ids(store, 1, 1)):
        with pytest.raises(GalleryError, match=r"people: .* failed .*see that the server runs"):
            change()
    assert store.verify()[0].startswith("milvus+http://127.0.0.1")
    assert time.monotonic() - start < 20


def test_lite_file__of_another_process(tmp_path):
    file = tmp_path / "busy.db"
    script = "import sys; from milvus_lite import MilvusLite; db = MilvusLite(sys.argv[1]); print('held'); input()"
    holder = subprocess.Popen(
        [sys.executable, "-u", "-c", script, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(GalleryError, match=r"cannot connect .*one process at a time"):
        Gallery.open(f"milvus+file://{file}/people")
    holder.communicate("\n")


def build(place):
    return Gallery.build([np.zeros((4, 4, 3), np.uint8)], place, model=ColourEmbedder())


def test_open__of_what_is_no_gallery(tmp_path, create, lite_file):
    with pytest.raises(GalleryError, match=r"there is no gallery at .*absent.db does not exist"):
        Gallery.open(f"milvus+file://{tmp_path}/absent.db/people")
    assert not (tmp_path / "absent.db").exists()
    with pytest.raises(GalleryError, match=r"there is no folder"):
        Gallery.build(
            [np.zeros((4, 4, 3), np.uint8)], f"milvus+file://{tmp_path}/a/b.db/people", model=ColourEmbedder()
        )
    store = create()
    with pytest.raises(GalleryError, match=r"there is no gallery.*did you mean 'store_"):
        Gallery.open(store.place[:-1])
    name = "foreign_" + store.place.rpartition("_")[2]
    client = connect(MilvusAddress.parse(f"milvus+file://{lite_file}/{name}"))
    client.create_collection(name, dimension=4)
    for use in (
        Gallery.open,
        lambda place: Gallery.build([np.zeros((4, 4, 3), np.uint8)], place, model=ColourEmbedder()),
    ):
        with pytest.raises(GalleryError, match=r"this collection is not a gallery \(it has no property"):
            use(f"milvus+file://{lite_file}/{name}")
    with pytest.raises(GalleryError, match=r"there is a collection of this name already"):
        MilvusStore.create(f"milvus+file://{lite_file}/{name}", store.description)
    client.alter_collection_properties(name, store._call("describe_collection")["properties"])
    with pytest.raises(GalleryError, match=r"another schema than a gallery's"):
        Gallery.open(f"milvus+file://{lite_file}/{name}")


def test_build__goes_on_where_the_collection_had_no_index_yet(create, monkeypatch, new_place):
    """A kill between the collection and its indexes."""
    description = Description({"model": "random"}, DIMENSION, "float32")
    place = new_place("killed")
    with monkeypatch.context() as patch:
        patch.setattr(MilvusStore, "_make_ready", lambda store: None)
        MilvusStore.create(place, description)
    store = MilvusStore(place)
    store.append([table_of(["1"])])
    assert search_ids(store, 1, 1) == ["1"]


def test_missing_package__is_named(monkeypatch, lite_file):
    for name in ("pymilvus", "milvus_lite"):
        monkeypatch.setattr("mmet.gallery.milvus._installed", lambda package, name=name: package != name)
        with pytest.raises(GalleryError, match=rf"needs {name}: pip install 'mmet\[milvus\]'"):
            Gallery.open(f"milvus+file://{lite_file}/people")


# -- there and back -------------------------------------------------------------------------------------------------


def test_copy__from_a_folder_to_milvus_and_back(entries, embedder, tmp_path, new_place):
    folder = Gallery.build(entries, tmp_path / "one", model=embedder, keep_images=True)
    folder.set_centre()
    server = folder.copy(new_place())
    back = server.copy(tmp_path / "two")
    assert [list(gallery) for gallery in (server, back)] == [list(folder)] * 2
    tables = [pa.concat_tables(gallery._store.tables()) for gallery in (folder, server, back)]
    assert tables[0] == tables[1] == tables[2]
    for gallery in (Gallery.open(server.path, model=embedder), back):
        result = gallery.search(text="red", k=5)
        assert [match.id for match in result] == [match.id for match in folder.search(text="red", k=5)]
        assert (gallery.info["centred"], gallery.info["complete"]) == (True, True)
    with pytest.raises(GalleryError, match=r"is a gallery already: merge into it"):
        folder.copy(server.path)


def test_copy__that_was_killed_goes_on(entries, embedder, gallery_path, new_place, monkeypatch):
    folder = Gallery.build(entries, gallery_path, model=embedder)
    place = new_place("copy")
    with monkeypatch.context() as patch:
        patch.setattr(MilvusStore, "compact", lambda store, keep_seconds: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            folder.copy(place)
    assert not Gallery.open(place).info["complete"]
    assert list(folder.copy(place)) == list(folder)
    assert Gallery.open(place).info["complete"]


def test_merge__between_a_folder_and_milvus(entries, embedder, tmp_path, new_place):
    folder = Gallery.build(entries[:3], tmp_path / "one", model=embedder)
    server = Gallery.build(entries[3:], new_place(), model=embedder)
    assert server.merge(folder).added == 3
    assert folder.merge(server.path, on_conflict="replace").replaced == 3
    assert {row.id: row for row in folder} == {row.id: row for row in server}


def test_path_object__is_an_address_too(entries, embedder, new_place, gallery):
    assert len(Gallery.open(Path(gallery.path))) == 5
    assert gallery.info["server"].startswith("milvus_lite")
