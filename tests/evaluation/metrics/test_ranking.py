"""`rank_metrics` against a plain loop over sorted lists, and against cases worked by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmet.evaluation import rank_metrics
from mmet.evaluation.metrics import counting
from mmet.evaluation.metrics.counting import MAX_COMPARED_MATCHES
from mmet.evaluation.metrics.matches import GalleryMatches
from mmet.evaluation.metrics.ranking import rank_blocks

# Rows of ±1 with one or four entries have the length 1 or 2, and every cosine is a multiple of 1/4: float32 holds all
# of it exactly, so that equal scores are equal bits in any order of summation.
EXACT_ROWS = np.array(
    [
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, -1],
        [1, 1, 1, 1, 0],
        [1, 1, 1, -1, 0],
        [1, -1, 0, 1, 1],
        [-1, -1, -1, -1, 0],
        [0, 1, 1, 1, 1],
        [0, 0, 0, 0, 0],
    ],
    dtype=np.float32,
)


def reference_metrics(query, gallery, query_persons, gallery_persons, query_cameras, gallery_cameras):
    """AP, INP and first rank of each query by sorting a list of candidates, in Python's own floats; None without one.

    AP by both formulas; the trapezoids are added up entry by entry, as `compute_AP.m` does.
    """
    results = []
    for row, person, camera in zip(query, query_persons, query_cameras, strict=True):
        candidates = []
        for position, (other, other_person, other_camera) in enumerate(
            zip(gallery, gallery_persons, gallery_cameras, strict=True)
        ):
            same_camera = camera is not None and camera == other_camera != -1
            if other_person == -1 or (other_person == person and same_camera):
                continue
            lengths = float(np.linalg.norm(row.astype(np.float64)) * np.linalg.norm(other.astype(np.float64)))
            score = float(row.astype(np.float64) @ other.astype(np.float64)) / lengths if lengths else 0.0
            candidates.append((-score, position, other_person == person))
        candidates.sort()
        ranks = [rank for rank, (_, _, is_match) in enumerate(candidates, start=1) if is_match]
        results.append(None)
        if ranks:
            mean_precision = sum(num_matches / rank for num_matches, rank in enumerate(ranks, start=1)) / len(ranks)
            area, num_matches, recall, precision = 0.0, 0, 0.0, 1.0
            for rank in range(1, len(candidates) + 1):
                num_matches += rank in ranks
                area += (num_matches / len(ranks) - recall) * (precision + num_matches / rank) / 2
                recall, precision = num_matches / len(ranks), num_matches / rank
            results[-1] = (mean_precision, area, len(ranks) / ranks[-1], ranks[0])
    return results


@st.composite
def retrieval_problems(draw):
    """Small searches full of ties, junk, distractors, unknown cameras and queries without a match."""
    num_query, num_gallery = draw(st.integers(1, 6)), draw(st.integers(1, 24))

    def integers(size, low, high):
        return np.array(draw(st.lists(st.integers(low, high), min_size=size, max_size=size)))

    return {
        "query": EXACT_ROWS[integers(num_query, 0, len(EXACT_ROWS) - 1)],
        "gallery": EXACT_ROWS[integers(num_gallery, 0, len(EXACT_ROWS) - 1)],
        "persons": (integers(num_query, 0, 3), integers(num_gallery, -1, 3)),
        "cameras": draw(st.sampled_from([None, (-1, 1), (1, 1), (-1, 3)])),
        "draw_cameras": lambda low, high: (integers(num_query, low, high), integers(num_gallery, low, high)),
        "options": {
            "max_rank": draw(st.integers(1, 30)),
            "ap": draw(st.sampled_from(["mean-precision", "trapezoid"])),
            "denominator": draw(st.sampled_from(["valid", "all"])),
            "block_bytes": draw(st.sampled_from([1, 100, 2**20])),
            "num_threads": draw(st.sampled_from([1, 3])),
        },
    }


@settings(max_examples=300, deadline=None)
@given(retrieval_problems())
def test_rank_metrics__equals_reference(problem):
    cameras = problem["draw_cameras"](*problem["cameras"]) if problem["cameras"] else (None, None)
    query_persons, gallery_persons = problem["persons"]
    without = ([None] * len(query_persons), [None] * len(gallery_persons))
    reference = reference_metrics(
        problem["query"],
        problem["gallery"],
        query_persons,
        gallery_persons,
        *(without if cameras[0] is None else cameras),
    )
    arguments = (problem["query"], problem["gallery"], query_persons, gallery_persons, *cameras)
    options = problem["options"]
    if not any(reference):
        with pytest.raises(ValueError, match="no query has a true match"):
            rank_metrics(*arguments, **options)
        return
    metrics = rank_metrics(*arguments, **options, return_per_query=True)
    check_metrics(metrics, reference, options)
    assert metrics.num_gallery == np.sum(gallery_persons != -1)


def check_metrics(metrics, reference, options, tolerance=1e-12):
    """Assert that metrics are those of the reference's queries."""
    valid = [query for query in reference if query]
    divisor = len(valid) if options["denominator"] == "valid" else len(reference)
    formula = ["mean-precision", "trapezoid"].index(options["ap"])
    ranks = range(1, options["max_rank"] + 1)
    assert metrics.mAP == pytest.approx(sum(query[formula] for query in valid) / divisor, abs=tolerance)
    assert metrics.mINP == pytest.approx(sum(query[2] for query in valid) / divisor, abs=tolerance)
    curve = [sum(query[3] <= rank for query in valid) / divisor for rank in ranks]
    np.testing.assert_allclose(metrics.cmc, curve, atol=tolerance)
    assert (metrics.num_queries, metrics.num_valid_queries) == (len(reference), len(valid))
    missing = (np.nan,) * 3 + (0,)
    values = metrics.per_query
    np.testing.assert_allclose(values.ap, [(query or missing)[formula] for query in reference], atol=tolerance)
    np.testing.assert_allclose(values.inp, [(query or missing)[2] for query in reference], atol=tolerance)
    assert values.first_rank.tolist() == [(query or missing)[3] for query in reference]


