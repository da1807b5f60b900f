"""Turn videos into a folder of crops: decode, detect, track, choose, write.

    report = read(["entrance.mp4", "yard.mp4"], "crops", every=4)

Detections are saved in the output folder as they are made, so a continued run repeats none of them and ends with the
same files as an uninterrupted one. Memory holds only the frames of one batch and the candidates of the current tracks.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from mmet.field_checks import Range, check_fields, shown, without_password
from mmet.folder_lock import LOCK_FILE, locked
from mmet.footage.boxes import Detections, FootageError
from mmet.footage.decode import Footage, Frame, open_footage
from mmet.footage.detect import HOG, Detector, default_motion, detector_maker
from mmet.footage.mot import mot_lines
from mmet.footage.select import Crop, CropChooser, crop_quality, cut_out
from mmet.footage.track import Tracker
from mmet.footage.write import REPORT, TRACKS, FinishedTrack, write_crops, write_table
from mmet.gallery.labels import counted
from mmet.stopping import StopRequested
from mmet.whole_files import read_json, write_whole

logger = logging.getLogger(__name__)

_UNFINISHED = "_unfinished"
_CAMERA_NAME = re.compile(r"\w[\w .-]*")


@dataclass(frozen=True, slots=True)
class FootageOptions:
    """Settings of a run; equal settings and videos give equal folders."""

    detector: str = HOG
    every: int = field(default=1, metadata={"range": Range(at_least=1)})
    crops_per_track: int = field(default=5, metadata={"range": Range(at_least=1, at_most=1000)})
    min_height: int = field(default=32, metadata={"range": Range(at_least=1)})
    min_boxes: int = field(default=3, metadata={"range": Range(at_least=1)})
    min_motion: float | None = field(default=None, metadata={"range": Range(at_least=0)})
    batch_size: int = field(default=8, metadata={"range": Range(at_least=1, at_most=1024)})
    start_time: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.start_time is not None:
            parse_moment(self.start_time)

    @property
    def least_motion(self) -> float:
        """Smallest motion of a track in body heights."""
        return default_motion(self.detector) if self.min_motion is None else self.min_motion


@dataclass(frozen=True, slots=True)
class CameraReport:
    """
    Summary of the reading of one video.

    Attributes:
        source: the video.
        camera: its name.
        frames: number of frames of the video that were read.
        looked_at: number of frames in which persons were searched for.
        frame_rate: frames per second of the video.
        persons, crops: numbers of tracks that were kept, and of their pictures.
        dropped: number of tracks that were too short, too small or did not move.
        seconds: duration of this run.
        problem: why reading ended early; empty if it did not.
    """

    source: str
    camera: str
    frames: int
    looked_at: int
    frame_rate: float
    persons: int
    crops: int
    dropped: int
    seconds: float
    problem: str

    def __str__(self) -> str:
        speed = f", {self.frames / self.seconds:.1f} frames/s" if self.seconds > 0 else ""
        skipped = f" ({self.looked_at:,} looked at)" if self.looked_at < self.frames else ""
        return (
            f"{self.camera}: {counted(self.frames, 'frame')}{skipped}, {counted(self.persons, 'person')}, "
            f"{counted(self.crops, 'crop')}, {counted(self.dropped, 'track')} dropped{speed}"
        )


def read(
    videos: Sequence[str | Path] | Mapping[str, str | Path],
    output: str | Path,
    *,
    detector: str = HOG,
    every: int = 1,
    crops_per_track: int = 5,
    min_height: int = 32,
    min_boxes: int = 3,
    min_motion: float | None = None,
    batch_size: int = 8,
    start_time: str | None = None,
    show_progress: bool = False,
) -> list[CameraReport]:
    """
    Read videos of fixed cameras into a folder of person crops that `load_reid_dataset("folder", output)` reads.

    To continue an interrupted run, repeat the call. Of a damaged video, the readable part is used.

    Args:
        videos: files, folders of pictures or stream addresses, or a mapping of camera names to them. Without names,
            cameras are named after the files.
        output: folder to create.
        detector: `hog` (offline), a MOTChallenge file, in whose name `{camera}` stands for the camera, or the name or
            folder of an object detection checkpoint of transformers.
        every: use every n-th frame.
        crops_per_track: largest number of pictures kept of each track.
        min_height: smallest height in pixels of a box that becomes a crop.
        min_boxes: smallest number of boxes of a track.
        min_motion: smallest motion of a track in body heights, because objects mistaken for persons do not move. By
            default 0.3 for `hog`, else 0.
        batch_size: number of frames given to the detector at once.
        start_time: when the videos begin, in ISO 8601; the table then has dates instead of seconds.
        show_progress: show a bar over the frames of each video.

    Returns:
        A report for each camera, in the order of `videos`.

    Raises:
        FootageError: a video cannot be opened or holds no frame, or a file of detections is malformed.
        ValueError: an argument is outside its range, or `output` holds something else.
        OSError: `output` cannot be written.
    """
    options = FootageOptions(
        detector, every, crops_per_track, min_height, min_boxes, min_motion, batch_size, start_time
    )
    sources = name_cameras(videos)
    output = Path(output)
    settings = {"videos": {camera: without_password(source) for camera, source in sources.items()}, **asdict(options)}
    finished = _finished(output, settings)
    if finished is not None:
        return finished
    for source in sources.values():  # report mistakes before hours of work
        _check_opens(source)
    make = detector_maker(options.detector)
    with locked(output):
        work = _start(output, settings)
        for camera, source in sources.items():
            if not (work / f"{camera}.json").is_file():
                _Camera(source, camera, output, work, options, make(camera)).read(show_progress)
        return _finish(output, work, settings)


def _check_opens(source: str) -> None:
    """Raise `FootageError` for a source that cannot be opened or has no frame."""
    with open_footage(source) as footage:
        if not footage.is_live:
            next(iter(footage), None)


def name_cameras(videos: Sequence[str | Path] | Mapping[str, str | Path]) -> dict[str, str]:
    """
    Map camera names to sources.

    Raises:
        FootageError: there is no source, two have the same name, or a name cannot be used for a folder.
    """
    pairs = (
        list(videos.items())
        if isinstance(videos, Mapping)
        else [(_name_of(without_password(str(source))), source) for source in videos]
    )
    if not pairs:
        raise FootageError("videos: expected at least one file, folder or stream, received none")
    names: dict[str, str] = {}
    for camera, source in pairs:
        if not isinstance(camera, str) or not _CAMERA_NAME.fullmatch(camera) or camera in (TRACKS, _UNFINISHED):
            raise FootageError(
                f"camera: expected letters, digits, '-', '_', '.' or spaces, and neither {TRACKS} nor {_UNFINISHED}, "
                f"received {shown(camera)}"
            )
        if camera in names:
            raise FootageError(
                f"camera {camera}: {without_password(names[camera])} and {without_password(str(source))} would be one "
                f"camera; name them, as --camera {camera}1={without_password(names[camera])}"
            )
        names[camera] = str(source)
    return names


def _name_of(source: str) -> str:
    """The file's name without its suffix, in characters allowed in a folder name."""
    name = source.rstrip("/\\").rpartition("/")[2].partition("?")[0]
    stem = name.rpartition(".")[0] or name
    return re.sub(r"[^\w.-]+", "_", stem).lstrip("._-") or "camera"


