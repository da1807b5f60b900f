r"""A folder of your own: crops described by a table, or by their file names.

`annotations.csv`, or `annotations.jsonl` with an object a line, has the columns

| column | meaning |
| --- | --- |
| `image` | picture, as a path below the folder |
| `person_id` | whole number, from 0, or a word; -1 for a junk detection, which is left out |
| `camera_id` | optional whole number or word |
| `split` | optional: `train`, `validation`, `test`, `query` or `gallery` |
| `caption` | optional sentence; rows that repeat a picture add theirs. In JSON lines also a list |
| `person_mask` | optional silhouette, as a path below the folder |

Without a table, `pattern` is a regular expression with the groups `person_id` and, optionally, `camera_id` and
`split`. It must match the beginning of the file name or, when it holds a slash, of the path below the folder, and
must not end or begin inside of a number, nor end inside of a word:

    load_reid_dataset("folder", root, pattern=r"(?P<person_id>\d+)_c(?P<camera_id>\d+)")
    load_reid_dataset("folder", root, pattern=r"(?P<split>train|query|gallery)/(?P<person_id>\d+)/")

`masks` then names a folder with a mask of the same path (of any picture suffix), `captions` a caption file.

Persons and cameras that are words are numbered in alphabetical order, behind the largest number there is; the words
stand in the columns `person_name` and `camera_name`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import regex

from mmet.data.annotations import (
    CAPTION_FIELDS,
    AnnotationEntry,
    clean_captions,
    find_misspelt,
    parse_id,
    read_captions,
    read_csv_entries,
    read_json_lines,
)
from mmet.data.defects import Defect, DefectKind
from mmet.data.paths import UnsafePathError, display, join_inside, layout_error, list_tree
from mmet.data.registry import ReidDatasetSpec, ReidOption, register
from mmet.data.schema import (
    JUNK_PERSON_ID,
    NO_CAMERA,
    DatasetError,
    PersonImage,
    ReidFolder,
    number_words,
)

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
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "image": ("images", "picture", "path", "file", "filename"),
    "person_id": ("person", "persons", "pid"),
    "camera_id": ("camera", "cameras", "cam", "camid", "camera no", "camera number", "camera name"),
    "split": ("subset", "partition", "set", "phase", "fold", "usage"),
    "caption": (*CAPTION_FIELDS, "description", "descriptions"),
    "person_mask": ("mask", "masks", "mask path", "silhouette"),
}
"""Columns that are read -> other words for them, which are refused rather than left unread."""

_MAX_PATTERN = 1_000
_PATTERN_SECONDS = 2


def read(root: Path, *, annotations: str, pattern: str, split: str, masks: str, captions: str) -> ReidFolder:
    """Read the folder. Raises `DatasetError` when it has neither table nor pattern, or a row is malformed."""
    folder = ReidFolder(root, splits={}, domain=root.name)
    table = None if pattern and not annotations else _find_table(root, annotations)
    if pattern and table is not None:
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
    tables = [root / name for name in TABLES if (root / name).is_file()]
    if len(tables) > 1:
        raise DatasetError(
            f"{root} holds {' and '.join(TABLES)}, which may differ; remove one, or name the one to read "
            f"with annotations={TABLES[0]}"
        )
    return next(iter(tables), None)


# -- a table --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Picture:
    """A picture as its rows describe it: whose it is, and the captions of each split that it stands in."""

    person_id: int | str
    camera_id: int | str
    person_mask: Path | None
    captions: dict[str, list[str]] = field(default_factory=dict)


def _read_table(folder: ReidFolder, table: Path, default_split: str) -> None:
    folder.notes.append(f"described by {table.name}")
    entries = list(read_json_lines(table) if table.suffix == ".jsonl" else read_csv_entries(table))
    if not entries:
        raise DatasetError(f"{table}: the table has no rows")
    _check_columns(folder, table, entries)
    pictures: dict[Path, _Picture] = {}
    for entry in entries:
        _read_row(folder, entry, pictures, default_split)
    people, junk = [], 0
    for path, picture in pictures.items():
        if picture.person_id == JUNK_PERSON_ID:
            junk += 1
            continue
        people += [
            (split, path, picture.person_id, picture.camera_id, captions, picture.person_mask)
            for split, captions in picture.captions.items()
        ]
    _add_people(folder, people, junk)
    masks = {picture.person_mask for picture in pictures.values() if picture.person_mask is not None}
    folder.find_unlisted(_walk(folder), {*pictures, *masks})


def _check_columns(folder: ReidFolder, table: Path, entries: Iterable[AnnotationEntry]) -> None:
    """Raise `DatasetError` for a column that most likely should have another name; note those that are not read."""
    names = dict.fromkeys(name for entry in entries for name in entry.fields)
    has_captions = any(name in names for name in CAPTION_FIELDS)
    wanted = {name: words for name, words in _COLUMNS.items() if not (has_captions and name == "caption")}
    for columns in dict.fromkeys(tuple(entry.fields) for entry in entries):  # a JSON line may be misspelt alone
        for name, meant in find_misspelt(columns, wanted).items():
            raise DatasetError(
                f"{table}: column {name!r} is not one of {', '.join(_COLUMNS)}; is {meant!r} meant? Rename or "
                "remove it"
            )
    unread = [name for name in names if name and name not in (*_COLUMNS, *CAPTION_FIELDS)]
    if unread:
        folder.notes.append(f"columns that are not read: {', '.join(unread)}")


def _read_row(folder: ReidFolder, entry: AnnotationEntry, pictures: dict[Path, _Picture], default_split: str) -> None:
    name, split = entry.get("image", str), _split(entry, default_split)
    row = _Picture(_person(entry), _camera(entry), None)
    captions, defects = clean_captions(_captions(entry))
    folder.skip(f"{name} ({entry.place})", *defects)
    folder.splits.setdefault(split, [])
    try:
        path = join_inside(folder.root, name)
    except UnsafePathError as error:
        folder.skip(f"{name} ({entry.place})", error.defect)
        return
    try:
        if mask := _optional(entry, "person_mask"):
            row.person_mask = join_inside(folder.root, mask)
    except UnsafePathError as error:
        folder.skip(f"{name} ({entry.place})", error.defect.of_mask())
    known = pictures.setdefault(path, row)
    if replace(known, captions={}) != replace(row, captions={}) or not _may_be_both({*known.captions, split}):
        reason = "row says something else of its picture than an earlier row"
        folder.skip(f"{name} ({entry.place})", Defect(DefectKind.CONTRADICTION, reason))
        return
    kept = known.captions.setdefault(split, [])
    kept.extend(caption for caption in captions if caption not in kept)


def _may_be_both(splits: set[str]) -> bool:
    """Whether one picture may stand in all of the splits: a query may be searched for as well."""
    return len(splits) == 1 or splits == {"query", "gallery"}


def _optional(entry: AnnotationEntry, name: str) -> str | None:
    """A field of text that may be absent, null or empty."""
    if entry.fields.get(name) is None:
        return None
    return entry.get(name, str).strip() or None


def _person(entry: AnnotationEntry) -> int | str:
    person_id = entry.get_id("person_id")
    if isinstance(person_id, int) and person_id < JUNK_PERSON_ID:
        raise entry.error(f"field 'person_id' must be 0 or more, or -1 for junk, {person_id} is not")
    return person_id


def _camera(entry: AnnotationEntry) -> int | str:
    value = entry.fields.get("camera_id")
    if value is None or (isinstance(value, str) and not value.strip()):
        return NO_CAMERA
    camera_id = entry.get_id("camera_id")
    if isinstance(camera_id, int) and camera_id < NO_CAMERA:
        raise entry.error(f"field 'camera_id' must be 0 or more, {camera_id} is not")
    return camera_id


def _split(entry: AnnotationEntry, default: str) -> str:
    value = _optional(entry, "split") or default
    if value not in SPLITS:
        raise entry.error(f"field 'split' must be one of {', '.join(SPLITS)}, not {value[:40]!r}")
    return value


def _captions(entry: AnnotationEntry) -> list[str]:
    names = [name for name in CAPTION_FIELDS if entry.fields.get(name) not in (None, "")]
    return [text for name in names for text in entry.get_sentences(name)]


_Person = tuple[str, Path, int | str, int | str, Sequence[str], Path | None]
"""Split, picture, person, camera, captions and mask."""


def _add_people(folder: ReidFolder, people: Sequence[_Person], junk: int) -> None:
    """Add the pictures, with numbers for the persons and cameras that are words."""
    if junk:
        folder.set_aside[_JUNK] += junk
    persons = number_words(person for _, _, person, _, _, _ in people)
    cameras = number_words(camera for _, _, _, camera, _, _ in people)
    for split, path, person, camera, captions, mask in people:
        person_id, camera_id = _number(person, persons), _number(camera, cameras)
        image = PersonImage(path, person_id, camera_id, tuple(captions), mask)
        folder.splits.setdefault(split, []).append(image)
    for kind, numbers in (("person", persons), ("camera", cameras)):
        if numbers:
            first = min(numbers.values())
            folder.notes.append(
                f"{kind}s called by words: {len(numbers):,}, numbered from {first} in alphabetical order"
            )
    folder.person_names = {number: word for word, number in persons.items()}
    folder.camera_names = {number: word for word, number in cameras.items()}


def _number(value: int | str, numbers: Mapping[str, int]) -> int:
    return value if isinstance(value, int) else numbers[value]


# -- file names -----------------------------------------------------------------------------------------------------


def _compile(pattern: str) -> regex.Pattern[str]:
    try:
        if len(pattern) > _MAX_PATTERN:
            raise regex.error(f"longer than {_MAX_PATTERN:,} characters")
        compiled = regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise DatasetError(f"option pattern: {pattern[:80]!r} is not a regular expression ({error})") from error
    unknown = sorted(set(compiled.groupindex) - {"person_id", "camera_id", "split"})
    if "person_id" not in compiled.groupindex or unknown:
        groups = ", ".join(compiled.groupindex) or "none"
        raise DatasetError(
            f"option pattern: {pattern!r} must have the group person_id and may have camera_id and split; "
            f"it has: {groups}"
        )
    return compiled


def _read_names(folder: ReidFolder, pattern: regex.Pattern[str], default_split: str) -> None:
    folder.notes.append(f"file names read by {pattern.pattern}")
    people: list[_Person] = []
    junk = 0
    seen: set[tuple[str, str]] = set()
    for path in _walk(folder):
        groups, problem = _read_name(pattern, folder.name_of(path) if "/" in pattern.pattern else path.name)
        if problem:
            folder.skip(path, Defect(DefectKind.PATTERN, problem))
            continue
        split = groups.get("split") or default_split
        file = (split, os.path.realpath(path))
        if file in seen:
            folder.set_aside["pictures that a linked folder shows again"] += 1
            continue
        seen.add(file)
        if groups["person_id"] == JUNK_PERSON_ID:
            junk += 1
        else:
            camera_id = groups.get("camera_id", NO_CAMERA)
            people.append((split, path, groups["person_id"], camera_id, (), None))
    _add_people(folder, people, junk)


def _read_name(pattern: regex.Pattern[str], name: str) -> tuple[dict[str, Any], str]:
    """Return person, camera (if the pattern has it) and split of a file name, or why the name cannot be read."""
    try:
        match = pattern.match(name, timeout=_PATTERN_SECONDS)
    except TimeoutError as error:
        raise DatasetError(
            f"option pattern: {pattern.pattern[:80]!r} takes more than {_PATTERN_SECONDS} seconds for the name "
            f"{display(name)[:80]!r}; simplify it, above all repetitions inside of repetitions"
        ) from error
    if match is None:
        return {}, "name does not begin as the pattern says"
    groups: dict[str, Any] = {group: text for group, text in match.groupdict().items() if text is not None}
    for group in ("person_id", "camera_id"):
        if group in groups and _is_cut(match, group):
            return {}, f"the pattern reads a part of a number or word as {group}"
        try:
            groups |= {group: parse_id(groups[group])} if group in groups else {}
        except ValueError:
            return {}, f"the pattern finds neither a whole number nor a word as {group}"
        if isinstance(groups.get(group), int) and groups[group] < -1:
            return {}, f"the pattern finds a {group} below -1"
    if "person_id" not in groups:
        return {}, "the pattern finds no person_id"
    if groups.get("split") not in (None, "", *SPLITS):
        return {}, f"the pattern finds a split that is not one of {', '.join(SPLITS)}"
    return groups, ""


def _is_cut(match: regex.Match[str], group: str) -> bool:
    """Whether the group reads a part of a number whose rest no group reads, or ends the match inside of a word."""
    name, (start, end) = match.string, match.span(group)
    spans = [match.span(number) for number in range(1, match.re.groups + 1)]
    cut_before = start > 0 and name[start - 1 : start + 1].isdigit() and all(stop != start for _, stop in spans)
    cut_behind = end > start and name[end - 1 : end + 1].isdigit() and end < len(name)
    cut_word = end > start and end == match.end() and name[end - 1 : end + 1].isalpha() and end < len(name)
    return cut_before or cut_word or (cut_behind and all(begin != end for begin, _ in spans))


def _walk(folder: ReidFolder) -> list[Path]:
    """All pictures; folders that cannot be looked into are skipped. Linked ones are entered below the root alone."""
    pictures, unreadable = list_tree(folder.root)
    for place in unreadable:
        folder.skip(place, Defect(DefectKind.FOLDER_CLOSED, "folder cannot be looked into"))
    return pictures


# -- masks and captions beside them ---------------------------------------------------------------------------------


def _attach_masks(folder: ReidFolder, mask_folder: Path) -> None:
    """Masks lie below `mask_folder` as their pictures lie below the root; they are no pictures of their own."""
    if not mask_folder.is_dir():
        raise DatasetError(f"{folder.root}: option masks: {mask_folder} is not a folder")
    masks = {path.relative_to(mask_folder).with_suffix(""): path for path in list_tree(mask_folder)[0]}
    folder.skipped = [skip for skip in folder.skipped if mask_folder not in (folder.root / skip.path).parents]
    folder.unlisted = [name for name in folder.unlisted if mask_folder not in (folder.root / name).parents]
    for split, images in folder.splits.items():
        folder.splits[split] = [
            replace(image, person_mask=masks.get(image.image_path.relative_to(folder.root).with_suffix("")))
            for image in images
            if mask_folder not in image.image_path.parents
        ]


def _attach_captions(folder: ReidFolder, caption_file: Path) -> None:
    sentences: dict[Path, list[str]] = {}
    for name, written in read_captions(caption_file).items():
        kept, defects = clean_captions(written)
        folder.skip(name, *defects)
        try:
            sentences.setdefault(join_inside(folder.root, name), []).extend(kept)
        except UnsafePathError as error:
            folder.skip(name, error.defect)
    for split, images in folder.splits.items():
        folder.splits[split] = [
            replace(image, captions=(*image.captions, *sentences.pop(image.image_path, ()))) for image in images
        ]
    for path in sentences:
        folder.skip(path, Defect(DefectKind.CAPTION_WITHOUT_PICTURE, "caption of a picture that is not there"))


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
