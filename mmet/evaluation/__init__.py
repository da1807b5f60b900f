"""Evaluation: exact retrieval metrics, named protocols, baselines and reports.

    from mmet.evaluation import build_task, rank_metrics

`evaluate_systems` runs systems on a data set's tasks; `run_reid_eval.py` is the command line of all this.
"""

from __future__ import annotations

from mmet.evaluation.metrics.bootstrap import BootstrapOptions, Interval, bootstrap_means
from mmet.evaluation.metrics.chance import expected_random_metrics
from mmet.evaluation.metrics.matches import GalleryMatches
from mmet.evaluation.metrics.ranking import PerQueryMetrics, RankMetrics, rank_blocks, rank_metrics
from mmet.evaluation.metrics.reranking import k_reciprocal_blocks, k_reciprocal_rerank, reranked_metrics
from mmet.evaluation.protocols import (
    PROTOCOLS,
    Items,
    Protocol,
    RetrievalTask,
    build_task,
    select_items,
    standard_pairs,
)
from mmet.evaluation.results import (
    EvaluationReport,
    ResultRecord,
    compare_systems,
    format_comparisons,
    format_console,
    format_intervals,
    format_table,
    save_report,
    summarize_seeds,
)
from mmet.evaluation.runner import EvaluationData, evaluate_systems, prepare_tasks
from mmet.evaluation.search import SearchOptions
from mmet.evaluation.systems.baselines import (
    ChanceSystem,
    ColorHistogramSystem,
    EmbeddingSystem,
    ModelSystem,
    System,
    untrained_model,
)
from mmet.evaluation.systems.embedding import embed_items
from mmet.evaluation.task_metrics import expected_task_metrics, task_metrics

__all__ = [
    "PROTOCOLS",
    "BootstrapOptions",
    "ChanceSystem",
    "ColorHistogramSystem",
    "EmbeddingSystem",
    "EvaluationData",
    "EvaluationReport",
    "GalleryMatches",
    "Interval",
    "Items",
    "ModelSystem",
    "PerQueryMetrics",
    "Protocol",
    "RankMetrics",
    "ResultRecord",
    "RetrievalTask",
    "SearchOptions",
    "System",
    "bootstrap_means",
    "build_task",
    "compare_systems",
    "embed_items",
    "evaluate_systems",
    "expected_random_metrics",
    "expected_task_metrics",
    "format_comparisons",
    "format_console",
    "format_intervals",
    "format_table",
    "k_reciprocal_blocks",
    "k_reciprocal_rerank",
    "prepare_tasks",
    "rank_blocks",
    "rank_metrics",
    "reranked_metrics",
    "save_report",
    "select_items",
    "standard_pairs",
    "summarize_seeds",
    "task_metrics",
    "untrained_model",
]
