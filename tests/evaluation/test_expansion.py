"""Query expansion and merged queries against plain loops, and against cases worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pairs import make_task, pair_kind, searches

from mmet.evaluation import build_task
from mmet.evaluation.expansion import expand_queries, merge_queries, normalized


def merged_by_hand(persons, places, embeddings) -> list[tuple[int, np.ndarray]]:
    """Groups in the order of their first query: its number, and the normalised mean of all in the group."""
    groups: dict[tuple, list[int]] = {}
    for number, (person, place) in enumerate(zip(persons.tolist(), places.tolist(), strict=True)):
        groups.setdefault((person, place) if person != -1 else (number,), []).append(number)
    means = [(members[0], embeddings[members].astype(np.float64).mean(axis=0)) for members in groups.values()]
    return [(first, mean / (np.linalg.norm(mean) or 1)) for first, mean in means]


@settings(max_examples=50, deadline=None)
@given(searches(), st.integers(1, 20), st.booleans())
def test_expand_queries__is_the_mean_of_query_and_first_entries(search, count, with_unknown):
    """Entries that the protocol removes, and pairs with an unknown person, are in no query's gallery."""
    task, query, gallery = search
    if with_unknown:
        task.query.person_ids[::3] = task.gallery.person_ids[::4] = -1
    expanded = expand_queries(task, query, gallery, count=count)
    scores = query @ gallery.T
    for number in range(len(query)):
        kept = [
            entry
            for entry in range(len(gallery))
            if -1 not in (task.query.person_ids[number], task.gallery.person_ids[entry])
            and pair_kind(task, number, entry) != "removed"
        ]
        first = sorted(kept, key=lambda entry: (-scores[number, entry], entry))[:count]
        mean = np.mean([query[number], *(gallery[entry] for entry in first)], axis=0)
        np.testing.assert_allclose(expanded[number], mean / (np.linalg.norm(mean) or 1), atol=1e-6)
    assert expanded.dtype == np.float32


def test_expand_queries__worked_by_hand():
    """Of three entries that score 0.8, 0.6 and 0 the first is removed: the same person in the same camera."""
    task = make_task([1], [1, 2, 3], [5], [5, 5, 6])
    gallery = np.array([[0.8, 0.6], [0.6, -0.8], [0, 1]], dtype=np.float32)
    (received,) = expand_queries(task, np.array([[1, 0]], dtype=np.float32), gallery, count=1)
    np.testing.assert_allclose(received, np.array([1.6, -0.8]) / np.hypot(1.6, 0.8), rtol=1e-6)


def test_expand_queries__an_empty_gallery_leaves_the_query_as_it_is():
    query, gallery = np.array([[0.6, 0.8]], np.float32), np.eye(2, dtype=np.float32)
    (received,) = expand_queries(make_task([1], [1, 1], [5], [5, 5]), query, gallery, count=3)
    np.testing.assert_allclose(received, query[0], rtol=1e-6)


def test_expand_queries__changes_neither_queries_nor_gallery():
    query, gallery = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)
    expand_queries(make_task([1, 2], [1, 2]), query, gallery, count=2)
    np.testing.assert_array_equal(query, np.eye(2))
    np.testing.assert_array_equal(gallery, np.eye(2))


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2", None])
def test_expand_queries__wants_a_whole_number_of_entries(count):
    with pytest.raises(ValueError, match="count: expected a whole number of at least 1"):
        expand_queries(make_task([1], [1]), np.ones((1, 1)), np.ones((1, 1)), count=count)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.booleans(), st.integers(0, 2**32 - 1))
def test_merge_queries__one_a_person_and_camera_or_picture(num_queries, by_picture, seed):
    """Unknown persons stay alone. Without a rule of the protocol the camera of the picture counts."""
    rng = np.random.default_rng(seed)
    persons, places = rng.integers(-1, 3, num_queries), rng.integers(-1, 3, num_queries)
    embeddings = normalized(rng.standard_normal((num_queries, 4)).astype(np.float32))
    task = make_task(persons, [1], *((places, [-1]) if by_picture else (None, None)))
    if not by_picture:
        dataset = Dataset.from_dict({"camera_id": places.tolist()})
        task = replace(task, query=replace(task.query, dataset=dataset))
    merged, received = merge_queries(task, embeddings)
    expected = merged_by_hand(persons, places, embeddings)
    firsts = [first for first, _ in expected]
    assert merged.query.image_index.tolist() == firsts
    assert merged.query.person_ids.tolist() == persons[firsts].tolist()
    assert len(merged.query) == len(merged.query.caption_index) == len(received)
    np.testing.assert_allclose(received, [mean for _, mean in expected], atol=1e-6)
    if by_picture:
        assert merged.query_exclusion_ids.tolist() == places[firsts].tolist()
    else:
        assert merged.query_exclusion_ids is None


def test_merge_queries__one_a_person_and_camera():
    task = make_task([2, 1, 2, 2], [1, 2], [1, 1, 1, 2], [2, 2])
    query = np.eye(4, dtype=np.float32)
    merged, embeddings = merge_queries(task, query)
    assert merged.query.person_ids.tolist() == [2, 1, 2]
    assert merged.query_exclusion_ids.tolist() == [1, 1, 2]
    assert merged.query.image_index.tolist() == [0, 1, 3]
    half = np.sqrt(0.5)
    np.testing.assert_allclose(embeddings, [[half, 0, half, 0], [0, 1, 0, 0], [0, 0, 0, 1]], atol=1e-6)


def test_merge_queries__captions_by_person_or_by_image(text_dataset):
    """Two images a person with 2, 1, 3, 1, 0 and 2 captions, no cameras."""
    for pair, groups in ((("text", "image"), [1, 2, 3]), (("text", "text"), [1, 1, 2, 2, 3])):
        task = build_task(text_dataset, *pair)
        merged, embeddings = merge_queries(task, np.eye(9, dtype=np.float32))
        assert merged.query.person_ids.tolist() == groups
        assert len(embeddings) == len(merged.query) == len(groups)


def test_merge_queries__opposite_embeddings_have_no_mean():
    """Two queries that cancel out leave a row of zeros, not NaN."""
    _, received = merge_queries(make_task([1, 1], [1], [3, 3], [4]), np.array([[1, 0], [-1, 0]], dtype=np.float32))
    assert received.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [(np.eye(3, 2), "2 query_embeddings, one per item"), (np.full((2, 2), np.nan), "finite query_embeddings")],
)
def test_merge_queries__refuses_what_are_not_the_embeddings(embeddings, message):
    with pytest.raises(ValueError, match=message):
        merge_queries(make_task([1, 2], [1]), embeddings)


def test_normalized__rows_of_length_one_and_zeros():
    received = normalized(np.array([[3, 4], [0, 0], [-2, 0]], dtype=np.float32))
    np.testing.assert_allclose(received, [[0.6, 0.8], [0, 0], [-1, 0]], rtol=1e-6)
    assert received.dtype == np.float32
