"""The folder of crops: pictures, a table in the `folder` layout of `mmet.data`, tracks as MOTChallenge text.

    crops/
    ├── annotations.jsonl            one line for each crop: image, person_id, camera_id, track_id, time, frame, box, …
    ├── FOOTAGE.json                 settings, and how much of each video was read
    ├── entrance/0003_000120.jpg     camera, track, frame
    └── tracks/entrance.txt          every box of every track

Identities are unknown: `person_id` is the track. `box` is left, top, width and height in the frame; `time` is in
seconds from the start of the video, or a date if the user gives the start time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from PIL import Image

from mmet.footage.select import Crop
from mmet.whole_files import write_all_whole

TABLE = "annotations.jsonl"
REPORT = "FOOTAGE.json"
TRACKS = "tracks"
_QUALITY = 95


@dataclass(frozen=True, slots=True)
class FinishedTrack:
    """
    A track that has ended.

    Attributes:
        number: of the track in its video.
        start, end: seconds of its first and last box.
        boxes: number of its boxes.
        crops: the chosen ones.
    """

    number: int
    start: float
    end: float
    boxes: int
    crops: Sequence[Crop]


def write_crops(output: Path, camera: str, track: FinishedTrack, start_time: datetime | None) -> list[dict[str, Any]]:
    """Write the pictures of a track below `output`; returns their rows of the table."""
    (output / camera).mkdir(parents=True, exist_ok=True)
    rows = []
    for crop in track.crops:
        name = f"{camera}/{track.number:04d}_{crop.frame:06d}.jpg"
        Image.fromarray(crop.image).save(output / name, quality=_QUALITY)
        left, top, right, bottom = crop.box
        rows.append(
            {
                "image": name,
                "person_id": f"{camera}-{track.number:04d}",
                "camera_id": camera,
                "track_id": f"{camera}-{track.number:04d}",
                "time": moment(crop.time, start_time),
                "frame": crop.frame,
                "box": [left, top, round(right - left, 2), round(bottom - top, 2)],
                "score": crop.score,
                "track_start": moment(track.start, start_time),
                "track_end": moment(track.end, start_time),
            }
        )
    return rows


def moment(seconds: float, start_time: datetime | None) -> float | str:
    """Seconds, or a date in ISO 8601 if the start time is known."""
    if start_time is None:
        return round(seconds, 3)
    return (start_time + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def write_table(output: Path, rows: Iterable[Mapping[str, Any]], report: Mapping[str, Any]) -> None:
    """Write the table and the report, both or none. Raises `OSError`."""
    table = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_all_whole({output / TABLE: table, output / REPORT: json.dumps(report, indent=2, ensure_ascii=False) + "\n"})
