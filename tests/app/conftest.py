"""A page over a gallery of plain colours, of which the right answers are known."""

from __future__ import annotations

import pytest
from colour_embedder import ColourEmbedder
from page_people import build_people


@pytest.fixture
def embedder():
    return ColourEmbedder()


@pytest.fixture
def gallery_path(tmp_path, embedder):
    return build_people(tmp_path, embedder)


@pytest.fixture
def catalogue(gallery_path, embedder):
    from mmet.app.catalogue import Catalogue

    opened = Catalogue.open([gallery_path], model=embedder)
    yield opened
    opened.close()


@pytest.fixture
def make_page(catalogue, tmp_path):
    """A function that makes a page with these options."""
    from mmet.app.handlers import Handlers, PageOptions

    (tmp_path / "uploads").mkdir()
    return lambda **options: Handlers(catalogue, PageOptions(**options), tmp_path / "uploads")
