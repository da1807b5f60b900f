"""Is a dataset folder fit to use? What is there, what should be there, what is wrong, and how to put each thing right.

    python -m mmet.data.doctor market1501=/data/Market-1501-v15.09.15 'msmt17=/data/MSMT17_V2?train=train'
    python -m mmet.data.doctor --allow_partial --json finegpr=/data/FineGPR_Dataset

Exit code 0: every folder is fit to use. 1: some is not. 2: the arguments are wrong. `--allow_partial` takes incomplete
folders as fit, `--decode` finds damage inside of pictures by decoding all of them.

A folder is unfit when it is not the dataset, lacks a part, has other counts than were published, or shows a person in
training and test. Files that the loader leaves out are warnings, since what remains can be used.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from mmet.command_line import run_command
from mmet.data.data_argument import DataArgument, parse_data_argument
from mmet.data.files import IMAGE_SUFFIXES, display, find_undecodable, is_hidden
from mmet.data.loading import SplitTotals, count_split, is_as_published, read_reid_folder
from mmet.data.registry import ReidDatasetSpec, SplitCount, get_spec
from mmet.data.schema import DISTRACTOR_PERSON_ID, DatasetError, ReidFolder

FIT, UNFIT, USAGE_ERROR = 0, 1, 2
"""Exit codes."""

Severity = Literal["error", "warning", "note"]

_EXAMPLES = 3
_TREE_FOLDERS, _SUB_FOLDERS = 24, 8
_OTHER_PICTURES = frozenset({".bmp", ".gif", ".jfif", ".tif", ".tiff", ".webp"})
_TEST_SPLITS = ("query", "gallery", "test")

_FIXES: Sequence[tuple[str, str]] = (
    ("missing", "unpack the archive again, or copy the file to this place"),
    ("empty file", "copy the file again from the archive"),
    ("truncated", "copy the file again from the archive"),
    ("not a readable", "copy the file again from the archive, or save it as JPEG or PNG"),
    ("damaged inside", "copy the file again from the archive"),
    ("more than", "replace it by the picture at the size of a crop"),
    ("grey picture of more", "save it with 8 bits"),
    ("not a regular file", "put the picture itself in this place"),
    ("file name is not valid UTF-8", "rename the file, for instance with convmv -f latin1 -t utf8"),
    ("name ", "rename the file as the layout has it, or remove it"),
    ("link leads out", "copy the pictures into the folder, or link a whole folder directly below it"),
    ("path ", "correct the path in the annotation; it must lie below the folder"),
    ("absolute path", "write the path below the folder in the annotation"),
    ("empty path", "write the path in the annotation"),
    ("mask: ", "restore the mask; until then its picture is used without"),
    ("mask of", "restore the picture, or remove the mask"),
    ("caption of", "restore the picture, or remove the caption"),
    ("empty caption", "write the sentence, or remove it from the annotation"),
    ("caption is not", "write the sentence as UTF-8"),
    ("listed twice", "remove the second line"),
)
_OR_PARTIAL = ", or say --allow_partial"
_ANY_FIX = "correct the file or annotation, or remove it"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about a folder.

    Attributes:
        severity: "error" makes the folder unfit; a "note" needs no action.
        what: the finding in a sentence.
        fix: what to do about it; empty for nothing.
        count: how many files or persons it concerns.
        examples: the first of them.
    """

    severity: Severity
    what: str
    fix: str = ""
    count: int = 1
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that the doctor says of one folder.

    Attributes:
        argument: as given, `name=folder?options`.
        title: the dataset in prose.
        root: the dataset's own folder, which may lie below the one that was named.
        fit: whether it is fit to use.
        splits: what each split holds; empty where the folder could not be read.
        published: the published counts, where there are some.
        findings: errors first.
        found_tree: the folders there, with the numbers of pictures and other files in them.
        expected_tree: the folders that should be there.
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


def diagnose(argument: DataArgument, *, allow_partial: bool = False, decode: bool = False) -> Diagnosis:
    """Examine one folder.

    Args:
        argument: the dataset, its folder and options.
        allow_partial: whether an incomplete folder is fit.
        decode: decode every picture.
    """
    spec, options = get_spec(argument.name), dict(argument.options)
    allow_partial = bool(options.pop("allow_partial", False)) or allow_partial
    root = argument.root.expanduser().absolute()
    findings: list[Finding] = []
    folder = ReidFolder(root, splits={})
    try:
        folder = read_reid_folder(spec.name, root, allow_partial=True, **options)
        findings += _folder_findings(folder, spec, allow_partial)
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
    )


