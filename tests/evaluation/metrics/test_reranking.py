"""Re-ranking against the paper written out densely in float64, and the neighbour search against a full sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmet.evaluation.metrics import reranking
from mmet.evaluation.metrics.ranking import rank_metrics
from mmet.evaluation.metrics.reranking import k_reciprocal_blocks, k_reciprocal_rerank, reranked_metrics


def squared_distances(points: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances (N, N) in float64."""
    return ((points[:, None] - points[None]) ** 2).sum(-1)


def paper_distances(query, gallery, k1, k2, lambda_value):
    """The algorithm of Zhong et al. with sets and dense rows, in float64."""
    points = np.concatenate([query, gallery]).astype(np.float64)
    total = len(points)
    distance = squared_distances(points)
    distance = distance / distance.max(axis=1, keepdims=True)
    order = np.argsort(distance, axis=1, kind="stable")

    place = np.argsort(order, axis=1)  # [p, q]: at which place of p's list q is

    def reciprocal(p, k):
        return set(np.flatnonzero((place[p] <= k) & (place[:, p] <= k)))

    halves = [reciprocal(q, int(np.around(k1 / 2))) for q in range(total)]
    vectors = np.zeros((total, total))
    for p in range(total):
        neighbors_of_p = reciprocal(p, k1)
        expanded = set(neighbors_of_p)
        for q in neighbors_of_p:
            candidates = halves[q]
            if 3 * len(candidates & neighbors_of_p) > 2 * len(candidates):
                expanded |= candidates
        members = sorted(expanded)
        if members:  # a point has none where its list is full of duplicates of it
            weights = np.exp(-distance[p, members])
            vectors[p, members] = weights / weights.sum()
    if k2 > 1:
        vectors = np.stack([vectors[order[p, :k2]].mean(axis=0) for p in range(total)])
    smaller = np.stack([np.minimum(row, vectors[len(query) :]).sum(axis=1) for row in vectors[: len(query)]])
    jaccard = 1 - smaller / (2 - smaller)
    return lambda_value * distance[: len(query), len(query) :] + (1 - lambda_value) * jaccard


