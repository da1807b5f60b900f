"""How well the offline detector and tracker see drawn people, and how long each stage takes against decoding alone.

Films are drawn with true boxes and tracks (`mmet.data.synthetic.video`); the defaults draw other people than those on
whose films the thresholds of `mmet.footage` were chosen (seeds 0 and 7). A person counts as seen where a box has an
IoU above 0.5 with the true one; only people of whom more than half can be seen are asked for. A box is right where it
has an IoU above 0.3 with anybody. Purity is the share of a track's boxes that are its main person's.

    python benchmarks/footage.py                       # accuracy on drawn films, and speed on the first of them
    python benchmarks/footage.py --join_model outputs/demo/model        # how fragments are joined, and nothing else
    python benchmarks/footage.py --video vtest.avi --every 4 --skip_accuracy                # speed on a film of yours
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmet import footage
from mmet.data.synthetic.video import write_films
from mmet.footage.boxes import box_iou
from mmet.footage.decode import open_footage
from mmet.footage.demo import FilmTruth
from mmet.footage.hog import HogDetector
from mmet.footage.joining import join_fragments
from mmet.footage.searching import CameraTracks, crop_entries, embed_tracks
from mmet.footage.track import Tracker
from mmet.gallery.embedding import as_embedder

JOIN_THRESHOLDS = (0.99, 0.98, 0.97, 0.96, 0.95, 0.9, 0.8)
STYLES, SEEDS = ("target", "indoor"), (101, 102)


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.video is None or not arguments.skip_accuracy:
            films = draw(Path(folder), arguments)
        if not arguments.skip_accuracy:
            if arguments.join_model is not None:
                print_joining(films, arguments.join_model, arguments.every)
                return
            print_accuracy([camera for film in films for camera in sorted(film.glob("camera*.mp4"))], arguments.every)
        video = arguments.video or films[0] / "camera1.mp4"
        print_speed(video, Path(folder), arguments.every, arguments.turns)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=18.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--join_model", help="measure how well fragments are joined by this model, and nothing else")
    parser.add_argument("--video", type=Path, help="the film whose speed is measured; a drawn one by default")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--skip_accuracy", action="store_true")
    return parser.parse_args()


def draw(folder: Path, arguments: argparse.Namespace) -> list[Path]:
    """Films of two cameras for each style and seed."""
    films = []
    for style, seed in ((style, seed) for style in STYLES for seed in arguments.seeds):
        films.append(folder / f"{style}{seed}")
        write_films(films[-1], seconds=arguments.seconds, style=style, seed=seed)
    return films


# -- accuracy -------------------------------------------------------------------------------------------------------


@dataclass
class Counts:
    """What was seen of the true boxes, and what the tracks hold."""

    asked: int = 0
    seen: int = 0
    boxes: int = 0
    right: int = 0
    changes: int = 0
    tracks: int = 0
    true_tracks: int = 0
    tracked: int = 0
    pure: int = 0
    overlaps: list[float] = field(default_factory=list)


def print_accuracy(cameras: list[Path], every: int) -> None:
    counts = Counts()
    for camera in cameras:
        count_camera(camera, every, counts)
    print(f"{len(cameras)} drawn films, one frame in {every}\n\n| what | figure |\n| --- | --- |")
    print(f"| people of whom more than half can be seen, boxes | {counts.asked:,} |")
    print(f"| with a box of IoU above 0.5 (recall) | {100 * counts.seen / counts.asked:.1f} % |")
    print(f"| boxes that are a person (precision) | {100 * counts.right / counts.boxes:.1f} % |")
    print(f"| mean IoU of these boxes with the true ones | {np.mean(counts.overlaps):.2f} |")
    print(f"| boxes of a track that are its main person's (purity) | {100 * counts.pure / counts.tracked:.1f} % |")
    print(f"| tracks found for {counts.true_tracks} true ones | {counts.tracks} |")
    print(f"| changes of track within a person's true track | {counts.changes} |\n", flush=True)


def count_camera(video: Path, every: int, counts: Counts) -> None:
    truth = read_truth(video.with_suffix("") / "gt" / "gt.txt")
    people: dict[int, Counter[int]] = defaultdict(Counter)
    last: dict[int, int] = {}
    detector = HogDetector()
    with open_footage(video, every=every) as frames:
        tracker = Tracker(frame_rate=float(frames.frame_rate) / every)
        for frame in frames:
            detections = detector.detect([frame])[0].clipped(*frame.image.shape[:2])
            ids = tracker.update(detections, time=frame.time, image=frame.image)
            rows = np.array(truth.get(frame.index, [])).reshape(-1, 6)
            iou = box_iou(detections.boxes, rows[:, 1:5])
            count_boxes(detections.scores > 0.5, iou, rows[:, 5] > 0.5, counts)
            for place, number in enumerate(ids.tolist()):
                if number >= 0 and len(rows) and iou[place].max() > 0.4:
                    person = int(rows[iou[place].argmax(), 0])
                    people[number][person] += 1
                    counts.changes += last.get(person, number) != number
                    last[person] = number
    tracks = [boxes for boxes in people.values() if boxes.total() > 2]
    counts.tracks += len(tracks)
    counts.tracked += sum(boxes.total() for boxes in tracks)
    counts.pure += sum(boxes.most_common(1)[0][1] for boxes in tracks)
    counts.true_tracks += len({row[0] for rows in truth.values() for row in rows})


def count_boxes(is_sure: np.ndarray, iou: np.ndarray, is_visible: np.ndarray, counts: Counts) -> None:
    """Count the boxes of a frame: `iou` `(boxes, people)`."""
    iou = iou[is_sure]
    best = iou.max(axis=0, initial=0)[is_visible]
    counts.asked += len(best)
    counts.seen += int((best > 0.5).sum())
    counts.overlaps += best[best > 0.3].tolist()
    counts.boxes += len(iou)
    counts.right += int((iou.max(axis=1, initial=0) > 0.3).sum())


def read_truth(path: Path) -> dict[int, list[tuple[float, ...]]]:
    """Track, left, top, right, bottom and visibility of the people in each frame, which count from 0 here."""
    truth: dict[int, list[tuple[float, ...]]] = defaultdict(list)
    for line in path.read_text().splitlines():
        frame, track, left, top, width, height, _, _, visible = map(float, line.split(","))
        truth[int(frame) - 1].append((track, left - 1, top - 1, left - 1 + width, top - 1 + height, visible))
    return truth


# -- fragments ------------------------------------------------------------------------------------------------------


def print_joining(films: list[Path], model: str, every: int) -> None:
    """Tracks before and after fragments are joined, and the share of a track's crops that are its main person's."""
    embedder = as_embedder(model)
    cameras = [tracks for film in films for tracks in read_tracks(film, embedder, every)]
    people = sum(len(set().union(*persons) - {None}) for _, persons in cameras)
    print(
        f"| least similarity | tracks of {people} people | crops that are the main person's |\n| --- | ---: | ---: |"
    )
    for threshold in (None, *JOIN_THRESHOLDS):
        tracks, pure, total = 0, 0, 0
        for camera_tracks, persons in cameras:
            limit = 2.0 if threshold is None else threshold
            groups = join_fragments(camera_tracks.times, camera_tracks.embeddings, min_similarity=limit)
            for group in set(groups.tolist()):
                crops = Counter(person for place in np.flatnonzero(groups == group) for person in persons[place])
                del crops[None]  # cut or covered so that it is nobody's true box
                tracks, pure, total = tracks + 1, pure + max(crops.values(), default=0), total + crops.total()
        print(f"| {threshold or 'not joined'} | {tracks} | {100 * pure / total:.1f} % |", flush=True)


def read_tracks(film: Path, embedder: Any, every: int) -> Iterator[tuple[CameraTracks, list[list[int | None]]]]:
    """The tracks of each camera, and the persons that the crops of each show."""
    footage.read(sorted(film.glob("camera*.mp4")), film / "crops", every=every)
    truth = FilmTruth(film)
    for camera, tracks in embed_tracks(crop_entries(film / "crops"), embedder).items():
        yield tracks, [[truth.person_in(camera, c["frame"], c["box"]) for c in crops] for crops in tracks.crops]


# -- speed ----------------------------------------------------------------------------------------------------------


def print_speed(video: Path, folder: Path, every: int, turns: int) -> None:
    """Median seconds of the process for each stage of reading a film, the first turn left out."""
    rows: dict[str, list[float]] = defaultdict(list)
    for turn in range(turns + 1):
        for name, seconds in measure(video, folder / f"crops{turn}", every).items():
            rows[name].append(seconds)
    medians = {name: float(np.median(seconds[1:])) for name, seconds in rows.items()}
    with open_footage(video) as frames:
        num_frames = sum(1 for _ in frames)
    print(f"{video.name}: {num_frames} frames, one in {every} looked at; seconds of the process, all threads\n")
    print("| stage | seconds | frames/s | of decoding |\n| --- | ---: | ---: | ---: |")
    for name, seconds in medians.items():
        print(f"| {name} | {seconds:.2f} | {num_frames / seconds:,.0f} | {seconds / medians['decoding alone']:.1f} |")


def measure(video: Path, output: Path, every: int) -> dict[str, float]:
    start = time.process_time()
    with open_footage(video, every=every) as frames:
        for _ in frames:
            pass
    seconds = {"decoding alone": time.process_time() - start}
    with (
        timed_method(HogDetector, "_people") as people,
        timed_method(HogDetector, "detect") as detect,
        timed_method(Tracker, "update") as track,
    ):
        start = time.process_time()
        footage.read([video], output, every=every, show_progress=False)
        seconds["all, end to end"] = time.process_time() - start
    return seconds | {
        "detection": detect[0],
        "detection: HOG": people[0],
        "detection: motion": detect[0] - people[0],
        "tracking": track[0],
    }


@contextmanager
def timed_method(owner: type, name: str) -> Iterator[list[float]]:
    """Add up the seconds of the process that pass in a method."""
    original, seconds = getattr(owner, name), [0.0]

    def run(*arguments: Any, **options: Any) -> Any:
        start = time.process_time()
        try:
            return original(*arguments, **options)
        finally:
            seconds[0] += time.process_time() - start

    setattr(owner, name, run)
    try:
        yield seconds
    finally:
        setattr(owner, name, original)


if __name__ == "__main__":
    main()
