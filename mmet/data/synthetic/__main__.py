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

from mmet.data.synthetic.layouts import LAYOUTS
from mmet.data.synthetic.style import STYLES
from mmet.data.synthetic.world import write_world


def build_parser() -> argparse.ArgumentParser:
    """The parser; defaults are those of `write_world`."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(write_world).parameters.items()}
    parser = argparse.ArgumentParser(
        prog="python -m mmet.data.synthetic",
        description="Draw a synthetic pedestrian data set in the folder layout of a published one. For demos, tests "
        "and method checks: no real person is shown, and figures measured on it are no results on the real data set.",
    )
    parser.add_argument("--layout", required=True, choices=list(LAYOUTS), help="whose folders to imitate")
    parser.add_argument("--output", required=True, type=Path, help="folder to create")
    parser.add_argument(
        "--style", choices=list(STYLES), help="look and wording (default: source for finegpr, else target)"
    )
    counts = {
        "num_ids": "people in all",
        "images_per_id": "pictures of each person",
        "num_train_ids": "people for training (market1501, cuhk_pedes), instead of a share of --num_ids",
        "num_test_ids": "people for testing (market1501, cuhk_pedes), instead of a share of --num_ids",
        "num_val_ids": "people for validation (cuhk_pedes), in addition (default: a tenth of the training people)",
        "seed": "equal seeds give equal files",
        "image_height": "height of the crops in pixels",
        "image_width": "width of the crops in pixels",
        "num_workers": "processes; the files do not depend on it",
    }
    for name, text in counts.items():
        shown = "" if defaults[name] is None else " (default: %(default)s)"
        parser.add_argument(f"--{name}", type=int, default=defaults[name], metavar="N", help=text + shown)
    parser.add_argument(
        "--test_fraction",
        type=float,
        default=defaults["test_fraction"],
        metavar="F",
        help="share of --num_ids for testing (default: %(default)s)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the world that the command line asks for; bad arguments end with one line and exit code 2."""
    parser = build_parser()
    options = vars(parser.parse_args(arguments))
    try:
        written = write_world(**options, show_progress=sys.stderr.isatty())
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(f"{options['output']}: {'written' if written else 'already written'}")


if __name__ == "__main__":
    main()
