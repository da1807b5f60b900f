"""Ranked lists against a plain sort of the gallery, and the choice of queries against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from mmet.evaluation import Items, RetrievalTask
from mmet.evaluation.search import run_search
from mmet.report.examples import STRATA, choose_strata, sample_queries


def make_task(rng, num_queries=12, num_gallery=60, with_cameras=True):
    """A task of random persons and cameras."""
    persons = rng.integers(1, 6, num_queries), rng.integers(0, 6, num_gallery)
    cameras = rng.integers(1, 4, num_queries), rng.integers(1, 4, num_gallery)
    sides = [
        Items("test", Dataset.from_dict({}), "image", np.arange(len(ids)), np.full(len(ids), -1), ids)
        for ids in persons
    ]
    return RetrievalTask("market", *sides, *(cameras if with_cameras else (None, None)))


def random_embeddings(rng, task):
    """Embeddings `(n, 8)` of queries and gallery, of unit norm."""
    rows = [rng.standard_normal((len(items), 8)) for items in (task.query, task.gallery)]
    return [np.float32(values / np.linalg.norm(values, axis=1, keepdims=True)) for values in rows]


def ranked_by_hand(task, query, gallery, position):
    """(gallery index, is it right?) of everything the protocol leaves, best first, ties by index."""
    entries = []
    for index in range(len(gallery)):
        same_person = task.gallery.person_ids[index] == task.query.person_ids[position]
        cameras = task.query_exclusion_ids is not None
        if same_person and cameras and task.gallery_exclusion_ids[index] == task.query_exclusion_ids[position]:
            continue
        entries.append((-float(gallery[index] @ query[position]), index, bool(same_person)))
    return [(index, right) for _, index, right in sorted(entries)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("with_cameras", [True, False])
def test_first_entries_agree_with_a_plain_sort(seed, with_cameras):
    rng = np.random.default_rng(seed)
    task = make_task(rng, with_cameras=with_cameras)
    query, gallery = random_embeddings(rng, task)
    for position in range(len(task.query)):
        entries = run_search(task, query, gallery).first_entries(position, 10)
        assert [(index, right) for index, _, right in entries] == ranked_by_hand(task, query, gallery, position)[:10]
        for index, score, _ in entries:
            assert score == pytest.approx(float(gallery[index] @ query[position]), abs=1e-5)


def test_queries_come_from_the_tenths_they_are_said_to():
    precisions = np.random.default_rng(0).permutation(100) / 100  # 0.00, 0.01, …, 0.99
    for seed in range(20):
        chosen = choose_strata(precisions, np.random.default_rng(seed))
        assert list(chosen) == list(STRATA)
        assert precisions[chosen["best"]] >= 0.9
        assert 0.45 <= precisions[chosen["typical"]] < 0.55
        assert precisions[chosen["hard"]] < 0.1


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_queries_are_shown_once_each(count):
    chosen = choose_strata(np.linspace(0, 1, count), np.random.default_rng(0))
    assert len(set(chosen.values())) == len(chosen) == min(count, 3)


def test_sampled_queries_have_a_match_and_keep_their_ids():
    rng = np.random.default_rng(3)
    task = make_task(rng, num_queries=40, num_gallery=30)
    sample = sample_queries(task, 15, rng)
    rows = sample.query.image_index
    assert len(rows) == 15
    assert (np.diff(rows) > 0).all()
    assert (sample.query.person_ids == task.query.person_ids[rows]).all()
    assert (sample.query_exclusion_ids == task.query_exclusion_ids[rows]).all()
    assert all(sample.matches().of_query(position).size for position in range(15))


def test_shown_lists_belong_to_their_queries(page):
    for search in page.searches:
        assert search.metrics.num_queries == len(search.task.query)
        best, typical, hard = (ranked.average_precision for ranked in search.lists)
        assert best >= typical >= hard
        for ranked in search.lists:
            scores = [candidate.score for candidate in ranked.candidates]
            assert scores == sorted(scores, reverse=True)
            assert (ranked.query.image is None) == (search.task.query.modality == "text")
            assert (ranked.query.caption is None) == (search.task.query.modality == "image")


def test_no_match_in_the_query_camera_is_shown(page):
    search = next(search for search in page.searches if search.task.protocol == "market")
    for ranked in search.lists:
        assert all(not c.is_match or c.camera_id != ranked.query.camera_id for c in ranked.candidates)
