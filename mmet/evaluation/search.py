"""One search with its options: merged and expanded queries, ranking, re-scoring of what ranks first.

    result = run_search(task, query_embeddings, gallery_embeddings, SearchOptions(query_expansion=5), max_rank=50)
    result.metrics.mAP, result.first_entries(0, 10)

Every option is off by default, and `SearchOptions.to_json` goes into the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmet.data.schema import JUNK_PERSON_ID
from mmet.evaluation.expansion import expand_queries, merge_queries
from mmet.evaluation.metrics.counting import MatchRanks
from mmet.evaluation.metrics.input_checks import unit_pair
from mmet.evaluation.metrics.ranking import RankMetrics, rank_blocks, summarize_ranks
from mmet.evaluation.metrics.reranking import Metric, check_parameters, prepare_reranking
from mmet.evaluation.pairs import best_entries, label_pairs, pair_blocks
from mmet.evaluation.protocols import RetrievalTask
from mmet.evaluation.task_metrics import DrawnRanks, draw_ranks, task_metrics
from mmet.field_checks import Range, check_number, check_value

REPORTED_RANKS = (1, 5, 10)

RERANKED_HEAD = 20
"""Entries of a re-ranked gallery that are kept for ranked lists."""

Matcher = Callable[[RetrievalTask, NDArray[np.int64]], NDArray[np.float32]]
"""Reads pairs `(P, 2)` of a query and a gallery position together: `(P,)` log-odds that they belong together."""


@dataclass(frozen=True)
class RerankParameters:
    """Those of `k_reciprocal_rerank`, with the published values."""

    k1: int = 20
    k2: int = 6
    lambda_value: float = 0.3
    metric: Metric = "euclidean"

    def __post_init__(self) -> None:
        check_parameters(self.k1, self.k2, self.lambda_value, self.metric)


@dataclass(frozen=True)
class SearchOptions:
    """What is done to a plain search by cosine similarity; nothing by default.

    Attributes:
        multi_query: the queries of one person from one camera are averaged (`merge_queries`).
        query_expansion: first entries that a query is averaged with (`expand_queries`); 0 for none.
        rerank: k-reciprocal re-ranking of the whole gallery (`k_reciprocal_rerank`); None for none.
        itm_top_k: first entries that the cross-encoder re-scores; 0 for none.
        itm_weight: weight of its log-odds beside the cosine.
    """

    multi_query: bool = False
    query_expansion: int = 0
    rerank: RerankParameters | None = None
    itm_top_k: int = 0
    itm_weight: float = 1.0

    def __post_init__(self) -> None:
        check_value("multi_query", self.multi_query, bool)
        for name in ("query_expansion", "itm_top_k"):
            check_number(name, getattr(self, name), int, Range(at_least=0))
        check_number("itm_weight", self.itm_weight, float)
        if self.itm_top_k and self.rerank:
            raise ValueError("itm_top_k and rerank both reorder what ranks first: choose one of the two")
        if self.itm_top_k and self.multi_query:
            raise ValueError(
                "itm_top_k reads a query's own picture or sentence; with multi_query, which averages several, it has "
                "none: choose one of the two"
            )

    def to_json(self) -> dict[str, Any]:
        """All options by name; `rerank` is false or its parameters."""
        return {**asdict(self), "rerank": asdict(self.rerank) if self.rerank else False}


@dataclass(frozen=True, eq=False)
class RescoredEntries:
    """The first entries of every query in their new order.

    Attributes:
        positions: `(Q, k)` positions in the gallery, best first; -1 where a gallery holds fewer.
        scores: `(Q, k)` float32, what they are ordered by.
    """

    positions: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SearchResult:
    """A search that was run.

    Attributes:
        task: with the queries as they were merged.
        metrics: of the final ranking.
        query_embeddings: `(Q, D)` as they were searched with; None for systems that embed nothing.
        gallery_embeddings: `(G, D)`; likewise.
        rescored: what the cross-encoder or re-ranking put in order first, if one did.
        drawn: under protocols that draw their galleries, the ranks in each of them.
    """

    task: RetrievalTask
    metrics: RankMetrics
    query_embeddings: NDArray[np.float32] | None = None
    gallery_embeddings: NDArray[np.float32] | None = None
    rescored: RescoredEntries | None = None
    drawn: DrawnRanks | None = None

    def embeddings(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Those of queries and gallery. Raises `ValueError` for a system that embeds nothing."""
        if self.query_embeddings is None or self.gallery_embeddings is None:
            raise ValueError("this system has no embeddings")
        return self.query_embeddings, self.gallery_embeddings

    def headline_values(self) -> dict[str, NDArray[np.float64]] | None:
        """Per-query values `(Q,)` whose means are the reported metrics, by their names in `results.json`.

        A query that is in no mean has NaN. Where galleries are drawn, a query's values are its means over the draws.
        None where only means are known.
        """
        if self.drawn is not None:
            precisions, drawn = self.drawn.precisions(), self.drawn
            return {"mAP": precisions, "mINP": precisions, **{f"rank{k}": drawn.hits(k) for k in REPORTED_RANKS}}
        per_query = self.metrics.per_query
        if per_query is None:
            return None
        found = per_query.first_rank > 0
        hits = {f"rank{k}": np.where(found, per_query.first_rank <= k, np.nan) for k in REPORTED_RANKS}
        values = {"mAP": per_query.ap, "mINP": per_query.inp, **hits}
        if self.task.rules.denominator == "all":
            return {name: np.nan_to_num(own) for name, own in values.items()}
        return values

    def first_entries(self, query: int, count: int) -> list[tuple[int, float, bool]]:
        """The head of one query's ranking: position in the gallery, score, and whether it is a true match.

        Entries that the protocol removes do not appear. Beyond what was re-scored, scores are cosines.
        """
        query_embeddings, gallery_embeddings = self.embeddings()
        is_match, is_removed = label_pairs(self.task, slice(query, query + 1))
        scores = gallery_embeddings @ query_embeddings[query]
        scores[is_removed[0]] = -np.inf
        head: dict[int, float] = {}
        if self.rescored is not None:
            first = self.rescored.positions[query] >= 0
            rescored = zip(self.rescored.positions[query][first], self.rescored.scores[query][first], strict=True)
            head = {int(entry): float(score) for entry, score in rescored}
        ranked = best_entries(scores, count + len(head))
        tail = [(int(entry), float(scores[entry])) for entry in ranked if entry not in head]
        return [(entry, score, bool(is_match[0, entry])) for entry, score in [*head.items(), *tail][:count]]


