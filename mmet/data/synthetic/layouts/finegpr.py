"""FineGPR (https://github.com/JeremyXSC/FineGPR): pictures by person, silhouettes, attributes and FineGPR-C captions."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from mmet.data.synthetic.identity import ATTRIBUTE_VALUES
from mmet.data.synthetic.layouts.base import Job, Layout, Record, WorldRequest, train_and_test, write_json
from mmet.data.synthetic.layouts.takes import person, save, takes
from mmet.data.synthetic.style import SOURCE


def _write(request: WorldRequest, job: Job, root: Path) -> list[Record]:
    folder = f"{job.number:04d}"
    (root / "FineGPR" / folder).mkdir()
    (root / "FineGPR_masks" / folder).mkdir()
    images = []
    for take in takes(request, job):
        shot = take.shot
        name = f"{folder}/{folder}_c{shot.camera:02d}_w{shot.weather:02d}_l{shot.light:02d}_p{shot.scene:02d}"
        save(take.picture, root / "FineGPR" / f"{name}.jpg")
        take.picture.mask.save(root / "FineGPR_masks" / f"{name}.png", compress_level=3)
        images.append({"image": f"{name}.jpg", "captions": take.captions})
    row = {"id": folder, **person(request.style, request.seed, job.number).attributes.as_row()}
    return [{"attributes": row, "images": images}]


def _finish(request: WorldRequest, records: Sequence[Record], root: Path) -> None:
    with (root / "attributes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", *ATTRIBUTE_VALUES])
        writer.writeheader()
        writer.writerows(record["attributes"] for record in records)
    write_json(root / "FineGPR-C.json", [image for record in records for image in record["images"]])


FINEGPR = Layout(
    name="finegpr",
    title="FineGPR",
    version=1,
    default_style=SOURCE,
    folders=("FineGPR", "FineGPR_masks"),
    plan=train_and_test,
    write=_write,
    finish=_finish,
    has_splits=False,
)
