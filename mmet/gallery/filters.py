"""Filters that select the rows of a gallery that are searched.

RowFilter.of(camera_id=["gate", 3], time=(0, 60), exclude=["a.jpg"])
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from dataclasses import dataclass
from typing import Any

from mmet.field_checks import suggestion
from mmet.gallery.labels import read_label, time_range, write_label, write_labels
from mmet.gallery.results import GalleryError

_NAMED_CAMERAS = 10


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Conditions that a row must all meet; None, or no ids, for no condition.

    Attributes:
        cameras, tracks: stored labels that are allowed.
        time: `(start, end)` in seconds, both included. Rows without time do not pass.
        excluded: ids that are left out. Unknown ids are not an error.
    """

    cameras: frozenset[str] | None = None
    tracks: frozenset[str] | None = None
    time: tuple[float, float] | None = None
    excluded: frozenset[str] = frozenset()

    @classmethod
    def of(cls, *, camera_id: Any = None, track_id: Any = None, time: Any = None, exclude: Any = None) -> RowFilter:
        """Build a filter from user input; cameras, tracks and ids may each be one value or several.

        Raises:
            GalleryError: an invalid name or an invalid time range.
        """
        is_empty = exclude is None or (
            isinstance(exclude, Sized) and not isinstance(exclude, str) and not len(exclude)
        )
        return cls(
            cameras=write_labels("camera_id", camera_id),
            tracks=write_labels("track_id", track_id),
            time=time_range(time),
            excluded=frozenset() if is_empty else write_labels("exclude", exclude) or frozenset(),
        )

    @property
    def names_rows(self) -> bool:
        """Whether the filter has a condition on cameras, tracks or time."""
        return (self.cameras, self.tracks, self.time) != (None, None, None)


def write_ids(ids: Any) -> list[str]:
    """Convert one id or several to text, without duplicates, in order. Raises `GalleryError` for an invalid id."""
    values = [ids] if isinstance(ids, (str, int)) else list(ids)
    labels = [write_label("id", value) for value in values]
    if None in labels:
        raise GalleryError("id: expected whole numbers or words, received None among them")
    return list(dict.fromkeys(label for label in labels if label is not None))


def check_cameras(cameras: Iterable[str], present: Iterable[str]) -> None:
    """Raise `GalleryError` for a camera that is not in the gallery."""
    known = sorted(present)
    for camera in sorted(set(cameras).difference(known)):
        names = ", ".join(known[:_NAMED_CAMERAS]) + (", …" if len(known) > _NAMED_CAMERAS else "")
        raise GalleryError(
            f"there is no camera {read_label(camera)!r} in this gallery; it has {names or 'no cameras at all'}"
            + suggestion(camera, known)
        )
