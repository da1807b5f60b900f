"""The page's logic without the page: from a visitor's request to an answer.

    answer = search(catalogue, SearchRequest(text="a woman in a red jacket", by_track=True))
    for match in answer.result:
        print(match.score, match.camera_id)
    answer.track_of(answer.result.matches[0])

Errors that a visitor can correct are `RequestError`s, whose message is a sentence for the page.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import PIL.Image

from mmet.app.catalogue import Catalogue, OfferedGallery
from mmet.app.requests import RequestError, SearchRequest
from mmet.footage.searching import Sighting, find_sightings
from mmet.gallery import GalleryError, Match, Query, Row, SearchResult

logger = logging.getLogger(__name__)

MAX_TRACK = 40
"""Crops of a track that are shown, at most."""

MAX_SIGHTINGS = 12
"""Tracks in a timeline, at most."""

_EXCLUDED_CROPS = 1_000
_QUERY_CROPS = 8
_WIDE = 1.2
"""A picture of a larger width / height hardly shows one person alone."""


@dataclass(frozen=True, eq=False)
class Answer:
    """
    The answer to a request.

    Attributes:
        request: the request; if it names a crop, with that crop's picture.
        offered: the gallery that was searched.
        result: the matches.
        seconds: duration of the search.
    """

    request: SearchRequest
    offered: OfferedGallery
    result: SearchResult
    seconds: float

    @property
    def query(self) -> Query:
        """The picture and the sentence that the gallery was searched for."""
        return Query(self.request.picture, self.request.text.strip() or None)

    def match(self, rank: int) -> Match:
        """The match of a rank, counted from 1. Raises `RequestError` for a rank that does not exist."""
        if not 1 <= rank <= len(self.result):
            raise RequestError("This result is not there any more; search again.")
        return self.result.matches[rank - 1]

    def track_of(self, match: Row) -> list[Match]:
        """The crops of a match's track in the order of time, at most `MAX_TRACK`; none for a crop without a track."""
        if match.track_id is None:
            return []
        results = self.offered.gallery.search_batch(
            [self.query], k=MAX_TRACK, camera_id=match.camera_id, track_id=match.track_id
        )[0]
        return sorted(results, key=lambda row: (row.time is None, row.time or 0.0, row.id))


def search(catalogue: Catalogue, request: SearchRequest, *, own_gallery: OfferedGallery | None = None) -> Answer:
    """
    Answer a request.

    Args:
        catalogue: the galleries of the page.
        request: the visitor's request.
        own_gallery: the visitor's own gallery, which the request may name.

    Raises:
        RequestError: an error that the visitor can correct, in a sentence.
    """
    begin = time.monotonic()
    request.check()
    offered = gallery_of(catalogue, request.gallery, own_gallery)
    with readable_errors():
        exclude: Sequence[str] = ()
        if request.crop:
            request, exclude = _with_crop(offered, request)
        query = Query(request.picture, request.text.strip() or None)
        result = offered.gallery.search_batch(
            [query], k=request.k, by_track=request.by_track, exclude=exclude or None, **request.filters
        )[0]
    result = replace(result, notes=(*result.notes, *_picture_notes(request.picture)))
    return Answer(request, offered, result, time.monotonic() - begin)


def gallery_of(catalogue: Catalogue, name: str, own_gallery: OfferedGallery | None = None) -> OfferedGallery:
    """The page's gallery or the visitor's own one of this name. Raises `RequestError` for an unknown name."""
    return own_gallery if own_gallery is not None and name == own_gallery.name else catalogue.get(name)


def sightings_of(answer: Answer, match: Row) -> list[Sighting]:
    """
    Find where and when the person of a match was seen: the tracks most similar to the match's track, from all cameras,
    in the order of time.

    Raises:
        RequestError: no similar crop has both a time and a camera.
    """
    with readable_errors():
        crops: Sequence[Row | Match] = answer.track_of(match) or [match]
        pictures = [row.open_image() for row in crops[:: -(-len(crops) // _QUERY_CROPS)]]
        return find_sightings(answer.offered.gallery, image=pictures, k=MAX_SIGHTINGS)


def _with_crop(offered: OfferedGallery, request: SearchRequest) -> tuple[SearchRequest, list[str]]:
    """The request with the picture of the crop that it names, and the ids of that crop's track, to be left out."""
    rows = offered.gallery.find([request.crop])
    if not rows:
        raise RequestError(f"The crop {request.crop!r} is not in “{offered.name}” any more.")
    (row,) = rows
    picture = row.open_image()
    exclude = [row.id]
    if row.track_id is not None:
        result = offered.gallery.search(
            image=picture, k=_EXCLUDED_CROPS, camera_id=row.camera_id, track_id=row.track_id
        )
        exclude += [match.id for match in result if match.id != row.id]
    return replace(request, picture=picture), exclude


def _picture_notes(picture: PIL.Image.Image | None) -> list[str]:
    if picture is None or picture.width <= _WIDE * picture.height:
        return []
    return ["the picture is wider than high: results are better when it is cut to one person, from head to feet"]


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn errors that a visitor can understand into `RequestError`s."""
    try:
        yield
    except RequestError:
        raise
    except GalleryError as error:
        raise RequestError(as_sentence(str(error))) from error
    except OSError as error:
        logger.warning("%s", error)
        raise RequestError("A file of this gallery cannot be read any more; search again.") from error


def as_sentence(message: str) -> str:
    """Turn a gallery's error message into a sentence: no argument's name in front, a capital, a full stop."""
    message = re.sub(r"^(text|image|time|camera_id|track_id|k|embedding): ", "", message.strip())
    message = message[:1].upper() + message[1:]
    return message if message.endswith((".", "!", "?")) else f"{message}."
