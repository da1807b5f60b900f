"""A folder of a user's own crops, as read by `mmet.data.folder`: described by a table or by file names.

Forms: `csv` and `jsonl`, a table `annotations.*`; `names`, no table but names for `NAME_PATTERN`, with captions in
`captions.csv`. All have silhouettes below `masks/`, junk (person -1) and distractors (person 0), and a table knows no
camera of distractors. Untidy people have one picture, one camera (their queries then have no match) or a row twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmet.data.synthetic.layouts.annotation_files import write_caption_file, write_csv, write_json_lines
from mmet.data.synthetic.layouts.base import Job, Layout, Record, WorldRequest, train_and_test
from mmet.data.synthetic.layouts.takes import query_indices, save, save_mask, save_parts, takes
from mmet.data.synthetic.style import TARGET, plan_shots
from mmet.whole_files import FolderDraft

NAME_PATTERN = r"(?P<split>train|query|gallery)/(?P<person_id>-1|\d+)_c(?P<camera_id>\d+)"
"""Pattern of the file names in the form `names`: the option `pattern` of the dataset `folder`."""

_NAMES, _LINES = "names", "jsonl"
_COLUMNS = ("image", "person_id", "camera_id", "split", "caption", "person_mask")
_OTHERS_FROM = 10_000
_FIXED_IDS = {"junk": -1, "distractor": 0}


def _plan(request: WorldRequest) -> list[Job]:
    """People, then a junk crop and a distractor for every second test person."""
    numbers = range(_OTHERS_FROM, _OTHERS_FROM + max(1, request.num_test_ids // 2))
    others = [Job(2 * number + which, split, 1) for number in numbers for which, split in enumerate(_FIXED_IDS)]
    return train_and_test(request) + others


def _write(request: WorldRequest, job: Job, folder: FolderDraft) -> list[Record]:
    person = _FIXED_IDS.get(job.split, job.number)
    shots = plan_shots(request.style, seed=request.seed, person=job.number, count=job.images, cameras=job.cameras)
    queries = query_indices([shot.camera for shot in shots]) if job.split == "test" and job.images > 1 else set()
    records = []
    for take in takes(request, job):
        split = "train" if job.split == "train" else "query" if take.index in queries else "gallery"
        who = f"{person:04d}" if person >= 0 else str(person)
        stem = f"{split}/{who}_c{take.shot.camera}_{job.number % 10_000 * 100 + take.index:06d}"
        save(folder, f"{stem}.jpg", take.picture)
        save_mask(folder, f"masks/{stem}.png", take.picture)
        if request.part_masks:
            save_parts(folder, f"parts/{stem}.png", take.picture)
        row = {"image": f"{stem}.jpg", "person_id": person, "camera_id": take.shot.camera, "split": split}
        row["camera_id"] = None if job.split == "distractor" else take.shot.camera
        records.append({**row, "captions": take.captions, "person_mask": f"masks/{stem}.png"})
    return [*records, records[0]] if job.repeated else records


def _finish(request: WorldRequest, records: Sequence[Record], folder: FolderDraft) -> None:
    if request.form == _NAMES:
        images = [record for record in records if record["person_id"] >= 0]
        write_caption_file(folder, "captions.csv", images)
    elif request.form == _LINES:
        write_json_lines(folder, "annotations.jsonl", map(_without_blanks, records))
    else:
        rows = [_row(record, caption) for record in records for caption in record["captions"]]
        write_csv(folder, "annotations.csv", _COLUMNS, rows)


def _without_blanks(record: Record) -> dict[str, Any]:
    return {name: value for name, value in record.items() if value is not None}


def _row(record: Record, caption: str) -> dict[str, Any]:
    return {**{name: record[name] for name in _COLUMNS if name != "caption"}, "caption": caption}


_PICTURE_FOLDERS = ("train", "query", "gallery")

FOLDER = Layout(
    name="folder",
    title="a folder of your own",
    version=1,
    default_style=TARGET,
    folders=(*_PICTURE_FOLDERS, *(f"masks/{name}" for name in _PICTURE_FOLDERS)),
    plan=_plan,
    write=_write,
    finish=_finish,
    forms=("csv", _LINES, _NAMES),
    untidy_rate=0.1,
    min_images=2,
    has_part_masks=True,
)
