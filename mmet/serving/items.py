"""The inputs of a request for embeddings: sentences, pictures, or both together, checked against limits.

>>> read_request({"input": ["a man in black", {"text": "with a bag"}]}, Limits()).items
[Item(text='a man in black', image=None), Item(text='with a bag', image=None)]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import PIL.Image

from mmet.field_checks import shown, suggestion
from mmet.gallery import GalleryError
from mmet.gallery.sources import decode
from mmet.serving.request_pictures import decode_data_address, is_data_address, picture_size

FORMATS = ("float", "base64")


@dataclass(frozen=True)
class Limits:
    """
    Limits of requests.

    Attributes:
        items: most inputs of a request.
        text: most characters of a sentence.
        image_bytes: most bytes of a picture's file.
        pixels: most pixels of a picture.
        waiting: most requests that run or wait; further ones are answered with status 503.
    """

    items: int = 64
    text: int = 4_000
    image_bytes: int = 20 * 2**20
    pixels: int = 50_000_000
    waiting: int = 256

    @property
    def body_bytes(self) -> int:
        """Most bytes of a body: three of the largest pictures in base64."""
        return 4 * self.image_bytes


class BadRequest(ValueError):
    """A request cannot be answered.

    Attributes:
        status: HTTP status of the answer.
        code: short name of the error, for programs.
    """

    def __init__(self, message: str, *, status: int = 400, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Item:
    """The input of one embedding: a sentence, a picture, or both."""

    text: str | None = None
    image: PIL.Image.Image | None = field(default=None, compare=False)

    @property
    def kind(self) -> tuple[bool, bool]:
        """Whether it has a picture and a sentence."""
        return self.image is not None, self.text is not None


@dataclass(frozen=True)
class EmbeddingRequest:
    """All inputs, and the form of the answer."""

    items: list[Item]
    model: str | None = None
    encoding_format: str = "float"
    dimensions: int | None = None


def read_request(body: Any, limits: Limits) -> EmbeddingRequest:
    """
    Read the request of a JSON body, in the form of OpenAI's embeddings interface. Each input is a sentence, a `data:`
    address of a picture, or `{"text": …, "image": …}` with one or both.

    Raises:
        BadRequest: a field is invalid; the message names it and says what was expected and received.
    """
    if not isinstance(body, Mapping):
        raise BadRequest(f"expected a JSON object with the field 'input', received {shown(body)}")
    known = ("input", "model", "encoding_format", "dimensions", "user")
    for name in body:
        if name not in known:
            raise BadRequest(f"{shown(name)[1:-1]}: unknown field{suggestion(name, known)}")
    encoding = body.get("encoding_format") or "float"
    if encoding not in FORMATS:
        raise BadRequest(f"encoding_format: expected one of {', '.join(FORMATS)}, received {shown(encoding)}")
    dimensions, model = body.get("dimensions"), body.get("model")
    if dimensions is not None and (isinstance(dimensions, bool) or not isinstance(dimensions, int)):
        raise BadRequest(f"dimensions: expected a whole number, received {shown(dimensions)}")
    if model is not None and not isinstance(model, str):
        raise BadRequest(f"model: expected a name, received {shown(model)}")
    inputs = body.get("input")
    if not isinstance(inputs, list):
        return EmbeddingRequest([_read_item("input", inputs, limits)], model, encoding, dimensions)
    if not 1 <= len(inputs) <= limits.items:
        raise BadRequest(f"input: expected 1 to {limits.items} entries, received {len(inputs):,}")
    items = [_read_item(f"input[{number}]", entry, limits) for number, entry in enumerate(inputs)]
    return EmbeddingRequest(items, model, encoding, dimensions)


def _read_item(name: str, entry: Any, limits: Limits) -> Item:
    if isinstance(entry, str):
        entry = {"image" if is_data_address(entry) else "text": entry}
    if not isinstance(entry, Mapping) or not entry or not entry.keys() <= {"text", "image"}:
        raise BadRequest(
            f"{name}: expected a sentence, a picture as data:image/jpeg;base64,…, or an object with 'text', 'image' "
            f"or both, received {shown(entry)}"
        )
    text, image = entry.get("text"), entry.get("image")
    if text is None and image is None:
        raise BadRequest(f"{name}: expected 'text', 'image' or both, received neither")
    return Item(
        None if text is None else _read_text(f"{name}.text", text, limits),
        None if image is None else _read_image(f"{name}.image", image, limits),
    )


def _read_text(name: str, text: Any, limits: Limits) -> str:
    if not isinstance(text, str) or not text.strip():
        raise BadRequest(f"{name}: expected a sentence, received {shown(text)}")
    if len(text) > limits.text:
        raise BadRequest(f"{name}: expected at most {limits.text:,} characters, received {len(text):,}")
    return text


def _read_image(name: str, address: Any, limits: Limits) -> PIL.Image.Image:
    if not isinstance(address, str):
        raise BadRequest(f"{name}: expected a picture as data:image/jpeg;base64,…, received {shown(address)}")
    try:
        content = decode_data_address(address)
    except ValueError as error:
        raise BadRequest(f"{name}: {error}") from error
    if len(content) > limits.image_bytes:
        raise BadRequest(f"{name}: expected at most {limits.image_bytes:,} bytes, received {len(content):,}")
    try:
        width, height = picture_size(content)
    except ValueError as error:
        raise BadRequest(f"{name}: {error}") from error
    if width * height > limits.pixels:
        raise BadRequest(f"{name}: expected at most {limits.pixels:,} pixels, received {width:,} × {height:,}")
    try:
        return decode({"bytes": content, "path": None}, "")
    except GalleryError as error:
        raise BadRequest(f"{name}: the picture is damaged") from error
