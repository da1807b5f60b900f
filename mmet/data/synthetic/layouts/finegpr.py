"""FineGPR (https://github.com/JeremyXSC/FineGPR): pictures by person, silhouettes, attributes, FineGPR-C captions.

Forms: `full`, a folder for each person; `subset`, the published sample: up to four pictures of each person without
folders, beside masks and captions of the full set. An untidy person has a caption twice and one picture without mask.
On request, a file of keypoints and a part mask stand beside each mask; their formats are our own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mmet.data.synthetic.identity import ATTRIBUTE_VALUES
from mmet.data.synthetic.keypoints import keypoint_record
from mmet.data.synthetic.layouts.annotation_files import CAPTION_FORMATS, write_caption_file, write_csv
from mmet.data.synthetic.layouts.base import Job, Layout, Record, WorldRequest, train_and_test
from mmet.data.synthetic.layouts.takes import Take, person, save, save_mask, save_parts, takes
from mmet.data.synthetic.style import SOURCE
from mmet.whole_files import FolderDraft

_FULL, _SUBSET = "full", "subset"
_SUBSET_IMAGES = 4


def _write(request: WorldRequest, job: Job, folder: FolderDraft) -> list[Record]:
    images = [_write_take(request, job, take, folder) for take in takes(request, job)]
    row = {"id": f"{job.number:04d}", **person(request.style, request.seed, job.number).attributes.as_row()}
    return [{"attributes": row, "images": images}]


def _write_take(request: WorldRequest, job: Job, take: Take, folder: FolderDraft) -> dict[str, Any]:
    """Write picture, mask and, on request, keypoints and part mask; returns the entry of the caption file."""
    who, shot = f"{job.number:04d}", take.shot
    name = f"{who}/{who}_c{shot.camera:02d}_w{shot.weather:02d}_l{shot.light:02d}_p{shot.scene:02d}"
    if request.form == _FULL:
        save(folder, f"FineGPR/{name}.jpg", take.picture)
    elif take.index < _SUBSET_IMAGES:
        save(folder, f"FineGPR_subset/{name.rpartition('/')[2]}.jpg", take.picture)
    if not (job.repeated and take.index == 0):
        save_mask(folder, f"FineGPR_masks/{name}.png", take.picture)
    if request.keypoints:
        record = keypoint_record(f"{name}.jpg", *take.picture.image.size, take.picture.keypoints)
        folder.write(f"FineGPR_keypoints/{name}.json", json.dumps(record) + "\n")
    if request.part_masks:
        save_parts(folder, f"FineGPR_parts/{name}.png", take.picture)
    captions = [*take.captions, take.captions[0]] if job.repeated else take.captions
    return {"image": f"{name}.jpg", "captions": captions}


def _finish(request: WorldRequest, records: Sequence[Record], folder: FolderDraft) -> None:
    write_csv(folder, "attributes.csv", ["id", *ATTRIBUTE_VALUES], [record["attributes"] for record in records])
    images = [image for record in records for image in record["images"]]
    write_caption_file(folder, f"FineGPR-C.{request.caption_format}", images)


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
    has_part_masks=True,
)