def parse_moment(text: str) -> datetime:
    """Parse a date and time in ISO 8601. Raises `ValueError` for anything else."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"start_time: expected a moment such as 2024-05-01T12:00:00, received {shown(text)}"
        ) from None


# -- the folder -----------------------------------------------------------------------------------------------------


def _finished(output: Path, settings: Mapping[str, Any]) -> list[CameraReport] | None:
    """The reports of a finished folder; None if there is work left. Raises `ValueError` for any other folder."""
    marker = next((path for path in (output / REPORT, output / _UNFINISHED / REPORT) if path.is_file()), None)
    if marker is None:
        if output.exists() and (not output.is_dir() or any(path.name != LOCK_FILE for path in output.iterdir())):
            raise FootageError(f"{output}: not empty, and no folder of crops (no {REPORT}); choose another folder")
        return None
    try:
        known = read_json(marker)
        changed = [name for name in settings if known["settings"].get(name) != json.loads(json.dumps(settings[name]))]
        reports = [CameraReport(**report) for report in known.get("cameras", ())]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FootageError(
            f"{marker}: not the report of a folder of crops ({error}); choose another folder"
        ) from error
    if changed:
        raise FootageError(
            f"{output}: holds crops made with other settings ({', '.join(changed)}); choose another folder, or remove "
            "this one"
        )
    return reports if marker.parent == output else None


def _start(output: Path, settings: Mapping[str, Any]) -> Path:
    """Create the folder for unfinished work."""
    work = output / _UNFINISHED
    work.mkdir(exist_ok=True)
    write_whole(work / REPORT, json.dumps({"settings": settings}))
    return work


def _finish(output: Path, work: Path, settings: Mapping[str, Any]) -> list[CameraReport]:
    """Combine the cameras' files; after this the folder is finished."""
    rows, reports = [], []
    for camera in settings["videos"]:
        done = read_json(work / f"{camera}.json")
        rows += done["rows"]
        reports.append(CameraReport(**done["report"]))
    write_table(output, rows, {"settings": settings, "cameras": [asdict(report) for report in reports]})
    shutil.rmtree(work)
    return reports


