"""Copies of a picture under another name, byte by byte.

    find_twins([root / "query/a.jpg"], [root / "gallery/b.jpg"])

Where cameras are known, a query's own picture is left out of its gallery with all of its camera. Where they are not,
a copy of it would be found first, and the figures would say nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path


def find_twins(pictures: Sequence[Path], among: Iterable[Path]) -> dict[Path, Path]:
    """For each picture that has one, another file out of `among` with the same content.

    Files are read where their sizes agree alone; what cannot be read has no copy.
    """
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in among:
        by_size[_size(path)].append(path)
    by_size.pop(-1, None)
    digests: dict[Path, str] = {}
    twins = {}
    for picture in pictures:
        for other in by_size.get(_size(picture), ()):
            if other != picture and _digest(other, digests) == _digest(picture, digests) != "":
                twins[picture] = other
                break
    return twins


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 (all pictures of a gallery)
    except OSError:
        return -1


def _digest(path: Path, known: dict[Path, str]) -> str:
    if path not in known:
        try:
            known[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            known[path] = ""
    return known[path]
