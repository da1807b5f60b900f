"""Detectors: HOG against the true boxes of drawn films, MOTChallenge text, and checkpoints of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

from mmet.footage import Detections, FootageError, Frame, open_footage
from mmet.footage.boxes import box_iou, suppress
from mmet.footage.detect import TransformersDetector, detector_maker, person_label
from mmet.footage.hog import HogDetector
from mmet.footage.mot import MotDetector, mot_lines, read_mot
from tests.footage.conftest import overlap

Truth = Callable[[str], dict[int, np.ndarray]]


@pytest.fixture(scope="module")
def detected(films: Path) -> dict[str, dict[int, Detections]]:
    """Sure boxes of the HOG detector in every second frame of both cameras."""
    result: dict[str, dict[int, Detections]] = {}
    for camera in ("camera1", "camera2"):
        detector = HogDetector()
        with open_footage(films / f"{camera}.mp4", every=2) as footage:
            boxes = {frame.index: detector.detect([frame])[0] for frame in footage}
        result[camera] = {index: part[part.scores > 0.5] for index, part in boxes.items()}
    return result


def test_hog__finds_the_people_and_little_else(films: Path, truth: Truth, detected: dict) -> None:
    seen = hits = boxes = right = 0
    for camera, frames in detected.items():
        for index, detections in frames.items():
            people = truth(camera).get(index, np.zeros((0, 6)))
            iou = overlap(people[:, 1:5], detections.boxes)
            visible = people[:, 5] > 0.5
            seen, hits = seen + visible.sum(), hits + (iou.max(axis=1, initial=0)[visible] > 0.5).sum()
            boxes, right = boxes + len(detections), right + (iou.max(axis=0, initial=0) > 0.3).sum()
    assert hits / seen > 0.7
    assert right / boxes > 0.93


def test_hog__boxes_are_tight(truth: Truth, detected: dict) -> None:
    best = [
        overlap(truth(camera)[index][:, 1:5], detections.boxes).max(axis=0)
        for camera, frames in detected.items()
        for index, detections in frames.items()
        if len(detections) and index in truth(camera)
    ]
    values = np.concatenate(best)
    assert values[values > 0.3].mean() > 0.7


@pytest.mark.parametrize("size", [(40, 30), (128, 64), (130, 40), (300, 70)])
def test_hog__small_and_narrow_pictures_are_no_trouble(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    frames = [Frame(index, index / 5, rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for index in range(4)]
    assert len(HogDetector().detect(frames)) == 4


def test_hog__nothing_is_found_where_nothing_is() -> None:
    frames = [Frame(index, index / 5, np.full((200, 300, 3), 120, np.uint8)) for index in range(3)]
    assert [len(part) for part in HogDetector().detect(frames)] == [0, 0, 0]


def test_read_mot__true_tracks(films: Path, truth: Truth) -> None:
    rows = read_mot(films / "camera1" / "gt" / "gt.txt")
    expected = truth("camera1")
    assert rows.keys() == expected.keys()
    for frame, people in expected.items():
        np.testing.assert_allclose(rows[frame].boxes, people[:, 1:5])
        assert rows[frame].ids.tolist() == people[:, 0].tolist()


def test_read_mot__leaves_out_what_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "gt.txt").write_text("1,1,11,21,30,60,1,1,1\n1,2,50,20,30,60,0,1,1\n1,3,90,20,30,60,1,7,1\n")
    rows = read_mot(tmp_path / "gt.txt")
    assert rows[0].boxes.tolist() == [[10, 20, 40, 80]]
    assert rows[0].ids.tolist() == [1]


def test_read_mot__detections_have_scores_and_no_tracks(tmp_path: Path) -> None:
    (tmp_path / "det.txt").write_text("2,-1,11,21,30,60,0.25,-1,-1,-1\n1 -1 11 21 30 60 0.5\n\n")
    rows = read_mot(tmp_path / "det.txt")
    assert rows[1].ids is None
    assert (rows[0].scores.tolist(), rows[1].scores.tolist()) == ([0.5], [0.25])


def test_read_mot__margins_become_shares_in_the_same_order(tmp_path: Path) -> None:
    (tmp_path / "det.txt").write_text("1,-1,1,1,9,9,-2\n1,-1,1,1,9,9,0\n2,-1,1,1,9,9,31.5\n")
    rows = read_mot(tmp_path / "det.txt")
    assert 0 < rows[0].scores[0] < rows[0].scores[1] == 0.5 < rows[1].scores[0] <= 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,1,1,1,9,9,1\n0,1,1,1,9,9,1\n", "line 2: frame 0; frames count from 1"),
        ("1,1,1,1\n", "line 1: expected 6 to 10 numbers"),
        ("frame,id,left,top,width,height\n", "line 1: expected numbers"),
        ("1,1,1,1,0,9,1\n", "line 1: a box of 0 by 9 pixels"),
        ("1,1,1,1,nan,9,1\n", "line 1: expected 6 to 10 numbers"),
        ("1.5,1,1,1,9,9,1\n", "line 1: frame 1.5"),
        ("", "no detections in it"),
    ],
)
def test_read_mot__other_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "det.txt").write_text(text)
    with pytest.raises(FootageError, match=message) as error:
        read_mot(tmp_path / "det.txt")
    assert "det.txt" in str(error.value)


def test_mot_lines__are_read_back(tmp_path: Path) -> None:
    detections = Detections(np.array([[3.25, 4, 13.5, 44], [0, 0, 5, 9]]), np.array([0.5, 0.75]), np.array([4, 6]))
    (tmp_path / "tracks.txt").write_text(mot_lines(6, detections))
    again = read_mot(tmp_path / "tracks.txt")[6]
    np.testing.assert_allclose(again.boxes, detections.boxes)
    np.testing.assert_allclose(again.scores, detections.scores)
    assert again.ids.tolist() == [4, 6]


@given(arrays(np.int64, (6, 4), elements=st.integers(0, 30)), arrays(np.int64, (4, 4), elements=st.integers(0, 30)))
def test_box_iou__as_counted_by_pixels(first: np.ndarray, second: np.ndarray) -> None:
    first, second = (
        np.concatenate([part[:, :2], part[:, :2] + 1 + part[:, 2:] % 9], axis=1) for part in (first, second)
    )

    def pixels(box: np.ndarray) -> set[tuple[int, int]]:
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    expected = [[len(pixels(a) & pixels(b)) / len(pixels(a) | pixels(b)) for b in second] for a in first]
    np.testing.assert_allclose(box_iou(first.astype(float), second.astype(float)), expected)


def test_suppress__keeps_the_better_of_two_that_overlap() -> None:
    boxes = np.array([[0, 0, 10, 20], [1, 0, 11, 20], [30, 0, 40, 20], [31, 5, 36, 12]], dtype=float)
    detections = Detections(boxes, np.array([0.5, 0.9, 0.4, 0.8]))
    assert suppress(detections, max_iou=0.5).scores.tolist() == [0.9, 0.8, 0.4]
    assert suppress(detections, max_iou=0.5, max_share=0.9).scores.tolist() == [0.9, 0.8]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained YOLOS with three labels, the second of which is `person`."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("detector")
    config = YolosConfig(
        **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
        **{"image_size": [32, 48], "patch_size": 16, "num_detection_tokens": 12},
        id2label={0: "cat", 1: "Person", 2: "car"},
    )
    YolosForObjectDetection(config).save_pretrained(folder)
    YolosImageProcessor(size={"height": 32, "width": 48}).save_pretrained(folder)
    return folder


def test_transformers_detector__keeps_persons_alone_and_batches(checkpoint: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [Frame(index, index / 5, rng.integers(0, 255, (60, 90, 3), dtype=np.uint8)) for index in range(3)]
    detector = TransformersDetector(str(checkpoint), threshold=0.0)
    batch, single = detector.detect(frames), [detector.detect([frame])[0] for frame in frames]
    model, processor = detector._model, detector._processor
    with torch.inference_mode():
        output = model(**processor(images=[frames[0].image], return_tensors="pt"))
    labels = output.logits[0].softmax(-1)[:, :-1].argmax(-1)
    assert len(batch[0]) == int((labels == 1).sum())
    for part, other in zip(batch, single, strict=True):
        np.testing.assert_allclose(part.boxes, other.boxes, atol=1e-3)
    chosen = output.pred_boxes[0][labels == 1].double().numpy()  # centre and size, shares of the picture
    corners = np.concatenate([chosen[:, :2] - chosen[:, 2:] / 2, chosen[:, :2] + chosen[:, 2:] / 2], axis=1)
    np.testing.assert_allclose(batch[0].boxes, corners * (90, 60, 90, 60), atol=1e-3)


def test_person_label__is_found_by_its_word() -> None:
    assert person_label("x", {0: "N/A", 1: "person", 2: "bicycle"}) == 1
    assert person_label("x", {3: "Pedestrian", 4: "people"}) == 3
    with pytest.raises(FootageError, match="detector x: no label 'person' in its id2label; it has cat, dog"):
        person_label("x", {0: "cat", 1: "dog"})


def test_detector_maker__by_name(checkpoint: Path, films: Path) -> None:
    make = detector_maker("hog")
    assert make("a") is not make("b")  # each camera has a background of its own
    assert isinstance(detector_maker(str(films / "{camera}" / "gt" / "gt.txt"))("camera2"), MotDetector)
    make = detector_maker(str(checkpoint))
    assert make("a") is make("b")


@pytest.mark.parametrize(
    ("name", "message"),
    [("hgo", "did you mean 'hog'"), ("none.txt", "none.txt"), ("no/such-model", "detector no/such")],
)
def test_detector_maker__unknown_names(name: str, message: str) -> None:
    with pytest.raises(FootageError, match=message):
        detector_maker(name)
