# Copyright 2026 The MMET authors. Licensed under the Apache License, Version 2.0.
"""The inputs of MMET's models: checks that reject invalid inputs, and the batch of a pretraining step.

Shapes and dtypes are always checked. Values are read if that is possible, once for all inputs of an encoder and once
for all labels. `save_pretrained` puts this module beside `modeling_mmet.py`, which imports it.

    >>> check_images(config.image_config, pixel_values)  # ValueError: expected pixel_values of shape ...
"""

import functools
import inspect
import math
import types
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from types import EllipsisType

import torch
from torch import Tensor

try:
    from .configuration_mmet import MMETConfig, MMETImageConfig, MMETMultimodalConfig, MMETTextConfig
except ImportError:
    from configuration_mmet import MMETConfig, MMETImageConfig, MMETMultimodalConfig, MMETTextConfig

IGNORE_INDEX = -100
"""Label of a position, pair or person that does not count in a loss."""

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
"""Dtypes that ids and labels may have."""

Index = EllipsisType | tuple | Tensor
"""An index into a tensor; `...` takes all of it."""


def take(tensor: Tensor | None, index: Index) -> Tensor | None:
    """Return `tensor[index]`, or `None` for `None`."""
    return None if tensor is None else tensor[index]


# --- Checks ----------------------------------------------------------------------------------------------------------

WrongValues = tuple[str, str, Tensor, Tensor]
"""Name of an input, the expectation, the values, and a mask of the wrong ones."""


def check_form(name: str, tensor: Tensor | None, *shape: int | None, kind: str = "numbers"):
    """Raise `ValueError` unless a tensor, if given, has this shape (`None`: any size but 0) and `kind` of numbers."""
    if tensor is None:
        return
    check_tensors(**{name: tensor})
    fits = tensor.dim() == len(shape) and all(
        received != 0 if expected is None else received == expected
        for received, expected in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"expected {name} of shape ({expected}), received {tuple(tensor.shape)}")
    if {"integers": tensor.dtype not in _INTEGERS, "floats": not tensor.is_floating_point()}.get(kind):
        raise ValueError(f"expected {name} of {kind}, received {tensor.dtype}")


def check_tensors(**inputs: Tensor | None):
    """Raise `ValueError` for inputs of another type, such as arrays of numpy."""
    for name, tensor in inputs.items():
        if tensor is not None and not isinstance(tensor, Tensor):
            raise ValueError(f"expected {name} as a torch tensor, received {type(tensor).__name__}")


def check_values(*checks: WrongValues):
    """
    Raise `ValueError` for the first wrong values, with one read from the device for all of them.

    Nothing is read in a compiled or exported graph, which would break there, nor on the meta device.
    """
    if not checks or torch.compiler.is_compiling() or checks[0][2].is_meta:
        return
    for (name, expected, values, places), is_wrong in zip(
        checks, torch.stack([places.any() for *_, places in checks]).tolist(), strict=True
    ):
        if is_wrong:
            received = values[places].unique()[:5].tolist()
            raise ValueError(f"expected {name} {expected}, received {received} among them")


def not_masks(**masks: Tensor | None) -> list[WrongValues]:
    """Values other than 0 and 1, which booleans cannot hold."""
    return [
        (name, "of 0 and 1", mask, (mask != 0) & (mask != 1))
        for name, mask in masks.items()
        if mask is not None and mask.dtype != torch.bool
    ]


def not_in_range(
    name: str, values: Tensor | None, size: int, note: str = "", exempt: Tensor | None = None
) -> list[WrongValues]:
    """Integers outside `range(size)` (0: negative ones), except those that are `exempt`, which `note` describes."""
    if values is None:
        return []
    wrong = (values < 0) | (values >= size) if size else values < 0
    expected = f"in [0, {size})" if size else "of at least 0"
    return [(name, expected + note, values, wrong if exempt is None else wrong & ~exempt)]


