"""Picture files to RGB arrays: what Pillow makes of them, JPEGs in less than half of Pillow's time.

Pillow reads a JPEG's header in Python, decodes into four bytes a pixel and copies these out to three. simplejpeg hands
the whole file to the same decoder, libjpeg-turbo, which writes straight into an array; the pixels are equal. Whatever
is not a plain JPEG (another format, CMYK, Exif, a damaged or an enormous file) is left to `datasets` and Pillow, whose
results and errors therefore are the ones to expect.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import simplejpeg
from numpy.typing import NDArray

_JPEG_START = b"\xff\xd8"
_APP1 = b"\xff\xe1"
"""Opens the segments of Exif and XMP, which may say that a picture lies on its side. Cannot occur in coded pixels."""

_MAX_PIXELS = 1 << 24
"""Larger pictures are Pillow's, which guards against decompression bombs."""

DECODE_ERRORS = (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError)
"""What is raised for damaged, truncated, oversized and absent files."""


def decode_rgb(stored: dict[str, Any]) -> NDArray[np.uint8]:
    """The upright picture, RGB `(height, width, 3)`, of `{"bytes", "path"}` as `datasets.Image(decode=False)` has it.

    Raises one of `DECODE_ERRORS` when it cannot be read or decoded.
    """
    file, path = stored["bytes"], stored["path"]
    if file is None and path is not None and Path(path).is_file():
        file = Path(path).read_bytes()
    pixels = None if file is None else _decode_plain_jpeg(file)
    return np.asarray(datasets.Image().decode_example(stored).convert("RGB")) if pixels is None else pixels


def _decode_plain_jpeg(file: bytes) -> NDArray[np.uint8] | None:
    """The pixels `(height, width, 3)` of a JPEG that needs nothing but decoding; None for every other file."""
    if not file.startswith(_JPEG_START) or _APP1 in file:
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(file)
        if colorspace not in ("YCbCr", "Gray") or height * width > _MAX_PIXELS:
            return None
        return simplejpeg.decode_jpeg(file)
    except ValueError:
        return None
