# Copyright 2026 The MMET authors. Licensed under the Apache License, Version 2.0.
"""Pictures and silhouettes: the one way from a file, bytes, an array or a Pillow image to pixels.

`read_rgb` gives upright RGB bytes, `read_person_mask` a silhouette of 0 and 255; whatever reads pictures in the
project goes through them. Everything is Pillow and numpy. This module travels with every checkpoint beside
`processing_mmet`: it imports torch, transformers, numpy and Pillow, nothing else.

    >>> read_rgb("crop.png").shape
    (160, 80, 3)
"""

import base64
import errno
import io
import os
import struct
import zlib
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from transformers.image_utils import ChannelDimension, load_image

PictureInput = str | os.PathLike | bytes | bytearray | Image.Image | np.ndarray | torch.Tensor
"""A picture: a file or its name, a Pillow image, an array or a tensor."""

MaskInput = PictureInput
"""A silhouette, in the same forms."""

IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""The file formats that are read, by the content of a file. Pillow knows more, some of which start other programs."""

MAX_IMAGE_PIXELS = 50_000_000
"""Largest picture file that is decoded (width times height)."""

READ_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""Errors of reading a picture: damaged, truncated, enormous and absent files, and pixels of unknown meaning."""

# --- pictures --------------------------------------------------------------------------------------------------------

CHANNEL_COUNTS = (1, 3, 4)
_FLOAT_TOLERANCE = 1e-3  # of values that arithmetic carried over the end of their range
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_INFLATED_BYTES = 1 << 16


def read_rgb(picture: PictureInput, input_data_format: str | ChannelDimension | None = None) -> np.ndarray:
    r"""
    Read a picture of any kind as upright RGB: uint8 `(height, width, 3)`.

    - Files (a path, or the bytes of one) are of `IMAGE_FORMATS`; of several frames the first is read.
    - The orientation tag is applied. Transparency of any kind is composited on white.
    - 16-bit values are scaled to 8 bits, in files as in arrays of uint16, unless all of them lie in 0–255.
    - Arrays and tensors are grey `(height, width)` or have 1, 3 or 4 (transparency) channels, first or last. Whole
      numbers lie in 0–255; floats in 0–1 or in 0–255; booleans are black and white.

    Args:
        picture: a file name, bytes of a file, a Pillow image of any mode, an array or a tensor.
        input_data_format: `channels_first` or `channels_last`, for arrays whose shape fits both.

    Raises:
        OSError: for a file that is absent, damaged or of another format.
        ValueError: for pixels that cannot be read without guessing; the message says what was expected.
    """
    if isinstance(picture, (str, os.PathLike, bytes, bytearray, memoryview)):
        picture = open_picture(picture)
    if isinstance(picture, Image.Image):
        return _pillow_to_rgb(upright(picture))
    return _opaque(to_bytes(channels_last(to_array(picture), input_data_format)))


def open_picture(file: str | os.PathLike | bytes | bytearray | BinaryIO) -> Image.Image:
    r"""
    Decode a picture file (its name, its bytes, or an open one) whole, in its own mode and as it lies in the file.

    Raises:
        OSError: for a file that is absent, damaged, of another format, or a PNG without all its rows.
        ValueError: for more than `MAX_IMAGE_PIXELS` pixels.
    """
    if isinstance(file, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(file))
    if not isinstance(file, (str, os.PathLike)):
        return _decode(file)
    if isinstance(file, str) and file.startswith("data:image/"):
        return _decode(io.BytesIO(base64.b64decode(file.partition(",")[2])))
    if isinstance(file, str) and file.startswith(("http://", "https://")):
        return load_image(file)
    if not os.path.isfile(file):  # noqa: PTH113 (not a Path yet); neither a pipe, which would wait, nor a device, which may never end
        raise FileNotFoundError(errno.ENOENT, "no such picture file", str(file))
    with open(file, "rb") as stream:  # noqa: PTH123 (as above)
        return _decode(stream)


def _decode(stream: BinaryIO) -> Image.Image:
    try:
        image = Image.open(stream, formats=IMAGE_FORMATS)
        if image.width * image.height > MAX_IMAGE_PIXELS:
            raise ValueError(f"expected at most {MAX_IMAGE_PIXELS:,} pixels, received {image.width} x {image.height}")
        image.load()
    except UnidentifiedImageError as error:
        formats = "BMP, GIF, JPEG, PNG, TIFF or WebP"
        raise UnidentifiedImageError(f"cannot identify the picture: expected a whole file of {formats}") from error
    except READ_ERRORS:
        raise
    except Exception as error:  # decoders meet hostile bytes with errors of many kinds
        raise OSError(f"damaged picture ({type(error).__name__}: {error})") from error
    if image.format == "PNG" and _may_lack_rows(image) and not png_has_all_rows(stream):
        raise OSError("damaged picture: rows are missing in the PNG")
    return image


