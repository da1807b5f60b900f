"""Examine a dataset folder: what it holds, what is wrong with it, and how to fix it, as `mmet.data.doctor` shows.

diagnosis = diagnose(parse_data_argument("market1501=/data/Market-1501-v15.09.15"))
diagnosis.fit, diagnosis.findings
"""

from __future__ import annotations

import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mmet.data.data_argument import DataArgument
from mmet.data.defects import Defect, DefectKind
from mmet.data.loading import SplitTotals, count_split, is_as_published, read_reid_folder
from mmet.data.masks import MaskSummary, measure_masks
from mmet.data.parquet import MANIFEST, verify_parquet
from mmet.data.paths import IMAGE_SUFFIXES, display, is_hidden, shorten, walk_files
from mmet.data.picture_checks import find_content_defects, find_undecodable
from mmet.data.registry import ReidDatasetSpec, SplitCount, get_spec
from mmet.data.schema import JUNK_PERSON_ID, NO_CAMERA, DatasetError, ReidFolder

Severity = Literal["error", "warning", "note"]
_EXAMPLES = 3
_MASK_SAMPLE = 2_000  # masks that are read to say what masks mean, spread over all
_TREE_FOLDERS, _SUB_FOLDERS = 24, 8
_OTHER_PICTURES = frozenset(
    {".avif", ".heic", ".heif", ".ico", ".j2k", ".jp2", ".jxl", ".pbm", ".pcx", ".pgm", ".ppm", ".psd", ".tga"}
)
_TEST_SPLITS = ("query", "gallery", "test")
FIXES: Mapping[DefectKind, str] = {
    DefectKind.ABSOLUTE_PATH: "write the path below the folder in the annotation",
    DefectKind.CAPTION_NOT_TEXT: "write the sentence as UTF-8",
    DefectKind.CAPTION_WITHOUT_PICTURE: "restore the picture, or remove the caption",
    DefectKind.CONTRADICTION: "correct the annotation, or remove what is wrong of it",
    DefectKind.DAMAGED: "copy the file again from the archive",
    DefectKind.EMPTY_CAPTION: "write the sentence, or remove it from the annotation",
    DefectKind.EMPTY_FILE: "copy the file again from the archive",
    DefectKind.EMPTY_PATH: "write the path in the annotation",
    DefectKind.FOLDER_CLOSED: (
        "give yourself the right to read it, or move its pictures up to where their paths are shorter"
    ),
    DefectKind.LINK_LEADS_OUT: "copy the pictures into the folder, or link a whole folder directly below it",
    DefectKind.LISTED_TWICE: "remove the second line",
    DefectKind.MASK: "restore the mask; until then its picture is used without",
    DefectKind.MASK_WITHOUT_PICTURE: "restore the picture, or remove the mask",
    DefectKind.MISSING: "unpack the archive again, or copy the file to this place",
    DefectKind.NAME: "rename the file as the layout has it, or remove it",
    DefectKind.NAME_NOT_TEXT: "rename the file, for instance with convmv -f latin1 -t utf8",
    DefectKind.NAME_TOO_LONG: "give the file a shorter name, in the annotation as well",
    DefectKind.NAME_TWICE: "keep the picture in one place, and remove the other",
    DefectKind.NO_ATTRIBUTES: "add a row for the person",
    DefectKind.NO_FILE: "put the picture itself in this place",
    DefectKind.NO_PICTURE: "copy the file again from the archive, or save it as JPEG or PNG",
    DefectKind.PATH: "correct the path in the annotation; it must lie below the folder",
    DefectKind.PATH_TOO_LONG: "move the folder to where paths are shorter",
    DefectKind.PATTERN: "correct the pattern, or rename the file",
    DefectKind.PIXELS: "save it with 8 or 16 bits",
    DefectKind.TOO_LARGE: "replace it by the picture at the size of a crop",
    DefectKind.UNREADABLE: "give yourself the right to read it, or copy the file again from the archive",
}
"""How to fix each kind of defect."""
_OR_PARTIAL = ", or say --allow_partial"


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding about a folder.

    Attributes:
        severity: "error" makes the folder unfit; a "note" needs no action.
        what: the finding in a sentence.
        fix: what to do about it; empty if nothing.
        count: number of files or persons concerned.
        examples: the first of them.
    """

    severity: Severity
    what: str
    fix: str = ""
    count: int = 1
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MaskTotals:
    """What person masks show.

    Attributes:
        masks: how many there are.
        looked_at: how many of them, spread evenly, were read.
        covered: mean share of its picture that a readable mask covers; None if no mask is readable.
        covered_range: 5th and 95th percentile of these shares.
        nobody, everybody: number of masks without person, and of masks that are all person.
        ambiguous: number of masks whose meaning is unclear.
    """

    masks: int
    looked_at: int
    covered: float | None
    covered_range: tuple[float, float] | None
    nobody: int
    everybody: int
    ambiguous: int


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The doctor's report on one folder.

    Attributes:
        argument: as given, `name=folder?options`.
        title: the dataset in prose.
        root: the dataset's own folder, which may lie below the given one.
        fit: whether it is fit to use.
        splits: counts of each split; empty if the folder could not be read.
        published: the published counts, if there are any.
        findings: errors first.
        found_tree: the folders there, with the numbers of pictures and other files in them.
        expected_tree: the folders that should be there.
        masks: figures of the masks; None if there are none.
    """

    argument: str
    title: str
    root: str
    fit: bool
    splits: Mapping[str, SplitTotals]
    published: Mapping[str, SplitCount]
    findings: Sequence[Finding]
    found_tree: Sequence[str]
    expected_tree: str
    masks: MaskTotals | None = None


