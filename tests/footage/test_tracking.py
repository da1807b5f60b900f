"""Tracks, what clothes look like, and which crops are chosen: on cases that can be followed by eye."""

from __future__ import annotations

import numpy as np
import pytest

from mmet.footage import Detections
from mmet.footage.appearance import clothing_colors
from mmet.footage.select import Crop, CropChooser, crop_quality, cut_out
from mmet.footage.track import Tracker

RED, BLUE, GREY = (200, 30, 30), (30, 30, 200), (120, 120, 120)


def scene(people: list[tuple[float, tuple[int, int, int]]]) -> tuple[np.ndarray, Detections]:
    """A picture of 160 × 300 with a person of 30 × 100 at each x, in one colour."""
    image = np.full((160, 300, 3), GREY, np.uint8)
    boxes = []
    for x, color in people:
        image[40:140, int(x) : int(x) + 30] = color
        boxes.append([x, 40, x + 30, 140])
    return image, Detections(np.array(boxes, dtype=float).reshape(-1, 4), np.full(len(people), 0.9))


def follow(frames: list[list[tuple[float, tuple[int, int, int]]]], rate: float = 5.0) -> list[list[int]]:
    tracker = Tracker(frame_rate=rate)
    result = []
    for index, people in enumerate(frames):
        image, detections = scene(people)
        result.append(tracker.update(detections, time=index / rate, image=image).tolist())
    return result


def test_tracker__two_who_walk_are_two_tracks() -> None:
    ids = follow([[(10 + 8 * step, RED), (250 - 8 * step, BLUE)] for step in range(10)])
    assert len({pair[0] for pair in ids[1:]}) == 1
    assert len({pair[1] for pair in ids[1:]}) == 1
    assert ids[-1][0] != ids[-1][1]


def test_tracker__two_who_meet_and_turn_round_keep_their_tracks() -> None:
    """By place and speed alone they would walk on through each other."""
    ways = [10 + 12 * step for step in range(9)] + [106 - 12 * step for step in range(1, 9)]
    ids = follow([[(way, RED), (240 - way, BLUE)] for way in ways])
    red, blue = {pair[0] for pair in ids[2:]}, {pair[1] for pair in ids[2:]}
    assert not red & blue - {-1}


def test_tracker__who_takes_the_place_of_another_is_a_new_track() -> None:
    ids = follow([[(100, RED)]] * 6 + [[(100, BLUE)]] * 4)
    assert ids[5] != ids[-1]


def test_tracker__a_hidden_person_goes_on_and_one_who_was_long_away_does_not() -> None:
    assert follow([[(100, RED)]] * 5 + [[]] * 4 + [[(100, RED)]] * 3)[-1] == [0]
    assert follow([[(100, RED)]] * 5 + [[]] * 12 + [[(100, RED)]] * 3)[-1] == [1]


def test_tracker__known_tracks_are_taken() -> None:
    image, detections = scene([(10, RED), (90, BLUE)])
    known = Detections(detections.boxes, detections.scores, np.array([7, 3]))
    assert Tracker(frame_rate=5).update(known, time=0.0, image=image).tolist() == [7, 3]


def test_tracker__frames_without_persons() -> None:
    assert follow([[], [], [(10, RED)], [(12, RED)], []]) == [[], [], [-1], [0], []]


def test_clothing_colors__like_and_unlike() -> None:
    image, detections = scene([(10, RED), (90, RED), (180, BLUE)])
    colors = clothing_colors(image, detections.boxes)
    np.testing.assert_allclose(np.linalg.norm(colors, axis=1), 1, atol=1e-5)
    assert colors[0] @ colors[1] == pytest.approx(1, abs=1e-5)
    assert colors[0] @ colors[2] == 0
    brighter = clothing_colors(np.clip(image.astype(int) + 10, 0, 255).astype(np.uint8), detections.boxes)
    assert colors[0] @ brighter[0] > 0.4


def crop(time: float, quality: float, color: tuple[int, int, int] = RED) -> Crop:
    image = np.full((40, 20, 3), color, np.uint8)
    return Crop(round(10 * time), time, (0.0, 0.0, 20.0, 40.0), 0.9, quality, image)


def chosen(count: int, crops: list[Crop]) -> list[float]:
    chooser = CropChooser(count)
    for part in crops:
        chooser.add(part)
    return [part.time for part in chooser.best()]


def test_crop_chooser__takes_the_best_that_are_apart() -> None:
    crops = [crop(0, 0.5), crop(1, 0.9), crop(1.1, 0.89), crop(2, 0.6), crop(4, 0.55)]
    assert chosen(2, crops) == [1, 2]  # 1.1 is nearer than a quarter of the track to a better one
    assert chosen(1, crops) == [1]


def test_crop_chooser__leaves_out_what_is_much_worse() -> None:
    assert chosen(5, [crop(0, 0.9), crop(3, 0.1), crop(6, 0.8)]) == [0, 6]


def test_crop_chooser__leaves_out_who_is_dressed_otherwise() -> None:
    assert chosen(5, [crop(0, 0.5), crop(3, 0.5), crop(6, 0.9, BLUE), crop(9, 0.5)]) == [0, 3, 9]


def test_crop_chooser__keeps_few_in_memory_and_the_whole_time() -> None:
    chooser = CropChooser(2)
    for index in range(1000):
        chooser.add(crop(index / 10, 0.5))
    assert len(chooser._kept) == 6
    times = [part.time for part in chooser.best()]
    assert times[1] - times[0] >= 20


def test_crop_chooser__an_empty_track() -> None:
    assert chosen(3, []) == []


def quality(box: list[float], others: list[list[float]], score: float = 1.0, blur: bool = False) -> float:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (200, 200, 3), dtype=np.uint8)
    if blur:
        image = np.full_like(image, 128)
    place = np.array(box)
    return crop_quality(cut_out(image, place), place, np.array(others, dtype=float).reshape(-1, 4), score, (200, 200))


def test_crop_quality__large_sharp_whole_and_free_is_best() -> None:
    best = quality([50, 20, 100, 150], [])
    assert best == pytest.approx(1, abs=0.01)
    assert quality([50, 20, 80, 84], []) == pytest.approx(best / 2, abs=0.02)  # half as high as is enough
    assert quality([50, 20, 100, 150], [], blur=True) < 0.3 * best
    assert quality([0, 20, 50, 150], []) < 0.5 * best  # cut by the left edge
    assert quality([50, 20, 100, 150], [], score=0.0) == pytest.approx(best / 2)
    assert quality([50, 20, 100, 150], [[75, 20, 120, 160]]) == pytest.approx(best / 2)  # half covered by a nearer one
    assert quality([50, 20, 100, 150], [[75, 20, 120, 140]]) == pytest.approx(best)  # who stands behind
