"""MSMT17 (Wei et al., "Person Transfer GAN to Bridge Domain Gap for Person Re-Identification", CVPR 2018), V1 and V2.

Four lists name the pictures, one `0000/0000_000_01_0303morning_0008_0.jpg 0` a line: path below the train or test
folder, person. The third number of a name is the camera, 1 to 15. V2 is V1 with blurred faces in folders of other
names. Persons of the test set are numbered from 0 again; here they follow those of the training set, so that one
number is one person. Tools differ in whether the pictures of list_val.txt, of the same persons as list_train.txt,
belong to the training set: the published 32,621 count them, so they do here, unless `train=train` leaves them out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from mmet.data.annotations import read_text
from mmet.data.defects import Defect, DefectKind
from mmet.data.paths import UnsafePathError, join_inside, layout_error, list_tree
from mmet.data.registry import ReidDatasetSpec, ReidOption, SplitCount, register
from mmet.data.schema import DatasetError, PersonImage, ReidFolder
from mmet.data.split_folders import find_home

TITLE = "MSMT17"
FOLDER_NAMES = ("MSMT17_V1", "MSMT17_V2", "MSMT17")
PICTURE_FOLDERS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
TRAIN_LIST, VAL_LIST = "list_train.txt", "list_val.txt"
TEST_LISTS = {"query": "list_query.txt", "gallery": "list_gallery.txt"}
TRAIN_PERSONS = 1_041
WITH_VAL, WITHOUT_VAL = "train+val", "train"

EXPECTED_TREE = """\
MSMT17_V1/                           (name this folder, or the one that holds it; MSMT17_V2 likewise)
├── train/                           V2: mask_train_v2/; 0000/0000_000_01_0303morning_0008_0.jpg …
├── test/                            V2: mask_test_v2/
├── list_train.txt  list_val.txt     lines of "0000/0000_000_01_0303morning_0008_0.jpg 0"
└── list_query.txt  list_gallery.txt
"""

_LINE = re.compile(r"(?P<path>\S.*?)\s+(?P<person>[0-9]{1,9})")
_STEM = re.compile(r"[0-9]+_[0-9]+_(?P<camera>[0-9]{1,3})_")


def read(root: Path, *, train: str) -> ReidFolder:
    """Read the folder. Raises `DatasetError` when its lists or folders are missing or a line is malformed."""
    home = find_home(root, FOLDER_NAMES)
    version = _version(home)
    train_folder, test_folder = PICTURE_FOLDERS[version]
    folder = ReidFolder(home, splits={"train": []}, variant=train)
    folder.notes.append(f"MSMT17 {version}" + (" (faces blurred)" if version == "V2" else ""))
    named: set[Path] = set()
    _read_list(folder, "train", TRAIN_LIST, train_folder)
    if train == WITH_VAL:
        _read_list(folder, "train", VAL_LIST, train_folder)
    elif (home / VAL_LIST).is_file():
        unused = [name for _, name, _ in _lines(home / VAL_LIST)]
        folder.set_aside[f"pictures of {VAL_LIST} (train={train})"] += len(unused)
        named |= _joined(home / train_folder, unused)
    for split, list_name in TEST_LISTS.items():
        folder.splits[split] = []
        _read_list(folder, split, list_name, test_folder, first_person=TRAIN_PERSONS)
    if not folder.missing:
        named.update(image.image_path for images in folder.splits.values() for image in images)
        named.update(home / skip.path for skip in folder.skipped)
        folder.find_unlisted([*list_tree(home / train_folder)[0], *list_tree(home / test_folder)[0]], named)
    return folder


def _joined(base: Path, names: Iterable[str]) -> set[Path]:
    """The paths of those names that lie below `base`."""
    paths = set()
    for name in names:
        with suppress(UnsafePathError):
            paths.add(join_inside(base, name))
    return paths


def _version(home: Path) -> str:
    present = [version for version, names in PICTURE_FOLDERS.items() if any((home / name).is_dir() for name in names)]
    lists = [name for name in (TRAIN_LIST, VAL_LIST, *TEST_LISTS.values()) if (home / name).is_file()]
    if len(present) > 1:
        both = ", ".join(f"{name}/" for names in PICTURE_FOLDERS.values() for name in names)
        raise DatasetError(f"{home} holds V1 and V2 of {TITLE} at once ({both}); move one of them elsewhere")
    missing = [*([] if present else ["train/ (V1)", "mask_train_v2/ (V2)"]), *([] if lists else [TRAIN_LIST])]
    if missing:
        raise layout_error(TITLE, home, missing, EXPECTED_TREE)
    return present[0]


def _read_list(folder: ReidFolder, split: str, list_name: str, picture_folder: str, first_person: int = 0) -> None:
    """Add the pictures of a list, each once; note what is not there."""
    if not (folder.root / list_name).is_file():
        folder.missing.append(list_name)
        return
    if not (folder.root / picture_folder).is_dir():
        if f"{picture_folder}/" not in folder.missing:
            folder.missing.append(f"{picture_folder}/")
        return
    seen = {image.image_path for image in folder.splits[split]}
    for place, name, person in _lines(folder.root / list_name):
        match = _STEM.match(name.rpartition("/")[2])
        try:
            path = join_inside(folder.root / picture_folder, name)
        except UnsafePathError as error:
            folder.skip(f"{name} ({place})", error.defect)
            continue
        if match is None:
            folder.skip(path, Defect(DefectKind.NAME, "name is not like 0000_000_01_0303morning_0008_0.jpg"))
        elif path in seen:
            folder.skip(path, Defect(DefectKind.LISTED_TWICE, "listed twice"))
        else:
            seen.add(path)
            folder.splits[split].append(PersonImage(path, first_person + person, int(match["camera"])))


def _lines(path: Path) -> Iterator[tuple[str, str, int]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise DatasetError(f'{path}: line {number}: must be "<picture> <person>", is {line[:80]!a}')
        yield f"{path.name}, line {number}", match["path"].replace("\\", "/"), int(match["person"])


_TEST_COUNTS = {"query": SplitCount(images=11_659, persons=3_060), "gallery": SplitCount(images=82_161, persons=3_060)}

MSMT17 = register(
    ReidDatasetSpec(
        name="msmt17",
        title=TITLE,
        expected_tree=EXPECTED_TREE,
        read=read,
        published_counts={"train": SplitCount(images=32_621, persons=TRAIN_PERSONS), **_TEST_COUNTS},
        # Tools that leave list_val.txt out print 30,248 images for the rest.
        variant_counts={WITHOUT_VAL: {"train": SplitCount(images=30_248, persons=TRAIN_PERSONS), **_TEST_COUNTS}},
        options=(
            ReidOption("train", WITH_VAL, "whether list_val.txt belongs to the training set", (WITH_VAL, WITHOUT_VAL)),
        ),
        protocol="market",
        licence="for research, by agreement with the authors; not to be passed on",
    )
)
