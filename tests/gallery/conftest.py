"""Galleries of plain colours, of which the right answers are known."""

from __future__ import annotations

import importlib.util
import uuid

import pytest
from colour_embedder import COLOURS, ColourEmbedder
from PIL import Image

from mmet.gallery import Gallery


@pytest.fixture
def embedder():
    return ColourEmbedder()


@pytest.fixture(scope="session")
def lite_file(tmp_path_factory):
    """One file of Milvus Lite for all tests; each gallery is a collection of its own."""
    if not all(map(importlib.util.find_spec, ("pymilvus", "milvus_lite"))):
        pytest.skip("pymilvus and milvus-lite are not installed (extra [milvus])")
    from milvus_lite.server_manager import server_manager_instance

    file = tmp_path_factory.mktemp("milvus") / "lite.db"
    yield file
    server_manager_instance.release_server(str(file))


@pytest.fixture
def backend():
    """What keeps the rows; a module whose tests hold for several says so by a fixture of this name."""
    return "disk"


@pytest.fixture
def new_place(backend, tmp_path, request):
    """A function that names a place for a gallery: a path or an address."""

    def place(name="gallery"):
        if backend == "disk":
            return tmp_path / name
        return f"milvus+file://{request.getfixturevalue('lite_file')}/{name}_{uuid.uuid4().hex}"

    return place


@pytest.fixture
def gallery_path(new_place):
    """Where a test's gallery goes."""
    return new_place()


@pytest.fixture
def entries(tmp_path):
    """Two cameras, three tracks; the file `c.png` is green, and so on."""
    folder = tmp_path / "crops"
    folder.mkdir()
    rows = [
        ("a", "red", "gate", 1, 0.0),
        ("b", "red", "gate", 1, 1.0),
        ("c", "green", "gate", 2, 2.0),
        ("d", "blue", 7, 2, 3.0),
        ("e", "grey", 7, None, None),
    ]
    items = []
    for name, colour, camera, track, time in rows:
        Image.new("RGB", (8, 16), COLOURS[colour]).save(folder / f"{name}.png")
        items.append(
            {
                "id": name,
                "image": str(folder / f"{name}.png"),
                "camera_id": camera,
                "track_id": track,
                "time": time,
                "box": (1, 2, 8, 16),
                "note": f"seen in {colour}",
            }
        )
    return items


@pytest.fixture
def gallery(entries, gallery_path, embedder):
    return Gallery.build(entries, gallery_path, model=embedder)
