"""FineGPR (https://github.com/JeremyXSC/FineGPR): pictures by person, silhouettes, attributes, FineGPR-C captions.

Forms: `full`, a folder for each person; `subset`, the published sample: up to four pictures of each person without
folders, beside masks and captions of the full set. An untidy person has a caption twice and one picture without mask.
On request, a file of keypoints stands beside each mask; its format is our own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmet.data.synthetic.identity import ATTRIBUTE_VALUES
from mmet.data.synthetic.keypoints import keypoint_record
from mmet.data.synthetic.layouts.base import Job, Layout, Record, WorldRequest, train_and_test
from mmet.data.synthetic.layouts.tables import CAPTION_FORMATS, write_caption_file, write_csv
from mmet.data.synthetic.layouts.takes import Take, person, save, takes
from mmet.data.synthetic.style import SOURCE

_FULL, _SUBSET = "full", "subset"
_SUBSET_IMAGES = 4


def _write(request: WorldRequest, job: Job, root: Path) -> list[Record]:
    folder = f"{job.number:04d}"
    if request.form == _FULL:
        (root / "FineGPR" / folder).mkdir(parents=True)
    else:
        (root / "FineGPR_subset").mkdir(exist_ok=True)
    (root / "FineGPR_masks" / folder).mkdir()
    if request.keypoints:
        (root / "FineGPR_keypoints" / folder).mkdir(parents=True)
    images = [_write_take(request, job, take, root) for take in takes(request, job)]
    row = {"id": folder, **person(request.style, request.seed, job.number).attributes.as_row()}
    return [{"attributes": row, "images": images}]


def _write_take(request: WorldRequest, job: Job, take: Take, root: Path) -> dict[str, Any]:
    """Write picture, mask and, on request, keypoints; returns the entry of the caption file."""
    folder, shot = f"{job.number:04d}", take.shot
    name = f"{folder}_c{shot.camera:02d}_w{shot.weather:02d}_l{shot.light:02d}_p{shot.scene:02d}"
    if request.form == _FULL:
        save(take.picture, root / "FineGPR" / folder / f"{name}.jpg")
    elif take.index < _SUBSET_IMAGES:
        save(take.picture, root / "FineGPR_subset" / f"{name}.jpg")
    if not (job.repeated and take.index == 0):
        take.picture.mask.save(root / "FineGPR_masks" / folder / f"{name}.png", compress_level=3)
    if request.keypoints:
        record = keypoint_record(f"{folder}/{name}.jpg", *take.picture.image.size, take.picture.keypoints)
        (root / "FineGPR_keypoints" / folder / f"{name}.json").write_text(json.dumps(record) + "\n")
    captions = [*take.captions, take.captions[0]] if job.repeated else take.captions
    return {"image": f"{folder}/{name}.jpg", "captions": captions}


def _finish(request: WorldRequest, records: Sequence[Record], root: Path) -> None:
    write_csv(root / "attributes.csv", ["id", *ATTRIBUTE_VALUES], [record["attributes"] for record in records])
    images = [image for record in records for image in record["images"]]
    write_caption_file(root / f"FineGPR-C.{request.caption_format}", images)


FINEGPR = Layout(
    name="finegpr",
    title="FineGPR",
    version=1,
    default_style=SOURCE,
    folders=("FineGPR_masks",),
    plan=train_and_test,
    write=_write,
    finish=_finish,
    forms=(_FULL, _SUBSET),
    caption_formats=CAPTION_FORMATS,
    has_splits=False,
    has_keypoints=True,
)
