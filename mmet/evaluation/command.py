"""The work of `run_reid_eval.py`: check everything, load the data, run the systems in turn, save the results.

main(["--model_name_or_path", "outputs/run", "--data", "market1501=/data/market"])
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env

from mmet.argument_parser import ArgumentParser
from mmet.command_line import Command, run_command, show_results
from mmet.data import (
    DataArgument,
    distinct_labels,
    load_reid_dataset,
    name_sources,
    parse_data_argument,
)
from mmet.distributed import compute_on_all, compute_once, wait_for_processes
from mmet.evaluation.analyses.base import Analysis, summarize
from mmet.evaluation.analyses.calibration import MatchCalibration
from mmet.evaluation.analyses.calibration_learning import (
    calibration_tasks,
    keep_calibrations,
    learn_calibrations,
    saved_calibrations,
)
from mmet.evaluation.analyses.cmc import CmcCurves
from mmet.evaluation.analyses.intervals import Differences, Intervals
from mmet.evaluation.analyses.open_set import OpenSet
from mmet.evaluation.analyses.ranked_lists import RankedLists
from mmet.evaluation.analyses.reliability import CalibrationCheck
from mmet.evaluation.analyses.seeds import OverSeeds
from mmet.evaluation.arguments import EvaluationArguments
from mmet.evaluation.protocols import prepare_tasks
from mmet.evaluation.record import EvaluationReport, ResultRecord
from mmet.evaluation.results import format_console, save_report
from mmet.evaluation.runner import EvaluationData, evaluate_systems, order_rows
from mmet.evaluation.systems.base import System
from mmet.evaluation.systems.cache import check_writable
from mmet.evaluation.systems.lineup import MODEL, Lineup
from mmet.field_checks import errors_about
from mmet.folder_lock import locked_by_main_process
from mmet.starting import program_name

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run the evaluation; returns the exit code, 2 for errors that the user has to correct."""
    return run_command(
        program_name("run_reid_eval.py"),
        lambda command: parse_and_evaluate(command, arguments),
        after_stop="the same command goes on with the embeddings that are cached",
    )


