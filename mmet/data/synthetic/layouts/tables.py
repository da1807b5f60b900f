"""Annotation files: tables in CSV, captions in three formats, and the entries that CUHK-PEDES and its kin share."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmet.data.synthetic.captions import tokenize
from mmet.data.synthetic.layouts.base import Record, write_json

CAPTION_FORMATS = ("json", "jsonl", "csv")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a UTF-8 CSV file with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_caption_file(path: Path, images: Sequence[Mapping[str, Any]]) -> None:
    """Write objects with `image` and `captions` in the format that the suffix names, one of `CAPTION_FORMATS`.

    CSV has a row for each caption.
    """
    if path.suffix == ".csv":
        pairs = [{"image": row["image"], "caption": caption} for row in images for caption in row["captions"]]
        write_csv(path, ["image", "caption"], pairs)
    elif path.suffix == ".jsonl":
        write_json_lines(path, images)
    else:
        write_json(path, list(images))


def caption_entry(split: str, captions: Sequence[str], path_field: str, path: str, person_id: int) -> Record:
    """One entry of an annotation file like CUHK-PEDES's."""
    return {
        "split": split,
        "captions": list(captions),
        path_field: path,
        "processed_tokens": [tokenize(caption) for caption in captions],
        "id": person_id,
    }
