"""The common schema of all datasets, and the plain records that a reader of a folder returns.

A *reader* (one small file for each dataset, see `mmet.data.registry`) turns a folder in its published layout into a
`ReidFolder`: lists of `PersonImage` per split and the files it had to leave out. `mmet.data.load_reid_dataset` turns
that into a `datasets.DatasetDict` with the columns of `REID_FEATURES`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image, List, Value
from numpy.typing import NDArray

from mmet.data.defects import Defect

REID_FEATURES = Features(
    {
        "image": Image(),
        "person_id": Value("int64"),
        "camera_id": Value("int64"),
        "captions": List(Value("string")),
        "person_mask": Image(),
        "image_path": Value("string"),
        "domain": Value("string"),
    }
)
"""Columns of every split. `captions` may be empty, `person_mask` null; `camera_id` is -1 where a dataset has none."""

NAME_COLUMNS = {"person_id": "person_name", "camera_id": "camera_name"}
"""Columns of text that stand beside the numbers where a dataset calls persons or cameras by words; null in rows whose
number is the dataset's own."""

JUNK_PERSON_ID = -1
"""A detection that is no clean person: dropped before evaluation (Market-1501's `-1`)."""

DISTRACTOR_PERSON_ID = 0
"""Market-1501's `0000`, a person nobody queries who stays in the gallery as a wrong candidate. In other datasets 0 is
a person like any other; see `ReidDatasetSpec.distractor_id`."""

NO_CAMERA = -1


class DatasetError(ValueError):
    """A dataset folder cannot be used; the message names the file and field and says what to do."""


@dataclass(frozen=True, slots=True)
class PersonImage:
    """One crop. Paths are absolute; `person_id` and `camera_id` are the dataset's own numbers."""

    image_path: Path
    person_id: int
    camera_id: int = NO_CAMERA
    captions: tuple[str, ...] = ()
    person_mask: Path | None = None


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file or annotation that was left out: its name for messages, and the defect."""

    path: str
    defect: Defect

    @property
    def reason(self) -> str:
        """The defect in words."""
        return self.defect.reason


@dataclass(slots=True)
class ReidFolder:
    """What a reader found in a dataset folder.

    Attributes:
        root: the dataset's own folder (it may lie below the one the user named); `image_path` is relative to it.
        splits: images by split; insertion order is the split order.
        missing: files and folders that a complete copy has and this one lacks ("query/"), if a partial copy is
            usable without them; readers raise an error for others.
        skipped: defects, one entry a file or annotation that was left out.
        set_aside: number of images left out by the protocol or an option, by reason; not defects.
        twins: queries of unknown cameras -> a picture of the gallery that is the same, byte by byte.
        unlisted: pictures that are there and that no table or list names, below `root`.
        person_names, camera_names: the words that stand for persons and cameras, by number; empty where all are
            numbers of the dataset's own. See `number_words`.
        notes: sentences for the report, such as which caption file was read.
        variant: which of the dataset's published forms this is, a key of `ReidDatasetSpec.variant_counts`.
        domain: goes into the column of that name; empty for the dataset's name.
        contents: for pictures inside Parquet shards: path -> a function that returns the file's bytes. These paths are
            only names; no file of that name is ever opened.
    """

    root: Path
    splits: dict[str, list[PersonImage]]
    missing: list[str] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)
    set_aside: Counter[str] = field(default_factory=Counter)
    twins: dict[str, str] = field(default_factory=dict)
    unlisted: list[str] = field(default_factory=list)
    person_names: dict[int, str] = field(default_factory=dict)
    camera_names: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    variant: str = ""
    domain: str = ""
    contents: dict[Path, Callable[[], bytes]] = field(default_factory=dict)

    def content_of(self, path: Path) -> Path | bytes:
        """A picture as `read_rgb` takes it: the path of its file, or the bytes that a shard holds."""
        return self.contents[path]() if path in self.contents else path

    def name_of(self, path: Path) -> str:
        """Return a path below `root` as shown and stored: relative, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def skip(self, what: Path | str, *defects: Defect) -> None:
        """Note that a file was left out."""
        name = self.name_of(what) if isinstance(what, Path) else what
        self.skipped += [SkippedFile(name, defect) for defect in defects]

    def find_unlisted(self, pictures: Iterable[Path], named: Container[Path]) -> None:
        """Note the pictures that no table or list names."""
        self.unlisted += [self.name_of(path) for path in pictures if path not in named]


def number_words(ids: Iterable[int | str]) -> dict[str, int]:
    """Number the words among the ids of persons or cameras in alphabetical order.

    >>> number_words([7, "bob", "alice"])
    {'alice': 8, 'bob': 9}

    Numbers stay what they are; words are numbered from 0, or from the number after the largest.
    """
    values = set(ids)
    words = sorted(value for value in values if isinstance(value, str))
    first = max((value for value in values if isinstance(value, int)), default=-1) + 1
    return {word: max(0, first) + place for place, word in enumerate(words)}


def integer_column(dataset: Dataset, name: str) -> NDArray[np.int64]:
    """An integer column `(rows,)`, read without decoding any picture."""
    return np.array(dataset.select_columns(name)[:][name], dtype=np.int64)


def has_captions(dataset: Dataset) -> bool:
    """Whether any row has a caption."""
    return any(dataset.select_columns("captions")[:]["captions"])