def persons(seed, num_queries=12, num_gallery=40, dimension=6, num_persons=8, noise=0.5):
    """Embeddings and person ids of a few persons that overlap."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(num_persons, dimension))
    query_ids = rng.integers(num_persons, size=num_queries)
    gallery_ids = rng.integers(num_persons, size=num_gallery)
    query, gallery = (
        (centres[ids] + noise * rng.normal(size=(len(ids), dimension))).astype(np.float32)
        for ids in (query_ids, gallery_ids)
    )
    return query, gallery, query_ids, gallery_ids


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**20),
    sizes=st.tuples(st.integers(1, 15), st.integers(1, 50)),
    k1=st.integers(1, 30),
    k2=st.integers(1, 12),
    lambda_value=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    noise=st.sampled_from([0.1, 0.5, 2.0]),
)
def test_k_reciprocal_rerank__equals_the_paper(seed, sizes, k1, k2, lambda_value, noise):
    query, gallery, _, _ = persons(seed, *sizes, noise=noise)
    received = k_reciprocal_rerank(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value)
    assert received.dtype == np.float32
    np.testing.assert_allclose(received, paper_distances(query, gallery, k1, k2, lambda_value), atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**20), k1=st.integers(1, 12), k2=st.integers(1, 8), span=st.integers(1, 3), many=st.booleans()
)
def test_k_reciprocal_rerank__equal_distances_and_duplicates_keep_their_order(seed, k1, k2, span, many):
    # Small whole numbers (times 52, so that the mean of 52 points is whole too): float32 is exact and ties are ties.
    rng = np.random.default_rng(seed)
    points = 52.0 * rng.integers(0, span + 1, size=(52, 2 if many else 4))
    points[-1] += 52 * 3  # not all points are one
    received = k_reciprocal_rerank(points[:12], points[12:], k1=k1, k2=k2)
    np.testing.assert_allclose(received, paper_distances(points[:12], points[12:], k1, k2, 0.3), atol=1e-5)


@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (50, 15), (25, 1), (500, 6), (6, 500)])
def test_k_reciprocal_rerank__several_hundred_points(k1, k2):
    query, gallery, _, _ = persons(3, 40, 260, dimension=24, num_persons=30)
    received = k_reciprocal_rerank(query, gallery, k1=k1, k2=k2)
    np.testing.assert_allclose(received, paper_distances(query, gallery, k1, k2, 0.3), atol=1e-5)


def test_k_reciprocal_rerank__cosine_is_euclidean_of_normalised_rows():
    query, gallery, _, _ = persons(4)
    received = k_reciprocal_rerank(3 * query, gallery, metric="cosine", k1=8, k2=3)
    unit = [rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True) for rows in (query, gallery)]
    np.testing.assert_allclose(received, paper_distances(*unit, 8, 3, 0.3), atol=1e-5)


def test_k_reciprocal_rerank__far_from_the_origin():
    query, gallery, _, _ = persons(5)
    near = k_reciprocal_rerank(query, gallery, k1=8, k2=3)
    far = k_reciprocal_rerank(query.astype(np.float64) + 100, gallery.astype(np.float64) + 100, k1=8, k2=3)
    np.testing.assert_allclose(far, near, atol=1e-3)


def test_k_reciprocal_rerank__one_point_everywhere():
    distances = k_reciprocal_rerank(np.ones((3, 4)), np.ones((5, 4)), k1=2, k2=2, lambda_value=0.4)
    assert np.isfinite(distances).all()
    assert ((distances >= 0) & (distances <= 0.6 + 1e-6)).all()


def test_k_reciprocal_rerank__lambda_one_is_the_normalised_distance():
    query, gallery, _, _ = persons(6)
    squares = squared_distances(np.concatenate([query, gallery]).astype(np.float64))
    expected = (squares / squares.max(axis=1, keepdims=True))[:12, 12:]
    np.testing.assert_allclose(k_reciprocal_rerank(query, gallery, lambda_value=1.0), expected, atol=1e-5)


def test_k_reciprocal_rerank__takes_tensors_of_any_precision():
    query, gallery, _, _ = persons(7)
    expected = k_reciprocal_rerank(query, gallery)
    np.testing.assert_array_equal(k_reciprocal_rerank(torch.from_numpy(query), torch.from_numpy(gallery)), expected)
    half = k_reciprocal_rerank(torch.from_numpy(query).double(), gallery.astype(np.float64))
    np.testing.assert_array_equal(half, expected)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("sizes", [(1, 1), (7, 90), (90, 7), (500, 300)])
def test_k_reciprocal_rerank__kept_distances_equal_computed_ones(monkeypatch, metric, sizes):
    """Original distances come from the search for neighbours or, where that would take too much memory, from anew."""
    rng = np.random.default_rng(sum(sizes))
    query, gallery = (rng.normal(size=(size, 12)).astype(np.float32) for size in sizes)
    kept = k_reciprocal_rerank(query, gallery, k1=5, k2=3, metric=metric)
    monkeypatch.setattr(reranking, "KEPT_BYTES", 0)
    computed = k_reciprocal_rerank(query, gallery, k1=5, k2=3, metric=metric)
    np.testing.assert_allclose(kept, computed, atol=1e-6)


@pytest.mark.parametrize("block_bytes", [1, 4 * 40 * 5, 2**20])
def test_k_reciprocal_blocks__do_not_depend_on_their_size(block_bytes):
    query, gallery, _, _ = persons(8)
    expected = k_reciprocal_rerank(query, gallery)
    covered = 0
    for queries, distances in k_reciprocal_blocks(query, gallery, block_bytes=block_bytes):
        assert queries.start == covered
        np.testing.assert_allclose(distances, expected[queries], atol=1e-6)
        covered = queries.stop
    assert covered == len(query)


def plain_mean_average_precision(distances, query_ids, gallery_ids, query_cameras, gallery_cameras):
    """mAP by a full stable sort of every row."""
    precisions = []
    for row, person, camera in zip(distances, query_ids, query_cameras, strict=True):
        order = np.argsort(row, kind="stable")
        order = order[
            ~((gallery_ids[order] == person) & (gallery_cameras[order] == camera)) & (gallery_ids[order] >= 0)
        ]
        hits = gallery_ids[order] == person
        if hits.any():
            precisions.append((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())
    return np.mean(precisions)


def test_reranked_metrics__equal_those_of_the_dense_matrix():
    query, gallery, query_ids, gallery_ids = persons(9, 30, 120)
    rng = np.random.default_rng(0)
    cameras = rng.integers(3, size=30), rng.integers(3, size=120)
    gallery_ids[::10] = -1  # junk, which re-ranking must not see
    clean = gallery_ids != -1
    received = reranked_metrics(query, gallery, query_ids, gallery_ids, *cameras, k1=10, k2=4)
    dense = paper_distances(query, gallery[clean], 10, 4, 0.3)
    expected = plain_mean_average_precision(dense, query_ids, gallery_ids[clean], cameras[0], cameras[1][clean])
    assert received.mAP == pytest.approx(expected, abs=1e-4)
    assert received.num_gallery == clean.sum()


def test_reranked_metrics__improve_on_plain_ranking_of_persons_in_clusters():
    query, gallery, query_ids, gallery_ids = persons(10, 40, 400, dimension=16, num_persons=20, noise=0.9)
    plain = rank_metrics(query, gallery, query_ids, gallery_ids)
    assert reranked_metrics(query, gallery, query_ids, gallery_ids, metric="cosine").mAP > plain.mAP + 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k1": 0}, "k1: .*at least 1, received 0"),
        ({"k2": 0}, "k2: .*at least 1, received 0"),
        ({"lambda_value": 1.5}, "lambda_value: .*at most 1, received 1.5"),
        ({"metric": "manhattan"}, "metric: expected one of euclidean, cosine; received 'manhattan'"),
    ],
)
def test_k_reciprocal_rerank__parameters_out_of_range(changes, message):
    query, gallery, _, _ = persons(11)
    with pytest.raises(ValueError, match=message):
        k_reciprocal_rerank(query, gallery, **changes)


def test_k_reciprocal_rerank__bad_embeddings():
    query, gallery, _, _ = persons(12)
    with pytest.raises(ValueError, match="one dimension, received 6 and 5"):
        k_reciprocal_rerank(query, gallery[:, :5])
    gallery[3, 2] = np.nan
    with pytest.raises(ValueError, match="row 3"):
        k_reciprocal_rerank(query, gallery)


@pytest.mark.parametrize("value", [1.5, True, float("nan"), "3", None])
@pytest.mark.parametrize("name", ["k1", "k2"])
def test_k_reciprocal_rerank__sizes_are_whole_numbers(name, value):
    query, gallery, _, _ = persons(11)
    with pytest.raises(ValueError, match=f"{name}: expected a whole number"):
        k_reciprocal_rerank(query, gallery, **{name: value})


def test_k_reciprocal_rerank__no_query_is_refused_as_ranking_refuses_it():
    with pytest.raises(ValueError, match="at least one row of query_embeddings"):
        k_reciprocal_rerank(np.zeros((0, 3)), np.eye(3))
    with pytest.raises(ValueError, match="at least one row of gallery_embeddings"):
        k_reciprocal_rerank(np.eye(3), np.zeros((0, 3)))


def test_k_reciprocal_rerank__lists_longer_than_there_are_points():
    query, gallery, _, _ = persons(11)
    total = len(query) + len(gallery)
    longest = k_reciprocal_rerank(query, gallery, k1=total, k2=total)
    np.testing.assert_allclose(k_reciprocal_rerank(query, gallery, k1=10**12, k2=10**12), longest, atol=1e-6)
