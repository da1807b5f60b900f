"""Searches with options against rankings that are written out in full."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pairs import EXACT, make_task, pair_kind, searches

from mmet.evaluation import EvaluationOptions, ModelSystem, RerankParameters, build_task, k_reciprocal_rerank
from mmet.evaluation.expansion import expand_queries, merge_queries
from mmet.evaluation.protocols import MODALITIES
from mmet.evaluation.rescoring import match_ranks, rescore_first
from mmet.evaluation.search import run_search


def full_ranking(task, query, gallery, number):
    """Gallery positions, best first, without the removed ones."""
    scores = gallery @ query[number]
    kept = [entry for entry in range(len(gallery)) if pair_kind(task, number, entry) != "removed"]
    return sorted(kept, key=lambda entry: (-scores[entry], entry))


def metrics_of(task, rankings):
    """mAP, mINP and Rank-1 of full rankings, by their definitions."""
    precisions, penalties, firsts = [], [], []
    for number, ranking in enumerate(rankings):
        ranks = [place for place, entry in enumerate(ranking, 1) if pair_kind(task, number, entry) == "match"]
        if ranks:
            precisions.append(np.mean([n / rank for n, rank in enumerate(ranks, 1)]))
            penalties.append(len(ranks) / ranks[-1])
            firsts.append(ranks[0] == 1)
    return [np.mean(values) for values in (precisions, penalties, firsts)]


def matcher(task, pairs):
    """Log-odds that depend on nothing but the pair's numbers; some tie."""
    return ((pairs[:, 0] * 7 + pairs[:, 1] * 3) % 5).astype(np.float32) - 2


def has_match(task):
    return bool(task.matches().counts()[0].any())


@settings(deadline=None, max_examples=80)
@given(searches(), st.integers(1, 14), st.sampled_from([0.0, 0.4, 1.0, -1.0]))
def test_run_search__rescored_entries_are_reordered_and_the_others_keep_their_ranks(search, count, weight):
    task, query, gallery = search
    if not has_match(task):
        return
    options = EvaluationOptions(itm_top_k=count, itm_weight=weight)
    result = run_search(task, query, gallery, options, matcher=matcher)
    rankings = []
    for number in range(len(query)):
        ranking = full_ranking(task, query, gallery, number)
        odds = matcher(task, np.array([[number, entry] for entry in range(len(gallery))]))
        combined = gallery @ query[number] + np.float32(weight) * odds
        head = sorted(ranking[:count], key=lambda entry: (-combined[entry], ranking.index(entry)))
        rankings.append([*head, *ranking[count:]])
        listed = result.first_entries(number, len(gallery))
        assert [entry for entry, _, _ in listed] == rankings[-1]
        assert [match for _, _, match in listed] == [
            pair_kind(task, number, entry) == "match" for entry in rankings[-1]
        ]
    metrics = result.metrics
    np.testing.assert_allclose([metrics.mAP, metrics.mINP, metrics.rank(1)], metrics_of(task, rankings))
    assert np.nanmean(metrics.per_query.ap) == pytest.approx(metrics.mAP)
    assert np.isnan(metrics.per_query.ap).sum() == metrics.num_queries - metrics.num_valid_queries


@settings(deadline=None, max_examples=50)
@given(searches(ties=False), st.integers(1, 4))
def test_run_search__expanded_and_merged_queries(search, count):
    task, query, gallery = search
    if not has_match(task):
        return
    merged, embeddings = merge_queries(task, query)
    expanded = expand_queries(merged, embeddings, gallery, count=count)
    result = run_search(task, query, gallery, EvaluationOptions(multi_query=True, query_expansion=count))
    rankings = [full_ranking(merged, expanded, gallery, number) for number in range(len(expanded))]
    metrics = result.metrics
    np.testing.assert_allclose([metrics.mAP, metrics.mINP, metrics.rank(1)], metrics_of(merged, rankings))
    assert metrics.num_queries == len(merged.query)


