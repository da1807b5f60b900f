"""Draw the pictures of a job and encode them as files; all layouts use this."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from PIL import Image

from mmet.data.synthetic.captions import write_captions
from mmet.data.synthetic.identity import Identity, draw_identity, draw_lookalike
from mmet.data.synthetic.layouts.base import Job, WorldRequest
from mmet.data.synthetic.lifelike.people import Person, draw_person, draw_swapped, draw_twin
from mmet.data.synthetic.observation import Observation
from mmet.data.synthetic.picture import Picture
from mmet.data.synthetic.renderer import render_shot
from mmet.data.synthetic.style import Shot, WorldStyle, plan_shots, style_rng
from mmet.whole_files import FolderDraft

FAMILY = 4
"""People who may look alike: numbers 1 to 4, 5 to 8, and so on."""


@dataclass(frozen=True, slots=True)
class Take:
    """One picture of a job with its annotations."""

    index: int
    shot: Shot
    picture: Picture
    captions: list[str]


def person(style: WorldStyle, seed: int, number: int) -> Identity | Person:
    """Person `number` of the world with this style and seed.

    People come in families of `FAMILY`: with the style's rate of lookalikes, one resembles the first of the family.
    """
    first = number - (number - 1) % FAMILY
    rng = style_rng(style, seed, number, 6)
    alike = first != number and rng.random() < style.lookalikes
    drawn = style_rng(style, seed, number, 0)
    if style.people == "lifelike":
        if alike:
            model = draw_person(style_rng(style, seed, first, 0), number=first, skirts=style.skirts)
            # Styles without swapped colours draw no number here, so that their worlds stay the same.
            draw_alike = draw_swapped if style.swapped and rng.random() < style.swapped else draw_twin
            return draw_alike(rng, model, number=number)
        return draw_person(drawn, number=number, skirts=style.skirts)
    identity = draw_identity(drawn, number=number)
    if not alike:
        return identity
    return draw_lookalike(rng, identity, draw_identity(style_rng(style, seed, first, 0), number=first))


def takes(request: WorldRequest, job: Job) -> Iterator[Take]:
    """The pictures of one job; they depend on the seed, the style and the person's number alone."""
    identity = person(request.style, request.seed, job.number)
    shots = plan_shots(request.style, seed=request.seed, person=job.number, count=job.images, cameras=job.cameras)
    for index, shot in enumerate(shots):
        picture = render_shot(identity, shot, request.style, height=request.image_height, width=request.image_width)
        rng = style_rng(request.style, request.seed, job.number, 3, index)
        captions = write_captions(Observation(identity, shot, picture.pixels), request.style.captions, rng)
        yield Take(index, shot, picture, captions)


def query_indices(cameras: Sequence[int]) -> set[int]:
    """Choose the shots of a test person that become queries: the first of every camera that has a second one.

    If every camera has a single shot, only the first shot is a query, so that the gallery is never empty.
    """
    counts = Counter(cameras)
    first = {camera: cameras.index(camera) for camera in counts if counts[camera] > 1}
    return set(first.values()) or {0}


def gallery_queries(job: Job, cameras: Sequence[int]) -> set[int]:
    """Which shots of a job become queries: as `query_indices` for tidy test people, else none."""
    return query_indices(cameras) if job.split == "test" and job.images > 1 and job.cameras != 1 else set()


def split_folder(job: Job, index: int, queries: Collection[int]) -> str:
    """Market-1501's folder for one picture of a job."""
    if job.split == "train":
        return "bounding_box_train"
    return "query" if index in queries else "bounding_box_test"


def msmt_name(person_id: int, take: Take) -> str:
    """A path as in MSMT17 and ICFG-PEDES, `0000/0000_000_01_0303morning_0008_0.jpg`; there are 15 cameras."""
    camera, frame = (take.shot.camera - 1) % 15 + 1, 8 + take.index * 15
    hours = ("morning", "noon", "afternoon")[min(2, max(0, (take.shot.light - 2) // 2))]
    return f"{person_id:04d}/{person_id:04d}_{take.index:03d}_{camera:02d}_0303{hours}_{frame:04d}_0.jpg"


def careless(style: WorldStyle) -> WorldStyle:
    """The style with boxes as from a bad detector: legs only, half a person, mostly background."""
    return replace(style, jitter=0.32, body_share=(0.7, 1.9))


def encode(picture: Picture, suffix: str) -> bytes:
    """Encode a picture as a file. Lossless formats hold the picture after the camera's JPEG compression."""
    jpeg = io.BytesIO()
    picture.image.save(jpeg, "JPEG", quality=picture.quality)
    if suffix == ".jpg":
        return jpeg.getvalue()
    lossless = io.BytesIO()
    if suffix == ".bmp":
        Image.open(jpeg).save(lossless, "BMP")
    else:
        Image.open(jpeg).save(lossless, "PNG", compress_level=1)
    return lossless.getvalue()


def save(folder: FolderDraft, name: str, picture: Picture) -> None:
    """Write a picture in the format that the suffix of `name` says."""
    folder.write(name, encode(picture, PurePath(name).suffix))


def save_mask(folder: FolderDraft, name: str, picture: Picture) -> None:
    """Write the silhouette of a picture as PNG."""
    _save_labels(folder, name, picture.mask)


def save_parts(folder: FolderDraft, name: str, picture: Picture) -> None:
    """Write the part mask of a picture as PNG; grey levels are numbers of `PART_CLASSES`."""
    _save_labels(folder, name, picture.parts)


def _save_labels(folder: FolderDraft, name: str, image: Image.Image) -> None:
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=3)
    folder.write(name, content.getvalue())
