"""Options of a search beyond plain cosine similarity, in one object from the arguments to the results.

    options = EvaluationOptions(query_expansion=5, max_rank=20)
    results = system.evaluate(tasks, options)
    options.to_json()        # the `options` of a row in results.json

Every option is off by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mmet.evaluation.metrics.reranking import Metric, check_parameters
from mmet.field_checks import Range, check_number, check_value


@dataclass(frozen=True)
class RerankParameters:
    """Parameters of `k_reciprocal_rerank`, with the published values."""

    k1: int = 20
    k2: int = 6
    lambda_value: float = 0.3
    metric: Metric = "euclidean"

    def __post_init__(self) -> None:
        check_parameters(self.k1, self.k2, self.lambda_value, self.metric)


@dataclass(frozen=True)
class EvaluationOptions:
    """How a system embeds and searches.

    Attributes:
        flip: use the mean embedding of an image and its mirror image.
        multi_query: the queries of one person from one camera are averaged (`merge_queries`).
        query_expansion: number of first entries that a query is averaged with (`expand_queries`); 0 for none.
        rerank: k-reciprocal re-ranking of the whole gallery (`k_reciprocal_rerank`); None for none.
        itm_top_k: number of first entries that the cross-encoder re-scores; 0 for none.
        itm_weight: weight of its log-odds beside the cosine.
        max_rank: length of the CMC curve.
    """

    flip: bool = False
    multi_query: bool = False
    query_expansion: int = 0
    rerank: RerankParameters | None = None
    itm_top_k: int = 0
    itm_weight: float = 1.0
    max_rank: int = 50

    def __post_init__(self) -> None:
        for name in ("flip", "multi_query"):
            check_value(name, getattr(self, name), bool)
        for name in ("query_expansion", "itm_top_k"):
            check_number(name, getattr(self, name), int, Range(at_least=0))
        check_number("itm_weight", self.itm_weight, float)
        check_number("max_rank", self.max_rank, int, Range(at_least=1))
        if self.itm_top_k and self.rerank:
            raise ValueError("itm_top_k and rerank both reorder what ranks first: choose one of the two")
        if self.itm_top_k and self.multi_query:
            raise ValueError(
                "itm_top_k reads a query's own picture or sentence; with multi_query, which averages several, it has "
                "none: choose one of the two"
            )

    def to_json(self) -> dict[str, Any]:
        """The options that change a ranking, by name; `rerank` is false or its parameters."""
        values = {**asdict(self), "rerank": asdict(self.rerank) if self.rerank else False}
        del values["max_rank"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EvaluationOptions:
        """Read what `to_json` wrote. Raises `ValueError` for unknown options and invalid values."""
        rerank = values.get("rerank", False)
        try:
            parameters = RerankParameters(**check_value("rerank", rerank, dict)) if rerank else None
            return cls(**{**values, "rerank": parameters})
        except TypeError as error:  # a name that is no option
            raise ValueError(str(error)) from error

    def changing_scores(self) -> dict[str, Any]:
        """The options that change the cosine of a pair, and so match probabilities."""
        return {name: getattr(self, name) for name in ("flip", "multi_query", "query_expansion")}
