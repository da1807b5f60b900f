"""Example ranked lists of a retrieval task: a few queries, chosen by rule, with the model's first candidates.

    (result,) = system.evaluate([sample_queries(task, 300, rng)], EvaluationOptions())
    search = show_lists(result, num_all_queries=len(task.query), num_candidates=10, rng=rng)
    search.metrics.mAP, search.lists[0].candidates[0].is_match

`mmet.evaluation` does the searches; this module chooses queries, by their average precision and not by their looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmet.evaluation import EvaluationOptions, RankMetrics, RetrievalTask, TaskResult
from mmet.evaluation.analyses.ranked_lists import ListEntry, list_rows

STRATA = ("best", "typical", "hard")
"""One query is drawn from each of three tenths of the queries, by average precision: top, middle, bottom."""


@dataclass(frozen=True, eq=False)
class ExampleList:
    """A query and its first candidates, best first.

    Attributes:
        stratum: one of `STRATA`.
        average_precision: average precision of the whole list, not only of the shown part.
        num_matches: number of true matches in the query's gallery.
        query: the query's picture, sentence or both.
        candidates: the first entries of the list.
    """

    stratum: str
    average_precision: float
    num_matches: int
    query: ListEntry
    candidates: Sequence[ListEntry]


@dataclass(frozen=True, eq=False)
class ExampleSearch:
    """A sample of a task's queries (of `num_all_queries`), their metrics, and the ranked lists to show."""

    task: RetrievalTask
    num_all_queries: int
    metrics: RankMetrics
    lists: Sequence[ExampleList]


def sample_task(
    task: RetrievalTask, options: EvaluationOptions, max_queries: int, rng: np.random.Generator
) -> RetrievalTask:
    """Return the task with a sample of `max_queries` of its queries, or all if it has no more.

    All queries are kept if a query's ranking depends on the others: if they are merged or re-ranked together.
    """
    together = options.multi_query or options.rerank is not None
    return sample_queries(task, len(task.query) if together else max_queries, rng)


def sample_queries(task: RetrievalTask, max_queries: int, rng: np.random.Generator) -> RetrievalTask:
    """Return the task with at most `max_queries` random queries of those that have a true match."""
    valid = np.flatnonzero(task.matches().counts()[0] > 0)
    return task.select_queries(np.sort(rng.permutation(valid)[:max_queries]))


def show_lists(
    result: TaskResult, *, num_all_queries: int, num_candidates: int, rng: np.random.Generator
) -> ExampleSearch:
    """Show the ranked lists of a best, a typical and a hard query.

    Args:
        result: result of the sampled task.
        num_all_queries: number of queries before sampling.
        num_candidates: length of the lists.
        rng: chooses the queries.
    """
    assert result.metrics.per_query is not None  # protocols that draw galleries are not shown
    precisions = result.metrics.per_query.ap
    return ExampleSearch(
        task=result.task,
        num_all_queries=num_all_queries,
        metrics=result.metrics,
        lists=[
            _example_list(result, stratum, position, precisions[position], num_candidates)
            for stratum, position in choose_strata(precisions, rng).items()
        ],
    )


def choose_strata(precisions: NDArray[np.float64], rng: np.random.Generator) -> dict[str, int]:
    """Choose one query from the top, middle and bottom tenth by average precision: stratum → position.

    No query is chosen twice, so with fewer than three queries some strata are missing.
    """
    order = np.argsort(-precisions, kind="stable")  # best first
    tenth = -(-len(order) // 10)
    middle = (len(order) - tenth) // 2
    tenths = {"best": order[:tenth], "typical": order[middle : middle + tenth], "hard": order[len(order) - tenth :]}
    chosen: dict[str, int] = {}
    for stratum in STRATA:
        free = [int(position) for position in tenths[stratum] if position not in chosen.values()]
        if free:
            chosen[stratum] = free[rng.integers(len(free))]
    return chosen


def _example_list(result: TaskResult, stratum: str, position: int, precision: float, count: int) -> ExampleList:
    ((query, *candidates),) = list_rows(result, [position], count)
    num_matches = int(result.task.matches().of_query(position).size)
    return ExampleList(stratum, float(precision), num_matches, query, candidates)
