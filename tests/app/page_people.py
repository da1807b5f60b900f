"""People of a page: plain colours, of which the right answers are known."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from colour_embedder import COLOURS
from PIL import Image

from mmet.gallery import Gallery

EVIL = '<img src=x onerror="document.title=1">${7*7}{{7*7}}'
"""A name that a page must show as it is."""

ROWS = [
    # id, colour, camera, track, time
    ("a", "red", "gate", 1, 0.0),
    ("b", "red", "gate", 1, 1.0),
    ("c", "green", "gate", 2, 2.0),
    ("d", "blue", EVIL, 2, 3.0),
    ("e", "red", "yard", 7, 60.0),
    ("f", "grey", "yard", None, None),
]


def build_people(folder: Path, model: Any) -> Path:
    """A gallery `people` of three cameras; `a`, `b` and `e` are red."""
    crops = folder / "crops"
    crops.mkdir()
    items = []
    for name, colour, camera, track, time in ROWS:
        Image.new("RGB", (8, 16), COLOURS[colour]).save(crops / f"{name}.png")
        items.append(
            {"id": name, "image": str(crops / f"{name}.png"), "camera_id": camera, "track_id": track, "time": time}
            | {"note": EVIL}
        )
    Gallery.build(items, folder / "people", model=model)
    return folder / "people"


@contextmanager
def served(service: Any) -> Iterator[str]:
    """The address of a service while it runs on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(service, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()
