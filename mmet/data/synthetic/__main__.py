"""Command line of the synthetic world.

python -m mmet.data.synthetic --layout finegpr --output data/synthetic_finegpr --num_ids 200 --images_per_id 16
python -m mmet.data.synthetic --layout market1501 --output data/synthetic_market --num_train_ids 20 --num_test_ids 100
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path

from mmet.argument_parser import OptionParser
from mmet.command_line import run_command
from mmet.data.synthetic.layouts import LAYOUTS
from mmet.data.synthetic.layouts.annotation_files import CAPTION_FORMATS
from mmet.data.synthetic.style import STYLES
from mmet.data.synthetic.world import NUMBER_RANGES, RATE_OPTIONS, write_world
from mmet.field_checks import SHARE_RANGE, number_type
from mmet.starting import program_name


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; defaults are those of `write_world`."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(write_world).parameters.items()}
    parser = OptionParser(
        prog=program_name("python -m mmet.data.synthetic"),
        description="Draw a synthetic pedestrian data set in the folder layout of a published one. For demos, tests "
        "and method checks: no real person is shown, and figures measured on it are not results on the real data set.",
    )
    parser.add_argument("--layout", required=True, choices=list(LAYOUTS), help="data set whose layout to use")
    parser.add_argument("--output", required=True, type=Path, help="folder to create")
    parser.add_argument(
        "--style",
        choices=list(STYLES),
        help="look and wording (default: source for finegpr and randperson, else target)",
    )
    counts = {
        "num_ids": "people in all",
        "images_per_id": "pictures of each person",
        "num_train_ids": "people for training in layouts with splits, instead of a share of --num_ids",
        "num_test_ids": "people for testing in layouts with splits, instead of a share of --num_ids",
        "num_val_ids": "people for validation (cuhk_pedes and rstpreid; default: a tenth of those for training)",
        "seed": "random seed; equal seeds give equal files",
        "image_height": "height of the crops in pixels",
        "image_width": "width of the crops in pixels",
        "num_workers": "processes; the files do not depend on it",
    }
    for name, text in counts.items():
        shown = "" if defaults[name] is None else " (default: %(default)s)"
        kind = number_type(int, NUMBER_RANGES[name])
        parser.add_argument(f"--{name}", type=kind, default=defaults[name], metavar="N", help=text + shown)
    parser.add_argument(
        "--test_fraction",
        type=number_type(float, SHARE_RANGE),
        default=defaults["test_fraction"],
        metavar="F",
        help="share of --num_ids for testing (default: %(default)s)",
    )
    _add_traits(parser)
    return parser


def _add_traits(parser: argparse.ArgumentParser) -> None:
    """Add the options that make the data hard or untidy."""
    forms = {name: layout.forms for name, layout in LAYOUTS.items() if layout.forms}
    offered = "; ".join(f"{name}: {', '.join(values)}" for name, values in forms.items())
    parser.add_argument("--form", help=f"form of the data set ({offered}; default: the first)")
    parser.add_argument(
        "--caption_format", choices=CAPTION_FORMATS, help="format of finegpr's caption file (default: json)"
    )
    defaults = {
        name: ", ".join(f"{style.name} {getattr(style, field):g}" for style in STYLES.values())
        for name, field in RATE_OPTIONS.items()
    }
    tidy = ", ".join(name for name, layout in LAYOUTS.items() if not layout.untidy_rate)
    rates = {
        "untidy_rate": f"people with one picture, one camera or repeated entries (default: 0 for {tidy}, else 0.1)",
        "occlusion_rate": f"pictures with something in front of the person (default: {defaults['occlusion_rate']})",
        "crop_rate": f"pictures in which feet or head are cut off (default: {defaults['crop_rate']})",
        "lookalike_rate": f"people who look like another one (default: {defaults['lookalike_rate']})",
    }
    for name, text in rates.items():
        parser.add_argument(f"--{name}", type=number_type(float, SHARE_RANGE), metavar="F", help=f"share of {text}")
    parser.add_argument("--shadow_files", action="store_true", help="add the ._* files of archives made on macOS")
    parser.add_argument("--keypoints", action="store_true", help="add a file of keypoints for each picture (finegpr)")
    parser.add_argument(
        "--part_masks",
        action="store_true",
        help="add a picture of the body part or garment that each pixel shows (finegpr, folder)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the world that the command line asks for; return the exit code, 2 for errors that the user can correct."""
    parser = build_parser()
    return run_command(parser.prog, lambda command: draw(parser, arguments), after_stop="nothing was written")


def draw(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> None:
    """Parse the arguments, write the world and print its folder."""
    options = vars(parser.parse_args(arguments))
    written = write_world(**options, show_progress=sys.stderr is not None and sys.stderr.isatty())
    print(f"{options['output']}: {'written' if written else 'already written'}")


if __name__ == "__main__":
    sys.exit(main())
