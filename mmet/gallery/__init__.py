"""Search your own pictures of people by image, sentence or both; see `mmet.gallery.gallery`.

from mmet.gallery import Gallery

gallery = Gallery.build("crops/", "my_gallery", model="outputs/run")
gallery.search(text="a woman in a red jacket", k=20)
"""

from mmet.gallery.embedding import Embedder, ModelEmbedder
from mmet.gallery.gallery import Gallery
from mmet.gallery.queries import Query
from mmet.gallery.results import AddReport, GalleryError, Match, Row, SearchResult, Skipped

__all__ = [
    "AddReport",
    "Embedder",
    "Gallery",
    "GalleryError",
    "Match",
    "ModelEmbedder",
    "Query",
    "Row",
    "SearchResult",
    "Skipped",
]
