"""Run a web application until it is told to stop: requests that are being answered are finished first.

run_server(app, "127.0.0.1", 8000, print)
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from mmet.stopping import RunError


def run_server(app: Any, host: str, port: int, announce: Callable[[str], None], *, grace_seconds: int = 30) -> None:
    """
    Serve until Ctrl-C or SIGTERM, which is then handled as before this call.

    Args:
        app: an ASGI application.
        host, port: to listen on; port 0 for any that is free.
        announce: called with the address when it is listened to.
        grace_seconds: how long requests may still take after a stop was asked for.

    Raises:
        RunError: the address cannot be listened to.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"cannot listen on {host}, port {port} ({reason}); say another --host or --port") from error
    with listener:
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=grace_seconds)
        shown = f"[{host}]" if ":" in host else host
        announce(f"http://{shown}:{listener.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listener])
