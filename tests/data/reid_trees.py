"""Tiny dataset folders, drawn by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture_bytes(picture_format: str = "JPEG", size: tuple[int, int] = (24, 48), seed: int = 0) -> bytes:
    """A noisy picture, so that its compressed data is longer than its headers."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, picture_format)
    return buffer.getvalue()


def add_picture(path: Path, content: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture_bytes("PNG" if path.suffix == ".png" else "JPEG") if content is None else content)
    return path


def make_market(home: Path, *, train: list[str], query: list[str], gallery: list[str]) -> Path:
    for folder, names in (("bounding_box_train", train), ("query", query), ("bounding_box_test", gallery)):
        (home / folder).mkdir(parents=True)
        for name in names:
            add_picture(home / folder / name)
    return home


def make_finegpr(home: Path, names: list[str], folder: str = "FineGPR", *, flat: bool = False) -> Path:
    for name in names:
        add_picture(home / folder / name if flat else home / folder / name[:4] / name)
    return home


def pedes_entry(file_path: str, person_id: int = 1, split: str = "train", captions: Any = ("A man.",)) -> dict:
    return {"split": split, "captions": list(captions), "file_path": file_path, "id": person_id}


def make_cuhk_pedes(home: Path, entries: Any, pictures: list[str]) -> Path:
    (home / "imgs").mkdir(parents=True)
    for name in pictures:
        add_picture(home / "imgs" / name)
    (home / "reid_raw.json").write_text(json.dumps(entries), encoding="utf-8")
    return home


def make_msmt17(home: Path, lists: dict[str, list[tuple[str, int]]], version: str = "V1") -> Path:
    """`lists` holds (path, person) for each of train, val, query and gallery; the pictures are written as well."""
    train, test = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}[version]
    for name, rows in lists.items():
        for path, _ in rows:
            add_picture(home / (train if name in ("train", "val") else test) / path)
        lines = "".join(f"{path} {person}\n" for path, person in rows)
        (home / f"list_{name}.txt").write_text(lines, encoding="utf-8")
    return home
