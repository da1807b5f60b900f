"""A visitor's search: the values of the page's fields, their checks, and the link that restores them.

    >>> request = SearchRequest(gallery="people", text="a man in black", cameras=("gate",), k=12)
    >>> request.link
    'gallery=people&text=a+man+in+black&camera=gate&k=12'
    >>> SearchRequest.from_link(request.link) == request
    True

A link holds no uploaded picture. It stands behind the `#` of the page's address, which browsers do not send to
servers, so it appears in no server's log.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

import PIL.Image

from mmet.field_checks import shown
from mmet.gallery import GalleryError
from mmet.gallery.labels import read_time, show_time

MAX_TEXT = 1_000
"""Longest sentence in characters; models read about its first sixty words."""

MAX_MATCHES = 200
"""Largest number of matches."""

MATCHES = 24
"""Default number of matches."""

_LONGEST_NAME = 500
_MOST_FIELDS = 200


class RequestError(GalleryError):
    """A visitor's input cannot be used; the message is a sentence for the page."""


@dataclass(frozen=True)
class SearchRequest:
    """
    One search.

    Attributes:
        gallery: name of the gallery on the page; empty for the first one.
        text: a sentence, or empty.
        picture: picture of the person; not part of a link.
        crop: id of the gallery's row whose picture is the query, or empty.
        cameras: names of the cameras to search; none for all.
        after, before: moments as people type them, or empty.
        k: largest number of matches.
        by_track: whether tracks are shown, each by its best crop.
    """

    gallery: str = ""
    text: str = ""
    picture: PIL.Image.Image | None = field(default=None, compare=False)
    crop: str = ""
    cameras: tuple[str, ...] = ()
    after: str = ""
    before: str = ""
    k: int = MATCHES
    by_track: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is no sentence, picture or crop to search for."""
        return not self.text.strip() and self.picture is None and not self.crop

    def check(self) -> None:
        """Raise `RequestError` if no search can be made of these values."""
        if self.is_empty:
            raise RequestError("Type whom you are looking for, or add a picture of the person.")
        if len(self.text) > MAX_TEXT:
            raise RequestError(
                f"This sentence has {len(self.text):,} characters, and at most {MAX_TEXT:,} are read. Describe the "
                "person in one or two sentences: clothes, colours, hair, bags."
            )
        if not 1 <= self.k <= MAX_MATCHES:
            raise RequestError(f"Between 1 and {MAX_MATCHES} results can be shown, not {self.k:,}.")
        start, end = self.period
        if start is not None and end is not None and start > end:
            raise RequestError(f"“From” ({show_time(start)}) is later than “to” ({show_time(end)}).")

    @property
    def period(self) -> tuple[float | None, float | None]:
        """`after` and `before` in seconds; None for an open end. Raises `RequestError` for what is no time."""
        start, end = (
            _moment(name, text.strip()) if text.strip() else None
            for name, text in (("From", self.after), ("To", self.before))
        )
        return start, end

    @property
    def filters(self) -> dict[str, Any]:
        """`camera_id` and `time` for `Gallery.search`."""
        period = self.period
        return {
            "camera_id": list(self.cameras) or None,
            "time": None if period == (None, None) else period,
        }

    @property
    def filter_words(self) -> list[str]:
        """The filters in words: one phrase each."""
        words = [f"camera{'s' if len(self.cameras) > 1 else ''} {', '.join(self.cameras)}"] if self.cameras else []
        words += [f"from {self.after.strip()}"] if self.after.strip() else []
        return words + ([f"to {self.before.strip()}"] if self.before.strip() else [])

    @property
    def link(self) -> str:
        """The fields that differ from their defaults, encoded like the query of an address; `from_link` reads it."""
        values: list[tuple[str, str]] = []
        for name in ("gallery", "text", "crop", "after", "before"):
            values += [(name, getattr(self, name))] if getattr(self, name) else []
        values += [("camera", camera) for camera in self.cameras]
        values += [("k", str(self.k))] if self.k != MATCHES else []
        values += [("tracks", "1")] if self.by_track else []
        order = ["gallery", "text", "crop", "camera"]
        values.sort(key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order))
        return urlencode(values, errors="replace")

    @classmethod
    def from_link(cls, link: str) -> SearchRequest:
        """Read the request of a link; unknown names are ignored. Raises `RequestError` for invalid values."""
        try:
            pairs = parse_qsl(link.lstrip("#?"), keep_blank_values=True, errors="replace", max_num_fields=_MOST_FIELDS)
        except ValueError:
            raise RequestError("The link is damaged: it names too many things.") from None
        texts: dict[str, Any] = {
            name: value for name, value in pairs if name in ("gallery", "text", "crop", "after", "before")
        }
        number = dict(pairs).get("k", str(MATCHES))
        if not number.isascii() or not number.isdigit() or len(number) > 6:
            raise RequestError(f"The link is damaged: it asks for {shown(number)} results.")
        return cls(
            **texts,
            cameras=tuple(value[:_LONGEST_NAME] for name, value in pairs if name == "camera"),
            k=int(number),
            by_track=dict(pairs).get("tracks") == "1",
        )


def _moment(name: str, text: str) -> float:
    try:
        return read_time(name, text)
    except GalleryError:
        raise RequestError(
            f"“{name}”: {shown(text)} is not a time. Write 1:02:05, seconds such as 12.5, or 2024-05-01T12:00:00."
        ) from None
