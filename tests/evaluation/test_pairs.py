"""Pairs, query expansion and merged queries against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from mmet.evaluation.pairs import best_entries, count_wrong_pairs, label_pairs, pair_blocks
from mmet.evaluation.protocols import Items, RetrievalTask


def make_task(query_persons, gallery_persons, query_ids=None, gallery_ids=None):
    """A task without pictures."""

    def items(persons):
        persons = np.asarray(persons, dtype=np.int64)
        dataset = Dataset.from_dict({"camera_id": [-1] * len(persons)})
        return Items("test", dataset, "image", np.arange(len(persons)), np.full(len(persons), -1), persons)

    ids = [None if values is None else np.asarray(values, np.int64) for values in (query_ids, gallery_ids)]
    return RetrievalTask("market", items(query_persons), items(gallery_persons), *ids)


# Unit vectors whose products have no rounding error: equal scores are equal whoever computes them, and frequent.
EXACT = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1]], dtype=np.float32)
EXACT /= np.abs(EXACT).sum(axis=1, keepdims=True) ** 0.5


@st.composite
def searches(draw, max_size=12, ties=True):
    """A task with unit embeddings, with or without cameras; with `ties`, many scores are equal, else none is."""
    num_queries, num_gallery = draw(st.integers(1, max_size)), draw(st.integers(1, max_size))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    persons = [rng.integers(1, 5, count) for count in (num_queries, num_gallery)]
    cameras = [rng.integers(-1, 3, count) for count in (num_queries, num_gallery)]
    task = make_task(*persons, *(cameras if draw(st.booleans()) else (None, None)))
    if ties:
        return task, *(EXACT[rng.integers(0, len(EXACT), count)] for count in (num_queries, num_gallery))
    vectors = [rng.standard_normal((count, 6)) for count in (num_queries, num_gallery)]
    return task, *((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32) for rows in vectors)


def pair_kind(task, query, entry):
    """`match`, `removed` or `wrong`, by the words of the protocol."""
    if task.query.person_ids[query] != task.gallery.person_ids[entry]:
        return "wrong"
    if task.query_exclusion_ids is None or task.query_exclusion_ids[query] == -1:
        return "match"
    return "removed" if task.query_exclusion_ids[query] == task.gallery_exclusion_ids[entry] else "match"


@settings(deadline=None)
@given(searches(), st.integers(1, 40))
def test_pair_blocks__every_pair_once_with_its_kind(search, block_entries):
    task, query, gallery = search
    seen = []
    for block in pair_blocks(task, query, gallery, block_entries):
        for row, number in enumerate(range(block.queries.start, block.queries.stop)):
            kinds = [
                ("match", "removed", "wrong")[[m, r, w].index(True)]
                for m, r, w in zip(block.is_match[row], block.is_removed[row], block.is_wrong[row], strict=True)
            ]
            assert kinds == [pair_kind(task, number, entry) for entry in range(len(gallery))]
            np.testing.assert_allclose(block.scores[row], gallery @ query[number], atol=1e-6)
            seen.append(number)
    assert seen == list(range(len(query)))
    wrong = sum(pair_kind(task, q, g) == "wrong" for q in range(len(query)) for g in range(len(gallery)))
    assert count_wrong_pairs(task) == wrong


@settings(deadline=None)
@given(searches())
def test_label_pairs__agrees_with_the_metrics_own_matches(search):
    task, query, _ = search
    is_match, _ = label_pairs(task, slice(0, len(query)))
    for number in range(len(query)):
        assert np.flatnonzero(is_match[number]).tolist() == task.matches().of_query(number).tolist()


@settings(deadline=None)
@given(st.lists(st.sampled_from([-np.inf, -0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=30), st.integers(0, 35))
def test_best_entries__is_the_head_of_a_stable_sort(scores, count):
    scores = np.array(scores, dtype=np.float32)
    order = [index for index in np.argsort(-scores, kind="stable") if scores[index] > -np.inf]
    assert best_entries(scores, count).tolist() == order[:count]


def test_pair_blocks__an_unknown_person_is_neither_the_same_nor_another():
    task = make_task([1, -1, 2], [1, -1, 2, 3])
    (block,) = pair_blocks(task, EXACT[:3], EXACT[:4])
    assert block.is_match.tolist() == [[True, False, False, False], [False] * 4, [False, False, True, False]]
    assert block.is_wrong.tolist() == [[False, False, True, True], [False] * 4, [True, False, False, True]]
    assert count_wrong_pairs(task) == 4


def test_pair_blocks__scores_are_cosines_whatever_the_lengths():
    rng = np.random.default_rng(0)
    query, gallery = rng.normal(size=(2, 5)), rng.normal(size=(3, 5))
    (block,) = pair_blocks(make_task([1, 2], [1, 2, 3]), 7 * query, (100 * gallery).tolist())
    lengths = np.outer(np.linalg.norm(query, axis=1), np.linalg.norm(gallery, axis=1))
    np.testing.assert_allclose(block.scores, query @ gallery.T / lengths, atol=1e-6)


@pytest.mark.parametrize(
    ("query", "gallery", "message"),
    [
        (np.eye(2) + 0j, np.eye(2), "query_embeddings of real numbers, received complex128"),
        (np.eye(2), np.eye(2).astype(str), "gallery_embeddings of real numbers"),
        (np.eye(2) * np.nan, np.eye(2), "finite query_embeddings"),
        (np.eye(2), np.ones((2, 3)), "one dimension, received 2 and 3"),
        (np.eye(3, 2), np.eye(2), "expected 2 query_embeddings, one per item of the task, received 3"),
        ([[1, 2], [3]], np.eye(2), "query_embeddings of shape"),
    ],
)
def test_pair_blocks__refuses_at_the_call(query, gallery, message):
    with pytest.raises(ValueError, match=message):
        pair_blocks(make_task([1, 2], [1, 2]), query, gallery)
