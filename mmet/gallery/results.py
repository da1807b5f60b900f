"""Results of a search in a gallery.

result = gallery.search(text="a man in a red coat", k=5)
for match in result.matches:
    print(match.score, match.probability, match.camera_id, match.image_path)
result.in_gallery
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import PIL.Image


class GalleryError(ValueError):
    """A gallery, a source or a query cannot be used; the message says what was expected and what to do."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Name of a picture that was left out, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class AddReport:
    """What `Gallery.add` and `Gallery.merge` did: rows added, rows replaced or left as they were, pictures skipped."""

    added: int
    replaced: int = 0
    kept: int = 0
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """An entry of a gallery.

    Attributes:
        id: its name, unique in the gallery.
        image_path: file of the crop; None if the gallery holds the picture itself.
        image: the encoded picture, if the gallery holds it.
        person_id, camera_id, track_id: numbers or words; None if unknown.
        time: seconds; see `mmet.gallery.labels.seconds`.
        box: `(x, y, width, height)` of the crop in its frame.
        row: the user's own columns by name.
    """

    id: str
    image_path: str | None = None
    image: bytes | None = field(default=None, repr=False)
    person_id: int | str | None = None
    camera_id: int | str | None = None
    track_id: int | str | None = None
    time: float | None = None
    box: tuple[float, float, float, float] | None = None
    row: Mapping[str, Any] = field(default_factory=dict)

    def open_image(self) -> PIL.Image.Image:
        """Open the crop, upright and in RGB. Raises `GalleryError` naming a file that can no longer be read."""
        from mmet.data.decoding import DECODE_ERRORS, decode_rgb

        try:
            return PIL.Image.fromarray(decode_rgb({"bytes": self.image, "path": self.image_path}))
        except DECODE_ERRORS as error:
            raise GalleryError(f"the picture of {self.id!r} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Match(Row):
    """A row that a search found.

    Attributes:
        score: cosine similarity of query and row, after subtracting the gallery's centre if it has one.
        probability: probability that both show the same person; None without calibration.
    """

    score: float = 0.0
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The answer to one query, best match first.

    Attributes:
        matches: at most `k`; fewer if fewer rows pass the filters.
        in_gallery: the probability that the person is among the rows that were searched; None without calibration.
        notes: what the user should know about the query, such as words that the model has never seen.
        searched: how many rows passed the filters.
    """

    matches: list[Match]
    in_gallery: float | None = None
    notes: tuple[str, ...] = ()
    searched: int = 0

    def __len__(self) -> int:
        return len(self.matches)

    def __iter__(self) -> Iterator[Match]:
        return iter(self.matches)
