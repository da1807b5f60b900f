"""RSTPReid (Zhu et al., ACM MM 2021): two captions for each picture, the picture in the field `img_path`.

Untidy people have one picture, or the same caption twice.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def _write(request: WorldRequest, job: Job, folder: FolderDraft) -> list[Record]:
    person, records = job.number - 1, []
    for take in takes(request, job):
        name = f"{person:04d}_c{take.shot.camera}_{take.index:04d}.jpg"
        save(folder, f"imgs/{name}", take.picture)
        captions = [take.captions[0]] * 2 if job.repeated else take.captions
        records.append(caption_entry(job.split, captions, "img_path", name, person))
    return records


def _finish(request: WorldRequest, records: Sequence[Record], folder: FolderDraft) -> None:
    write_json(folder, "data_captions.json", list(records))


RSTPREID = Layout(
    name="rstpreid",
    title="RSTPReid",
    version=1,
    default_style=TARGET,
    folders=("imgs",),
    plan=train_test_and_validation,
    write=_write,
    finish=_finish,
    untidy_rate=0.1,
    has_validation=True,
)
