# Copyright 2026 The MMET authors. Licensed under the Apache License, Version 2.0.
"""MMET processors: person crops to normalised tensors, sentences to BERT tokens, silhouettes to patch coverage.

`MMETProcessor` takes `images`, `text` and `person_masks`, and returns the models' inputs; `pictures_mmet` reads
pictures and silhouettes for it. Pictures are processed with Pillow and numpy, without torchvision. This module is
saved with every checkpoint: it imports only torch, transformers, numpy, Pillow and `pictures_mmet`.

    >>> processor = MMETProcessor.from_pretrained("path/to/checkpoint")
    >>> processor(images=[crop], text=["a man in a blue coat"], return_tensors="pt").keys()
    dict_keys(['input_ids', 'attention_mask', 'pixel_values'])
"""

import os
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import BatchFeature, ProcessorMixin
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    ImageInput,
    PILImageResampling,
)
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, Unpack

try:
    from .pictures_mmet import (
        CHANNEL_COUNTS,
        READ_ERRORS,
        MaskInput,
        PictureInput,
        channels_last,
        has_proportions,
        open_picture,
        read_person_mask,
        read_rgb,
        to_array,
        to_bytes,
        upright,
        upright_size,
    )
except ImportError:
    from pictures_mmet import (
        CHANNEL_COUNTS,
        READ_ERRORS,
        MaskInput,
        PictureInput,
        channels_last,
        has_proportions,
        open_picture,
        read_person_mask,
        read_rgb,
        to_array,
        to_bytes,
        upright,
        upright_size,
    )

_TORCH_MODES = {PILImageResampling.BILINEAR: "bilinear", PILImageResampling.BICUBIC: "bicubic"}

MAX_IMAGE_SIDE = 8_192
"""Largest height and width that pictures can be resized to."""


class MMETImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    patch_size (`int`): Side of a patch in pixels, as in the model's image encoder.
    patch_stride (`int`): Distance between neighbouring patches in pixels, as in the model's image encoder.
    exact_resize (`bool`): Whether to resize with Pillow. Otherwise torch computes the bicubic and bilinear filters of
        RGB pictures in integers, several times as fast; about one value in a hundred then differs, nearly always by 1
        of 255 levels.
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
        """Return the images unchanged: `process_image` reads files, and keeps their transparency."""
        return image_url_or_urls

    def preprocess(self, images: ImageInput, *args, **kwargs: Unpack[MMETImageProcessorKwargs]) -> BatchFeature:
        """As in the base class. Raises `ValueError` for an invalid size and for images that cannot be read."""
        _check_size_argument(kwargs.get("size"))
        return super().preprocess(images, *args, **kwargs)

    def process_image(
        self, image: PictureInput, do_convert_rgb=None, input_data_format=None, do_rescale=True, **kwargs
    ) -> np.ndarray:
        """
        Read an image of any kind as an array `(height, width, channels)`, which Pillow can resize. Without
        `do_rescale`, floats are kept: they were rescaled before.
        """
        is_float = isinstance(image, (np.ndarray, torch.Tensor)) and to_array(image).dtype.kind == "f"
        if is_float and not do_rescale:
            return _read_floats(channels_last(to_array(image), input_data_format), do_convert_rgb)
        if do_convert_rgb:
            return read_rgb(image, input_data_format)
        if isinstance(image, (np.ndarray, torch.Tensor)):
            return to_bytes(channels_last(to_array(image), input_data_format))
        image = image if isinstance(image, Image.Image) else open_picture(image)
        return np.atleast_3d(np.asarray(upright(image)))

    def _prepare_image_like_inputs(self, images: ImageInput, *args, expected_ndims: int = 3, **kwargs) -> list[Any]:
        """Read all images with `process_image`; an error names the image."""
        prepared = []
        for number, image in enumerate(list_images(images)):
            try:
                prepared.append(self.process_image(image, **kwargs))
            except READ_ERRORS as error:
                raise ValueError(f"images[{number}]: {error}") from error
        return prepared

    def _validate_preprocess_kwargs(self, size=None, do_resize=None, **kwargs) -> None:
        """As in the base class; also check the size, in whichever form it was given."""
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
    List the single images of the processor's argument: one image, a list of images (also nested), or a batch
    `(batch_size, …)` as one array. Raises `ValueError` if there are none.
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
    """Check floats `(height, width, channels)` that need no rescaling, and convert them to RGB if requested."""
    if not np.isfinite(values).all():
        raise ValueError("expected finite pixels, received NaN or infinity")
    if not do_convert_rgb or values.shape[-1] == 3:
        return values
    if values.shape[-1] == 1:
        return np.repeat(values, 3, axis=-1)
    color, alpha = values[..., :3], values[..., 3:]
    return color * alpha + (1 - alpha)


