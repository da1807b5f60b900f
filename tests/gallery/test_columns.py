"""One segment's columns: rows by label, time and id against plain loops over the same rows."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmet.gallery import columns, storage
from mmet.gallery.columns import Labels, Segment
from mmet.gallery.filters import RowFilter
from mmet.gallery.storage import EMBEDDING, FIXED_COLUMNS, make_table, write_columns, write_table

LABELS = st.sampled_from([None, "1", "gate", "yard"])
ROWS = st.lists(st.tuples(LABELS, LABELS, st.sampled_from([None, 0.0, 1.5, 1.5, 7.0])), min_size=1, max_size=12)
SOME = st.none() | st.frozensets(st.sampled_from(["1", "gate", "yard", "elsewhere"]))
SPANS = st.none() | st.tuples(st.sampled_from([-math.inf, 0.0, 1.5, 2.0]), st.sampled_from([math.inf, 7.0, 1.5, 1.0]))


def segment_of(folder, rows, extra=({},), pictures=None):
    """A segment of rows (camera, track, time), called 0, 1, …"""
    names = [str(number) for number in range(len(rows))]
    values = dict.fromkeys(FIXED_COLUMNS, [None] * len(rows))
    values["id"] = names
    values["camera_id"], values["track_id"], values["time"] = (list(column) for column in zip(*rows, strict=True))
    values["image"] = pictures or [{"bytes": None, "path": f"/{name}.png"} for name in names]
    vectors = np.eye(len(rows), 3, dtype=np.float32)
    table = make_table(values, list(extra) * len(rows), pa.schema([]), vectors, "float32")
    return Segment(folder, write_table(folder, "a.parquet", table), write_columns(folder, "a.arrow", table))


def passes(row, cameras, tracks, time):
    camera, track, moment = row
    return (
        (cameras is None or camera in cameras)
        and (tracks is None or track in tracks)
        and (time is None or (moment is not None and time[0] <= moment <= time[1]))
    )


@settings(max_examples=100, deadline=None)
@given(ROWS, SOME, SOME, SPANS)
def test_select__is_every_condition_at_once(rows, cameras, tracks, time):
    if cameras is None and tracks is None and time is None:
        cameras = frozenset({"gate"})
    with tempfile.TemporaryDirectory() as folder:
        segment = segment_of(Path(folder), rows)
        expected = [number for number, row in enumerate(rows) if passes(row, cameras, tracks, time)]
        assert segment.select(RowFilter(cameras, tracks, time)).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(LABELS, max_size=12), st.frozensets(st.sampled_from(["1", "gate", "yard", "elsewhere"])))
def test_labels__of_rows_and_rows_of_labels(names, allowed):
    labels = Labels(pa.array(names, pa.string()).dictionary_encode())
    assert [labels[row] for row in range(len(names))] == names
    expected = [row for row, name in enumerate(names) if name in allowed]
    assert sorted(labels.rows(allowed).tolist()) == expected
    rows = np.arange(len(names))[::-1]
    assert labels.among(rows, allowed).tolist() == [names[row] in allowed for row in rows]


@pytest.mark.parametrize(("words", "kind"), [(2**15 - 1, np.int16), (2**15, np.int32)])
def test_labels__numbers_are_as_small_as_they_can_be(words, kind):
    labels = Labels(pa.array([str(number) for number in range(words)] + [None]).dictionary_encode())
    assert labels.codes.dtype == kind
    assert (labels[words - 1], labels[words]) == (str(words - 1), None)


@pytest.mark.parametrize("lookups", [1, 40])
def test_find__by_name_and_later_by_checksum(tmp_path, monkeypatch, lookups):
    """Names of one length get one checksum: they are still different rows."""
    monkeypatch.setattr(columns, "_keys", lambda ids: np.array([len(name) for name in ids], dtype=np.uint32))
    segment = segment_of(tmp_path, [(None, None, None)] * 12)
    for _ in range(lookups):
        assert sorted(segment.find(["3", "11", "elsewhere", "99"]).tolist()) == [3, 11]
        assert segment.find([]).tolist() == []
    assert ("_by_key" in vars(segment)) == (lookups > 1)


def test_rows__hold_all_columns_but_the_embedding(tmp_path):
    segment = segment_of(tmp_path, [("gate", None, 1.5), (None, "7", None)])
    first, second = segment.rows([0, 1])
    assert EMBEDDING not in first
    assert [(row["id"], row["camera_id"], row["track_id"], row["time"]) for row in (first, second)] == [
        ("0", "gate", None, 1.5),
        ("1", None, "7", None),
    ]
    assert first["image"]["path"] == "/0.png"
    assert segment.vectors.tolist() == np.eye(2, 3).tolist()
    assert segment.vectors.dtype == np.float32


def test_rows__read_pictures_from_the_row_groups_they_lie_in(tmp_path, monkeypatch):
    """In any order, and one row twice; the Arrow file holds no bytes."""
    monkeypatch.setattr(storage, "PICTURES_PER_GROUP", 2)
    pictures = [{"bytes": bytes([number] * 50), "path": f"{number}.png"} for number in range(5)]
    segment = segment_of(tmp_path, [(None, None, None)] * 5, pictures=pictures)
    positions = [4, 0, 3, 3]
    assert [row["image"] for row in segment.rows(positions)] == [pictures[number] for number in positions]
