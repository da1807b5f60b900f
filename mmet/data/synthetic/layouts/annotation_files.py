"""Annotation files: CSV tables, captions in three formats, and entries of CUHK-PEDES and similar data sets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from mmet.data.synthetic.captions import tokenize
from mmet.data.synthetic.layouts.base import Record, write_json
from mmet.whole_files import FolderDraft

CAPTION_FORMATS = ("json", "jsonl", "csv")


def write_csv(folder: FolderDraft, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a UTF-8 CSV file with a header."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    folder.write(name, text.getvalue())


def write_json_lines(folder: FolderDraft, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one object per line."""
    folder.write(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_caption_file(folder: FolderDraft, name: str, images: Sequence[Mapping[str, Any]]) -> None:
    """Write objects with `image` and `captions` in the format that the suffix names, one of `CAPTION_FORMATS`.

    CSV has a row for each caption.
    """
    suffix = PurePath(name).suffix
    if suffix == ".csv":
        pairs = [{"image": row["image"], "caption": caption} for row in images for caption in row["captions"]]
        write_csv(folder, name, ["image", "caption"], pairs)
    elif suffix == ".jsonl":
        write_json_lines(folder, name, images)
    else:
        write_json(folder, name, list(images))


def caption_entry(split: str, captions: Sequence[str], path_field: str, path: str, person_id: int) -> Record:
    """One entry of an annotation file like CUHK-PEDES's."""
    return {
        "split": split,
        "captions": list(captions),
        path_field: path,
        "processed_tokens": [tokenize(caption) for caption in captions],
        "id": person_id,
    }
