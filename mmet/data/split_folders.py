"""What datasets named like Market-1501 share: a folder for each split, person and camera written in the file names.

layout = SplitFolders(title, FOLDER_NAMES, {"train": "bounding_box_train", …}, re.compile(…), "0002_c1_x.jpg", TREE)
layout.read(root)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmet.data.defects import Defect, DefectKind
from mmet.data.paths import layout_error, list_images
from mmet.data.schema import JUNK_PERSON_ID, PersonImage, ReidFolder

MARKET_SPLITS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


def find_home(root: Path, names: Sequence[str]) -> Path:
    """`root` itself, or the folder in it that has one of the dataset's published names."""
    return next((root / name for name in names if (root / name).is_dir()), root)


@dataclass(frozen=True)
class SplitFolders:
    """A layout of one folder a split.

    Attributes:
        title: the dataset in prose.
        folder_names: names under which the dataset's folder is published.
        splits: split -> its folder.
        pattern: beginning of a file name, with the groups `person` and `camera` and the character that must follow
            them, so that no number is read in part.
        example: a file name, for messages.
        expected_tree, distractor_id: see `ReidDatasetSpec`.
    """

    title: str
    folder_names: Sequence[str]
    splits: Mapping[str, str]
    pattern: re.Pattern[str]
    example: str
    expected_tree: str
    distractor_id: int | None = None

    def read(self, root: Path) -> ReidFolder:
        """Read the folder. Raises `DatasetError` when none of its split folders is there, or all names are others'."""
        home = find_home(root, self.folder_names)
        missing = [f"{name}/" for name in self.splits.values() if not (home / name).is_dir()]
        if len(missing) == len(self.splits):
            raise layout_error(self.title, home, missing, self.expected_tree)
        folder = ReidFolder(home, splits={split: [] for split in self.splits}, missing=missing)
        for split, name in self.splits.items():
            if (home / name).is_dir():
                self._add_pictures(folder, split, list_images(home / name))
        if folder.skipped and not folder.set_aside and not any(folder.splits.values()):
            raise layout_error(self.title, home, [f"picture named like {self.example}"], self.expected_tree)
        return folder

    def _add_pictures(self, folder: ReidFolder, split: str, paths: Iterable[Path]) -> None:
        """Add the pictures whose names are as they should be; skip the others.

        Person -1 is junk, which the protocol leaves out. Distractors are wrong candidates of a gallery: no query asks
        for them, and as training pictures they show unknown persons. Both are counted apart.
        """
        distractors = 0
        for path in paths:
            match = self.pattern.match(path.name)
            if match is None:
                folder.skip(path, Defect(DefectKind.NAME, f"name is not like {self.example}"))
                continue
            person_id = int(match["person"])
            if person_id == JUNK_PERSON_ID:
                folder.set_aside["junk detections (person -1)"] += 1
                continue
            if person_id == self.distractor_id and split == "query":
                folder.set_aside[f"distractors (person {person_id}) among the queries"] += 1
                continue
            if person_id == self.distractor_id and split == "train":
                distractors, person_id = distractors + 1, JUNK_PERSON_ID
            folder.splits[split].append(PersonImage(path, person_id, camera_id=int(match["camera"])))
        if distractors:
            folder.notes.append(
                f"split {split}: {distractors:,} distractors (person {self.distractor_id}) count as unknown persons"
            )