def diagnose(argument: DataArgument, *, allow_partial: bool = False, decode: bool = False) -> Diagnosis:
    """Examine one folder.

    Args:
        argument: the dataset, its folder and options.
        allow_partial: whether an incomplete folder is fit.
        decode: decode every picture.
    """
    spec, options = get_spec(argument.name), dict(argument.options)
    allow_partial = bool(options.pop("allow_partial", False)) or allow_partial
    options.pop("domain", None)
    root = argument.root.expanduser().absolute()
    findings: list[Finding] = []
    folder, masks = ReidFolder(root, splits={}), None
    try:
        # A loader leaves out the broken pictures of a folder, but takes the rows of shards as they are.
        folder = read_reid_folder(spec.name, root, check_images=spec.load is None, allow_partial=True, **options)
        findings += _folder_findings(folder, spec, allow_partial)
        findings += _shard_findings(folder, decode)
        masks = _look_at_masks(folder, None if decode else _MASK_SAMPLE)
        findings += _mask_findings(folder, masks)
        if decode:
            findings += _decode_findings(folder)
    except DatasetError as error:
        findings.append(_unreadable(error))
    findings += [*_stray_files(folder.root), *_terms(spec)]
    order: Sequence[Severity] = ("error", "warning", "note")
    return Diagnosis(
        argument=str(argument),
        title=spec.title,
        root=str(folder.root),
        fit=not any(finding.severity == "error" for finding in findings),
        splits={split: count_split(images) for split, images in folder.splits.items()},
        published=spec.counts_of(folder.variant),
        findings=sorted(findings, key=lambda finding: order.index(finding.severity)),
        found_tree=list(_tree(folder.root)),
        expected_tree=spec.expected_tree.rstrip(),
        masks=None if masks is None else _mask_totals(folder, masks),
    )


