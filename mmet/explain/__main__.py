"""Command line: explain why a model finds pictures similar to an image, a sentence or both.

python -m mmet.explain --model outputs/demo/model --images a.jpg b.jpg --text "a woman in a red jacket" --output out
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import PIL.Image
from transformers.utils import logging as transformers_logging

from mmet.argument_parser import OptionParser
from mmet.command_line import run_command, show_results
from mmet.evaluation.systems.loading import load_embedder
from mmet.explain.explainer import Explainer
from mmet.explain.figures import METHOD_LABELS, compare_methods, show
from mmet.explain.methods import DEFAULT_METHOD, METHODS
from mmet.field_checks import Range, number_type
from mmet.gallery.sources import load_picture
from mmet.starter import STARTER
from mmet.starting import program_name
from mmet.whole_files import write_whole

PAPER_METHODS = ("grad_cam", "guided_grad_cam")
"""Columns of the paper's Figure 4 after the original."""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = OptionParser(
        prog=program_name("python -m mmet.explain"),
        description="Write explanations.png: the images, with the regions that make them similar to a query. With "
        "--text, also write words.png: a map for each word.",
    )
    parser.add_argument(
        "--model", default=STARTER, metavar="MODEL", help="checkpoint folder or Hub name (default: starter)"
    )
    parser.add_argument("--images", required=True, nargs="+", metavar="FILE", help="images to explain")
    parser.add_argument(
        "--query", metavar="FILE", help="image to compare with (default, without --text: each image with itself)"
    )
    parser.add_argument("--text", metavar="SENTENCE", help="sentence to compare with")
    parser.add_argument(
        "--method",
        nargs="+",
        choices=METHODS,
        default=list(PAPER_METHODS),
        help=f"columns of explanations.png (default: {' '.join(PAPER_METHODS)}); words.png shows the first one, or "
        f"{DEFAULT_METHOD} by default",
    )
    layer = number_type(int, Range(at_least=-1000, at_most=1000))
    parser.add_argument(
        "--layer", type=layer, default=-1, metavar="N", help="layer of the image encoder, from 0; -1 is the last"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="folder of the figures")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the figures; return the exit code, 2 for errors that the user can correct."""
    parser = build_parser()
    if sys.stderr is None or not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return run_command(parser.prog, lambda _: explain(parser.parse_args(arguments)))


def explain(options: argparse.Namespace) -> None:
    """Write the figures that a command line asks for."""
    pictures = [(Path(name).name, load_picture(name)) for name in options.images]
    query = None if options.query is None else load_picture(options.query)
    explainer = Explainer(*load_embedder(options.model))
    rows = [(name, explain_picture(explainer, picture, query, options)) for name, picture in pictures]
    figures = {"explanations.png": compare_methods(rows)}
    if options.text is not None:
        word_rows = [(name, explain_words(explainer, picture, options)) for name, picture in pictures]
        figures["words.png"] = compare_methods(word_rows)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        write_whole(options.output / name, figure)
    show_results("", "\n".join(str(options.output / name) for name in figures))


def explain_picture(
    explainer: Explainer, picture: PIL.Image.Image, query: PIL.Image.Image | None, options: argparse.Namespace
) -> list[tuple[str, PIL.Image.Image]]:
    """The original and a picture by each method; without a query, the picture is compared with itself."""
    image = picture if query is None and options.text is None else query
    shown = [("Original", picture)]
    for method in options.method:
        values = explainer.explain(picture, image=image, text=options.text, method=method, layer=options.layer)
        shown.append((METHOD_LABELS[method], show(picture, values, method)))
    return shown


def explain_words(
    explainer: Explainer, picture: PIL.Image.Image, options: argparse.Namespace
) -> list[tuple[str, PIL.Image.Image]]:
    """The original and a picture for each word."""
    method = DEFAULT_METHOD if options.method == list(PAPER_METHODS) else options.method[0]
    maps = explainer.explain_words(picture, options.text, method=method, layer=options.layer)
    return [("Original", picture), *((word, show(picture, values, method)) for word, values in maps)]


if __name__ == "__main__":
    sys.exit(main())
