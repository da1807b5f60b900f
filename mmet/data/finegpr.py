"""FineGPR (Xiang et al.), rendered people with fine-grained attributes, and the sentences of FineGPR-C.

File names read `0001_c01_w01_l01_p01.jpg`: person, viewpoint (1 to 36, every 10 degrees), weather, light, scene. The
viewpoint is the camera. One split, `train`. Body masks and captions come apart from the pictures and are used where
they are there. Counts and naming as in the readme of https://github.com/JeremyXSC/FineGPR.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from mmet.data.annotations import clean_captions, read_captions
from mmet.data.files import layout_error, list_folders, list_images
from mmet.data.registry import ReidDatasetSpec, SplitCount, register
from mmet.data.schema import PersonImage, ReidFolder, SkippedFile

TITLE = "FineGPR"
DATASET_FOLDER = "FineGPR_Dataset"
FULL_FOLDER = "FineGPR"
SUBSET_FOLDER = "FineGPR_subset"
MASK_FOLDER = "FineGPR_masks"
CAPTION_FILES = ("FineGPR-C.json", "FineGPR-C.jsonl", "FineGPR-C.csv")
ATTRIBUTE_FILE = "attributes.csv"

EXPECTED_TREE = """\
FineGPR_Dataset/                     (name this folder, the one that holds it, or the picture folder)
├── FineGPR/                         the full set
│   └── 0001/                        0001_c01_w01_l01_p01.jpg …
├── FineGPR_subset/                  or the sample instead: pictures without sub-folders
├── FineGPR_masks/                   optional
│   └── 0001/                        0001_c01_w01_l01_p01.png …
└── FineGPR-C.json                   optional captions, also .jsonl or .csv
"""

_STEM = re.compile(r"([0-9]{1,9})_c([0-9]{1,3})_w[0-9]+_l[0-9]+_p[0-9]+")


def read(root: Path) -> ReidFolder:
    """Read the folder. Raises `DatasetError` when no FineGPR picture is in it or the caption file is malformed."""
    home, picture_folder = _find_folders(root)
    folder = ReidFolder(home, splits={"train": []}, is_subset=picture_folder.name == SUBSET_FOLDER)
    paths = _list_pictures(picture_folder)
    if not any(_STEM.fullmatch(path.stem) for path in paths):
        raise layout_error(TITLE, root, ["picture named like 0001_c01_w01_l01_p01.jpg"], EXPECTED_TREE)
    if folder.is_subset:
        folder.notes.append("the published sample of FineGPR, not the full set")
    _read_pictures(folder, paths)
    _attach_masks(folder)
    _attach_captions(folder)
    return folder


def _find_folders(root: Path) -> tuple[Path, Path]:
    """The dataset's own folder and the picture folder in it (or the two in one, under a name of the user's own)."""
    for home in (root, root / DATASET_FOLDER):
        for name in (FULL_FOLDER, SUBSET_FOLDER):
            if (home / name).is_dir():
                return home, home / name
    if root.name in (FULL_FOLDER, SUBSET_FOLDER):
        return root.parent, root
    return root, root


def _list_pictures(folder: Path) -> list[Path]:
    """Pictures in `folder` and one level below, which is how the full set, the sample and the masks are stored."""
    paths = list_images(folder)
    for sub_folder in list_folders(folder):
        if sub_folder.name != MASK_FOLDER:
            paths.extend(list_images(sub_folder))
    return paths


def _skip(folder: ReidFolder, path: Path, reason: str) -> None:
    folder.skipped.append(SkippedFile(path.relative_to(folder.root).as_posix(), reason))


def _read_pictures(folder: ReidFolder, paths: Iterable[Path]) -> None:
    seen: set[str] = set()
    for path in paths:
        match = _STEM.fullmatch(path.stem)
        if match is None:
            _skip(folder, path, "name is not like 0001_c01_w01_l01_p01.jpg")
        elif path.stem in seen:
            _skip(folder, path, "another picture has the same name")
        else:
            seen.add(path.stem)
            folder.splits["train"].append(PersonImage(path, person_id=int(match[1]), camera_id=int(match[2])))


def _attach_masks(folder: ReidFolder) -> None:
    mask_folder = folder.root / MASK_FOLDER
    if not mask_folder.is_dir():
        return
    masks = {path.stem: path for path in _list_pictures(mask_folder)}
    images = folder.splits["train"]
    folder.splits["train"] = [replace(image, person_mask=masks.pop(image.image_path.stem, None)) for image in images]
    for path in masks.values():
        _report_surplus(folder, path.relative_to(folder.root).as_posix(), "mask")


def _report_surplus(folder: ReidFolder, name: str, kind: str) -> None:
    """A mask or caption without its picture: expected beside the published sample, a defect beside the full set."""
    if folder.is_subset:
        folder.set_aside[f"{kind}s of pictures outside the sample"] += 1
    else:
        folder.skipped.append(SkippedFile(name, f"{kind} of a picture that is not there"))


def _attach_captions(folder: ReidFolder) -> None:
    found = [folder.root / name for name in CAPTION_FILES if (folder.root / name).is_file()]
    if not found:
        if (folder.root / ATTRIBUTE_FILE).is_file():
            folder.notes.append(f"no caption file; {ATTRIBUTE_FILE} is there, from which captions can be made")
        return
    path, *unread = found
    folder.notes.append(f"captions from {path.name}" + "".join(f"; {other.name} not read" for other in unread))
    by_picture = _match_captions(folder, read_captions(path))
    images = folder.splits["train"]
    folder.splits["train"] = [replace(image, captions=tuple(by_picture.get(image.image_path, ()))) for image in images]


def _match_captions(folder: ReidFolder, captions: dict[str, list[str]]) -> dict[Path, list[str]]:
    """Captions by picture; the file may give relative paths or bare names, since names are unique in FineGPR."""
    pictures = {image.image_path.stem: image.image_path for image in folder.splits["train"]}
    by_picture: dict[Path, list[str]] = {}
    for name, sentences in captions.items():
        picture = pictures.get(PurePosixPath(name.replace("\\", "/")).stem)
        if picture is None:
            _report_surplus(folder, name, "caption")
            continue
        kept, reasons = clean_captions(sentences)
        by_picture.setdefault(picture, []).extend(kept)
        folder.skipped.extend(SkippedFile(name, reason) for reason in reasons)
    return by_picture


FINEGPR = register(
    ReidDatasetSpec(
        name="finegpr",
        title=TITLE,
        expected_tree=EXPECTED_TREE,
        read=read,
        published_counts={"train": SplitCount(images=2_028_600, persons=1_150)},
        licence="for research only (terms of the FineGPR repository)",
    )
)
