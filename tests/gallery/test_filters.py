"""What a user says of the rows to search, as conditions on stored labels."""

from __future__ import annotations

import pytest

from mmet.gallery.filters import RowFilter, check_cameras, write_ids
from mmet.gallery.results import GalleryError


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, RowFilter(None, None, None, frozenset())),
        ({"camera_id": "gate"}, RowFilter(frozenset({"gate"}))),
        ({"camera_id": ["gate", 3]}, RowFilter(frozenset({"gate", "3"}))),
        ({"track_id": 0}, RowFilter(None, frozenset({"0"}))),
        ({"time": (None, 60)}, RowFilter(time=(float("-inf"), 60.0))),
        ({"exclude": "a.jpg"}, RowFilter(excluded=frozenset({"a.jpg"}))),
        ({"exclude": 0}, RowFilter(excluded=frozenset({"0"}))),
        ({"exclude": ["a.jpg", 7]}, RowFilter(excluded=frozenset({"a.jpg", "7"}))),
        ({"exclude": []}, RowFilter()),
    ],
)
def test_of__holds_what_was_said(arguments, expected):
    assert RowFilter.of(**arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({}, False),
        ({"exclude": ["a"]}, False),
        ({"camera_id": "gate"}, True),
        ({"track_id": 4}, True),
        ({"time": (0, 0)}, True),
    ],
)
def test_names_rows__for_cameras_tracks_and_times_alone(arguments, names):
    assert RowFilter.of(**arguments).names_rows is names


@pytest.mark.parametrize(
    ("ids", "expected"), [("a", ["a"]), (7, ["7"]), (["b", "a", "b"], ["b", "a"]), ((1, "1"), ["1"]), ([], [])]
)
def test_write_ids__each_once_in_their_order(ids, expected):
    assert write_ids(ids) == expected


def test_write_ids__refuses_none_among_them():
    with pytest.raises(GalleryError, match="expected whole numbers or words, received None among them"):
        write_ids(["a", None])


def test_check_cameras__names_what_there_is():
    check_cameras(["gate"], ["yard", "gate"])
    check_cameras([], [])
    with pytest.raises(GalleryError, match=r"no camera 3 in this gallery; it has gate, yard$"):
        check_cameras(["gate", "3"], ["yard", "gate"])
    with pytest.raises(GalleryError, match=r"no camera 'gait' .*; did you mean 'gate'\?"):
        check_cameras(["gait"], ["gate"])
    with pytest.raises(GalleryError, match="it has no cameras at all"):
        check_cameras(["gate"], [])


@pytest.mark.parametrize(("count", "ending"), [(10, "c9$"), (11, "c9, …")])
def test_check_cameras__names_ten_of_many(count, ending):
    with pytest.raises(GalleryError, match=f"it has c0, c1, .*{ending}"):
        check_cameras(["zz"], [f"c{number}" for number in range(10)] + [f"d{number}" for number in range(count - 10)])
