"""The last part of `make demo`: a gallery of people that the model has never seen, and three searches in it.

python -m mmet.gallery.demo --model outputs/demo/model --data market1501=data/market --output outputs/demo/gallery
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mmet.argument_parser import OptionParser
from mmet.gallery import command
from mmet.gallery.gallery import Gallery
from mmet.gallery.results import Row
from mmet.gallery.storage import MANIFEST

SENTENCE = "a man in a red shirt and black trousers"


def main(argv: Sequence[str] | None = None) -> int:
    """Build, calibrate and search with the command line, printing each command; returns the first error's code."""
    options = build_parser().parse_args(argv)
    folder = str(options.output)
    if (options.output / MANIFEST).is_file():  # of an earlier run, perhaps of another model
        shutil.rmtree(options.output)
    code = run("build", options.data, "--model", options.model, "--output", folder, "--flip")
    if code:
        return code
    query = choose_query(Gallery.open(folder))
    image = ["--image", str(query.image_path), "--exclude", query.id]
    return (
        run("calibrate", folder)
        or run("search", folder, "--text", SENTENCE, "-k", "5", "--html", f"{folder}-by-sentence.html")
        or run("search", folder, *image, "-k", "5", "--html", f"{folder}-by-image.html")
        or run("search", folder, *image, "--text", SENTENCE, "-k", "5", "--html", f"{folder}-by-both.html")
    )


def build_parser() -> argparse.ArgumentParser:
    parser = OptionParser(prog="python -m mmet.gallery.demo", description="A gallery and three searches of it.")
    parser.add_argument("--model", required=True, help="checkpoint folder")
    parser.add_argument("--data", required=True, metavar="NAME=DIR", help="data set to search")
    parser.add_argument(
        "--output", required=True, type=Path, help="folder of the gallery; contact sheets lie beside it"
    )
    return parser


def choose_query(gallery: Gallery) -> Row:
    """The first row of the data set's queries; without such a split, the first row."""
    rows = list(gallery)
    return next((row for row in rows if row.row.get("split") == "query"), rows[0])


def run(*words: str) -> int:
    """Print a command line of `mmet-gallery` and run it."""
    return show_and_run(command.PROGRAM, command.main, words)


def show_and_run(program: str, main: Callable[[Sequence[str]], int], words: Sequence[str]) -> int:
    """Print a command line and run it; returns its exit code."""
    print(f"\n$ {program} {shlex.join(words)}", flush=True)
    return main(words)


if __name__ == "__main__":
    sys.exit(main())