# -- one camera -----------------------------------------------------------------------------------------------------


class _Track:
    """A track that may continue."""

    def __init__(self, number: int, count: int) -> None:
        self.number = number
        self.chooser = CropChooser(count)
        self.boxes = 0
        self.start = self.end = 0.0
        self.height = 0.0
        self._centre = self._low = self._high = np.zeros(2)

    def add(self, box: np.ndarray, time: float) -> None:
        """Add a position of the person. Single outliers are smoothed away."""
        centre = (box[:2] + box[2:]) / 2
        if self.boxes == 0:
            self.start, self._centre, self._low, self._high = time, centre, centre, centre
        self._centre = 0.6 * self._centre + 0.4 * centre
        self._low, self._high = np.minimum(self._low, self._centre), np.maximum(self._high, self._centre)
        self.height = max(self.height, float(box[3] - box[1]))
        self.boxes += 1
        self.end = time

    @property
    def motion(self) -> float:
        """How far the person has moved, in body heights."""
        return float(np.linalg.norm(self._high - self._low)) / max(self.height, 1.0)


class _Camera:
    """The reading of one video."""

    def __init__(
        self, source: str, camera: str, output: Path, work: Path, options: FootageOptions, detector: Detector
    ) -> None:
        self.source, self.camera, self.output, self.work = source, camera, output, work
        self.options, self.detector = options, detector
        self.start_time = parse_moment(options.start_time) if options.start_time else None
        self.tracks: dict[int, _Track] = {}
        self.rows: list[dict[str, Any]] = []
        self.persons = self.dropped = self.looked_at = 0
        self._detections_file = work / f"{camera}.detections.jsonl"
        self._tracks_file = output / TRACKS / f"{camera}.txt"

    def read(self, show_progress: bool) -> None:
        """Read the video to its end, and write its crops and a file that marks it as done."""
        shutil.rmtree(self.output / self.camera, ignore_errors=True)
        self._tracks_file.parent.mkdir(exist_ok=True)
        begun = time.perf_counter()
        with ExitStack() as stack:
            footage = stack.enter_context(open_footage(self.source, every=self.options.every))
            boxes = stack.enter_context(self._tracks_file.open("w", encoding="utf-8"))
            rate = float(footage.frame_rate) / self.options.every
            tracker = Tracker(frame_rate=rate)
            total = footage.num_frames and -(-footage.num_frames // self.options.every)
            progress = stack.enter_context(
                tqdm(total=total, desc=self.camera, unit="frame", disable=not show_progress, smoothing=0.05)
            )
            self._follow(footage, tracker, boxes, progress)
        self._end_tracks(before=float("inf"))
        if footage.problem:
            logger.warning("%s: %s; what was read is kept", footage.source, footage.problem)
        self._write_done(footage, time.perf_counter() - begun)

    def _follow(self, footage: Footage, tracker: Tracker, boxes: TextIO, progress: tqdm) -> None:
        """Process all frames. A stream never ends by itself; a stop by the user ends it normally."""
        try:
            for frame, detections in self._detected(footage):
                self.looked_at += 1
                ids = tracker.update(detections, time=frame.time, image=frame.image)
                self._add(frame, detections, ids)
                boxes.write(mot_lines(frame.index, Detections(detections.boxes, detections.scores, ids)[ids >= 0]))
                self._end_tracks(before=frame.time - tracker.lost_seconds)
                progress.set_postfix(persons=self.persons + len(self.tracks), refresh=False)
                progress.update()
        except StopRequested:
            if not footage.is_live:
                raise
            footage.problem = f"stopped behind frame {footage.frames_read}"

    def _detected(self, footage: Footage) -> Iterator[tuple[Frame, Detections]]:
        """Yield frames with their persons: first those saved by an earlier run, then new ones, batch by batch."""
        known = self._known_detections()
        with self._detections_file.open("a", encoding="utf-8") as file:
            pictures = iter(footage)
            while frames := list(islice(pictures, self.options.batch_size)):
                old = [frame for frame in frames if frame.index in known]
                self.detector.observe(old)
                detections = [known[frame.index] for frame in old]
                new = frames[len(old) :]
                if new:
                    sizes = [frame.image.shape[:2] for frame in new]
                    fresh = [part.clipped(*size) for part, size in zip(self.detector.detect(new), sizes, strict=True)]
                    file.writelines(_line(frame, part) for frame, part in zip(new, fresh, strict=True))
                    file.flush()
                    detections += fresh
                yield from zip(frames, detections, strict=True)

    def _known_detections(self) -> dict[int, Detections]:
        """Read the detections of an earlier run, and remove an incomplete last line."""
        if not self._detections_file.is_file():
            return {}
        content = self._detections_file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._detections_file.write_bytes(whole)
        known = {}
        for line in whole.splitlines():
            frame, boxes, scores, ids = json.loads(line)
            known[frame] = Detections(
                np.array(boxes, dtype=float).reshape(-1, 4),
                np.array(scores, dtype=float),
                None if ids is None else np.array(ids, dtype=np.int64),
            )
        return known

    def _add(self, frame: Frame, detections: Detections, ids: np.ndarray) -> None:
        """Add the boxes of a frame to their tracks."""
        for place, number in enumerate(ids.tolist()):
            if number < 0:
                continue
            track = self.tracks.setdefault(number, _Track(number, self.options.crops_per_track))
            box, score = detections.boxes[place], float(detections.scores[place])
            track.add(box, frame.time)
            if box[3] - box[1] >= self.options.min_height:
                image = cut_out(frame.image, box)
                others = np.delete(detections.boxes, place, axis=0)
                quality = crop_quality(image, box, others, score, frame.image.shape[:2])
                left, top, right, bottom = box.tolist()
                track.chooser.add(Crop(frame.index, frame.time, (left, top, right, bottom), score, quality, image))

    def _end_tracks(self, before: float) -> None:
        """Write the crops of tracks last seen before a time, and forget these tracks."""
        for number in [number for number, track in self.tracks.items() if track.end < before]:
            track = self.tracks.pop(number)
            crops = track.chooser.best()
            if track.boxes < self.options.min_boxes or track.motion < self.options.least_motion or not crops:
                self.dropped += 1
                continue
            self.persons += 1
            finished = FinishedTrack(number, track.start, track.end, track.boxes, crops)
            self.rows += write_crops(self.output, self.camera, finished, self.start_time)

    def _write_done(self, footage: Footage, seconds: float) -> None:
        report = CameraReport(
            footage.source,
            self.camera,
            footage.frames_read,
            self.looked_at,
            round(float(footage.frame_rate), 3),
            self.persons,
            len(self.rows),
            self.dropped,
            round(seconds, 3),
            footage.problem,
        )
        rows = sorted(self.rows, key=lambda row: (row["track_id"], row["frame"]))
        done = {"report": asdict(report), "rows": rows}
        write_whole(self.work / f"{self.camera}.json", json.dumps(done))


def _line(frame: Frame, detections: Detections) -> str:
    ids = None if detections.ids is None else detections.ids.tolist()
    return json.dumps([frame.index, detections.boxes.tolist(), detections.scores.tolist(), ids]) + "\n"
