"""Record pictures that could not be decoded in training and were replaced (`skip_bad_images`).

The training dataset replaces such a picture (`mmet.training.dataset`). The trainer gathers the names, logs each once
and writes `skipped_images.json` beside the model.

    skipped = SkippedImages.load(output_dir)
    skipped.add(batch["skipped_images"])
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from mmet.whole_files import read_json, write_whole

logger = logging.getLogger(__name__)

FILE_NAME = "skipped_images.json"


class SkippedImages:
    """Paths of replaced pictures, with the defect and the number of replacements."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self._new: list[tuple[str, str]] = []

    @classmethod
    def load(cls, folder: Path) -> SkippedImages:
        """Load the list of an interrupted run; empty if there is no file. Raises `ValueError` for an invalid file."""
        skipped, path = cls(), folder / FILE_NAME
        if not os.path.lexists(path):
            return skipped
        try:
            for entry in read_json(path)["images"]:
                skipped.reasons[entry["image_path"]] = str(entry["reason"])
                skipped.counts[entry["image_path"]] = int(entry["times"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"{path} is not the list of skipped pictures ({error!r}); remove it") from error
        return skipped

    def add(self, pictures: Iterable[tuple[str, str]]) -> None:
        """Add `(image_path, reason)` of the pictures that were replaced in a batch."""
        for path, reason in pictures:
            if path not in self.reasons and (path, reason) not in self._new:
                logger.warning("skipped %s: %s", path, reason)
            self._new.append((path, reason))

    def gather(self) -> None:
        """Merge the new entries of all processes; every process must call it."""
        new = gather_object(self._new) if PartialState().num_processes > 1 else self._new
        self._new = []
        for path, reason in new:
            self.reasons.setdefault(path, reason)
            self.counts[path] = self.counts.get(path, 0) + 1

    def save(self, folder: Path) -> None:
        """Write the list unless it is empty."""
        if self.reasons:
            write_whole(folder / FILE_NAME, json.dumps(self.to_json(), indent=2) + "\n")

    def to_json(self) -> dict[str, Any]:
        """Number of skipped pictures, number of skips, and the list."""
        images = [
            {"image_path": path, "reason": self.reasons[path], "times": self.counts[path]}
            for path in sorted(self.reasons)
        ]
        return {"num_images": len(images), "num_times": sum(self.counts.values()), "images": images}
