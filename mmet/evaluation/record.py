"""The rows of an evaluation, as written to `results.json`.

record = ResultRecord.of(result, system="model", data="market1501", data_root="/data/market")
report = EvaluationReport.now(model="outputs/run", results=[record])
report.to_json()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from mmet.evaluation.metrics.bootstrap import QueryValues
from mmet.evaluation.metrics.ranking import RankMetrics
from mmet.evaluation.protocols import PROTOCOLS, Modality
from mmet.evaluation.task_result import TaskResult
from mmet.versions import installed_versions

TASK_FIELDS = ("data", "data_root", "protocol", "query", "gallery")
"""Fields that rows must share to be compared."""


@dataclass(frozen=True, eq=False)
class ResultRecord:
    """One row: one system on one task.

    Attributes:
        data: name of the data set.
        data_root: the folder that it was read from.
        protocol, query, gallery: of the task.
        system: name of the system.
        metrics: its results.
        options: options beyond a plain search, as JSON values.
        extras: values computed by analyses, by name, as JSON values.
        query_values: per-query values whose means are the metrics; None if only means are known. Not written.
    """

    data: str
    data_root: str
    protocol: str
    query: Modality
    gallery: Modality
    system: str
    metrics: RankMetrics
    options: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    query_values: QueryValues | None = None

    @classmethod
    def of(cls, result: TaskResult, *, system: str, data: str, data_root: str) -> ResultRecord:
        """Make the row of a result, before any analysis."""
        task, values = result.task, result.headline_values()
        return cls(
            data=data,
            data_root=data_root,
            protocol=task.protocol,
            query=task.query.modality,
            gallery=task.gallery.modality,
            system=system,
            metrics=result.metrics,
            options=result.options.to_json(),
            query_values=None if values is None else QueryValues(values, task.query.person_ids),
        )

    @property
    def task(self) -> tuple[str, ...]:
        """The values of `TASK_FIELDS`."""
        return tuple(getattr(self, name) for name in TASK_FIELDS)

    @property
    def kind(self) -> str:
        """Modalities of query and gallery: `text→image`."""
        return f"{self.query}→{self.gallery}"

    def to_json(self) -> dict[str, Any]:
        """The record as plain values; metrics are fractions in [0, 1]."""
        metrics = self.metrics
        return {
            "data": self.data,
            "data_root": self.data_root,
            "protocol": self.protocol,
            "protocol_rules": PROTOCOLS[self.protocol].describe(),
            "query": self.query,
            "gallery": self.gallery,
            "system": self.system,
            "metrics": metrics.headline(),
            "cmc": metrics.cmc.tolist(),
            "num_queries": metrics.num_queries,
            "num_valid_queries": metrics.num_valid_queries,
            "num_gallery": metrics.num_gallery,
            "options": dict(self.options),
            **self.extras,
        }


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """All results of one run and the versions and settings that produced them.

    Attributes:
        model: folder or name.
        created: UTC in ISO 8601.
        versions: versions of the packages that results depend on.
        results: the rows.
        settings: every argument of the run.
        systems: folder or name of every loaded model, by row.
        summaries: values of analyses over several rows, by name, as JSON values.
    """

    model: str
    created: str
    versions: dict[str, str]
    results: Sequence[ResultRecord]
    settings: Mapping[str, Any] = field(default_factory=dict)
    systems: Mapping[str, str] = field(default_factory=dict)
    summaries: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def now(cls, model: str, results: Sequence[ResultRecord], **parts: Any) -> EvaluationReport:
        """Make a report with the present time and the installed versions; `parts` are the fields with defaults."""
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(model, created, installed_versions(), results, **parts)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values, the content of `results.json`."""
        return {
            "model": self.model,
            "created": self.created,
            "versions": self.versions,
            "settings": dict(self.settings),
            "systems": dict(self.systems),
            "results": [record.to_json() for record in self.results],
            **self.summaries,
        }
