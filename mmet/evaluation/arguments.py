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
from mmet.field_checks import SEED_RANGE, SHARE_RANGE, Range, check_fields

RANGES = {
    "query_expansion": Range(at_least=0, at_most=10**6),
    "rerank_k1": Range(at_least=1, at_most=10**6),
    "rerank_k2": Range(at_least=1, at_most=10**6),
    "rerank_lambda": SHARE_RANGE,
    "itm_top_k": Range(at_least=0, at_most=10**6),
    "absent_share": Range(above=0, below=1),
    "ranked_lists": Range(at_least=0, at_most=100),  # rows of a picture, which has at most 2**16 pixels
    "bootstrap": Range(at_least=0, at_most=10**6),
    "confidence": Range(above=0, below=1),
    "batch_size": Range(at_least=1, at_most=2**16),
    "num_workers": Range(at_least=0, at_most=1024),
    "seed": SEED_RANGE,
}
"""What numbers the arguments may have."""


@dataclass
class EvaluationArguments:
    """What to evaluate, on what, and where results go."""

    model_name_or_path: str = field(metadata={"help": "Checkpoint folder, or model name on the Hugging Face Hub."})
    data: list[str] = field(
        metadata={"help": "Data sets as name=folder, such as market1501=/data/market cuhk_pedes=/data/CUHK-PEDES."}
    )
    output_dir: str = field(
        default="outputs/eval", metadata={"help": "Folder for results.json, results.md and figures."}
    )
    query: Modality | None = field(
        default=None,
        metadata={
            "help": "What asks. Without it: image→image for query/gallery data sets; text→image, both→both, "
            "image→image and text→text for data sets with captions."
        },
    )
    gallery: Modality | None = field(
        default=None, metadata={"help": "What is searched; images unless given. Needs --query."}
    )
    protocol: str | None = field(
        default=None,
        metadata={"help": "Protocol, instead of the data set's own.", "choices": list(PROTOCOLS)},
    )
    baselines: list[str] = field(
        default_factory=list,
        metadata={"help": "Baselines in the same table.", "choices": list(BASELINES)},
    )
    backbones: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Other models in the same table, as folders or Hub names, each also as name=folder: vision models "
            "of transformers' AutoModel for images, CLIP- and SigLIP-style ones for images and text.",
            "reader": split_name,
        },
    )
    compare: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Further MMET checkpoints in the same table, each also as name=folder; their differences from the "
            "first model are shown with paired intervals.",
            "reader": split_name,
        },
    )
    seeds: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Further MMET checkpoints of the first model's recipe, trained with other seeds: rows of their "
            "own, and mean ± standard deviation over all of them.",
            "reader": split_name,
        },
    )
    flip: bool = field(default=False, metadata={"help": "Embed every picture together with its mirror image."})
    query_expansion: int = field(
        default=0, metadata={"help": "Average each query with this many of its first entries; 0 for none."}
    )
    multi_query: bool = field(
        default=False, metadata={"help": "Average the queries of one person from one camera into one."}
    )
    rerank: bool = field(default=False, metadata={"help": "Re-rank every gallery by k-reciprocal neighbours."})
    rerank_k1: int = field(default=20, metadata={"help": "Reciprocal neighbours, with --rerank."})
    rerank_k2: int = field(default=6, metadata={"help": "Neighbours of the local query expansion, with --rerank."})
    rerank_lambda: float = field(
        default=0.3, metadata={"help": "Weight of the original distance in the final one, with --rerank."}
    )
    itm_top_k: int = field(
        default=0,
        metadata={
            "help": "Entries of each text→image or image→text ranking that the ITM head re-scores; 0 for none. Needs "
            "a checkpoint of run_pretrain.py whose L_ITM has learnt (the demo's has not)."
        },
    )
    itm_weight: float = field(
        default=1.0, metadata={"help": "Weight of the ITM head's log-odds beside the cosine, with --itm_top_k."}
    )
    open_set: bool = field(
        default=False,
        metadata={"help": "Also TPR at fixed FPR, the ROC curve, and FNIR at fixed FPIR with persons taken out."},
    )
    absent_share: float = field(
        default=0.5, metadata={"help": "Share of the queried persons taken out of the gallery, with --open_set."}
    )
    calibrate: str | None = field(
        default=None,
        metadata={
            "help": "Learn match probabilities of the first model on this data set (name=folder; its split validation "
            "where there is one), save them beside the model as calibration.json, and measure them on --data.",
        },
    )
    calibration_method: Method = field(default="isotonic", metadata={"help": "How --calibrate learns."})
    reliability: bool = field(
        default=False,
        metadata={"help": "Measure the match probabilities that an earlier --calibrate saved beside the model."},
    )
    ranked_lists: int = field(
        default=0,
        metadata={"help": "Draw the ranked lists of this many best, worst and random queries of the first model."},
    )
    bootstrap: int = field(
        default=1000, metadata={"help": "Resamples for the intervals of every metric; 0 for no intervals."}
    )
    bootstrap_unit: Unit = field(
        default="person",
        metadata={"help": "What is resampled: persons with all their queries, or queries."},
    )
    confidence: float = field(default=0.95, metadata={"help": "Confidence of the intervals."})
    use_cache: bool = field(
        default=True, metadata={"help": "Keep embeddings, so that a run that was killed goes on where it stopped."}
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Folder of the embeddings; `cache` in --output_dir unless given."}
    )
    batch_size: int = field(default=64, metadata={"help": "Items embedded at a time on each process."})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode images ahead, on each process."})
    max_rank: int = field(default=50, metadata={"help": "Length of the CMC curve, at least 10."})
    seed: int = field(
        default=0,
        metadata={"help": "Of the untrained model's weights, absent persons, random ranked lists and resamples."},
    )

    def __post_init__(self) -> None:
        check_fields(self, RANGES)
        if self.max_rank < max(REPORTED_RANKS):
            raise ValueError(f"expected --max_rank of at least {max(REPORTED_RANKS)}, received {self.max_rank}")
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
        """The options of the intervals; None without intervals."""
        options = BootstrapOptions(self.bootstrap or 1, self.bootstrap_unit, self.confidence, self.seed)
        return options if self.bootstrap else None

    def cache_folder(self) -> Path | None:
        """Where embeddings are kept; None for nowhere."""
        return Path(self.cache_dir or Path(self.output_dir, "cache")) if self.use_cache else None
