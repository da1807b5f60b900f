"""Market-1501 (Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015).

File names read `0002_c1s1_000451_03.jpg`: person, camera, sequence, frame, detection. Person -1 marks junk detections,
which the standard protocol removes before evaluation; person 0 marks distractors, which stay in the gallery.
The published counts follow from the index files of the official release.
"""

from __future__ import annotations

import re
from pathlib import Path

from mmet.data.files import layout_error, list_images
from mmet.data.registry import ReidDatasetSpec, SplitCount, register
from mmet.data.schema import JUNK_PERSON_ID, PersonImage, ReidFolder, SkippedFile

TITLE = "Market-1501"
FOLDER_NAME = "Market-1501-v15.09.15"
SPLIT_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}

EXPECTED_TREE = f"""\
{FOLDER_NAME}/            (name this folder, or the one that holds it)
├── bounding_box_train/              0002_c1s1_000451_03.jpg …
├── bounding_box_test/               -1_c1s1_000401_03.jpg …
└── query/                           0001_c1s1_001051_00.jpg …
"""

_NAME = re.compile(r"(-?[0-9]{1,9})_c([0-9])")


def read(root: Path) -> ReidFolder:
    """Read the folder. Raises `DatasetError` when one of its three split folders is missing."""
    home = root / FOLDER_NAME if (root / FOLDER_NAME).is_dir() else root
    missing = [f"{name}/" for name in SPLIT_FOLDERS.values() if not (home / name).is_dir()]
    if missing:
        raise layout_error(TITLE, home, missing, EXPECTED_TREE)
    folder = ReidFolder(home, splits={split: [] for split in SPLIT_FOLDERS})
    for split, folder_name in SPLIT_FOLDERS.items():
        _read_split(folder, split, home / folder_name)
    return folder


def _read_split(folder: ReidFolder, split: str, split_folder: Path) -> None:
    for path in list_images(split_folder):
        match = _NAME.match(path.name)
        if match is None:
            name = path.relative_to(folder.root).as_posix()
            folder.skipped.append(SkippedFile(name, "name does not begin with <person>_c<camera>"))
        elif (person_id := int(match[1])) == JUNK_PERSON_ID:
            folder.set_aside["junk detections (person -1)"] += 1
        else:
            folder.splits[split].append(PersonImage(path, person_id, camera_id=int(match[2])))


MARKET1501 = register(
    ReidDatasetSpec(
        name="market1501",
        title=TITLE,
        expected_tree=EXPECTED_TREE,
        read=read,
        published_counts={
            "train": SplitCount(images=12_936, persons=751),
            "query": SplitCount(images=3_368, persons=750),
            "gallery": SplitCount(images=15_913, persons=751),
        },
        protocol="market",
    )
)
