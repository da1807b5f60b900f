"""Command line of the paper's tables.

python -m mmet.ablate --tables 1 2 --seeds 3 --data synthetic
python -m mmet.ablate --tables 1 2 3 --seeds 3 --data finegpr=data/FineGPR market1501=data/Market-1501 \\
    dukemtmc=data/DukeMTMC-reID cuhk03=data/cuhk03-np cuhk_pedes=data/CUHK-PEDES
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmet.ablate.experiments import TABLES, Table, TableRow
from mmet.ablate.runs import RECIPES, WITHOUT_EFFECT, MissingDataError, NotTrainedError, Runner
from mmet.ablate.tables import TableResult, collect_table, format_tables, save_tables
from mmet.ablate.worlds import WorldSize, describe_worlds, draw_worlds
from mmet.argument_parser import OptionParser
from mmet.command_line import run_command, show_results
from mmet.data import parse_data_argument
from mmet.field_checks import Range, errors_about, number_type
from mmet.folder_lock import locked
from mmet.recipe_files import parse_yaml
from mmet.starting import program_name
from mmet.versions import installed_versions

logger = logging.getLogger(__name__)

SYNTHETIC = "synthetic"
_COUNT = number_type(int, Range(at_least=1, at_most=10**6))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = OptionParser(
        prog=program_name("python -m mmet.ablate"),
        description="Train and evaluate the rows of the paper's tables with several seeds, and print means and "
        "standard deviations beside the paper's figures. Run it again to continue: finished runs are not repeated.",
    )
    parser.add_argument(
        "--tables", type=int, nargs="+", default=[1, 2], choices=sorted(TABLES), help="tables to measure"
    )
    parser.add_argument(
        "--seeds",
        type=number_type(int, Range(at_most=1000)),
        default=3,
        metavar="N",
        help="seeds 1 to N (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=[SYNTHETIC],
        metavar="NAME=DIR",
        help="datasets to train and test on; `synthetic` draws them (default)",
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/ablate"), help="folder of runs and tables")
    parser.add_argument(
        "--size", choices=["paper", "small"], help="recipes of the paper's size or small ones (default: by the data)"
    )
    parser.add_argument(
        "--max_steps",
        type=number_type(int, Range(at_least=1)),
        metavar="N",
        help="steps of every stage, for a quick trial",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="recipe fields for all stages, or for one kind of stage, such as masked.max_steps=200",
    )
    parser.add_argument("--recipes", type=Path, default=RECIPES, help="folder of the recipes")
    parser.add_argument(
        "--launcher",
        default="",
        metavar="COMMAND",
        help="command that runs training, such as 'accelerate launch --config_file "
        "recipes/accelerate/gpu_8_ddp.yaml' (default: train in this process)",
    )
    parser.add_argument("--report_only", action="store_true", help="tabulate finished runs and train nothing")
    size = WorldSize()
    worlds = parser.add_argument_group("synthetic data")
    worlds.add_argument("--world_persons", type=_COUNT, default=size.persons, metavar="N", help="people to train on")
    worlds.add_argument(
        "--world_images", type=_COUNT, default=size.images_per_person, metavar="N", help="pictures of each of them"
    )
    worlds.add_argument(
        "--world_test_persons", type=_COUNT, default=size.test_persons, metavar="N", help="people in each target"
    )
    worlds.add_argument(
        "--num_workers",
        type=number_type(int, Range(at_least=1, at_most=1024)),
        default=1,
        metavar="N",
        help="processes that draw the data",
    )
    return parser


def parse_settings(assignments: Sequence[str]) -> dict[str, Any]:
    """Parse `field=value` arguments into recipe fields; values are YAML.

    Raises:
        ValueError: there is no `=`, the value is no YAML, or a field is given twice.
    """
    settings = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator or not name:
            raise ValueError(f"--set: expected FIELD=VALUE, received {assignment!r}")
        if name in settings:
            raise ValueError(f"--set: {name} is given twice")
        try:
            settings[name] = parse_yaml(value)
        except ValueError as error:
            raise ValueError(f"--set {name}: {error}") from error
    return settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tables; the exit code is 2 for errors that the user can correct, 130 or 143 after Ctrl-C or SIGTERM."""
    parser = build_parser()
    return run_command(
        parser.prog, lambda command: measure_tables(parser, arguments), after_stop="the same command continues"
    )


