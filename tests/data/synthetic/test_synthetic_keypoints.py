"""Keypoints of the synthetic world: on the person, on the proper side, hidden where something hides them."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmet.data.loading import read_reid_folder
from mmet.data.synthetic import write_world
from mmet.data.synthetic.keypoints import Joint, Limb, seen_keypoints

SMALL = {"num_ids": 6, "images_per_id": 6, "image_height": 128, "image_width": 64, "seed": 2}
COCO = [
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same people as they are, with things in front of them, and cut off."""
    base = tmp_path_factory.mktemp("worlds")
    for name, rates in {"open": {}, "occluded": {"occlusion_rate": 1.0}, "cut": {"crop_rate": 1.0}}.items():
        write_world("finegpr", base / name, **SMALL, **rates, keypoints=True)
    return {path.name: path for path in base.iterdir()}


def records(root: Path) -> list[tuple[dict[str, Any], np.ndarray, float]]:
    """Keypoint files with the silhouette and the view angle (c28: front, c01: 90 degrees) of their pictures."""
    keypoints = []
    for path in sorted((root / "FineGPR_keypoints").rglob("*.json")):
        record = json.loads(path.read_text())
        mask = np.asarray(Image.open(root / "FineGPR_masks" / Path(record["image"]).with_suffix(".png")))
        keypoints.append((record, mask > 0, (80 + 10 * int(path.stem.split("_c")[1][:2])) % 360))
    return keypoints


def test_keypoints__one_file_for_each_picture_and_counted_by_the_loader(worlds: dict[str, Path]) -> None:
    root = worlds["open"]
    pictures = {path.relative_to(root / "FineGPR") for path in root.rglob("*.jpg")}
    files = {path.relative_to(root / "FineGPR_keypoints") for path in root.rglob("*.json") if path.parent != root}
    assert {path.with_suffix(".json") for path in pictures} == files
    for record, _, _ in records(root):
        assert list(record["keypoints"]) == COCO
        assert Image.open(root / "FineGPR" / record["image"]).size == (record["width"], record["height"])
    folder = read_reid_folder("finegpr", root)
    assert f"FineGPR_keypoints has keypoints of {len(pictures)} pictures; they are not read" in folder.notes
    assert len(folder.splits["train"]) == len(pictures) == 36
    assert not folder.skipped


def test_keypoints__lie_on_the_person(worlds: dict[str, Path]) -> None:
    """Nothing stands in front, so that hidden joints lie on the silhouette as well; a mirrored pose does not."""
    on, off_mirrored, count = Counter[str](), 0, Counter[str]()
    for record, mask, _ in records(worlds["open"]):
        for name, (x, y, visibility) in record["keypoints"].items():
            if visibility:
                count[name] += 1
                on[name] += mask[int(y), int(x)]
                off_mirrored += not mask[:, ::-1][int(y), int(x)]
    assert set(count) == set(COCO)
    assert all(on[name] > 0.9 * count[name] for name in COCO if not name.endswith(("ear", "eye"))), (on, count)
    assert sum(on.values()) > 0.95 * sum(count.values())
    assert off_mirrored > 0.1 * sum(count.values())


def test_keypoints__left_and_right_are_the_persons_own(worlds: dict[str, Path]) -> None:
    front = back = 0
    for record, _, view in records(worlds["open"]):
        points, facing = record["keypoints"], math.cos(math.radians(view))
        front, back = front + (facing > 0.5), back + (facing < -0.5)
        if abs(facing) < 0.5:
            continue
        for kind in ("hip", "shoulder"):
            # The camera looks at the front: the person's left is to the right in the picture.
            left, right = points[f"left_{kind}"], points[f"right_{kind}"]
            assert (left[0] > right[0]) == (facing > 0), record["image"]
            assert left[1] < points["left_knee"][1] < points["left_ankle"][1]
        assert points["nose"][1] < points["left_shoulder"][1] < points["left_hip"][1]
        if facing < -0.5:
            assert points["nose"][2] == 1, "the back of the head hides the nose"
    assert min(front, back) >= 5