@settings(deadline=None, max_examples=30)
@given(searches(ties=False))
def test_run_search__reranked_is_the_order_of_the_published_distances(search):
    task, query, gallery = search
    if not has_match(task):
        return
    parameters = RerankParameters(k1=3, k2=2)
    result = run_search(task, query, gallery, EvaluationOptions(rerank=parameters))
    distances = k_reciprocal_rerank(query, gallery, k1=3, k2=2, lambda_value=0.3)
    rankings = []
    for number in range(len(query)):
        kept = [entry for entry in range(len(gallery)) if pair_kind(task, number, entry) != "removed"]
        rankings.append(sorted(kept, key=lambda entry, row=distances[number]: (row[entry], entry)))
        head = result.first_entries(number, 3)
        assert [entry for entry, _, _ in head] == rankings[-1][:3]
        np.testing.assert_allclose([-score for _, score, _ in head], distances[number][rankings[-1][:3]], atol=1e-6)
    metrics = result.metrics
    np.testing.assert_allclose([metrics.mAP, metrics.mINP, metrics.rank(1)], metrics_of(task, rankings))


SEARCHES = {
    "plain": EvaluationOptions(),
    "merged and expanded": EvaluationOptions(multi_query=True, query_expansion=2),
    "reranked": EvaluationOptions(rerank=RerankParameters(k1=3, k2=2)),
    "rescored": EvaluationOptions(itm_top_k=3),
}


@settings(deadline=None, max_examples=80)
@given(searches(ties=False), st.sampled_from(["market", "market-matlab"]), st.sampled_from(sorted(SEARCHES)))
def test_headline_values__have_the_metrics_as_their_means(search, protocol, kind):
    """Whatever formula and denominator the protocol asks for, intervals are about the figure that is reported."""
    task, query, gallery = search
    if not has_match(task):
        return
    result = run_search(replace(task, protocol=protocol), query, gallery, SEARCHES[kind], matcher=matcher)
    values = result.headline_values()
    metrics = result.metrics
    expected = {"mAP": metrics.mAP, "mINP": metrics.mINP, **{f"rank{k}": metrics.rank(k) for k in (1, 5, 10)}}
    assert {name: np.nanmean(figures) for name, figures in values.items()} == pytest.approx(expected)
    assert all(len(figures) == len(result.task.query) for figures in values.values())


@given(st.lists(st.sampled_from([-np.inf, 0.0, 0.5, 1.0]), min_size=1, max_size=20), st.data())
@settings(deadline=None)
def test_match_ranks__are_the_places_in_a_stable_sort(scores, data):
    scores = np.array(scores, np.float32)
    matches = np.array(sorted(data.draw(st.sets(st.integers(0, len(scores) - 1), min_size=1))))
    order = np.argsort(-scores, kind="stable").tolist()
    assert match_ranks(scores, matches).tolist() == sorted(order.index(match) + 1 for match in matches)


def test_rescore_first__asks_for_no_pair_twice(text_dataset):
    task = build_task(text_dataset, "text", "image")
    calls = []

    def remember(task, pairs):
        calls.append(pairs)
        return np.zeros(len(pairs), np.float32)

    query, gallery = np.eye(9, 9, dtype=np.float32), np.eye(6, 9, dtype=np.float32)
    rescored = rescore_first(task, query, gallery, remember, count=4, weight=1.0)
    assert rescored.positions.shape == (9, 4)
    assert len(np.unique(calls[0], axis=0)) == len(calls[0]) == 36


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query_expansion": -1}, "query_expansion: .*at least 0, received -1"),
        ({"itm_top_k": -5}, "itm_top_k: .*at least 0"),
        ({"itm_top_k": 5, "multi_query": True}, "choose one of the two"),
        ({"itm_weight": float("nan")}, "itm_weight: expected a number, received"),
    ],
)
def test_evaluation_options__reject(options, message):
    with pytest.raises(ValueError, match=message):
        EvaluationOptions(**options)


