# Copyright 2026 The MMET authors. Licensed under the Apache License, Version 2.0.
"""MMET processors: person crops to normalised tensors, sentences to BERT tokens, silhouettes to patch coverage.

`MMETProcessor(images=?, text=?, person_masks=?)` returns exactly what the models take. Everything is Pillow and numpy
(no torchvision). This module travels with every checkpoint: it imports torch, transformers, numpy and Pillow, nothing
else.

    >>> processor = MMETProcessor.from_pretrained("path/to/checkpoint")
    >>> processor(images=[crop], text=["a man in a blue coat"], return_tensors="pt").keys()
    dict_keys(['input_ids', 'attention_mask', 'pixel_values'])
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import BatchFeature, ProcessorMixin
from transformers.image_processing_backends import PilBackend
from transformers.image_transforms import convert_to_rgb
from transformers.image_utils import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
)
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, Unpack

_TORCH_MODES = {PILImageResampling.BILINEAR: "bilinear", PILImageResampling.BICUBIC: "bicubic"}

MaskInput = Image.Image | np.ndarray | torch.Tensor
"""A silhouette."""


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

    Accepts PIL images of any mode, numpy arrays and torch tensors (channels first, last or, for grey, none), and
    returns `pixel_values` `(batch_size, 3, height, width)` in float32.
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

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid of a resized image."""
        size = dict(self.size)
        rows, columns = ((size[side] - self.patch_size) // self.patch_stride + 1 for side in ("height", "width"))
        return rows, columns

    def preprocess(self, images: ImageInput, *args, **kwargs) -> BatchFeature:
        """As in the base class; `ValueError` for no image at all."""
        if isinstance(images, (list, tuple)):
            if not images:
                raise ValueError("expected at least one image, received none")
            images = [_with_channel(image) for image in images]
        return super().preprocess(_with_channel(images), *args, **kwargs)

    def process_image(self, image, do_convert_rgb=None, input_data_format=None, **kwargs) -> np.ndarray:
        """One image of any kind as an array `(height, width, channels)`, which is what Pillow resizes."""
        if isinstance(image, Image.Image):
            return _pil_to_array(image, do_convert_rgb)
        if isinstance(image, np.ndarray) and image.shape[-1] == 3 and input_data_format == ChannelDimension.LAST:
            return image
        channels_first = super().process_image(
            image, do_convert_rgb=do_convert_rgb, input_data_format=input_data_format, **kwargs
        )
        return np.ascontiguousarray(np.moveaxis(channels_first, 0, -1))

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
            if not (size.height and size.width):
                raise ValueError(f"expected a size of height and width, received {dict(size)}")
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


def _with_channel(image):
    """An array or tensor `(height, width)` as `(height, width, 1)`; everything else as it is."""
    return image[..., None] if isinstance(image, (np.ndarray, torch.Tensor)) and image.ndim == 2 else image


def _pil_to_array(image: Image.Image, do_convert_rgb: bool | None) -> np.ndarray:
    """A Pillow image as `(height, width, channels)`; in RGB, 16 bits become 8 and transparency shows white."""
    if not do_convert_rgb:
        return np.atleast_3d(np.asarray(image))
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # Pillow itself would clip at 255
    return np.asarray(image) if image.mode == "RGB" else convert_to_rgb(image, return_numpy=True)


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

    def __call__(
        self,
        images: ImageInput | None = None,
        text: str | list[str] | tuple[str, ...] | None = None,
        person_masks: MaskInput | list[MaskInput | None] | None = None,
        **kwargs: Unpack[MMETProcessorKwargs],
    ) -> BatchFeature:
        r"""
        Args:
            images: Person crops.
            text: Sentences; padded to the longest and truncated to the tokenizer's `model_max_length`, unless
                `padding` and `truncation` say otherwise.
            person_masks: Silhouettes of the images, one each: Pillow images or arrays `(height, width)`, the person
                above 127 (or True); `None` where there is none. They are resized as their images are.

        Returns:
            [`BatchFeature`]: `pixel_values` with images, `input_ids` and `attention_mask` with text, and
            `person_patch_coverage` `(batch_size, num_patches)` with masks: the share of each patch's pixels on the
            person, NaN where a mask is missing.

        Raises:
            ValueError: when neither images nor text are given, either is empty, or masks do not belong to the images
                one by one.
        """
        if images is None and text is None:
            raise ValueError("nothing to process: give images, text or both")
        if text is not None and not isinstance(text, str):
            text = list(text)
            if not text:
                raise ValueError("expected at least one sentence, received none")
        features = super().__call__(images=images, text=text, **kwargs)
        if person_masks is not None:
            person_masks = person_masks if isinstance(person_masks, (list, tuple)) else [person_masks]
            num_images = len(features["pixel_values"]) if images is not None else 0
            if len(person_masks) != num_images:
                raise ValueError(
                    f"expected one person mask an image, received {len(person_masks)} for {num_images} images"
                )
            options = {**kwargs.get("images_kwargs", {}), **kwargs}
            coverage = self.person_patch_coverage(
                person_masks,
                features["pixel_values"].shape[-2:],
                options.get("patch_size"),
                options.get("patch_stride"),
            )
            features["person_patch_coverage"] = coverage.numpy() if options.get("return_tensors") == "np" else coverage
        return features

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
        num_patches = _num_patches(height, patch_size, patch_stride) * _num_patches(width, patch_size, patch_stride)
        shares = torch.full((len(person_masks), num_patches), torch.nan)
        for row, mask in zip(shares, person_masks, strict=True):
            if mask is not None:
                row[:] = _patch_shares(mask, (height, width), patch_size, patch_stride)
        return shares


def _num_patches(length: int, patch_size: int, patch_stride: int) -> int:
    return (length - patch_size) // patch_stride + 1


def _patch_shares(mask: MaskInput, size: tuple[int, int], patch_size: int, patch_stride: int) -> torch.Tensor:
    """Share `(num_patches,)` of each patch's pixels that lie on the person once the mask has `size`."""
    mask = _gray_mask(mask)
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


def _gray_mask(mask: MaskInput) -> Image.Image:
    """A mask of any kind and of any of Pillow's modes in mode L."""
    if not isinstance(mask, Image.Image):
        mask = np.asarray(mask)
        mask = Image.fromarray(mask.astype(np.uint8) * (255 if mask.dtype == bool else 1))
    return mask if mask.mode == "L" else mask.convert("L")


MMETImageProcessor.register_for_auto_class("AutoImageProcessor")
MMETProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["MMETImageProcessor", "MMETProcessor"]
