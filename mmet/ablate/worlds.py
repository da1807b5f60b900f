"""The synthetic data of the tables: two source worlds to train on, and unseen people in the layout of each target.

data = draw_worlds(Path("outputs/ablate/data"), WorldSize())
data["market1501"]      # "market1501=outputs/ablate/data/market1501"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmet.data.synthetic import write_world

SOURCE, WIDE_SOURCE = "finegpr", "randperson"
SOURCE_SEED, TARGET_SEED, WIDE_SOURCE_SEED = 1, 2, 3
TARGETS = ("market1501", "dukemtmc", "cuhk03", "cuhk_pedes")


@dataclass(frozen=True)
class WorldSize:
    """Numbers of people and pictures of the worlds (by default as in `make demo`), and size of the pictures."""

    persons: int = 400
    images_per_person: int = 16
    test_persons: int = 100
    test_images_per_person: int = 8
    image_height: int = 100
    image_width: int = 52

    @property
    def wide_persons(self) -> int:
        """People of the second source, in RandPerson's layout: twice those of the first; RandPerson is larger too."""
        return 2 * self.persons


def draw_worlds(folder: Path, size: WorldSize, *, num_workers: int = 1, show_progress: bool = False) -> dict[str, str]:
    """Write the missing worlds and return `name=folder` by name.

    Raises:
        ValueError: a size is out of range.
        DatasetError: a folder holds something else.
    """
    common: dict[str, Any] = {
        "image_height": size.image_height,
        "image_width": size.image_width,
        "num_workers": num_workers,
        "show_progress": show_progress,
    }
    sources = {SOURCE: (size.persons, SOURCE_SEED), WIDE_SOURCE: (size.wide_persons, WIDE_SOURCE_SEED)}
    for name, (persons, seed) in sources.items():
        write_world(name, folder / name, num_ids=persons, images_per_id=size.images_per_person, seed=seed, **common)
    for name in TARGETS:
        write_world(
            name,
            folder / name,
            num_train_ids=4,
            num_test_ids=size.test_persons,
            images_per_id=size.test_images_per_person,
            seed=TARGET_SEED,
            **common,
        )
    names = (*sources, *TARGETS)
    return {name: f"{name}={folder / name}" for name in names}


def describe_worlds(size: WorldSize) -> Mapping[str, object]:
    """The description of the data for the result file."""
    return {"synthetic": True, **vars(size), "wide_persons": size.wide_persons}
