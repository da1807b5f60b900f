"""Run a web application until it is told to stop, and finish the running requests first.

run_server(app, "127.0.0.1", 8000, print)
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn

from mmet.stopping import RunError


def run_server(
    app: Any,
    host: str,
    port: int,
    announce: Callable[[str], None],
    *,
    grace_seconds: int = 30,
    endless: Sequence[str] = (),
) -> None:
    """
    Serve until Ctrl-C or SIGTERM, which is then handled as before this call.

    Args:
        app: an ASGI application.
        host, port: address to listen on; port 0 for any free one.
        announce: called with the URL as soon as the server listens.
        grace_seconds: seconds that running requests may still take after a stop.
        endless: responses to paths that contain one of these never end; a stop does not wait for them.

    Raises:
        RunError: listening on the address fails.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"cannot listen on {host}, port {port} ({reason}); use another --host or --port") from error
    with listener:
        responses = Responses(app, endless)
        config = uvicorn.Config(
            responses, log_level="warning", access_log=False, timeout_graceful_shutdown=grace_seconds
        )
        shown = f"[{host}]" if ":" in host else host
        announce(f"http://{shown}:{listener.getsockname()[1]}")
        _Server(config, responses).run(sockets=[listener])


class Responses:
    """
    ASGI middleware that ends responses properly when a stop cuts them off; uvicorn alone prints a traceback of each.

    Args:
        app: the ASGI application.
        endless: as for `run_server`.
    """

    def __init__(self, app: Any, endless: Sequence[str] = ()) -> None:
        self.app = app
        self._endless = tuple(endless)
        self._running: set[asyncio.Task[Any]] = set()
        self._is_stopping = False

    def stop(self) -> None:
        """End endless responses now; end others when uvicorn cancels them."""
        self._is_stopping = True
        for task in self._running:
            task.cancel()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_begun, has_ended = False, False

        async def watched(message: Any) -> None:
            nonlocal has_begun, has_ended
            has_begun = True
            has_ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        task = asyncio.current_task()
        if task is not None and any(part in scope["path"] for part in self._endless):
            self._running.add(task)
        try:
            await self.app(scope, receive, watched)
        except asyncio.CancelledError:
            if not self._is_stopping:
                raise
        finally:
            self._running.discard(task)
        if self._is_stopping and not has_ended:
            await _end(send, has_begun=has_begun)


async def _end(send: Any, *, has_begun: bool) -> None:
    """End a response; one that has not begun gets status 503."""
    if not has_begun:
        await send({"type": "http.response.start", "status": 503, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": b""})


class _Server(uvicorn.Server):
    """A server that ends its responses when it stops."""

    def __init__(self, config: uvicorn.Config, responses: Responses) -> None:
        super().__init__(config)
        self._responses = responses

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        self._responses.stop()
        await super().shutdown(sockets)
