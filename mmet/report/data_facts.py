"""Counts of a data set: images, persons, cameras, captions.

summarize_data(DataArgument("market1501", Path("data/market"), {}), splits, ["query", "gallery"]).num_persons
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import DatasetDict

from mmet.data import JUNK_PERSON_ID, NO_CAMERA, DataArgument, get_spec
from mmet.data.schema import integer_column
from mmet.data.synthetic import PROVENANCE_FILE


@dataclass(frozen=True)
class DataFacts:
    """Counts of a data set. `title` is its published name; for synthetic data it says that only the layout is."""

    name: str
    root: Path
    title: str
    is_synthetic: bool
    num_images: int
    num_persons: int
    num_cameras: int
    num_captions: int


def summarize_data(argument: DataArgument, dataset: DatasetDict, splits: Sequence[str]) -> DataFacts:
    """Count the given splits. Junk crops and distractors count as images but not as persons. No picture is decoded."""
    parts = [dataset[split] for split in splits]
    persons, cameras = (
        np.concatenate([integer_column(part, column) for part in parts]) for column in ("person_id", "camera_id")
    )
    spec, root = get_spec(argument.name), argument.root
    is_synthetic = (root / PROVENANCE_FILE).is_file()
    return DataFacts(
        name=argument.label,
        root=root,
        title=f"synthetic, {spec.title} layout" if is_synthetic else spec.title,
        is_synthetic=is_synthetic,
        num_images=len(persons),
        num_persons=len(set(persons.tolist()) - {JUNK_PERSON_ID, spec.distractor_id}),
        num_cameras=len(set(cameras.tolist()) - {NO_CAMERA}),
        num_captions=sum(
            len(captions) for part in parts for captions in part.select_columns("captions")[:]["captions"]
        ),
    )