def run_search(
    task: RetrievalTask,
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    options: SearchOptions | None = None,
    *,
    max_rank: int,
    matcher: Matcher | None = None,
) -> SearchResult:
    """Rank the gallery for every query.

    Args:
        task: whose embeddings these are.
        query_embeddings: `(Q, D)`, any real dtype and length; searched by cosine.
        gallery_embeddings: `(G, D)`, likewise.
        options: None for a plain search.
        max_rank: length of the CMC curve.
        matcher: the cross-encoder; without one, or for pairs of modalities that it cannot read, nothing is re-scored.

    Raises:
        ValueError: as `rank_metrics`, or re-scoring under a protocol that draws its galleries.
    """
    options = options or SearchOptions()
    check_number("max_rank", max_rank, int, Range(at_least=1))
    query_embeddings, gallery_embeddings = unit_pair(
        query_embeddings, gallery_embeddings, (len(task.query), len(task.gallery))
    )
    task, gallery_embeddings = without_unknown(task, gallery_embeddings)
    if options.itm_top_k and matcher is not None and task.rules.single_shot is not None:
        raise ValueError(f"protocol {task.protocol!r} draws galleries of its own: expected itm_top_k 0 with it")
    if options.multi_query:
        task, query_embeddings = merge_queries(task, query_embeddings)
    if options.query_expansion:
        query_embeddings = expand_queries(task, query_embeddings, gallery_embeddings, count=options.query_expansion)
    if options.rerank is not None:
        if task.rules.single_shot is not None:
            raise ValueError(f"protocol {task.protocol!r} draws galleries of its own: expected no rerank with it")
        metrics, rescored = rerank_gallery(
            task, query_embeddings, gallery_embeddings, options.rerank, max_rank=max_rank
        )
        return SearchResult(task, metrics, query_embeddings, gallery_embeddings, rescored)
    if task.rules.single_shot is not None:
        drawn = draw_ranks(task, query_embeddings, gallery_embeddings, task.rules.single_shot)
        return SearchResult(task, drawn.metrics(max_rank), query_embeddings, gallery_embeddings, drawn=drawn)
    if not options.itm_top_k or matcher is None:
        metrics = task_metrics(task, query_embeddings, gallery_embeddings, max_rank=max_rank)
        return SearchResult(task, metrics, query_embeddings, gallery_embeddings)
    rescored = rescore_first(
        task, query_embeddings, gallery_embeddings, matcher, count=options.itm_top_k, weight=options.itm_weight
    )
    ranks = ranks_by_query(task, query_embeddings, gallery_embeddings, rescored)
    counts = np.array([len(own) for own in ranks], dtype=np.int64)
    metrics = summarize_ranks(
        MatchRanks(counts, np.concatenate(ranks)),
        len(gallery_embeddings),
        max_rank,
        ap=task.rules.ap,
        denominator=task.rules.denominator,
        return_per_query=True,
    )
    return SearchResult(task, metrics, query_embeddings, gallery_embeddings, rescored)