@pytest.mark.parametrize("signal", [0.0, 0.5])
@pytest.mark.parametrize("block_bytes", [1, 300 * 4 * 7, 2**24])
def test_rank_metrics__equals_reference_on_real_valued_embeddings(signal, block_bytes):
    """Unnormalised rows of very different lengths; with `signal`, few wrong candidates are ahead of the matches."""
    rng = np.random.default_rng(0)
    query_persons, gallery_persons = rng.integers(0, 20, 40), rng.integers(-1, 20, 300)
    query_cameras, gallery_cameras = rng.integers(1, 4, 40), rng.integers(1, 4, 300)
    centres = rng.standard_normal((21, 24))
    query = signal * centres[query_persons] + rng.standard_normal((40, 24)) * 0.3
    gallery = signal * centres[gallery_persons] + rng.standard_normal((300, 24)) * 0.3
    query *= rng.uniform(0.01, 100, (40, 1))
    gallery *= 10.0 ** rng.uniform(-8, 8, (300, 1))
    options = {"max_rank": 50, "ap": "mean-precision", "denominator": "valid"}
    cameras = (query_cameras, gallery_cameras)
    reference = reference_metrics(query, gallery, query_persons, gallery_persons, *cameras)
    metrics = rank_metrics(
        query, gallery, query_persons, gallery_persons, *cameras, block_bytes=block_bytes, return_per_query=True
    )
    check_metrics(metrics, reference, options, tolerance=1e-9)


@pytest.mark.parametrize("num_matches", [MAX_COMPARED_MATCHES, MAX_COMPARED_MATCHES + 1, 400])
def test_rank_metrics__many_matches_with_ties(num_matches):
    """Beyond some number of matches a query's scores are sorted instead; ties are broken by position in either way."""
    rng = np.random.default_rng(num_matches)
    persons = rng.permutation(np.repeat([1, 2], [num_matches, 600]))
    rows = EXACT_ROWS[rng.integers(0, len(EXACT_ROWS), len(persons))]
    reference = reference_metrics(EXACT_ROWS[:2], rows, [1, 3], persons, [None] * 2, [None] * len(persons))
    metrics = rank_metrics(EXACT_ROWS[:2], rows, [1, 3], persons, return_per_query=True)
    check_metrics(metrics, reference, {"max_rank": 50, "ap": "mean-precision", "denominator": "valid"})


