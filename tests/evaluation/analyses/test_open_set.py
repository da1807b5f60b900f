"""Thresholds against scikit-learn's ROC curve and against the definitions written out as loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pairs import make_task, pair_kind, searches

from mmet.evaluation.analyses.open_set import (
    HighestScores,
    ThresholdScores,
    choose_absent_persons,
    search_open_set,
    verify_pairs,
)

scores_lists = st.lists(st.integers(-4, 4).map(lambda value: value / 4), min_size=1, max_size=40)


def threshold_scores(positives, negatives):
    positives, negatives = (np.array(values, np.float32) for values in (positives, negatives))
    return ThresholdScores(np.sort(positives), -np.sort(-negatives), len(negatives))


@settings(deadline=None)
@given(scores_lists, scores_lists, st.floats(0, 1))
def test_at__is_the_best_point_of_scikit_learns_curve(positives, negatives, rate):
    metrics = pytest.importorskip("sklearn.metrics")
    truth = [1] * len(positives) + [0] * len(negatives)
    fpr, tpr, _ = metrics.roc_curve(truth, [*positives, *negatives], drop_intermediate=False)
    point = threshold_scores(positives, negatives).at(rate)
    assert point.true_positive_rate == pytest.approx(tpr[fpr <= rate].max())
    accepted = [np.mean(np.array(values) >= point.threshold) for values in (positives, negatives)]
    assert accepted[0] == pytest.approx(point.true_positive_rate)  # the threshold does what it says
    assert accepted[1] <= rate


@settings(deadline=None)
@given(scores_lists, st.integers(1, 20), st.integers(1, 7))
def test_highest_scores__keeps_the_head_of_a_sorted_stream(scores, count, chunk):
    highest = HighestScores(count)
    for start in range(0, len(scores), chunk):
        highest.add(np.array(scores[start : start + chunk], np.float32))
    assert highest.descending().tolist() == sorted(scores, reverse=True)[:count]


@settings(max_examples=60, deadline=None)
@given(searches(), st.sampled_from([0.01, 0.1, 0.3, 1.0]))
def test_verify_pairs__all_pairs_but_the_removed_ones(search, rate):
    task, query, gallery = search
    scores = query @ gallery.T
    pairs = {"match": [], "wrong": [], "removed": []}
    for q in range(len(query)):
        for g in range(len(gallery)):
            pairs[pair_kind(task, q, g)].append(scores[q, g])
    if not pairs["wrong"]:
        with pytest.raises(ValueError, match="pairs of different persons"):
            verify_pairs(task, query, gallery)
        return
    verification = verify_pairs(task, query, gallery, max_false_positive_rate=rate)
    assert verification.num_negatives == len(pairs["wrong"])
    assert verification.positives.tolist() == sorted(pairs["match"])
    if pairs["match"]:
        whole = threshold_scores(pairs["match"], pairs["wrong"])
        assert verification.at(rate) == whole.at(rate)
        assert [point.max_false_positive_rate for point in verification.curve(rate)][-1] == pytest.approx(rate)


def test_at__what_is_never_accepted():
    scores = threshold_scores([-np.inf, 0.5], [0.9, 0.1])
    assert scores.at(1.0).true_positive_rate == 0.5
    assert scores.at(0.5).true_positive_rate == 0.5
    assert scores.at(0.0).true_positive_rate == 0


def test_at__beyond_what_is_held():
    scores = ThresholdScores(np.array([0.5], np.float32), np.array([0.9], np.float32), 100)
    assert scores.at(0.001).true_positive_rate == 0
    assert scores.at(0.001).threshold == np.inf
    with pytest.raises(ValueError, match=r"below 0\.01, received 0\.5"):
        scores.at(0.5)


@settings(max_examples=60, deadline=None)
@given(searches(), st.sampled_from([0.2, 0.5]), st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 3))
def test_search_open_set__fnir_at_fpir_by_the_definition(search, share, rate, seed):
    task, query, gallery = search
    num_matches, _ = task.matches().counts()
    if len(np.unique(task.query.person_ids[num_matches > 0])) < 2:
        with pytest.raises(ValueError, match="at least two persons"):
            search_open_set(task, query, gallery, absent_share=share, seed=seed)
        return
    absent = choose_absent_persons(task, share, seed).tolist()
    scores = query @ gallery.T
    mated, non_mated = [], []  # (best mate, best other), best anyone
    for q in range(len(query)):
        if num_matches[q] == 0:
            continue
        kinds = [pair_kind(task, q, g) for g in range(len(gallery))]
        others = [
            scores[q, g]
            for g, kind in enumerate(kinds)
            if kind == "wrong" and task.gallery.person_ids[g] not in absent
        ]
        best_other = max(others, default=-np.inf)
        if task.query.person_ids[q] in absent:
            non_mated.append(best_other)
        else:
            mated.append((max(scores[q, g] for g, kind in enumerate(kinds) if kind == "match"), best_other))
    result = search_open_set(task, query, gallery, absent_share=share, seed=seed)
    assert result.num_absent_persons == len(absent)
    assert result.any_rank.num_negatives == len(non_mated)
    candidates = sorted({*non_mated, *(mate for mate, _ in mated), np.inf})
    thresholds = [t for t in candidates if np.mean(np.array(non_mated) >= t) <= rate]
    fnir = min(np.mean([mate < t for mate, _ in mated]) for t in thresholds)
    fnir_first = min(np.mean([mate < t or mate <= other for mate, other in mated]) for t in thresholds)
    assert 1 - result.any_rank.at(rate).true_positive_rate == pytest.approx(fnir)
    assert 1 - result.first_rank.at(rate).true_positive_rate == pytest.approx(fnir_first)


def test_choose_absent_persons__seeded_and_never_all():
    task = make_task(range(1, 11), range(1, 11))
    first, again, other = (choose_absent_persons(task, 0.3, seed).tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 3
    assert len(choose_absent_persons(task, 0.999, 0)) == 9
    assert len(choose_absent_persons(task, 0.001, 0)) == 1
    with pytest.raises(ValueError, match=r"absent_share: .*above 0 and below 1, received 1\.5"):
        choose_absent_persons(task, 1.5, 0)