def _first(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(display(name) for name in names[:_EXAMPLES])


def _unreadable(error: DatasetError) -> Finding:
    """The loader's own words, but for the tree, which is shown anyway."""
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
    yield from _caption_findings(folder)


def _count_findings(folder: ReidFolder, spec: ReidDatasetSpec, severity: Severity) -> Iterator[Finding]:
    published = spec.counts_of(folder.variant)
    or_partial = _OR_PARTIAL if severity == "error" else ""
    for split in published:
        found, expected = count_split(folder.splits.get(split, ())), published[split]
        if is_as_published(found, expected):
            continue
        parts = [
            (found.images, expected.images, "images"),
            (found.persons, expected.persons, "persons"),
            *([(found.captions, expected.captions, "captions")] if expected.captions else []),
        ]
        told = ", ".join(f"{have:,} of {want:,} {what}" for have, want, what in parts if have != want)
        if found.images > expected.images:
            fix = "is this another version of the dataset? Remove what is not of this one"
        else:
            fix = "unpack all archives again and compare their checksums"
        yield Finding(severity, f"split {split} has {told}", fix + or_partial)


def _person_findings(folder: ReidFolder, spec: ReidDatasetSpec) -> Iterator[Finding]:
    persons = {split: {image.person_id for image in images} for split, images in folder.splits.items()}
    tested = set().union(*(persons.get(split, set()) for split in _TEST_SPLITS))
    shared = sorted(persons.get("train", set()) & tested - {DISTRACTOR_PERSON_ID})
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
            tuple(map(str, shared[:_EXAMPLES])),
        )
    yield from _gallery_findings(folder, persons)
    single = sum(count == 1 for count in Counter(image.person_id for image in folder.splits.get("train", ())).values())
    if single:
        yield Finding("note", "persons in train have one image alone: no positive pair of images", count=single)


def _gallery_findings(folder: ReidFolder, persons: Mapping[str, set[int]]) -> Iterator[Finding]:
    """Distractors, and queries that nothing in the gallery answers."""
    if "gallery" not in persons:
        return
    distractors = sum(image.person_id == DISTRACTOR_PERSON_ID for image in folder.splits["gallery"])
    if distractors:
        yield Finding("note", "distractors (person 0) stay in the gallery", count=distractors)
    cameras: dict[int, set[int]] = defaultdict(set)
    for image in folder.splits["gallery"]:
        cameras[image.person_id].add(image.camera_id)
    lost = [
        folder.name_of(image.image_path)
        for image in folder.splits.get("query", ())
        if not cameras.get(image.person_id, set()) - {image.camera_id}
    ]
    if lost:
        yield Finding(
            "warning",
            "queries have no picture of their person in another camera in the gallery; they are not evaluated",
            "add such pictures to the gallery, or remove the queries",
            len(lost),
            _first(lost),
        )


def _skip_findings(folder: ReidFolder) -> Iterator[Finding]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for skip in folder.skipped:
        by_reason[skip.reason].append(skip.path)
    for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        fix = next((fix for start, fix in _FIXES if reason.startswith(start)), _ANY_FIX)
        yield Finding("warning", f"left out: {reason}", fix, len(names), _first(names))


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


def _decode_findings(folder: ReidFolder) -> Iterator[Finding]:
    paths = dict.fromkeys(image.image_path for images in folder.splits.values() for image in images)
    defects = find_undecodable(list(paths))
    if defects:
        yield Finding(
            "error",
            "pictures look whole and cannot be decoded; training would stop at them",
            "copy the files again from the archive, or remove them",
            len(defects),
            _first([folder.name_of(path) for path in defects]),
        )


def _stray_files(root: Path) -> Iterator[Finding]:
    """Files that no loader looks at, and that surprise other tools."""
    shadows: list[str] = []
    others: list[str] = []
    for place, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
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
            "save them as JPEG or PNG",
            len(others),
            _first(others),
        )


def _terms(spec: ReidDatasetSpec) -> Iterator[Finding]:
    if spec.notice:
        yield Finding("note", spec.notice)
    yield Finding("note", f"licence: {spec.licence}")


