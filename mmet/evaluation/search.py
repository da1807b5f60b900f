"""Run one task from embeddings to its result: merge and expand queries, then rank the gallery in one of three ways:
plainly, re-ranked by k-reciprocal neighbours, or with its first entries re-scored by a cross-encoder.

    result = run_search(task, query_embeddings, gallery_embeddings, EvaluationOptions(query_expansion=5))
    result.metrics.mAP, result.first_entries(0, 10)

Only this module ranks by the rules of a task's protocol. Systems call it; to run a system, call `system.evaluate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

from mmet.data.schema import JUNK_PERSON_ID
from mmet.evaluation.expansion import expand_queries, merge_queries
from mmet.evaluation.metrics.counting import MatchRanks
from mmet.evaluation.metrics.input_checks import unit_pair
from mmet.evaluation.metrics.ranking import rank_blocks, rank_metrics, summarize_ranks
from mmet.evaluation.metrics.reranking import prepare_reranking
from mmet.evaluation.options import EvaluationOptions, RerankParameters
from mmet.evaluation.pairs import best_entries, label_pairs
from mmet.evaluation.protocols import RetrievalTask
from mmet.evaluation.rescoring import Matcher, ranks_by_query, rescore_first
from mmet.evaluation.task_metrics import draw_ranks
from mmet.evaluation.task_result import ReorderedEntries, TaskResult

RERANKED_HEAD = 20
"""Number of entries of a re-ranked gallery that are kept for ranked lists."""

Embeddings = NDArray[np.float32]


def run_search(
    task: RetrievalTask,
    query_embeddings: Embeddings,
    gallery_embeddings: Embeddings,
    options: EvaluationOptions | None = None,
    *,
    matcher: Matcher | None = None,
) -> TaskResult:
    """Rank the gallery for every query.

    Args:
        task: whose embeddings these are.
        query_embeddings: `(Q, D)`, any real dtype and length; compared by cosine.
        gallery_embeddings: `(G, D)`, likewise.
        options: None for a plain search. `flip` concerns the embedding and is only recorded.
        matcher: the cross-encoder; nothing is re-scored without it, or for modalities that it cannot read.

    Raises:
        ValueError: as `rank_metrics`; also re-ranking or re-scoring under a protocol that draws its galleries.
    """
    options = options or EvaluationOptions()
    if matcher is None or not options.itm_top_k:
        options = replace(options, itm_top_k=0, itm_weight=EvaluationOptions.itm_weight)
    _check_gallery_is_whole(task, options)
    query, gallery = unit_pair(query_embeddings, gallery_embeddings, (len(task.query), len(task.gallery)))
    task, gallery = _without_unknown(task, gallery)
    if options.multi_query:
        task, query = merge_queries(task, query)
    if options.query_expansion:
        query = expand_queries(task, query, gallery, count=options.query_expansion)
    if options.rerank is not None:
        return _rerank(task, query, gallery, options, options.rerank)
    if matcher is not None and options.itm_top_k:
        return _rescore(task, query, gallery, options, matcher)
    return _rank(task, query, gallery, options)


def _check_gallery_is_whole(task: RetrievalTask, options: EvaluationOptions) -> None:
    """Raise `ValueError` for an option that reorders galleries if the protocol draws its own."""
    reordering = "itm_top_k 0" if options.itm_top_k else "no rerank" if options.rerank is not None else None
    if reordering is not None and task.rules.single_shot is not None:
        raise ValueError(f"protocol {task.protocol!r} draws galleries of its own: expected {reordering} with it")


def _without_unknown(task: RetrievalTask, gallery_embeddings: Embeddings) -> tuple[RetrievalTask, Embeddings]:
    """The task and its gallery `(G, D)` without unknown persons (-1); tasks of `build_task` have none."""
    known = task.gallery.person_ids != JUNK_PERSON_ID
    if known.all():
        return task, gallery_embeddings
    exclusion = task.gallery_exclusion_ids
    gallery = task.gallery.select(known)
    exclusion = None if exclusion is None else exclusion[known]
    return replace(task, gallery=gallery, gallery_exclusion_ids=exclusion), gallery_embeddings[known]


def _rank(task: RetrievalTask, query: Embeddings, gallery: Embeddings, options: EvaluationOptions) -> TaskResult:
    """Rank by cosine, in the whole gallery or in those that the protocol draws."""
    rules = task.rules
    if rules.single_shot is not None:
        drawn = draw_ranks(task, query, gallery, rules.single_shot)
        return TaskResult(task, options, drawn.metrics(options.max_rank), query, gallery, drawn=drawn)
    metrics = rank_metrics(
        query,
        gallery,
        task.query.person_ids,
        task.gallery.person_ids,
        task.query_exclusion_ids,
        task.gallery_exclusion_ids,
        max_rank=options.max_rank,
        ap=rules.ap,
        denominator=rules.denominator,
        return_per_query=True,
    )
    return TaskResult(task, options, metrics, query, gallery)


def _rerank(
    task: RetrievalTask,
    query: Embeddings,
    gallery: Embeddings,
    options: EvaluationOptions,
    parameters: RerankParameters,
) -> TaskResult:
    """Rank by `k_reciprocal_rerank`. The scores of the first entries are its distances, negated."""
    reranking = prepare_reranking(query, gallery, **asdict(parameters))
    positions = np.full((len(query), RERANKED_HEAD), -1, dtype=np.int64)
    scores = np.full((len(query), RERANKED_HEAD), -np.inf, dtype=np.float32)

    def blocks() -> Iterator[NDArray[np.float32]]:
        for queries, distances in reranking.blocks():
            np.negative(distances, out=distances)
            _, is_removed = label_pairs(task, queries)
            for row, number in enumerate(range(queries.start, queries.stop)):
                left = np.where(is_removed[row], np.float32(-np.inf), distances[row])
                first = best_entries(left, RERANKED_HEAD)
                positions[number, : len(first)], scores[number, : len(first)] = first, left[first]
            yield distances

    metrics = rank_blocks(
        blocks(),
        task.matches(),
        max_rank=options.max_rank,
        ap=task.rules.ap,
        denominator=task.rules.denominator,
        return_per_query=True,
    )
    return TaskResult(task, options, metrics, query, gallery, ReorderedEntries(positions, scores))


def _rescore(
    task: RetrievalTask, query: Embeddings, gallery: Embeddings, options: EvaluationOptions, matcher: Matcher
) -> TaskResult:
    """Rank by cosine, and the first entries as the cross-encoder orders them."""
    reordered = rescore_first(task, query, gallery, matcher, count=options.itm_top_k, weight=options.itm_weight)
    ranks = ranks_by_query(task, query, gallery, reordered)
    metrics = summarize_ranks(
        MatchRanks(np.array(list(map(len, ranks)), dtype=np.int64), np.concatenate(ranks)),
        len(gallery),
        options.max_rank,
        ap=task.rules.ap,
        denominator=task.rules.denominator,
        return_per_query=True,
    )
    return TaskResult(task, options, metrics, query, gallery, reordered)
