"""The last part of `make footage`: search the crops for captions of drawn people, and compare with the truth."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmet.argument_parser import OptionParser
from mmet.command_line import run_command
from mmet.data.synthetic.video import PERSONS_FILE
from mmet.footage import timeline
from mmet.footage.boxes import Detections, FootageError, box_iou
from mmet.footage.mot import read_mot
from mmet.gallery import Gallery
from mmet.gallery.demo import run, show_and_run

SEARCHES = ((4, 0), (5, 1), (2, 2))
"""Persons of the films, each with the number of a caption whose clothes nobody else wears."""

WRONG_EXIT_CODE = 1
_LEAST_IOU = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Search with the command line, printing each command, and compare; returns 1 if a first result is wrong."""
    parser = build_parser()
    options = parser.parse_args(argv)
    return run_command(parser.prog, lambda _: search(options.films, options.gallery))


def build_parser() -> argparse.ArgumentParser:
    parser = OptionParser(prog="python -m mmet.footage.demo", description="Three searches of drawn films.")
    parser.add_argument("--films", required=True, type=Path, help="folder that mmet.data.synthetic.video made")
    parser.add_argument("--gallery", required=True, help="gallery of their crops; contact sheets lie beside it")
    return parser


def search(films: Path, folder: str) -> int:
    """Run the three searches and a timeline, then compare all captions with the truth."""
    truth = FilmTruth(films)
    missing = sorted({person for person, _ in SEARCHES} - set(truth.captions))
    if missing:
        raise FootageError(
            f"{films / PERSONS_FILE}: no person {missing[0]}; draw films of six people, as `make footage` does"
        )
    sentences = {person: truth.captions[person][number] for person, number in SEARCHES}
    for person, sentence in sentences.items():
        sheet = f"{folder}-person{person}.html"
        code = run("search", folder, "--text", sentence, "--by_track", "-k", "5", "--html", sheet)
        if code:
            return code
    words = [folder, "--text", next(iter(sentences.values())), "-k", "5", "--figure", f"{folder}-timeline.png"]
    code = show_and_run(timeline.PROGRAM, timeline.main, words)
    if code:
        return code
    gallery = Gallery.open(folder)
    right = [truth.first_is_right(gallery, person, sentence) for person, sentence in sentences.items()]
    pairs = [(person, sentence) for person, captions in truth.captions.items() for sentence in captions]
    total = sum(truth.first_is_right(gallery, *pair) for pair in pairs)
    print(f"\nFirst result right, by the films' true boxes: {sum(right)} of these {len(right)} searches", end="; ")
    print(f"{total} of all {len(pairs)} captions of the {len(truth.captions)} people")
    return 0 if all(right) else WRONG_EXIT_CODE


class FilmTruth:
    """
    The true identities in drawn films.

    Attributes:
        captions: sentences by person.
    """

    def __init__(self, films: Path) -> None:
        persons: list[dict[str, Any]] = json.loads((films / PERSONS_FILE).read_text(encoding="utf-8"))
        self.captions: dict[int, list[str]] = {person["person_id"]: person["captions"] for person in persons}
        self._persons = {
            (track["camera"], track["track"]): person["person_id"] for person in persons for track in person["tracks"]
        }
        cameras = sorted({camera for camera, _ in self._persons})
        self._boxes: dict[str, dict[int, Detections]] = {
            camera: read_mot(films / camera / "gt" / "gt.txt") for camera in cameras
        }

    def person_in(self, camera: str, frame: int, box: Sequence[float]) -> int | None:
        """
        The person whose true box overlaps a crop most; None if the intersection over union is small.

        Args:
            camera: camera of the crop.
            frame: number of its frame, from 0.
            box: left, top, width and height.
        """
        boxes = self._boxes[camera].get(frame)
        if boxes is None or boxes.ids is None:
            return None
        left, top, width, height = box
        overlap = box_iou(np.array([[left, top, left + width, top + height]]), boxes.boxes)[0]
        best = int(overlap.argmax())
        return self._persons[camera, int(boxes.ids[best])] if overlap[best] >= _LEAST_IOU else None

    def first_is_right(self, gallery: Gallery, person: int, sentence: str) -> bool:
        """Whether the first result of a sentence about a person shows that person."""
        match = gallery.search(text=sentence, k=1, by_track=True).matches[0]
        assert match.box is not None  # all crops of footage have one
        return self.person_in(str(match.camera_id), match.row["frame"], match.box) == person


if __name__ == "__main__":
    sys.exit(main())
