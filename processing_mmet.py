# Copyright 2026 The MMET authors. Licensed under the Apache License, Version 2.0.
"""MMET processors: person crops to normalised tensors, sentences to BERT tokens, silhouettes to patch coverage.

`MMETProcessor(images=?, text=?, person_masks=?)` returns exactly what the models take. `read_rgb` and
`read_person_mask` are the one way from a file, bytes, an array or a Pillow image to pixels; whatever reads pictures in
the project goes through them. Everything is Pillow and numpy (no torchvision). This module travels with every
checkpoint: it imports torch, transformers, numpy and Pillow, nothing else.

    >>> processor = MMETProcessor.from_pretrained("path/to/checkpoint")
    >>> processor(images=[crop], text=["a man in a blue coat"], return_tensors="pt").keys()
    dict_keys(['input_ids', 'attention_mask', 'pixel_values'])
"""

import base64
import errno
import io
import os
import struct
import zlib
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from transformers import BatchFeature, ProcessorMixin
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    load_image,
)
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, Unpack

_TORCH_MODES = {PILImageResampling.BILINEAR: "bilinear", PILImageResampling.BICUBIC: "bicubic"}

PictureInput = str | os.PathLike | bytes | bytearray | Image.Image | np.ndarray | torch.Tensor
"""A picture: a file or its name, a Pillow image, an array or a tensor."""

MaskInput = PictureInput
"""A silhouette, in the same forms."""

IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""The file formats that are read, by the content of a file. Pillow knows more, some of which start other programs."""

MAX_IMAGE_PIXELS = 50_000_000
"""Largest picture file that is decoded (width times height)."""

MAX_IMAGE_SIDE = 8_192
"""Largest height and width that pictures can be resized to."""

READ_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""Errors of reading a picture: damaged, truncated, enormous and absent files, and pixels of unknown meaning."""

# --- pictures --------------------------------------------------------------------------------------------------------

_CHANNELS = (1, 3, 4)
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
        return _pillow_to_rgb(_upright(picture))
    return _opaque(_to_bytes(_channels_last(_to_array(picture), input_data_format)))


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


def _upright(image: Image.Image) -> Image.Image:
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
    gray = _to_bytes(values)
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


def _to_array(picture: Any) -> np.ndarray:
    if isinstance(picture, torch.Tensor):
        picture = picture.detach().to_dense().cpu()
        return (picture.float() if picture.dtype == torch.bfloat16 else picture).numpy()
    if isinstance(picture, np.ndarray):
        return picture
    raise ValueError(
        "expected a picture (a file name, bytes of a file, a Pillow image, an array or a tensor), received "
        f"{'None' if picture is None else type(picture).__name__}"
    )


def _channels_last(array: np.ndarray, input_data_format: str | ChannelDimension | None = None) -> np.ndarray:
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
    first, last = array.shape[0] in _CHANNELS, array.shape[-1] in _CHANNELS
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


def _to_bytes(values: np.ndarray) -> np.ndarray:
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
        values = _channels_last(_to_array(mask)) if np.ndim(mask) != 2 else _to_array(mask)[..., None]
        if values.shape[-1] == 1:
            return Image.fromarray(_person_levels(values[..., 0]))
        mask = Image.fromarray(np.ascontiguousarray(_to_bytes(values)))
    mask = _upright(mask)
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


# --- processors ------------------------------------------------------------------------------------------------------


class MMETImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    patch_size (`int`): Side of a patch in pixels, as in the model's image encoder.
    patch_stride (`int`): Distance between neighbouring patches in pixels, as in the model's image encoder.
    exact_resize (`bool`): Resize with Pillow. Otherwise bicubic and bilinear filters of RGB pictures are computed by
        torch in integers, several times as fast; about one value in a hundred is then another, nearly always by one
        level of 255.
    """

    patch_size: int
    patch_stride: int
    exact_resize: bool


class MMETImageProcessor(PilBackend):
    r"""
    Resizes crops to one size (bicubic, aspect ratio not kept, as is usual in Re-ID), rescales and normalises them.

    Accepts images in any form that `read_rgb` reads (files, Pillow images, arrays, tensors), one, a list of them or a
    batch, and returns `pixel_values` `(batch_size, 3, height, width)` in float32. `ValueError`s name the image.
    """

    valid_kwargs = MMETImageProcessorKwargs
    model_input_names = ["pixel_values"]  # noqa: RUF012
    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD
    size = {"height": 256, "width": 128}  # noqa: RUF012
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    patch_size = 16
    patch_stride = 12
    exact_resize = True

    def __init__(self, **kwargs: Unpack[MMETImageProcessorKwargs]):
        super().__init__(**kwargs)
        _check_size(self.size)
        _check_arithmetic(self.rescale_factor, self.image_mean, self.image_std)
        for name in ("patch_size", "patch_stride"):
            _check_side(name, getattr(self, name))

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid of a resized image."""
        size = dict(self.size)
        rows, columns = ((size[side] - self.patch_size) // self.patch_stride + 1 for side in ("height", "width"))
        return rows, columns

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """The images as they are given: `process_image` reads files, and keeps their transparency."""
        return image_url_or_urls

    def preprocess(self, images: ImageInput, *args, **kwargs: Unpack[MMETImageProcessorKwargs]) -> BatchFeature:
        """As in the base class; `ValueError` for a size that no image can have and for images that cannot be read."""
        _check_size_argument(kwargs.get("size"))
        return super().preprocess(images, *args, **kwargs)

    def process_image(
        self, image: PictureInput, do_convert_rgb=None, input_data_format=None, do_rescale=True, **kwargs
    ) -> np.ndarray:
        """
        One image of any kind as an array `(height, width, channels)`, which is what Pillow resizes. Floats stay as
        they are without `do_rescale`, which says that they were rescaled before.
        """
        is_float = isinstance(image, (np.ndarray, torch.Tensor)) and _to_array(image).dtype.kind == "f"
        if is_float and not do_rescale:
            return _read_floats(_channels_last(_to_array(image), input_data_format), do_convert_rgb)
        if do_convert_rgb:
            return read_rgb(image, input_data_format)
        if isinstance(image, (np.ndarray, torch.Tensor)):
            return _to_bytes(_channels_last(_to_array(image), input_data_format))
        image = image if isinstance(image, Image.Image) else open_picture(image)
        return np.atleast_3d(np.asarray(_upright(image)))

    def _prepare_image_like_inputs(self, images: ImageInput, *args, expected_ndims: int = 3, **kwargs) -> list[Any]:
        """All images by `process_image`; an error names the image."""
        prepared = []
        for number, image in enumerate(list_images(images)):
            try:
                prepared.append(self.process_image(image, **kwargs))
            except READ_ERRORS as error:
                raise ValueError(f"images[{number}]: {error}") from error
        return prepared

    def _validate_preprocess_kwargs(self, size=None, do_resize=None, **kwargs) -> None:
        """As in the base class, and the size, in whichever form it was given."""
        super()._validate_preprocess_kwargs(size=size, do_resize=do_resize, **kwargs)
        _check_arithmetic(kwargs.get("rescale_factor"), kwargs.get("image_mean"), kwargs.get("image_std"))
        if do_resize:
            _check_size(size)

    def _preprocess(
        self,
        images: list[np.ndarray],
        do_resize: bool,
        size,
        resample,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean,
        image_std,
        return_tensors,
        **kwargs,
    ) -> BatchFeature:
        """Resize with Pillow, then rescale and normalise in one multiply-add straight into the batch."""
        if do_resize:
            resize = _resize if kwargs.get("exact_resize", True) else _resize_in_integers
            images = [resize(image, (size.height, size.width), resample) for image in images]
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise ValueError(
                f"images of one batch must have one shape; received {sorted(shapes)} with do_resize=False"
            )
        height, width, channels = images[0].shape
        scale, offset = _scale_and_offset(channels, do_rescale, rescale_factor, do_normalize, image_mean, image_std)
        batch = np.empty((len(images), channels, height, width), dtype=np.float32)
        for target, image in zip(batch, images, strict=True):
            for channel in range(channels):  # one channel stays in the cache for all three steps
                plane = target[channel]
                plane[...] = image[..., channel]  # converting first is faster than multiplying bytes by floats
                plane *= scale[channel]
                plane += offset[channel]
        return BatchFeature(data={"pixel_values": batch}, tensor_type=return_tensors)


def list_images(images: Any) -> list[Any]:
    """
    The single images of whatever the processor takes: one image, a list of them (also nested), or a batch
    `(batch_size, …)` as one array. Raises `ValueError` for none.
    """
    if isinstance(images, (list, tuple)):
        listed = [image for entry in images for image in (list_images(entry) if _is_several(entry) else [entry])]
    else:
        listed = list(images) if _is_several(images) else [images]
    if not listed:
        raise ValueError("expected at least one image, received none")
    return listed


def _is_several(images: Any) -> bool:
    is_array = isinstance(images, (np.ndarray, torch.Tensor))
    return images.ndim == 4 if is_array else isinstance(images, (list, tuple))


def _read_floats(values: np.ndarray, do_convert_rgb: bool | None) -> np.ndarray:
    """Floats `(height, width, channels)` that need no rescaling, in three channels where RGB is wanted."""
    if not np.isfinite(values).all():
        raise ValueError("expected finite pixels, received NaN or infinity")
    if not do_convert_rgb or values.shape[-1] == 3:
        return values
    if values.shape[-1] == 1:
        return np.repeat(values, 3, axis=-1)
    color, alpha = values[..., :3], values[..., 3:]
    return color * alpha + (1 - alpha)


def _check_size_argument(size: Any) -> None:
    """As `_check_size`, of what a caller gave, before the base classes see it: their errors are no `ValueError`s."""
    if isinstance(size, dict):
        _check_size(size)
    elif isinstance(size, (bool, float, str, bytes)):
        raise ValueError(f"expected a size of height and width, received {size!r}")


def _check_arithmetic(rescale_factor: Any, image_mean: Any, image_std: Any) -> None:
    """Raise `ValueError` for settings that make every pixel NaN or infinite."""
    for name, values in (("rescale_factor", rescale_factor), ("image_mean", image_mean), ("image_std", image_std)):
        if values is None:
            continue
        numbers = np.atleast_1d(np.asarray(values))
        is_finite = numbers.dtype.kind in "iuf" and np.isfinite(numbers).all() and len(numbers) in _CHANNELS
        if not is_finite or (name != "image_mean" and (numbers <= 0).any()):
            above = "" if name == "image_mean" else " above 0"
            raise ValueError(f"expected {name} to be a finite number{above}, or one a channel, received {values!r}")


def _check_size(size: Any) -> None:
    """Raise `ValueError` unless `size` is a height and a width that images can have."""
    sides = dict(size) if size is not None else {}
    if not {"height", "width"} <= {name for name, side in sides.items() if side is not None}:
        raise ValueError(f"expected a size of height and width, received {sides}")
    for name in ("height", "width"):
        _check_side(f"size[{name!r}]", sides[name])


def _check_side(name: str, length: Any) -> None:
    if isinstance(length, bool) or not isinstance(length, (int, np.integer)) or not 1 <= length <= MAX_IMAGE_SIDE:
        raise ValueError(f"expected {name} to be a whole number in 1–{MAX_IMAGE_SIDE:,}, received {length!r}")


def _resize(image: np.ndarray, size: tuple[int, int], resample) -> np.ndarray:
    """Resize `(height, width, channels)` of uint8 (or floats in [0, 1], channel by channel) with Pillow."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    if image.dtype == np.uint8 and image.shape[-1] == 3:
        return np.asarray(Image.fromarray(image).resize((width, height), resample))
    channels = [
        Image.fromarray(channel.astype(np.float32)).resize((width, height), resample)
        for channel in np.moveaxis(image, -1, 0)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def _resize_in_integers(image: np.ndarray, size: tuple[int, int], resample) -> np.ndarray:
    """As `_resize`; RGB bytes by torch's fixed-point version of Pillow's filter, where it has that filter."""
    mode = _TORCH_MODES.get(resample)
    if mode is None or image.dtype != np.uint8 or image.shape[-1] != 3 or image.shape[:2] == size:
        return _resize(image, size, resample)
    image = np.require(image, requirements="CW")  # torch takes neither read-only bytes nor negative strides
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    return F.interpolate(pixels, size=size, mode=mode, antialias=True)[0].permute(1, 2, 0).numpy()


def _scale_and_offset(channels, do_rescale, rescale_factor, do_normalize, image_mean, image_std):
    """`scale`, `offset` `(channels,)` with x * scale + offset = (x * rescale_factor - mean) / std."""
    scale, offset = np.full(channels, rescale_factor if do_rescale else 1.0), np.zeros(channels)
    if do_normalize:
        mean, std = (
            np.broadcast_to(np.asarray(value, dtype=np.float64), (channels,)) for value in (image_mean, image_std)
        )
        scale, offset = scale / std, -mean / std
    return scale.astype(np.float32), offset.astype(np.float32)


_SHORTEST_TEXT = 3


class MMETProcessorKwargs(ProcessingKwargs, total=False):
    images_kwargs: MMETImageProcessorKwargs


class MMETProcessor(ProcessorMixin):
    r"""
    Images, sentences and person masks in; model inputs out.

    Args:
        image_processor ([`MMETImageProcessor`]): Processor of the crops.
        tokenizer ([`BertTokenizer`]): Tokenizer of the sentences.
    """

    valid_processor_kwargs = MMETProcessorKwargs
    # A caption is one segment; a batch of captions is one tensor, none longer than the tokenizer's model_max_length.
    text_kwargs = {"return_token_type_ids": False, "padding": True, "truncation": True}  # noqa: RUF012

    def __init__(self, image_processor, tokenizer):
        super().__init__(image_processor, tokenizer)

    @property
    def model_input_names(self):
        r"""Names of what `__call__` returns for images with text."""
        return [name for name in super().model_input_names if name != "token_type_ids"]

    def __call__(
        self,
        images: ImageInput | None = None,
        text: str | list[str] | tuple[str, ...] | None = None,
        person_masks: MaskInput | list[MaskInput | None] | None = None,
        **kwargs: Unpack[MMETProcessorKwargs],
    ) -> BatchFeature:
        r"""
        Args:
            images: Person crops, in any of the forms that `read_rgb` takes: one, a list of them, or a batch array.
            text: Sentences; padded to the longest and truncated to the tokenizer's `model_max_length`, unless
                `padding` and `truncation` say otherwise.
            person_masks: Silhouettes of the images, one each, in any of the forms that `read_person_mask` takes;
                `None` where there is none. They have the image's size or proportions, or already the model's size, and
                are resized as their images are.

        Returns:
            [`BatchFeature`]: `pixel_values` with images, `input_ids` and `attention_mask` with text, and
            `person_patch_coverage` `(batch_size, num_patches)` with masks: the share of each patch's pixels on the
            person, NaN where a mask is missing.

        Raises:
            ValueError: when neither images nor text are given, either is empty, an image, sentence or mask cannot be
                read (the message has its number), or they do not belong together one by one.
        """
        if images is None and text is None:
            raise ValueError("nothing to process: give images, text or both")
        images = None if images is None else list_images(images)
        _check_size_argument({**kwargs, **kwargs.get("images_kwargs", {})}.get("size"))
        if text is not None:
            text = self._check_text(text, kwargs)
            num_sentences = 1 if isinstance(text, str) else len(text)
            if images is not None and len(images) != num_sentences:
                raise ValueError(
                    f"expected one sentence an image, received {len(images)} images and {num_sentences} sentences: "
                    "process them in two calls if they do not belong together"
                )
        if person_masks is None:
            return super().__call__(images=images, text=text, **kwargs)
        masks = _list_masks(person_masks, len(images or ()))
        images = [_open_if_file(image) for image in images or ()]
        if len(masks) != len(images):
            raise ValueError(f"expected one person mask an image, received {len(masks)} for {len(images)} images")
        features = super().__call__(images=images, text=text, **kwargs)
        options = {**kwargs.get("images_kwargs", {}), **kwargs}
        size = tuple(features["pixel_values"][0].shape[-2:])
        masks = _read_masks(masks)
        _check_mask_shapes(masks, images, size, options.get("input_data_format"))
        coverage = self.person_patch_coverage(masks, size, options.get("patch_size"), options.get("patch_stride"))
        features["person_patch_coverage"] = coverage.numpy() if options.get("return_tensors") == "np" else coverage
        return features

    def _check_text(self, text: Any, options: dict[str, Any]) -> str | list[str]:
        """One or several sentences that can be tokenised; an error names the one that cannot."""
        if not hasattr(text, "__iter__") or isinstance(text, (dict, set)):
            raise ValueError(f"expected a sentence or a list of sentences, received {type(text).__name__}")
        sentences = [text] if isinstance(text, str) else list(text)
        if not sentences:
            raise ValueError("expected at least one sentence, received none")
        for number, sentence in enumerate(sentences):
            if not isinstance(sentence, str):
                raise ValueError(f"text[{number}]: expected a sentence, received {type(sentence).__name__}")
            if not sentence.strip():
                raise ValueError(f"text[{number}]: expected a sentence, received an empty one")
            if any("\ud800" <= character <= "\udfff" for character in sentence):
                raise ValueError(f"text[{number}]: expected valid Unicode, received a lone surrogate")
        options = {**options, **options.get("text_kwargs", {})}
        if options.get("padding_side", self.tokenizer.padding_side) != "right":
            raise ValueError(
                "expected padding_side 'right', received 'left': the model reads a sentence at its first token, [CLS]"
            )
        max_length = options.get("max_length")
        if max_length is not None and (not isinstance(max_length, int) or max_length < _SHORTEST_TEXT):
            raise ValueError(
                f"expected max_length to be a whole number of at least {_SHORTEST_TEXT} ([CLS], a word and [SEP]), "
                f"received {max_length!r}"
            )
        return text if isinstance(text, str) else sentences

    def person_patch_coverage(
        self,
        person_masks: list[MaskInput | None],
        size: tuple[int, int] | None = None,
        patch_size: int | None = None,
        patch_stride: int | None = None,
    ) -> torch.Tensor:
        """
        Share `(batch_size, num_patches)` of each patch's pixels on the person; NaN rows for missing masks.

        Args:
            person_masks: As in `__call__`.
            size: Height and width of the model's images; the image processor's when not given, as for the others.
            patch_size, patch_stride: Of the patch grid.
        """
        processor = self.image_processor
        height, width = size if size is not None else (dict(processor.size)[side] for side in ("height", "width"))
        patch_size = patch_size if patch_size is not None else processor.patch_size
        patch_stride = patch_stride if patch_stride is not None else processor.patch_stride
        for name, length in (("patch_size", patch_size), ("patch_stride", patch_stride)):
            _check_side(name, length)
        if patch_size > min(height, width):
            raise ValueError(
                f"expected patches that fit into {height} x {width} pixels, received patch_size {patch_size}"
            )
        num_patches = _num_patches(height, patch_size, patch_stride) * _num_patches(width, patch_size, patch_stride)
        shares = torch.full((len(person_masks), num_patches), torch.nan)
        for row, mask in zip(shares, _read_masks(person_masks), strict=True):
            if mask is not None:
                row[:] = _patch_shares(mask, (height, width), patch_size, patch_stride)
        return shares


def _num_patches(length: int, patch_size: int, patch_stride: int) -> int:
    return (length - patch_size) // patch_stride + 1


def _open_if_file(image: Any) -> Any:
    return open_picture(image) if isinstance(image, (str, os.PathLike, bytes, bytearray, memoryview)) else image


def _list_masks(masks: Any, num_images: int) -> list[Any]:
    """The single masks of a list or of a batch `(batch_size, height, width)`, also with an axis of channels."""
    if isinstance(masks, (list, tuple)):
        return list(masks)
    is_array = isinstance(masks, (np.ndarray, torch.Tensor))
    return list(masks) if is_array and masks.ndim >= (3 if num_images > 1 else 4) else [masks]


def _read_masks(masks: list[Any]) -> list[Image.Image | None]:
    """All masks by `read_person_mask`; an error names the mask."""
    silhouettes = []
    for number, mask in enumerate(masks):
        try:
            silhouettes.append(None if mask is None else read_person_mask(mask))
        except READ_ERRORS as error:
            raise ValueError(f"person_masks[{number}]: {error}") from error
    return silhouettes


def _check_mask_shapes(
    masks: list[Image.Image | None], images: list[Any], size: tuple[int, int], input_data_format: Any
) -> None:
    """Raise `ValueError` for a mask that is neither of its image's proportions nor of the model's `size`."""
    for number, (mask, image) in enumerate(zip(masks, images, strict=True)):
        height, width = _image_size(image, input_data_format)
        if mask is None or (mask.height, mask.width) == size or has_proportions(mask.size, (width, height)):
            continue
        raise ValueError(
            f"person_masks[{number}]: expected a mask of its image's {height} x {width} pixels, or of about these "
            f"proportions, received {mask.height} x {mask.width}"
        )


def has_proportions(size: tuple[int, int], of: tuple[int, int]) -> bool:
    """Whether a width and height are about in the proportions of others, but for rounding."""
    stretch = (size[0] + 1) * of[1] / (size[1] * of[0]), size[0] * of[1] / ((size[1] + 1) * of[0])
    return stretch[0] >= 1 / _LARGEST_STRETCH and stretch[1] <= _LARGEST_STRETCH


def _image_size(image: Any, input_data_format: Any) -> tuple[int, int]:
    """Height and width of an upright image."""
    if isinstance(image, Image.Image):
        width, height = upright_size(image)
        return height, width
    return _channels_last(_to_array(image), input_data_format).shape[:2]


def _patch_shares(mask: Image.Image, size: tuple[int, int], patch_size: int, patch_stride: int) -> torch.Tensor:
    """Share `(num_patches,)` of each patch's pixels that lie on the person once the mask has `size`."""
    height, width = size
    if mask.height > height or mask.width > width:
        mask = mask.resize((width, height), Image.Resampling.BOX)
    on_person = torch.from_numpy((np.asarray(mask) > 127).astype(np.float32))  # (h, w)
    down = _patch_weights(mask.height, height, patch_size, patch_stride)
    across = _patch_weights(mask.width, width, patch_size, patch_stride)
    # Torch's product, for it keeps to the one thread of a data loading worker. Whole numbers: exact in any order.
    return (down @ on_person @ across.T).flatten() / (patch_size * patch_size)


@lru_cache(maxsize=64)
def _patch_weights(source: int, target: int, patch_size: int, patch_stride: int) -> torch.Tensor:
    """
    How many of the pixels of each patch show each pixel of a mask of length `source` that is enlarged to `target`:
    `(num_patches, source)`, whole numbers. Enlarging with Pillow's box filter repeats pixels.
    """
    shown = np.floor((np.arange(target) + 0.5) * (source / target)).astype(np.int64)
    weights = np.zeros((_num_patches(target, patch_size, patch_stride), source), dtype=np.float32)
    for patch, row in enumerate(weights):
        np.add.at(row, shown[patch * patch_stride : patch * patch_stride + patch_size], 1)
    return torch.from_numpy(weights)


MMETImageProcessor.register_for_auto_class("AutoImageProcessor")
MMETProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["AmbiguousMaskError", "MMETImageProcessor", "MMETProcessor", "read_person_mask", "read_rgb"]
