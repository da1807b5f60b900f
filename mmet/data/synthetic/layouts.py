"""Folder layouts of the synthetic world: the files that FineGPR, Market-1501 and CUHK-PEDES consist of.

A layout plans jobs (one per person, distractor or junk crop), writes each job's files, and ends with the files that
speak of all of them. Jobs are independent of one another, so that they can be spread over processes. A new layout is
one more `Layout` in `LAYOUTS`.

Market-1501: "Scalable Person Re-identification: A Benchmark", Zheng et al., ICCV 2015. CUHK-PEDES: "Person Search with
Natural Language Description", Li et al., CVPR 2017. FineGPR: https://github.com/JeremyXSC/FineGPR.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from mmet.data.synthetic.captions import Sighting, tokenize, write_captions
from mmet.data.synthetic.identity import ATTRIBUTE_VALUES, Identity, draw_identity
from mmet.data.synthetic.renderer import Picture, render_shot
from mmet.data.synthetic.style import SOURCE, TARGET, Shot, WorldStyle, plan_shots, style_rng

MAX_IDS = 9000
"""Four digits name a person in FineGPR and Market-1501."""

_DISTRACTORS_FROM = 10_000
_JUNK_FROM = 20_000
_MARKET_CAMERAS = 6


@dataclass(frozen=True, slots=True)
class WorldRequest:
    """What to write: people by split, pictures of each, their size, the style and the seed."""

    layout: str
    style: WorldStyle
    seed: int
    num_train_ids: int
    num_val_ids: int
    num_test_ids: int
    images_per_id: int
    image_height: int
    image_width: int


@dataclass(frozen=True, slots=True)
class Job:
    """One person to photograph. `number` is also the person id, except for distractors and junk."""

    number: int
    split: str
    images: int


Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """One published folder layout.

    Attributes:
        title: the data set whose layout it is.
        version: raised whenever the files written for the same arguments change.
        default_style: used when none is named.
        folders: folders that exist even when empty.
        plan: the jobs of a request.
        write: writes one job below a root folder and returns records for `finish`.
        finish: writes the files that cover all jobs.
        has_splits: whether people are split into train and test.
        has_validation: whether there is a validation split as well.
        min_images: smallest number of images per person.
    """

    title: str
    version: int
    default_style: WorldStyle
    folders: tuple[str, ...]
    plan: Callable[[WorldRequest], list[Job]]
    write: Callable[[WorldRequest, Job, Path], list[Record]]
    finish: Callable[[WorldRequest, Sequence[Record], Path], None]
    has_splits: bool = True
    has_validation: bool = False
    min_images: int = 1


@dataclass(frozen=True, slots=True)
class Take:
    """One picture of a job with everything known about it."""

    index: int
    shot: Shot
    picture: Picture
    captions: list[str]


def person(style: WorldStyle, seed: int, number: int) -> Identity:
    """Person `number` of the world with this style and seed."""
    return draw_identity(style_rng(style, seed, number, 0), number=number)


def takes(request: WorldRequest, job: Job) -> Iterator[Take]:
    """The pictures of one job; they depend on the seed, the style and the person's number alone."""
    identity = person(request.style, request.seed, job.number)
    shots = plan_shots(request.style, seed=request.seed, person=job.number, count=job.images)
    for index, shot in enumerate(shots):
        picture = render_shot(identity, shot, request.style, height=request.image_height, width=request.image_width)
        rng = style_rng(request.style, request.seed, job.number, 3, index)
        captions = write_captions(Sighting(identity, shot, picture.pixels), request.style.captions, rng)
        yield Take(index, shot, picture, captions)


def _train_and_test(request: WorldRequest) -> list[Job]:
    train = [Job(n, "train", request.images_per_id) for n in range(1, request.num_train_ids + 1)]
    first = request.num_train_ids + 1
    return train + [Job(n, "test", request.images_per_id) for n in range(first, first + request.num_test_ids)]


# -- FineGPR -------------------------------------------------------------------------------------------------------


def _write_finegpr(request: WorldRequest, job: Job, root: Path) -> list[Record]:
    folder = f"{job.number:04d}"
    (root / "FineGPR" / folder).mkdir()
    (root / "FineGPR_masks" / folder).mkdir()
    images = []
    for take in takes(request, job):
        shot = take.shot
        name = f"{folder}/{folder}_c{shot.camera:02d}_w{shot.weather:02d}_l{shot.light:02d}_p{shot.scene:02d}"
        _save(take.picture, root / "FineGPR" / f"{name}.jpg")
        take.picture.mask.save(root / "FineGPR_masks" / f"{name}.png", compress_level=3)
        images.append({"image": f"{name}.jpg", "captions": take.captions})
    row = {"id": folder, **person(request.style, request.seed, job.number).attributes.as_row()}
    return [{"attributes": row, "images": images}]


def _finish_finegpr(request: WorldRequest, records: Sequence[Record], root: Path) -> None:
    with (root / "attributes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", *ATTRIBUTE_VALUES])
        writer.writeheader()
        writer.writerows(record["attributes"] for record in records)
    write_json(root / "FineGPR-C.json", [image for record in records for image in record["images"]])


# -- Market-1501 ----------------------------------------------------------------------------------------------------


def _plan_market(request: WorldRequest) -> list[Job]:
    """People, then one distractor and one junk crop per test person, about the proportions of the original."""
    distractors = [Job(_DISTRACTORS_FROM + n, "distractor", 1) for n in range(request.num_test_ids)]
    junk = [Job(_JUNK_FROM + n, "junk", 1) for n in range(request.num_test_ids)]
    return _train_and_test(request) + distractors + junk