def measure_tables(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> None:
    """Parse the arguments, run the tables and print them."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = parser.parse_args(arguments)
    with locked(options.output):
        tables = run_tables(options)
    show_results(tables, f"Saved to {options.output}")


def run_tables(options: argparse.Namespace) -> str:
    """Measure all rows with all seeds and return the tables in Markdown. They are saved after every measurement."""
    if options.seeds < 1:
        raise ValueError(f"--seeds: expected at least 1, received {options.seeds}")
    runner, facts = prepare(options)
    seeds = range(1, options.seeds + 1)
    tables = [TABLES[number] for number in dict.fromkeys(options.tables)]
    measured: dict[int, dict[tuple[str, int], Mapping[str, Mapping[str, float]]]] = {t.number: {} for t in tables}
    notes: dict[int, dict[str, None]] = {table.number: {} for table in tables}
    results: list[TableResult] = []
    about = describe(facts)
    for seed in seeds:  # all rows of a seed first, so that a stopped run leaves complete tables of fewer seeds
        for table in tables:
            for row in table.rows:
                measure_row(runner, table, row, seed, measured[table.number], notes[table.number])
                results = [collect_table(t, measured[t.number], seeds, list(notes[t.number])) for t in tables]
                save_tables(results, options.output, about=about, facts=facts)
    return format_tables(results, about=about)


def measure_row(
    runner: Runner,
    table: Table,
    row: TableRow,
    seed: int,
    measured: dict[tuple[str, int], Any],
    notes: dict[str, None],
) -> None:
    """Add a row's metrics with one seed to `measured`, and the data that is missing to `notes`."""
    names = [name for name in table.datasets if name in runner.data]
    notes |= {f"{name}: no folder was given": None for name in table.datasets if name not in runner.data}
    if not names:
        return
    try:
        measured[row.title, seed] = runner.measure(row, seed=seed, names=names)
    except MissingDataError as error:
        notes[f"{row.title}: left out, {error}"] = None
        logger.warning("%s: left out, %s", row.title, error)
    except NotTrainedError as error:
        logger.warning("%s: left out, %s", row.title, error)


def prepare(options: argparse.Namespace) -> tuple[Runner, dict[str, Any]]:
    """Draw the synthetic worlds if requested; return the runner, and the facts for the result file."""
    synthetic = SYNTHETIC in options.data
    if synthetic:
        size = WorldSize(options.world_persons, options.world_images, options.world_test_persons)
        data = draw_worlds(
            options.output / "data", size, num_workers=options.num_workers, show_progress=sys.stderr.isatty()
        )
    else:
        size = None
        with errors_about("--data"):
            data = {parse_data_argument(argument).name: argument for argument in options.data}
        if len(data) < len(options.data):
            raise ValueError(f"--data: expected one folder of each dataset, received {', '.join(options.data)}")
    settings = {} if options.max_steps is None else {"max_steps": options.max_steps}
    settings |= parse_settings(options.set)
    runner = Runner(
        options.output,
        data,
        size=options.size or ("small" if synthetic else "paper"),
        settings=settings,
        recipes=options.recipes,
        launcher=shlex.split(options.launcher),
        report_only=options.report_only,
    )
    facts = {
        "size": runner.size,
        "settings": settings,
        "data": describe_worlds(size) if size is not None else dict(data),
        "versions": installed_versions(),
    }
    return runner, facts


def describe(facts: Mapping[str, Any]) -> list[str]:
    """Write the lines above the tables."""
    lines = ["Mean ± standard deviation over seeds, in percent; in brackets what the paper reports."]
    if facts["data"].get("synthetic"):
        lines.append(
            "**Synthetic people and small models: no figure here is a result on a real dataset, and none compares "
            "with the paper's.**"
        )
    changes = {name: value for name, value in facts["settings"].items() if name.split(".")[-1] not in WITHOUT_EFFECT}
    if changes:
        shown = ", ".join(f"{name} {value}" for name, value in changes.items())
        lines.append(f"Changed from the recipes: {shown}.")
    return lines


if __name__ == "__main__":
    sys.exit(main())
