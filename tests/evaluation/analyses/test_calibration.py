"""Match probabilities: fitted as scikit-learn fits, stored as JSON, right on data whose probabilities are known."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pairs import make_task, searches

from mmet.evaluation.analyses.calibration import (
    MatchCalibration,
    PairSample,
    fit_calibration,
    read_calibrations,
    sample_pairs,
    save_calibrations,
)
from mmet.evaluation.analyses.reliability import Reliability, measure_reliability


def make_sample(count=20_000, seed=0):
    """Scores whose true match probability is sigmoid(6 s - 2)."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(-1, 1, count).astype(np.float32)
    is_match = rng.random(count) < true_probability(scores)
    return PairSample(scores, is_match, np.ones(count))


def true_probability(scores):
    return 1 / (1 + np.exp(-(6 * np.asarray(scores) - 2)))


@pytest.mark.parametrize(("method", "tolerance"), [("isotonic", 0.06), ("platt", 0.015)])
def test_fit_calibration__finds_known_probabilities(method, tolerance):
    pytest.importorskip("sklearn")
    calibration = fit_calibration(make_sample(), method=method)
    grid = np.linspace(-0.95, 0.95, 39)
    np.testing.assert_allclose(calibration(grid), true_probability(grid), atol=tolerance)
    assert calibration.prior == pytest.approx(make_sample().is_match.mean())
    assert np.shape(calibration(0.3)) == ()
    assert 0 <= calibration(-50) <= calibration(50) <= 1


def test_fit_calibration__isotonic_is_scikit_learns_own_prediction():
    isotonic = pytest.importorskip("sklearn.isotonic")
    sample = make_sample(500)
    rng = np.random.default_rng(1)
    sample = PairSample(sample.scores, sample.is_match, rng.uniform(0.5, 3, 500))
    scores = sample.scores.astype(np.float64)
    reference = isotonic.IsotonicRegression(out_of_bounds="clip").fit(scores, sample.is_match, sample.weights)
    grid = np.linspace(-2, 2, 801)
    np.testing.assert_allclose(fit_calibration(sample, method="isotonic")(grid), reference.predict(grid), atol=1e-6)


def test_fit_calibration__platt_minimises_the_likelihood_of_platts_targets():
    pytest.importorskip("sklearn")
    optimize = pytest.importorskip("scipy.optimize")
    sample = make_sample(300)
    sample = PairSample(sample.scores, sample.is_match, np.where(sample.is_match, 1.0, 7.0))
    positives, negatives = sample.is_match.sum(), 7 * (~sample.is_match).sum()
    target = np.where(sample.is_match, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters):
        z = parameters[0] * sample.scores + parameters[1]
        return np.sum(sample.weights * (np.logaddexp(0, z) - target * z))

    best = optimize.minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}).x
    calibration = fit_calibration(sample, method="platt")
    assert [calibration.slope, calibration.intercept] == pytest.approx(best.tolist(), abs=1e-3)


def test_fit_calibration__names_methods_and_the_missing_package(monkeypatch):
    with pytest.raises(ValueError, match=r"isotonic, platt, received 'magic'"):
        fit_calibration(make_sample(10), method="magic")
    monkeypatch.setitem(sys.modules, "sklearn.isotonic", None)
    with pytest.raises(ValueError, match=r"pip install 'mmet\[calibration\]'"):
        fit_calibration(make_sample(10), method="isotonic")


@settings(deadline=None, max_examples=50)
@given(searches(), st.integers(1, 60))
def test_sample_pairs__keeps_matches_and_stands_for_all_others(search, max_wrong):
    task, query, gallery = search
    scores = query @ gallery.T
    same = task.query.person_ids[:, None] == task.gallery.person_ids
    num_matches = int(task.matches().counts()[0].sum())
    num_wrong = int((~same).sum())
    if num_matches == 0 or num_wrong == 0:
        with pytest.raises(ValueError, match="at least two persons"):
            sample_pairs(task, query, gallery, max_wrong=max_wrong, seed=1)
        return
    sample = sample_pairs(task, query, gallery, max_wrong=max_wrong, seed=1)
    assert sample.is_match.sum() == num_matches
    assert sample.weights[~sample.is_match].sum() == pytest.approx(num_wrong)
    assert (sample.weights[sample.is_match] == 1).all()
    assert set(sample.scores[~sample.is_match].tolist()) <= set(scores[~same].tolist())


