"""ICFG-PEDES (Ding et al., arXiv:2107.12666): pictures named as in MSMT17, one caption each, no validation split.

The folders `imgs/train` and `imgs/test` are not the split. Untidy people have one picture, or a picture that is
annotated twice with different sentences.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmet.data.synthetic.layouts.annotation_files import caption_entry
from mmet.data.synthetic.layouts.base import Job, Layout, Record, WorldRequest, train_and_test, write_json
from mmet.data.synthetic.layouts.takes import msmt_name, save, takes
from mmet.data.synthetic.style import TARGET
from mmet.whole_files import FolderDraft


def _write(request: WorldRequest, job: Job, folder: FolderDraft) -> list[Record]:
    person, storage = job.number - 1, "test" if job.number % 3 == 0 else "train"
    records = []
    for take in takes(request, job):
        path = f"{storage}/{msmt_name(person, take)}"
        save(folder, f"imgs/{path}", take.picture)
        sentences = take.captions[: 2 if job.repeated and take.index == 0 else 1]
        records += [caption_entry(job.split, [caption], "file_path", path, person) for caption in sentences]
    return records


def _finish(request: WorldRequest, records: Sequence[Record], folder: FolderDraft) -> None:
    write_json(folder, "ICFG-PEDES.json", list(records))


ICFG_PEDES = Layout(
    name="icfg_pedes",
    title="ICFG-PEDES",
    version=1,
    default_style=TARGET,
    folders=("imgs/train", "imgs/test"),
    plan=train_and_test,
    write=_write,
    finish=_finish,
    untidy_rate=0.1,
)
