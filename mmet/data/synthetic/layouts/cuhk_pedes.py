"""CUHK-PEDES (Li et al., "Person Search with Natural Language Description", CVPR 2017): pictures of seven origins.

Untidy people have one picture, or a caption twice and a picture that is listed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmet.data.synthetic.layouts.annotation_files import caption_entry
from mmet.data.synthetic.layouts.base import (
    Job,
    Layout,
    Record,
    WorldRequest,
    train_test_and_validation,
    write_json,
)
from mmet.data.synthetic.layouts.takes import save, takes
from mmet.data.synthetic.style import TARGET
from mmet.whole_files import FolderDraft


@dataclass(frozen=True, slots=True)
class _Origin:
    """One of the collections that CUHK-PEDES gathered its images from, with its way to name files."""

    folder: str
    pattern: str


_ORIGINS = (
    _Origin("cam_a", "{person:03d}_{angle}.bmp"),  # VIPeR, whose names tell the direction a person is seen from
    _Origin("cam_b", "{person:03d}_{angle}.bmp"),
    _Origin("CUHK01", "{person:04d}{index:03d}.png"),
    _Origin("CUHK03", "{person:04d}_{camera}_{index:02d}.jpg"),
    _Origin("Market", "{person:04d}_c{camera}s1_{index:06d}_00.jpg"),
)
_QUERIES = {
    "train": _Origin("train_query", "p{person}_s{index}.jpg"),
    "test": _Origin("test_query", "p{person}_s{index}.jpg"),
}


def _write(request: WorldRequest, job: Job, folder: FolderDraft) -> list[Record]:
    origins = [*_ORIGINS, *([_QUERIES[job.split]] if job.split in _QUERIES else [])]
    origin = origins[job.number % len(origins)]
    records = []
    for take in takes(request, job):
        file_path = f"{origin.folder}/" + origin.pattern.format(
            person=job.number, camera=take.shot.camera, index=take.index + 1, angle=45 * take.index
        )
        save(folder, f"imgs/{file_path}", take.picture)
        captions = [*take.captions, take.captions[0]] if job.repeated else take.captions
        records.append(caption_entry(job.split, captions, "file_path", file_path, job.number))
    return [records[0], *records] if job.repeated else records


def _finish(request: WorldRequest, records: Sequence[Record], folder: FolderDraft) -> None:
    write_json(folder, "reid_raw.json", list(records))


CUHK_PEDES = Layout(
    name="cuhk_pedes",
    title="CUHK-PEDES",
    version=2,
    default_style=TARGET,
    folders=tuple(f"imgs/{origin.folder}" for origin in (*_ORIGINS, *_QUERIES.values())),
    plan=train_test_and_validation,
    write=_write,
    finish=_finish,
    has_validation=True,
)
