"""FineGPR (Xiang et al.), rendered people with fine-grained attributes, and the sentences of FineGPR-C.

File names read `0001_c01_w01_l01_p01.jpg`: person, viewpoint (1 to 36, every 10 degrees), weather, light, scene. The
viewpoint is the camera. One split, `train`. Body masks and captions are published apart from the pictures and are used
if present; `captions=attributes` generates sentences from `attributes.csv` instead. Counts and naming as in the
readme of https://github.com/JeremyXSC/FineGPR.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from mmet.data.annotations import AnnotationEntry, clean_captions, read_captions, read_csv_entries
from mmet.data.defects import Defect, DefectKind
from mmet.data.finegpr_captions import ATTRIBUTE_VALUES, Conditions, attribute_value, write_caption
from mmet.data.paths import is_hidden, layout_error, list_folders, list_images
from mmet.data.registry import ReidDatasetSpec, ReidOption, SplitCount, register
from mmet.data.schema import DatasetError, PersonImage, ReidFolder

TITLE = "FineGPR"
DATASET_FOLDER = "FineGPR_Dataset"
FULL_FOLDER = "FineGPR"
SUBSET_FOLDER = "FineGPR_subset"
SUBSET = "subset"
MASK_FOLDER = "FineGPR_masks"
KEYPOINT_FOLDER = "FineGPR_keypoints"
CAPTION_FILES = ("FineGPR-C.json", "FineGPR-C.jsonl", "FineGPR-C.csv")
ATTRIBUTE_FILE = "attributes.csv"

FROM_FILE, FROM_ATTRIBUTES, NO_CAPTIONS = "file", "attributes", "none"

EXPECTED_TREE = """\
FineGPR_Dataset/                     (name this folder, the one that holds it, or the picture folder)
├── FineGPR/                         the full set
│   └── 0001/                        0001_c01_w01_l01_p01.jpg …
├── FineGPR_subset/                  or the sample instead: pictures without sub-folders
├── FineGPR_masks/                   optional
│   └── 0001/                        0001_c01_w01_l01_p01.png …
├── FineGPR_keypoints/               optional; counted, not read
├── FineGPR-C.json                   optional captions, also .jsonl or .csv
└── attributes.csv                   optional: id,gender,hair,age,…, to make captions from
"""

_STEM = re.compile(r"([0-9]{1,9})_c([0-9]{1,3})_w([0-9]{1,3})_l([0-9]{1,3})_p[0-9]{1,3}")


def read(root: Path, *, captions: str, captions_per_image: int, caption_seed: int) -> ReidFolder:
    """Read the folder. Raises `DatasetError` when no FineGPR picture is in it or the caption file is malformed."""
    home, picture_folder = _find_folders(root)
    folder = ReidFolder(home, splits={"train": []})
    paths = _list_pictures(picture_folder)
    if not any(_STEM.fullmatch(path.stem) for path in paths):
        raise layout_error(TITLE, root, ["picture named like 0001_c01_w01_l01_p01.jpg"], EXPECTED_TREE)
    if picture_folder.name == SUBSET_FOLDER:
        folder.variant = SUBSET
        folder.notes.append("the published sample of FineGPR, not the full set")
    _read_pictures(folder, paths)
    _attach_masks(folder)
    _count_keypoints(folder)
    if captions == FROM_FILE:
        _attach_captions(folder)
    elif captions == FROM_ATTRIBUTES:
        _generate_captions(folder, captions_per_image, caption_seed)
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
        if sub_folder.name not in (MASK_FOLDER, KEYPOINT_FOLDER):
            paths.extend(list_images(sub_folder))
    return paths


def _read_pictures(folder: ReidFolder, paths: Iterable[Path]) -> None:
    seen: set[str] = set()
    for path in paths:
        match = _STEM.fullmatch(path.stem)
        if match is None:
            folder.skip(path, Defect(DefectKind.NAME, "name is not like 0001_c01_w01_l01_p01.jpg"))
        elif path.stem in seen:
            folder.skip(path, Defect(DefectKind.NAME_TWICE, "another picture has the same name"))
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
        _report_surplus(folder, folder.name_of(path), "mask", DefectKind.MASK_WITHOUT_PICTURE)


def _count_keypoints(folder: ReidFolder) -> None:
    """Note the number of keypoint files, which the schema has no column for."""
    keypoint_folder = folder.root / KEYPOINT_FOLDER
    if not keypoint_folder.is_dir():
        return
    pictures = {image.image_path.stem for image in folder.splits["train"]}
    folders = [keypoint_folder, *list_folders(keypoint_folder)]
    stems = {path.stem for place in folders for path in place.iterdir() if path.is_file() and not is_hidden(path.name)}
    folder.notes.append(f"{KEYPOINT_FOLDER} has keypoints of {len(stems & pictures):,} pictures; they are not read")


def _report_surplus(folder: ReidFolder, name: str, what: str, kind: DefectKind) -> None:
    """A mask or caption without its picture: expected beside the published sample, a defect beside the full set."""
    if folder.variant == SUBSET:
        folder.set_aside[f"{what}s of pictures outside the sample"] += 1
    else:
        folder.skip(name, Defect(kind, f"{what} of a picture that is not there"))


def _attach_captions(folder: ReidFolder) -> None:
    files = [folder.root / name for name in CAPTION_FILES if (folder.root / name).is_file()]
    if not files:
        if (folder.root / ATTRIBUTE_FILE).is_file():
            folder.notes.append(f"no caption file; captions=attributes makes captions from {ATTRIBUTE_FILE}")
        return
    path, *unread = files
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
            _report_surplus(folder, name, "caption", DefectKind.CAPTION_WITHOUT_PICTURE)
            continue
        kept, defects = clean_captions(sentences)
        by_picture.setdefault(picture, []).extend(kept)
        folder.skip(name, *defects)
    return by_picture


def read_attributes(path: Path) -> dict[int, dict[str, str]]:
    """Attributes by person from a CSV file with the columns `id` and those of `ATTRIBUTE_VALUES`, in words or codes.

    Raises:
        DatasetError: a column is missing, a value is none of the attribute's, or a person has two rows.
    """
    persons: dict[int, dict[str, str]] = {}
    for entry in read_csv_entries(path):
        person_id = entry.get_number("id")
        if person_id in persons:
            raise entry.error(f"person {person_id} has a row already")
        persons[person_id] = {name: _attribute(entry, name) for name in ATTRIBUTE_VALUES}
    if not persons:
        raise DatasetError(f"{path}: holds no attributes")
    return persons


def _attribute(entry: AnnotationEntry, name: str) -> str:
    try:
        return attribute_value(name, entry.get(name, str))
    except DatasetError:
        raise
    except ValueError as error:
        raise entry.error(f"field {name!r} {error}") from error


def _generate_captions(folder: ReidFolder, captions_per_image: int, seed: int) -> None:
    path = folder.root / ATTRIBUTE_FILE
    if not path.is_file():
        raise DatasetError(
            f"{TITLE}: captions=attributes needs {path}, which is not there; without it say captions=file"
        )
    persons = read_attributes(path)
    folder.notes.append(f"captions made from {ATTRIBUTE_FILE}: {captions_per_image} an image, seed {seed}")
    images = folder.splits["train"]
    folder.splits["train"] = [
        replace(image, captions=_captions_of(image, persons, captions_per_image, seed)) for image in images
    ]
    lacking = sorted({image.person_id for image in images} - set(persons))
    defect = Defect(DefectKind.NO_ATTRIBUTES, f"not in {ATTRIBUTE_FILE}, no caption")
    for person in lacking:
        folder.skip(f"person {person:04d}", defect)


def _captions_of(image: PersonImage, persons: dict[int, dict[str, str]], count: int, seed: int) -> tuple[str, ...]:
    """Generate the picture's sentences, seeded by its name, so that they do not depend on other pictures."""
    attributes, match = persons.get(image.person_id), _STEM.fullmatch(image.image_path.stem)
    if attributes is None or match is None:
        return ()
    _, camera, weather, light = map(int, match.groups())
    try:
        conditions = Conditions.of(camera, weather, light)
    except ValueError:
        return ()
    rng = np.random.default_rng([seed, *image.image_path.stem.encode("ascii")])
    return tuple(dict.fromkeys(write_caption(attributes, conditions, rng) for _ in range(count)))


FINEGPR = register(
    ReidDatasetSpec(
        name="finegpr",
        title=TITLE,
        expected_tree=EXPECTED_TREE,
        read=read,
        published_counts={"train": SplitCount(images=2_028_600, persons=1_150)},
        variant_counts={SUBSET: {}},
        options=(
            ReidOption(
                "captions",
                FROM_FILE,
                "the caption file where there is one, sentences made from the attributes, or none",
                (FROM_FILE, FROM_ATTRIBUTES, NO_CAPTIONS),
            ),
            ReidOption("captions_per_image", 2, "sentences made for each picture", minimum=1, maximum=100),
            ReidOption("caption_seed", 0, "seed of the sentences made"),
        ),
        licence="for research only, not to be passed on (terms of the FineGPR repository)",
    )
)
