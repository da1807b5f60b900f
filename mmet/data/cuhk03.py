"""CUHK03 (Li et al., "DeepReID", CVPR 2014): boxes drawn by hand (`labeled`) or by a detector (`detected`).

The usual form is CUHK03-NP (Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR
2017): pictures named `0001_c1_1.png` in Market-1501's folders, 767 persons for training and 700 for testing. The
detected boxes are read unless `boxes=labeled` is said or the folder `labeled` itself is named.

The classic form (20 splits into 1,367 and 100 persons) comes as one file, `cuhk-03.mat`, from which
`python -m mmet.data.extract_cuhk03` makes a folder that this reader takes with `split=1` to `split=20`. Its test
pictures are query and gallery both; evaluation's protocol `cuhk03-classic` draws one gallery picture a person of them.
Counts of the new protocol follow from its published index files.
"""

from __future__ import annotations

import re
from pathlib import Path

from mmet.data.annotations import parse_json, read_text
from mmet.data.defects import Defect, DefectKind
from mmet.data.paths import layout_error, list_images
from mmet.data.registry import ReidDatasetSpec, ReidOption, SplitCount, register
from mmet.data.schema import DatasetError, PersonImage, ReidFolder
from mmet.data.split_folders import MARKET_SPLITS, SplitFolders, find_home

TITLE = "CUHK03"
FOLDER_NAMES = ("cuhk03-np", "CUHK03-NP", "cuhk03-classic")
BOXES = ("detected", "labeled")
CLASSIC = "classic"
CLASSIC_SPLITS_FILE, CLASSIC_SPLITS = "splits.json", 20
MAT_FILE = "cuhk-03.mat"

EXPECTED_TREE = """\
cuhk03-np/                           (name this folder, the one that holds it, or detected/ or labeled/)
├── detected/
│   ├── bounding_box_train/          0001_c1_1.png …
│   ├── bounding_box_test/           0002_c1_3.png …
│   └── query/                       0002_c1_1.png …
└── labeled/                         the same
or, made from cuhk-03.mat by python -m mmet.data.extract_cuhk03:
cuhk03-classic/
├── detected/  labeled/              1_001_1_01.png: camera pair, person, view, picture
└── splits.json
"""

_MAT_ADVICE = f"""\
{MAT_FILE} is there; make a folder of pictures from it, which is then the one to name:
python -m mmet.data.extract_cuhk03 --mat {{mat}} --output cuhk03-classic"""

NEW_PROTOCOL = SplitFolders(
    title="CUHK03-NP",
    folder_names=(),
    splits=MARKET_SPLITS,
    pattern=re.compile(r"(?P<person>[0-9]{1,9})_c(?P<camera>[12])_[0-9]+\."),
    example="0001_c1_1.png (<person>_c<camera>_<picture>)",
    expected_tree=EXPECTED_TREE,
)

_CLASSIC_NAME = re.compile(r"(?P<pair>[1-9])_(?P<number>[0-9]{3})_(?P<view>[12])_[0-9]+\.")


def read(root: Path, *, boxes: str, split: int) -> ReidFolder:
    """Read the folder. Raises `DatasetError` when neither form is there, `ValueError` for a split that is not one."""
    home = find_home(root, FOLDER_NAMES)
    if any((home / name).is_dir() for name in MARKET_SPLITS.values()):
        return _read_new_protocol(home, _boxes_of(home, boxes))
    if not (home / boxes).is_dir():
        mat = next((path for path in (home / MAT_FILE, home / "cuhk03_release" / MAT_FILE) if path.is_file()), None)
        advice = _MAT_ADVICE.format(mat=mat) if mat else ""
        raise layout_error(TITLE, home, [f"{boxes}/"], EXPECTED_TREE, advice)
    if (home / CLASSIC_SPLITS_FILE).is_file():
        return _read_classic(home, boxes, split)
    return _read_new_protocol(home / boxes, boxes)


def _boxes_of(home: Path, boxes: str) -> str:
    """The kind of boxes in a folder that is named itself."""
    if home.name == "detected" and boxes == "labeled":
        raise DatasetError(f"{home} holds the detected boxes; for boxes=labeled name the folder labeled beside it")
    return home.name if home.name in BOXES else boxes


def _read_new_protocol(home: Path, boxes: str) -> ReidFolder:
    folder = NEW_PROTOCOL.read(home)
    folder.variant = boxes
    folder.notes.append(f"{boxes} boxes, new protocol")
    return folder


def _read_classic(home: Path, boxes: str, split: int) -> ReidFolder:
    test_persons = _test_persons(home / CLASSIC_SPLITS_FILE, split)
    folder = ReidFolder(home, splits={name: [] for name in MARKET_SPLITS}, variant=CLASSIC)
    folder.notes.append(f"{boxes} boxes, classic split {split} of {CLASSIC_SPLITS}; queries are the gallery as well")
    for path in list_images(home / boxes):
        match = _CLASSIC_NAME.match(path.name)
        if match is None:
            folder.skip(path, Defect(DefectKind.NAME, "name is not like 1_001_1_01.png"))
            continue
        person_id = 1_000 * int(match["pair"]) + int(match["number"])
        image = PersonImage(path, person_id, camera_id=int(match["view"]))
        for name in ("query", "gallery") if person_id in test_persons else ("train",):
            folder.splits[name].append(image)
    return folder


def _test_persons(path: Path, split: int) -> set[int]:
    splits = parse_json(read_text(path), path)
    if not isinstance(splits, list) or not all(isinstance(persons, list) for persons in splits):
        raise DatasetError(f"{path}: must be a list of lists of persons; make the folder anew from {MAT_FILE}")
    if not 1 <= split <= len(splits):
        raise DatasetError(f"{path}: has the splits 1 to {len(splits)}, no split {split}")
    persons = splits[split - 1]
    if not all(isinstance(person, int) for person in persons):
        raise DatasetError(f"{path}: split {split}: persons must be whole numbers")
    return set(persons)


_TEST_PERSONS = 700

CUHK03 = register(
    ReidDatasetSpec(
        name="cuhk03",
        title=TITLE,
        expected_tree=EXPECTED_TREE,
        read=read,
        variant_counts={
            "detected": {
                "train": SplitCount(images=7_365, persons=767),
                "query": SplitCount(images=1_400, persons=_TEST_PERSONS),
                "gallery": SplitCount(images=5_332, persons=_TEST_PERSONS),
            },
            "labeled": {
                "train": SplitCount(images=7_368, persons=767),
                "query": SplitCount(images=1_400, persons=_TEST_PERSONS),
                "gallery": SplitCount(images=5_328, persons=_TEST_PERSONS),
            },
            CLASSIC: {},
        },
        options=(
            ReidOption("boxes", "detected", "who drew the boxes: a detector or people", BOXES),
            ReidOption("split", 1, "which of the 20 classic splits; of no effect on the new protocol", minimum=1),
        ),
        protocol="market",
        licence="for research, by agreement with the authors",
    )
)
