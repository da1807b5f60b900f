"""RandPerson (Wang et al., ACM MM 2020): rendered people for training, 19 cameras in 11 scenes.

Forms: `subset`, all pictures in one folder, on which its authors train; `full`, folders by scene and camera. Untidy
people have one picture or one camera.
"""

from __future__ import annotations

from itertools import accumulate

from mmet.data.randperson import CAMERAS_OF_SCENE
from mmet.data.synthetic.layouts.base import Job, Layout, Record, WorldRequest, train_and_test
from mmet.data.synthetic.layouts.takes import save, takes
from mmet.data.synthetic.style import SOURCE
from mmet.whole_files import FolderDraft

_SUBSET, _FULL = "subset", "full"
_FIRST_CAMERA = (0, *accumulate(CAMERAS_OF_SCENE))


def _write(request: WorldRequest, job: Job, folder: FolderDraft) -> list[Record]:
    for take in takes(request, job):
        scene, camera = scene_and_camera((take.shot.camera - 1) % sum(CAMERAS_OF_SCENE))
        name = f"{job.number - 1:06d}_s{scene:02d}_c{camera:02d}_f{job.number * 24 + take.index * 3:06d}.jpg"
        place = "randperson_subset"
        if request.form == _FULL:
            cameras = "_".join(str(number) for number in range(CAMERAS_OF_SCENE[scene]))
            place = f"images/scene{scene:02d}/camera{cameras}"
        save(folder, f"{place}/{name}", take.picture)
    return []


def scene_and_camera(number: int) -> tuple[int, int]:
    """Scene, and camera in the scene, of a camera numbered over all scenes from 0."""
    scene = max(scene for scene in range(len(CAMERAS_OF_SCENE)) if _FIRST_CAMERA[scene] <= number)
    return scene, number - _FIRST_CAMERA[scene]


RANDPERSON = Layout(
    name="randperson",
    title="RandPerson",
    version=1,
    default_style=SOURCE,
    folders=(),
    plan=train_and_test,
    write=_write,
    forms=(_SUBSET, _FULL),
    untidy_rate=0.1,
    has_splits=False,
)
