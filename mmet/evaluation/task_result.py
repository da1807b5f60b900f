"""The result of a system on a task: metrics, embeddings, and the ranking of every query.

(result,) = system.evaluate([task], EvaluationOptions())
result.metrics.mAP, result.first_entries(0, 10)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmet.evaluation.metrics.ranking import REPORTED_RANKS, RankMetrics
from mmet.evaluation.options import EvaluationOptions
from mmet.evaluation.pairs import best_entries, label_pairs
from mmet.evaluation.protocols import RetrievalTask
from mmet.evaluation.task_metrics import DrawnRanks


@dataclass(frozen=True, eq=False)
class ReorderedEntries:
    """The first entries of every query, as ordered by re-ranking or the cross-encoder.

    Attributes:
        positions: `(Q, k)` positions in the gallery, best first; -1 if a gallery holds fewer.
        scores: `(Q, k)` float32, the scores that order them.
    """

    positions: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TaskResult:
    """The result of a retrieval task.

    Attributes:
        task: the task, with merged queries if they were merged.
        options: options that had an effect; all others have their defaults.
        metrics: of the final ranking.
        query_embeddings: `(Q, D)`, as used in the search; None for systems that embed nothing.
        gallery_embeddings: `(G, D)`; likewise.
        reordered: the first entries, if they are not in the order of the cosines.
        drawn: the ranks in each drawn gallery, under protocols that draw them.
    """

    task: RetrievalTask
    options: EvaluationOptions
    metrics: RankMetrics
    query_embeddings: NDArray[np.float32] | None = None
    gallery_embeddings: NDArray[np.float32] | None = None
    reordered: ReorderedEntries | None = None
    drawn: DrawnRanks | None = None

    def embeddings(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Embeddings of queries and gallery. Raises `ValueError` for a system that embeds nothing."""
        if self.query_embeddings is None or self.gallery_embeddings is None:
            raise ValueError("this system has no embeddings")
        return self.query_embeddings, self.gallery_embeddings

    def headline_values(self) -> dict[str, NDArray[np.float64]] | None:
        """Per-query values `(Q,)` whose means are the reported metrics, by their names in `results.json`.

        NaN marks a query that is in no mean. If galleries are drawn, a query's values are its means over the draws.
        None if only means are known.
        """
        if self.drawn is not None:
            precisions, drawn = self.drawn.precisions(), self.drawn
            return {"mAP": precisions, "mINP": precisions, **{f"rank{k}": drawn.hits(k) for k in REPORTED_RANKS}}
        per_query = self.metrics.per_query
        if per_query is None:
            return None
        is_valid = per_query.first_rank > 0
        hits = {f"rank{k}": np.where(is_valid, per_query.first_rank <= k, np.nan) for k in REPORTED_RANKS}
        values = {"mAP": per_query.ap, "mINP": per_query.inp, **hits}
        if self.task.rules.denominator == "all":
            return {name: np.nan_to_num(column) for name, column in values.items()}
        return values

    def first_entries(self, query: int, count: int) -> list[tuple[int, float, bool]]:
        """The first entries of one query's ranking: position in the gallery, score, and whether it is a true match.

        Entries that the protocol removes do not appear. After the reordered entries, scores are cosines.
        """
        query_embeddings, gallery_embeddings = self.embeddings()
        is_match, is_removed = label_pairs(self.task, slice(query, query + 1))
        scores = gallery_embeddings @ query_embeddings[query]
        scores[is_removed[0]] = -np.inf
        head: dict[int, float] = {}
        if self.reordered is not None:
            first = self.reordered.positions[query] >= 0
            reordered = zip(self.reordered.positions[query][first], self.reordered.scores[query][first], strict=True)
            head = {int(entry): float(score) for entry, score in reordered}
        ranked = best_entries(scores, count + len(head))
        tail = [(int(entry), float(scores[entry])) for entry in ranked if entry not in head]
        return [(entry, score, bool(is_match[0, entry])) for entry, score in [*head.items(), *tail][:count]]
