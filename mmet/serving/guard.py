"""Middleware that protects a server: largest request, accepted host names, security headers for browsers.

app.add_middleware(Guard, max_bytes=40 * 2**20, names=["127.0.0.1", "localhost"])
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

HEADERS = {
    # Gradio's page has inline scripts and evaluates text; nothing may be loaded from, or sent to, other servers.
    "content-security-policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; "
    "base-uri 'self'; frame-ancestors {frames}",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


class TooLarge(Exception):
    """A request's body is larger than the limit."""


class Guard:
    """
    ASGI middleware that refuses requests that are too large or addressed to another host.

    Args:
        app: the ASGI application behind it.
        max_bytes: largest body of a request, in bytes.
        names: host names that it answers to, without ports; None for all. A server for this machine alone must refuse
            others: a web site whose name is made to point here could read it through the visitor's browser (DNS
            rebinding).
        refused: requests are refused if their path contains one of these.
        frames: who may show the page in a frame: the value of `frame-ancestors` in a content security policy.
    """

    def __init__(
        self,
        app: Any,
        *,
        max_bytes: int,
        names: Sequence[str] | None = None,
        refused: Sequence[str] = (),
        frames: str = "'none'",
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.names = None if names is None else {name.lower() for name in names}
        self.refused = tuple(refused)
        self.headers = [(name.encode(), value.replace("{frames}", frames).encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self.names is not None and _host(headers.get(b"host", b"")) not in self.names:
            await _refuse(send, 421, "this server does not answer to that host name; see --name")
            return
        if any(part in scope["path"] for part in self.refused):
            await _refuse(send, 403, "nothing is fetched from elsewhere")
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.max_bytes:
            await _refuse(send, 413, self._too_large)
            return
        received, begun = 0, False

        async def counted() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise TooLarge
            return message

        async def with_headers(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": [*message.get("headers", []), *self.headers]}
            await send(message)

        try:
            await self.app(scope, counted, with_headers)
        except TooLarge:
            if begun:
                raise
            await _refuse(send, 413, self._too_large)

    @property
    def _too_large(self) -> str:
        return f"expected at most {self.max_bytes:,} bytes"


def _host(value: bytes) -> str:
    """The host of a header, without its port."""
    text = value.decode("latin-1").strip().lower()
    return text.partition("]")[0].removeprefix("[") if text.startswith("[") else text.partition(":")[0]


async def _refuse(send: Any, status: int, message: str) -> None:
    body = json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": status}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
