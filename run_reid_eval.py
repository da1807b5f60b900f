"""Evaluate a person re-identification model: mAP, mINP, Rank-k and CMC by named protocols, beside baselines.

    python run_reid_eval.py --model_name_or_path outputs/run --data market1501=/data/Market-1501 --baselines chance

Runs on several processes under `accelerate launch`. `docs/evaluation.md` defines protocols, metrics and baselines.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from accelerate import Accelerator
from transformers import HfArgumentParser

from mmet.data import load_reid_dataset, parse_data_argument
from mmet.distributed import close_process_group
from mmet.evaluation import (
    PROTOCOLS,
    ChanceSystem,
    ColorHistogramSystem,
    EvaluationData,
    EvaluationReport,
    ModelSystem,
    System,
    evaluate_systems,
    format_table,
    prepare_tasks,
    save_report,
    untrained_model,
)
from mmet.evaluation.protocols import MODALITIES, Modality
from mmet.evaluation.results import REPORTED_RANKS
from modeling_mmet import MMETForReID
from processing_mmet import MMETProcessor

BASELINES = ("chance", "histogram", "untrained")
USER_ERROR_EXIT_CODE = 2


@dataclass
class EvaluationArguments:
    """What to evaluate, on what, and where results go."""

    model_name_or_path: str = field(metadata={"help": "Checkpoint folder, or model name on the Hugging Face Hub."})
    data: list[str] = field(
        metadata={"help": "Data sets as name=folder, such as market1501=/data/market cuhk_pedes=/data/CUHK-PEDES."}
    )
    output_dir: str = field(
        default="outputs/eval", metadata={"help": "Folder for results.json, results.md and cmc.png."}
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
    batch_size: int = field(default=64, metadata={"help": "Items embedded at a time on each process."})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode images ahead, on each process."})
    max_rank: int = field(default=50, metadata={"help": "Length of the CMC curve, at least 10."})
    seed: int = field(default=0, metadata={"help": "Seed of the untrained model's weights."})

    def __post_init__(self) -> None:
        if self.max_rank < max(REPORTED_RANKS):
            raise ValueError(f"expected --max_rank of at least {max(REPORTED_RANKS)}, received {self.max_rank}")
        if self.batch_size < 1:
            raise ValueError(f"expected --batch_size of at least 1, received {self.batch_size}")


def main(arguments: list[str] | None = None) -> int:
    """Run the evaluation; returns the exit code, 2 for anything the user has to put right."""
    try:
        dataclass_types: list[Any] = [EvaluationArguments]
        (args,) = HfArgumentParser(dataclass_types, description=__doc__).parse_args_into_dataclasses(arguments)
        evaluate(args)
    except (ValueError, OSError) as error:  # bad arguments, `DatasetError`, and what loading a model raises
        print(f"run_reid_eval.py: error: {error}", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    close_process_group()
    return 0


def evaluate(args: EvaluationArguments) -> None:
    """Load the data, then the model; run all systems; print and save the results."""
    query, gallery = cast(Modality | None, args.query), cast(Modality | None, args.gallery)  # argparse checked them
    data = [load_data(argument, query, gallery, args.protocol) for argument in args.data]
    accelerator = Accelerator()
    systems = load_systems(args, accelerator)
    records = [record for part in data for record in evaluate_systems(part, systems, max_rank=args.max_rank)]
    if accelerator.is_main_process:
        save_report(EvaluationReport.now(args.model_name_or_path, records), Path(args.output_dir))
        print(format_table(records))
        print(f"Saved to {args.output_dir}: results.json, results.md, cmc.png")


def load_data(argument: str, query: Modality | None, gallery: Modality | None, protocol: str | None) -> EvaluationData:
    """The data set of one `name=folder` with the tasks to run on it."""
    name, root, options = parse_data_argument(argument)
    dataset = load_reid_dataset(name, root, **options)
    try:
        return EvaluationData(name, root, prepare_tasks(dataset, query, gallery, protocol))
    except ValueError as error:
        raise ValueError(f"{name} in {root}: {error}") from error


def load_systems(args: EvaluationArguments, accelerator: Accelerator) -> list[System]:
    """The model and the baselines asked for, in the order of the table's rows."""
    model, processor = load_model(args.model_name_or_path)
    options: dict[str, Any] = {
        "batch_size": args.batch_size,
        "accelerator": accelerator,
        "num_workers": args.num_workers,
    }
    systems: list[System] = []
    if "chance" in args.baselines:
        systems.append(ChanceSystem())
    if "histogram" in args.baselines:
        systems.append(ColorHistogramSystem(**options))
    if "untrained" in args.baselines:
        fresh = untrained_model(MMETForReID, model.config, seed=args.seed)
        systems.append(ModelSystem(fresh, processor, name="untrained", **options))
    systems.append(ModelSystem(model, processor, name="model", **options))
    return systems


def load_model(name_or_path: str) -> tuple[MMETForReID, MMETProcessor]:
    """The model and its processor. Raises `ValueError` when there are none of that name."""
    try:
        return MMETForReID.from_pretrained(name_or_path), MMETProcessor.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load a model and its processor from {name_or_path!r}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
