"""CUHK03 (Li et al., "DeepReID", CVPR 2014), boxes by a detector and boxes by hand, two cameras for each person.

Forms: `np`, the folders of CUHK03-NP (Zhong et al., CVPR 2017); `mat`, the one file `cuhk-03.mat` of the original
release, which `python -m mmet.data.extract_cuhk03` reads (needs h5py). Untidy people have one picture or one camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mmet.data.synthetic.layouts.base import Job, Layout, Record, WorldRequest, train_and_test
from mmet.data.synthetic.layouts.takes import gallery_queries, save, split_folder, takes
from mmet.data.synthetic.style import TARGET, plan_shots, style_rng
from mmet.whole_files import FolderDraft
from pictures_mmet import read_rgb

_NP, _MAT = "np", "mat"
_BOXES = ("detected", "labeled")
_SPLIT_FOLDERS = ("bounding_box_train", "bounding_box_test", "query")
_DRAFTS = ".pictures"
_MAT_FILE = "cuhk03_release/cuhk-03.mat"
_PAIRS, _OF_A_VIEW, _SPLITS = 5, 5, 20
_MAX_IDS = 999 * _PAIRS


def _check(request: WorldRequest) -> None:
    if request.form == _MAT and find_spec("h5py") is None:
        raise ValueError("form: mat needs h5py: pip install 'mmet[cuhk03]'")


def _plan(request: WorldRequest) -> list[Job]:
    return [replace(job, cameras=CUHK03.cameras) for job in train_and_test(request)]


def _boxed(request: WorldRequest, boxes: str) -> WorldRequest:
    """The request with the boxes of people, or with those of a detector, which are less exact."""
    if boxes == "labeled":
        return request
    low, high = request.style.body_share
    style = replace(request.style, jitter=request.style.jitter * 1.6, body_share=(low * 0.9, high * 1.1))
    return replace(request, style=style)


def _write(request: WorldRequest, job: Job, folder: FolderDraft) -> list[Record]:
    shots = plan_shots(request.style, seed=request.seed, person=job.number, count=job.images, cameras=job.cameras)
    cameras = list(dict.fromkeys(shot.camera for shot in shots))
    views = [1 + cameras.index(shot.camera) for shot in shots]
    queries = gallery_queries(job, views)
    records = []
    for boxes in _BOXES:
        for take in takes(_boxed(request, boxes), job):
            if boxes == "detected" and take.index > 1 and job.split == "train" and (job.number + take.index) % 50 == 0:
                continue  # a detector misses some
            view, order = views[take.index], views[: take.index + 1].count(views[take.index])
            if request.form == _NP:
                name = f"{job.number:04d}_c{view}_{take.index + 1}.png"
                path = f"{boxes}/{split_folder(job, take.index, queries)}/{name}"
            elif order > _OF_A_VIEW:
                continue
            else:
                path = f"{_DRAFTS}/{boxes}_{job.number}_{view}_{order}.png"
            save(folder, path, take.picture)
            cell = (view - 1) * _OF_A_VIEW + order - 1
            records.append({"boxes": boxes, "number": job.number, "cell": cell, "path": folder.root / path})
    return records


def _finish(request: WorldRequest, records: Sequence[Record], folder: FolderDraft) -> None:
    if request.form == _MAT:
        folder.check()  # before the pictures move into the one file
        (folder.root / "cuhk03_release").mkdir()
        _write_mat(request, records, folder.root / _MAT_FILE)
        folder.note(_MAT_FILE)
        folder.remove(_DRAFTS)


# -- cuhk-03.mat ----------------------------------------------------------------------------------------------------


def place_of(number: int) -> tuple[int, int]:
    """Camera pair and number within it, both from 1, of a person numbered from 1."""
    return (number - 1) % _PAIRS + 1, (number - 1) // _PAIRS + 1


def _write_mat(request: WorldRequest, records: Sequence[Record], path: Path) -> None:
    """MATLAB's cells are HDF5 references, and its arrays arrive transposed."""
    import h5py

    people = request.num_train_ids + request.num_test_ids
    pictures = {(record["boxes"], record["number"], record["cell"]): record["path"] for record in records}
    with h5py.File(path, "w", track_order=True) as file:
        store = _Cells(file.create_group("#refs#"), h5py.ref_dtype)
        for boxes in _BOXES:
            pairs = [_write_pair(store, pictures, boxes, pair, people) for pair in range(1, _PAIRS + 1)]
            file.create_dataset(boxes, data=store.row(pairs)[None])
        splits = [store.add(split) for split in _splits(request, people)]
        file.create_dataset("testsets", data=store.row(splits)[None])


class _Cells:
    """The heap of a MATLAB file: arrays by number, pointed at by references."""

    def __init__(self, group: Any, ref_dtype: Any) -> None:
        self.group, self.ref_dtype = group, ref_dtype
        self.empty = self.add(np.zeros(2, dtype=np.uint64))

    def add(self, array: np.ndarray) -> Any:
        """Store an array; returns the reference to it."""
        return self.group.create_dataset(str(len(self.group)), data=array).ref

    def row(self, references: Sequence[Any]) -> np.ndarray:
        """References as an array of their own type."""
        return np.array(references, dtype=object).astype(self.ref_dtype)


def _write_pair(store: _Cells, pictures: dict[tuple[str, int, int], Path], boxes: str, pair: int, people: int) -> Any:
    """One camera pair: references (pictures, persons), as stored on disk."""
    numbers = [number for number in range(1, people + 1) if place_of(number)[0] == pair]
    table = np.full((2 * _OF_A_VIEW, len(numbers)), store.empty, dtype=object)
    for column, number in enumerate(numbers):
        for cell in range(2 * _OF_A_VIEW):
            path = pictures.get((boxes, number, cell))
            if path is not None:
                table[cell, column] = store.add(read_rgb(path).T)
    return store.add(table.astype(store.ref_dtype))


def _splits(request: WorldRequest, people: int) -> list[np.ndarray]:
    """Twenty draws of test people: (2, persons) float64, camera pair and number within it."""
    rng = style_rng(request.style, request.seed, 5)
    draws = [1 + rng.choice(people, request.num_test_ids, replace=False) for _ in range(_SPLITS)]
    return [np.array([place_of(int(number)) for number in sorted(draw)], dtype=np.float64).T for draw in draws]


CUHK03 = Layout(
    name="cuhk03",
    title="CUHK03",
    version=1,
    default_style=TARGET,
    folders=(),
    plan=_plan,
    write=_write,
    finish=_finish,
    check=_check,
    forms=(_NP, _MAT),
    untidy_rate=0.1,
    max_ids=_MAX_IDS,
    cameras=2,
    min_images=2,
)
