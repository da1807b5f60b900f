"""Market-1501 (Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015), junk and distractors too.

Untidy people have one picture or one camera; those of the test set are then never queried.
"""

from __future__ import annotations

from dataclasses import replace

from mmet.data.synthetic.layouts.base import Job, Layout, Record, WorldRequest, train_and_test
from mmet.data.synthetic.layouts.takes import careless, encode, gallery_queries, split_folder, takes
from mmet.data.synthetic.style import TARGET, Shot, plan_shots
from mmet.whole_files import FolderDraft

_DISTRACTORS_FROM = 10_000
_JUNK_FROM = 20_000
_CAMERAS = 6


def _plan(request: WorldRequest) -> list[Job]:
    """People, then one distractor and one junk crop per test person, about the proportions of the original."""
    distractors = [Job(_DISTRACTORS_FROM + n, "distractor", 1) for n in range(request.num_test_ids)]
    junk = [Job(_JUNK_FROM + n, "junk", 1) for n in range(request.num_test_ids)]
    return train_and_test(request) + distractors + junk


def _write(request: WorldRequest, job: Job, folder: FolderDraft) -> list[Record]:
    person_name = {"distractor": "0000", "junk": "-1"}.get(job.split, f"{job.number:04d}")
    request = replace(request, style=careless(request.style)) if job.split == "junk" else request
    shots = plan_shots(request.style, seed=request.seed, person=job.number, count=job.images, cameras=job.cameras)
    queries = gallery_queries(job, [_camera(shot) for shot in shots])
    for take in takes(request, job):
        frame, session = job.number % 10_000 * 100 + take.index, 1 + take.shot.light % 6
        name = f"{person_name}_c{_camera(take.shot)}s{session}_{frame:06d}_{take.index % 99 + 1:02d}.jpg"
        data = encode(take.picture, ".jpg")
        folder.write(f"{split_folder(job, take.index, queries)}/{name}", data)
        if job.split in {"train", "test"}:
            folder.write(f"gt_bbox/{name}", data)
    return []


def _camera(shot: Shot) -> int:
    """Market-1501 has six cameras and one digit for them; styles with more cameras share them out."""
    return (shot.camera - 1) % _CAMERAS + 1


MARKET1501 = Layout(
    name="market1501",
    title="Market-1501",
    version=1,
    default_style=TARGET,
    folders=("bounding_box_train", "bounding_box_test", "query", "gt_bbox"),
    plan=_plan,
    write=_write,
    min_images=2,
)
