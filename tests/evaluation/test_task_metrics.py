"""Metrics by the rules of a task's protocol."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from datasets import DatasetDict

from mmet.evaluation import EvaluationOptions, Items, RetrievalTask, expected_task_metrics, rank_metrics
from mmet.evaluation.metrics.bootstrap import BootstrapOptions, bootstrap_means
from mmet.evaluation.protocols import SingleShot
from mmet.evaluation.search import run_search
from mmet.evaluation.task_metrics import draw_ranks


def task_metrics(task, query, gallery, *, max_rank):
    return run_search(task, query, gallery, EvaluationOptions(max_rank=max_rank)).metrics


def make_task(protocol, query_persons, gallery_persons, query_cameras, gallery_cameras):
    """A task of bare ids."""

    def items(persons):
        index = np.arange(len(persons))
        return Items("test", DatasetDict(), "image", index, np.full(len(index), -1), np.asarray(persons))

    cameras = np.asarray(query_cameras), np.asarray(gallery_cameras)
    return RetrievalTask(protocol, items(query_persons), items(gallery_persons), *cameras)


@pytest.fixture
def classic():
    """Ten persons, three images of each in each of two cameras, which are query and gallery both."""
    persons, cameras = np.repeat(np.arange(1, 11), 6), np.tile([1, 1, 1, 2, 2, 2], 10)
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(11, 16))[persons] + 0.8 * rng.normal(size=(60, 16))
    return make_task("cuhk03-classic", persons, persons, cameras, cameras), embeddings.astype(np.float32)


def test_task_metrics__matlab_takes_trapezoids_over_all_queries():
    task = make_task("market-matlab", [1, 2, 7], [1, 2, 1, 3], [1, 1, 1], [2, 2, 2, 2])
    # Query 1 meets wrong, match, match, wrong; query 2 its only match first; query 7 has none.
    query = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)
    gallery = np.array([[0.8, 0, 0.6], [0.1, 0.99, 0], [0.6, 0, 0.8], [0.9, 0, 0.43]], dtype=np.float32)
    metrics = task_metrics(task, query, gallery, max_rank=2)
    first = ((0 / 1 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2
    assert metrics.mAP == pytest.approx((first + 1 + 0) / 3, abs=1e-6)
    assert metrics.cmc.tolist() == pytest.approx([1 / 3, 2 / 3])
    assert (metrics.num_queries, metrics.num_valid_queries) == (3, 2)


def test_task_metrics__market_equals_the_function():
    rng = np.random.default_rng(1)
    ids = rng.integers(1, 5, size=10), rng.integers(1, 6, size=40), rng.integers(1, 3, 10), rng.integers(1, 3, 40)
    query, gallery = rng.normal(size=(10, 8)).astype(np.float32), rng.normal(size=(40, 8)).astype(np.float32)
    received = task_metrics(make_task("market", *ids), query, gallery, max_rank=10)
    assert received.mAP == rank_metrics(query, gallery, *ids).mAP


def test_task_metrics__classic_draws_one_image_a_person_from_the_other_camera(classic):
    task, embeddings = classic
    metrics = task_metrics(task, embeddings, embeddings, max_rank=10)
    assert (metrics.num_queries, metrics.num_valid_queries, metrics.num_gallery) == (60, 60, 10)
    assert metrics.cmc[-1] == 1  # ten entries, one of them right
    assert metrics.mAP == metrics.mINP  # one match each
    # The mean over all draws there are: each of 3 images stands for its person, independently of the others.
    rng = np.random.default_rng(5)
    hits = []
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for _ in range(400):
        picks = np.arange(10) * 6 + rng.integers(3, size=10)  # of camera 1
        for camera, entries in ((2, picks), (1, picks + 3)):
            queries = np.flatnonzero(task.query_exclusion_ids == camera)
            best = entries[np.argmax(unit[queries] @ unit[entries].T, axis=1)]
            hits.extend(task.query.person_ids[best] == task.query.person_ids[queries])
    assert metrics.rank(1) == pytest.approx(np.mean(hits), abs=0.05)


def test_draw_ranks__the_querys_own_camera_is_never_drawn_from():
    """Pictures of one camera are alike; in the other one everybody looks like the next person, and nobody is found."""
    persons, cameras = np.tile(np.arange(5), 2), np.repeat([1, 2], 5)
    looks = np.eye(5, dtype=np.float32)
    gallery = np.concatenate([looks, looks[np.arange(1, 6) % 5]])
    task = make_task("cuhk03-classic", persons[:5], persons, cameras[:5], cameras)
    drawn = draw_ranks(task, looks, gallery, SingleShot(4, 0, 5))
    # The right entry scores 0, like three others: it is behind the wrong one and behind the equal ones before it.
    assert drawn.ranks.tolist() == [[2, 2, 3, 4, 5]] * 4
    assert drawn.num_gallery == 5


def test_draw_ranks__an_unknown_camera_is_no_camera():
    task = make_task("cuhk03-classic", [1, 2], [1, 2], [-1, -1], [-1, 3])
    assert draw_ranks(task, np.eye(2), np.eye(2), SingleShot(3, 0, 2)).ranks.tolist() == [[1, 1]] * 3


def test_draw_ranks__every_image_of_a_person_is_drawn_as_often():
    """Person 1 has two images, one like the query and one like nobody; ranks are 1 or 2, anew in every draw."""
    task = make_task("cuhk03-classic", [1], [1, 2, 1], [1], [2, 2, 3])
    gallery = np.array([[1, 0], [0.6, 0.8], [0, 1]], dtype=np.float32)
    seeds = {seed: draw_ranks(task, gallery[:1], gallery, SingleShot(120, seed, 2)).ranks[:, 0] for seed in (0, 1)}
    for ranks in seeds.values():
        assert set(ranks) == {1, 2}
        assert (ranks == 1).mean() == pytest.approx(0.5, abs=0.2)
    assert (seeds[0] != seeds[1]).any()


def test_draw_ranks__the_largest_gallery_is_the_one_reported():
    """Camera 2 shows four persons, camera 1 only one of them."""
    task = make_task("cuhk03-classic", [1, 1], [1, 1, 2, 3, 4], [1, 2], [1, 2, 2, 2, 2])
    assert draw_ranks(task, np.eye(2, 5), np.eye(5), SingleShot(1, 0, 4)).num_gallery == 4


def test_task_metrics__classic_is_seeded(classic):
    task, embeddings = classic
    first, again = (task_metrics(task, embeddings, embeddings, max_rank=10) for _ in range(2))
    np.testing.assert_array_equal(first.cmc, again.cmc)


def test_headline_values__classic_means_over_the_draws_have_the_metrics_as_their_means(classic):
    task, embeddings = classic
    task.query.person_ids[7] = 99  # of nobody in the gallery
    result = run_search(task, embeddings, embeddings)
    values = result.headline_values()
    means = {name: np.nanmean(figures) for name, figures in values.items()}
    metrics = result.metrics
    assert means == pytest.approx(
        {"mAP": metrics.mAP, "mINP": metrics.mINP, **{f"rank{k}": metrics.rank(k) for k in (1, 5, 10)}}
    )
    for figures in values.values():
        assert np.flatnonzero(np.isnan(figures)).tolist() == [7]
    assert metrics.num_valid_queries == 59
    assert 0 < means["rank1"] < means["mAP"] < 1


def test_bootstrap_means__classic_intervals_are_those_of_all_samples_of_persons():
    """Against every sample of four persons there is, each evaluated by itself: the draws do not depend on queries."""
    persons, cameras = np.repeat(np.arange(4), [2, 4, 6, 8]), np.tile([1, 2], 10)
    gallery_persons, gallery_cameras = np.repeat(np.arange(9), 6), np.tile([1, 2, 2, 1, 2, 1], 9)
    rng = np.random.default_rng(3)
    query, gallery = (
        (rng.normal(size=(9, 6))[ids] + rng.normal(size=(len(ids), 6))).astype(np.float32)
        for ids in (persons, gallery_persons)
    )

    def evaluate(chosen):
        ids = persons[chosen], gallery_persons, cameras[chosen], gallery_cameras
        return run_search(make_task("cuhk03-classic", *ids), query[chosen], gallery)

    alone = [evaluate(persons == person).metrics for person in range(4)]
    values, options = evaluate(persons >= 0).headline_values(), BootstrapOptions(40_000, "person", 0.8)
    received = bootstrap_means(values, persons, options)
    samples = np.array(list(product(range(4), repeat=4)))  # all 256 are equally likely
    counts = np.array([2, 4, 6, 8])[samples]
    for name, figures in (
        ("mAP", [person_metrics.mAP for person_metrics in alone]),
        ("rank1", [person_metrics.rank(1) for person_metrics in alone]),
    ):
        means = (np.array(figures)[samples] * counts).sum(axis=1) / counts.sum(axis=1)
        expected = np.percentile(means, [10, 90], method="inverted_cdf")
        np.testing.assert_allclose((received[name].low, received[name].high), expected, atol=0.005)


def test_expected_task_metrics__classic_is_one_in_as_many_as_persons(classic):
    task, _ = classic
    expected = expected_task_metrics(task, max_rank=10)
    assert expected.mAP == pytest.approx(np.mean(1 / np.arange(1, 11)))
    np.testing.assert_allclose(expected.cmc, np.arange(1, 11) / 10)
    rng = np.random.default_rng(2)
    noise = [task_metrics(task, *rng.normal(size=(2, 60, 8)).astype(np.float32), max_rank=10).mAP for _ in range(30)]
    assert np.mean(noise) == pytest.approx(expected.mAP, abs=0.01)


def test_expected_task_metrics__by_the_rules_of_the_protocol():
    ids = [1, 2, 7], [1, 2, 1, 3], [1, 1, 1], [2, 2, 2, 2]
    market, matlab = (expected_task_metrics(make_task(name, *ids), max_rank=4) for name in ("market", "market-matlab"))
    np.testing.assert_allclose(matlab.cmc, market.cmc * 2 / 3)
    assert matlab.mAP < market.mAP * 2 / 3


def test_run_search__no_rescoring_where_galleries_are_drawn(classic):
    task, embeddings = classic
    with pytest.raises(ValueError, match="draws galleries of its own: expected itm_top_k 0"):
        run_search(
            task,
            embeddings,
            embeddings,
            EvaluationOptions(itm_top_k=3),
            matcher=lambda task, pairs: np.zeros(len(pairs), np.float32),
        )