def _tree(root: Path) -> Iterator[str]:
    """Folders down to two levels, with what is in each; sub-folders of a name that are many are counted."""
    if not root.is_dir():
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


# -- what is printed ------------------------------------------------------------------------------------------------


def format_diagnosis(diagnosis: Diagnosis) -> str:
    """The diagnosis as text for a terminal."""
    lines = [f"{diagnosis.argument}: {diagnosis.title}", "", "  found:"]
    lines += [f"    {line}" for line in diagnosis.found_tree or ["nothing"]]
    if not diagnosis.fit or not diagnosis.splits:
        lines += ["  expected:", *(f"    {line}" for line in diagnosis.expected_tree.splitlines())]
    lines += ["", *_format_splits(diagnosis)]
    for finding in diagnosis.findings:
        lines += _format_finding(finding)
    lines += ["", f"  {'FIT to use' if diagnosis.fit else 'NOT FIT to use'}: {_tally(diagnosis.findings)}"]
    return "\n".join(display(line) for line in lines)


def _format_splits(diagnosis: Diagnosis) -> list[str]:
    if not diagnosis.splits:
        return []
    columns = ("split", "images", "published", "persons", "published", "captions", "published", "cameras", "masks")
    rows = [columns]
    for split, totals in diagnosis.splits.items():
        expected = diagnosis.published.get(split)
        published = ("", "", "")
        if expected is not None:
            captions = f"{expected.captions:,}" if expected.captions else ""
            published = (f"{expected.images:,}", f"{expected.persons:,}", captions)
        counts = (f"{totals.images:,}", f"{totals.persons:,}", f"{totals.captions:,}")
        pairs = [cell for pair in zip(counts, published, strict=True) for cell in pair]
        rows.append((split, *pairs, f"{totals.cameras:,}", f"{totals.masks:,}"))  # type: ignore[arg-type]
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns))]
    return [
        "  " + "  ".join(f"{cell:<{width}}" if not column else f"{cell:>{width}}" for column, (cell, width) in line)
        for line in (enumerate(zip(row, widths, strict=True)) for row in rows)
    ] + [""]


def _format_finding(finding: Finding) -> list[str]:
    number = f"{finding.count:,} × " if finding.count > 1 else ""
    examples = f" ({', '.join(finding.examples)}{', …' if finding.count > len(finding.examples) else ''})"
    first, *more = f"{number}{finding.what}{examples if finding.examples else ''}".splitlines()
    lines = [f"  {finding.severity:7}  {first}", *(f"           {line}" for line in more)]
    return [*lines, f"           fix: {finding.fix}"] if finding.fix else lines


def _tally(findings: Sequence[Finding]) -> str:
    counts = Counter(finding.severity for finding in findings)
    severities: Sequence[Severity] = ("error", "warning", "note")
    return ", ".join(f"{counts[severity]} {severity}{'' if counts[severity] == 1 else 's'}" for severity in severities)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mmet.data.doctor",
        description="Say whether dataset folders are fit to use, and how to put right what is wrong.",
        epilog="Exit code: 0 all fit, 1 some not, 2 wrong arguments.",
    )
    parser.add_argument("data", nargs="+", metavar="NAME=DIR", help="dataset and folder, with options as for training")
    parser.add_argument("--allow_partial", action="store_true", help="take incomplete folders as fit")
    parser.add_argument("--decode", action="store_true", help="decode every picture, to find damage inside")
    parser.add_argument("--json", action="store_true", help="print JSON, one list with an object for each folder")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine all folders and print the diagnoses; returns the exit code."""
    parser = build_parser()
    return run_command(parser.prog, lambda command: examine(parser, arguments))


def examine(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    """Parse the arguments, examine all folders and print the diagnoses; returns `FIT` or `UNFIT`."""
    options = parser.parse_args(arguments)
    data = [parse_data_argument(argument) for argument in options.data]
    diagnoses = [diagnose(argument, allow_partial=options.allow_partial, decode=options.decode) for argument in data]
    if options.json:
        print(json.dumps([asdict(diagnosis) for diagnosis in diagnoses], indent=1))
    else:
        print("\n\n".join(map(format_diagnosis, diagnoses)))
    return FIT if all(diagnosis.fit for diagnosis in diagnoses) else UNFIT


if __name__ == "__main__":
    sys.exit(main())
