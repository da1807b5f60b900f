"""Decode picture files to RGB arrays, as `read_rgb` does, but JPEGs in less than half of Pillow's time.

Pillow reads a JPEG's header in Python, decodes into four bytes a pixel and copies these out to three. simplejpeg hands
the whole file to the same decoder, libjpeg-turbo, which writes straight into an array; the pixels are equal. All
other files (another format, CMYK, Exif, damaged or enormous) go to `read_rgb` and Pillow, so results and errors are
always theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import simplejpeg
from numpy.typing import NDArray

from pictures_mmet import READ_ERRORS, read_person_mask, read_rgb

_JPEG_START = b"\xff\xd8"
_APP1 = b"\xff\xe1"
"""Opens the segments of Exif and XMP, which may say that a picture lies on its side. Cannot occur in coded pixels."""

_MAX_PIXELS = 1 << 24
"""Larger pictures are left to Pillow, which guards against decompression bombs."""

DECODE_ERRORS = READ_ERRORS
"""Errors for damaged, truncated, oversized and missing files."""


def decode_rgb(stored: dict[str, Any]) -> NDArray[np.uint8]:
    """The upright picture, RGB `(height, width, 3)`, of `{"bytes", "path"}` as `datasets.Image(decode=False)` has it.

    Raises one of `DECODE_ERRORS` when it cannot be read or decoded.
    """
    file = _content(stored)
    pixels = _decode_plain_jpeg(file) if isinstance(file, bytes) else None
    return read_rgb(file) if pixels is None else pixels


def decode_person_mask(stored: dict[str, Any]) -> PIL.Image.Image:
    """The upright silhouette, in mode L and 255 on the person, of `{"bytes", "path"}`.

    Raises one of `DECODE_ERRORS` if it cannot be read, or does not show which pixels are the person.
    """
    return read_person_mask(_content(stored))


def _content(stored: dict[str, Any]) -> bytes | str:
    """The file's bytes, or its path if the file is missing, so that the reader's error names it."""
    file, path = stored["bytes"], stored["path"]
    if file is not None:
        return bytes(file)
    if path is None:
        raise ValueError("expected the bytes or the path of a picture, received neither")
    return Path(path).read_bytes() if Path(path).is_file() else path


def _decode_plain_jpeg(file: bytes) -> NDArray[np.uint8] | None:
    """Decode a plain JPEG to `(height, width, 3)`; None for every other file."""
    if not file.startswith(_JPEG_START) or _APP1 in file:
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(file)
        if colorspace not in ("YCbCr", "Gray") or height * width > _MAX_PIXELS:
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(file)
        return pixels
    except ValueError:
        return None