def test_run_search__records_what_it_did(tmp_path):
    task, vectors = make_task([1, 2], [1, 2, 2]), EXACT[:3]
    asked = EvaluationOptions(itm_top_k=2, itm_weight=0.5)
    plain = run_search(task, vectors[:2], vectors)
    without_matcher = run_search(task, vectors[:2], vectors, asked)
    assert without_matcher.options == plain.options == EvaluationOptions()
    assert without_matcher.reordered is None
    assert run_search(task, vectors[:2], vectors, EvaluationOptions(), matcher=matcher).reordered is None
    rescored = run_search(task, vectors[:2], vectors, asked, matcher=matcher)
    assert (rescored.options, rescored.reordered is None) == (asked, False)


def test_run_search__reranked_entries_end_where_the_gallery_does():
    task = make_task([1, 2], [1, 2, 2])
    options = EvaluationOptions(rerank=RerankParameters(k1=2, k2=1))
    reordered = run_search(task, EXACT[:2], EXACT[:3], options).reordered
    assert np.sort(reordered.positions[:, :3]).tolist() == [[0, 1, 2], [0, 1, 2]]
    assert np.isfinite(reordered.scores[:, :3]).all()
    assert (reordered.positions[:, 3:] == -1).all()
    assert (reordered.scores[:, 3:] == -np.inf).all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (EvaluationOptions(itm_top_k=2), "expected itm_top_k 0 with it"),
        (EvaluationOptions(rerank=RerankParameters(k1=2, k2=1)), "expected no rerank with it"),
    ],
)
def test_run_search__protocols_that_draw_galleries_are_not_reordered(options, expected):
    cameras = np.array([1, 1]), np.array([2, 2])
    task = replace(make_task([1, 2], [1, 2], *cameras), protocol="cuhk03-classic")
    with pytest.raises(ValueError, match=f"protocol 'cuhk03-classic' draws galleries of its own: {expected}"):
        run_search(task, EXACT[:2], EXACT[:2], options, matcher=matcher)
    assert run_search(task, EXACT[:2], EXACT[:2], matcher=matcher).metrics.mAP == 1.0


@pytest.mark.parametrize("cameras", [(None, None), ([1, 1], [2, 1, 2, 1])])
def test_run_search__unknown_persons_are_in_no_gallery(cameras):
    vectors = EXACT[[0, 1, 0, 1]]  # unknown persons that look like the known ones and come first
    if cameras[0]:
        vectors[3] = EXACT[2]  # the second query's own camera
    result = run_search(make_task([1, 2], [-1, -1, 1, 2], *cameras), EXACT[:2], vectors)
    assert result.metrics.mAP == 1.0
    assert result.metrics.num_valid_queries == (1 if cameras[0] else 2)
    assert (len(result.task.gallery), len(result.gallery_embeddings)) == (2, 2)


@pytest.mark.parametrize("query", MODALITIES)
@pytest.mark.parametrize("gallery", MODALITIES)
@pytest.mark.parametrize("options", [EvaluationOptions(), EvaluationOptions(multi_query=True, query_expansion=1)])
def test_model_system__all_nine_pairs_of_modalities(
    text_dataset, colour_model, colour_processor, query, gallery, options
):
    """A model that reads colours off pictures and words finds everyone, whatever is searched by whatever."""
    system = ModelSystem(colour_model, colour_processor)
    (result,) = system.evaluate([build_task(text_dataset, query, gallery)], options)
    assert result.metrics.mAP == 1.0
    assert (result.task.query.modality, result.task.gallery.modality) == (query, gallery)


@settings(max_examples=10)
@given(searches(), st.sampled_from([{}, {"multi_query": True, "query_expansion": 2}, {"rerank": RerankParameters()}]))
def test_run_search__embeddings_pass_five_files_at_most(search, changes):
    """From the search to the numbers: whoever reads the way of a query opens few files."""
    task, query, gallery = search
    if not has_match(task):
        return
    files = set()

    def watch(frame, event, _):
        values = frame.f_locals.values() if event == "call" and "/mmet/" in frame.f_code.co_filename else ()
        if any(isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind == "f" for value in values):
            files.add(frame.f_code.co_filename)

    sys.setprofile(watch)
    try:
        run_search(task, query, gallery, EvaluationOptions(**changes))
    finally:
        sys.setprofile(None)
    assert 2 <= len(files) <= 5, files
