"""The interface of folder layouts: `Layout`, the request that it carries out, and the jobs of a request.

A layout plans jobs (one per person, distractor or junk crop), writes each job's files, and finally the files that
cover all jobs. Jobs are independent of one another, so they can be spread over processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mmet.data.synthetic.style import WorldStyle
from mmet.whole_files import FolderDraft

MAX_IDS = 9000
"""Largest number of people: most data sets have four digits for the person."""


@dataclass(frozen=True, slots=True)
class WorldRequest:
    """A world to write: people by split, pictures of each, their size, the style and the seed."""

    layout: str
    style: WorldStyle
    seed: int
    num_train_ids: int
    num_val_ids: int
    num_test_ids: int
    images_per_id: int
    image_height: int
    image_width: int
    form: str = ""
    caption_format: str = ""
    untidy_rate: float = 0.0
    shadow_files: bool = False
    keypoints: bool = False
    part_masks: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One person to photograph.

    Attributes:
        number: number of the person, which is also the person id, except for distractors and junk.
        split: name of the split in the layout.
        images: number of pictures.
        cameras: number of cameras that see the person; None for the style's number.
        repeated: whether annotations of this person have repeated entries.
    """

    number: int
    split: str
    images: int
    cameras: int | None = None
    repeated: bool = False


Record = dict[str, Any]


def finish_nothing(request: WorldRequest, records: Sequence[Record], folder: FolderDraft) -> None:
    """Write nothing, for layouts whose file names say everything."""


def check_nothing(request: WorldRequest) -> None:
    """Accept every request."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One published folder layout.

    Attributes:
        name: name on the command line, as in `mmet.data.registry`.
        title: published name of the data set.
        version: increased whenever the files written for the same arguments change.
        default_style: default style.
        folders: folders that exist even when empty.
        plan: plans the jobs of a request.
        write: writes one job's files and returns records for `finish`.
        finish: writes the files that cover all jobs.
        check: raises `ValueError` for a request that the layout cannot write.
        forms: the forms in which the data set is published, the default first; empty if there is only one.
        caption_formats: formats of the caption file, the default first; empty if there is no choice.
        untidy_rate: default share of people with the irregularities of the original.
        max_ids: largest number of people.
        cameras: number of cameras that see a person; None for the style's number.
        has_splits: whether people are split into train and test.
        has_validation: whether there is a validation split as well.
        has_keypoints: whether it can hold keypoints.
        has_part_masks: whether it can hold part masks.
        min_images: smallest number of images per person.
    """

    name: str
    title: str
    version: int
    default_style: WorldStyle
    folders: tuple[str, ...]
    plan: Callable[[WorldRequest], list[Job]]
    write: Callable[[WorldRequest, Job, FolderDraft], list[Record]]
    finish: Callable[[WorldRequest, Sequence[Record], FolderDraft], None] = finish_nothing
    check: Callable[[WorldRequest], None] = check_nothing
    forms: tuple[str, ...] = ()
    caption_formats: tuple[str, ...] = ()
    untidy_rate: float = 0.0
    max_ids: int = MAX_IDS
    cameras: int | None = None
    has_splits: bool = True
    has_validation: bool = False
    has_keypoints: bool = False
    has_part_masks: bool = False
    min_images: int = 1


def train_and_test(request: WorldRequest) -> list[Job]:
    """People for training, then people for testing, numbered from 1."""
    train = [Job(n, "train", request.images_per_id) for n in range(1, request.num_train_ids + 1)]
    first = request.num_train_ids + 1
    return train + [Job(n, "test", request.images_per_id) for n in range(first, first + request.num_test_ids)]


def train_test_and_validation(request: WorldRequest) -> list[Job]:
    """As `train_and_test`, then the people for validation, so that the others keep their numbers."""
    first = request.num_train_ids + request.num_test_ids + 1
    validation = [Job(n, "val", request.images_per_id) for n in range(first, first + request.num_val_ids)]
    return train_and_test(request) + validation


def write_json(folder: FolderDraft, name: str, content: Any) -> None:
    """Write `content` as readable UTF-8 JSON."""
    folder.write(name, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
