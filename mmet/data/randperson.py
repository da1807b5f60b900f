"""RandPerson (Wang et al., "Surpassing Real-World Source Training Data", ACM MM 2020), rendered people in 11 scenes.

File names read `000000_s00_c00_f000264.jpg`: person, scene, camera of the scene, frame; an earlier release put the
camera before the scene, which is read too. A camera is numbered over all scenes, 0 to 18. One split, `train`. Layout
and counts as in the readme of https://github.com/VideoObjectSearch/RandPerson; the numbers of cameras of each scene as
in https://github.com/ShengcaiLiao/QAConv.
"""

from __future__ import annotations

import os
import re
from itertools import accumulate
from pathlib import Path

from mmet.data.defects import Defect, DefectKind
from mmet.data.paths import layout_error, list_folders, list_images
from mmet.data.registry import ReidDatasetSpec, SplitCount, register
from mmet.data.schema import PersonImage, ReidFolder

TITLE = "RandPerson"
SUBSET_FOLDERS = ("randperson_subset", "subset")
FULL_FOLDER = "images"
SUBSET = "subset"

CAMERAS_OF_SCENE = (2, 2, 2, 2, 1, 1, 2, 1, 1, 1, 4)
_FIRST_CAMERA = (0, *accumulate(CAMERAS_OF_SCENE))

EXPECTED_TREE = """\
randperson_subset/                   (name this folder, or the one that holds it)
└── 000000_s00_c00_f000264.jpg …
or the full set, its archives unpacked:
randperson/images/                   (name either of the two)
└── scene00/camera0_1/               000000_s00_c00_f000264.jpg …
"""

_OTHER_NAME = Defect(DefectKind.NAME, "name is not like 000000_s00_c00_f000264.jpg")
_NAME = re.compile(r"([0-9]{1,9})_(?:s([0-9]{1,3})_c([0-9]{1,3})|c([0-9]{1,3})_s([0-9]{1,3}))_f[0-9]+\.")


def read(root: Path) -> ReidFolder:
    """Read the folder. Raises `DatasetError` when no RandPerson picture is in it."""
    pictures, is_subset = _find_pictures(root)
    folder = ReidFolder(pictures.parent if pictures != root else root, splits={"train": []})
    if is_subset:
        folder.variant = SUBSET
        folder.notes.append("the published subset of RandPerson, on which its authors train")
    paths = _walk(pictures)
    if not any(_NAME.match(path.name) for path in paths):
        raise layout_error(TITLE, root, ["picture named like 000000_s00_c00_f000264.jpg"], EXPECTED_TREE)
    for path in paths:
        _add(folder, path)
    return folder


def _find_pictures(root: Path) -> tuple[Path, bool]:
    """The folder to search for pictures, and whether it is the subset."""
    for folder, is_subset in [*((root / name, True) for name in SUBSET_FOLDERS), (root / FULL_FOLDER, False)]:
        if folder.is_dir():
            return folder, is_subset
    return root, bool(list_images(root))  # the full set has no pictures outside its scenes


def _walk(folder: Path, depth: int = 2) -> list[Path]:
    """Pictures in `folder` and down to `depth` levels below, those that a linked folder shows again left out."""
    paths = list_images(folder)
    for sub_folder in list_folders(folder) if depth else ():
        if sub_folder.name not in SUBSET_FOLDERS:
            paths += _walk(sub_folder, depth - 1)
    return list({os.path.realpath(path): path for path in reversed(paths)}.values())[::-1]


def _add(folder: ReidFolder, path: Path) -> None:
    match = _NAME.match(path.name)
    if match is None:
        folder.skip(path, _OTHER_NAME)
        return
    scene, camera = int(match[2] or match[5]), int(match[3] or match[4])
    if scene >= len(CAMERAS_OF_SCENE) or camera >= CAMERAS_OF_SCENE[scene]:
        folder.skip(path, Defect(DefectKind.NAME, "RandPerson has no such scene or camera"))
        return
    folder.splits["train"].append(PersonImage(path, int(match[1]), _FIRST_CAMERA[scene] + camera))


RANDPERSON = register(
    ReidDatasetSpec(
        name="randperson",
        title=TITLE,
        expected_tree=EXPECTED_TREE,
        read=read,
        published_counts={"train": SplitCount(images=1_801_816, persons=8_000)},
        variant_counts={SUBSET: {"train": SplitCount(images=132_145, persons=8_000)}},
        licence="terms of the RandPerson repository",
    )
)
