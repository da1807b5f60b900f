"""Read `results.json` of an evaluation: check it and group its rows by task.

evaluation = read_evaluation(Path("outputs/demo/eval/results.json"))
evaluation.tasks[0].trained.metrics["mAP"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from mmet.checkpoint_files import read_json_object
from mmet.evaluation.metrics.ranking import REPORTED_RANKS
from mmet.evaluation.options import EvaluationOptions
from mmet.evaluation.protocols import MODALITIES, PROTOCOLS
from mmet.evaluation.record import TASK_FIELDS
from mmet.evaluation.systems.lineup import MODEL
from mmet.field_checks import SHARE_RANGE, Range, check_choice, check_number, shown

BASELINE_LABELS = {"chance": "Chance", "histogram": "Colour histogram", "untrained": "MMET, untrained"}
"""Labels of the baselines, in the order of the charts."""

TRAINED_LABEL = "MMET, trained"

METRICS = ("mAP", "mINP", *(f"rank{rank}" for rank in REPORTED_RANKS))

ROUNDING = 1e-9
"""Largest difference that is taken for rounding."""

JSON_KINDS: Mapping[type, str] = {dict: "an object", list: "a list", str: "text", object: "a value"}

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class SystemResult:
    """One system on one task; metrics are fractions in [0, 1].

    Attributes:
        system: name of the system in `results.json`.
        metrics: values of `METRICS`.
        cmc: the CMC curve.
        options: options of the evaluation, such as re-ranking.
        variant: number of the system among those that are neither the model nor a baseline, for its colour; None for
            the model and the baselines.
    """

    system: str
    metrics: Mapping[str, float]
    cmc: Sequence[float]
    options: EvaluationOptions = field(default_factory=EvaluationOptions)
    variant: int | None = None

    @property
    def is_trained(self) -> bool:
        """Whether this is the model itself and not a system that it is compared with."""
        return self.system == MODEL

    @property
    def label(self) -> str:
        """Name of the system in charts; a backbone or another checkpoint has the name of its row."""
        return {**BASELINE_LABELS, MODEL: TRAINED_LABEL}.get(self.system, self.system)


@dataclass(frozen=True)
class TaskComparison:
    """The results of all systems on one task: one data set, one kind of query, one kind of gallery."""

    data: str
    data_root: str
    protocol: str
    query: str
    gallery: str
    num_queries: int
    num_gallery: int
    results: Sequence[SystemResult]

    @property
    def trained(self) -> SystemResult | None:
        """The model's own result, if it was evaluated."""
        return next((result for result in self.results if result.is_trained), None)


@dataclass(frozen=True)
class Evaluation:
    """The content of `results.json`, with rows grouped by task; `settings` are the arguments of the evaluation."""

    created: str
    versions: Mapping[str, str]
    tasks: Sequence[TaskComparison]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def find_task(self, data: str, root: Path, query: str, gallery: str) -> TaskComparison | None:
        """Find the task of a data set and a pair of modalities; one with the same folder is preferred."""
        wanted = (data, query, gallery)
        tasks = [task for task in self.tasks if (task.data, task.query, task.gallery) == wanted]
        same_folder = [task for task in tasks if Path(task.data_root).resolve() == root.resolve()]
        return next(iter([*same_folder, *tasks]), None)


def read_evaluation(path: Path) -> Evaluation:
    """Read and check `results.json`. Raises `ValueError`, naming file and field, for other content."""
    content = read_json_object(path, "the results of an evaluation")
    try:
        results = _field(content, "results", list)
        rows = [_read_row(_of_kind(f"results[{number}]", row, dict), number) for number, row in enumerate(results)]
        _check_comparisons(content.get("comparisons", []))
        groups: dict[tuple[str, ...], list[_ParsedRow]] = {}
        for row in rows:
            groups.setdefault(row.task, []).append(row)
        tasks = [_task_results(group) for group in groups.values()]
        names = dict.fromkeys(row.result.system for row in rows)
        variants = [name for name in names if name != MODEL and name not in BASELINE_LABELS]
        versions = _field(content, "versions", dict)
        return Evaluation(
            created=_field(content, "created", str),
            versions={name: _field(versions, name, str, "versions.") for name in versions},
            tasks=[_with_variants(task, variants) for task in tasks],
            settings=_of_kind("settings", content.get("settings", {}), dict),
        )
    except ValueError as error:
        raise ValueError(f"{path} is not the results of an evaluation: {error}") from error


@dataclass(frozen=True)
class _ParsedRow:
    """A row of `results.json`: its task, the task's sizes, and its result."""

    task: tuple[str, str, str, str, str]
    num_queries: int
    num_gallery: int
    result: SystemResult


