"""What is computed for a row beside its metrics: thresholds, calibration, ranked lists. Each gives JSON for the row.

analyses = [ThresholdAnalysis(absent_share=0.5, seed=0), RankedLists(Path("outputs/eval"), "model", count=3, seed=0)]
records = evaluate_systems(data, systems, max_rank=50, analyses=analyses)
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmet.evaluation.analyses.calibration import MatchCalibration, measure_reliability
from mmet.evaluation.analyses.figures import list_rows, name_of, plot_ranked_lists, save_figure
from mmet.evaluation.analyses.open_set import (
    IDENTIFICATION_RATES,
    MAX_FALSE_POSITIVE_RATE,
    VERIFICATION_RATES,
    OpenSetSearch,
    ThresholdScores,
    search_open_set,
    verify_pairs,
)
from mmet.evaluation.search import SearchResult

logger = logging.getLogger(__name__)


class Analysis(Protocol):
    """Looks at the searches of embedding systems."""

    def __call__(self, data: str, system: str, result: SearchResult, options: Mapping[str, Any]) -> dict[str, Any]:
        """What goes into the row of a system on a data set's task, by name; empty for rows that are not looked at."""
        ...


@dataclass(frozen=True)
class ThresholdAnalysis:
    """Verification and open-set search by the cosines of the (merged, expanded) embeddings: see `open_set`."""

    absent_share: float
    seed: int

    def __call__(self, data: str, system: str, result: SearchResult, options: Mapping[str, Any]) -> dict[str, Any]:
        query, gallery = result.embeddings()
        verified = verify_pairs(result.task, query, gallery)
        searched = search_open_set(result.task, query, gallery, absent_share=self.absent_share, seed=self.seed)
        return {
            "verification": _verification_json(verified),
            "open_set": {"absent_share": self.absent_share, "seed": self.seed, **_open_set_json(searched)},
        }


@dataclass(frozen=True, eq=False)
class CalibrationAnalysis:
    """How far a system's match probabilities can be trusted.

    Attributes:
        system: whose they are.
        calibrations: by (query, gallery) modality.
    """

    system: str
    calibrations: Mapping[tuple[str, str], MatchCalibration]

    def __call__(self, data: str, system: str, result: SearchResult, options: Mapping[str, Any]) -> dict[str, Any]:
        calibration = self.calibrations.get((result.task.query.modality, result.task.gallery.modality))
        if system != self.system or calibration is None:
            return {}
        changed = [
            name
            for name, value in scoring_options(options).items()
            if (calibration.about or {}).get("options", {}).get(name, value) != value
        ]
        if changed:
            logger.warning("the calibration was learnt with other %s and is not applied", " and ".join(changed))
            return {}
        measured = measure_reliability(calibration, result.task, *result.embeddings())
        about = {"method": calibration.method, "prior": calibration.prior, "about": calibration.about}
        return {"calibration": {**about, **{kind: found.to_json() for kind, found in measured.items()}}}


@dataclass(frozen=True)
class RankedLists:
    """Pictures of the ranked lists of the best, the worst and some random queries by average precision.

    Attributes:
        output_dir: where the pictures go.
        system: whose lists are drawn.
        count: queries in each picture.
        seed: chooses the random ones.
        length: candidates of a query.
    """

    output_dir: Path
    system: str
    count: int
    seed: int
    length: int = 10
    _drawn: set[str] = field(default_factory=set, repr=False)

    def __call__(self, data: str, system: str, result: SearchResult, options: Mapping[str, Any]) -> dict[str, Any]:
        if system != self.system or self.count == 0:
            return {}
        if result.metrics.per_query is None:
            logger.warning("%s: no ranked lists under %s, which draws its galleries", data, result.task.protocol)
            return {}
        self.output_dir.mkdir(parents=True, exist_ok=True)
        precisions = result.metrics.per_query.ap
        kind = f"{result.task.query.modality}→{result.task.gallery.modality}"
        place = re.sub(r"[^-.@\w]+", "_", data)  # sources may be called by paths
        names = []
        for name, queries in choose_queries(precisions, self.count, self.seed).items():
            labels = [self._label(result, query, precisions[query]) for query in queries]
            chosen = "random queries" if name == "random" else f"{name} queries by average precision"
            figure = plot_ranked_lists(list_rows(result, queries, self.length), labels, f"{data}, {kind}: {chosen}")
            stem = f"ranked_{place}_{kind.replace('→', '-to-')}_{result.task.protocol}_{name}"
            names.append(self._unused(stem))
            save_figure(figure, self.output_dir / names[-1])
        return {"ranked_lists": names}

    def _unused(self, stem: str) -> str:
        """A file name that no other data set of this run has, for two folders may hold data sets of one name."""
        name, number = f"{stem}.png", 2
        while name in self._drawn:
            name, number = f"{stem}_{number}.png", number + 1
        self._drawn.add(name)
        return name

    @staticmethod
    def _label(result: SearchResult, query: int, precision: float) -> str:
        num_matches = result.task.matches().of_query(query).size
        person = name_of(result.task.query, query, "person_id")
        return f"person {person} · AP {100 * precision:.1f} % · {num_matches} matches"


def choose_queries(precisions: NDArray[np.float64], count: int, seed: int) -> dict[str, list[int]]:
    """`best`, `worst` and `random` queries, up to `count` each, of those with a true match (AP not NaN) `(Q,)`.

    Of equal precisions the earlier query comes first; random ones are drawn from all of them.
    """
    valid = np.flatnonzero(~np.isnan(precisions))
    ascending = valid[np.argsort(precisions[valid], kind="stable")]
    descending = valid[np.argsort(-precisions[valid], kind="stable")]
    drawn = np.sort(np.random.default_rng(seed).permutation(valid)[:count])
    return {"best": descending[:count].tolist(), "worst": ascending[:count].tolist(), "random": drawn.tolist()}


def scoring_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a row's options that change cosine scores."""
    return {name: options[name] for name in ("flip", "multi_query", "query_expansion") if name in options}


def _verification_json(scores: ThresholdScores) -> dict[str, Any]:
    points = [scores.at(rate) for rate in VERIFICATION_RATES]
    return {
        "operating_points": [
            {"max_fpr": p.max_false_positive_rate, "tpr": p.true_positive_rate, "threshold": _finite(p.threshold)}
            for p in points
        ],
        "roc": [
            {"fpr": p.max_false_positive_rate, "tpr": p.true_positive_rate}
            for p in scores.curve(MAX_FALSE_POSITIVE_RATE)
        ],
        "num_matching_pairs": len(scores.positives),
        "num_different_pairs": scores.num_negatives,
    }


def _open_set_json(searched: OpenSetSearch) -> dict[str, Any]:
    points = []
    for rate in IDENTIFICATION_RATES:
        anywhere, first = searched.any_rank.at(rate), searched.first_rank.at(rate)
        points.append(
            {
                "max_fpir": rate,
                "fnir": 1 - anywhere.true_positive_rate,
                "fnir_rank1": 1 - first.true_positive_rate,
                "threshold": _finite(anywhere.threshold),
            }
        )
    return {
        "operating_points": points,
        "num_absent_persons": searched.num_absent_persons,
        "num_mated_searches": len(searched.any_rank.positives),
        "num_nonmated_searches": searched.any_rank.num_negatives,
    }


def _finite(threshold: float) -> float | None:
    """JSON knows no infinity: None where nothing can be accepted."""
    return threshold if np.isfinite(threshold) else None
