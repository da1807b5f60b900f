"""True matches and removed entries against their definition, entry by entry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmet.evaluation.metrics import matches as matches_module
from mmet.evaluation.metrics.matches import GalleryMatches


def entries_of(query: int, persons, cameras) -> dict[int, bool]:
    """Gallery position of each entry of the query's person, and whether it is a true match."""
    (query_persons, gallery_persons), (query_cameras, gallery_cameras) = persons, cameras or ((), ())
    entries = {}
    for position, person in enumerate(gallery_persons):
        if query_persons[query] == -1 or person != query_persons[query]:
            continue
        same_camera = bool(cameras) and query_cameras[query] == gallery_cameras[position] != -1
        entries[position] = not same_camera
    return entries


@st.composite
def ids(draw):
    """Persons and perhaps cameras of (query, gallery), with unknown ones and persons of one side alone; or none."""
    sizes = draw(st.integers(0, 8)), draw(st.integers(0, 20))

    def pair(low, high):
        return tuple(
            np.array(draw(st.lists(st.integers(low, high), min_size=size, max_size=size)), np.int64) for size in sizes
        )

    return pair(-1, 4), draw(st.booleans()) and pair(-1, 2)


@settings(deadline=None, max_examples=200)
@given(ids(), st.data())
def test_gallery_matches__are_what_the_rule_says(problem, data):
    persons, cameras = problem
    matches = GalleryMatches(*persons, *(cameras or (None, None)))
    num_queries, num_gallery = map(len, persons)
    assert (matches.num_queries, matches.num_gallery) == (num_queries, num_gallery)
    expected = [entries_of(query, persons, cameras) for query in range(num_queries)]

    start = data.draw(st.integers(0, num_queries))
    stop = data.draw(st.integers(start, num_queries))
    received = matches.entries(start, stop)
    listed = [(query - start, *entry) for query in range(start, stop) for entry in sorted(expected[query].items())]
    assert list(zip(received.rows, received.columns, received.is_match, strict=True)) == listed

    of_query = [[position for position, is_match in entries.items() if is_match] for entries in expected]
    assert [matches.of_query(query).tolist() for query in range(num_queries)] == of_query
    num_matches, num_candidates = matches.counts()
    assert num_matches.tolist() == [len(positions) for positions in of_query]
    removed = [len(entries) - len(positions) for entries, positions in zip(expected, of_query, strict=True)]
    assert num_candidates.tolist() == [num_gallery - count for count in removed]


@pytest.mark.parametrize("at_a_time", [1, 3, 7, 8, 100])
def test_gallery_matches__counts_do_not_depend_on_the_queries_at_a_time(monkeypatch, at_a_time):
    """Seven queries; persons 1, 2 and 3 have 1, 2 and 0 entries, one of them by the camera of the even queries."""
    monkeypatch.setattr(matches_module, "QUERIES_AT_A_TIME", at_a_time)
    matches = GalleryMatches(
        np.array([1, 1, 2, 2, 3, -1, 2]), np.array([2, 1, 2]), np.array([0, 1] * 3 + [0]), np.array([0, 0, 5])
    )
    num_matches, num_candidates = matches.counts()
    assert num_matches.tolist() == [0, 1, 1, 2, 0, 0, 1]
    assert num_candidates.tolist() == [2, 3, 2, 3, 3, 3, 2]


def test_gallery_matches__cameras_of_one_side_alone_are_no_rule():
    matches = GalleryMatches(np.array([1]), np.array([1, 1]), np.array([4]), None)
    assert matches.of_query(0).tolist() == [0, 1]


def test_gallery_matches__more_queries_than_are_counted_at_a_time():
    """A match for every query but those of person 0, over several portions of queries, the last one not full."""
    persons = np.arange(1000) % 7
    matches = GalleryMatches(persons, np.arange(1, 7))
    num_matches, num_candidates = matches.counts()
    assert num_matches.tolist() == (persons > 0).astype(int).tolist()
    assert set(num_candidates.tolist()) == {6}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [3, 4]), "share no person id"),
        (([-1], [-1]), "share no person id"),
        (([], [1]), "share no person id"),
        (([1, 2], []), "share no person id"),
        (([1, 2], [1, 2], [5, 6], [5, 6]), r"query's own camera.*no-camera"),
    ],
)
def test_require_valid_query__says_why_there_is_none(arguments, message):
    matches = GalleryMatches(*(np.array(values, np.int64) for values in arguments))
    with pytest.raises(ValueError, match=message):
        matches.require_valid_query()


@pytest.mark.parametrize("cameras", [([5, 6], [5, 7]), ([-1, 6], [-1, 6])])
def test_require_valid_query__one_is_enough(cameras):
    matches = GalleryMatches(np.array([1, 2]), np.array([1, 2]), *map(np.array, cameras))
    matches.require_valid_query()
    assert matches.counts()[0].sum() == 1
