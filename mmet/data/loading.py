"""Load a dataset folder as a `datasets.DatasetDict`: read, check every picture, count, report, build.

dataset = load_reid_dataset("market1501", "/data/Market-1501-v15.09.15")
dataset["train"][0]["image"]  # decoded now; the dataset holds paths
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, DatasetDict, NamedSplit, Value

from mmet.data.data_argument import DataArgument, name_sources
from mmet.data.defects import Defect, DefectKind
from mmet.data.paths import display, is_hidden, is_text, layout_error, shorten
from mmet.data.picture_checks import find_content_defects, find_defects, find_outside_links
from mmet.data.registry import ReidDatasetSpec, SplitCount, get_spec
from mmet.data.schema import (
    JUNK_PERSON_ID,
    NAME_COLUMNS,
    NO_CAMERA,
    REID_FEATURES,
    DatasetError,
    PersonImage,
    ReidFolder,
    SkippedFile,
)
from mmet.data.twins import find_twins

logger = logging.getLogger(__name__)

PARTIAL_ADVICE = (
    "To use what is there all the same, say allow_partial=True (in the scripts: name=folder?allow_partial=true)."
)

_NAMED_SKIPS = 3  # examples shown for each reason


@dataclass(frozen=True, slots=True)
class SplitTotals:
    """Counts of one split; `str()` gives them in words. Cameras are counted if they are known."""

    images: int
    persons: int
    cameras: int
    captions: int
    masks: int

    def __str__(self) -> str:
        return ", ".join(
            [
                f"{self.images:,} images of {self.persons:,} persons",
                f"{self.cameras:,} cameras",
                f"{self.captions:,} captions",
                f"{self.masks:,} masks",
            ]
        )


def count_split(images: Sequence[PersonImage]) -> SplitTotals:
    """Count one split. Distractors count as one person, as in published figures; unknown persons do not."""
    return SplitTotals(
        images=len(images),
        persons=len({image.person_id for image in images} - {JUNK_PERSON_ID}),
        cameras=len({image.camera_id for image in images} - {NO_CAMERA}),
        captions=sum(len(image.captions) for image in images),
        masks=sum(image.person_mask is not None for image in images),
    )


def load_reid_dataset(
    name: str,
    root: str | Path,
    *,
    on_skip: Literal["report", "error"] = "report",
    check_images: bool = True,
    allow_partial: bool = False,
    domain: str = "",
    **options: Any,
) -> DatasetDict:
    """Load a dataset folder into the common schema and log a report.

    Args:
        name: a registered dataset, see `mmet.data.dataset_names`.
        root: its folder as published, or the folder that holds it.
        on_skip: for unusable files and annotations, `report` leaves them out and lists them, `error` raises.
        check_images: whether to check every picture file (about 0.3 ms each). Without the check, broken pictures fail
            when decoded; links that lead out of the folder are still left out.
        allow_partial: whether to accept a folder that lacks splits; otherwise that is an error.
        domain: value of the column `domain`, which distinguishes persons of different folders; empty for the name of
            the dataset, or of the folder for `folder`.
        options: options of this dataset, see `ReidDatasetSpec.options` and docs/data_formats.md.

    Returns:
        One `Dataset` for each split with `REID_FEATURES`. Pictures stay where they are: `image` holds the absolute
        path and is decoded on access, `image_path` is the path relative to the dataset's folder, with forward slashes.
        If persons or cameras are words, the columns of `mmet.data.schema.NAME_COLUMNS` hold them.

    Raises:
        ValueError: unknown `name` or `on_skip`, or an option that the dataset does not have or allow.
        DatasetError: the folder is not this dataset, an annotation is malformed, a split is missing or has no usable
            picture, or something was skipped while `on_skip="error"`.
    """
    if on_skip not in ("report", "error"):
        raise ValueError(f"on_skip must be 'report' or 'error', got {on_skip!r}")
    spec = get_spec(name)
    if spec.load is not None:
        return _load_rows(spec, root, domain, options)
    folder = read_reid_folder(name, root, check_images=check_images, allow_partial=allow_partial, **options)
    report = summarize(folder, spec)
    if folder.skipped and on_skip == "error":
        raise DatasetError(f"files were skipped, which on_skip='error' forbids\n{report}")
    logger.log(logging.INFO if is_complete(folder, spec) else logging.WARNING, "%s", report)
    return to_dataset_dict(folder, domain=domain or folder.domain or spec.name)


def _load_rows(spec: ReidDatasetSpec, root: str | Path, domain: str, options: Mapping[str, Any]) -> DatasetDict:
    """The splits of a dataset that holds rows and no picture files; their own domains unless one is given."""
    assert spec.load is not None
    spec.complete_options(options)
    with _named_errors(spec, root):
        path = Path(root).expanduser().absolute()
        _require_folder(path, spec)
        splits = spec.load(path)
    if domain:
        splits = DatasetDict({split: _in_domain(rows, domain) for split, rows in splits.items()})
    sizes = ", ".join(f"{split} {len(rows):,} rows" for split, rows in splits.items())
    logger.info("%s in %s: %s", spec.title, path, sizes)
    return splits


def is_complete(folder: ReidFolder, spec: ReidDatasetSpec) -> bool:
    """Whether nothing is missing, unlisted, skipped or doubtful, and all counts are the published ones."""
    expected = spec.counts_of(folder.variant)
    counts_agree = all(
        is_as_published(count_split(images), expected.get(split)) for split, images in folder.splits.items()
    )
    return counts_agree and not (folder.skipped or folder.missing or folder.unlisted or folder.twins)


def read_reid_folder(
    name: str, root: str | Path, *, check_images: bool = True, allow_partial: bool = False, **options: Any
) -> ReidFolder:
    """Read a dataset folder, leaving out unusable pictures; the result lists what was skipped and why.

    Raises `ValueError` and `DatasetError` as `load_reid_dataset` does.
    """
    spec = get_spec(name)
    chosen = spec.complete_options(options)
    with _named_errors(spec, root):
        path = Path(root).expanduser().absolute()
        _require_folder(path, spec)
        folder = spec.read(path, **chosen)
    if folder.missing and not allow_partial:
        raise layout_error(spec.title, folder.root, folder.missing, spec.expected_tree, PARTIAL_ADVICE)
    _drop_unprintable(folder)
    _drop_defects(folder, check_images)
    if allow_partial:
        _drop_empty_splits(folder)
    _require_images(folder, spec)
    _note_cameras(folder, check_images)
    return folder


@contextmanager
def _named_errors(spec: ReidDatasetSpec, root: str | Path) -> Iterator[None]:
    """Say whose folder could not be read."""
    if "\0" in str(root):
        raise DatasetError(f"{spec.title}: {str(root)!r} cannot be a folder: its name holds a NUL")
    try:
        yield
    except OSError as error:
        place, reason = error.filename or root, error.strerror or error
        raise DatasetError(f"{spec.title}: {place} cannot be read ({reason})") from error


def _in_domain(rows: Dataset, domain: str) -> Dataset:
    """The rows in a domain of that name, or in one for each domain that they are of, so that these stay apart."""
    domains = rows.select_columns("domain")[:]["domain"]
    named = [domain] * len(domains) if len(set(domains)) < 2 else [f"{domain}/{name}" for name in domains]
    renamed = rows.remove_columns("domain").add_column("domain", named, feature=Value("string"))
    return renamed.select_columns(rows.column_names)


def load_sources(arguments: Sequence[DataArgument]) -> list[DatasetDict]:
    """Load the datasets of one run, each folder once; a person is identified by domain and id.

    Sources without a given name are named by `name_sources`.

    Rows of Parquet keep the domain of the converted dataset. If another source has the same domain, they get a new
    one, because they may show other people; to combine sources, give them the same name (`name@alias=folder`).

    Raises:
        ValueError: as `load_reid_dataset` does.
    """
    (arguments,) = name_sources(arguments)
    keys = [(argument.name, argument.folder, str(sorted(argument.options.items()))) for argument in arguments]
    named = dict(zip(keys, arguments, strict=True))
    loaded = {
        key: load_reid_dataset(argument.name, argument.root, **argument.options) for key, argument in named.items()
    }
    for key, argument in named.items():
        if get_spec(argument.name).load is None or "domain" in argument.options:
            continue
        others = [splits for other, splits in loaded.items() if other[1] != argument.folder]
        shared = _domains(loaded[key]) & {domain for splits in others for domain in _domains(splits)}
        if shared:
            domain = f"{argument.name}@{Path(argument.folder).name}"
            logger.warning(
                "%s holds %s, as another source does: its persons count as others, of the domain %s. If one is a copy "
                "of the other, give both the same name, as in %s@NAME=…",
                *(argument, ", ".join(sorted(shared)), domain, argument.name),
            )
            loaded[key] = DatasetDict({split: _in_domain(rows, domain) for split, rows in loaded[key].items()})
    _check_names(loaded.values())
    return [loaded[key] for key in keys]


def load_training_splits(arguments: Sequence[DataArgument]) -> list[Dataset]:
    """Load the training splits of the sources of one run, see `load_sources`.

    Raises:
        ValueError: as `load_sources` does.
        DatasetError: a source has no training split.
    """
    sources = load_sources(arguments)
    return [training_split(argument, splits) for argument, splits in zip(arguments, sources, strict=True)]


def training_split(argument: DataArgument, splits: DatasetDict) -> Dataset:
    """Return the training split of a source. Raises `DatasetError` if it has none."""
    if "train" not in splits:
        raise DatasetError(f"{argument} has no training split, only {', '.join(splits)}")
    return splits["train"]


def _check_names(sources: Iterable[DatasetDict]) -> None:
    """Raise `DatasetError` where two sources of one domain mean different persons, called by words, by one number."""
    known: dict[tuple[str, int], str | None] = {}
    parts = [rows for splits in sources for rows in splits.values()]
    if not any("person_name" in rows.column_names for rows in parts):
        return
    for rows in parts:
        columns = [name for name in ("domain", "person_id", "person_name") if name in rows.column_names]
        table = rows.select_columns(columns).with_format("arrow")[:].group_by(columns).aggregate([])
        for row in table.to_pylist():
            name, key = row.get("person_name"), (row["domain"], row["person_id"])
            if key[1] >= 0 and known.setdefault(key, name) != name:
                names = " in one source and ".join(str(value or "a number") for value in (known[key], name))
                raise DatasetError(
                    f"person {key[1]} of {key[0]} is {names} in another; "
                    "words are numbered anew in each table: put the persons into one, or give the sources "
                    "names of their own (name@alias=folder)"
                )


def _domains(splits: DatasetDict) -> set[str]:
    return {domain for rows in splits.values() for domain in rows.unique("domain")}


def _note_cameras(folder: ReidFolder, check_images: bool) -> None:
    """Say what evaluation does about queries whose camera is unknown, where it cannot tell copies of a picture."""
    unknown = [image for image in folder.splits.get("query", ()) if image.camera_id == NO_CAMERA]
    if not unknown or not folder.splits.get("gallery"):
        return
    folder.notes.append(
        f"{len(unknown):,} queries are of unknown cameras: all of the gallery but their own picture counts for them"
    )
    gallery = [image.image_path for image in folder.splits["gallery"]]
    twins = (
        find_twins([image.image_path for image in unknown], gallery) if check_images and not folder.contents else {}
    )
    folder.twins = {folder.name_of(query): folder.name_of(copy) for query, copy in twins.items()}


def _drop_empty_splits(folder: ReidFolder) -> None:
    for split in [split for split, images in folder.splits.items() if not images]:
        del folder.splits[split]
        folder.notes.append(f"split {split} has no usable picture and is left out")


def _require_folder(root: Path, spec: ReidDatasetSpec) -> None:
    expected = f"Expected:\n{spec.expected_tree.rstrip()}"
    if not root.exists():
        parent = next(parent for parent in root.parents if parent.exists())
        raise DatasetError(f"{spec.title}: {root} does not exist (but {parent} does).\n{expected}")
    if not root.is_dir():
        raise DatasetError(f"{spec.title}: {root} is a file; name the unpacked folder.\n{expected}")
    if all(is_hidden(path.name) for path in root.iterdir()):
        raise layout_error(spec.title, root, ["file (the folder is empty)"], spec.expected_tree)


def _drop_unprintable(folder: ReidFolder) -> None:
    """Leave out files whose names are no text: Arrow could not store them."""
    defect = Defect(DefectKind.NAME_NOT_TEXT, "file name is not valid UTF-8")
    _drop_images(folder, {path: defect for path in _image_paths(folder) if not is_text(str(path))})
    _drop_masks(folder, {path: defect for path in _mask_paths(folder) if not is_text(str(path))})


def _drop_defects(folder: ReidFolder, check_images: bool) -> None:
    """Check all pictures and masks; without `check_images`, check only that no link leads out of the folder."""
    _drop_images(folder, _defects(folder, _image_paths(folder), check_images))
    _drop_masks(folder, _defects(folder, _mask_paths(folder), check_images))


def _defects(folder: ReidFolder, paths: Sequence[Path], check_images: bool) -> dict[Path, Defect]:
    if folder.contents:
        return find_content_defects({path: folder.contents[path] for path in paths}) if check_images else {}
    return find_defects(folder.root, paths) if check_images else find_outside_links(folder.root, paths)


def _drop_masks(folder: ReidFolder, defects: Mapping[Path, Defect]) -> None:
    """Forget broken masks; their pictures are kept."""
    if not defects:
        return
    for path, defect in defects.items():
        folder.skip(path, defect.of_mask())
    for split, images in folder.splits.items():
        folder.splits[split] = [
            replace(image, person_mask=None) if image.person_mask in defects else image for image in images
        ]


def _image_paths(folder: ReidFolder) -> list[Path]:
    """Every picture once, though two splits may share it."""
    return list(dict.fromkeys(image.image_path for image in _images(folder)))


def _mask_paths(folder: ReidFolder) -> list[Path]:
    return list(dict.fromkeys(image.person_mask for image in _images(folder) if image.person_mask is not None))


def _drop_images(folder: ReidFolder, defects: Mapping[Path, Defect]) -> None:
    if not defects:
        return
    for path, defect in defects.items():
        folder.skip(path, defect)
    for split, images in folder.splits.items():
        folder.splits[split] = [image for image in images if image.image_path not in defects]


def _require_images(folder: ReidFolder, spec: ReidDatasetSpec) -> None:
    empty = [split for split, images in folder.splits.items() if not images]
    if not folder.splits or empty:
        what = f"split {' and split '.join(empty)} of {spec.title} has" if empty else f"{spec.title} has"
        report = "\n".join([*_skip_lines(folder.skipped), *_unlisted_lines(folder)]) or "No picture was found there."
        raise DatasetError(
            f"{what} no usable picture in {folder.root}.\n{report}\nExpected:\n{spec.expected_tree.rstrip()}"
        )


def _images(folder: ReidFolder) -> Iterable[PersonImage]:
    return (image for images in folder.splits.values() for image in images)


def summarize(folder: ReidFolder, spec: ReidDatasetSpec) -> str:
    """The report on a folder: counts of every split beside the published ones, then what was left out and why."""
    lines = [f"{spec.title} in {folder.root}", *(f"  {note}" for note in [spec.notice, *folder.notes] if note)]
    lines += [f"  incomplete: no {name}" for name in folder.missing]
    lines += [f"  {line}" for line in _count_lines(folder, spec)]
    lines += [f"  left out by the protocol: {count:,} {what}" for what, count in folder.set_aside.items()]
    lines += [f"  {line}" for line in _defect_lines(folder)]
    return "\n".join(display(line) for line in lines)


def _count_lines(folder: ReidFolder, spec: ReidDatasetSpec) -> list[str]:
    width = max(map(len, folder.splits), default=0)
    lines = []
    for split, images in folder.splits.items():
        totals, expected = count_split(images), spec.counts_of(folder.variant).get(split)
        verdict = "" if expected is None else f" {_compare(totals, expected)}"
        lines.append(f"{split:{width}}  {totals}{verdict}")
    return lines


def _compare(totals: SplitTotals, expected: SplitCount) -> str:
    if is_as_published(totals, expected):
        return "(as published)"
    captions = f" and {expected.captions:,} captions" if expected.captions else ""
    return f"(published: {expected.images:,} images of {expected.persons:,} persons{captions})"


def is_as_published(totals: SplitTotals, expected: SplitCount | None) -> bool:
    """Whether the counts agree with the published ones, if there are any."""
    if expected is None:
        return True
    same_captions = not expected.captions or totals.captions == expected.captions
    return (totals.images, totals.persons) == (expected.images, expected.persons) and same_captions


def _defect_lines(folder: ReidFolder) -> list[str]:
    twins = [f"{query} = {copy}" for query, copy in folder.twins.items()]
    lines = (
        [f"copies of a query in the gallery, which it will find: {len(twins):,} ({_first(twins)})"] if twins else []
    )
    return [*_uncaptioned_lines(folder), *lines, *_unlisted_lines(folder), *_skip_lines(folder.skipped)]


def _unlisted_lines(folder: ReidFolder) -> list[str]:
    """Pictures that are there and that no table or list names."""
    names = folder.unlisted
    return [f"not used, since no table or list names them: {len(names):,} pictures ({_first(names)})"] if names else []


def _uncaptioned_lines(folder: ReidFolder) -> list[str]:
    """Report pictures without a caption in a dataset with captions; they are kept."""
    if not any(image.captions for image in _images(folder)):
        return []
    names = [folder.name_of(image.image_path) for image in _images(folder) if not image.captions]
    return [f"kept without a caption: {len(names):,} pictures ({_first(names)})"] if names else []


def _skip_lines(skipped: Sequence[SkippedFile]) -> list[str]:
    if not skipped:
        return []
    by_reason: dict[str, list[str]] = defaultdict(list)
    for skip in skipped:
        by_reason[skip.reason].append(skip.path)
    lines = [f"skipped {len(skipped):,}:"]
    for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        lines.append(f"  {len(names):,} × {reason} ({_first(names)})")
    return lines


def _first(names: Sequence[str]) -> str:
    return ", ".join(map(shorten, names[:_NAMED_SKIPS])) + (", …" if len(names) > _NAMED_SKIPS else "")


def to_dataset_dict(folder: ReidFolder, domain: str) -> DatasetDict:
    """The `DatasetDict` of a folder that was read; `domain` goes into every row."""
    return DatasetDict({split: _to_dataset(folder, split, domain) for split in folder.splits})


def _to_dataset(folder: ReidFolder, split: str, domain: str) -> Dataset:
    images = folder.splits[split]
    columns: dict[str, list[Any]] = {
        "image": [str(image.image_path) for image in images],
        "person_id": [image.person_id for image in images],
        "camera_id": [image.camera_id for image in images],
        "captions": [list(image.captions) for image in images],
        "person_mask": [None if image.person_mask is None else str(image.person_mask) for image in images],
        "image_path": [folder.name_of(image.image_path) for image in images],
        "domain": [domain] * len(images),
    }
    features = REID_FEATURES.copy()
    for column, names in (("person_id", folder.person_names), ("camera_id", folder.camera_names)):
        if names:
            columns[NAME_COLUMNS[column]] = [names.get(number) for number in columns[column]]
            features[NAME_COLUMNS[column]] = Value("string")
    return Dataset.from_dict(columns, features=features, split=NamedSplit(split))
