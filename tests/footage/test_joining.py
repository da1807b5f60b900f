"""Fragments of one track: nobody is in two places at one time, and all that are joined look alike."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_searching import ColorEmbedder, crops_folder

from mmet.footage import FootageError
from mmet.footage.__main__ import main
from mmet.footage.joining import join_fragments
from mmet.footage.searching import add_to_gallery, find_sightings


def on_circle(*degrees: float) -> np.ndarray:
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1).astype(np.float32)


def test_join_fragments__by_hand() -> None:
    times = np.array([[0, 2], [1, 3], [4, 5], [6, 7]], dtype=float)
    # The third goes on with the second, which is nearer, and the fourth with the first.
    groups = join_fragments(times, on_circle(0, 30, 25, 3), min_similarity=np.cos(np.radians(10)))
    assert groups.tolist() == [0, 1, 1, 0]


def test_join_fragments__no_chain_over_an_overlap_or_a_difference() -> None:
    # 1 is like 0 and 2, which overlap: only the nearer pair is joined.
    times = np.array([[0, 3], [4, 5], [2, 3]], dtype=float)
    assert join_fragments(times, on_circle(0, 4, 10), min_similarity=0.9).tolist() == [0, 0, 2]
    # A row of steps, each small enough, whose ends are not alike.
    times = np.array([[0, 1], [2, 3], [4, 5]], dtype=float)
    groups = join_fragments(times, on_circle(0, 20, 41), min_similarity=np.cos(np.radians(25)))
    assert groups.tolist() == [0, 0, 2]


def test_join_fragments__touching_times_overlap_and_nothing_is_no_group() -> None:
    times = np.array([[0, 2], [2, 3]], dtype=float)
    assert join_fragments(times, on_circle(0, 0), min_similarity=0.5).tolist() == [0, 1]
    assert join_fragments(np.zeros((0, 2)), np.zeros((0, 4), np.float32)).tolist() == []


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4), st.integers(0, 90)), max_size=9),
    st.floats(0.3, 1.0),
)
def test_join_fragments__groups_are_apart_in_time_alike_and_cannot_grow(tracks, least) -> None:
    times = np.array([(start, start + length) for start, length, _ in tracks], dtype=float).reshape(-1, 2)
    vectors = on_circle(*(degrees for *_, degrees in tracks)).reshape(-1, 2)
    similarity = vectors @ vectors.T
    assume(not (np.abs(similarity - least) < 1e-5).any())  # where rounding decides
    groups = join_fragments(times, vectors, min_similarity=least)

    def fit(a: int, b: int) -> bool:
        apart = times[a, 1] < times[b, 0] or times[b, 1] < times[a, 0]
        return apart and similarity[a, b] >= least

    members = {group: np.flatnonzero(groups == group).tolist() for group in groups.tolist()}
    for group, own_tracks in members.items():
        assert group == min(own_tracks)
        assert all(fit(a, b) for a, b in combinations(own_tracks, 2))
    for first, second in combinations(members.values(), 2):
        assert not all(fit(a, b) for a in first for b in second)


TRACKS = [
    ("gate", "gate-1", "red", 1.0, 4.0),
    ("gate", "gate-2", "blue", 3.0, 5.0),
    ("gate", "gate-3", "red", 7.0, 8.0),
    ("yard", "yard-1", "red", 9.0, 12.0),
]


def test_add_to_gallery__joins_tracks_of_one_camera(tmp_path: Path) -> None:
    crops = crops_folder(tmp_path / "monday", TRACKS)
    gallery = add_to_gallery(crops, tmp_path / "gallery", model=ColorEmbedder(), join_similarity=0.95)
    sightings = find_sightings(gallery, text="red", min_score=0.9)
    assert [(seen.track_id, seen.start, seen.end) for seen in sightings] == [
        ("monday/gate-1", 1.0, 8.0),
        ("monday/yard-1", 9.0, 12.0),
    ]
    assert len(gallery) == 8
    # The same call adds nothing; a call that would not join them says so.
    again = add_to_gallery(crops, tmp_path / "gallery", model=ColorEmbedder(), join_similarity=0.95)
    assert len(again) == 8
    with pytest.raises(FootageError, match="--join_fragments"):
        add_to_gallery(crops, tmp_path / "gallery", model=ColorEmbedder())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--join_fragments"], "--gallery"),
        (["--join_similarity", "0.8"], "--join_fragments"),
        (["--join_fragments", "--join_similarity", "2"], "--join_similarity"),
    ],
)
def test_main__join_options_without_effect_are_refused(words, message, tmp_path, capsys) -> None:
    try:
        code = main(["film.mp4", "--output", str(tmp_path / "crops"), *words])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert message in capsys.readouterr().err
