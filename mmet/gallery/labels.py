"""Convert ids, times and boxes between the forms that people write and those that a gallery stores.

    >>> write_label("camera_id", 3), write_label("camera_id", "north gate"), read_label("3"), read_label("north gate")
    ('3', 'north gate', 3, 'north gate')
    >>> seconds("time", "2024-05-01T12:00:00Z"), seconds("time", 12.5)
    (1714564800.0, 12.5)
    >>> show_time(1714564800.0), show_time(3725.5), read_time("time", "1:02:05.5")
    ('2024-05-01 12:00:00', '1:02:05.5', 3725.5)

Ids of persons, cameras and tracks are stored as text, so that one column can hold numbers and words; plain whole
numbers are read back as `int`.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import numpy as np

from mmet.field_checks import shown
from mmet.gallery.results import GalleryError

Label = int | str

_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)")

CALENDAR_SECONDS = 10**8
"""Seconds from here on (1973) are shown as a date; smaller ones as hours of a film."""

_LAST_SECOND = 253_402_300_799.0  # of the year 9999


def write_label(name: str, value: Any) -> str | None:
    """Convert a label to text; None stays None. Raises `GalleryError` for anything but whole numbers and text."""
    if value is None:
        return None
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and math.isnan(value):  # how pandas says "nothing"
        return None
    if not isinstance(value, str) or not value:
        raise GalleryError(f"{name}: expected a whole number or a word, received {shown(value)}")
    if not _is_text(value):
        raise GalleryError(f"{name}: expected text that UTF-8 can hold, received {shown(value)}")
    return value


def read_label(text: str | None) -> Label | None:
    """Convert a stored label back: an `int` if the text is a plain whole number."""
    return int(text) if text is not None and _NUMBER.fullmatch(text) else text


def write_labels(name: str, values: Any) -> frozenset[str] | None:
    """Convert one label or several for a filter; None for no filter."""
    if values is None:
        return None
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        values = [values]
    labels = [write_label(name, value) for value in values]
    if not labels or None in labels:
        raise GalleryError(f"{name}: expected one or several names, or None for all; received {shown(values)}")
    return frozenset(label for label in labels if label is not None)


def seconds(name: str, value: Any) -> float | None:
    """
    Convert a time to seconds. Numbers are seconds on the user's own clock; a `datetime` and ISO 8601 text become
    seconds since 1970, in UTC if they have no time zone. None, NaN and NaT become None.

    Raises:
        GalleryError: none of these.
    """
    if value is None:
        return None
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").astype(datetime)
        if value is None:
            return None
    if isinstance(value, str):
        with suppress(ValueError):
            value = datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", value.strip()))
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = float(value)
        if math.isnan(number):
            return None
        if math.isfinite(number):
            return number
    raise GalleryError(
        f"{name}: expected seconds, a datetime, or text such as 2024-05-01T12:00:00, received {shown(value)}"
    )


def read_time(name: str, text: str) -> float:
    """
    Parse a time as people type it: `12.5` (seconds), `1:02:05` as `show_time` writes it, or ISO 8601.

    Raises:
        GalleryError: none of these.
    """
    clock = _CLOCK.fullmatch(text.strip())
    if clock:
        return 3600.0 * int(clock[1] or 0) + 60.0 * int(clock[2]) + float(clock[3])
    number = None
    with suppress(ValueError):
        number = float(text)
    moment = seconds(name, text if number is None else number)
    if moment is None:
        raise GalleryError(f"{name}: expected a moment, received {shown(text)}")
    return moment


def show_time(moment: float | None) -> str:
    """Format a time: date and time in UTC, or hours, minutes and seconds of a film's clock."""
    if moment is None:
        return ""
    if CALENDAR_SECONDS <= moment <= _LAST_SECOND:
        shown_moment = datetime.fromtimestamp(round(moment, 1), timezone.utc)
        text = shown_moment.strftime("%Y-%m-%d %H:%M:%S")
        tenth = shown_moment.microsecond // 100_000
        return f"{text}.{tenth}" if tenth else text
    if not 0 <= moment < CALENDAR_SECONDS:
        return f"{moment:g} s"
    minutes, rest = divmod(round(moment, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    tail = f"{rest:04.1f}".removesuffix(".0")
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def time_range(value: Any) -> tuple[float, float] | None:
    """
    Convert a time filter to `(start, end)` in seconds, both included; None for an open end, or for no filter.

    Raises:
        GalleryError: not two moments, or an end before its start.
    """
    if value is None:
        return None
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or len(value) != 2:
        raise GalleryError(f"time: expected a pair (start, end), with None for an open end, received {shown(value)}")
    start, end = seconds("time", value[0]), seconds("time", value[1])
    bounds = (-math.inf if start is None else start, math.inf if end is None else end)
    if bounds[0] > bounds[1]:
        raise GalleryError(f"time: expected a start that is not after the end, received {shown(value)}")
    return bounds


def write_box(value: Any) -> list[float] | None:
    """Check a box of four finite numbers `(x, y, width, height)`, or None. Raises `GalleryError` for anything else."""
    if value is None:
        return None
    try:
        box = [float(number) for number in value]
    except (TypeError, ValueError):
        box = []
    if len(box) != 4 or not all(map(math.isfinite, box)):
        raise GalleryError(f"box: expected four numbers x, y, width, height, received {shown(value)}")
    return box


def counted(number: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
