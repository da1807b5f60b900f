"""The command `mmet-app`: open galleries, and serve the page that searches them until it is stopped.

main(["--gallery", "people", "--model", "outputs/demo/model", "--port", "7860"])
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import torch

from mmet.argument_parser import OptionParser
from mmet.command_line import run_command
from mmet.gallery import GalleryError
from mmet.serving.options import add_address, add_threads, check_extra, describe_reach, host_names, log_for_servers

PROGRAM = "mmet-app"
GRACE_SECONDS = 5
"""Seconds that running answers may still take after a stop was requested."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until a signal; return the exit code, 2 for errors that the user can correct."""
    options = build_parser().parse_args(argv)
    log_for_servers()
    return run_command(PROGRAM, lambda _: show(options))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = OptionParser(
        prog=PROGRAM, description="Search galleries of people on a page in the browser. docs/app.md has examples."
    )
    parser.add_argument("--gallery", required=True, nargs="+", metavar="GALLERY", help="what mmet-gallery build made")
    parser.add_argument("--model", metavar="MODEL", help="where the galleries' model is now, if it was moved")
    parser.add_argument("--open", action="store_true", help="open a browser")
    add_threads(parser)
    visitors = parser.add_argument_group("what visitors may do")
    visitors.add_argument("--auth", type=Path, metavar="FILE", help="ask for sign-in; FILE has lines name:password")
    visitors.add_argument(
        "--writable", action="store_true", help="let them add crops to the galleries and remove them"
    )
    visitors.add_argument("--log_queries", type=Path, metavar="FILE", help="record each search (default: no record)")
    address = parser.add_argument_group("where it listens")
    add_address(address, port=7860)
    address.add_argument("--frames", metavar="HOSTS", help="who may show the page in a frame (default: nobody)")
    return parser


def show(options: argparse.Namespace) -> None:
    """Open the galleries and serve the page until a signal."""
    check_extra("gradio", "app")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    check_log(options.log_queries)
    with tempfile.TemporaryDirectory(prefix="mmet-app-") as folder:
        # Gradio stores uploads in this folder; it reads the variables when it is imported.
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        # By default it keeps a table of the last 10,000 calls and summarises it after each call.
        os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
        os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(sys.maxsize)
        _show(options, Path(folder))


def _show(options: argparse.Namespace, folder: Path) -> None:
    from mmet.app.catalogue import Catalogue
    from mmet.app.handlers import Handlers, PageOptions
    from mmet.app.service import ServiceOptions, build_service, read_users
    from mmet.serving.running import run_server

    users = None if options.auth is None else read_users(options.auth)
    for warning in describe_reach(options.host, is_guarded=users is not None, how="--auth FILE"):
        print(f"{PROGRAM}: {warning}", file=sys.stderr)
    catalogue = Catalogue.open(options.gallery, model=options.model)
    handlers = Handlers(catalogue, PageOptions(writable=options.writable, log=options.log_queries), folder)
    served = ServiceOptions(users, host_names(options), options.frames or "'none'")

    def announce(address: str) -> None:
        print(f"{', '.join(catalogue.names)}: {address} (Ctrl-C stops)", flush=True)
        if options.open:
            threading.Timer(1.0, webbrowser.open, [address]).start()

    try:
        service = build_service(handlers, served)
        run_server(
            service, options.host, options.port, announce, grace_seconds=GRACE_SECONDS, endless=("/heartbeat/",)
        )
    finally:
        catalogue.close()


def check_log(path: Path | None) -> None:
    """Raise `GalleryError` if the record of searches cannot be written."""
    if path is None:
        return
    try:
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise GalleryError(f"--log_queries: {path} cannot be written ({error.strerror or error})") from error
