"""Arguments of `run_reid_eval.py`: what to evaluate, on what, and where results go.

arguments = EvaluationArguments("outputs/run", ["market1501=/data/market"])
arguments.evaluation_options()
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mmet.evaluation.analyses.calibration import Method
from mmet.evaluation.metrics.bootstrap import BootstrapOptions, Unit
from mmet.evaluation.metrics.ranking import REPORTED_RANKS
from mmet.evaluation.options import EvaluationOptions, RerankParameters
from mmet.evaluation.protocols import PROTOCOLS, Modality
from mmet.evaluation.systems.lineup import BASELINES
from mmet.evaluation.systems.loading import split_name
from mmet.field_checks import SEED_RANGE, SHARE_RANGE, Range, check_fields, option
from mmet.starter import resolve_model


@dataclass
class EvaluationArguments:
    """What to evaluate, on what, and where results go."""

    model_name_or_path: str = field(
        metadata={"help": "Checkpoint folder, model name on the Hugging Face Hub, or starter."}
    )
    data: list[str] = field(
        metadata={"help": "Data sets as name=folder, such as market1501=/data/market cuhk_pedes=/data/CUHK-PEDES."}
    )
    output_dir: str = option("outputs/eval", "Folder for results.json, results.md and figures.")
    query: Modality | None = option(
        None,
        "Modality of the queries. Without it: image→image for query/gallery data sets; text→image, both→both, "
        "image→image and text→text for data sets with captions.",
    )
    gallery: Modality | None = option(None, "Modality of the gallery; images by default. Needs --query.")
    protocol: str | None = option(None, "Protocol, instead of the data set's own.", choices=list(PROTOCOLS))
    baselines: list[str] = option(list, "Baselines in the same table.", choices=list(BASELINES))
    backbones: list[str] = option(
        list,
        "Other models in the same table, as folders or Hub names, each also as name=folder: vision models "
        "of transformers' AutoModel for images, CLIP- and SigLIP-style ones for images and text.",
        reader=split_name,
    )
    compare: list[str] = option(
        list,
        "Further MMET checkpoints in the same table, each also as name=folder; their differences from the "
        "first model are shown with paired intervals.",
        reader=split_name,
    )
    seeds: list[str] = option(
        list,
        "Further MMET checkpoints of the first model's recipe, trained with other seeds: rows of their "
        "own, and mean ± standard deviation over all of them.",
        reader=split_name,
    )
    flip: bool = option(False, "Use the mean embedding of every picture and its mirror image.")
    query_expansion: int = option(
        0,
        "Average each query with this many of its first entries; 0 for none.",
        range=Range(at_least=0, at_most=10**6),
    )
    multi_query: bool = option(False, "Average the queries of one person from one camera into one.")
    rerank: bool = option(False, "Re-rank every gallery by k-reciprocal neighbours.")
    rerank_k1: int = option(20, "Reciprocal neighbours, with --rerank.", range=Range(at_least=1, at_most=10**6))
    rerank_k2: int = option(
        6, "Neighbours of the local query expansion, with --rerank.", range=Range(at_least=1, at_most=10**6)
    )
    rerank_lambda: float = option(
        0.3, "Weight of the original distance in the final one, with --rerank.", range=SHARE_RANGE
    )
    itm_top_k: int = option(
        0,
        "Entries of each text→image or image→text ranking that the ITM head re-scores; 0 for none. Needs "
        "a checkpoint of run_pretrain.py whose L_ITM has learnt (the demo's has not).",
        range=Range(at_least=0, at_most=10**6),
    )
    itm_weight: float = option(1.0, "Weight of the ITM head's log-odds beside the cosine, with --itm_top_k.")
    open_set: bool = option(
        False, "Also report TPR at fixed FPR, the ROC curve, and FNIR at fixed FPIR with persons taken out."
    )
    absent_share: float = option(
        0.5, "Share of the queried persons taken out of the gallery, with --open_set.", range=Range(above=0, below=1)
    )
    calibrate: str | None = option(
        None,
        "Learn match probabilities of the first model on this data set (name=folder; its split validation "
        "where there is one), save them beside the model as calibration.json, and measure them on --data.",
    )
    calibration_method: Method = option("isotonic", "Method of --calibrate.")
    reliability: bool = option(
        False, "Measure the match probabilities that an earlier --calibrate saved beside the model."
    )
    ranked_lists: int = option(
        0,
        "Draw the ranked lists of this many best, worst and random queries of the first model.",
        range=Range(at_least=0, at_most=100),  # rows of a picture, which has at most 2**16 pixels
    )
    bootstrap: int = option(
        1000,
        "Resamples for the intervals of every metric; 0 for no intervals.",
        range=Range(at_least=0, at_most=10**6),
    )
    bootstrap_unit: Unit = option("person", "What is resampled: persons with all their queries, or queries.")
    confidence: float = option(0.95, "Confidence of the intervals.", range=Range(above=0, below=1))
    use_cache: bool = option(True, "Keep embeddings, so that a killed run continues where it stopped.")
    cache_dir: str | None = option(None, "Folder of the embeddings; by default `cache` in --output_dir.")
    batch_size: int = option(64, "Items embedded at a time on each process.", range=Range(at_least=1, at_most=2**16))
    num_workers: int = option(
        0, "Worker processes that decode images ahead, for each process.", range=Range(at_least=0, at_most=1024)
    )
    max_rank: int = option(50, "Length of the CMC curve.", range=Range(at_least=max(REPORTED_RANKS)))
    seed: int = option(
        0,
        "Seed of the untrained model's weights, absent persons, random ranked lists and resamples.",
        range=SEED_RANGE,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        self.model_name_or_path = resolve_model(self.model_name_or_path)
        self.evaluation_options()
        self.bootstrap_options()

    def evaluation_options(self) -> EvaluationOptions:
        """The options of every search."""
        rerank = RerankParameters(self.rerank_k1, self.rerank_k2, self.rerank_lambda) if self.rerank else None
        return EvaluationOptions(
            flip=self.flip,
            multi_query=self.multi_query,
            query_expansion=self.query_expansion,
            rerank=rerank,
            itm_top_k=self.itm_top_k,
            itm_weight=self.itm_weight,
            max_rank=self.max_rank,
        )

    def bootstrap_options(self) -> BootstrapOptions | None:
        """The options of the intervals; None if there are none."""
        options = BootstrapOptions(self.bootstrap or 1, self.bootstrap_unit, self.confidence, self.seed)
        return options if self.bootstrap else None

    def cache_folder(self) -> Path | None:
        """Folder of cached embeddings; None for no cache."""
        return Path(self.cache_dir or Path(self.output_dir, "cache")) if self.use_cache else None
