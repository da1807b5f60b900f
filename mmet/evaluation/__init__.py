"""Evaluation: exact retrieval metrics, named protocols, baselines and reports.

    from mmet.evaluation import build_task, rank_metrics

`evaluate_systems` runs systems on a dataset's tasks; `run_reid_eval.py` is the command line.
"""

from __future__ import annotations

from mmet.evaluation.metrics.bootstrap import BootstrapOptions, Interval, bootstrap_means
from mmet.evaluation.metrics.chance import expected_random_metrics
from mmet.evaluation.metrics.matches import GalleryMatches
from mmet.evaluation.metrics.ranking import PerQueryMetrics, RankMetrics, rank_blocks, rank_metrics
from mmet.evaluation.metrics.reranking import k_reciprocal_blocks, k_reciprocal_rerank, reranked_metrics
from mmet.evaluation.options import EvaluationOptions, RerankParameters
from mmet.evaluation.protocols import (
    PROTOCOLS,
    Items,
    Protocol,
    RetrievalTask,
    build_task,
    prepare_tasks,
    select_items,
    standard_pairs,
)
from mmet.evaluation.record import EvaluationReport, ResultRecord
from mmet.evaluation.runner import EvaluationData, evaluate_systems
from mmet.evaluation.systems.base import EmbeddingSystem, System
from mmet.evaluation.systems.baselines import ChanceSystem, ColorHistogramSystem, untrained_model
from mmet.evaluation.systems.embedding import embed_items
from mmet.evaluation.systems.model import ModelSystem
from mmet.evaluation.task_metrics import expected_task_metrics
from mmet.evaluation.task_result import TaskResult

__all__ = [
    "PROTOCOLS",
    "BootstrapOptions",
    "ChanceSystem",
    "ColorHistogramSystem",
    "EmbeddingSystem",
    "EvaluationData",
    "EvaluationOptions",
    "EvaluationReport",
    "GalleryMatches",
    "Interval",
    "Items",
    "ModelSystem",
    "PerQueryMetrics",
    "Protocol",
    "RankMetrics",
    "RerankParameters",
    "ResultRecord",
    "RetrievalTask",
    "System",
    "TaskResult",
    "bootstrap_means",
    "build_task",
    "embed_items",
    "evaluate_systems",
    "expected_random_metrics",
    "expected_task_metrics",
    "k_reciprocal_blocks",
    "k_reciprocal_rerank",
    "prepare_tasks",
    "rank_blocks",
    "rank_metrics",
    "reranked_metrics",
    "select_items",
    "standard_pairs",
    "untrained_model",
]