def parse_and_evaluate(command: Command, arguments: list[str] | None) -> None:
    """Parse the arguments, join the other processes and evaluate; an output folder takes one evaluation at a time."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mmet").setLevel(logging.INFO)
    dataclass_types: list[Any] = [EvaluationArguments]
    (args,) = ArgumentParser(dataclass_types, description=DESCRIPTION).parse_args_into_dataclasses(arguments)
    wait_for_processes(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    accelerator = Accelerator()
    command.connect()
    output = Path(args.output_dir)
    compute_once(lambda: check_writable(output, "results", "Choose another --output_dir"))
    with locked_by_main_process(output):
        evaluate(args, accelerator)


DESCRIPTION = (
    "Evaluate a person re-identification model: mAP, mINP, Rank-k and CMC by named protocols, beside baselines. "
    "docs/evaluation.md has protocols, metrics, options and files."
)


def evaluate(args: EvaluationArguments, accelerator: Accelerator) -> None:
    """Check everything, load the data, run the systems in turn; print and save the results."""
    if not accelerator.is_main_process:
        logging.getLogger("mmet").setLevel(logging.WARNING)  # print once what all processes do alike
        logging.getLogger("mmet.data").setLevel(logging.ERROR)  # they read the same folders
    lineup = compute_on_all(lambda: prepare_lineup(args, accelerator))
    compute_on_all(lineup.check_seeds)
    data = compute_on_all(lambda: load_all_data(args))
    analyses = prepare_analyses(args, lineup)
    records = [record for system in lineup.systems() for record in run_system(args, system, data, analyses)]
    if accelerator.is_main_process:
        records = order_rows(records, data)
        report = EvaluationReport.now(
            args.model_name_or_path,
            records,
            settings=asdict(args),
            systems=lineup.sources,
            summaries=summarize(records, analyses),
        )
        names = save_report(report, Path(args.output_dir), analyses)
        show_results(format_console(report, analyses), f"Saved to {args.output_dir}: {', '.join(names)}")


def prepare_lineup(args: EvaluationArguments, accelerator: Accelerator) -> Lineup:
    """All systems, checked but not loaded yet."""
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
            "cache_dir": args.cache_folder(),
        },
    )


def load_all_data(args: EvaluationArguments) -> list[EvaluationData]:
    """The data sets of `--data` with their tasks."""
    with errors_about("--data"):
        (arguments,) = name_sources([parse_data_argument(argument) for argument in args.data])
    labels = distinct_labels(arguments)
    return [load_data(args, argument, label) for argument, label in zip(arguments, labels, strict=True)]


def load_data(args: EvaluationArguments, argument: DataArgument, label: str) -> EvaluationData:
    """The data set of one `name=folder` with the tasks to run on it; `label` is its name in tables and results."""
    name, root, options = argument
    dataset = load_reid_dataset(name, root, **options)
    try:
        return EvaluationData(label, root, prepare_tasks(dataset, args.query, args.gallery, args.protocol))
    except ValueError as error:
        raise ValueError(f"{name} in {root}: {error}") from error


def prepare_analyses(args: EvaluationArguments, lineup: Lineup) -> list[Analysis]:
    """The analyses of a run, in the order of the tables; learns a calibration if requested."""
    bootstrap, output = args.bootstrap_options(), Path(args.output_dir)
    analyses: list[Analysis | None] = [
        CmcCurves(),
        Intervals(bootstrap) if bootstrap else None,
        Differences(MODEL, [*lineup.compared], bootstrap),
        OverSeeds([MODEL, *lineup.seeds] if lineup.seeds else []),
        OpenSet(args.absent_share, args.seed) if args.open_set else None,
        prepare_calibration(args, lineup),
        RankedLists(output, MODEL, args.ranked_lists, args.seed) if args.ranked_lists else None,
    ]
    return [analysis for analysis in analyses if analysis is not None]


def prepare_calibration(args: EvaluationArguments, lineup: Lineup) -> CalibrationCheck | None:
    """Learn or read the first model's calibration, to check it; None if not requested."""
    if args.calibrate is not None:
        return CalibrationCheck(MODEL, calibrate(args, args.calibrate, lineup))
    if not args.reliability:
        return None
    folders = Path(args.model_name_or_path), Path(args.output_dir)
    weights = lineup.model().identity()["model"]["weights"]
    return CalibrationCheck(MODEL, compute_once(lambda: saved_calibrations(*folders, weights)))


def calibrate(args: EvaluationArguments, argument: str, lineup: Lineup) -> dict[tuple[str, str], MatchCalibration]:
    """Learn the first model's match probabilities on a `name=folder` and save them."""
    with errors_about("--calibrate"):
        name, root, data_options = parse_data_argument(argument)
    system = lineup.model()
    with errors_about(f"--calibrate {argument}"):
        dataset = compute_on_all(lambda: load_reid_dataset(name, root, **data_options))
        split, tasks = calibration_tasks(dataset, args.query, args.gallery, args.protocol)
        if split != "validation" and any(tuple(parse_data_argument(data))[:2] == (name, root) for data in args.data):
            logger.warning("%s in %s is both calibrated and evaluated on: its reliability is too good", name, root)
        learnt = learn_calibrations(
            system,
            name,
            split,
            tasks,
            method=args.calibration_method,
            options=args.evaluation_options(),
            seed=args.seed,
        )
    weights, folders = system.identity()["model"]["weights"], (Path(args.model_name_or_path), Path(args.output_dir))
    file = compute_once(lambda: keep_calibrations(learnt, *folders, weights))
    logger.info("calibration learnt on %s (%s), saved to %s", name, split, file)
    return learnt


def run_system(
    args: EvaluationArguments, system: System, data: Sequence[EvaluationData], analyses: Sequence[Analysis]
) -> list[ResultRecord]:
    """The rows of one system on all data sets."""
    options = args.evaluation_options()
    rows = [row for part in data for row in evaluate_systems(part, [system], options, analyses)]
    if not rows:
        logger.warning("%s has no row: it can search none of the tasks", system.name)
    return rows
