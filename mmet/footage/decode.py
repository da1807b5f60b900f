"""Decode frames of video files, folders of pictures and network streams, one at a time.

    with open_footage("entrance.mp4", every=4) as footage:
        for frame in footage:
            frame.index, frame.time, frame.image
    footage.problem        # why it ended early, if it did

Only the current frame is in memory. Pictures are rotated as the file says (display matrix) and converted to 8 bits.
Times are those of the file, so a variable frame rate is respected. A damaged or truncated file gives the frames before
the damage, and `problem` describes it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mmet.data.decoding import DECODE_ERRORS, decode_rgb
from mmet.field_checks import without_password
from mmet.footage.boxes import FootageError
from mmet.gallery.labels import counted
from mmet.whole_files import read_regular_file

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
FOLDER_RATE = Fraction(30)
"""Frames per second of a folder of pictures that has no `seqinfo.ini`."""

_OPEN_SECONDS, _READ_SECONDS = 15.0, 30.0
"""Seconds after which a silent network stream counts as ended."""

_MAX_INFO_BYTES = 64 * 2**10
_RATES = (0.001, 10_000)
"""Slowest and fastest frames per second of a `seqinfo.ini`."""

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", flags=re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Frame:
    """
    One picture of a video.

    Attributes:
        index: number in the video from 0; skipped frames count.
        time: seconds since the first frame.
        image: uint8 (H, W, 3), red, green, blue.
    """

    index: int
    time: float
    image: np.ndarray


class Footage(ABC):
    """
    A source of frames; iterating reads it once.

    Attributes:
        source: the name that the user gave; an address without user and password.
        every: one frame in this many is yielded.
        frame_rate: frames per second that the source states.
        num_frames: expected number of frames; None if unknown.
        is_live: whether it is a stream without an end.
        frames_read: number of frames read so far, including skipped ones.
        problem: why reading ended early; empty if it did not.
    """

    def __init__(self, source: str, every: int) -> None:
        self.source, self.every = without_password(source), every
        self.frame_rate = FOLDER_RATE
        self.num_frames: int | None = None
        self.is_live = False
        self.frames_read = 0
        self.problem = ""

    def __enter__(self) -> Footage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None:  # noqa: B027  # folders have nothing to close
        """Close the file."""


def open_footage(source: str | Path, *, every: int = 1) -> Footage:
    """
    Open a video file, a folder of pictures in the order of their names, or a stream (`rtsp://…`).

    Args:
        source: file, folder or URL.
        every: yield every n-th frame.

    Raises:
        FootageError: the source does not exist, or holds no readable picture.
    """
    if _URL.match(str(source)):
        return _Video(str(source), every, is_live=True)
    path = Path(source)
    if path.is_dir():
        return _Pictures(path, every)
    if not path.is_file():
        raise FootageError(f"{path}: {'not a regular file' if path.exists() else 'no such file or folder'}")
    if path.stat().st_size == 0:
        raise FootageError(f"{path}: the file is empty (0 bytes); copy the video again")
    return _Video(str(path), every)


class _Video(Footage):
    """A source that FFmpeg reads."""

    def __init__(self, source: str, every: int, *, is_live: bool = False) -> None:
        super().__init__(source, every)
        self._av = import_av()
        self.is_live = is_live
        try:
            self._container = self._av.open(source, timeout=(_OPEN_SECONDS, _READ_SECONDS) if is_live else None)
        except (self._av.FFmpegError, OSError) as error:
            raise FootageError(_why_not_opened(self.source, is_live, error)) from error
        if not self._container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in self._container.streams})) or "nothing"
            self.close()
            raise FootageError(f"{self.source}: no pictures in it (it holds {kinds}); name a file with video")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.frame_rate = self._stream.average_rate or self._stream.guessed_rate or FOLDER_RATE
        self.num_frames = self._count()

    def close(self) -> None:
        self._container.close()

    def _count(self) -> int | None:
        """The number of frames that the file states."""
        if self.is_live:
            return None
        if self._stream.frames:
            return int(self._stream.frames)
        duration = self._stream.duration * self._stream.time_base if self._stream.duration else None
        if duration is None and self._container.duration:
            duration = Fraction(self._container.duration, 1_000_000)
        return round(duration * self.frame_rate) if duration else None

    def __iter__(self) -> Iterator[Frame]:
        start: float | None = None
        previous = -1.0
        for picture in self._decoded():
            time = picture.time if picture.time is not None else self.frames_read / float(self.frame_rate)
            start = time if start is None else start
            index, self.frames_read = self.frames_read, self.frames_read + 1
            moment = time - start
            if moment <= previous:  # clocks that jump back or stand still
                moment = previous + 1 / float(self.frame_rate)
            previous = moment
            if index % self.every == 0:
                yield Frame(index, moment, _upright(picture))
        if self.frames_read == 0:
            raise FootageError(f"{self.source}: no frame can be read{self.problem and f' ({self.problem})'}")
        self._look_for_missing_frames()

    def _decoded(self) -> Iterator[Any]:
        """Yield decoded pictures up to the end or the first unrecoverable damage."""
        damaged = 0
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                pictures = packet.decode() if packet is not None else []
            except self._av.InvalidDataError:
                damaged += 1
                self.problem = f"{damaged} damaged packets, the first behind frame {self.frames_read}"
                if damaged > 1000:
                    return
                continue
            except (self._av.FFmpegError, OSError) as error:
                self.problem = f"reading ended behind frame {self.frames_read} ({_reason(error)})"
                return
            if packet is None:
                return
            yield from pictures

    def _look_for_missing_frames(self) -> None:
        if not self.problem and self.num_frames and self.frames_read < 0.97 * self.num_frames - 2:
            self.problem = f"cut short: {self.num_frames} frames expected, {self.frames_read} read"
        if self.is_live and not self.problem:
            self.problem = f"the camera stopped behind frame {self.frames_read}"


class _Pictures(Footage):
    """A folder of pictures in the order of their names, with the frame rate of a `seqinfo.ini` near them."""

    def __init__(self, folder: Path, every: int) -> None:
        super().__init__(str(folder), every)
        self._paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
        if not self._paths:
            raise FootageError(
                f"{folder}: no pictures in it; expected a video file or a folder of pictures "
                f"({', '.join(PICTURE_SUFFIXES)})"
            )
        self.num_frames = len(self._paths)
        rates = (_stated_rate(parent / "seqinfo.ini") for parent in (folder, folder.parent))
        self.frame_rate = next((rate for rate in rates if rate is not None), FOLDER_RATE)

    def __iter__(self) -> Iterator[Frame]:
        unreadable = []
        for index, path in enumerate(self._paths):
            self.frames_read += 1
            if index % self.every:
                continue
            try:
                image = decode_rgb({"bytes": None, "path": str(path)})
            except DECODE_ERRORS as error:
                unreadable.append(f"{path.name} ({error})")
                continue
            yield Frame(index, index / float(self.frame_rate), image)
        if unreadable:
            self.problem = f"{counted(len(unreadable), 'picture')} cannot be read, the first is {unreadable[0]}"
            if len(unreadable) == -(-len(self._paths) // self.every):
                raise FootageError(f"{self.source}: {self.problem}")


def _stated_rate(info: Path) -> Fraction | None:
    """The `frameRate` of a `seqinfo.ini`; None without the file or the line."""
    if not info.is_file():
        return None
    try:
        text = read_regular_file(info, _MAX_INFO_BYTES).decode("utf-8", errors="replace")
    except (OSError, ValueError) as error:
        raise FootageError(f"{info}: {error}") from error
    line = re.search(r"(?im)^[ \t]*frameRate[ \t]*=(.*)$", text)
    if line is None:
        return None
    stated = line[1].strip()
    rate = float(stated) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", stated) else 0.0
    if not _RATES[0] <= rate <= _RATES[1]:
        raise FootageError(
            f"{info}: frameRate: expected {_RATES[0]} to {_RATES[1]:,} frames per second, received {stated[:40]!r}"
        )
    return Fraction(stated).limit_denominator(1001)


def _upright(picture: Any) -> np.ndarray:
    """Convert a decoded picture to uint8 (H, W, 3), rotated as its display matrix says."""
    image = picture.to_ndarray(format="rgb24")
    turns = round(picture.rotation / 90) % 4  # counter-clockwise, as in `rot90`
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _why_not_opened(source: str, is_live: bool, error: Exception) -> str:
    if is_live:
        return f"{source}: the stream cannot be opened ({_reason(error)}); check the address and that the camera runs"
    return (
        f"{source}: cannot be read as a video ({_reason(error)}); it is not a video, or was cut short before its "
        "index was written"
    )


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def import_av() -> ModuleType:
    """Import PyAV. Raises `ValueError` that says how to install it."""
    try:
        import av
    except ImportError as error:
        raise ValueError(f"reading videos needs PyAV ({error}): pip install 'mmet[footage]'") from error
    return av
