"""Convert a dataset folder to sharded Parquet that carries its pictures, and verify such a folder.

    python -m mmet.data.to_parquet finegpr=/data/FineGPR_Dataset --output /data/finegpr-parquet --shard_size 500MB
    python -m mmet.data.to_parquet --output /data/finegpr-parquet --verify

The same command continues a killed conversion. `--verify` compares every shard with its checksum from the time of
writing, after a conversion or, without a dataset, for an existing folder.

Exit code 0: converted, verified. 1: a shard is not as it was written. 2: the arguments or the data cannot be used.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from mmet.argument_parser import OptionParser
from mmet.command_line import run_command
from mmet.data.data_argument import parse_data_argument
from mmet.data.loading import load_reid_dataset
from mmet.data.parquet import save_parquet, shards_of, verify_parquet
from mmet.folder_lock import locked_target
from mmet.starting import program_name

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def parse_size(text: str) -> int:
    """Parse a size in bytes.

    >>> parse_size("500MB"), parse_size("64kB"), parse_size("100")
    (500000000, 64000, 100)

    Raises:
        ValueError: another unit, no number, or less than one byte.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMG]?)B?\s*", text, flags=re.IGNORECASE)
    size = round(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise ValueError(f"expected a size such as 500MB or 2GB, received {text!r}")
    return size


def build_parser() -> argparse.ArgumentParser:
    parser = OptionParser(prog=program_name("python -m mmet.data.to_parquet"), description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="?", help="name=folder or name=folder?option=value, as everywhere")
    parser.add_argument("--output", required=True, type=Path, help="folder to create, or to verify")
    parser.add_argument("--shard_size", default="500MB", help="about how large a file becomes (default: %(default)s)")
    parser.add_argument("--verify", action="store_true", help="compare every shard with its checksum")
    parser.add_argument(
        "--no_check", action="store_true", help="do not look at every picture first; a broken one goes in as it is"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Convert, verify or both, and return the exit code."""
    parser = build_parser()
    return run_command(
        parser.prog, lambda command: convert(parser, argv), after_stop="the same command goes on after the last file"
    )


def convert(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Parse the arguments, convert and verify; returns 1 where a file is not as it was written."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = parser.parse_args(argv)
    if arguments.data is None and not arguments.verify:
        parser.error("name a dataset to convert, as name=folder, or --verify a folder that is there")
    if arguments.data is not None:
        with locked_target(arguments.output):
            _convert(arguments.data, arguments.output, parse_size(arguments.shard_size), not arguments.no_check)
    return _verify(arguments.output) if arguments.verify else 0


def _convert(data: str, output: Path, shard_bytes: int, check_images: bool) -> None:
    name, root, options = parse_data_argument(data)
    if output.exists():
        raise FileExistsError(f"{output} exists; name a folder to be created, or --verify this one without a dataset")
    splits = load_reid_dataset(name, root, check_images=check_images, **options)
    save_parquet(splits, output, shard_bytes=shard_bytes)
    shards = shards_of(output)
    rows, size = sum(shard.rows for shard in shards), sum(shard.bytes for shard in shards)
    print(f"{output}: {rows:,} rows in {len(shards):,} files, {size / 1e9:.3f} GB")


def _verify(folder: Path) -> int:
    problems = verify_parquet(folder)
    for problem in problems:
        print(f"{folder}: {problem}", file=sys.stderr)
    if problems:
        print(f"{folder}: restore these files from a copy, or remove the folder and convert again", file=sys.stderr)
        return 1
    print(f"{folder}: {len(shards_of(folder)):,} files are as they were written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
