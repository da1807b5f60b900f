"""The command `mmet-serve`: load a model and answer requests for embeddings.

main(["--model", "outputs/demo/model", "--port", "8000"])
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from mmet.argument_parser import OptionParser
from mmet.command_line import run_command
from mmet.field_checks import Range, number_type
from mmet.gallery import GalleryError
from mmet.gallery.embedding import as_embedder
from mmet.serving.items import Limits
from mmet.serving.options import add_address, add_threads, check_extra, describe_reach, host_names, log_for_servers
from mmet.starter import STARTER

PROGRAM = "mmet-serve"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal; return the exit code, 2 for errors that the user can correct."""
    options = build_parser().parse_args(argv)
    log_for_servers()
    return run_command(PROGRAM, lambda _: serve(options))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = OptionParser(
        prog=PROGRAM,
        description="Embed pictures, sentences and pairs of both over HTTP. docs/deployment.md has examples.",
    )
    parser.add_argument(
        "--model", default=STARTER, metavar="MODEL", help="checkpoint folder or Hub name (default: starter)"
    )
    parser.add_argument("--served_name", metavar="NAME", help="the model's name for clients (default: the folder's)")
    parser.add_argument(
        "--api_keys", type=Path, metavar="FILE", help="one key per line; clients must send one of them"
    )
    add_address(parser.add_argument_group("where it listens"), port=8000)
    limits = parser.add_argument_group("limits")
    defaults = Limits()
    whole = number_type(int, Range(at_least=1, at_most=100_000))
    limits.add_argument(
        "--max_items", type=whole, default=defaults.items, metavar="N", help="most inputs of a request (%(default)s)"
    )
    limits.add_argument(
        "--max_waiting", type=whole, default=defaults.waiting, metavar="N", help="most requests at once (%(default)s)"
    )
    add_threads(parser)
    return parser


def serve(options: argparse.Namespace) -> None:
    """Load the model and answer until a signal."""
    check_extra("fastapi", "app")
    from mmet.serving.running import run_server
    from mmet.serving.server import build_server

    keys = [] if options.api_keys is None else read_keys(options.api_keys)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    for warning in describe_reach(options.host, is_guarded=bool(keys), how="--api_keys FILE"):
        print(f"{PROGRAM}: {warning}", file=sys.stderr)
    limits = Limits(items=options.max_items, waiting=options.max_waiting)
    name = options.served_name or Path(options.model).name
    app = build_server(as_embedder(options.model), name=name, limits=limits, keys=keys, names=host_names(options))
    run_server(
        app,
        options.host,
        options.port,
        lambda address: print(f"{name!r} at {address}/v1/embeddings (Ctrl-C stops)", flush=True),
    )


def read_keys(path: Path) -> list[str]:
    """Read keys from a file, one per line. Raises `GalleryError` if it cannot be read or holds none."""
    try:
        keys = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise GalleryError(
            f"--api_keys: {path} cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from error
    if not keys:
        raise GalleryError(f"--api_keys: {path} holds no key; write one per line")
    return keys
