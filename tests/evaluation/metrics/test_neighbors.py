"""The neighbour search against a full stable sort in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmet.evaluation.metrics import neighbors
from mmet.evaluation.metrics.neighbors import nearest_neighbors


def half_squared_distances(points: np.ndarray) -> np.ndarray:
    """Half the squared Euclidean distances (N, N) in float64."""
    return ((points[:, None].astype(np.float64) - points[None]) ** 2).sum(-1) / 2


def check_neighbors(neighbors, distances, count) -> None:
    """Assert that all neighbours are the first of a stable sort of these distances (N, N)."""
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(neighbors.indices, order)
    np.testing.assert_array_equal(neighbors.distances, np.take_along_axis(distances, order, axis=1))
    np.testing.assert_array_equal(neighbors.farthest, distances.max(axis=1))
    assert (neighbors.indices.dtype, neighbors.distances.dtype, neighbors.farthest.dtype) == (
        np.int64,
        np.float32,
        np.float32,
    )


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**20),
    total=st.integers(1, 700),
    count=st.integers(1, 40),
    block_rows=st.sampled_from([1, 64, 512, 10**6]),
    threads=st.integers(1, 3),
)
def test_nearest_neighbors__equal_a_full_sort(seed, total, count, block_rows, threads):
    # Whole numbers, many of them equal: distances are exact in float32 and ties are common.
    points = np.random.default_rng(seed).integers(0, 4, size=(total, 3)).astype(np.float32)
    neighbors = nearest_neighbors(points, count, block_rows=block_rows, num_threads=threads)
    check_neighbors(neighbors, half_squared_distances(points), count)


@pytest.mark.parametrize("distinct", [1, 2, 1500])
def test_nearest_neighbors__many_blocks_and_crowds_of_equal_points(distinct):
    rng = np.random.default_rng(1)
    points = rng.integers(-9, 9, size=(distinct, 8)).astype(np.float32)[np.arange(1500) % distinct]
    neighbors = nearest_neighbors(points, 21, block_rows=64)
    for point in (0, 1, 777, 1499):
        distances = ((points - points[point]) ** 2).sum(1) / 2
        np.testing.assert_array_equal(neighbors.indices[point], np.argsort(distances, kind="stable")[:21])
        assert neighbors.farthest[point] == distances.max()


@pytest.mark.parametrize("crowded", [0.0, 2.0], ids=["rows are sorted", "scores above the bound are kept"])
def test_nearest_neighbors__either_way_of_collecting(monkeypatch, crowded):
    monkeypatch.setattr(neighbors, "CROWDED", crowded)
    points = np.random.default_rng(3).integers(0, 6, size=(400, 3)).astype(np.float32)
    check_neighbors(nearest_neighbors(points, 9, block_rows=64), half_squared_distances(points), 9)


@pytest.mark.parametrize("count", [1, 2, 5, 6, 1000])
def test_nearest_neighbors__as_many_as_there_are(count):
    """Points on a line at 0, 1, 3, 6 and 10: all distances differ but for nobody's own, which is 0."""
    points = np.array([[0], [1], [3], [6], [10]], dtype=np.float32)
    neighbors = nearest_neighbors(points, count)
    by_hand = [[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [2, 1, 0, 3, 4], [3, 2, 4, 1, 0], [4, 3, 2, 1, 0]]
    assert neighbors.indices.tolist() == [row[:count] for row in by_hand]
    assert neighbors.farthest.tolist() == [50, 40.5, 24.5, 18, 50]


def test_nearest_neighbors__real_values_are_right_to_rounding():
    points = np.random.default_rng(5).standard_normal((300, 32)).astype(np.float32)
    neighbors = nearest_neighbors(points, 12, block_rows=64, num_threads=2)
    distances = half_squared_distances(points)
    np.testing.assert_array_equal(neighbors.indices, np.argsort(distances, axis=1)[:, :12])
    np.testing.assert_allclose(neighbors.distances, np.sort(distances, axis=1)[:, :12], atol=1e-4)
    np.testing.assert_allclose(neighbors.farthest, distances.max(axis=1), rtol=1e-5)


def test_nearest_neighbors__half_squares_that_are_given_are_used():
    """With h_i + h_j - x_i·x_j, a larger h keeps a point away from everybody."""
    points = np.random.default_rng(6).integers(0, 5, size=(200, 3)).astype(np.float32)
    half_squares = ((points**2).sum(axis=1) / 2).astype(np.float32)
    half_squares[:50] += 100
    distances = half_squares[:, None].astype(np.float64) + half_squares - points.astype(np.float64) @ points.T
    neighbors = nearest_neighbors(points, 7, half_squares=half_squares, block_rows=64)
    check_neighbors(neighbors, distances, 7)
    assert neighbors.indices[50:].min() >= 50


@pytest.mark.parametrize("keep_first", [0, 1, 63, 64, 200, 699, 700])
def test_nearest_neighbors__keep_the_distances_of_the_first_points(keep_first):
    points = np.random.default_rng(2).integers(-9, 9, size=(700, 3)).astype(np.float32)  # exact in float32
    neighbors = nearest_neighbors(points, 5, keep_first=keep_first, block_rows=64)
    expected = half_squared_distances(points)
    check_neighbors(neighbors, expected, 5)
    if keep_first == 0:
        assert neighbors.kept is None
        return
    received = np.empty((keep_first, 700 - keep_first), dtype=np.float32)
    neighbors.kept.write(slice(0, keep_first // 2), received[: keep_first // 2])
    neighbors.kept.write(slice(keep_first // 2, keep_first), received[keep_first // 2 :])
    np.testing.assert_array_equal(-received, expected[:keep_first, keep_first:])


@pytest.mark.parametrize(("size", "count"), [(0, 2), (3, 0), (3, -1)])
def test_nearest_neighbors__no_points_or_no_neighbours(size, count):
    with pytest.raises(ValueError, match=f"received {size} points and count {count}"):
        nearest_neighbors(np.empty((size, 3), dtype=np.float32), count)
