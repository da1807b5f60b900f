"""The tools for data under one name, installed as `mmet-data`.

python -m mmet.data draw --layout market1501 --output data/drawn
python -m mmet.data doctor market1501=/data/Market-1501-v15.09.15
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from mmet.argument_parser import OptionParser
from mmet.starting import program_name


class Tool(NamedTuple):
    """The module whose `main` does the work, and its description."""

    module: str
    help: str


TOOLS = {
    "draw": Tool("mmet.data.synthetic.__main__", "draw synthetic people in the layout of a published dataset"),
    "draw_films": Tool("mmet.data.synthetic.video", "draw films of synthetic people, with their true tracks"),
    "doctor": Tool("mmet.data.doctor", "say whether folders are fit to use (also installed as mmet-doctor)"),
    "to_parquet": Tool("mmet.data.to_parquet", "convert a dataset to Parquet files, or verify such files"),
    "extract_cuhk03": Tool("mmet.data.extract_cuhk03", "make a folder of pictures from cuhk-03.mat"),
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of the tool's name; each tool parses the other arguments."""
    listed = "\n".join(f"  {name:15} {tool.help}" for name, tool in TOOLS.items())
    parser = OptionParser(
        prog=program_name("python -m mmet.data"),
        description=f"Tools for data:\n\n{listed}",
        epilog=f"{program_name('python -m mmet.data')} TOOL --help lists the options of a tool.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tool", choices=TOOLS, metavar="TOOL", help=f"one of {', '.join(TOOLS)}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a tool; returns its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser()
    tool = parser.parse_args(words[:1]).tool
    if argv is None:
        sys.argv[0] = f"{sys.argv[0]} {tool}"  # what messages of the tool begin with
    code: int = importlib.import_module(TOOLS[tool].module).main(words[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