def not_classes(name: str, labels: Tensor | None, num_classes: int) -> list[WrongValues]:
    """Labels that are neither classes (0: any number of them) nor `IGNORE_INDEX`."""
    exempt = labels == IGNORE_INDEX if labels is not None else None
    return not_in_range(name, labels, num_classes, f", or {IGNORE_INDEX} for unknown", exempt)


def check_images(
    config: MMETImageConfig,
    pixel_values: Tensor,
    interpolate_pos_encoding: bool = False,
    bool_masked_pos: Tensor | None = None,
):
    """Raise `ValueError` unless `pixel_values` are valid images for the encoder, and masks fit their patches."""
    check_form("pixel_values", pixel_values, None, config.num_channels, None, None)
    if not pixel_values.is_floating_point():
        raise ValueError(f"expected normalised pixel_values, received {pixel_values.dtype}; use the image processor")
    size = list(pixel_values.shape[-2:])
    if size != config.image_size and not interpolate_pos_encoding:
        raise ValueError(
            f"expected pixel_values of size {config.image_size}, received {size}; "
            "pass interpolate_pos_encoding=True to interpolate the position embeddings"
        )
    if min(size) < config.patch_size:
        raise ValueError(f"expected pixel_values of at least patch_size={config.patch_size} a side, received {size}")
    check_form("bool_masked_pos", bool_masked_pos, pixel_values.shape[0], math.prod(config.grid_of(*size)))
    check_values(*not_masks(bool_masked_pos=bool_masked_pos))


def check_feature_map(config: MMETImageConfig, size: list[int], shape: torch.Size):
    """Raise `ValueError` unless a backbone turns images of `size` into a map `(B, C, rows, columns)` of patches."""
    grid = config.grid_of(*size)
    if len(shape) != 4 or tuple(shape[-2:]) != grid:
        raise ValueError(
            f"expected a backbone that makes a map of {grid[0]} x {grid[1]} cells, one for each patch, of images of "
            f"{list(size)} pixels, received {tuple(shape)} from {type(config.backbone_config).__name__}; image sides "
            f"that are multiples of its stride always fit"
        )


def check_detail_layer(config: MMETImageConfig, hidden_states: tuple[Tensor, ...]) -> torch.Size:
    """The shape `(B, C, rows, columns)` of the backbone's state `detail_layer`; `ValueError` if it has no such map."""
    shapes = [tuple(states.shape) for states in hidden_states]
    if config.detail_layer >= len(shapes) or len(shapes[config.detail_layer]) != 4:
        raise ValueError(
            f"expected a detail_layer that is a map (B, C, rows, columns) among the {len(shapes)} hidden states of "
            f"{type(config.backbone_config).__name__}, received {config.detail_layer}"
        )
    return hidden_states[config.detail_layer].shape


def check_captions(config: MMETTextConfig, name: str, words: Tensor, attention_mask: Tensor | None):
    """Raise `ValueError` unless words (token ids or embeddings, the argument `name`) and mask have valid shapes."""
    if name == "inputs_embeds":
        check_form(name, words, None, None, config.hidden_size, kind="floats")
    else:
        check_form(name, words, None, None, kind="integers")
    if words.shape[1] > config.max_position_embeddings:
        raise ValueError(
            f"expected at most max_position_embeddings={config.max_position_embeddings} tokens, "
            f"received {words.shape[1]}; ask the processor for truncation=True"
        )
    check_form(f"the attention mask of {name}", attention_mask, *words.shape[:2])


def check_tokens(config: MMETTextConfig, words: Tensor, attention_mask: Tensor | None):
    """Raise `ValueError` unless token ids are in the vocabulary, and each caption has a token that is not padding."""
    wrong = [] if words.is_floating_point() else not_in_range("input_ids", words, config.vocab_size)
    if attention_mask is not None:
        empty = ~attention_mask.bool().any(dim=1, keepdim=True).expand_as(attention_mask)
        wrong += not_masks(attention_mask=attention_mask)
        wrong.append(("attention_mask", "with a 1 in each row (text_present: no text)", attention_mask, empty))
    check_values(*wrong)


