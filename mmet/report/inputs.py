"""What the report reads: evaluation results, the training history of a run, and what a data set holds.

evaluation = read_evaluation(Path("outputs/demo/eval/results.json"))
history = read_history(Path("outputs/demo/model"))
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from mmet.data import JUNK_PERSON_ID, NO_CAMERA, DataArgument, get_spec
from mmet.data.synthetic import PROVENANCE_FILE
from modeling_mmet import LOSS_NAMES

BASELINE_LABELS = {"chance": "Chance", "histogram": "Colour histogram", "untrained": "MMET, untrained"}
"""Systems of the evaluation that are no trained model, in the order in which charts show them."""

TRAINED_LABEL = "MMET, trained"

METRICS = ("mAP", "mINP", "rank1", "rank5", "rank10")


@dataclass(frozen=True)
class Result:
    """One system on one task; metrics are fractions in [0, 1]."""

    system: str
    metrics: Mapping[str, float]
    cmc: Sequence[float]

    @property
    def is_trained(self) -> bool:
        """Whether this is the model and not something it is compared with."""
        return self.system not in BASELINE_LABELS

    @property
    def label(self) -> str:
        """Name of the system in prose. Every system that is no baseline is the trained model."""
        return BASELINE_LABELS.get(self.system, TRAINED_LABEL)


@dataclass(frozen=True)
class TaskResults:
    """All systems on one task: a data set searched with one kind of query for one kind of gallery entry."""

    data: str
    protocol: str
    query: str
    gallery: str
    num_queries: int
    num_gallery: int
    results: Sequence[Result]

    @property
    def trained(self) -> Result | None:
        """The model's own row, where it was evaluated."""
        return next((result for result in self.results if result.is_trained), None)


@dataclass(frozen=True)
class Evaluation:
    """The content of `results.json`, rows gathered by task in their order."""

    created: str
    versions: Mapping[str, str]
    tasks: Sequence[TaskResults]


@dataclass(frozen=True, eq=False)
class LossSeries:
    """A loss by its name in `LOSS_NAMES` (or `total`): `steps` and `values`, both `(n,)`."""

    name: str
    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class TrainingHistory:
    """How the run went: its steps, its seconds (None where it was interrupted) and every loss that was logged."""

    num_steps: int
    seconds: float | None
    losses: Sequence[LossSeries]


@dataclass(frozen=True)
class DataSummary:
    """A data set in figures. `title` is its published name, and says when the data only has its layout."""

    name: str
    root: Path
    title: str
    is_synthetic: bool
    num_images: int
    num_persons: int
    num_cameras: int
    num_captions: int


def read_evaluation(path: Path) -> Evaluation:
    """Read `results.json`. Raises `ValueError`, naming file and field, when it is not what the evaluation writes."""
    content = _read_json(path)
    try:
        groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in content["results"]:
            key = tuple(str(row[name]) for name in ("data", "data_root", "protocol", "query", "gallery"))
            groups.setdefault(key, []).append(row)
        tasks = [_task_results(rows) for rows in groups.values()]
        return Evaluation(str(content["created"]), dict(content["versions"]), tasks)
    except KeyError as error:
        raise ValueError(f"{path}: expected the field {error.args[0]!r} of an evaluation, which is missing") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the results of an evaluation: {error}") from error


def _task_results(rows: Sequence[Mapping[str, Any]]) -> TaskResults:
    first = rows[0]
    return TaskResults(
        data=str(first["data"]),
        protocol=str(first["protocol"]),
        query=str(first["query"]),
        gallery=str(first["gallery"]),
        num_queries=int(first["num_valid_queries"]),
        num_gallery=int(first["num_gallery"]),
        results=[
            Result(
                system=str(row["system"]),
                metrics={name: float(row["metrics"][name]) for name in METRICS},
                cmc=[float(value) for value in row["cmc"]],
            )
            for row in rows
        ],
    )


def read_history(run: Path) -> TrainingHistory | None:
    """The training history of a run folder; None when it has none, as a model from the Hub.

    Raises:
        ValueError: a `trainer_state.json` that is none.
    """
    path = run / "trainer_state.json"
    if not path.is_file():
        return None
    state = _read_json(path)
    try:
        entries = state["log_history"]
        names = {"total": "loss", **{name: f"{name}_loss" for name in LOSS_NAMES}}
        series = [_loss_series(name, key, entries) for name, key in names.items()]
        seconds = [float(entry["train_runtime"]) for entry in entries if "train_runtime" in entry]
        return TrainingHistory(
            num_steps=int(state["global_step"]),
            seconds=seconds[-1] if seconds else None,
            losses=[losses for losses in series if losses.steps.size],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the state of a training run: {error!r}") from error


def _loss_series(name: str, key: str, entries: Sequence[Mapping[str, Any]]) -> LossSeries:
    points = [(entry["step"], entry[key]) for entry in entries if key in entry]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return LossSeries(name, steps, values)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, received {type(content).__name__}")
    return content


def summarize_data(argument: DataArgument, dataset: DatasetDict, splits: Sequence[str]) -> DataSummary:
    """Count the given splits; junk crops and distractors are images, but nobody. No picture is decoded."""
    parts = [dataset[split] for split in splits]
    persons, cameras = (
        np.concatenate([_integers(part, column) for part in parts]) for column in ("person_id", "camera_id")
    )
    spec, root = get_spec(argument.name), argument.root
    is_synthetic = (root / PROVENANCE_FILE).is_file()
    return DataSummary(
        name=argument.label,
        root=root,
        title=f"synthetic, {spec.title} layout" if is_synthetic else spec.title,
        is_synthetic=is_synthetic,
        num_images=len(persons),
        num_persons=len(set(persons.tolist()) - {JUNK_PERSON_ID, spec.distractor_id}),
        num_cameras=len(set(cameras.tolist()) - {NO_CAMERA}),
        num_captions=sum(
            len(captions) for part in parts for captions in part.select_columns("captions")[:]["captions"]
        ),
    )


def _integers(dataset: Dataset, column: str) -> np.ndarray:
    return np.array(dataset.select_columns(column)[:][column], dtype=np.int64)