def _may_lack_rows(image: Image.Image) -> bool:
    """Whether a decoded PNG's last row is as the decoder leaves what is missing. Saves inflating most files twice."""
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    return bool(image.info.get("interlace")) or not last_row.tobytes().strip(b"\0")


def png_has_all_rows(stream: BinaryIO) -> bool:
    """
    Whether the compressed data of a PNG file holds as many bytes as its height and width call for. Decoders show black
    for rows that are missing, if what is there ends in good order.
    """
    stream.seek(8)
    missing, inflate = None, zlib.decompressobj()
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IHDR":
            missing = _num_png_bytes(*struct.unpack(">IIBBBBB", stream.read(length)[:13]))
        elif kind == b"IDAT" and missing is not None:
            missing -= _num_inflated(inflate, stream.read(length), missing)
            if missing <= 0:
                return True
        else:
            stream.seek(length, os.SEEK_CUR)
        stream.seek(4, os.SEEK_CUR)  # the checksum
    return False


def _num_png_bytes(width: int, height: int, bits: int, color: int, _: int, __: int, interlaced: int) -> int:
    """Bytes that a PNG's compressed data must hold: each row of each pass, and one byte more for its filter."""
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-((left - width) // across), -((top - height) // down)) for left, top, across, down in passes]
    bits_per_pixel = bits * _PNG_CHANNELS.get(color, 1)
    return sum(rows * (1 + -(-columns * bits_per_pixel // 8)) for columns, rows in sizes if columns > 0 and rows > 0)


def _num_inflated(inflate: Any, compressed: bytes, limit: int) -> int:
    """How many bytes `compressed` holds, counted up to `limit` and without keeping them."""
    count = 0
    try:
        while compressed and count < limit and (inflated := inflate.decompress(compressed, _INFLATED_BYTES)):
            count, compressed = count + len(inflated), inflate.unconsumed_tail
    except zlib.error:
        pass
    return count


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an image once its orientation tag is applied, without decoding it."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    is_turned = orientation in (5, 6, 7, 8) and image.format != "TIFF"  # whose size Pillow turns on opening
    return (image.height, image.width) if is_turned else image.size


def upright(image: Image.Image) -> Image.Image:
    """The image loaded and, where its orientation tag says so, turned."""
    image.load()  # first: a TIFF is turned in loading
    if not (image.width and image.height):
        raise ValueError(f"expected a picture with pixels, received one of {image.width} x {image.height}")
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(image) if turned else image


def _pillow_to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_gray_to_rgb(image)
    if image.has_transparency_data:
        return _on_white(_to_rgba(image))
    return np.asarray(image.convert("RGB"))


def _deep_gray_to_rgb(image: Image.Image) -> np.ndarray:
    """Grey of more than 8 bits, which Pillow itself would clip at 255; its transparency is one of its values."""
    values = _deep_gray(image)
    gray = to_bytes(values)
    key = image.info.get("transparency")
    return _opaque(
        np.where(values == key, np.uint8(255), gray)[..., None] if isinstance(key, int) else gray[..., None]
    )


def _deep_gray(image: Image.Image) -> np.ndarray:
    """The values of a grey image of 16 or 32 bits. Pillow gives some 16-bit files 32 bits."""
    values = np.asarray(image)
    sixteen_bits = image.mode == "I" and values.min() >= 0 and 255 < values.max() <= 65_535
    return values.astype(np.uint16) if sixteen_bits else values


def _to_rgba(image: Image.Image) -> Image.Image:
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _on_white(rgba: Image.Image) -> np.ndarray:
    white = Image.new("RGBA", rgba.size, (255, 255, 255))
    return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))


def to_array(picture: Any) -> np.ndarray:
    if isinstance(picture, torch.Tensor):
        picture = picture.detach().to_dense().cpu()
        return (picture.float() if picture.dtype == torch.bfloat16 else picture).numpy()
    if isinstance(picture, np.ndarray):
        return picture
    raise ValueError(
        "expected a picture (a file name, bytes of a file, a Pillow image, an array or a tensor), received "
        f"{'None' if picture is None else type(picture).__name__}"
    )


def channels_last(array: np.ndarray, input_data_format: str | ChannelDimension | None = None) -> np.ndarray:
    """A picture as `(height, width, channels)` of 1, 3 or 4 channels."""
    if array.ndim not in (2, 3):
        raise ValueError(
            "expected a picture (height, width), (height, width, channels) or (channels, height, width), received "
            f"shape {array.shape}"
        )
    if 0 in array.shape:
        raise ValueError(f"expected a picture with pixels, received shape {array.shape}")
    if array.ndim == 2:
        return array[..., None]
    first, last = array.shape[0] in CHANNEL_COUNTS, array.shape[-1] in CHANNEL_COUNTS
    if input_data_format is not None:
        is_first = ChannelDimension(input_data_format) == ChannelDimension.FIRST
        first, last = first and is_first, last and not is_first
    if first and last and 1 in (array.shape[0], array.shape[-1]):  # colours with one row or one column
        first, last = array.shape[0] >= array.shape[-1], array.shape[-1] >= array.shape[0]
    if not (first or last):
        layout = f" as {ChannelDimension(input_data_format).value}" if input_data_format is not None else ""
        raise ValueError(f"expected 1, 3 or 4 channels{layout}, received shape {array.shape}")
    if first and last and array.shape != (1, 1, 1):
        raise ValueError(
            f"shape {array.shape} fits channels_first and channels_last: say which with input_data_format"
        )
    return np.ascontiguousarray(np.moveaxis(array, 0, -1)) if first and not last else array


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Pixels of any dtype as uint8; `ValueError` where their range does not say what they mean."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "b":
        return values * np.uint8(255)
    if values.dtype.kind in "iu":
        low, high = int(values.min()), int(values.max())
        if values.dtype.kind == "u" and values.dtype.itemsize == 2 and high > 255:
            return (values >> 8).astype(np.uint8)
        if low < 0 or high > 255:
            raise ValueError(f"expected whole numbers in 0–255 (or 16 bits as uint16), received {low} to {high}")
        return values.astype(np.uint8)
    if values.dtype.kind == "f":
        return _floats_to_bytes(values)
    raise ValueError(f"expected pixels that are whole numbers, floats or booleans, received dtype {values.dtype}")


def _floats_to_bytes(values: np.ndarray) -> np.ndarray:
    """Floats in 0–1 to the nearest bytes, those in 0–255 to their whole part, as in Pillow."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("expected finite pixels, received NaN or infinity")
    if low < -_FLOAT_TOLERANCE or high > 255 + _FLOAT_TOLERANCE:
        raise ValueError(
            f"expected floats in 0–1 or 0–255, received {low:.4g} to {high:.4g}: give pixels that are not normalised"
        )
    if high <= 1 + _FLOAT_TOLERANCE:
        values = np.rint(values.astype(np.float32) * 255)
    elif high <= 3 and (values != np.rint(values)).any():
        raise ValueError(
            f"expected floats in 0–1 or 0–255, received {low:.4g} to {high:.4g}, which could be either: clip or scale "
            "them"
        )
    return (values + 1e-4).clip(0, 255).astype(np.uint8)  # 254.99998 is 255 that went through arithmetic


def _opaque(pixels: np.ndarray) -> np.ndarray:
    """Bytes `(height, width, 1, 3 or 4)` as RGB."""
    if pixels.shape[-1] == 4:
        return _on_white(Image.fromarray(np.ascontiguousarray(pixels)))
    return pixels if pixels.shape[-1] == 3 else np.repeat(pixels, 3, axis=-1)


# --- silhouettes -----------------------------------------------------------------------------------------------------

_PERSON, _NOBODY = np.uint8(255), np.uint8(0)
_HIGHEST_LABEL = 63  # of class labels beside which 255 marks what has none
_LARGEST_STRETCH = 1.25  # of a mask beside its picture: sizes that models work in are not quite the pictures' own
_GRAY_SPREAD = 32  # between the channels of a grey picture after lossy compression


class AmbiguousMaskError(ValueError):
    """A silhouette that does not say which of its pixels are the person."""


def read_person_mask(mask: MaskInput) -> Image.Image:
    r"""
    Read a silhouette of any kind as an upright image in mode L: 255 on the person, 0 elsewhere.

    - Two values of any kind (0 and 1, 0 and 255, two classes, two colours): the larger or brighter is the person.
    - More values from 0 to 1 (floats) or from 0 to 255 or 65,535 (soft silhouettes): the person is above the half.
    - A shape on transparent ground: what is opaque is the person.
    - One value: 0 shows nobody; 1, True and the upper half of the range show the person everywhere.
    - Arrays and tensors may have an axis of one channel, first or last.

    Args:
        mask: a file name, bytes of a file, a Pillow image of any mode, an array or a tensor.

    Raises:
        AmbiguousMaskError: for whatever else, such as several class labels or a photograph.
        OSError, ValueError: as `read_rgb`.
    """
    if isinstance(mask, (str, os.PathLike, bytes, bytearray, memoryview)):
        mask = open_picture(mask)
    if not isinstance(mask, Image.Image):
        values = channels_last(to_array(mask)) if np.ndim(mask) != 2 else to_array(mask)[..., None]
        if values.shape[-1] == 1:
            return Image.fromarray(_person_levels(values[..., 0]))
        mask = Image.fromarray(np.ascontiguousarray(to_bytes(values)))
    mask = upright(mask)
    return mask if _is_read(mask) else Image.fromarray(_person_levels(_mask_values(mask)))


def _is_read(image: Image.Image) -> bool:
    """Whether a mask is as `read_person_mask` gives it, as most are."""
    colors = image.getcolors(2) if image.mode == "L" else None
    return colors is not None and all(level in (0, 255) for _, level in colors)


def _mask_values(image: Image.Image) -> np.ndarray:
    """The values `(height, width)` that tell the person from the rest in a Pillow image of any mode."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_gray(image)
    if image.mode in ("1", "L"):
        return np.asarray(image)
    if image.has_transparency_data:
        rgba = np.asarray(_to_rgba(image))
        alpha = rgba[..., 3]
        if alpha.min() < alpha.max() or not alpha.max():
            return _opacity(rgba)
    colors = np.asarray(image.convert("RGB"))
    if image.mode == "P" and _num_colors(colors) < len(image.getcolors(256) or ()):
        return np.asarray(image)  # class numbers with an unfinished palette
    return _brightness(colors)


def _opacity(rgba: np.ndarray) -> np.ndarray:
    if _num_colors(rgba[rgba[..., 3] > 127][None, :, :3]) == 2:
        raise AmbiguousMaskError("shows two colours and transparency: which of them is the person?")
    return rgba[..., 3]


def _brightness(colors: np.ndarray) -> np.ndarray:
    """Grey levels of a grey picture `(height, width, 3)`; of one in two colours True on the brighter."""
    gray = np.asarray(Image.fromarray(np.ascontiguousarray(colors)).convert("L"))
    if (colors.max(axis=-1) - colors.min(axis=-1)).max() <= _GRAY_SPREAD:
        return gray
    num_colors = _num_colors(colors)
    if num_colors > 2:
        raise AmbiguousMaskError(
            f"shows {num_colors} colours, as a map of classes or a photograph does: give the person in white on black"
        )
    return _packed(colors) == _packed(colors[gray == gray.max()]).max()


def _packed(colors: np.ndarray) -> np.ndarray:
    return colors.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def _num_colors(colors: np.ndarray) -> int:
    return len(np.unique(_packed(colors)))


def _person_levels(values: np.ndarray) -> np.ndarray:
    """255 on the person and 0 elsewhere, uint8 `(height, width)`, of the values of one channel."""
    if not values.size:
        raise ValueError(f"expected a mask with pixels, received shape {values.shape}")
    if values.dtype.kind not in "biuf":
        raise ValueError(f"expected a mask of whole numbers, floats or booleans, received dtype {values.dtype}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("expected a mask of finite values, received NaN or infinity")
    if values.dtype.kind == "b":
        return np.where(values, _PERSON, _NOBODY)
    levels = np.flatnonzero(np.bincount(values.ravel())) if values.dtype == np.uint8 else np.unique(values)
    if len(levels) == 2:
        return np.where(values == levels[1], _PERSON, _NOBODY)
    return np.where(values > _threshold(levels, values.dtype), _PERSON, _NOBODY)


def _threshold(levels: np.ndarray, dtype: np.dtype) -> float:
    """What the person is above, given the one or more than two levels of a mask."""
    low, high = levels[0], levels[-1]
    is_whole = dtype.kind in "iu" or bool((levels == np.rint(levels)).all())
    if low >= 0 and high <= 1 and not (is_whole and dtype.kind != "f"):
        return 0.5
    if len(levels) == 1 and is_whole and high in (0, 1):
        return 0.5
    inner = levels[(levels > 0) & (levels < 255)]
    has_labels = len(levels) > 1 and high == 255 and is_whole and inner[-1] <= _HIGHEST_LABEL
    if low >= 0 and 127 < high <= 255 and not has_labels:
        return 127
    if low >= 0 and dtype.kind in "iu" and 32_767 < high <= 65_535:
        return 32_767
    raise AmbiguousMaskError(
        f"shows {len(levels)} value{'s' * (len(levels) > 1)} from {low:g} to {high:g}, as class labels do: give the "
        "person alone, for instance mask == label"
    )


def has_proportions(size: tuple[int, int], of: tuple[int, int]) -> bool:
    """Whether a width and height are about in the proportions of others, but for rounding."""
    stretch = (size[0] + 1) * of[1] / (size[1] * of[0]), size[0] * of[1] / ((size[1] + 1) * of[0])
    return stretch[0] >= 1 / _LARGEST_STRETCH and stretch[1] <= _LARGEST_STRETCH


__all__ = ["AmbiguousMaskError", "open_picture", "read_person_mask", "read_rgb"]