def without_unknown(
    task: RetrievalTask, gallery_embeddings: NDArray[np.float32]
) -> tuple[RetrievalTask, NDArray[np.float32]]:
    """The task and its gallery `(G, D)` without unknown persons (-1), as `build_task` has made it already."""
    items, exclusion = task.gallery, task.gallery_exclusion_ids
    known = items.person_ids != JUNK_PERSON_ID
    if known.all():
        return task, gallery_embeddings
    gallery = replace(
        items,
        image_index=items.image_index[known],
        caption_index=items.caption_index[known],
        person_ids=items.person_ids[known],
    )
    exclusion = None if exclusion is None else exclusion[known]
    return replace(task, gallery=gallery, gallery_exclusion_ids=exclusion), gallery_embeddings[known]


def rerank_gallery(
    task: RetrievalTask,
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    parameters: RerankParameters,
    *,
    max_rank: int,
) -> tuple[RankMetrics, RescoredEntries]:
    """Metrics of the gallery in the order of `k_reciprocal_rerank`, and the first entries of every query.

    The scores of the entries are the re-ranking's distances, negated.
    """
    reranking = prepare_reranking(query_embeddings, gallery_embeddings, **asdict(parameters))
    positions = np.full((len(query_embeddings), RERANKED_HEAD), -1, dtype=np.int64)
    scores = np.full((len(query_embeddings), RERANKED_HEAD), -np.inf, dtype=np.float32)

    def blocks() -> Iterator[NDArray[np.float32]]:
        for queries, distances in reranking.blocks():
            np.negative(distances, out=distances)
            _, is_removed = label_pairs(task, queries)
            for row, query in enumerate(range(queries.start, queries.stop)):
                left = np.where(is_removed[row], np.float32(-np.inf), distances[row])
                first = best_entries(left, RERANKED_HEAD)
                positions[query, : len(first)], scores[query, : len(first)] = first, left[first]
            yield distances

    metrics = rank_blocks(
        blocks(),
        task.matches(),
        max_rank=max_rank,
        ap=task.rules.ap,
        denominator=task.rules.denominator,
        return_per_query=True,
    )
    return metrics, RescoredEntries(positions, scores)


def rescore_first(
    task: RetrievalTask,
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    matcher: Matcher,
    *,
    count: int,
    weight: float,
) -> RescoredEntries:
    """Put the first `count` entries of each query in the order of cosine + `weight` × log-odds of the matcher.

    Of equal sums the entry that ranked better before comes first. Adding the matching score to the similarity of the
    embeddings is what BLIP does (Li et al., ICML 2022); with a weight of 0 nothing changes.
    """
    num_queries = len(query_embeddings)
    count = min(count, len(task.gallery))
    positions = np.full((num_queries, count), -1, dtype=np.int64)
    cosines = np.full((num_queries, count), -np.inf, dtype=np.float32)
    for block in pair_blocks(task, query_embeddings, gallery_embeddings):
        block.scores[block.is_removed] = -np.inf
        for query, scores in enumerate(block.scores, block.queries.start):
            first = best_entries(scores, count)
            positions[query, : len(first)] = first
            cosines[query, : len(first)] = scores[first]
    queries, places = np.nonzero(positions >= 0)
    log_odds = matcher(task, np.stack([queries, positions[queries, places]], axis=1))
    scores = cosines.copy()
    scores[queries, places] += np.float32(weight) * log_odds
    order = np.argsort(-scores, axis=1, kind="stable")
    return RescoredEntries(np.take_along_axis(positions, order, axis=1), np.take_along_axis(scores, order, axis=1))


def ranks_by_query(
    task: RetrievalTask,
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    rescored: RescoredEntries | None = None,
) -> list[NDArray[np.int64]]:
    """Each query's ascending ranks of its true matches, none where it has none.

    Where first entries were re-scored, they have the ranks of their new order; what was behind them keeps its ranks.
    """
    ranks = []
    for block in pair_blocks(task, query_embeddings, gallery_embeddings):
        block.scores[block.is_removed] = -np.inf
        for row, query in enumerate(range(block.queries.start, block.queries.stop)):
            own = match_ranks(block.scores[row], np.flatnonzero(block.is_match[row]))
            if rescored is not None:
                first = rescored.positions[query][rescored.positions[query] >= 0]
                new_first = np.flatnonzero(block.is_match[row, first]) + 1
                own = np.concatenate([new_first, own[own > len(first)]])
            ranks.append(own)
    return ranks


def average_precision(ranks: NDArray[np.int64]) -> float:
    """The mean of i / r_i over the ascending ranks `(P,)` of a query's true matches; NaN where it has none."""
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks)) if len(ranks) else float("nan")


def match_ranks(scores: NDArray[np.float32], matches: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ascending ranks `(P,)` of the entries `matches` `(P,)` by their scores `(G,)`; equal scores keep their order."""
    ordered = np.sort(scores)
    own = scores[matches]
    greater = len(scores) - np.searchsorted(ordered, own, side="right")
    tied_before = [np.count_nonzero(scores[:match] == score) for match, score in zip(matches, own, strict=True)]
    return np.sort(greater + np.array(tied_before, dtype=np.int64) + 1)
