"""Boxes as MOTChallenge text: your own detections (`det.txt`), true tracks (`gt.txt`), and results.

    rows = read_mot("seq/det/det.txt")
    rows[frame.index]

A line is `frame, id, left, top, width, height, confidence, …`; frames, ids and pixels count from 1. In a file with
nine columns (`gt.txt`), the seventh says whether the row counts and the eighth what it is: rows with 0, and of
anything but pedestrians (1), are left out. An id of -1 is that of a detection without a track.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmet.data.annotations import read_text
from mmet.data.schema import DatasetError
from mmet.footage.boxes import Detections, FootageError, no_detections
from mmet.footage.decode import Frame

_PEDESTRIAN = 1
_COLUMNS = "frame, id, left, top, width, height, confidence and, in gt.txt, class and visibility"


class MotDetector:
    """Detections from a MOTChallenge file. If all rows have ids, these are the tracks."""

    def __init__(self, path: str | Path) -> None:
        self._rows = read_mot(path)

    def observe(self, frames: Sequence[Frame]) -> None:
        """Nothing is learnt from frames."""

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """The rows of each frame."""
        return [self._rows.get(frame.index, no_detections()) for frame in frames]


def read_mot(path: str | Path) -> dict[int, Detections]:
    """
    Read the rows of a MOTChallenge file by frame, counted from 0.

    Raises:
        FootageError: the file cannot be read, or a line is not as described above; the message names the line.
    """
    path = Path(path)
    try:
        lines = read_text(path).splitlines()
    except DatasetError as error:
        raise FootageError(str(error)) from error
    frames: dict[int, list[list[float]]] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip() and (row := _row(f"{path}: line {number}", line)) is not None:
            frames.setdefault(int(row[0]) - 1, []).append(row[1:])
    if not frames:
        raise FootageError(f"{path}: no detections in it; expected lines of {_COLUMNS}")
    has_tracks = all(row[0] >= 0 for rows in frames.values() for row in rows)
    scores = [row[-1] for rows in frames.values() for row in rows]
    are_shares = min(scores) >= 0 and max(scores) <= 1
    return {frame: _detections(rows, has_tracks, are_shares) for frame, rows in frames.items()}


def _row(place: str, line: str) -> list[float] | None:
    """Frame, id, left, top, right, bottom and score of a line, pixels from 0; None for a row that does not count."""
    words = re.split(r"[,\s]+", line.strip().rstrip(","))
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise FootageError(f"{place}: expected numbers ({_COLUMNS}), received {line[:80]!r}") from None
    if not 6 <= len(values) <= 10 or not all(map(math.isfinite, values)):
        raise FootageError(f"{place}: expected 6 to 10 numbers ({_COLUMNS}), received {len(values)}: {line[:80]!r}")
    frame, track, left, top, width, height = values[:6]
    if frame < 1 or frame != int(frame):
        raise FootageError(
            f"{place}: frame {words[0]}; frames count from 1 in MOTChallenge files: add 1 to those that count from 0"
        )
    if width <= 0 or height <= 0:
        raise FootageError(f"{place}: a box of {words[4]} by {words[5]} pixels; expected width and height above 0")
    score = values[6] if len(values) > 6 else 1.0
    if len(values) in (8, 9) and values[7] >= 0:
        if score == 0 or values[7] != _PEDESTRIAN:
            return None
        score = 1.0
    return [frame, track, left - 1, top - 1, left - 1 + width, top - 1 + height, score]


def _detections(rows: Sequence[Sequence[float]], has_tracks: bool, are_shares: bool) -> Detections:
    """Map scores outside [0, 1], such as the margins of an SVM, into it by the logistic function."""
    values = np.array(rows, dtype=float)
    scores = values[:, 5] if are_shares else 1 / (1 + np.exp(-np.clip(values[:, 5], -50, 50)))
    return Detections(values[:, 1:5], scores, values[:, 0].astype(np.int64) if has_tracks else None)


def mot_lines(frame: int, detections: Detections) -> str:
    """Lines of `det.txt` for the frame with this number from 0."""
    ids = np.full(len(detections), -1) if detections.ids is None else detections.ids
    corners, sides = detections.boxes[:, :2] + 1, detections.boxes[:, 2:] - detections.boxes[:, :2]
    return "".join(
        f"{frame + 1},{track},{left:.2f},{top:.2f},{width:.2f},{height:.2f},{score:.4f}\n"
        for track, (left, top), (width, height), score in zip(ids, corners, sides, detections.scores, strict=True)
    )