def _check_size_argument(size: Any) -> None:
    """Check a caller's size before the base classes do, whose errors are not `ValueError`s."""
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
        is_finite = numbers.dtype.kind in "iuf" and np.isfinite(numbers).all() and len(numbers) in CHANNEL_COUNTS
        if not is_finite or (name != "image_mean" and (numbers <= 0).any()):
            above = "" if name == "image_mean" else " above 0"
            raise ValueError(f"expected {name} to be a finite number{above}, or one per channel, received {values!r}")


def _check_size(size: Any) -> None:
    """Raise `ValueError` unless `size` has a valid height and width."""
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
    """As `_resize`, but RGB bytes with torch's fixed-point version of Pillow's filter, if torch has that filter."""
    mode = _TORCH_MODES.get(resample)
    if mode is None or image.dtype != np.uint8 or image.shape[-1] != 3 or image.shape[:2] == size:
        return _resize(image, size, resample)
    image = np.require(image, requirements="CW")  # torch takes neither read-only bytes nor negative strides
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)  # "channels last", which torch resizes without a copy
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
_READS_FIRST = "the first token of a sentence must be [CLS], which the model reads"
_ONE_ROW = "a sentence must be one row of tokens"
_TEXT_OPTIONS = {
    "padding_side": ("right", _READS_FIRST),
    "add_special_tokens": (True, _READS_FIRST),
    "is_split_into_words": (False, _ONE_ROW),
    "text_pair": (None, _ONE_ROW),
    "return_overflowing_tokens": (False, _ONE_ROW),
    "stride": (0, _ONE_ROW),
}
"""Options of tokenizers that allow only one value here, with the reason."""


