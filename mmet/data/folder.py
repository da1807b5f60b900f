r"""A folder of your own: crops described by a table, or by their file names.

`annotations.csv`, or `annotations.jsonl` with an object a line, has the columns

| column | meaning |
| --- | --- |
| `image` | picture, as a path below the folder |
| `person_id` | whole number, from 0; -1 for a junk detection, which is left out |
| `camera_id` | optional whole number |
| `split` | optional: `train`, `validation`, `test`, `query` or `gallery` |
| `caption` | optional sentence; rows that repeat a picture add theirs. In JSON lines also a list |
| `person_mask` | optional silhouette, as a path below the folder |

Without a table, `pattern` is a regular expression with the groups `person_id` and, optionally, `camera_id` and
`split`. It must match the beginning of the file name or, when it holds a slash, of the path below the folder:

    load_reid_dataset("folder", root, pattern=r"(?P<person_id>\d+)_c(?P<camera_id>\d+)")
    load_reid_dataset("folder", root, pattern=r"(?P<split>train|query|gallery)/(?P<person_id>\d+)/")

`masks` then names a folder with a mask of the same path (of any picture suffix), `captions` a caption file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmet.data.annotations import (
    CAPTION_FIELDS,
    Entry,
    clean_captions,
    read_captions,
    read_csv_entries,
    read_json_lines,
)
from mmet.data.files import UnsafePathError, join_inside, layout_error, list_folders, list_images
from mmet.data.registry import ReidDatasetSpec, ReidOption, register
from mmet.data.schema import JUNK_PERSON_ID, NO_CAMERA, DatasetError, PersonImage, ReidFolder, SkippedFile

TITLE = "a folder of your own"
TABLES = ("annotations.csv", "annotations.jsonl")
SPLITS = ("train", "validation", "test", "query", "gallery")

EXPECTED_TREE = """\
folder/                              of any name, which becomes the domain
├── annotations.csv                  image,person_id,camera_id,split,caption,person_mask (or annotations.jsonl)
└── …                                pictures, in any sub-folders
or without a table: pattern=REGULAR EXPRESSION with the groups person_id, camera_id and split
"""

_ADVICE = (
    "Write a table with at least the columns image and person_id, or say how file names are to be read, for instance\n"
    r"pattern=(?P<person_id>\d+)_c(?P<camera_id>\d+)"
)
_JUNK = "junk detections (person -1)"
_NUMBER = re.compile(r"-?[0-9]{1,18}")


def read(root: Path, *, annotations: str, pattern: str, split: str, masks: str, captions: str) -> ReidFolder:
    """Read the folder. Raises `DatasetError` when it has neither table nor pattern, or a row is malformed."""
    folder = ReidFolder(root, splits={}, domain=root.name)
    table = _find_table(root, annotations)
    if pattern and table is not None and annotations:
        raise DatasetError(f"{root}: give either annotations={annotations} or pattern=, not both")
    if pattern:
        _read_names(folder, _compile(pattern), split)
    elif table is not None:
        _read_table(folder, table, split)
    else:
        raise layout_error(TITLE, root, [annotations or " or ".join(TABLES)], EXPECTED_TREE, _ADVICE)
    if masks:
        _attach_masks(folder, _inside(root, masks, "masks"))
    if captions:
        _attach_captions(folder, _inside(root, captions, "captions"))
    folder.splits = {name: folder.splits[name] for name in SPLITS if name in folder.splits}
    return folder


def _inside(root: Path, name: str, option: str) -> Path:
    """A file or folder that an option names, which must lie in the folder."""
    try:
        path = join_inside(root, name)
    except UnsafePathError as error:
        raise DatasetError(f"{root}: option {option}={name}: {error}; name a path below the folder") from error
    if not path.exists():
        raise DatasetError(f"{root}: option {option}={name}: {path} does not exist")
    return path


def _find_table(root: Path, name: str) -> Path | None:
    if name:
        path = _inside(root, name, "annotations")
        if path.suffix not in (".csv", ".jsonl"):
            raise DatasetError(f"{path}: annotations must be .csv or .jsonl")
        return path
    return next((root / name for name in TABLES if (root / name).is_file()), None)


# -- a table --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Row:
    """A picture as its rows describe it so far."""

    person_id: int
    camera_id: int
    split: str
    person_mask: Path | None
    captions: list[str] = field(default_factory=list)


def _read_table(folder: ReidFolder, table: Path, default_split: str) -> None:
    folder.notes.append(f"described by {table.name}")
    rows: dict[Path, _Row] = {}
    for entry in read_json_lines(table) if table.suffix == ".jsonl" else read_csv_entries(table):
        _read_row(folder, entry, rows, default_split)
    for path, row in rows.items():
        if row.person_id == JUNK_PERSON_ID:
            folder.set_aside[_JUNK] += 1
            continue
        image = PersonImage(path, row.person_id, row.camera_id, tuple(row.captions), row.person_mask)
        folder.splits[row.split].append(image)


def _read_row(folder: ReidFolder, entry: Entry, rows: dict[Path, _Row], default_split: str) -> None:
    name = entry.get("image", str)
    row = _Row(_person(entry), _camera(entry), _split(entry, default_split), None, [])
    row.captions, reasons = clean_captions(_captions(entry))
    folder.skipped.extend(SkippedFile(f"{name} ({entry.place})", reason) for reason in reasons)
    folder.splits.setdefault(row.split, [])
    try:
        path = join_inside(folder.root, name)
        if mask := _optional(entry, "person_mask"):
            row.person_mask = join_inside(folder.root, mask)
    except UnsafePathError as error:
        folder.skipped.append(SkippedFile(f"{name} ({entry.place})", str(error)))
        return
    known = rows.setdefault(path, row)
    if known is row:
        return
    if replace(known, captions=[]) != replace(row, captions=[]):
        reason = "row says something else of its picture than an earlier row"
        folder.skipped.append(SkippedFile(f"{name} ({entry.place})", reason))
        return
    known.captions.extend(caption for caption in row.captions if caption not in known.captions)


def _optional(entry: Entry, name: str) -> str | None:
    """A field of text that may be absent, null or empty."""
    if entry.fields.get(name) is None:
        return None
    return entry.get(name, str).strip() or None


def _person(entry: Entry) -> int:
    person_id = entry.get_number("person_id")
    if person_id < JUNK_PERSON_ID:
        raise entry.error(f"field 'person_id' must be 0 or more, or -1 for junk, {person_id} is not")
    return person_id


def _camera(entry: Entry) -> int:
    if entry.fields.get("camera_id") in (None, ""):
        return NO_CAMERA
    camera_id = entry.get_number("camera_id")
    if camera_id < NO_CAMERA:
        raise entry.error(f"field 'camera_id' must be 0 or more, {camera_id} is not")
    return camera_id


def _split(entry: Entry, default: str) -> str:
    value = _optional(entry, "split") or default
    if value not in SPLITS:
        raise entry.error(f"field 'split' must be one of {', '.join(SPLITS)}, not {value[:40]!r}")
    return value


def _captions(entry: Entry) -> list[str]:
    names = [name for name in CAPTION_FIELDS if entry.fields.get(name) not in (None, "")]
    return [text for name in names for text in entry.get_sentences(name)]


# -- file names -----------------------------------------------------------------------------------------------------


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DatasetError(f"option pattern: {pattern!r} is no regular expression ({error})") from error
    unknown = sorted(set(compiled.groupindex) - {"person_id", "camera_id", "split"})
    if "person_id" not in compiled.groupindex or unknown:
        groups = ", ".join(compiled.groupindex) or "none"
        raise DatasetError(
            f"option pattern: {pattern!r} must have the group person_id and may have camera_id and split; "
            f"it has: {groups}"
        )
    return compiled


def _read_names(folder: ReidFolder, pattern: re.Pattern[str], default_split: str) -> None:
    folder.notes.append(f"file names read by {pattern.pattern}")
    for path in _walk(folder.root):
        match = pattern.match(folder.name_of(path) if "/" in pattern.pattern else path.name)
        if match is None:
            folder.skip(path, "name does not begin as the pattern says")
            continue
        groups = match.groupdict()
        person, camera, split = groups["person_id"], groups.get("camera_id"), groups.get("split") or default_split
        numbers = [text for text in (person, camera) if text is not None]
        if person is None or not all(_NUMBER.fullmatch(text) and int(text) >= -1 for text in numbers):
            folder.skip(path, "the pattern finds no whole number for person or camera")
        elif split not in SPLITS:
            folder.skip(path, f"the pattern finds a split that is none of {', '.join(SPLITS)}")
        elif int(person) == JUNK_PERSON_ID:
            folder.set_aside[_JUNK] += 1
        else:
            camera_id = NO_CAMERA if camera is None else int(camera)
            folder.splits.setdefault(split, []).append(PersonImage(path, int(person), camera_id))


def _walk(folder: Path) -> Iterator[Path]:
    """All pictures, sorted within each folder. Linked folders are entered directly below the root alone."""
    yield from list_images(folder)
    for sub_folder in list_folders(folder):
        yield from _walk_below(sub_folder)


def _walk_below(folder: Path) -> Iterator[Path]:
    yield from list_images(folder)
    for sub_folder in list_folders(folder):
        if not sub_folder.is_symlink():
            yield from _walk_below(sub_folder)


# -- masks and captions beside them ---------------------------------------------------------------------------------


def _attach_masks(folder: ReidFolder, mask_folder: Path) -> None:
    """Masks lie below `mask_folder` as their pictures lie below the root; they are no pictures of their own."""
    if not mask_folder.is_dir():
        raise DatasetError(f"{folder.root}: option masks: {mask_folder} is not a folder")
    masks = {path.relative_to(mask_folder).with_suffix(""): path for path in _walk(mask_folder)}
    folder.skipped = [skip for skip in folder.skipped if mask_folder not in (folder.root / skip.path).parents]
    for split, images in folder.splits.items():
        folder.splits[split] = [
            replace(image, person_mask=masks.get(image.image_path.relative_to(folder.root).with_suffix("")))
            for image in images
            if mask_folder not in image.image_path.parents
        ]


def _attach_captions(folder: ReidFolder, caption_file: Path) -> None:
    sentences: dict[Path, list[str]] = {}
    for name, written in read_captions(caption_file).items():
        kept, reasons = clean_captions(written)
        folder.skipped.extend(SkippedFile(name, reason) for reason in reasons)
        try:
            sentences.setdefault(join_inside(folder.root, name), []).extend(kept)
        except UnsafePathError as error:
            folder.skipped.append(SkippedFile(name, str(error)))
    for split, images in folder.splits.items():
        folder.splits[split] = [
            replace(image, captions=(*image.captions, *sentences.pop(image.image_path, ()))) for image in images
        ]
    for path in sentences:
        folder.skip(path, "caption of a picture that is not there")


FOLDER = register(
    ReidDatasetSpec(
        name="folder",
        title=TITLE,
        expected_tree=EXPECTED_TREE,
        read=read,
        options=(
            ReidOption("annotations", "", f"the table; without it {' or '.join(TABLES)} where there is one"),
            ReidOption("pattern", "", "regular expression for file names, instead of a table"),
            ReidOption("split", "train", "split of pictures of which nothing else is said", SPLITS),
            ReidOption("masks", "", "folder of masks, beside what a table says"),
            ReidOption("captions", "", "caption file, beside what a table says"),
        ),
        licence="your own",
    )
)