@pytest.mark.parametrize("ordered", [True, False], ids=["by person", "shuffled"])
def test_rank_metrics__comparing_equals_sorting(monkeypatch, ordered):
    """Both ways of counting on the same data, with ties; many persons, uneven counts."""
    rng = np.random.default_rng(3)
    gallery_persons = rng.zipf(1.4, 700) % 150
    gallery_persons = np.sort(gallery_persons) if ordered else gallery_persons
    query_persons = np.repeat(rng.permutation(170), 2)
    cameras = rng.integers(0, 3, len(query_persons)), rng.integers(0, 3, len(gallery_persons))
    query, gallery = (
        EXACT_ROWS[rng.integers(0, len(EXACT_ROWS), len(ids))] for ids in (query_persons, gallery_persons)
    )
    results = []
    for limit in (0, 1000):
        monkeypatch.setattr(counting, "MAX_COMPARED_MATCHES", limit)
        metrics = rank_metrics(query, gallery, query_persons, gallery_persons, *cameras, return_per_query=True)
        results.append(metrics.per_query)
    np.testing.assert_array_equal(results[0].ap, results[1].ap)
    np.testing.assert_array_equal(results[0].inp, results[1].inp)
    np.testing.assert_array_equal(results[0].first_rank, results[1].first_rank)


@pytest.mark.parametrize("num_gallery", [1, 127, 128, 129, 5000])
def test_rank_metrics__counts_every_candidate(num_gallery):
    """One match behind all others, in galleries whose size is and is not a multiple of what is counted together."""
    gallery = np.ones((num_gallery + 1, 2), dtype=np.float32)
    gallery[0] = [0, 1]
    metrics = rank_metrics([[1.0, 0.0]], gallery, [7], [7] + [8] * num_gallery)
    assert metrics.mINP == 1 / (num_gallery + 1)


def test_rank_blocks__are_ranked_as_their_scores_say():
    """Scores by hand: query 0 finds its match second, query 1 first and third."""
    matches = GalleryMatches(np.array([1, 2]), np.array([2, 1, 2]))
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1]], dtype=np.float32)
    for size in (1, 2):
        blocks = (scores[start : start + size].copy() for start in range(0, 2, size))
        metrics = rank_blocks(blocks, matches, max_rank=2, return_per_query=True)
        assert metrics.per_query.ap.tolist() == pytest.approx([1 / 2, (1 + 2 / 3) / 2])
        assert metrics.cmc.tolist() == [0.5, 1]


@pytest.mark.parametrize("shapes", [[(1, 3)], [(2, 3), (1, 3)], [(2, 2)]])
def test_rank_blocks__rejects_scores_that_are_not_one_row_a_query(shapes):
    matches = GalleryMatches(np.array([1, 2]), np.array([2, 1, 2]))
    with pytest.raises(ValueError, match="expected scores of 2 queries"):
        rank_blocks([np.zeros(shape, dtype=np.float32) for shape in shapes], matches)


