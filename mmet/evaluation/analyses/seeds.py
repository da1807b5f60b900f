"""Mean and standard deviation over models of one recipe that were trained with different seeds.

OverSeeds(["model", "seed2"]).summarize(records)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmet.evaluation.analyses.base import Analysis
from mmet.evaluation.metrics.seed_values import SeedValues
from mmet.evaluation.record import TASK_FIELDS, EvaluationReport, ResultRecord
from mmet.markdown_table import align_table

SEEDS = "seeds"
"""Name of the values over all rows; see `summarize_seeds`."""


@dataclass(frozen=True)
class OverSeeds(Analysis):
    """The spread of the metrics over training seeds.

    Attributes:
        systems: names of the models, at least two; empty if a single model is evaluated.
    """

    systems: Sequence[str] = ()

    def summarize(self, records: Sequence[ResultRecord]) -> dict[str, Any]:
        return {SEEDS: summarize_seeds(records, self.systems)}

    def section(self, report: EvaluationReport) -> str:
        summaries = report.summaries.get(SEEDS, [])
        if not summaries:
            return ""
        rows = [
            (
                summary["data"],
                f"{summary['query']}→{summary['gallery']}",
                ", ".join(summary["systems"]),
                *(str(SeedValues(tuple(100 * value for value in m["values"]))) for m in summary["metrics"].values()),
            )
            for summary in summaries
        ]
        table = align_table(("data", "query→gallery", "models", *summaries[0]["metrics"]), rows, 3)
        return f"## Over seeds\n\n{table}\nMean ± standard deviation (n - 1) in percent.\n"


def summarize_seeds(records: Sequence[ResultRecord], systems: Sequence[str]) -> list[dict[str, Any]]:
    """Compute mean and sample standard deviation (divisor n - 1) over models of one recipe with different seeds.

    Args:
        records: results of one run.
        systems: names of these models; at least two.

    Returns:
        An entry for each task: the fields of `TASK_FIELDS`, `systems`, and by metric its `mean`, `std` and `values` in
        the order of `systems` (`SeedValues`).
    """
    tasks: dict[tuple[str, ...], dict[str, dict[str, float]]] = {}
    for record in records:
        if record.system in systems:
            tasks.setdefault(record.task, {})[record.system] = record.metrics.headline()
    summaries = []
    for task, metrics in tasks.items():
        measured = [system for system in systems if system in metrics]
        summary: dict[str, Any] = {**dict(zip(TASK_FIELDS, task, strict=True)), "systems": measured}
        summary["metrics"] = {
            name: SeedValues(tuple(metrics[system][name] for system in measured)).to_json()
            for name in metrics[measured[0]]
        }
        summaries.append(summary)
    return summaries
