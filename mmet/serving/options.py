"""Options that the page and the server of embeddings share: where they listen, and to whom they answer."""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import logging
import sys
from typing import Any

from transformers.utils import logging as transformers_logging

from mmet.field_checks import Range, number_type
from mmet.stopping import RunError

OWN_NAMES = ("127.0.0.1", "localhost", "::1")
"""Names by which a machine reaches itself."""


def add_address(group: Any, *, port: int) -> None:
    """Add `--host`, `--port` and `--name`."""
    group.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (%(default)s)")
    ports = number_type(int, Range(at_least=0, at_most=65_535))
    group.add_argument("--port", type=ports, default=port, metavar="N", help="port, 0 for a free one (%(default)s)")
    group.add_argument(
        "--name", nargs="+", action="extend", metavar="HOST", help="also answer to these host names, such as a proxy's"
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add `--threads`."""
    whole = number_type(int, Range(at_least=1, at_most=1_024))
    parser.add_argument("--threads", type=whole, metavar="N", help="threads of the model (default: one per core)")


def log_for_servers() -> None:
    """Log warnings as plain lines, and show no progress bars unless stderr is a terminal."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if sys.stderr is None or not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def host_names(options: argparse.Namespace) -> tuple[str, ...] | None:
    """
    The host names that a server answers to: its own and those of `--name`.

    None, for all names, if `--host` lets other machines in and there is no `--name`.
    """
    if is_local(options.host) or options.name:
        return (*OWN_NAMES, options.host, *(options.name or ()))
    return None


def is_local(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def describe_reach(host: str, *, is_guarded: bool, how: str) -> list[str]:
    """Warnings before a server starts: others can reach it without signing in."""
    if is_local(host) or is_guarded:
        return []
    return [f"everybody who can reach this machine can use this server; add {how}, or use --host 127.0.0.1"]


def check_extra(module: str, extra: str) -> None:
    """Raise `RunError` if a module of an optional extra is not installed."""
    if importlib.util.find_spec(module) is None:
        raise RunError(f"{module} is not installed: pip install 'mmet[{extra}]'")
