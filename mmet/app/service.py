"""The page as a web application: mounted, guarded, with a health check.

app = build_service(Handlers(catalogue, PageOptions(), folder), ServiceOptions())
"""

from __future__ import annotations

import hmac
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from mmet.app.handlers import Handlers
from mmet.app.page import build_page, style, theme
from mmet.app.uploads import MAX_FILE_BYTES
from mmet.app.views import read_asset
from mmet.field_checks import shown
from mmet.gallery import GalleryError
from mmet.serving.guard import Guard
from mmet.serving.options import OWN_NAMES

MAX_BODY_BYTES = 200 * 2**20
"""Largest body of a request: many pictures in one upload, each at most `MAX_FILE_BYTES`."""

MAX_USERS_BYTES = 2**20


@dataclass(frozen=True)
class ServiceOptions:
    """
    Attributes:
        users: passwords by name; None for a page without sign-in.
        names: host names that the page answers to; None for all.
        frames: who may show the page in a frame: the value of `frame-ancestors` in a content security policy.
    """

    users: dict[str, str] | None = None
    names: tuple[str, ...] | None = OWN_NAMES
    frames: str = "'none'"


def build_service(handlers: Handlers, options: ServiceOptions) -> FastAPI:
    """Build the application that a web server runs."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    def health() -> dict[str, Any]:
        """Report the number of galleries, after reading each anew."""
        return {"status": "ok", "galleries": len([handlers.catalogue.get(name) for name in handlers.catalogue.names])}

    gr.mount_gradio_app(
        app,
        build_page(handlers),
        path="/",
        auth=None if options.users is None else sign_in(options.users),
        css=style(),
        theme=theme(),
        head=f"<script>{read_asset('page.js')}</script>",
        max_file_size=MAX_FILE_BYTES,
        show_error=False,
        run_history=False,
        ssr_mode=False,
        footer_links=[],
        allowed_paths=[],
    )
    app.add_middleware(
        Guard, max_bytes=MAX_BODY_BYTES, names=options.names, frames=options.frames, refused=("=http", "/proxy=")
    )
    return app


def sign_in(users: dict[str, str]) -> Callable[[str, str], bool]:
    """Return a check of name and password, which takes the same time for all wrong passwords of a length."""

    def check(name: str, password: str) -> bool:
        expected = users.get(name, "")
        same = hmac.compare_digest(password.encode("utf-8", "replace"), expected.encode("utf-8", "replace"))
        return same and name in users

    return check


def read_users(path: Path) -> dict[str, str]:
    """
    Read names and passwords from a file with a line `name:password` for each visitor.

    Raises:
        GalleryError: there is no such file, others on this machine can read it, a line has another form, or there is
            no name.
    """
    try:
        if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            raise GalleryError(f"--auth: {path} can be read by others on this machine: chmod 600 {path}")
        if path.stat().st_size > MAX_USERS_BYTES:
            raise GalleryError(f"--auth: {path} is larger than {MAX_USERS_BYTES:,} bytes")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise GalleryError(f"--auth: {path} cannot be read ({reason})") from error
    users = {}
    for number, line in enumerate(lines, 1):
        name, separator, password = line.partition(":")
        if not line.strip() or line.startswith("#"):
            continue
        if not separator or not name.strip() or not password:
            raise GalleryError(f"--auth: {path}: line {number}: expected name:password, received {shown(name)}")
        users[name.strip()] = password
    if not users:
        raise GalleryError(f"--auth: {path} names nobody; write a line name:password for each visitor")
    return users