def test_keypoints__side_view_hides_the_far_side(worlds: dict[str, Path]) -> None:
    sides = [(record["keypoints"], math.sin(math.radians(view))) for record, _, view in records(worlds["open"])]
    profiles = [(points, sine) for points, sine in sides if abs(sine) > 0.9]
    assert len(profiles) >= 5
    for points, sine in profiles:
        near, far = ("right", "left") if sine > 0 else ("left", "right")  # 90 degrees show the right side
        assert points[f"{far}_shoulder"][2] == points[f"{far}_hip"][2] == 1
        assert points[f"{near}_knee"][2] == 2


def test_keypoints__what_stands_in_front_hides_them(worlds: dict[str, Path]) -> None:
    hidden = 0
    for (record, mask, _), (free, _, _) in zip(records(worlds["occluded"]), records(worlds["open"]), strict=True):
        for name, (x, y, visibility) in record["keypoints"].items():
            assert [x, y] == free["keypoints"][name][:2]
            assert visibility <= free["keypoints"][name][2]
            hidden += visibility < free["keypoints"][name][2]
            assert visibility != 2 or mask[int(y), int(x)]
    assert hidden > 20


def test_keypoints__cut_off_ones_are_marked(worlds: dict[str, Path]) -> None:
    outside = Counter[str]()
    for record, _, _ in records(worlds["cut"]):
        for name, (x, y, visibility) in record["keypoints"].items():
            assert 0 <= x <= record["width"]
            assert 0 <= y <= record["height"]
            if visibility == 0:
                assert x == y == 0
                outside[name.split("_")[-1]] += 1
    assert outside["ankle"] > 0.3 * 2 * 36
    assert not outside["hip"]


def test_keypoints__other_files_are_the_same_without_them(worlds: dict[str, Path], tmp_path: Path) -> None:
    write_world("finegpr", tmp_path / "plain", **SMALL)
    assert not (tmp_path / "plain" / "FineGPR_keypoints").exists()
    assert "keypoints" not in (tmp_path / "plain" / "SYNTHETIC.json").read_text()
    for path in (tmp_path / "plain").rglob("*"):
        if path.is_file() and path.name != "SYNTHETIC.json":
            assert path.read_bytes() == (worlds["open"] / path.relative_to(tmp_path / "plain")).read_bytes()


def test_write_world__keypoints_where_the_dataset_has_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keypoints: Market-1501 has none; expected False"):
        write_world("market1501", tmp_path / "world", keypoints=True)


def test_seen_keypoints__outside_hidden_and_seen() -> None:
    alpha = np.zeros((4, 3))
    alpha[2, 1] = 1
    for joint, expected in {
        (1.5, 2.5, True): (1.5, 2.5, 2),
        (1.5, 2.5, False): (1.5, 2.5, 1),  # behind the person's own body
        (0.5, 2.5, True): (0.5, 2.5, 1),  # behind something else
        (3.0, 2.5, True): (0, 0, 0),
        (1.5, -0.1, True): (0, 0, 0),
    }.items():
        point = seen_keypoints(dict.fromkeys(COCO, Joint(*joint)), alpha)["left_hip"]
        assert (point.x, point.y, point.visibility) == expected


COORDINATE = st.floats(-10, 10)
POINT = st.tuples(COORDINATE, COORDINATE)


@given(st.lists(POINT, min_size=3, max_size=3), st.floats(0.5, 3), POINT)
def test_limb__covers_what_is_near_its_spine(spine: list[tuple[float, float]], radius: float, point: tuple) -> None:
    shares = np.linspace(0, 1, 2001)[:, None]
    samples = np.concatenate([np.array(a) * (1 - shares) + np.array(b) * shares for a, b in pairwise(spine)])
    distance = np.hypot(*(samples - np.array(point)).T).min()
    if abs(distance - radius) > 0.02:
        assert Limb(spine, [radius] * 3).covers(*point) == (distance < radius)


def test_limb__tapers() -> None:
    limb = Limb([(0, 0), (10, 0)], [2, 1])
    assert limb.covers(0, 1.9)
    assert not limb.covers(10, 1.9)
    assert limb.covers(5, 1.4)
    assert not limb.covers(5, 1.6)
