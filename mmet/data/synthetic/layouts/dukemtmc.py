"""DukeMTMC-reID (Zheng et al., ICCV 2017): no junk; distractors have ids of their own in the gallery.

Untidy people have one picture or one camera; those of the test set are then never queried.
"""

from __future__ import annotations

from mmet.data.synthetic.layouts.base import Job, Layout, Record, WorldRequest, train_and_test
from mmet.data.synthetic.layouts.takes import gallery_queries, save, split_folder, takes
from mmet.data.synthetic.style import TARGET, Shot, plan_shots
from mmet.whole_files import FolderDraft

_CAMERAS = 8
_DISTRACTOR_SHARE = 408 / 702
_MAX_IDS = 6000


def _plan(request: WorldRequest) -> list[Job]:
    """People, then distractors in the original's proportion to test people."""
    jobs = train_and_test(request)
    count = max(1, round(request.num_test_ids * _DISTRACTOR_SHARE))
    first = len(jobs) + 1
    return jobs + [Job(n, "distractor", max(1, request.images_per_id // 2)) for n in range(first, first + count)]


def _write(request: WorldRequest, job: Job, folder: FolderDraft) -> list[Record]:
    shots = plan_shots(request.style, seed=request.seed, person=job.number, count=job.images, cameras=job.cameras)
    queries = gallery_queries(job, [_camera(shot) for shot in shots])
    for take in takes(request, job):
        frame = 46_000 + job.number * 240 + take.index * 60
        name = f"{job.number:04d}_c{_camera(take.shot)}_f{frame:07d}.jpg"
        save(folder, f"{split_folder(job, take.index, queries)}/{name}", take.picture)
    return []


def _camera(shot: Shot) -> int:
    return (shot.camera - 1) % _CAMERAS + 1


DUKEMTMC = Layout(
    name="dukemtmc",
    title="DukeMTMC-reID",
    version=1,
    default_style=TARGET,
    folders=("bounding_box_train", "bounding_box_test", "query"),
    plan=_plan,
    write=_write,
    untidy_rate=0.1,
    max_ids=_MAX_IDS,
    min_images=2,
)
