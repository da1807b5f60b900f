"""The synthetic data of the tables: one source world to train on, and unseen people in the layout of each target.

data = draw_worlds(Path("outputs/ablate/data"), WorldSize())
data["market1501"]      # "market1501=outputs/ablate/data/market1501"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mmet.data.synthetic import LAYOUTS, write_world

SOURCE = "finegpr"
SOURCE_SEED, TARGET_SEED = 1, 2


@dataclass(frozen=True)
class WorldSize:
    """People and pictures of the worlds: as many as in `make demo`, drawn at the size that the small model reads."""

    persons: int = 400
    images_per_person: int = 16
    test_persons: int = 100
    test_images_per_person: int = 8
    image_height: int = 100
    image_width: int = 52


def draw_worlds(folder: Path, size: WorldSize, *, num_workers: int = 1, show_progress: bool = False) -> dict[str, str]:
    """Write the worlds that are not there yet; `name=folder` by name.

    Raises:
        ValueError: a size outside its range.
        DatasetError: a folder that holds something else.
    """
    write_world(
        SOURCE,
        folder / SOURCE,
        num_ids=size.persons,
        images_per_id=size.images_per_person,
        seed=SOURCE_SEED,
        image_height=size.image_height,
        image_width=size.image_width,
        num_workers=num_workers,
        show_progress=show_progress,
    )
    names = [SOURCE]
    for name in sorted({"market1501", "dukemtmc", "cuhk03", "cuhk_pedes"} & LAYOUTS.keys()):
        write_world(
            name,
            folder / name,
            num_train_ids=4,
            num_test_ids=size.test_persons,
            images_per_id=size.test_images_per_person,
            seed=TARGET_SEED,
            image_height=size.image_height,
            image_width=size.image_width,
            num_workers=num_workers,
            show_progress=show_progress,
        )
        names.append(name)
    return {name: f"{name}={folder / name}" for name in names}


def describe_worlds(size: WorldSize) -> Mapping[str, object]:
    """What the result file says of the data."""
    return {"synthetic": True, **vars(size)}
