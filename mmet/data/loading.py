"""From a dataset folder to a `datasets.DatasetDict`: read, check every picture, count, report, build.

dataset = load_reid_dataset("market1501", "/data/Market-1501-v15.09.15")
dataset["train"][0]["image"]  # decoded now; the dataset holds paths
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from datasets import Dataset, DatasetDict, NamedSplit

from mmet.data.files import display, find_defects, is_hidden, is_text, layout_error
from mmet.data.registry import ReidDatasetSpec, SplitCount, dataset_names, get_spec
from mmet.data.schema import NO_CAMERA, REID_FEATURES, DatasetError, PersonImage, ReidFolder, SkippedFile

logger = logging.getLogger(__name__)

_NAMED_SKIPS = 3  # examples shown for each reason


@dataclass(frozen=True, slots=True)
class SplitTotals:
    """What one split holds; `str()` gives it in words. Cameras are counted where they are known."""

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
    """Count one split. Distractors count as one person, as in published figures."""
    return SplitTotals(
        images=len(images),
        persons=len({image.person_id for image in images}),
        cameras=len({image.camera_id for image in images} - {NO_CAMERA}),
        captions=sum(len(image.captions) for image in images),
        masks=sum(image.person_mask is not None for image in images),
    )


def parse_data_argument(argument: str) -> tuple[str, Path]:
    """Split `name=folder` as given to the scripts: `market1501=/data/x` → `("market1501", Path("/data/x"))`.

    Raises:
        ValueError: there is no `=`, no folder, or no dataset of that name.
    """
    name, separator, folder = argument.partition("=")
    if not separator or not name.strip() or not folder.strip():
        known = ", ".join(dataset_names())
        raise ValueError(f"expected name=folder, such as market1501=/data/market, got {argument!r}; names: {known}")
    return get_spec(name.strip()).name, Path(folder.strip())


def load_reid_dataset(
    name: str, root: str | Path, *, on_skip: Literal["report", "error"] = "report", check_images: bool = True
) -> DatasetDict:
    """Load a dataset folder into the one schema and log what was found.

    Args:
        name: a registered dataset, see `mmet.data.dataset_names`.
        root: its folder as published, or the folder that holds it.
        on_skip: what to do about files and annotations that cannot be used: leave them out and report them, or raise.
        check_images: look at every picture file (about 0.15 ms each). Without it broken pictures fail when decoded.

    Returns:
        One `Dataset` a split with `REID_FEATURES`. Pictures stay where they are: `image` holds the absolute path and
        is decoded on access, `image_path` is the path relative to the dataset's folder, with forward slashes.

    Raises:
        ValueError: unknown `name` or `on_skip`.
        DatasetError: the folder is not this dataset, an annotation is malformed, a split has no usable picture, or
            something was skipped while `on_skip="error"`.
    """
    if on_skip not in ("report", "error"):
        raise ValueError(f"on_skip must be 'report' or 'error', got {on_skip!r}")
    spec = get_spec(name)
    folder = read_reid_folder(name, root, check_images=check_images)
    report = summarize(folder, spec)
    if folder.skipped and on_skip == "error":
        raise DatasetError(f"files were skipped, which on_skip='error' forbids\n{report}")
    logger.log(logging.INFO if _is_complete(folder, spec) else logging.WARNING, "%s", report)
    return to_dataset_dict(folder, domain=spec.name)


def _is_complete(folder: ReidFolder, spec: ReidDatasetSpec) -> bool:
    counts_agree = all(
        _is_as_published(count_split(images), _expected(folder, spec, split))
        for split, images in folder.splits.items()
    )
    return counts_agree and not folder.skipped


def read_reid_folder(name: str, root: str | Path, *, check_images: bool = True) -> ReidFolder:
    """Read a dataset folder, leaving out unusable pictures; the result lists what was skipped and why.

    Raises `ValueError` and `DatasetError` as `load_reid_dataset` does.
    """
    spec = get_spec(name)
    path = Path(root).expanduser().absolute()
    try:
        _require_folder(path, spec)
        folder = spec.read(path)
    except OSError as error:
        place, reason = error.filename or path, error.strerror or error
        raise DatasetError(f"{spec.title}: {place} cannot be read ({reason})") from error
    _drop_unprintable(folder)
    if check_images:
        _drop_defects(folder)
    _require_images(folder, spec)
    return folder


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
    reason = "file name is not valid UTF-8"
    bad = {image.image_path: reason for image in _images(folder) if not is_text(str(image.image_path))}
    _drop_images(folder, bad)


def _drop_defects(folder: ReidFolder) -> None:
    """Check all pictures and masks. A broken mask is forgotten, its picture kept."""
    _drop_images(folder, find_defects(folder.root, [image.image_path for image in _images(folder)]))
    masks = [image.person_mask for image in _images(folder) if image.person_mask is not None]
    defects = find_defects(folder.root, masks)
    if not defects:
        return
    folder.skipped.extend(SkippedFile(_name(folder, path), f"mask: {reason}") for path, reason in defects.items())
    for split, images in folder.splits.items():
        folder.splits[split] = [
            replace(image, person_mask=None) if image.person_mask in defects else image for image in images
        ]


def _drop_images(folder: ReidFolder, defects: dict[Path, str]) -> None:
    if not defects:
        return
    folder.skipped.extend(SkippedFile(_name(folder, path), reason) for path, reason in defects.items())
    for split, images in folder.splits.items():
        folder.splits[split] = [image for image in images if image.image_path not in defects]


def _require_images(folder: ReidFolder, spec: ReidDatasetSpec) -> None:
    empty = [split for split, images in folder.splits.items() if not images]
    if not folder.splits or empty:
        what = f"split {' and split '.join(empty)} of {spec.title} has" if empty else f"{spec.title} has"
        report = "\n".join(_skip_lines(folder.skipped)) or "No picture was found there."
        raise DatasetError(
            f"{what} no usable picture in {folder.root}.\n{report}\nExpected:\n{spec.expected_tree.rstrip()}"
        )


def _images(folder: ReidFolder) -> Iterable[PersonImage]:
    return (image for images in folder.splits.values() for image in images)


def _name(folder: ReidFolder, path: Path) -> str:
    return path.relative_to(folder.root).as_posix()


def summarize(folder: ReidFolder, spec: ReidDatasetSpec) -> str:
    """The report on a folder: counts of every split beside the published ones, then what was left out and why."""
    lines = [f"{spec.title} in {folder.root}", *(f"  {note}" for note in folder.notes)]
    lines += [f"  {line}" for line in _count_lines(folder, spec)]
    lines += [f"  left out by the protocol: {count:,} {what}" for what, count in folder.set_aside.items()]
    lines += [f"  {line}" for line in [*_uncaptioned_lines(folder), *_skip_lines(folder.skipped)]]
    return "\n".join(display(line) for line in lines)


def _count_lines(folder: ReidFolder, spec: ReidDatasetSpec) -> list[str]:
    width = max(map(len, folder.splits), default=0)
    lines = []
    for split, images in folder.splits.items():
        found, expected = count_split(images), _expected(folder, spec, split)
        verdict = "" if expected is None else f" {_compare(found, expected)}"
        lines.append(f"{split:{width}}  {found}{verdict}")
    return lines


def _expected(folder: ReidFolder, spec: ReidDatasetSpec, split: str) -> SplitCount | None:
    return None if folder.is_subset else spec.published_counts.get(split)


def _compare(found: SplitTotals, expected: SplitCount) -> str:
    if _is_as_published(found, expected):
        return "(as published)"
    captions = f" and {expected.captions:,} captions" if expected.captions else ""
    return f"(published: {expected.images:,} images of {expected.persons:,} persons{captions})"


def _is_as_published(found: SplitTotals, expected: SplitCount | None) -> bool:
    """Whether the counts agree; true where none were published."""
    if expected is None:
        return True
    same_captions = not expected.captions or found.captions == expected.captions
    return (found.images, found.persons) == (expected.images, expected.persons) and same_captions


def _uncaptioned_lines(folder: ReidFolder) -> list[str]:
    """Where a dataset has captions, the pictures that have none; they are kept."""
    if not any(image.captions for image in _images(folder)):
        return []
    names = [_name(folder, image.image_path) for image in _images(folder) if not image.captions]
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
    return ", ".join(names[:_NAMED_SKIPS]) + (", …" if len(names) > _NAMED_SKIPS else "")


def to_dataset_dict(folder: ReidFolder, domain: str) -> DatasetDict:
    """The `DatasetDict` of a folder that was read; `domain` goes into every row."""
    return DatasetDict({split: _to_dataset(folder, split, domain) for split in folder.splits})


def _to_dataset(folder: ReidFolder, split: str, domain: str) -> Dataset:
    images = folder.splits[split]
    columns = {
        "image": [str(image.image_path) for image in images],
        "person_id": [image.person_id for image in images],
        "camera_id": [image.camera_id for image in images],
        "captions": [list(image.captions) for image in images],
        "person_mask": [None if image.person_mask is None else str(image.person_mask) for image in images],
        "image_path": [_name(folder, image.image_path) for image in images],
        "domain": [domain] * len(images),
    }
    return Dataset.from_dict(columns, features=REID_FEATURES, split=NamedSplit(split))