def _first(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(display(shorten(name)) for name in names[:_EXAMPLES])


def _unreadable(error: DatasetError) -> Finding:
    """The loader's message without the expected tree, which is printed separately."""
    return Finding("error", str(error).partition("\nExpected:")[0], "make the folder as expected, or name another one")


def _folder_findings(folder: ReidFolder, spec: ReidDatasetSpec, allow_partial: bool) -> Iterator[Finding]:
    incomplete: Severity = "warning" if allow_partial else "error"
    for name in folder.missing:
        yield Finding(
            incomplete, f"{name} is not there", f"put {name} there{_OR_PARTIAL if incomplete == 'error' else ''}"
        )
    yield from _count_findings(folder, spec, incomplete)
    yield from _person_findings(folder, spec)
    for note in folder.notes:
        yield Finding("note", note)
    for what, count in folder.set_aside.items():
        yield Finding("note", f"{what}, left out as the protocol or an option has it", count=count)
    yield from _skip_findings(folder)
    if folder.unlisted:
        yield Finding(
            "warning",
            "pictures that no table or list names are not used",
            "add them to it, if they belong there",
            len(folder.unlisted),
            _first(folder.unlisted),
        )
    yield from _caption_findings(folder)


def _count_findings(folder: ReidFolder, spec: ReidDatasetSpec, severity: Severity) -> Iterator[Finding]:
    published = spec.counts_of(folder.variant)
    or_partial = _OR_PARTIAL if severity == "error" else ""
    for split in published:
        counted, expected = count_split(folder.splits.get(split, ())), published[split]
        if is_as_published(counted, expected):
            continue
        parts = [
            (counted.images, expected.images, "images"),
            (counted.persons, expected.persons, "persons"),
            *([(counted.captions, expected.captions, "captions")] if expected.captions else []),
        ]
        differences = ", ".join(f"{have:,} of {want:,} {what}" for have, want, what in parts if have != want)
        if counted.images > expected.images:
            fix = "is this another version of the dataset? Remove what is not of this one"
        else:
            fix = "unpack all archives again and compare their checksums"
        yield Finding(severity, f"split {split} has {differences}", fix + or_partial)


def _person_findings(folder: ReidFolder, spec: ReidDatasetSpec) -> Iterator[Finding]:
    persons = {split: {image.person_id for image in images} for split, images in folder.splits.items()}
    tested = set().union(*(persons.get(split, set()) for split in _TEST_SPLITS))
    shared = sorted(persons.get("train", set()) & tested - {spec.distractor_id, JUNK_PERSON_ID})
    if shared:
        published = spec.counts_of(folder.variant)
        as_published = bool(published) and all(
            is_as_published(count_split(folder.splits.get(split, ())), count) for split, count in published.items()
        )
        yield Finding(
            "warning" if as_published else "error",
            "persons stand in train and in a test split: figures on it would say nothing of unseen persons",
            "give every person to one split, or number the persons of the test split differently if they are others",
            len(shared),
            tuple(display(folder.person_names.get(person, str(person))) for person in shared[:_EXAMPLES]),
        )
    yield from _gallery_findings(folder, spec)
    known = [image.person_id for image in folder.splits.get("train", ()) if image.person_id != JUNK_PERSON_ID]
    single = sum(count == 1 for count in Counter(known).values())
    if single:
        yield Finding("note", "persons in train have one image alone: no positive pair of images", count=single)


def _gallery_findings(folder: ReidFolder, spec: ReidDatasetSpec) -> Iterator[Finding]:
    """Find distractors, copies of queries, and queries without a match in the gallery."""
    gallery = folder.splits.get("gallery", ())
    distractors = sum(image.person_id == spec.distractor_id for image in gallery)
    if distractors:
        yield Finding("note", f"distractors (person {spec.distractor_id}) stay in the gallery", count=distractors)
    if folder.twins:
        yield Finding(
            "warning",
            "queries of unknown cameras have a copy of themselves in the gallery, byte by byte, and will find it",
            "remove the copies from one of the two, or say which camera took them",
            len(folder.twins),
            _first([f"{query} = {copy}" for query, copy in folder.twins.items()]),
        )
    if gallery:
        yield from _unanswered_queries(folder)


def _unanswered_queries(folder: ReidFolder) -> Iterator[Finding]:
    """Find queries without a true match: in another camera or, if cameras are unknown, in another picture."""
    seen: dict[int, set[tuple[int, Path]]] = defaultdict(set)
    for image in folder.splits["gallery"]:
        seen[image.person_id].add((image.camera_id, image.image_path))
    lost: dict[str, list[str]] = defaultdict(list)
    for image in folder.splits.get("query", ()):
        known = image.camera_id != NO_CAMERA
        others = (
            camera != image.camera_id if known else path != image.image_path for camera, path in seen[image.person_id]
        )
        if not any(others):
            lost["picture of their person in another camera" if known else "other picture of their person"].append(
                folder.name_of(image.image_path)
            )
    for what, names in lost.items():
        yield Finding(
            "warning",
            f"queries have no {what} in the gallery; they are not evaluated",
            "add such pictures to the gallery, or remove the queries",
            len(names),
            _first(names),
        )


def _skip_findings(folder: ReidFolder) -> Iterator[Finding]:
    by_defect: dict[Defect, list[str]] = defaultdict(list)
    for skip in folder.skipped:
        by_defect[skip.defect].append(skip.path)
    for defect, names in sorted(by_defect.items(), key=lambda item: -len(item[1])):
        yield Finding("warning", f"left out: {defect}", FIXES[defect.kind], len(names), _first(names))


def _caption_findings(folder: ReidFolder) -> Iterator[Finding]:
    images = [image for images in folder.splits.values() for image in images]
    silent = [folder.name_of(image.image_path) for image in images if not image.captions]
    if silent and len(silent) < len(images):
        yield Finding(
            "warning",
            "pictures have no caption; they serve as images alone",
            "add captions, if there should be some",
            len(silent),
            _first(silent),
        )


def _masks(folder: ReidFolder) -> dict[Path, Path]:
    """Every mask and the picture that it belongs to."""
    images = [image for images in folder.splits.values() for image in images]
    return {image.person_mask: image.image_path for image in images if image.person_mask is not None}


def _look_at_masks(folder: ReidFolder, limit: int | None) -> MaskSummary | None:
    """Read at most `limit` masks, spread evenly over all; return None for data without masks."""
    masks = list(_masks(folder).items())
    step = -(-len(masks) // limit) if limit else 1
    return measure_masks(masks[::step], content_of=folder.content_of) if masks else None


def _mask_totals(folder: ReidFolder, summary: MaskSummary) -> MaskTotals:
    is_any_readable = len(summary.covered) > 0
    low, high = (float(np.quantile(summary.covered, share)) if is_any_readable else 0.0 for share in (0.05, 0.95))
    return MaskTotals(
        masks=len(_masks(folder)),
        looked_at=summary.num_masks,
        covered=float(summary.covered.mean()) if is_any_readable else None,
        covered_range=(low, high) if is_any_readable else None,
        nobody=len(summary.nobody),
        everybody=len(summary.everybody),
        ambiguous=len(summary.ambiguous),
    )


def _mask_findings(folder: ReidFolder, summary: MaskSummary | None) -> Iterator[Finding]:
    """Find useless masks. An error if all show nobody or all are all person; a warning for some."""
    if summary is None:
        return
    by_problem: Sequence[tuple[str, str, Sequence[Path]]] = (
        (
            "masks show nobody",
            "draw them anew, or remove them: their pictures are then masked by the prior",
            summary.nobody,
        ),
        ("masks cover the whole picture", "draw them anew or remove them, unless this is meant", summary.everybody),
        ("masks have other proportions than their pictures", "do they belong to other pictures?", summary.misshapen),
    )
    if summary.ambiguous:
        reason = summary.ambiguous[0][1].partition(":")[0]
        what = f"masks do not say who is the person; training would stop at them. The first {reason}"
        unclear = [path for path, _ in summary.ambiguous]
        yield _mask_finding(folder, "error", what, "save the person as 255 and the rest as 0", unclear)
    for what, fix, paths in by_problem:
        if paths:
            severity: Severity = "error" if len(paths) == summary.num_masks else "warning"
            yield _mask_finding(folder, severity, what, fix, paths)


def _mask_finding(folder: ReidFolder, severity: Severity, what: str, fix: str, paths: Sequence[Path]) -> Finding:
    return Finding(severity, what, fix, len(paths), _first([folder.name_of(path) for path in paths]))


def _shard_findings(folder: ReidFolder, decode: bool) -> Iterator[Finding]:
    """Find problems of Parquet shards and of the pictures inside them."""
    if not folder.contents:
        return
    if not (folder.root / MANIFEST).is_file():
        yield Finding("note", f"no {MANIFEST}: whether the shards are as they were written cannot be checked")
    elif decode:
        for problem in verify_parquet(folder.root):
            yield Finding("error", problem, "restore the file from a copy, or convert the dataset again")
    by_defect: dict[Defect, list[str]] = defaultdict(list)
    for path, defect in find_content_defects(folder.contents).items():
        by_defect[defect].append(folder.name_of(path))
    for defect, names in by_defect.items():
        what = f"{defect}; training would stop there"
        yield Finding("error", what, "convert the dataset again without --no_check", len(names), _first(names))


def _decode_findings(folder: ReidFolder) -> Iterator[Finding]:
    paths = dict.fromkeys(image.image_path for images in folder.splits.values() for image in images)
    defects = find_undecodable(list(paths), content_of=folder.content_of)
    if defects:
        yield Finding(
            "error",
            "pictures look whole and cannot be decoded; training would stop at them",
            "copy the files again from the archive, or remove them",
            len(defects),
            _first([folder.name_of(path) for path in defects]),
        )


def _stray_files(root: Path) -> Iterator[Finding]:
    """Find files that loaders ignore and other tools may read."""
    shadows: list[str] = []
    others: list[str] = []
    for place, names in walk_files(root):
        for name in names:
            path = os.path.relpath(os.path.join(place, name), root)  # noqa: PTH118 (millions of names)
            if name.startswith("._"):
                shadows.append(path)
            elif not is_hidden(name) and os.path.splitext(name)[1].lower() in _OTHER_PICTURES:  # noqa: PTH122
                others.append(path)
    if shadows:
        yield Finding(
            "note",
            "macOS shadow files (._*) are ignored here; other tools take them for pictures",
            f"find {shlex.quote(str(root))} -name '._*' -delete",
            len(shadows),
            _first(shadows),
        )
    if others:
        yield Finding(
            "warning",
            "pictures of other formats are ignored",
            "save them as PNG or JPEG",
            len(others),
            _first(others),
        )


def _terms(spec: ReidDatasetSpec) -> Iterator[Finding]:
    if spec.notice:
        yield Finding("note", spec.notice)
    yield Finding("note", f"licence: {spec.licence}")


def _tree(root: Path) -> Iterator[str]:
    """List folders down to two levels with their contents; further sub-folders are counted."""
    if not os.path.isdir(root):  # noqa: PTH112 (false, too, for what no file system can name)
        return
    yield f"{display(root.name)}/{_contents(root)}"
    for first in _folders(root)[:_TREE_FOLDERS]:
        yield f"  {display(first.name)}/{_contents(first)}"
        below = _folders(first)
        yield from (f"    {display(second.name)}/{_contents(second)}" for second in below[:_SUB_FOLDERS])
        if len(below) > _SUB_FOLDERS:
            yield f"    … and {len(below) - _SUB_FOLDERS:,} more folders"
    if len(_folders(root)) > _TREE_FOLDERS:
        yield "  …"


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    except OSError:
        return []


def _contents(folder: Path) -> str:
    try:
        names = [entry.name for entry in os.scandir(folder) if not is_hidden(entry.name) and not entry.is_dir()]
    except OSError as error:
        return f"   cannot be read ({error.strerror})"
    pictures = sum(os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES for name in names)  # noqa: PTH122
    others = sorted(name for name in names if os.path.splitext(name)[1].lower() not in IMAGE_SUFFIXES)  # noqa: PTH122
    more = f", … ({len(others):,} files)" if len(others) > _EXAMPLES else ""
    words = [*([f"{pictures:,} pictures"] if pictures else []), *others[:_EXAMPLES]]
    return f"   {', '.join(map(display, words))}{more}" if words else ""
