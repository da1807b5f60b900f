"""The contact sheet of a search: one HTML file that shows the query, the crops in order, and how sure the model is.

    Path("answer.html").write_text(render_sheet(gallery, query, gallery.search_batch([query])[0]))

The file contains its style and pictures and loads nothing from the network. Names, captions and paths come from users
and are escaped by jinja2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any

import PIL.Image
from jinja2 import Environment, StrictUndefined

from mmet.figure_style import DARK, LIGHT
from mmet.gallery.gallery import Gallery
from mmet.gallery.labels import show_time
from mmet.gallery.listing import LIKELY, UNLIKELY, percent, verdict
from mmet.gallery.queries import Query
from mmet.gallery.results import GalleryError, Match, SearchResult
from mmet.gallery.sources import load_picture
from mmet.markdown_table import plain_text
from mmet.report.page import jpeg_uri

CROP_SIZE = (240, 480)
"""Largest width and height of a crop's picture in pixels: twice the size on the page, for high-resolution screens."""

MAX_SHOWN = 500
"""Crops on a sheet, about 15 KB each."""

_ASKED = {"image": "queries by image", "text": "queries by sentence", "both": "queries by image and sentence"}


@dataclass(frozen=True)
class Card:
    """One match on the sheet."""

    rank: int
    match: Match
    picture: str | None
    facts: Mapping[str, str]
    user_columns: Mapping[str, str]


def render_sheet(gallery: Gallery, query: Query, result: SearchResult, filters: Sequence[str] = ()) -> str:
    """The contact sheet as HTML.

    Args:
        gallery: the searched gallery.
        query: the query.
        result: the answer.
        filters: one phrase for each filter of the search.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=percent, number=lambda value: f"{value:,}", plain=plain_text)
    source = resources.files("mmet.gallery").joinpath("sheet.html").read_text(encoding="utf-8")
    images = [] if query.image is None else query.image if isinstance(query.image, (list, tuple)) else [query.image]
    return environment.from_string(source).render(
        query=query,
        asked=_ASKED[query.modality],
        query_pictures=[_picture(load_picture(image)) for image in images],
        result=result,
        verdict=None if result.in_gallery is None or not result.matches else verdict(result.in_gallery),
        tone=_tone(result.in_gallery),
        cards=[_card(rank, match) for rank, match in enumerate(result.matches[:MAX_SHOWN], 1)],
        filters=filters,
        gallery=gallery.path,
        model=gallery.info["model"],
        created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        light=LIGHT,
        dark=DARK,
    )


def _tone(in_gallery: float | None) -> str:
    """The class that colours the verdict."""
    if in_gallery is None or UNLIKELY < in_gallery < LIKELY:
        return ""
    return " yes" if in_gallery >= LIKELY else " no"


def _card(rank: int, match: Match) -> Card:
    facts = {
        "camera": match.camera_id,
        "time": show_time(match.time),
        "track": match.track_id,
        "person": match.person_id,
    }
    return Card(
        rank,
        match,
        picture=_crop(match),
        facts={name: plain_text(str(value)) for name, value in facts.items() if value not in (None, "")},
        user_columns={plain_text(name): _words(value) for name, value in match.row.items()},
    )


def _crop(match: Match) -> str | None:
    """The crop as a `data:` URL; None if its file is missing or damaged."""
    try:
        return _picture(match.open_image())
    except GalleryError:
        return None


def _picture(image: PIL.Image.Image) -> str:
    small = image.copy()
    small.thumbnail(CROP_SIZE, PIL.Image.Resampling.LANCZOS)
    return jpeg_uri(small)


def _words(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return plain_text(text)