def test_sample_pairs__one_person_is_not_enough():
    task = make_task([1, 1], [1, 1])
    with pytest.raises(ValueError, match="at least two persons; received 4 pairs of the same and 0 of different"):
        sample_pairs(task, np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32))


CALIBRATIONS = {
    ("image", "image"): MatchCalibration("isotonic", 0.1, scores=(-0.5, 0.0, 0.7), probabilities=(0.0, 0.2, 1.0)),
    ("text", "image"): MatchCalibration("platt", 0.01, slope=7.5, intercept=-3.0, about={"data": "x"}),
}


def test_load__gives_back_what_was_saved(tmp_path):
    save_calibrations(tmp_path / "calibration.json", CALIBRATIONS, weights="abc")
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]
    read, weights = read_calibrations(tmp_path)
    assert (read, weights) == (CALIBRATIONS, "abc")
    loaded = MatchCalibration.load(tmp_path, query="text", gallery="image")
    assert loaded(0.4) == pytest.approx(0.5)
    assert MatchCalibration.load(tmp_path / "calibration.json")([0.35, 9.0]).tolist() == pytest.approx([0.6, 1.0])
    with pytest.raises(ValueError, match=r"both→both, it holds image→image, text→image"):
        MatchCalibration.load(tmp_path, query="both", gallery="both")


def test_load__needs_no_scikit_learn(tmp_path, monkeypatch):
    """The module, read anew where scikit-learn cannot be imported, loads and calls a calibration."""
    save_calibrations(tmp_path / "calibration.json", CALIBRATIONS)
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"] + ["sklearn"]:
        monkeypatch.setitem(sys.modules, name, None)
    source = sys.modules[MatchCalibration.__module__].__file__
    spec = importlib.util.spec_from_file_location("calibration_without_sklearn", source)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    assert module.MatchCalibration.load(tmp_path)(0.35) == pytest.approx(0.6)
    with pytest.raises(ValueError, match=r"pip install 'mmet\[calibration\]'"):
        module.fit_calibration(make_sample(10), method="platt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "expected the format"),
        ({"calibrations": None}, "is not a calibration file"),
        ({"calibrations": [{"query": "image"}]}, "'gallery'"),
        ({"method": "magic"}, "unknown method 'magic'"),
        ({"probabilities": [0.5, 0.2, 1.0]}, "never fall"),
        ({"probabilities": [0.0, 0.2, 1.5]}, r"in \[0, 1\]"),
        ({"scores": [0.0]}, "as many probabilities"),
        ({"prior": 1.0}, "prior between 0 and 1"),
    ],
)
def test_read_calibrations__names_file_and_fault(tmp_path, change, message):
    path = tmp_path / "calibration.json"
    save_calibrations(path, CALIBRATIONS)
    content = json.loads(path.read_text())
    (content if set(change) <= set(content) else content["calibrations"][0]).update(change)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"calibration\.json.*{message}"):
        read_calibrations(tmp_path)


def test_read_calibrations__no_file_and_no_json(tmp_path):
    with pytest.raises(ValueError, match=r"no calibration in .*calibration\.json.*--calibrate"):
        read_calibrations(tmp_path)
    (tmp_path / "calibration.json").write_text("{")
    with pytest.raises(ValueError, match=r"calibration\.json cannot be read"):
        read_calibrations(tmp_path)


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_with_prior__is_right_where_matches_are_rarer(method):
    """Nine in ten matching pairs are dropped: the moved calibration is as good as one fitted there."""
    pytest.importorskip("sklearn")
    calibration = fit_calibration(make_sample(40_000), method=method)
    sample = make_sample(40_000, seed=1)
    kept = ~sample.is_match | (np.random.default_rng(2).random(40_000) < 0.1)
    reliability = {}
    for name, tried in (
        ("as it is", calibration),
        ("moved", calibration.with_prior(float(sample.is_match[kept].mean()))),
    ):
        reliability[name] = Reliability()
        reliability[name].add(tried(sample.scores[kept]), sample.is_match[kept])
    assert reliability["moved"].ece < 0.012
    assert reliability["as it is"].ece > 0.1
    with pytest.raises(ValueError, match=r"prior: .*above 0 and below 1, received 0"):
        calibration.with_prior(0)


