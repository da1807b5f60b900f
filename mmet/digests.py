"""Digests of files and of sequences of bytes.

>>> digest([b"ab", b"c"]) == digest([b"a", b"bc"])
False
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

_BLOCK = 1 << 20


def file_blocks(path: Path) -> Iterator[bytes]:
    """The content of a file, a megabyte at a time."""
    with path.open("rb") as file:
        yield from iter(lambda: file.read(_BLOCK), b"")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    checksum = hashlib.sha256()
    for block in file_blocks(path):
        checksum.update(block)
    return checksum.hexdigest()


def digest(parts: Iterable[bytes | memoryview]) -> str:
    """A digest of parts, in hexadecimal; the borders between parts count."""
    checksum = hashlib.blake2b(digest_size=16)
    for part in parts:
        checksum.update(f"{len(part)} ".encode())
        checksum.update(part)
    return checksum.hexdigest()
