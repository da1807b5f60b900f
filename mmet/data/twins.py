"""Copies of a picture under another name, byte by byte.

    find_twins([root / "query/a.jpg"], [root / "gallery/b.jpg"])

If cameras are known, the camera rule removes a query's own picture from its gallery. If not, a copy of the query would
rank first, and the figures would be meaningless.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path


def find_twins(pictures: Sequence[Path], among: Iterable[Path]) -> dict[Path, Path]:
    """Find, for each picture, another file in `among` with the same content; pictures without a copy are left out.

    Only files of equal size are read; unreadable files have no copy.
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