class MMETProcessorKwargs(ProcessingKwargs, total=False):
    images_kwargs: MMETImageProcessorKwargs
    _defaults = {}  # noqa: RUF012 (transformers 5.20 reads it)


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

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> Any:
        """As in the base class, but without the last call's padding and truncation, which some readers would apply."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            backend.no_padding()
            backend.no_truncation()
        return super().save_pretrained(save_directory, **kwargs)

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
            text: Sentences; by default padded to the longest and truncated to the tokenizer's `model_max_length`.
            person_masks: Silhouettes of the images, one each, in any of the forms that `read_person_mask` takes;
                `None` for an image without one. They have the image's size or proportions, or the model's size, and
                are resized like their images.

        Returns:
            [`BatchFeature`]: `pixel_values` with images, `input_ids` and `attention_mask` with text, and
            `person_patch_coverage` `(batch_size, num_patches)` with masks: the share of each patch's pixels on the
            person, NaN where a mask is missing.

        Raises:
            ValueError: neither images nor text are given, either is empty, an image, sentence or mask cannot be read
                (the message has its number), or their numbers differ.
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
                    f"expected one sentence per image, received {len(images)} images and {num_sentences} sentences: "
                    "process them in two calls if they do not belong together"
                )
        if person_masks is None:
            return super().__call__(images=images, text=text, **kwargs)
        masks = _list_masks(person_masks, len(images or ()))
        images = [_open_if_file(image) for image in images or ()]
        if len(masks) != len(images):
            raise ValueError(f"expected one person mask per image, received {len(masks)} for {len(images)} images")
        features = super().__call__(images=images, text=text, **kwargs)
        options = {**kwargs.get("images_kwargs", {}), **kwargs}
        size = tuple(features["pixel_values"][0].shape[-2:])
        masks = _read_masks(masks)
        _check_mask_shapes(masks, images, size, options.get("input_data_format"))
        coverage = self.person_patch_coverage(masks, size, options.get("patch_size"), options.get("patch_stride"))
        features["person_patch_coverage"] = coverage.numpy() if options.get("return_tensors") == "np" else coverage
        return features

    def _check_text(self, text: Any, options: dict[str, Any]) -> str | list[str]:
        """Check one or several sentences and the options of the tokenizer; an error names the invalid sentence."""
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
        options = {"padding_side": self.tokenizer.padding_side, **options, **options.get("text_kwargs", {})}
        for name, (allowed, reason) in _TEXT_OPTIONS.items():
            received = options.get(name, allowed)
            if received != allowed:
                raise ValueError(f"expected {name} {allowed!r}, received {received!r}: {reason}")
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
        Compute the share `(batch_size, num_patches)` of each patch's pixels on the person; NaN rows for missing masks.

        Args:
            person_masks: As in `__call__`.
            size: Height and width of the model's images in pixels; by default the image processor's.
            patch_size, patch_stride: Geometry of the patches in pixels; by default the image processor's.

        Raises:
            ValueError: a mask cannot be read, or the patches do not fit into the images.
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
    """List the single masks of a list or a batch `(batch_size, height, width)`, which may have an axis of channels."""
    if isinstance(masks, (list, tuple)):
        return list(masks)
    is_array = isinstance(masks, (np.ndarray, torch.Tensor))
    return list(masks) if is_array and masks.ndim >= (3 if num_images > 1 else 4) else [masks]


def _read_masks(masks: list[Any]) -> list[Image.Image | None]:
    """Read all masks with `read_person_mask`; an error names the mask."""
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
    """Raise `ValueError` for a mask that has neither its image's proportions nor the model's `size`."""
    for number, (mask, image) in enumerate(zip(masks, images, strict=True)):
        height, width = _image_size(image, input_data_format)
        if mask is None or (mask.height, mask.width) == size or has_proportions(mask.size, (width, height)):
            continue
        raise ValueError(
            f"person_masks[{number}]: expected a mask of its image's {height} x {width} pixels, or of about these "
            f"proportions, received {mask.height} x {mask.width}"
        )


def _image_size(image: Any, input_data_format: Any) -> tuple[int, int]:
    """Height and width of an upright image."""
    if isinstance(image, Image.Image):
        width, height = upright_size(image)
        return height, width
    return channels_last(to_array(image), input_data_format).shape[:2]


def _patch_shares(mask: Image.Image, size: tuple[int, int], patch_size: int, patch_stride: int) -> torch.Tensor:
    """Share `(num_patches,)` of each patch's pixels that lie on the person once the mask has `size`."""
    height, width = size
    if mask.height > height or mask.width > width:
        mask = mask.resize((width, height), Image.Resampling.BOX)
    on_person = torch.from_numpy((np.asarray(mask) > 127).astype(np.float32))  # (h, w)
    down = _patch_weights(mask.height, height, patch_size, patch_stride)
    across = _patch_weights(mask.width, width, patch_size, patch_stride)
    # Torch's product, because it keeps to the one thread of a data loading worker. It is exact: all are whole numbers.
    return (down @ on_person @ across.T).flatten() / (patch_size * patch_size)


@lru_cache(maxsize=64)
def _patch_weights(source: int, target: int, patch_size: int, patch_stride: int) -> torch.Tensor:
    """
    Count, for each patch and each pixel of a mask, how often the patch shows the pixel after the mask is enlarged from
    length `source` to `target`: `(num_patches, source)`. (Pillow's box filter enlarges by repeating pixels.)
    """
    shown = np.floor((np.arange(target) + 0.5) * (source / target)).astype(np.int64)
    weights = np.zeros((_num_patches(target, patch_size, patch_stride), source), dtype=np.float32)
    for patch, row in enumerate(weights):
        np.add.at(row, shown[patch * patch_stride : patch * patch_stride + patch_size], 1)
    return torch.from_numpy(weights)


MMETImageProcessor.register_for_auto_class("AutoImageProcessor")
MMETProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["MMETImageProcessor", "MMETProcessor"]
