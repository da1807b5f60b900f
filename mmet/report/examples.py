"""Ranked lists to look at: for a retrieval task a few queries, chosen by rule, and what the model finds for them.

    (result,) = system.evaluate([sample_queries(task, 300, rng)], EvaluationOptions())
    search = show_lists(result, num_all_queries=len(task.query), num_candidates=10, rng=rng)
    search.metrics.mAP, search.lists[0].candidates[0].is_match

Searches are those of `mmet.evaluation`; this module picks queries and makes pictures. Which queries are shown is
decided by their average precision, not by how they look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmet.evaluation import EvaluationOptions, RankMetrics, RetrievalTask, TaskResult
from mmet.evaluation.analyses.ranked_lists import ListEntry, list_rows

STRATA = ("best", "typical", "hard")
"""Tenths of the queries by average precision, from which one query each is drawn: top, middle, bottom."""


@dataclass(frozen=True, eq=False)
class ExampleList:
    """A query and its first candidates, best first.

    Attributes:
        stratum: one of `STRATA`.
        average_precision: of the whole list, not only of what is shown.
        num_matches: how many true matches the query's gallery holds.
        query: its picture, sentence or both.
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
    """The task with a sample of its queries, where it has more than `max_queries`.

    Where a query's ranking depends on the other queries, merged or re-ranked together, all of them are searched.
    """
    together = options.multi_query or options.rerank is not None
    return sample_queries(task, len(task.query) if together else max_queries, rng)


def sample_queries(task: RetrievalTask, max_queries: int, rng: np.random.Generator) -> RetrievalTask:
    """The task with `max_queries` of its queries that have a true match, drawn at random; all where it has no more."""
    valid = np.flatnonzero(task.matches().counts()[0] > 0)
    return task.select_queries(np.sort(rng.permutation(valid)[:max_queries]))


def show_lists(
    result: TaskResult, *, num_all_queries: int, num_candidates: int, rng: np.random.Generator
) -> ExampleSearch:
    """The ranked lists of a best, a typical and a hard query of a result.

    Args:
        result: of the sampled task.
        num_all_queries: what was sampled from.
        num_candidates: length of the lists.
        rng: chooses the queries.
    """
    assert result.metrics.per_query is not None  # of protocols that draw their galleries nothing is shown
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
    """One query from the top, the middle and the bottom tenth by average precision: stratum → position.

    None is chosen twice: with fewer than three queries, strata are missing.
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