def _write_market(request: WorldRequest, job: Job, root: Path) -> list[Record]:
    person_name = {"distractor": "0000", "junk": "-1"}.get(job.split, f"{job.number:04d}")
    request = replace(request, style=_careless(request.style)) if job.split == "junk" else request
    shots = plan_shots(request.style, seed=request.seed, person=job.number, count=job.images)
    queries = query_indices([_market_camera(shot) for shot in shots]) if job.split == "test" else set()
    for take in takes(request, job):
        frame, session = job.number % 10_000 * 100 + take.index, 1 + take.shot.light % 6
        name = f"{person_name}_c{_market_camera(take.shot)}s{session}_{frame:06d}_{take.index % 99 + 1:02d}.jpg"
        folder = (
            "bounding_box_train" if job.split == "train" else "query" if take.index in queries else "bounding_box_test"
        )
        data = encode(take.picture, ".jpg")
        (root / folder / name).write_bytes(data)
        if job.split in {"train", "test"}:
            (root / "gt_bbox" / name).write_bytes(data)
    return []


def _market_camera(shot: Shot) -> int:
    """Market-1501 has six cameras and one digit for them; styles with more cameras share them out."""
    return (shot.camera - 1) % _MARKET_CAMERAS + 1


def query_indices(cameras: Sequence[int]) -> set[int]:
    """Which shots of a test person become queries: the first of every camera that has another one for the gallery.

    With a single shot in every camera it is the first shot alone, so that the gallery is never empty.
    """
    counts = Counter(cameras)
    first = {camera: cameras.index(camera) for camera in counts if counts[camera] > 1}
    return set(first.values()) or {0}


def _careless(style: WorldStyle) -> WorldStyle:
    """Boxes as a bad detector draws them: legs only, half a person, mostly background."""
    return replace(style, jitter=0.32, body_share=(0.7, 1.9))


def _finish_nothing(request: WorldRequest, records: Sequence[Record], root: Path) -> None:
    """Market-1501 says everything in file names."""


# -- CUHK-PEDES -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _PedesSource:
    """One of the collections that CUHK-PEDES gathered its images from, with its way to name files."""

    folder: str
    pattern: str


_PEDES_SOURCES = (
    _PedesSource("cam_a", "{person:04d}_{index:02d}.jpg"),
    _PedesSource("cam_b", "{person:04d}_{index:02d}.jpg"),
    _PedesSource("CUHK01", "{person:04d}{index:03d}.png"),
    _PedesSource("CUHK03", "{person:04d}_{camera}_{index:02d}.jpg"),
    _PedesSource("Market", "{person:04d}_c{camera}s1_{index:06d}_00.jpg"),
)
_PEDES_QUERIES = {
    "train": _PedesSource("train_query", "p{person}_s{index}.jpg"),
    "test": _PedesSource("test_query", "p{person}_s{index}.jpg"),
}


def _plan_pedes(request: WorldRequest) -> list[Job]:
    """The same train and test people as Market-1501's, then those for validation."""
    first = request.num_train_ids + request.num_test_ids + 1
    validation = [Job(n, "val", request.images_per_id) for n in range(first, first + request.num_val_ids)]
    return _train_and_test(request) + validation


def _write_pedes(request: WorldRequest, job: Job, root: Path) -> list[Record]:
    sources = [*_PEDES_SOURCES, *([_PEDES_QUERIES[job.split]] if job.split in _PEDES_QUERIES else [])]
    source = sources[job.number % len(sources)]
    records = []
    for take in takes(request, job):
        file_path = f"{source.folder}/" + source.pattern.format(
            person=job.number, camera=take.shot.camera, index=take.index + 1
        )
        _save(take.picture, root / "imgs" / file_path)
        records.append(
            {
                "split": job.split,
                "captions": take.captions,
                "file_path": file_path,
                "processed_tokens": [tokenize(caption) for caption in take.captions],
                "id": job.number,
            }
        )
    return records


def _finish_pedes(request: WorldRequest, records: Sequence[Record], root: Path) -> None:
    write_json(root / "reid_raw.json", list(records))


LAYOUTS: Mapping[str, Layout] = {
    "finegpr": Layout(
        title="FineGPR",
        version=1,
        default_style=SOURCE,
        folders=("FineGPR", "FineGPR_masks"),
        plan=_train_and_test,
        write=_write_finegpr,
        finish=_finish_finegpr,
        has_splits=False,
    ),
    "market1501": Layout(
        title="Market-1501",
        version=1,
        default_style=TARGET,
        folders=("bounding_box_train", "bounding_box_test", "query", "gt_bbox"),
        plan=_plan_market,
        write=_write_market,
        finish=_finish_nothing,
        min_images=2,
    ),
    "cuhk_pedes": Layout(
        title="CUHK-PEDES",
        version=1,
        default_style=TARGET,
        folders=tuple(f"imgs/{source.folder}" for source in (*_PEDES_SOURCES, *_PEDES_QUERIES.values())),
        plan=_plan_pedes,
        write=_write_pedes,
        finish=_finish_pedes,
        has_validation=True,
    ),
}
"""Layouts by the name users type."""


def encode(picture: Picture, suffix: str) -> bytes:
    """The file content of a picture. Lossless formats hold what the camera's JPEG compression left of it."""
    jpeg = io.BytesIO()
    picture.image.save(jpeg, "JPEG", quality=picture.quality)
    if suffix == ".jpg":
        return jpeg.getvalue()
    lossless = io.BytesIO()
    Image.open(jpeg).save(lossless, "PNG", compress_level=1)
    return lossless.getvalue()


def _save(picture: Picture, path: Path) -> None:
    path.write_bytes(encode(picture, path.suffix))


def write_json(path: Path, content: Any) -> None:
    """Write `content` as readable UTF-8 JSON."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