def _read_row(row: Mapping[str, Any], number: int) -> _ParsedRow:
    at = f"results[{number}]."
    data, root, protocol, query, gallery = (_field(row, name, str, at) for name in TASK_FIELDS)
    check_choice(f"{at}protocol", protocol, PROTOCOLS)
    for name in ("query", "gallery"):
        check_choice(f"{at}{name}", row[name], MODALITIES)
    metrics = _field(row, "metrics", dict, at)
    values = {name: _share(metrics, name, f"{at}metrics.") for name in METRICS}
    counts = [_count(row, name, at) for name in ("num_queries", "num_valid_queries", "num_gallery")]
    if counts[1] > counts[0]:
        raise ValueError(f"{at}num_valid_queries: expected at most num_queries, {counts[0]}, received {counts[1]}")
    _check_intervals(row.get("intervals"), f"{at}intervals")
    curve = _read_cmc(_field(row, "cmc", list, at), f"{at}cmc")
    for rank in REPORTED_RANKS:
        point = curve[min(rank, len(curve)) - 1]
        if abs(values[f"rank{rank}"] - point) > ROUNDING:
            raise ValueError(
                f"{at}metrics.rank{rank}: expected {point}, as in its cmc, received {values[f'rank{rank}']}"
            )
    result = SystemResult(
        system=_field(row, "system", str, at),
        metrics=values,
        cmc=curve,
        options=_read_options(row.get("options", {}), f"{at}options"),
    )
    return _ParsedRow((data, root, protocol, query, gallery), counts[1], counts[2], result)


def _read_options(values: Any, name: str) -> EvaluationOptions:
    try:
        return EvaluationOptions.from_json(_of_kind(name, values, dict))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _read_cmc(values: Sequence[Any], name: str) -> list[float]:
    """Check a curve of shares that never falls."""
    if not values:
        raise ValueError(f"{name}: expected a curve, received an empty list")
    curve = [check_number(f"{name}[{rank}]", value, float, SHARE_RANGE) for rank, value in enumerate(values)]
    for rank, (before, after) in enumerate(pairwise(curve), 1):
        if after < before - ROUNDING:
            raise ValueError(f"{name}: expected a curve that never falls, received {after} after {before} at [{rank}]")
    return curve


def _check_intervals(intervals: Any, name: str) -> None:
    """Raise `ValueError` for intervals that are reversed or outside [0, 1]; they may be absent."""
    if intervals is None:
        return
    by_metric = _of_kind(name, intervals, dict).get("metrics")
    for metric, bounds in (_of_kind(f"{name}.metrics", by_metric, dict) if by_metric is not None else {}).items():
        place = f"{name}.metrics.{metric}"
        if len(_of_kind(place, bounds, list)) != 2:
            raise ValueError(f"{place}: expected [low, high], received {shown(bounds)}")
        low, high = (check_number(place, bound, float, SHARE_RANGE) for bound in bounds)
        if low > high:
            raise ValueError(f"{place}: expected [low, high], received the reversed {shown(bounds)}")


def _check_comparisons(comparisons: Any) -> None:
    """Raise `ValueError` for differences outside [-1, 1] and for intervals that are reversed."""
    for number, entry in enumerate(_of_kind("comparisons", comparisons, list)):
        at = f"comparisons[{number}]."
        metrics = _field(_of_kind(at[:-1], entry, dict), "metrics", dict, at)
        for metric in metrics:
            values = _field(metrics, metric, dict, f"{at}metrics.")
            bounds = [
                check_number(f"{at}metrics.{metric}.{name}", values[name], float, Range(at_least=-1, at_most=1))
                for name in ("difference", "low", "high")
                if values.get(name) is not None
            ]
            if len(bounds) == 3 and bounds[1] > bounds[2]:
                raise ValueError(
                    f"{at}metrics.{metric}: expected low up to high, received {bounds[1]} and {bounds[2]}"
                )


def _task_results(rows: Sequence[_ParsedRow]) -> TaskComparison:
    first = rows[0]
    systems = [row.result.system for row in rows]
    if len(set(systems)) < len(systems):
        twice = next(name for name in systems if systems.count(name) > 1)
        raise ValueError(f"results: expected each system once per task, received {twice!r} twice on {first.task}")
    return TaskComparison(*first.task, first.num_queries, first.num_gallery, [row.result for row in rows])


def _with_variants(task: TaskComparison, variants: Sequence[str]) -> TaskComparison:
    """Number the systems of a task that are among `variants` by their place there."""
    numbered = [
        replace(result, variant=variants.index(result.system)) if result.system in variants else result
        for result in task.results
    ]
    return replace(task, results=numbered)


def _field(content: Mapping[str, Any], name: str, kind: type[Kind], at: str = "") -> Kind:
    """Read a required field. Raises `ValueError`, naming it, if it is missing or of another type."""
    if name not in content:
        raise ValueError(f"expected the field {name!r}{f' in {at[:-1]}' if at else ''}, which is missing")
    return _of_kind(f"{at}{name}", content[name], kind)


def _of_kind(name: str, value: Any, kind: type[Kind]) -> Kind:
    if not isinstance(value, kind):
        raise ValueError(f"{name}: expected {JSON_KINDS[kind]}, received {shown(value)}")
    return value


def _share(content: Mapping[str, Any], name: str, at: str) -> float:
    """Read a field that is a fraction in [0, 1]."""
    return check_number(f"{at}{name}", _field(content, name, object, at), float, SHARE_RANGE)


def _count(content: Mapping[str, Any], name: str, at: str) -> int:
    return check_number(f"{at}{name}", _field(content, name, object, at), int, Range(at_least=1))
