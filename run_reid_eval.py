"""Evaluate a person re-identification model: mAP, mINP, Rank-k and CMC by named protocols, beside baselines.

    python run_reid_eval.py --model_name_or_path outputs/run --data market1501=/data/Market-1501 --baselines chance

Runs on several processes under `accelerate launch`. `docs/evaluation.md` has protocols, metrics, options and files.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import mmet.starting  # noqa: F401  (before what takes seconds)

# isort: split
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env

from mmet.argument_parser import ArgumentParser
from mmet.command_line import Command, run_command, show_results
from mmet.data import DataArgument, distinct_labels, load_reid_dataset, name_sources, parse_data_argument
from mmet.distributed import compute_on_all, compute_once, wait_for_processes
from mmet.evaluation import (
    PROTOCOLS,
    BootstrapOptions,
    EvaluationData,
    EvaluationReport,
    ResultRecord,
    SearchOptions,
    System,
    compare_systems,
    evaluate_systems,
    format_console,
    prepare_tasks,
    save_report,
    summarize_seeds,
)
from mmet.evaluation.analyses import Analysis, CalibrationAnalysis, RankedLists, ThresholdAnalysis
from mmet.evaluation.analyses.calibration import METHODS, MatchCalibration
from mmet.evaluation.metrics.bootstrap import UNITS
from mmet.evaluation.protocols import MODALITIES, Modality
from mmet.evaluation.runner import (
    calibration_tasks,
    keep_calibrations,
    learn_calibrations,
    order_rows,
    saved_calibrations,
)
from mmet.evaluation.search import REPORTED_RANKS, RerankParameters
from mmet.evaluation.systems.cache import check_writable
from mmet.evaluation.systems.lineup import BASELINES, MODEL, Lineup
from mmet.field_checks import SEED_RANGE, SHARE_RANGE, Range, check_fields
from mmet.folder_lock import locked_by_main_process

logger = logging.getLogger("mmet.run_reid_eval")


RANGES = {
    "query_expansion": Range(at_least=0, at_most=10**6),
    "rerank_k1": Range(at_least=1, at_most=10**6),
    "rerank_k2": Range(at_least=1, at_most=10**6),
    "rerank_lambda": SHARE_RANGE,
    "itm_top_k": Range(at_least=0, at_most=10**6),
    "absent_share": Range(above=0, below=1),
    "ranked_lists": Range(at_least=0, at_most=10**4),
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
    query: str | None = field(
        default=None,
        metadata={
            "help": "What asks. Without it: image→image for query/gallery data sets; text→image, both→both, "
            "image→image and text→text for data sets with captions.",
            "choices": list(MODALITIES),
        },
    )
    gallery: str | None = field(
        default=None,
        metadata={"help": "What is searched; images unless given. Needs --query.", "choices": list(MODALITIES)},
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
            "of transformers' AutoModel for images, CLIP- and SigLIP-style ones for images and text."
        },
    )
    compare: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Further MMET checkpoints in the same table, each also as name=folder; their differences from the "
            "first model are shown with paired intervals."
        },
    )
    seeds: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Further MMET checkpoints of the first model's recipe, trained with other seeds: rows of their "
            "own, and mean ± standard deviation over all of them."
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
            "where there is one), save them beside the model as calibration.json, and measure them on --data."
        },
    )
    calibration_method: str = field(
        default="isotonic", metadata={"help": "How --calibrate learns.", "choices": list(METHODS)}
    )
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
    bootstrap_unit: str = field(
        default="person",
        metadata={"help": "What is resampled: persons with all their queries, or queries.", "choices": list(UNITS)},
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
        self.search_options()
        self.bootstrap_options()

    def search_options(self) -> SearchOptions:
        """Those of every search."""
        rerank = RerankParameters(self.rerank_k1, self.rerank_k2, self.rerank_lambda) if self.rerank else None
        return SearchOptions(self.multi_query, self.query_expansion, rerank, self.itm_top_k, self.itm_weight)

    def bootstrap_options(self) -> BootstrapOptions | None:
        """Those of the intervals; None without intervals."""
        options = BootstrapOptions(self.bootstrap or 1, cast(Any, self.bootstrap_unit), self.confidence, self.seed)
        return options if self.bootstrap else None

    def cache_folder(self) -> Path | None:
        """Where embeddings are kept; None for nowhere."""
        return Path(self.cache_dir or Path(self.output_dir, "cache")) if self.use_cache else None


def main(arguments: list[str] | None = None) -> int:
    """Run the evaluation; returns the exit code, 2 for anything the user has to put right."""
    return run_command(
        "run_reid_eval.py",
        lambda command: parse_and_evaluate(command, arguments),
        after_stop="the same command goes on with the embeddings that are cached",
    )


def parse_and_evaluate(command: Command, arguments: list[str] | None) -> None:
    """Parse the arguments, find the other processes and evaluate; one evaluation at a time in an output folder."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mmet").setLevel(logging.INFO)
    dataclass_types: list[Any] = [EvaluationArguments]
    (args,) = ArgumentParser(dataclass_types, description=__doc__).parse_args_into_dataclasses(arguments)
    wait_for_processes(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    accelerator = Accelerator()
    command.connect()
    output = Path(args.output_dir)
    compute_once(lambda: check_output(output))
    with locked_by_main_process(output):
        evaluate(args, accelerator)


def check_output(folder: Path) -> None:
    """Raise `ValueError` where results cannot be written."""
    check_writable(folder, "results", "Choose another --output_dir")


def evaluate(args: EvaluationArguments, accelerator: Accelerator) -> None:
    """Check everything, load the data, run one system after the other; print and save the results."""
    if not accelerator.is_main_process:
        logging.getLogger("mmet").setLevel(logging.WARNING)  # what all processes do alike is told once
        logging.getLogger("mmet.data").setLevel(logging.ERROR)  # they read the same folders
    lineup = compute_on_all(lambda: prepare_lineup(args, accelerator))
    compute_on_all(lineup.check_seeds)
    data = compute_on_all(lambda: load_all_data(args))
    analyses = prepare_analyses(args, lineup)
    records: list[ResultRecord] = []
    for system in lineup.systems():
        records += run_system(args, system, data, analyses)
    if accelerator.is_main_process:
        records = order_rows(records, data)
        report = make_report(args, records, lineup)
        names = save_report(report, Path(args.output_dir))
        show_results(format_console(report), f"Saved to {args.output_dir}: {', '.join(names)}")


def prepare_lineup(args: EvaluationArguments, accelerator: Accelerator) -> Lineup:
    """All systems, checked and not loaded yet."""
    return Lineup.of(
        args.model_name_or_path,
        baselines=args.baselines,
        backbones=args.backbones,
        compared=args.compare,
        seeds=args.seeds,
        seed=args.seed,
        rescore=args.itm_top_k > 0,
        options={
            "batch_size": args.batch_size,
            "accelerator": accelerator,
            "num_workers": args.num_workers,
            "flip": args.flip,
            "cache_dir": args.cache_folder(),
        },
    )


def load_all_data(args: EvaluationArguments) -> list[EvaluationData]:
    """The data sets of `--data` with their tasks."""
    query, gallery = cast(Modality | None, args.query), cast(Modality | None, args.gallery)  # argparse checked them
    (arguments,) = name_sources([parse_data_argument(argument) for argument in args.data])
    return [
        load_data(argument, label, query, gallery, args.protocol)
        for argument, label in zip(arguments, distinct_labels(arguments), strict=True)
    ]


def load_data(
    argument: DataArgument, label: str, query: Modality | None, gallery: Modality | None, protocol: str | None
) -> EvaluationData:
    """The data set of one `name=folder` with the tasks to run on it; `label` is its name in tables and results."""
    name, root, options = argument
    dataset = load_reid_dataset(name, root, **options)
    try:
        return EvaluationData(label, root, prepare_tasks(dataset, query, gallery, protocol))
    except ValueError as error:
        raise ValueError(f"{name} in {root}: {error}") from error


def prepare_analyses(args: EvaluationArguments, lineup: Lineup) -> list[Analysis]:
    """What is computed beside the metrics; learns the calibration where one is asked for."""
    analyses: list[Analysis] = []
    if args.open_set:
        analyses.append(ThresholdAnalysis(args.absent_share, args.seed))
    if args.ranked_lists:
        analyses.append(RankedLists(Path(args.output_dir), MODEL, args.ranked_lists, args.seed))
    if args.calibrate is not None:
        analyses.append(CalibrationAnalysis(MODEL, calibrate(args, args.calibrate, lineup)))
    elif args.reliability:
        folders = Path(args.model_name_or_path), Path(args.output_dir)
        weights = lineup.model().identity()["model"]["weights"]
        analyses.append(CalibrationAnalysis(MODEL, compute_once(lambda: saved_calibrations(*folders, weights))))
    return analyses


def calibrate(args: EvaluationArguments, argument: str, lineup: Lineup) -> dict[tuple[str, str], MatchCalibration]:
    """Learn the first model's match probabilities on a `name=folder` and save them."""
    query, gallery = cast(Modality | None, args.query), cast(Modality | None, args.gallery)
    name, root, data_options = parse_data_argument(argument)
    dataset = compute_on_all(lambda: load_reid_dataset(name, root, **data_options))
    split, tasks = calibration_tasks(dataset, query, gallery, args.protocol)
    if split != "validation" and any(tuple(parse_data_argument(data))[:2] == (name, root) for data in args.data):
        logger.warning("%s in %s is both calibrated and evaluated on: its reliability is too good", name, root)
    system = lineup.model()
    try:
        learnt = learn_calibrations(
            system,
            name,
            split,
            tasks,
            method=cast(Any, args.calibration_method),
            options=args.search_options(),
            seed=args.seed,
        )
    except ValueError as error:
        raise ValueError(f"--calibrate {argument}: {error}") from error
    weights, folders = system.identity()["model"]["weights"], (Path(args.model_name_or_path), Path(args.output_dir))
    file = compute_once(lambda: keep_calibrations(learnt, *folders, weights))
    logger.info("calibration learnt on %s (%s), saved to %s", name, split, file)
    return learnt


def run_system(
    args: EvaluationArguments, system: System, data: Sequence[EvaluationData], analyses: Sequence[Analysis]
) -> list[ResultRecord]:
    """The rows of one system on all data sets."""
    rows = [
        row
        for part in data
        for row in evaluate_systems(
            part,
            [system],
            max_rank=args.max_rank,
            options=args.search_options(),
            analyses=analyses,
            bootstrap=args.bootstrap_options(),
        )
    ]
    if not rows:
        logger.warning("%s has no row: it can search none of the tasks", system.name)
    return rows


def make_report(args: EvaluationArguments, records: Sequence[ResultRecord], lineup: Lineup) -> EvaluationReport:
    """Everything that `results.json` and `results.md` hold."""
    bootstrap = args.bootstrap_options()
    comparisons = compare_systems(records, MODEL, [*lineup.compared], bootstrap) if bootstrap else []
    seeds = summarize_seeds(records, [MODEL, *lineup.seeds]) if lineup.seeds else []
    return EvaluationReport.now(
        args.model_name_or_path,
        records,
        settings=asdict(args),
        systems=lineup.sources,
        comparisons=comparisons,
        seeds=seeds,
    )


if __name__ == "__main__":
    sys.exit(main())
