"""Persons and cameras that are words are called by them in ranked lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mmet.data import load_reid_dataset
from mmet.evaluation import build_task
from mmet.evaluation.analyses.ranked_lists import list_entry, name_of


def test_name_of__word_where_there_is_one_else_the_number(tmp_path: Path) -> None:
    rows = ["0.png,alice,front-door,query", "1.png,alice,7,gallery", "2.png,4,front-door,gallery"]
    for number in range(3):
        Image.fromarray(np.full((8, 4, 3), 80 * number, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "annotations.csv").write_text("image,person_id,camera_id,split\n" + "\n".join(rows) + "\n")
    task = build_task(load_reid_dataset("folder", tmp_path), "image", "image")
    assert name_of(task.query, 0, "person_id") == "alice"
    assert [name_of(task.gallery, number, "person_id") for number in (0, 1)] == ["alice", "4"]
    assert [name_of(task.gallery, number, "camera_id") for number in (0, 1)] == ["7", "front-door"]
    assert task.matches().of_query(0).tolist() == [0]
    assert [list_entry(task.gallery, number).camera_name for number in (0, 1)] == ["7", "front-door"]
