"""Drawn films and small videos that the tests of footage share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mmet.data.synthetic.video import encode_film, write_films

pytest.importorskip("av")
pytest.importorskip("cv2", exc_type=ImportError)
pytest.importorskip("trackers")


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cameras, four people, six seconds."""
    folder = tmp_path_factory.mktemp("footage") / "films"
    write_films(folder, num_people=4, num_cameras=2, seconds=6.0, fps=10, seed=7)
    return folder


@pytest.fixture(scope="session")
def truth(films: Path) -> Callable[[str], dict[int, np.ndarray]]:
    """True boxes of a camera by frame from 0: track, left, top, right, bottom, visibility."""

    def read(camera: str) -> dict[int, np.ndarray]:
        rows = np.loadtxt(films / camera / "gt" / "gt.txt", delimiter=",")
        boxes = np.stack(
            [
                rows[:, 1],
                rows[:, 2] - 1,
                rows[:, 3] - 1,
                rows[:, 2] - 1 + rows[:, 4],
                rows[:, 3] - 1 + rows[:, 5],
                rows[:, 8],
            ],
            axis=1,
        )
        return {int(frame) - 1: boxes[rows[:, 0] == frame] for frame in np.unique(rows[:, 0])}

    return read


@pytest.fixture(scope="session")
def read_rows() -> Callable[[Path], list[dict[str, object]]]:
    return lambda folder: [json.loads(line) for line in (folder / "annotations.jsonl").read_text().splitlines()]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Twenty frames of 64 × 96 whose brightness is ten times their number."""

    def frames() -> Iterator[np.ndarray]:
        for index in range(20):
            yield np.full((64, 96, 3), 10 * index, dtype=np.uint8)

    path = tmp_path / "clip.mp4"
    encode_film(path, frames(), 5)
    return path


def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union (N, M), a pair at a time."""
    result = np.zeros((len(boxes), len(others)))
    for row, (ax0, ay0, ax1, ay1) in enumerate(boxes):
        for column, (bx0, by0, bx1, by1) in enumerate(others):
            common = max(0.0, min(ax1, bx1) - max(ax0, bx0)) * max(0.0, min(ay1, by1) - max(ay0, by0))
            result[row, column] = common / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - common)
    return result
