"""Evaluation: exact retrieval metrics, named protocols, baselines and reports.

    from mmet.evaluation import build_task, rank_metrics

`evaluate_systems` runs systems on a data set's tasks; `run_reid_eval.py` is the command line of all this.
"""

from __future__ import annotations

from mmet.evaluation.baselines import (
    ChanceSystem,
    ColorHistogramSystem,
    EmbeddingSystem,
    ModelSystem,
    System,
    expected_random_metrics,
    untrained_model,
)
from mmet.evaluation.embedding import embed_items
from mmet.evaluation.matches import GalleryMatches
from mmet.evaluation.protocols import (
    PROTOCOLS,
    Items,
    Protocol,
    RetrievalTask,
    build_task,
    select_items,
    standard_pairs,
)
from mmet.evaluation.ranking import PerQueryMetrics, RankMetrics, rank_blocks, rank_metrics
from mmet.evaluation.results import EvaluationReport, ResultRecord, format_table, save_report
from mmet.evaluation.runner import EvaluationData, evaluate_systems, prepare_tasks

__all__ = [
    "PROTOCOLS",
    "ChanceSystem",
    "ColorHistogramSystem",
    "EmbeddingSystem",
    "EvaluationData",
    "EvaluationReport",
    "GalleryMatches",
    "Items",
    "ModelSystem",
    "PerQueryMetrics",
    "Protocol",
    "RankMetrics",
    "ResultRecord",
    "RetrievalTask",
    "System",
    "build_task",
    "embed_items",
    "evaluate_systems",
    "expected_random_metrics",
    "format_table",
    "prepare_tasks",
    "rank_blocks",
    "rank_metrics",
    "save_report",
    "select_items",
    "standard_pairs",
    "untrained_model",
]
