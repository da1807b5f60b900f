"""Which systems run on which tasks, with which options, and in which order their rows are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmet.evaluation import EvaluationData, EvaluationOptions, build_task, evaluate_systems
from mmet.evaluation.analyses.base import Analysis
from mmet.evaluation.runner import order_rows
from mmet.evaluation.search import run_search


class OneHotSystem:
    """Embeds each person as an axis, so that every ranking is right; searches what it is told to."""

    def __init__(self, name, queries=("image", "text"), offset=0):
        self.name, self.queries, self.offset, self.options = name, queries, offset, []

    def supports(self, query, gallery):
        return query in self.queries

    def evaluate(self, tasks, options):
        self.options.append(options)
        sides = [[self._embed(items) for items in (task.query, task.gallery)] for task in tasks]
        return [run_search(task, *side, options) for task, side in zip(tasks, sides, strict=True)]

    def _embed(self, items):
        persons = items.person_ids + (self.offset if items.modality == "text" else 0)
        return np.eye(8, dtype=np.float32)[persons]


class Counter(Analysis):
    """Writes the number of queries into a row, and whose row it is."""

    def compute(self, result, record):
        return {"queries": [record.system, len(result.task.query)]}


@pytest.fixture
def data(text_dataset):
    tasks = [build_task(text_dataset, query, "image") for query in ("image", "text")]
    return EvaluationData("colours", Path("/data/colours"), tasks)


def test_evaluate_systems__by_task_then_as_the_systems_are(data):
    rows = evaluate_systems(data, [OneHotSystem("b"), OneHotSystem("a", queries=("text",)), OneHotSystem("c")])
    assert [(row.query, row.system) for row in rows] == [
        *(("image", "b"), ("image", "c")),
        *(("text", "b"), ("text", "a"), ("text", "c")),
    ]
    assert {(row.data, row.data_root, row.gallery) for row in rows} == {("colours", "/data/colours", "image")}
    assert [row.protocol for row in rows] == [data.tasks[number].protocol for number in (0, 0, 1, 1, 1)]


def test_evaluate_systems__rows_have_the_metrics_of_their_own_system(data):
    right, wrong = evaluate_systems(
        data, [OneHotSystem("right", ("text",)), OneHotSystem("wrong", ("text",), offset=1)]
    )
    assert (right.metrics.mAP, right.metrics.rank(1)) == (1, 1)
    assert wrong.metrics.rank(1) < 0.5
    assert right.query_values.values["mAP"].mean() == 1


def test_evaluate_systems__options_reach_systems_and_rows(data):
    system, options = OneHotSystem("a"), EvaluationOptions(max_rank=7, query_expansion=2)
    rows = evaluate_systems(data, [system], options)
    assert system.options == [options]
    assert all(row.options["query_expansion"] == 2 for row in rows)
    evaluate_systems(data, [system])
    assert system.options[1] == EvaluationOptions()


def test_evaluate_systems__analyses_see_each_row_with_its_own_result(data):
    rows = evaluate_systems(data, [OneHotSystem("a"), OneHotSystem("b")], analyses=[Counter()])
    sizes = {task.query.modality: len(task.query) for task in data.tasks}
    assert [row.extras["queries"] for row in rows] == [[row.system, sizes[row.query]] for row in rows]


def test_order_rows__tasks_in_the_order_of_the_data_and_systems_as_they_came(data):
    other = EvaluationData("others", Path("/data/others"), data.tasks[:1])
    rows = [row for name in "ab" for part in (other, data) for row in evaluate_systems(part, [OneHotSystem(name)])]
    ordered = order_rows(rows, [data, other])
    assert [(row.data, row.query, row.system) for row in ordered] == [
        *(("colours", "image", "a"), ("colours", "image", "b"), ("colours", "text", "a"), ("colours", "text", "b")),
        *(("others", "image", "a"), ("others", "image", "b")),
    ]