def test_rank_metrics__worked_by_hand():
    """One query of person 7 in camera 1. Gallery by falling score, with what the protocol makes of each entry:

    7 cam 1 (removed), -1 junk (ignored), 3 (wrong, rank 1), 7 cam 2 (match, rank 2), 0 distractor (wrong, rank 3),
    7 cam 3 (match, rank 4). AP = (1/2 + 2/4) / 2, INP = 2/4, first match at rank 2.
    """
    angles = np.linspace(0, 1, 6)
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    arguments = ([[1.0, 0.0]], gallery, [7], [7, -1, 3, 7, 0, 7], [1], [1, 2, 2, 2, 2, 3])
    metrics = rank_metrics(*arguments, max_rank=5)
    assert metrics.mAP == pytest.approx(0.5)
    trapezoids = ((0 / 1 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2
    assert rank_metrics(*arguments, ap="trapezoid").mAP == pytest.approx(trapezoids)
    assert metrics.mINP == pytest.approx(0.5)
    assert metrics.cmc.tolist() == [0, 1, 1, 1, 1]
    assert (metrics.rank(1), metrics.rank(2)) == (0, 1)
    assert metrics.num_gallery == 5


@pytest.mark.parametrize(("persons", "expected"), [([1, 2, 2], 1.0), ([2, 1, 2], 1 / 2), ([2, 2, 1], 1 / 3)])
def test_rank_metrics__equal_scores_keep_gallery_order(persons, expected):
    """A model that gives everything the same embedding must not look good by luck of the sort."""
    metrics = rank_metrics(np.ones((1, 4)), np.ones((3, 4)), [1], persons)
    assert metrics.mAP == pytest.approx(expected)


def test_rank_metrics__unknown_camera_removes_nothing():
    metrics = rank_metrics([[1.0, 0]], [[1.0, 0], [0, 1.0]], [5], [5, 6], [-1], [-1, -1])
    assert (metrics.num_valid_queries, metrics.mAP) == (1, 1.0)


def test_rank_metrics__queries_without_match_are_counted_and_skipped():
    metrics = rank_metrics(np.eye(3), np.eye(3), [1, 2, 99], [1, 2, 3])
    assert (metrics.num_queries, metrics.num_valid_queries, metrics.mAP) == (3, 2, 1.0)


def test_rank_metrics__torch_and_numpy_agree():
    generator = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(9, 16, generator=generator), torch.randn(50, 16, generator=generator)
    query_persons, gallery_persons = torch.arange(9) % 5, torch.arange(50) % 5
    from_torch = rank_metrics(query.requires_grad_(), gallery, query_persons, gallery_persons)
    from_numpy = rank_metrics(query.detach().numpy(), gallery.numpy(), query_persons.numpy(), gallery_persons.numpy())
    assert from_torch.mAP == from_numpy.mAP
    half = rank_metrics(query.bfloat16(), gallery.bfloat16(), query_persons, gallery_persons)
    assert half.mAP == pytest.approx(from_torch.mAP, abs=0.02)


def test_rank_metrics__leaves_its_inputs_alone():
    query, gallery = np.full((2, 3), 2, np.float32), np.full((4, 3), 3, np.float32)
    rank_metrics(query, gallery, [1, 2], [1, 2, -1, 1])
    assert (query == 2).all()
    assert (gallery == 3).all()


def test_rank_metrics__one_camera_explains_itself():
    with pytest.raises(ValueError, match=r"query's own camera.*no-camera"):
        rank_metrics(np.eye(2), np.eye(2), [1, 2], [1, 2], [1, 1], [1, 1])


def test_rank_metrics__no_common_person_explains_itself():
    with pytest.raises(ValueError, match="share no person id"):
        rank_metrics(np.eye(2), np.eye(2), [1, 2], [3, -1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("side", [0, 1])
def test_rank_metrics__rejects_non_finite_embeddings(bad, side):
    embeddings = [np.eye(3), np.eye(3)]
    embeddings[side][1, 2] = bad
    with pytest.raises(ValueError, match=r"finite (query|gallery)_embeddings.*first is row 1"):
        rank_metrics(*embeddings, [0, 1, 2], [0, 1, 2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.eye(2), np.eye(3), [0, 1], [0, 1, 2]), "one dimension, received 2 and 3"),
        ((np.eye(2), np.eye(2), [0, 1, 2], [0, 1]), "expected 2 query_person_ids.*received 3"),
        ((np.eye(2), np.eye(2), [0, 1], [0]), "expected 2 gallery_person_ids.*received 1"),
        ((np.ones(2), np.eye(2), [0, 1], [0, 1]), r"query_embeddings of shape.*\(2,\)"),
        ((np.eye(2), np.eye(2), [0, 1], [0, 1], [1, 1]), "gallery_camera_ids is missing"),
        ((np.eye(2), np.eye(2), [0, 1], [0, 1], None, [1, 1]), "query_camera_ids is missing"),
        ((np.eye(2), np.eye(2), [0, 1], [0, 1], [1, 1], [1]), "expected 2 gallery_camera_ids.*received 1"),
        ((np.eye(2), np.eye(2), [0.5, 1.5], [0, 1]), "integer query_person_ids, received float64"),
        ((np.zeros((0, 2)), np.eye(2), [], [0, 1]), "no query"),
        ((np.eye(2), np.zeros((0, 2)), [0, 1], []), "no query"),
    ],
)
def test_rank_metrics__rejects_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        rank_metrics(*arguments)


def test_rank_metrics__rejects_max_rank_and_rank_out_of_range():
    with pytest.raises(ValueError, match="max_rank: expected a whole number of at least 1, received 0"):
        rank_metrics(np.eye(2), np.eye(2), [0, 1], [0, 1], max_rank=0)
    metrics = rank_metrics(np.eye(2), np.eye(2), [0, 1], [0, 1], max_rank=5)
    for k in (0, 6):
        with pytest.raises(ValueError, match=f"rank from 1 to 5.*received {k}"):
            metrics.rank(k)


def test_rank_metrics__memory_does_not_grow_with_queries_times_gallery():
    """2,000 × 20,000 scores are 160 MB in float32; held are a block of 1 MB, room to compare and the ids."""
    rng = np.random.default_rng(0)
    query, gallery = (rng.standard_normal((size, 4), dtype=np.float32) for size in (2_000, 20_000))
    persons = rng.integers(0, 500, 2_000), rng.integers(0, 500, 20_000)
    tracemalloc.start()
    try:
        rank_metrics(query, gallery, *persons, block_bytes=2**20, num_threads=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * 2**20


@pytest.mark.parametrize("option", [{"ap": "area"}, {"denominator": "most"}])
def test_rank_metrics__rejects_unknown_options(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))}: expected one of"):
        rank_metrics(np.eye(2), np.eye(2), [0, 1], [0, 1], **option)


@pytest.mark.parametrize("max_rank", [10**12, 2**70])
def test_rank_metrics__a_curve_far_beyond_the_gallery_ends_with_it(max_rank):
    metrics = rank_metrics(np.eye(3), np.eye(3)[[1, 0, 2]], [0, 1, 2], [0, 1, 2], max_rank=max_rank)
    assert metrics.cmc.tolist() == pytest.approx([1 / 3, 1, 1])
    assert metrics.rank(10) == 1


@pytest.mark.parametrize("value", [1.5, True, float("nan"), "5", 0, None])
@pytest.mark.parametrize("option", ["max_rank", "block_bytes"])
def test_rank_metrics__options_are_whole_numbers(option, value):
    with pytest.raises(ValueError, match=f"{option}: expected a whole number"):
        rank_metrics(np.eye(2), np.eye(2), [0, 1], [0, 1], **{option: value})


@pytest.mark.parametrize("convert", [lambda a: a.astype(complex), lambda a: torch.tensor(a, dtype=torch.complex64)])
def test_rank_metrics__refuses_complex_embeddings(convert):
    with pytest.raises(ValueError, match=r"real numbers, received .*complex"):
        rank_metrics(convert(np.eye(2)), np.eye(2), [0, 1], [0, 1])


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.uint16, np.float64])
def test_rank_metrics__takes_every_real_dtype(dtype):
    assert rank_metrics(np.eye(2).astype(dtype), np.eye(2), [0, 1], [0, 1]).mAP == 1


def test_rank_metrics__ids_beyond_int64_are_refused():
    with pytest.raises(ValueError, match="query_person_ids of at most"):
        rank_metrics(np.eye(2), np.eye(2), np.array([0, 2**64 - 1], np.uint64), [0, 1])


def test_rank_metrics__rows_that_are_nearly_of_one_length_are_normalised():
    """The wrong entry is half a per cent longer than the right one and points a little past the query."""
    gallery = [[1.005 * np.cos(0.05), 1.005 * np.sin(0.05)], [1, 0]]
    assert rank_metrics([[1, 0]], gallery, [1], [2, 1]).mAP == 1
