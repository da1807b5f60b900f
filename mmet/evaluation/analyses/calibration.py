"""Convert a similarity score to the probability that two items show the same person.

    pairs = sample_pairs(task, query_embeddings, gallery_embeddings, seed=0)
    calibration = fit_calibration(pairs, method="isotonic")
    save_calibrations(model_folder / CALIBRATION_FILE, {("text", "image"): calibration}, weights=fingerprint)
    calibration = MatchCalibration.load(model_folder, query="text", gallery="image")
    calibration(0.83)

Fitting needs scikit-learn (`pip install mmet[calibration]`); loading and calling do not. The probability holds for a
pair drawn from a gallery like that of the fit, in which a share `prior` of the pairs match; `with_prior` converts it
for galleries with another share.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmet.evaluation.pairs import count_wrong_pairs, pair_blocks
from mmet.evaluation.protocols import RetrievalTask
from mmet.field_checks import SEED_RANGE, Range, check_number
from mmet.whole_files import read_json, write_whole

CALIBRATION_FILE = "calibration.json"
FORMAT = "mmet-calibration-1"
METHODS = ("isotonic", "platt")
MAX_WRONG_PAIRS = 1_000_000
NUM_QUANTILES = 101

Method = Literal["isotonic", "platt"]


@dataclass(frozen=True)
class MatchCalibration:
    """A rising function from scores to match probabilities.

    Attributes:
        method: `isotonic`, a piecewise linear function through (`scores`, `probabilities`), constant beyond its ends
            (Zadrozny and Elkan, KDD 2002); or `platt`, 1 / (1 + exp(-(slope * score + intercept))) (Platt 1999).
        prior: share of matching pairs in the data of the fit.
        scores: ascending; empty for `platt`.
        probabilities: one per score, non-decreasing.
        slope, intercept: parameters of `platt`.
        about: description of the data of the fit.
        match_scores: quantiles of the matching pairs' scores in equal steps from the lowest to the highest; empty in
            files that do not have them.
    """

    method: Method
    prior: float
    scores: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()
    slope: float = 0.0
    intercept: float = 0.0
    about: Mapping[str, Any] | None = None
    match_scores: tuple[float, ...] = ()

    def __call__(self, score: ArrayLike) -> NDArray[np.float64]:
        """Match probabilities in [0, 1] for cosine similarities, in the shape of `score`."""
        values = np.asarray(score, dtype=np.float64)
        if self.method == "isotonic":
            return np.asarray(np.interp(values, self.scores, self.probabilities))
        return _sigmoid(self.slope * values + self.intercept)

    def with_prior(self, prior: float) -> MatchCalibration:
        """Convert the calibration to galleries in which a share `prior` of the pairs match, by Bayes' rule.

        Raises:
            ValueError: the prior is not between 0 and 1.
        """
        check_number("prior", prior, float, Range(above=0, below=1))
        change = np.log(prior / (1 - prior)) - np.log(self.prior / (1 - self.prior))
        if self.method == "platt":
            return replace(self, prior=prior, intercept=self.intercept + float(change))
        p = np.array(self.probabilities)
        moved = p * np.exp(change) / (p * np.exp(change) + 1 - p)
        return replace(self, prior=prior, probabilities=tuple(moved.tolist()))

    @classmethod
    def load(cls, path: str | Path, *, query: str = "image", gallery: str = "image") -> MatchCalibration:
        """Load the calibration of a pair of modalities from `calibration.json` or the folder that holds it.

        Raises:
            ValueError: there is no such file, it is not a calibration file, or has no entry for these modalities.
        """
        calibrations, _ = read_calibrations(Path(path))
        if (query, gallery) not in calibrations:
            known = ", ".join(f"{q}→{g}" for q, g in calibrations) or "none"
            raise ValueError(f"{path}: expected a calibration of {query}→{gallery}, it holds {known}")
        return calibrations[query, gallery]


@dataclass(frozen=True, eq=False)
class PairSample:
    """Scored pairs for a fit, all `(n,)`: scores, whether they match, and how many pairs each represents."""

    scores: NDArray[np.float32]
    is_match: NDArray[np.bool_]
    weights: NDArray[np.float64]


def sample_pairs(
    task: RetrievalTask,
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    *,
    max_wrong: int = MAX_WRONG_PAIRS,
    seed: int = 0,
) -> PairSample:
    """Sample all matching pairs of a task and at most `max_wrong` random others, weighted to represent all of them.

    Args:
        task: the task that the embeddings belong to.
        query_embeddings: `(Q, D)`, rows L2-normalised.
        gallery_embeddings: `(G, D)`, rows L2-normalised.
        max_wrong: largest number of pairs of different persons.
        seed: random seed of the sample.

    Raises:
        ValueError: there is no matching pair, or no pair of different persons; both are needed.
    """
    check_number("max_wrong", max_wrong, int, Range(at_least=1))
    check_number("seed", seed, int, SEED_RANGE)
    blocks = pair_blocks(task, query_embeddings, gallery_embeddings)
    num_wrong = count_wrong_pairs(task)
    kept = np.arange(num_wrong)
    if num_wrong > max_wrong:  # repeated draws count once; of a million out of a hundred million, half a percent
        kept = np.unique(np.random.default_rng(seed).integers(num_wrong, size=max_wrong))
    matching: list[NDArray[np.float32]] = []
    wrong: list[NDArray[np.float32]] = []
    seen = 0
    for block in blocks:
        matching.append(block.scores[block.is_match])
        others = block.scores[block.is_wrong]
        first, last = np.searchsorted(kept, [seen, seen + len(others)])
        wrong.append(others[kept[first:last] - seen])
        seen += len(others)
    matches, others = np.concatenate(matching), np.concatenate(wrong)
    if not len(matches) or not len(others):
        raise ValueError(
            "a calibration is learnt from pairs of the same and of different persons, in a gallery with at least two "
            f"persons; received {len(matches)} pairs of the same and {len(others)} of different persons"
        )
    return PairSample(
        scores=np.concatenate([matches, others]),
        is_match=np.repeat([True, False], [len(matches), len(others)]),
        weights=np.repeat([1.0, num_wrong / len(others)], [len(matches), len(others)]),
    )


def fit_calibration(sample: PairSample, *, method: Method, about: Mapping[str, Any] | None = None) -> MatchCalibration:
    """Learn match probabilities from scored pairs with scikit-learn.

    `isotonic` fits any rising relation and needs many matching pairs (about a thousand); `platt` has two parameters.
    The targets of `platt` are Platt's: (N₊ + 1) / (N₊ + 2) for matches and 1 / (N₋ + 2) for others.

    Raises:
        ValueError: scikit-learn is not installed, or the method is unknown.
    """
    if method not in METHODS:
        raise ValueError(f"expected a calibration method out of {', '.join(METHODS)}, received {method!r}")
    try:
        from sklearn.isotonic import IsotonicRegression
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ValueError("learning a calibration needs scikit-learn: pip install 'mmet[calibration]'") from error
    scores, truth = sample.scores.astype(np.float64), sample.is_match
    prior = float(np.average(truth, weights=sample.weights))
    match_scores = tuple(np.quantile(scores[truth], np.linspace(0, 1, NUM_QUANTILES)).tolist())
    if method == "isotonic":
        isotonic = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        isotonic.fit(scores, truth, sample_weight=sample.weights)
        knots = isotonic.X_thresholds_.tolist(), isotonic.y_thresholds_.tolist()
        return MatchCalibration(
            "isotonic",
            prior,
            scores=tuple(knots[0]),
            probabilities=tuple(knots[1]),
            about=about,
            match_scores=match_scores,
        )
    totals = [float(sample.weights[truth].sum()), float(sample.weights[~truth].sum())]
    target = np.where(truth, (totals[0] + 1) / (totals[0] + 2), 1 / (totals[1] + 2))
    # A pair with a fractional target becomes two pairs, one of each class, with fractional weights.
    regression = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    regression.fit(
        np.concatenate([scores, scores])[:, None],
        np.repeat([1, 0], len(scores)),
        sample_weight=np.concatenate([target, 1 - target]) * np.tile(sample.weights, 2),
    )
    slope, intercept = float(regression.coef_[0, 0]), float(regression.intercept_[0])
    return MatchCalibration("platt", prior, slope=slope, intercept=intercept, about=about, match_scores=match_scores)


def save_calibrations(
    path: Path, calibrations: Mapping[tuple[str, str], MatchCalibration], *, weights: str = ""
) -> None:
    """Write `calibration.json`, replacing an existing file.

    Args:
        path: the file.
        calibrations: calibrations by (query, gallery) modality.
        weights: `fingerprint_weights` of the calibrated model.
    """
    entries = [
        {"query": query, "gallery": gallery, **asdict(calibration)}
        for (query, gallery), calibration in calibrations.items()
    ]
    created = datetime.now(timezone.utc).isoformat(timespec="microseconds")
    fields = {"format": FORMAT, "created": created, "weights": weights, "calibrations": entries}
    content = json.dumps(fields, indent=1) + "\n"
    write_whole(path, content)


@dataclass(frozen=True)
class SavedCalibrations:
    """The content of a `calibration.json`.

    Attributes:
        calibrations: calibrations by (query, gallery) modality.
        weights: `fingerprint_weights` of the calibrated model.
        created: time in UTC and ISO 8601, which sorts by age; empty in older files.
    """

    calibrations: Mapping[tuple[str, str], MatchCalibration]
    weights: str
    created: str


def read_calibrations(path: Path) -> tuple[dict[tuple[str, str], MatchCalibration], str]:
    """Read the calibrations and the fingerprint of the model's weights from a file of `save_calibrations`.

    Raises:
        ValueError: the file is missing or is no calibration file; the message names it.
    """
    saved = read_saved(path)
    return dict(saved.calibrations), saved.weights


def read_saved(path: Path) -> SavedCalibrations:
    """Read a calibration file, or the one in a folder, completely. Raises as `read_calibrations`."""
    file = path / CALIBRATION_FILE if path.is_dir() else path
    try:
        content = read_json(file)
    except FileNotFoundError as error:
        raise ValueError(
            f"there is no calibration in {file}; learn one with run_reid_eval.py --calibrate name=folder"
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as a calibration: {error}") from error
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"expected the format {FORMAT!r}, received {content['format']!r}")
        entries = {(entry["query"], entry["gallery"]): read_fields(entry) for entry in content["calibrations"]}
        return SavedCalibrations(entries, str(content["weights"]), str(content.get("created", "")))
    except KeyError as error:
        raise ValueError(f"{file} is not a calibration file: the field {error} is missing") from error
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{file} is not a calibration file: {error}") from error


def read_fields(entry: Mapping[str, Any]) -> MatchCalibration:
    """Make a calibration from its JSON fields. Raises `ValueError` unless it is a rising function into [0, 1]."""
    calibration = MatchCalibration(
        method=entry["method"],
        prior=float(entry["prior"]),
        scores=tuple(map(float, entry["scores"])),
        probabilities=tuple(map(float, entry["probabilities"])),
        slope=float(entry["slope"]),
        intercept=float(entry["intercept"]),
        about=entry.get("about"),
        match_scores=tuple(map(float, entry.get("match_scores", ()))),
    )
    if calibration.method not in METHODS:
        raise ValueError(f"unknown method {calibration.method!r}")
    if not 0 < calibration.prior < 1:
        raise ValueError(f"expected a prior between 0 and 1, received {calibration.prior}")
    if calibration.method == "isotonic":
        scores, probabilities = np.array(calibration.scores), np.array(calibration.probabilities)
        rising = len(scores) == len(probabilities) > 0 and np.isfinite(scores).all() and (np.diff(scores) >= 0).all()
        bounded = ((probabilities >= 0) & (probabilities <= 1)).all()
        if not (rising and bounded and (np.diff(probabilities) >= 0).all()):
            raise ValueError("expected ascending scores with as many probabilities in [0, 1] that never fall")
    elif not np.isfinite([calibration.slope, calibration.intercept]).all():
        raise ValueError("expected a finite slope and intercept")
    quantiles = np.array(calibration.match_scores)
    if not np.isfinite(quantiles).all() or (np.diff(quantiles) < 0).any():
        raise ValueError("expected ascending match_scores")
    return calibration


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1 + np.tanh(values / 2)))
