"""Measure the reliability of match probabilities: reliability diagram, Brier score, expected calibration error.

    measured = measure_reliability(calibration, task, query_embeddings, gallery_embeddings)
    measured["pairs"].ece, measured["first"].brier

`CalibrationCheck` adds them to rows.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from mmet.evaluation.analyses.base import ROW_HEADER, Analysis, having, row_cells
from mmet.evaluation.analyses.calibration import MatchCalibration
from mmet.evaluation.analyses.panels import draw_panels
from mmet.evaluation.pairs import pair_blocks
from mmet.evaluation.protocols import RetrievalTask
from mmet.evaluation.record import EvaluationReport, ResultRecord
from mmet.evaluation.task_result import TaskResult
from mmet.figure_style import LIGHT, line_style
from mmet.markdown_table import align_table

logger = logging.getLogger(__name__)

CALIBRATION = "calibration"
"""Name of the values in a row."""

NUM_BINS = 15

RARE = 10
"""Bins with fewer predictions have hollow markers."""


class Reliability:
    """Reliability of predicted probabilities, from a stream: reliability diagram, Brier score and ECE.

    Bins are of equal width over [0, 1], as in Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017).

    Attributes:
        counts: `(bins,)`, number of predictions in each bin.
        predicted: `(bins,)`, sum of these predictions.
        observed: `(bins,)`, number of them that came true.
    """

    def __init__(self, num_bins: int = NUM_BINS) -> None:
        self.counts = np.zeros(num_bins, dtype=np.int64)
        self.predicted = np.zeros(num_bins)
        self.observed = np.zeros(num_bins)
        self._squared_error = 0.0

    def add(self, probabilities: NDArray[np.float64], outcomes: NDArray[np.bool_]) -> None:
        """Add predictions `(n,)` and whether they came true `(n,)`."""
        num_bins = len(self.counts)
        bins = np.minimum((probabilities * num_bins).astype(np.int64), num_bins - 1)
        self.counts += np.bincount(bins, minlength=num_bins)
        self.predicted += np.bincount(bins, probabilities, minlength=num_bins)
        self.observed += np.bincount(bins, outcomes, minlength=num_bins)
        self._squared_error += float(np.sum((probabilities - outcomes) ** 2))

    @property
    def brier(self) -> float:
        """Mean squared difference of prediction and outcome (Brier 1950)."""
        return self._squared_error / int(self.counts.sum())

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean over predictions of |observed - predicted| of their bin."""
        return float(np.abs(self.observed - self.predicted).sum() / self.counts.sum())

    def to_json(self) -> dict[str, Any]:
        """Brier score, ECE and the non-empty bins, each with mean prediction, share that came true and count."""
        filled = np.flatnonzero(self.counts)
        bins = [
            {
                "predicted": float(self.predicted[b] / self.counts[b]),
                "observed": float(self.observed[b] / self.counts[b]),
                "count": int(self.counts[b]),
            }
            for b in filled
        ]
        return {"brier": self.brier, "ece": self.ece, "bins": bins}


def measure_reliability(
    calibration: MatchCalibration,
    task: RetrievalTask,
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
) -> dict[str, Reliability]:
    """Measure the reliability for `pairs` (every query with every entry of its gallery) and for `first` entries."""
    pairs, first = Reliability(), Reliability()
    for block in pair_blocks(task, query_embeddings, gallery_embeddings):
        kept = ~block.is_removed
        pairs.add(calibration(block.scores[kept]), block.is_match[kept])
        scores = np.where(kept, block.scores, -np.inf)
        rows, best = np.arange(len(scores)), scores.argmax(axis=1)
        answered = scores[rows, best] > -np.inf
        first.add(calibration(scores[rows, best][answered]), block.is_match[rows, best][answered])
    return {"pairs": pairs, "first": first}


@dataclass(frozen=True, eq=False)
class CalibrationCheck(Analysis):
    """Reliability of a system's match probabilities.

    Attributes:
        system: name of the system.
        calibrations: its calibrations by (query, gallery) modality.
    """

    system: str
    calibrations: Mapping[tuple[str, str], MatchCalibration]

    def compute(self, result: TaskResult, record: ResultRecord) -> dict[str, Any]:
        calibration = self.calibrations.get((record.query, record.gallery))
        if record.system != self.system or calibration is None:
            return {}
        learnt_with = (calibration.about or {}).get("options", {})
        options = result.options.changing_scores()
        changed = [name for name, value in options.items() if learnt_with.get(name, value) != value]
        if changed:
            logger.warning("the calibration was learnt with other %s and is not applied", " and ".join(changed))
            return {}
        measured = measure_reliability(calibration, result.task, *result.embeddings())
        about = {"method": calibration.method, "prior": calibration.prior, "about": calibration.about}
        return {CALIBRATION: {**about, **{kind: reliability.to_json() for kind, reliability in measured.items()}}}

    def section(self, report: EvaluationReport) -> str:
        rows = []
        for record, measured in having(report.results, CALIBRATION).items():
            values = [measured[kind][name] for kind in ("pairs", "first") for name in ("ece", "brier")]
            rows.append((*row_cells(record), *(f"{value:.4f}" for value in values)))
        if not rows:
            return ""
        header = (*ROW_HEADER, "ECE, pairs", "Brier, pairs", "ECE, first", "Brier, first")
        note = "Of the match probabilities, over all pairs and over the first answer of each query.\n"
        return f"## Calibration\n\n{align_table(header, rows, len(ROW_HEADER))}\n{note}"

    def figures(self, records: Sequence[ResultRecord]) -> dict[str, Figure]:
        rows = [*having(records, CALIBRATION)]
        return {"reliability.png": plot_reliability(rows)} if rows else {}


def plot_reliability(records: Sequence[ResultRecord]) -> Figure:
    """Draw reliability diagrams: the share of matches by predicted probability.

    Markers of bins with fewer than `RARE` predictions are hollow.
    """
    names = {"pairs": "all pairs", "first": "first answers"}

    def draw(ax: Axes, record: ResultRecord, style: dict[str, Any]) -> None:
        ax.plot([0, 1], [0, 1], color=LIGHT.muted, linewidth=0.8, linestyle="--")
        for number, ((kind, title), marker) in enumerate(zip(names.items(), "os", strict=True)):
            line = line_style(number)
            measured = record.extras[CALIBRATION][kind]
            predicted = [entry["predicted"] for entry in measured["bins"]]
            observed = [entry["observed"] for entry in measured["bins"]]
            label = f"{title}: ECE {measured['ece']:.3f}, Brier {measured['brier']:.3f}"
            ax.plot(predicted, observed, **line, marker=marker, markersize=4, label=label)
            rare = [place for place, entry in enumerate(measured["bins"]) if entry["count"] < RARE]
            hollow = [predicted[place] for place in rare], [observed[place] for place in rare]
            ax.plot(*hollow, marker, color=line["color"], markersize=4, markerfacecolor="white", zorder=3)

    def finish(ax: Axes) -> None:
        ax.set_xlabel("predicted probability of a match")
        ax.set_ylabel("share that are matches")
        ax.set_xlim(-0.02, 1.02)  # markers at 0 and 1 are whole
        ax.set_ylim(-0.02, 1.02)
        ax.xaxis.set_major_formatter(PercentFormatter(xmax=1))
        ax.legend(fontsize=7, framealpha=0.8, edgecolor="none", loc="best")

    return draw_panels(records, draw, finish)
