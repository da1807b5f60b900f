"""MSMT17 (Wei et al., CVPR 2018): folders by person, four lists, test people numbered from 0 again.

Forms: `V1`; `V2`, the same with blurred faces in folders of other names. Untidy people have one picture, one camera,
or a picture that its list names twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import ImageFilter

from mmet.data.synthetic.layouts.base import Job, Layout, Record, WorldRequest, train_and_test
from mmet.data.synthetic.layouts.takes import gallery_queries, msmt_name, save, takes
from mmet.data.synthetic.picture import Picture
from mmet.data.synthetic.style import TARGET, plan_shots
from mmet.whole_files import FolderDraft

_FOLDERS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
_LISTS = ("train", "val", "query", "gallery")
_MAX_TRAIN_IDS = 1041
_HEAD_SHARE = 0.15


def _check(request: WorldRequest) -> None:
    """The reader takes test people to follow 1,041 training people."""
    if request.num_train_ids > _MAX_TRAIN_IDS:
        raise ValueError(f"num_train_ids: MSMT17 has at most {_MAX_TRAIN_IDS}, received {request.num_train_ids}")


def _write(request: WorldRequest, job: Job, folder: FolderDraft) -> list[Record]:
    train_folder, test_folder = _FOLDERS[request.form]
    is_train = job.split == "train"
    person = job.number - 1 - (0 if is_train else request.num_train_ids)
    place = train_folder if is_train else test_folder
    shots = plan_shots(request.style, seed=request.seed, person=job.number, count=job.images, cameras=job.cameras)
    queries = gallery_queries(job, [shot.camera for shot in shots])
    records = []
    for take in takes(request, job):
        name = msmt_name(person, take)
        picture = _blur_face(take.picture) if request.form == "V2" else take.picture
        save(folder, f"{place}/{name}", picture)
        is_last = take.index == job.images - 1 and job.images > 2
        in_train, in_test = "val" if is_last else "train", "query" if take.index in queries else "gallery"
        records.append({"list": in_train if is_train else in_test, "line": f"{name} {person}\n"})
    return [*records, records[0]] if job.repeated else records


def _blur_face(picture: Picture) -> Picture:
    """The picture with the head's box blurred, as V2 hides faces."""
    rows, columns = np.nonzero(np.asarray(picture.mask))
    if not len(rows):
        return picture
    head = rows < rows.min() + _HEAD_SHARE * picture.mask.height
    left, right = int(columns[head].min()), int(columns[head].max()) + 1
    top, bottom = int(rows[head].min()), int(rows[head].max()) + 1
    image = picture.image.copy()
    face = image.crop((left, top, right, bottom)).filter(ImageFilter.GaussianBlur(0.02 * image.height))
    image.paste(face, (left, top))
    return replace(picture, image=image)


def _finish(request: WorldRequest, records: Sequence[Record], folder: FolderDraft) -> None:
    for name in _LISTS:
        lines = [record["line"] for record in records if record["list"] == name]
        folder.write(f"list_{name}.txt", "".join(lines))


MSMT17 = Layout(
    name="msmt17",
    title="MSMT17",
    version=1,
    default_style=TARGET,
    folders=(),
    plan=train_and_test,
    write=_write,
    finish=_finish,
    check=_check,
    forms=tuple(_FOLDERS),
    untidy_rate=0.1,
    min_images=2,
)
