"""Galleries of plain colours, of which the right answers are known."""

from __future__ import annotations

import pytest
from embedders import COLOURS, ColourEmbedder
from PIL import Image

from mmet.gallery import Gallery


@pytest.fixture
def embedder():
    return ColourEmbedder()


@pytest.fixture
def gallery_path(tmp_path):
    """Where a test's gallery goes; another backend puts its address here."""
    return tmp_path / "gallery"


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
