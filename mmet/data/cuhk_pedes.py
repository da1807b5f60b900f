"""CUHK-PEDES (Li et al., "Person Search with Natural Language Description", CVPR 2017).

`reid_raw.json` is a list of objects with `split`, `id`, `file_path` (below `imgs/`) and `captions`; there are no
cameras. The older `caption_all.json` lacks the split. Counts as commonly published for this split, see the readers of
https://github.com/anosorae/IRRA.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mmet.data.annotations import Entry, clean_captions, read_entries
from mmet.data.files import UnsafePathError, join_inside, layout_error
from mmet.data.registry import ReidDatasetSpec, SplitCount, register
from mmet.data.schema import PersonImage, ReidFolder, SkippedFile

TITLE = "CUHK-PEDES"
DATASET_FOLDER = "CUHK-PEDES"
IMAGE_FOLDER = "imgs"
ANNOTATION_FILE = "reid_raw.json"
OLD_ANNOTATION_FILE = "caption_all.json"
SPLITS = {"train": "train", "val": "validation", "test": "test"}

EXPECTED_TREE = """\
CUHK-PEDES/                          (name this folder, or the one that holds it)
├── imgs/
│   ├── CUHK01/  CUHK03/  Market/  cam_a/  cam_b/
│   └── test_query/  train_query/
└── reid_raw.json                    list of {"split", "id", "file_path", "captions"}
"""

_OLD_FILE_ADVICE = f"""\
{OLD_ANNOTATION_FILE} is there, but it does not say which picture is for training and which for testing.
{ANNOTATION_FILE} does; it is part of the current release, to be had from the dataset's authors
(https://github.com/ShuangLI59/Person-Search-with-Natural-Language-Description). Renaming the file does not help."""


def read(root: Path) -> ReidFolder:
    """Read the folder. Raises `DatasetError` when pictures or annotations are missing or an entry is malformed."""
    home = root / DATASET_FOLDER if (root / DATASET_FOLDER).is_dir() else root
    _require_layout(home)
    folder = ReidFolder(home, splits={})
    merged: dict[Path, tuple[str, PersonImage]] = {}
    for entry in read_entries(home / ANNOTATION_FILE):
        _read_entry(folder, entry, merged)
    folder.splits = {split: [] for split in SPLITS.values() if split in folder.splits}
    for split, image in merged.values():
        folder.splits[split].append(image)
    return folder


def _require_layout(home: Path) -> None:
    missing = [] if (home / IMAGE_FOLDER).is_dir() else [f"{IMAGE_FOLDER}/"]
    advice = ""
    if not (home / ANNOTATION_FILE).is_file():
        missing.append(ANNOTATION_FILE)
        advice = _OLD_FILE_ADVICE if (home / OLD_ANNOTATION_FILE).is_file() else ""
    if missing:
        raise layout_error(TITLE, home, missing, EXPECTED_TREE, advice)


def _read_entry(folder: ReidFolder, entry: Entry, merged: dict[Path, tuple[str, PersonImage]]) -> None:
    """Add one entry to `merged`; entries that repeat a picture add the captions it does not have yet."""
    name, split, person_id = entry.get("file_path", str), _split(entry), entry.get("id", int)
    folder.splits.setdefault(split, [])
    captions, reasons = clean_captions(entry.get_strings("captions"))
    folder.skipped.extend(SkippedFile(f"{name} ({entry.place})", reason) for reason in reasons)
    try:
        path = join_inside(folder.root / IMAGE_FOLDER, name)
    except UnsafePathError as error:
        folder.skipped.append(SkippedFile(f"{name} ({entry.place})", str(error)))
        return
    if path not in merged:
        merged[path] = split, PersonImage(path, person_id, captions=tuple(captions))
        return
    earlier_split, image = merged[path]
    if (earlier_split, image.person_id) != (split, person_id):
        reason = "entry gives its picture another person or split than an earlier entry"
        folder.skipped.append(SkippedFile(f"{name} ({entry.place})", reason))
        return
    new = [caption for caption in captions if caption not in image.captions]
    merged[path] = split, replace(image, captions=(*image.captions, *new))


def _split(entry: Entry) -> str:
    value = entry.get("split", str)
    if value not in SPLITS:
        raise entry.error(f"field 'split' must be one of {', '.join(SPLITS)}, not {value!r}")
    return SPLITS[value]


CUHK_PEDES = register(
    ReidDatasetSpec(
        name="cuhk_pedes",
        title=TITLE,
        expected_tree=EXPECTED_TREE,
        read=read,
        published_counts={
            "train": SplitCount(images=34_054, persons=11_003, captions=68_126),
            "validation": SplitCount(images=3_078, persons=1_000, captions=6_158),
            "test": SplitCount(images=3_074, persons=1_000, captions=6_156),
        },
        protocol="text-to-image",
    )
)
