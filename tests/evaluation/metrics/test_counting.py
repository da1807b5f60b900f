"""Ranks of true matches against counting by hand: one plus the candidates that are ahead."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmet.evaluation.metrics import counting
from mmet.evaluation.metrics.counting import MatchRanks, rank_computed_matches, rank_matches
from mmet.evaluation.metrics.matches import GalleryMatches

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
SCORES = np.array([-LARGEST, -1, -SMALLEST, -0.0, 0.0, SMALLEST, 0.5, np.nextafter(0.5, 1, dtype=np.float32), LARGEST])
"""Values that comparing can get wrong: the ends of the range, two zeros that are equal, neighbours that are not."""


def ranks_by_hand(scores, persons, cameras) -> list[list[int]]:
    """The ranks of each query's true matches, ascending, from its own list of candidates."""
    everyone = []
    for row, person, camera in zip(scores.tolist(), persons[0].tolist(), cameras[0].tolist(), strict=True):
        ranks = []
        candidates = [
            (score, position, other == person != -1)
            for position, (score, other, other_camera) in enumerate(
                zip(row, persons[1].tolist(), cameras[1].tolist(), strict=True)
            )
            if not (other == person != -1 and camera == other_camera != -1)
        ]
        for score, position, is_match in candidates:
            if is_match:
                ahead = [s > score or (s == score and place < position) for s, place, _ in candidates]
                ranks.append(1 + sum(ahead))
        everyone.append(sorted(ranks))
    return everyone


def listed(ranks: MatchRanks) -> list[list[int]]:
    """The ranks query by query."""
    assert ranks.counts.dtype == ranks.ranks.dtype == np.int64
    assert ranks.counts.sum() == len(ranks.ranks)
    return [part.tolist() for part in np.split(ranks.ranks, np.cumsum(ranks.counts)[:-1])]


@st.composite
def problems(draw):
    """Scores `(Q, G)`, persons and cameras; ties, unknown queries, persons that only one side has."""
    num_queries, num_gallery = draw(st.integers(1, 7)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.permutation(SCORES)[: draw(st.integers(1, len(SCORES)))].astype(np.float32)
    persons = rng.integers(-1, 4, num_queries), rng.integers(0, draw(st.integers(1, 4)), num_gallery)
    cameras = [rng.integers(-1, draw(st.integers(0, 3)), size) for size in (num_queries, num_gallery)]
    return rng.choice(values, (num_queries, num_gallery)), persons, cameras


@settings(deadline=None, max_examples=200)
@given(problems(), st.data())
def test_rank_matches__one_plus_the_candidates_ahead(problem, data):
    scores, persons, cameras = problem
    cuts = data.draw(st.lists(st.integers(0, len(scores)), max_size=4).map(sorted))  # equal cuts: a block of no rows
    blocks = np.split(scores.copy(), cuts)
    matches = GalleryMatches(*persons, *cameras)
    received = rank_matches(blocks, matches, num_threads=data.draw(st.integers(1, 4)))
    assert listed(received) == ranks_by_hand(scores, persons, cameras)


@settings(deadline=None, max_examples=100)
@given(problems(), st.integers(1, 12), st.integers(1, 4))
def test_rank_computed_matches__blocks_of_any_size(problem, block_rows, num_threads):
    """One row a block, and blocks larger than the input; each query is computed once, into room of the right shape."""
    scores, persons, cameras = problem
    computed = []

    def compute(rows, out):
        assert out.shape == scores[rows].shape
        out[:] = scores[rows]
        computed.extend(range(rows.start, rows.stop))

    received = rank_computed_matches(compute, GalleryMatches(*persons, *cameras), block_rows, num_threads)
    assert listed(received) == ranks_by_hand(scores, persons, cameras)
    assert sorted(computed) == list(range(len(scores)))


@pytest.mark.parametrize("num_values", [9, 200], ids=["many ties", "few ties"])
@pytest.mark.parametrize("limit", [0, 2, 1000], ids=["sorted", "both", "compared"])
def test_rank_matches__however_rows_are_counted(monkeypatch, limit, num_values):
    """130 entries are no multiple of what is counted together, and some persons have none of them, some many."""
    monkeypatch.setattr(counting, "MAX_COMPARED_MATCHES", limit)
    rng = np.random.default_rng(4)
    persons = rng.integers(-1, 12, 20), rng.zipf(1.5, 130) % 12
    cameras = rng.integers(-1, 3, 20), rng.integers(-1, 3, 130)
    scores = rng.integers(0, num_values, (20, 130)).astype(np.float32)
    received = rank_matches([scores.copy()], GalleryMatches(*persons, *cameras), num_threads=2)
    assert listed(received) == ranks_by_hand(scores, persons, cameras)


@pytest.mark.parametrize("num_gallery", [1, 63, 64, 65, 511, 512, 513, 40_000])
def test_rank_matches__a_match_behind_everybody(num_gallery):
    """All equal: the last entry has all others ahead of it, and the first has none, whatever the width."""
    scores = np.ones((2, num_gallery), dtype=np.float32)
    persons = np.full(num_gallery, 3)
    persons[0], persons[-1] = 1, 2
    matches = GalleryMatches(np.array([1, 2]), persons)
    first, last = listed(rank_matches([scores], matches, num_threads=1))
    assert (first, last) == ([] if num_gallery == 1 else [1], [num_gallery])


def test_rank_matches__removed_entries_take_no_place():
    """Query of person 1, camera 1. Best first: 1 of camera 1 (removed), 2, 1 of camera 2, 1 of camera 1 (removed)."""
    matches = GalleryMatches(np.array([1]), np.array([1, 2, 1, 1]), np.array([1]), np.array([1, 1, 2, 1]))
    scores = np.array([[0.9, 0.8, 0.7, 0.7]], dtype=np.float32)
    assert listed(rank_matches([scores], matches, num_threads=1)) == [[2]]


def test_rank_matches__nobody_has_a_match():
    matches = GalleryMatches(np.array([1, -1]), np.array([2, 3]))
    ranks = rank_matches([np.zeros((2, 2), np.float32)], matches, num_threads=2)
    assert (ranks.counts.tolist(), ranks.ranks.tolist()) == ([0, 0], [])


@pytest.mark.parametrize("shapes", [[], [(1, 3)], [(2, 3), (1, 3)], [(1, 3), (2, 3)], [(2, 2)], [(2, 4)]])
def test_rank_matches__rejects_scores_that_are_not_one_row_a_query(shapes):
    matches = GalleryMatches(np.array([1, 2]), np.array([2, 1, 2]))
    with pytest.raises(ValueError, match="expected scores of 2 queries"):
        rank_matches((np.zeros(shape, np.float32) for shape in shapes), matches, num_threads=1)


def test_rank_computed_matches__an_error_of_a_thread_reaches_the_caller():
    def compute(rows, out):
        raise OSError(f"row {rows.start} cannot be read")

    matches = GalleryMatches(np.array([1, 2]), np.array([2, 1, 2]))
    with pytest.raises(OSError, match="row 0 cannot be read"):
        rank_computed_matches(compute, matches, block_rows=1, num_threads=2)
