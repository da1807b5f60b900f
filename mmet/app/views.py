"""The HTML of the page: answers, details, timelines, messages.

    views = Views()
    views.answer(answer), views.details(answer, match, 1), views.timeline(sightings)

Words come from galleries, files and visitors; jinja2 escapes all of them. Pictures are part of the HTML as `data:`
addresses, so the server has no addresses of pictures that somebody could guess.
"""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from importlib import resources
from threading import Lock
from typing import Any

import PIL.Image
from jinja2 import Environment, FunctionLoader, StrictUndefined

from mmet.app.catalogue import OfferedGallery
from mmet.app.explaining import Panel
from mmet.app.searching import Answer
from mmet.footage.searching import Sighting
from mmet.footage.timeline import axis_marks, describe, stack_rows
from mmet.gallery import GalleryError, Match, Row
from mmet.gallery.labels import show_time
from mmet.gallery.listing import LIKELY, UNLIKELY, percent, verdict
from mmet.markdown_table import plain_text
from mmet.report.page import jpeg_uri

EXAMPLES = (
    "a woman in a red jacket",
    "a man in a blue shirt and dark trousers",
    "somebody with a backpack",
    "a person in white",
)
"""Example queries that visitors can click."""

THUMBNAIL = (192, 300)
"""Largest width and height of a crop in a list, in pixels."""

LARGE = (480, 720)
"""Largest width and height of the crop that was clicked."""

_KEPT_THUMBNAILS = 4_000


class Thumbnails:
    """Small pictures of crops as `data:` addresses; the most recently used are kept."""

    def __init__(self, kept: int = _KEPT_THUMBNAILS) -> None:
        self._kept = kept
        self._pictures: OrderedDict[Any, str | None] = OrderedDict()
        self._lock = Lock()

    def __call__(self, row: Row) -> str | None:
        """The picture of a row; None if its file is missing or damaged."""
        key = row.id, *_version(row)
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
                return self._pictures[key]
        picture = picture_uri(row, THUMBNAIL)
        with self._lock:
            self._pictures[key] = picture
            while len(self._pictures) > self._kept:
                self._pictures.popitem(last=False)
        return picture


def _version(row: Row) -> tuple[Any, ...]:
    """A value that changes when the picture of a row is replaced under the same name."""
    if row.image is not None:
        return len(row.image), zlib.crc32(row.image)
    try:
        status = os.stat(str(row.image_path))  # noqa: PTH116
    except (OSError, ValueError):
        return (row.image_path, None)
    return row.image_path, status.st_mtime_ns, status.st_size


def picture_uri(row: Row, size: tuple[int, int]) -> str | None:
    """A row's picture of at most `size` (width, height) as a `data:` address; None if it cannot be read."""
    try:
        picture = row.open_image()
    except GalleryError:
        return None
    return small_uri(picture, size)


def small_uri(picture: PIL.Image.Image, size: tuple[int, int]) -> str:
    """A picture of at most `size` (width, height) as a `data:` address."""
    if picture.width > size[0] or picture.height > size[1]:
        picture = picture.copy()
        picture.thumbnail(size, PIL.Image.Resampling.LANCZOS)
    return jpeg_uri(picture)


class Views:
    """The page's HTML."""

    def __init__(self) -> None:
        self._thumbnails = Thumbnails()
        self._environment = Environment(
            loader=FunctionLoader(read_asset),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            percent=percent, plain=lambda value: plain_text(str(value)), moment=show_time, words=_words
        )
        self._environment.globals["thumbnail"] = self._thumbnails

    def welcome(self, offered: OfferedGallery) -> str:
        """The start page: examples, in the place of an answer before the first search."""
        return self._render("welcome.html", offered=offered, examples=EXAMPLES)

    def answer(self, answer: Answer) -> str:
        """The matches by rank, and whether the person is in the gallery at all."""
        present = answer.result.in_gallery
        return self._render(
            "answer.html",
            answer=answer,
            result=answer.result,
            verdict=None if present is None or not answer.result.matches else verdict(present),
            tone="" if present is None or UNLIKELY < present < LIKELY else "yes" if present >= LIKELY else "no",
        )

    def message(self, text: str, *, is_error: bool = True) -> str:
        """A message to the visitor."""
        return self._render("message.html", text=text, is_error=is_error)

    def footer(self, *, logs: bool) -> str:
        """The footer: how to use the page lawfully and responsibly.

        Args:
            logs: whether searches are recorded.
        """
        return self._render("footer.html", logs=logs)

    def details(
        self,
        answer: Answer,
        match: Match,
        rank: int,
        *,
        track: Sequence[Match] = (),
        panels: Sequence[Panel] | None = None,
        note: str = "",
        can_remove: bool = False,
    ) -> str:
        """One match: its crop, its track and its explanation.

        Args:
            answer: the answer that the match belongs to.
            match: the match.
            rank: rank of the match, counted from 1.
            track: crops of the match's track.
            panels: panels of the explanation so far; None while the first is computed.
            note: reason why there is no explanation, or not all of it.
            can_remove: whether visitors may remove the match from the gallery.
        """
        facts = {"camera": match.camera_id, "time": show_time(match.time), "track": match.track_id}
        facts |= {"person": match.person_id, "crop": match.id}
        return self._render(
            "details.html",
            answer=answer,
            match=match,
            rank=rank,
            picture=picture_uri(match, LARGE),
            facts={name: value for name, value in facts.items() if value not in (None, "")},
            track=track,
            panels=[(panel, jpeg_uri(panel.picture)) for panel in panels or ()],
            is_waiting=panels is None and not note,
            note=note,
            can_remove=can_remove,
        )

    def timeline(self, sightings: Sequence[Sighting]) -> str:
        """Where and when a person was seen: one line for each camera, and the crops in the order of time."""
        start, end = min(seen.start for seen in sightings), max(seen.end for seen in sightings)
        margin = max(0.03 * (end - start), 0.5)
        span = (start - margin, end + margin)

        def place(moment: float) -> float:
            return 100 * (moment - span[0]) / (span[1] - span[0])

        lines: dict[str, list[int]] = {}
        for number, seen in enumerate(sightings):
            lines.setdefault(str(seen.camera_id), []).append(number)
        stacked = {
            name: stack_rows([(sightings[n].start, sightings[n].end) for n in numbers], numbers)
            for name, numbers in lines.items()
        }
        scores = [seen.score for seen in sightings]
        spread = max(max(scores) - min(scores), 1e-9)
        return self._render(
            "timeline.html",
            sightings=sightings,
            summary=describe(sightings),
            lines=stacked,
            place=place,
            strength=[0.35 + 0.65 * (score - min(scores)) / spread for score in scores],
            marks=[(place(mark), show_time(mark)) for mark in axis_marks(*span, most=5)],
        )

    def _render(self, name: str, **values: Any) -> str:
        return self._environment.get_template(name).render(**values)


def read_asset(name: str) -> str:
    """A file that comes with the page."""
    return resources.files("mmet.app").joinpath("assets", name).read_text(encoding="utf-8")


def _words(match: Row) -> str:
    """Camera and time of a row in a line."""
    parts = [None if match.camera_id is None else plain_text(str(match.camera_id)), show_time(match.time) or None]
    return " · ".join(part for part in parts if part)