def test_with_prior__odds_by_hand():
    """Matches are nine times as rare as at the fit, where odds were 1 to 1: odds of 3 become 3 to 9, and so on."""
    fitted = MatchCalibration("isotonic", prior=0.5, scores=(0, 1, 2, 3), probabilities=(0, 0.5, 0.75, 1))
    moved = fitted.with_prior(0.1)
    assert moved.prior == 0.1
    np.testing.assert_allclose(moved([0, 1, 2, 3]), [0, 1 / 10, 3 / 12, 1])
    platt = MatchCalibration("platt", prior=0.5, slope=float(np.log(3)), intercept=0.0)
    rarer = platt.with_prior(0.1)
    assert rarer.prior == 0.1
    np.testing.assert_allclose(rarer([0, 1, 2]), [1 / 10, 3 / 12, 9 / 18])


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.sampled_from(["isotonic", "platt"]))
def test_with_prior__there_and_back_is_where_it_was(prior, other, method):
    fitted = MatchCalibration(method, prior, scores=(-1, 1), probabilities=(0.2, 0.9), slope=2.0, intercept=-0.5)
    grid = np.linspace(-1, 1, 9)
    np.testing.assert_allclose(fitted.with_prior(other).with_prior(prior)([-1, 1]), fitted([-1, 1]), rtol=1e-9)
    assert ((fitted.with_prior(other)(grid) - fitted(grid)) * (other - prior) >= -1e-12).all()


def test_reliability__bins_brier_and_ece_by_hand():
    reliability = Reliability(num_bins=2)
    reliability.add(np.array([0.1, 0.3]), np.array([False, True]))
    reliability.add(np.array([0.9, 1.0]), np.array([True, True]))
    report = reliability.to_json()
    assert report["brier"] == pytest.approx((0.01 + 0.49 + 0.01 + 0) / 4)
    assert report["ece"] == pytest.approx(0.5 * abs(0.5 - 0.2) + 0.5 * abs(1 - 0.95))
    assert [(b["count"], b["observed"]) for b in report["bins"]] == [(2, 0.5), (2, 1.0)]
    assert [b["predicted"] for b in report["bins"]] == pytest.approx([0.2, 0.95])


def test_reliability__brier_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    predicted, outcome = rng.random(200), rng.random(200) < 0.4
    reliability = Reliability()
    reliability.add(predicted, outcome)
    assert reliability.brier == pytest.approx(metrics.brier_score_loss(outcome, predicted))


def test_measure_reliability__all_pairs_and_first_answers():
    """Two queries; the first one's own picture is removed, and what is left of its gallery is right at the top."""
    task = make_task([1, 2], [1, 1, 2], [1, 1], [1, 2, 2])
    query = np.eye(2, dtype=np.float32)
    gallery = np.array([[1, 0], [0.8, 0.6], [1, 0]], np.float32)
    calibration = MatchCalibration("isotonic", 0.5, scores=(0.0, 1.0), probabilities=(0.0, 1.0))
    measured = measure_reliability(calibration, task, query, gallery)
    # Query 1: scores 0.8 (match), 1 (wrong). Query 2: 0, 0.6 (wrong), 0 (match).
    errors = [0.2**2, 1, 0, 0.6**2, 1]
    assert measured["pairs"].brier == pytest.approx(np.mean(errors))
    assert measured["first"].brier == pytest.approx(np.mean([1, 0.6**2]))
