"""Decisions by a threshold: is this the same person (verification), and is the person in the gallery at all?

    verification = verify_pairs(task, query_embeddings, gallery_embeddings)
    verification.at(1e-3).true_positive_rate
    open_set = search_open_set(task, query_embeddings, gallery_embeddings, absent_share=0.5, seed=0)
    open_set.any_rank.at(1e-2).true_positive_rate          # 1 - FNIR

A pair or a search is accepted if its score is at or above the threshold. All rates are exact, although only the
highest scores of wrong pairs are kept: low false positive rates depend only on these. `OpenSet` adds both to rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mmet.evaluation.analyses.base import ROW_HEADER, Analysis, having, row_cells
from mmet.evaluation.analyses.panels import draw_panels, legend_beside, line_label
from mmet.evaluation.pairs import count_wrong_pairs, pair_blocks
from mmet.evaluation.protocols import RetrievalTask
from mmet.evaluation.record import EvaluationReport, ResultRecord
from mmet.evaluation.task_result import TaskResult
from mmet.field_checks import SEED_RANGE, SHARE_RANGE, Range, check_number
from mmet.markdown_table import align_table

VERIFICATION, OPEN_SET = "verification", "open_set"
"""Names of the values in a row."""

VERIFICATION_RATES = (1e-2, 1e-3, 1e-4)
IDENTIFICATION_RATES = (1e-1, 1e-2, 1e-3)
MAX_FALSE_POSITIVE_RATE = 0.1
"""Right end of ROC curves; this share of the wrong pairs, with the highest scores, is in memory."""

CURVE_POINTS_A_DECADE = 10


@dataclass(frozen=True)
class OperatingPoint:
    """The highest true positive rate of a threshold that accepts at most `max_false_positive_rate` of the negatives.

    `threshold` is the lowest accepted score; infinity if nothing is accepted.
    """

    max_false_positive_rate: float
    true_positive_rate: float
    threshold: float


@dataclass(frozen=True, eq=False)
class ThresholdScores:
    """Scores that determine the trade-off between the two kinds of error.

    Attributes:
        positives: `(P,)`, scores of positives, ascending; minus infinity is never accepted.
        highest_negatives: the highest scores of negatives, descending.
        num_negatives: number of all negatives.
    """

    positives: NDArray[np.float32]
    highest_negatives: NDArray[np.float32]
    num_negatives: int

    def at(self, max_false_positive_rate: float) -> OperatingPoint:
        """The point of the ROC curve at a false positive rate.

        Raises:
            ValueError: the rate is higher than the stored negatives allow.
        """
        check_number("max_false_positive_rate", max_false_positive_rate, float, SHARE_RANGE)
        allowed = _count_within(max_false_positive_rate, self.num_negatives)
        bound = self._negative_to_exceed(allowed, max_false_positive_rate)
        first_accepted = int(np.searchsorted(self.positives, bound, side="right"))
        above = self.highest_negatives[self.highest_negatives > bound]
        accepted_scores = [*self.positives[first_accepted : first_accepted + 1], *above[-1:]]
        return OperatingPoint(
            max_false_positive_rate=max_false_positive_rate,
            true_positive_rate=1 - first_accepted / len(self.positives),
            threshold=float(min(accepted_scores, default=np.inf)),
        )

    def _negative_to_exceed(self, allowed: int, max_false_positive_rate: float) -> float:
        """The highest score of a negative that must not be accepted."""
        if allowed >= self.num_negatives:
            return -np.inf
        if allowed >= len(self.highest_negatives):
            held = len(self.highest_negatives) / self.num_negatives
            raise ValueError(f"expected a false positive rate below {held:g}, received {max_false_positive_rate:g}")
        return float(self.highest_negatives[allowed])

    def curve(self, max_false_positive_rate: float = MAX_FALSE_POSITIVE_RATE) -> list[OperatingPoint]:
        """Points of the ROC curve: ten per decade, from one accepted negative up to a false positive rate."""
        lowest = 1 / self.num_negatives
        if lowest >= max_false_positive_rate:
            return [self.at(max_false_positive_rate)]
        steps = int(np.ceil(np.log10(max_false_positive_rate / lowest) * CURVE_POINTS_A_DECADE))
        rates = np.geomspace(lowest, max_false_positive_rate, steps + 1)
        return [self.at(float(rate)) for rate in rates]


@dataclass(frozen=True, eq=False)
class OpenSetSearch:
    """Results of searches after some persons were removed from the gallery.

    Attributes:
        any_rank: a search is accepted if a true match, at any rank, is at or above the threshold.
        first_rank: the true match must rank first as well.
        num_absent_persons: number of persons that were removed; their queries are the negatives.
    """

    any_rank: ThresholdScores
    first_rank: ThresholdScores
    num_absent_persons: int


def verify_pairs(
    task: RetrievalTask,
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    *,
    max_false_positive_rate: float = MAX_FALSE_POSITIVE_RATE,
) -> ThresholdScores:
    """Compare every query with every entry of its gallery, one to one.

    The true positive rate at a false positive rate is ISO/IEC 19795-1's 1 - FNMR at FMR.

    Args:
        task: the task that the embeddings belong to. Pairs that the protocol removes do not count.
        query_embeddings: `(Q, D)`, rows L2-normalised.
        gallery_embeddings: `(G, D)`, rows L2-normalised.
        max_false_positive_rate: highest rate that the result supports; memory grows with it.

    Raises:
        ValueError: there is no pair of different persons.
    """
    check_number("max_false_positive_rate", max_false_positive_rate, float, SHARE_RANGE)
    blocks = pair_blocks(task, query_embeddings, gallery_embeddings)
    num_negatives = count_wrong_pairs(task)
    if num_negatives == 0:
        raise ValueError("expected pairs of different persons, received the images of one person alone")
    highest = HighestScores(_count_within(max_false_positive_rate, num_negatives) + 1)
    positives = []
    for block in blocks:
        positives.append(block.scores[block.is_match])
        highest.add(block.scores[block.is_wrong])
    return ThresholdScores(np.sort(np.concatenate(positives)), highest.descending(), num_negatives)


def search_open_set(
    task: RetrievalTask,
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    *,
    absent_share: float,
    seed: int,
) -> OpenSetSearch:
    """Search a gallery from which all images of some persons were removed.

    Positives are the searches for persons who stayed, with the score of their best true match. Negatives are the
    searches for persons who were removed, with the best score of anyone. So `1 - at(f).true_positive_rate` is FNIR at
    FPIR f (ISO/IEC 19795-1; NIST FRVT 1:N, NISTIR 8271): the share of mated searches whose mate is below the threshold
    (or, for `first_rank`, not first), if at most a share f of the non-mated searches returns anyone at or above it.

    Queries without a true match under the protocol are left out.

    Args:
        task: the task that the embeddings belong to.
        query_embeddings: `(Q, D)`, rows L2-normalised.
        gallery_embeddings: `(G, D)`, rows L2-normalised.
        absent_share: share of the queried persons to remove; at least one is removed and one stays.
        seed: random seed of their choice.

    Raises:
        ValueError: the share is not between 0 and 1, or fewer than two persons have a valid query.
    """
    absent = choose_absent_persons(task, absent_share, seed)
    best_match, best_other, is_absent = [], [], []
    for queries, match, other in _best_scores(task, query_embeddings, gallery_embeddings, absent):
        best_match.append(match)
        best_other.append(other)
        is_absent.append(np.isin(task.query.person_ids[queries], absent))
    matches, others = np.concatenate(best_match), np.concatenate(best_other)
    negative = np.concatenate(is_absent) & (matches > -np.inf)
    positive = ~np.concatenate(is_absent) & (matches > -np.inf)
    negatives = -np.sort(-others[negative])
    at_first = np.where(matches > others, matches, np.float32(-np.inf))  # a match that ties with another is not first
    return OpenSetSearch(
        any_rank=ThresholdScores(np.sort(matches[positive]), negatives, len(negatives)),
        first_rank=ThresholdScores(np.sort(at_first[positive]), negatives, len(negatives)),
        num_absent_persons=len(absent),
    )


def choose_absent_persons(task: RetrievalTask, share: float, seed: int) -> NDArray[np.int64]:
    """Choose the persons to remove, among those with a valid query; ascending ids. Raises as `search_open_set`."""
    check_number("absent_share", share, float, Range(above=0, below=1))
    check_number("seed", seed, int, SEED_RANGE)
    num_matches, _ = task.matches().counts()
    persons = np.unique(task.query.person_ids[num_matches > 0])  # without unknown persons, who have no match
    if len(persons) < 2:
        raise ValueError(f"expected queries by at least two persons for an open-set search, received {len(persons)}")
    count = min(max(1, round(share * len(persons))), len(persons) - 1)
    return np.sort(np.random.default_rng(seed).permutation(persons)[:count])


class HighestScores:
    """Keeps the `count` highest of a stream of scores."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[NDArray[np.float32]] = []
        self._size = 0

    def add(self, scores: NDArray[np.float32]) -> None:
        """Add scores `(n,)`."""
        self._kept.append(scores)
        self._size += len(scores)
        if self._size > 2 * self._count:
            self._shrink()

    def descending(self) -> NDArray[np.float32]:
        """The highest scores, best first."""
        self._shrink()
        return -np.sort(-np.concatenate([np.empty(0, np.float32), *self._kept]))

    def _shrink(self) -> None:
        scores = np.concatenate([np.empty(0, np.float32), *self._kept])
        if len(scores) > self._count:
            scores = np.partition(scores, len(scores) - self._count)[len(scores) - self._count :]
        self._kept, self._size = [scores], len(scores)


