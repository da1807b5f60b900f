"""Command line of the report.

python -m mmet.report --run outputs/demo/model --results outputs/demo/eval/results.json \\
    --data market1501=data/market cuhk_pedes=data/pedes --training_data finegpr=data/source --output outputs/report
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmet.argument_parser import OptionParser
from mmet.command_line import run_command
from mmet.data import parse_data_arguments
from mmet.field_checks import SEED_RANGE, SHARE_RANGE, Range, errors_about, number_type
from mmet.folder_lock import locked
from mmet.report.builder import ReportRequest, build_report
from mmet.starting import program_name


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; defaults are those of `ReportRequest`."""
    parser = OptionParser(
        prog=program_name("python -m mmet.report"),
        description="Write index.html (one self-contained page), report.png (an overview) and the single figures.",
    )
    parser.add_argument("--run", required=True, type=Path, help="folder of the trained model")
    parser.add_argument("--results", required=True, type=Path, help="results.json of run_reid_eval.py")
    parser.add_argument(
        "--data", required=True, nargs="+", metavar="NAME=DIR", help="data sets to search, such as market1501=DIR"
    )
    parser.add_argument(
        "--training_data", nargs="+", default=[], metavar="NAME=DIR", help="data sets the model was trained on"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder of the report")
    parser.add_argument("--recipe", type=Path, help="recipe of the run, to show the command that trains it")
    parser.add_argument(
        "--mask_ratio",
        type=number_type(float, SHARE_RANGE),
        default=ReportRequest.mask_ratio,
        help="share of patches to hide (%(default)s)",
    )
    parser.add_argument(
        "--batch_size",
        type=number_type(int, Range(at_least=1, at_most=2**16)),
        default=ReportRequest.batch_size,
        help="items embedded at a time (%(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=number_type(int, SEED_RANGE),
        default=ReportRequest.seed,
        help="random seed of the choice of queries, crops and patches (%(default)s)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the report; return the exit code, 2 for errors that the user can correct."""
    parser = build_parser()
    return run_command(parser.prog, lambda command: report(parser, arguments), after_stop="the report is not complete")


def report(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> None:
    """Parse the arguments, make the report and print its paths."""
    options = vars(parser.parse_args(arguments))
    for name in ("data", "training_data"):
        with errors_about(f"--{name}"):
            (options[name],) = parse_data_arguments(options[name])
    with locked(options["output"]):
        index = build_report(ReportRequest(**options))
    print(f"{index} and {index.with_name('report.png')}")


if __name__ == "__main__":
    sys.exit(main())
