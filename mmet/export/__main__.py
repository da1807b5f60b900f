"""Command line: export a model to ONNX files or to OpenVINO's format.

python -m mmet.export outputs/run                          # writes outputs/run/onnx
python -m mmet.export outputs/run --output small --int8
python -m mmet.export outputs/run --format openvino        # writes outputs/run/openvino
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers.utils import logging as transformers_logging

from mmet.argument_parser import OptionParser
from mmet.command_line import run_command, show_results
from mmet.export.exporting import default_output, export_model
from mmet.exported_files import FORMATS

PROGRAM = "mmet-export"


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = OptionParser(
        prog=PROGRAM,
        description="Write the image, text and image-and-text embedders of a model as files for ONNX Runtime or "
        "OpenVINO, after a comparison with the model. docs/export.md says what they are good for.",
    )
    parser.add_argument("model", metavar="MODEL", help="checkpoint folder, Hub name, or starter")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder to create (default: onnx or openvino in the model's folder)",
    )
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="format of the files (default: onnx)")
    parser.add_argument(
        "--int8", action="store_true", help="weights in 8 bits: smaller files, other embeddings; ONNX only"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Export a model; return the exit code, 2 for errors that the user can correct."""
    options = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if sys.stderr is None or not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return run_command(PROGRAM, lambda _: export(options), after_stop="nothing was written")


def export(options: argparse.Namespace) -> None:
    """Export the model that a command line names, and print the largest differences from the model's embeddings."""
    output = options.output or default_output(options.model, options.format)
    dtype = "int8" if options.int8 else "float32"
    manifest = export_model(options.model, output, dtype=dtype, file_format=options.format)
    size = sum((output / name).stat().st_size for name in manifest.files)
    parity = [
        f"{kind}: embeddings within {max(measured.values()):.1e} of the model's"
        for kind, measured in manifest.parity.items()
    ]
    show_results("\n".join(parity), f"{output}: {', '.join(manifest.parity)}; {size / 1e6:,.1f} MB, {manifest.dtype}")


if __name__ == "__main__":
    sys.exit(main())