def _best_scores(
    task: RetrievalTask,
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    absent: NDArray[np.int64],
) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.float32]]]:
    """Yield blocks of queries with the best scores of a true match and of another, not absent person, both `(B,)`."""
    is_out = np.isin(task.gallery.person_ids, absent)  # (G,)
    for block in pair_blocks(task, query_embeddings, gallery_embeddings):
        match = np.where(block.is_match, block.scores, np.float32(-np.inf)).max(axis=1)
        other = np.where(block.is_wrong & ~is_out, block.scores, np.float32(-np.inf)).max(axis=1)
        yield block.queries, match, other


def _count_within(rate: float, total: int) -> int:
    """The largest count with `count / total <= rate` in floating point."""
    count = min(int(rate * total), total)
    while count < total and (count + 1) / total <= rate:
        count += 1
    while count > 0 and count / total > rate:
        count -= 1
    return count


@dataclass(frozen=True)
class OpenSet(Analysis):
    """Verification and open-set search by the cosines of the (merged, expanded) embeddings.

    Attributes:
        absent_share: share of the queried persons to remove from the gallery.
        seed: random seed of their choice.
    """

    absent_share: float
    seed: int

    def compute(self, result: TaskResult, record: ResultRecord) -> dict[str, Any]:
        verified = verify_pairs(result.task, *result.embeddings())
        searched = search_open_set(result.task, *result.embeddings(), absent_share=self.absent_share, seed=self.seed)
        return {
            VERIFICATION: _verification_json(verified),
            OPEN_SET: {"absent_share": self.absent_share, "seed": self.seed, **_open_set_json(searched)},
        }

    def section(self, report: EvaluationReport) -> str:
        rows, header = [], [*ROW_HEADER]
        searches = having(report.results, OPEN_SET)
        for record, verified in having(report.results, VERIFICATION).items():
            accepted, missed = verified["operating_points"], searches[record]["operating_points"]
            shares = [*(point["tpr"] for point in accepted), *(point["fnir"] for point in missed)]
            rows.append((*row_cells(record), *(f"{100 * share:.1f}" for share in shares)))
            rates = [f"TPR@FPR {point['max_fpr']:g}" for point in accepted]
            header = [*ROW_HEADER, *rates, *(f"FNIR@FPIR {point['max_fpir']:g}" for point in missed)]
        if not rows:
            return ""
        search = next(iter(searches.values()))
        return (
            f"## By threshold\n\n{align_table(header, rows, len(ROW_HEADER))}\n"
            f"In percent. For FNIR, {search['absent_share']:.0%} of the queried persons were removed from the "
            f"gallery (seed {search['seed']}); the values for rank 1 are in `results.json`.\n"
        )

    def figures(self, records: Sequence[ResultRecord]) -> dict[str, Figure]:
        rows = [*having(records, VERIFICATION)]
        return {"roc.png": plot_roc(rows)} if rows else {}


def plot_roc(records: Sequence[ResultRecord]) -> Figure:
    """Draw ROC curves of one-to-one verification, with false positive rates on a log scale."""

    def draw(ax: Axes, record: ResultRecord, style: dict[str, Any]) -> None:
        curve = record.extras[VERIFICATION]["roc"]
        rates = [point["fpr"] for point in curve], [point["tpr"] for point in curve]
        ax.plot(*rates, label=line_label(record.system), **style)

    def finish(ax: Axes) -> None:
        ax.set_xscale("log")
        ax.set_xlabel("false positive rate")
        ax.set_ylabel("true positive rate")
        legend_beside(ax, "system")

    return draw_panels(records, draw, finish)


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
    """Replace infinity, which JSON lacks, by None."""
    return threshold if np.isfinite(threshold) else None