def check_states(config: MMETMultimodalConfig, hidden_states: Tensor, attention_mask: Tensor | None):
    """Raise `ValueError` unless states and their mask are valid for the multimodal encoder."""
    check_form("hidden_states", hidden_states, None, None, config.hidden_size)
    check_form("attention_mask", attention_mask, *hidden_states.shape[:2])
    check_values(*not_masks(attention_mask=attention_mask))


def choose_words(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> tuple[str, Tensor | None]:
    """Return the name and value of the given argument, token ids or embeddings; `ValueError` for both."""
    if input_ids is not None and inputs_embeds is not None:
        raise ValueError("expected input_ids or inputs_embeds, received both")
    return ("input_ids", input_ids) if inputs_embeds is None else ("inputs_embeds", inputs_embeds)


def check_samples(
    config: MMETConfig,
    pixel_values: Tensor | None,
    captions: dict[str, tuple[Tensor | None, Tensor | None]],
    image_present: Tensor | None,
    text_present: Tensor | None,
    interpolate_pos_encoding: bool,
) -> int:
    """
    Check a batch and return its number of samples.

    Args:
        captions: Token ids or embeddings with their attention mask, by the name of the argument.

    Raises:
        ValueError: invalid inputs for the encoders, no sample, different numbers of samples, or a sample with neither
            image nor text.
    """
    captions = {name: caption for name, caption in captions.items() if caption[0] is not None}
    inputs = {name: words for name, (words, _) in captions.items()}
    if pixel_values is not None:
        inputs = {"pixel_values": pixel_values} | inputs
    if not inputs:
        raise ValueError("no modality at all: give pixel_values, input_ids or both")
    check_tensors(**inputs)
    if any(value.numel() == 0 for value in inputs.values()):
        shapes = {name: tuple(value.shape) for name, value in inputs.items()}
        raise ValueError(f"expected at least one sample, received an empty batch: {shapes}")
    if pixel_values is not None:
        check_images(config.image_config, pixel_values, interpolate_pos_encoding)
    for name, (words, attention_mask) in captions.items():
        check_captions(config.text_config, name, words, attention_mask)
    sizes = {name: value.shape[0] for name, value in inputs.items()}
    batch_size = next(iter(sizes.values()))
    if any(size != batch_size for size in sizes.values()):
        raise ValueError(f"expected inputs of one batch, received {sizes} samples")
    check_form("image_present", image_present, batch_size)
    check_form("text_present", text_present, batch_size)
    present = ({"image_present": image_present} if pixel_values is not None else {}) | (
        {"text_present": text_present} if captions else {}
    )
    check_presence(present)
    return batch_size


def check_presence(present: dict[str, Tensor | None]):
    """Raise `ValueError` unless each sample has one of the modalities given, by their `(B,)` masks (`None`: all)."""
    masks = [mask for mask in present.values() if mask is not None]
    check_values(*not_masks(**present))
    if not masks or len(masks) < len(present) or torch.compiler.is_compiling() or masks[0].is_meta:
        return
    neither = (~torch.stack([mask.bool() for mask in masks]).any(dim=0)).nonzero().flatten().tolist()
    if neither:
        raise ValueError(f"samples {neither} have neither an image nor a text (image_present, text_present)")


def check_pooled_modality(pooling: str, name: str, content: Tensor | None, present: Tensor | None):
    """Raise `ValueError` unless every sample has the modality that `identity_pooling` reads, the argument `name`."""
    if content is None:
        raise ValueError(f"identity_pooling={pooling!r}: this model embeds {pooling}s; give {name}")
    if torch.compiler.is_compiling() or present is None:
        return
    absent = (~present.bool()).nonzero().flatten().tolist()
    if absent:
        raise ValueError(
            f"identity_pooling={pooling!r}: this model embeds {pooling}s; "
            f"samples {absent} have none ({pooling}_present)"
        )


def check_targets(config: MMETConfig, batch: "MMETPreTrainingBatch", batch_size: int):
    """Raise `ValueError` unless masks and labels fit their inputs and hold existing classes."""
    bool_masked_pos = mim_labels = mlm_labels = None
    if batch.pixel_values is not None:
        bool_masked_pos, mim_labels = batch.bool_masked_pos, batch.mim_labels
        num_patches = math.prod(config.image_config.grid_of(*batch.pixel_values.shape[-2:]))
        check_form("bool_masked_pos", bool_masked_pos, batch_size, num_patches)
        check_form("mim_labels", mim_labels, batch_size, num_patches, kind="integers")
    if batch.input_ids_masked is not None:
        mlm_labels = batch.mlm_labels
        check_form("mlm_labels", mlm_labels, *batch.input_ids_masked.shape, kind="integers")
    for name in ("itm_labels", "person_labels", "person_ids"):
        check_form(name, getattr(batch, name), batch_size, kind="integers")
    wrong = not_masks(bool_masked_pos=bool_masked_pos)
    wrong += not_classes("mlm_labels", mlm_labels, config.text_config.vocab_size)
    wrong += not_classes("itm_labels", batch.itm_labels, 2)
    wrong += not_classes("person_labels", batch.person_labels, config.num_identities)
    if bool_masked_pos is not None:
        visible = ~bool_masked_pos.bool()
        wrong += not_in_range("mim_labels", mim_labels, config.codebook_size, " where masked", visible)
    check_values(*wrong)


def check_labels(labels: Tensor | None, batch_size: int, num_identities: int):
    """Raise `ValueError` unless labels, if given, are one for each sample, of identities or unknown."""
    check_form("labels", labels, batch_size, kind="integers")
    check_values(*not_classes("labels", labels, num_identities))


# --- What a forward takes --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MMETPreTrainingBatch:
    """
    The inputs of a pretraining step, as `MMETForPreTraining.forward` takes them.

    `input_ids` may hold embeddings instead of ids. `counts` are those of all processes (`exchange_counts`), `None` if
    losses do not span processes.
    """

    pixel_values: Tensor | None = None
    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    input_ids_masked: Tensor | None = None
    masked_attention_mask: Tensor | None = None
    bool_masked_pos: Tensor | None = None
    mim_labels: Tensor | None = None
    mlm_labels: Tensor | None = None
    itm_labels: Tensor | None = None
    person_labels: Tensor | None = None
    person_ids: Tensor | None = None
    image_present: Tensor | None = None
    text_present: Tensor | None = None
    counts: dict[str, list[int]] | None = None

    @property
    def is_paired(self) -> bool:
        """Whether there are images and unmasked captions."""
        return self.pixel_values is not None and self.input_ids is not None

    @property
    def has_both(self) -> Tensor | None:
        """Which samples have an image and a caption `(B,)`; `None` for all."""
        masks = [mask.bool() for mask in (self.image_present, self.text_present) if mask is not None]
        return torch.stack(masks).all(dim=0) if masks else None

    @property
    def pairs(self) -> Index:
        """Indices of the samples with image and caption."""
        return ... if self.has_both is None else self.has_both.nonzero().flatten()

    def of_pairs(self) -> "MMETPreTrainingBatch":
        """Only the samples with image and caption."""
        names = [field.name for field in fields(self) if field.name != "counts"]
        pairs = self.pairs
        return replace(self, **{name: take(getattr(self, name), pairs) for name in names})

    def masked_parts(self, num_patches: int, image: bool, text: bool) -> tuple[Tensor, Tensor]:
        """
        Masked patches `(B, num_patches)` and tokens `(B, L)` of matching pairs; none if they are not needed.

        Another person's caption says nothing about the masked parts, so L_MMM uses matching pairs only (as in FLAVA).
        """
        captions, labels = self.input_ids_masked, self.itm_labels
        matching = labels == 1 if labels is not None else captions.new_ones(len(captions), dtype=torch.bool)
        patches, tokens = matching.new_zeros(len(captions), num_patches), matching.new_zeros(captions.shape[:2])
        if image:
            patches = self.bool_masked_pos.bool() & matching[:, None]
        if text:
            tokens = (self.mlm_labels != IGNORE_INDEX) & matching[:, None]
        return patches, tokens

    def without_common_padding(self) -> "MMETPreTrainingBatch":
        """The batch without the columns that are padding in all captions ([`text_length`])."""
        length = text_length(self.attention_mask, self.input_ids)
        masked_length = text_length(self.masked_attention_mask, self.input_ids_masked, self.mlm_labels)
        columns = dict.fromkeys(("input_ids", "attention_mask"), length)
        columns |= dict.fromkeys(("input_ids_masked", "masked_attention_mask", "mlm_labels"), masked_length)
        cut = {name: take(getattr(self, name), (slice(None), slice(length))) for name, length in columns.items()}
        return replace(self, **cut)

    def inputs(self) -> dict[str, Tensor | None]:
        """The inputs that decide which losses are computed; they must be the same on all processes."""
        names = ("pixel_values", "input_ids", "input_ids_masked", "bool_masked_pos", "mlm_labels")
        names += ("itm_labels", "person_labels", "person_ids")
        return {name: getattr(self, name) for name in names}

    def count_targets(self, batch_size: int) -> dict[str, Tensor | int]:
        """Numbers of pairs, masked positions and known pairs in this batch's losses, and the most views."""
        captions = self.input_ids if self.input_ids is not None else self.input_ids_masked
        is_paired = self.pixel_values is not None and captions is not None
        both = self.has_both
        if both is None:
            content = captions if captions is not None else self.pixel_values
            both = content.new_ones(batch_size, dtype=torch.bool)
        matching = both & (self.itm_labels == 1) if is_paired and self.itm_labels is not None else both
        counts = {"pairs": both.sum() if is_paired else 0, "masked_patches": 0, "masked_tokens": 0, "known_pairs": 0}
        if self.bool_masked_pos is not None:
            counts["masked_patches"] = (self.bool_masked_pos.bool() & matching[:, None]).sum()
        if self.mlm_labels is not None:
            counts["masked_tokens"] = ((self.mlm_labels != IGNORE_INDEX) & matching[:, None]).sum()
        if self.itm_labels is not None:
            counts["known_pairs"] = (both & (self.itm_labels != IGNORE_INDEX)).sum()
        return counts | {"views": batch_size + 2 * counts["pairs"]}


def text_length(attention_mask: Tensor | None, words: Tensor | None, labels: Tensor | None = None) -> int | None:
    """
    Number of columns up to the last token or label of all captions; `None` if nothing is cut off.

    Later columns affect no other state but would cost as much as tokens. A compiled graph keeps them, because its
    shapes are fixed.
    """
    if attention_mask is None or words is None or torch.compiler.is_compiling():
        return None
    read = attention_mask.bool() if labels is None else attention_mask.bool() | (labels != IGNORE_INDEX)
    length = int((read.any(dim=0) * torch.arange(1, read.shape[1] + 1, device=read.device)).amax())
    return length or None  # a mask without any token hides nothing that could be told from padding


class OptionalLabels:
    """
    A `forward` whose labels are all optional, for `Trainer` too.

    `Trainer` inspects the `forward` of a model's class: each argument with "label" in its name is expected in all
    batches, and if one is missing, there is no `eval_loss`. Seen from the class, this `forward` has no such arguments;
    seen from an instance, the signature is complete.
    """

    def __init__(self, forward: Callable):
        self.forward = forward

        @functools.wraps(forward)
        def without_labels(model, *args, **kwargs):
            return forward(model, *args, **kwargs)

        signature = inspect.signature(forward)
        parameters = [parameter for name, parameter in signature.parameters.items() if "label" not in name]
        without_labels.__signature__ = signature.replace(parameters=parameters)
        self.forward_of_class = without_labels

    def __get__(self, model, owner=None):
        # MethodType: torch.compile does not trace a function's own `__get__`.
        return self.forward_of_class if model is None else types.MethodType(self.forward, model)
