"""Pictures in requests: `data:` addresses, and a picture's size before it is decoded."""

from __future__ import annotations

import base64
import binascii
import io
import re

import PIL.Image

from mmet.field_checks import shown

_ADDRESS = re.compile(r"data:image/[a-z0-9.+-]+(;[a-z0-9=.+-]+)*?;base64,", flags=re.IGNORECASE)


def is_data_address(text: str) -> bool:
    """Whether a text begins like a picture's `data:` address."""
    return text[:11].lower() == "data:image/"


def decode_data_address(address: str) -> bytes:
    """
    Decode the file in `data:image/…;base64,…`.

    Raises:
        ValueError: the address has another form; the message does not name the field.
    """
    start = _ADDRESS.match(address[:200])
    if start is None:
        raise ValueError(
            f"expected a picture as data:image/jpeg;base64,…, received {shown(address[:40])}; other addresses are not "
            "fetched"
        )
    try:
        return base64.b64decode(address[start.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("expected base64 after data:image/…;base64, and received something else") from None


def picture_size(content: bytes) -> tuple[int, int]:
    """
    Read width and height of a picture from the beginning of its file.

    Raises:
        ValueError: the content is no picture.
    """
    try:
        with PIL.Image.open(io.BytesIO(content)) as image:
            return image.size
    except PIL.Image.DecompressionBombError:
        return 1 << 20, 1 << 20  # Pillow does not say the size, but it exceeds all limits
    except (OSError, ValueError, SyntaxError):
        raise ValueError("expected a picture (JPEG, PNG, WebP or the like), received something else") from None
