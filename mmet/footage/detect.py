"""Person detectors: the protocol, and how a user names one.

make = detector_maker("hog")                            # offline, needs no download
make = detector_maker("PekingU/rtdetr_v2_r18vd")        # any object detection checkpoint of transformers
make = detector_maker("seq/{camera}/det.txt")           # boxes of one's own, as MOTChallenge text
detector = make("camera1")
detector.detect([frame])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from mmet.field_checks import suggestion
from mmet.footage.boxes import Detections, FootageError
from mmet.footage.decode import Frame
from mmet.footage.hog import HogDetector
from mmet.footage.mot import MotDetector

HOG = "hog"
PERSON_LABELS = ("person", "pedestrian", "people", "human")
"""Labels for persons in checkpoints; the first one that a checkpoint has is used."""


class Detector(Protocol):
    """Finds persons in the frames of one camera, given in order of time."""

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """The persons in each frame."""
        ...

    def observe(self, frames: Sequence[Frame]) -> None:
        """Learn from frames whose persons are already known; detectors that do not learn ignore them."""
        ...


class TransformersDetector:
    """
    An object detection checkpoint of transformers, from the Hub or a folder.

    Args:
        name: name or folder.
        threshold: smallest score that is kept.
        device: device to run on; None for a GPU if there is one, else the CPU.

    Raises:
        FootageError: the checkpoint cannot be loaded, or has no label for persons.
    """

    def __init__(self, name: str, *, threshold: float = 0.3, device: str | None = None) -> None:
        try:
            self._processor = cast(Any, AutoImageProcessor).from_pretrained(name)
            self._model = AutoModelForObjectDetection.from_pretrained(name)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise FootageError(
                f"detector {name}: neither {HOG}, a MOTChallenge file, nor an object detection checkpoint that can be "
                f"loaded ({reason}){suggestion(name, [HOG])}"
            ) from error
        self._label = person_label(name, self._model.config.id2label)
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model.to(self._device).eval()
        self._threshold = threshold

    def observe(self, frames: Sequence[Frame]) -> None:
        """Do nothing: this detector does not learn."""

    @torch.inference_mode()
    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """The persons in each frame; all frames are one batch."""
        inputs = self._processor(images=[frame.image for frame in frames], return_tensors="pt").to(self._device)
        results = self._processor.post_process_object_detection(
            self._model(**inputs),
            threshold=self._threshold,
            target_sizes=[frame.image.shape[:2] for frame in frames],
        )
        return [self._persons(result) for result in results]

    def _persons(self, result: dict[str, torch.Tensor]) -> Detections:
        chosen = result["labels"] == self._label
        boxes, scores = result["boxes"][chosen], result["scores"][chosen]
        return Detections(boxes.double().cpu().numpy().reshape(-1, 4), scores.double().cpu().numpy())


def person_label(name: str, labels: dict[int, str]) -> int:
    """The number of the label for persons. Raises `FootageError` when there is none."""
    numbers = {str(text).strip().lower(): int(number) for number, text in labels.items()}
    for label in PERSON_LABELS:
        if label in numbers:
            return numbers[label]
    shown = ", ".join(list(numbers)[:8])
    raise FootageError(f"detector {name}: no label {PERSON_LABELS[0]!r} in its id2label; it has {shown}")


def detector_maker(name: str) -> Callable[[str], Detector]:
    """
    Return a function that makes the detector of a camera; cameras do not share a detector that learns.

    Args:
        name: `hog`, a MOTChallenge file (`{camera}` stands for the camera's name), or a checkpoint.

    Raises:
        FootageError: the detector cannot be made for any camera; raised at once.
    """
    if name == HOG:
        HogDetector()  # says at once what is not installed
        return lambda camera: HogDetector()
    if name.endswith(".txt") or Path(name).is_file():
        make = cache(lambda path: MotDetector(path))
        if "{camera}" not in name:
            make(name)
        return lambda camera: make(name.replace("{camera}", camera))
    detector = TransformersDetector(name)
    return lambda camera: detector


def default_motion(name: str) -> float:
    """Default of `min_motion` in body heights: HOG mistakes objects for persons, other detectors seldom do."""
    return 0.3 if name == HOG else 0.0


__all__ = ["Detector", "TransformersDetector", "default_motion", "detector_maker", "person_label"]
