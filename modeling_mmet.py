# Copyright 2026 The MMET authors. Licensed under the Apache License, Version 2.0.
"""MMET: image, text and multimodal transformers, the eight training losses, and the identity embedding.

Implements "Learning Robust Visual-Semantic Embedding for Generalizable Person Re-identification" (Xiang et al.,
2023), sections 3.2 and 3.3. Three pre-norm transformers of one architecture: an image encoder over (overlapping)
patches, a text encoder over BERT tokens, and a multimodal encoder that reads [CLS_M] and whatever of the two is
there. This module travels with every checkpoint: it imports torch, transformers and its own configuration, nothing
else.

    >>> from modeling_mmet import MMETForReID
    >>> model = MMETForReID.from_pretrained("path/to/checkpoint")
    >>> inputs = processor(images=[crop], text=["a woman in a red jacket"], return_tensors="pt")
    >>> model(**inputs).embeddings  # (1, D), unit norm
"""

import copy
import functools
import inspect
import itertools
import math
import os
import types
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import EllipsisType
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
import transformers
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple, logging
from transformers.utils.generic import maybe_autocast, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

try:
    from .configuration_mmet import (
        MMETConfig,
        MMETEncoderConfig,
        MMETImageConfig,
        MMETMultimodalConfig,
        MMETTextConfig,
    )
except ImportError:
    from configuration_mmet import (
        MMETConfig,
        MMETEncoderConfig,
        MMETImageConfig,
        MMETMultimodalConfig,
        MMETTextConfig,
    )

logger = logging.get_logger(__name__)

LOSS_NAMES = ("mim", "mlm", "mmm_image", "mmm_text", "itm", "global_contrastive", "identity", "triplet")
"""Keys of `MMETForPreTrainingOutput.losses`; the weight of `name` is `config.<name>_weight`."""

IGNORE_INDEX = -100
"""Label of a position, pair or person that takes no part in a loss."""

MIN_LOGIT_SCALE, MAX_LOGIT_SCALE = 0.0, math.log(100)
"""Bounds of the logarithm of L_GC's inverse temperature, as in FLAVA."""

_SMALLEST_NORM = 1e-6
"""Shorter vectors are not stretched to unit norm: the gradient of doing so grows as the norm shrinks."""

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
"""Dtypes that ids and labels may have."""

_NO_VIEW = -101
"""Label of a row that only fills up what processes send each other."""

Positions = EllipsisType | tuple[slice, int] | torch.Tensor
"""Index of states `(B, L, D)`: all (`...`), `CLASS_TOKEN`, or a boolean mask `(B, L)`."""

CLASS_TOKEN: Positions = (slice(None), 0)
"""Index of the class token of every sequence."""

_SCORES_AT_ONCE = 2**22
"""Distances between descriptors and centroids in memory at a time: 32 MiB."""

_KEPT_OPERATORS = [
    *(getattr(torch.ops.aten, name).default for name in ("mm", "addmm", "bmm", "baddbmm", "native_dropout")),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
]
"""What a layer keeps of its forward pass: products, attention, and the draws of dropout, which may be inside of it."""

_DALLE_IMAGES_AT_ONCE = 16
"""Images that DALL-E's encoder reads at a time; 256 channels of one of 168x80 pixels are 13 MiB."""

_BNNECK = tuple(f"bnneck.{name}" for name in ("weight", "running_mean", "running_var"))
"""Statistics that half precision would round away."""

_PRETRAINING_KEYS = r"^(mim_head|mlm_head|mmm_image_head|mmm_text_head|itm_head|image_codebook)\."
"""What a pretraining checkpoint holds beyond the encoders and the identity head."""


# ---------------------------------------------------------------------------------------------------------------------
# Outputs
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class MMETOutput(ModelOutput):
    """What the outputs of all models have in common."""

    def to_tuple(self) -> tuple:
        """The values that are there, with the encoders' own outputs as tuples too."""
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


@dataclass
class MMETEncoderOutput(MMETOutput):
    """
    Output of one of the three encoders.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
            Hidden states after the final layer norm.
        pooler_output (`torch.FloatTensor` of shape `(batch_size, hidden_size)`):
            The class token of `last_hidden_state`.
        pre_norm_hidden_state (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
            Hidden states before the final layer norm: what the multimodal encoder reads, as in FLAVA.
        hidden_states, attentions (`tuple(torch.FloatTensor)`): On request, one a layer.
    """

    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    pre_norm_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None

    def as_features(self, pooler_output: torch.Tensor) -> BaseModelOutputWithPooling:
        """The same with another `pooler_output`, as transformers' `get_..._features` return it."""
        return BaseModelOutputWithPooling(
            last_hidden_state=self.last_hidden_state,
            pooler_output=pooler_output,
            hidden_states=self.hidden_states,
            attentions=self.attentions,
        )


@dataclass
class MMETModelOutput(MMETOutput):
    """
    Output of [`MMETModel`]; what belongs to an absent modality is `None`.

    Args:
        image_embeds (`torch.FloatTensor` of shape `(batch_size, num_patches + 1, hidden_size)`): h_I; [CLS_I] comes
            first.
        text_embeds (`torch.FloatTensor` of shape `(batch_size, text_length, hidden_size)`): h_T; [CLS_T] comes first.
        multimodal_embeds (`torch.FloatTensor` of shape `(batch_size, 2 + num_patches + text_length, hidden_size)`):
            h_M: [CLS_M], then the image states, then the text states, without those of an absent modality.
        image_output, text_output, multimodal_output ([`MMETEncoderOutput`]): The encoders' own outputs.
    """

    image_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    multimodal_embeds: torch.FloatTensor | None = None
    image_output: MMETEncoderOutput | None = None
    text_output: MMETEncoderOutput | None = None
    multimodal_output: MMETEncoderOutput | None = None


@dataclass
class MMETForPreTrainingOutput(MMETOutput):
    """
    Output of [`MMETForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`): Weighted sum of the losses that were computed; `None` when there
            was none.
        losses (`dict[str, torch.FloatTensor | None]`): Each of `LOSS_NAMES`, unweighted; `None` where not computed.
        mim_logits, mmm_image_logits (`torch.FloatTensor` of shape `(num_masked_patches, codebook_size)`):
            For the masked patches alone, in the row-major order of `bool_masked_pos` (for L_MMM: of the matching
            pairs).
        mlm_logits, mmm_text_logits (`torch.FloatTensor` of shape `(num_masked_tokens, vocab_size)`):
            For the masked tokens alone, in the row-major order of `mlm_labels` (for L_MMM: of the matching pairs).
        mim_codes, mmm_image_codes (`torch.LongTensor` of shape `(num_masked_patches,)`): The codes that `mim_logits`
            and `mmm_image_logits` are to predict.
        itm_logits (`torch.FloatTensor` of shape `(num_pairs, 2)`): Mismatch and match.
        logits_per_image (`torch.FloatTensor` of shape `(num_pairs, num_pairs)`): Scaled cosine similarities of L_GC
            (columns: of the captions of all processes, where losses span them).
        identity_embeds (`torch.FloatTensor` of shape `(num_views, hidden_size)`): Identity embeddings after the
            BNNeck, of every view.
        identity_logits (`torch.FloatTensor` of shape `(num_views, num_identities)`): Classifier scores of every view.
        image_output, text_output, multimodal_output ([`MMETEncoderOutput`]): The encoders' own outputs for the
            unmasked samples as they are, where `output_hidden_states` or `output_attentions` asks for them.
        image_masked_output, text_masked_output, multimodal_masked_output ([`MMETEncoderOutput`]): The same for the
            masked inputs: of the pairs where there are images and captions.

    Pairs are the samples with an image and a caption: all of them, unless `image_present` or `text_present` says
    otherwise.
    """

    loss: torch.FloatTensor | None = None
    losses: dict[str, torch.FloatTensor | None] | None = None
    mim_logits: torch.FloatTensor | None = None
    mlm_logits: torch.FloatTensor | None = None
    mmm_image_logits: torch.FloatTensor | None = None
    mmm_text_logits: torch.FloatTensor | None = None
    mim_codes: torch.LongTensor | None = None
    mmm_image_codes: torch.LongTensor | None = None
    itm_logits: torch.FloatTensor | None = None
    logits_per_image: torch.FloatTensor | None = None
    identity_embeds: torch.FloatTensor | None = None
    identity_logits: torch.FloatTensor | None = None
    image_output: MMETEncoderOutput | None = None
    text_output: MMETEncoderOutput | None = None
    multimodal_output: MMETEncoderOutput | None = None
    image_masked_output: MMETEncoderOutput | None = None
    text_masked_output: MMETEncoderOutput | None = None
    multimodal_masked_output: MMETEncoderOutput | None = None


@dataclass
class MMETForReIDOutput(MMETOutput):
    """
    Output of [`MMETForReID`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`): L_ID + L_triplet (Eq. 3), with labels.
        embeddings (`torch.FloatTensor` of shape `(batch_size, hidden_size)`): Identity embeddings of unit norm;
            compare by inner product.
        pooler_output (`torch.FloatTensor` of shape `(batch_size, hidden_size)`): `embeddings` under the name that
            transformers' pipelines read.
        logits (`torch.FloatTensor` of shape `(batch_size, num_identities)`): Classifier scores where the model has a
            classifier.
        image_output, text_output, multimodal_output ([`MMETEncoderOutput`]): The outputs of the encoders that ran,
            where `output_hidden_states` or `output_attentions` asks for them.
    """

    loss: torch.FloatTensor | None = None
    embeddings: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    image_output: MMETEncoderOutput | None = None
    text_output: MMETEncoderOutput | None = None
    multimodal_output: MMETEncoderOutput | None = None


def recorded(**outputs: MMETEncoderOutput | None) -> dict[str, MMETEncoderOutput]:
    """Those of the encoders' outputs that hold the hidden states or attentions somebody asked for, by name."""
    return {
        name: output
        for name, output in outputs.items()
        if output is not None and (output.hidden_states or output.attentions)
    }


# ---------------------------------------------------------------------------------------------------------------------
# Checks of inputs
# ---------------------------------------------------------------------------------------------------------------------

# Shapes and dtypes are always compared. Values are read where that is possible: not in a compiled or exported graph,
# which would break there, nor on the meta device. One read serves all inputs of an encoder, and one all labels.


def check_shape(name: str, value: torch.Tensor | None, *shape: int | None):
    """Raise `ValueError` unless `value`, where given, has this shape; `None` stands for any size but 0."""
    if value is None:
        return
    fits = value.dim() == len(shape) and all(
        received != 0 if expected is None else received == expected
        for received, expected in zip(value.shape, shape, strict=True)
    )
    if not fits:
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"expected {name} of shape ({expected}), received {tuple(value.shape)}")


def check_integers(**values: torch.Tensor | None):
    """Raise `ValueError` where a given tensor is not of integers."""
    for name, value in values.items():
        if value is not None and value.dtype not in _INTEGERS:
            raise ValueError(f"expected {name} of integers, received {value.dtype}")


def check_values(*wrong: tuple[str, str, torch.Tensor, torch.Tensor]):
    """Raise `ValueError` for the first `(name, what is expected, values, where they are not that)` that applies."""
    if not wrong:
        return
    for (name, expected, values, places), applies in zip(
        wrong, torch.stack([places.any() for *_, places in wrong]).tolist(), strict=True
    ):
        if applies:
            received = values[places].unique()[:5].tolist()
            raise ValueError(f"expected {name} {expected}, received {received} among them")


def can_read_values(tensor: torch.Tensor) -> bool:
    """Whether values of this tensor can be looked at here."""
    return not torch.compiler.is_compiling() and not tensor.is_meta


def outside(values: torch.Tensor, size: int) -> torch.Tensor:
    """Where integers are not in `range(size)`."""
    return (values < 0) | (values >= size)


def not_masks(**masks: torch.Tensor | None) -> list[tuple[str, str, torch.Tensor, torch.Tensor]]:
    """What [`check_values`] is to look for in masks: values other than 0 and 1, which booleans cannot hold."""
    return [
        (name, "of 0 and 1", mask, (mask != 0) & (mask != 1))
        for name, mask in masks.items()
        if mask is not None and mask.dtype != torch.bool
    ]


def check_images(config: MMETImageConfig, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False):
    """Raise `ValueError` unless `pixel_values` are images that the encoder reads."""
    check_shape("pixel_values", pixel_values, None, config.num_channels, None, None)
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


def choose_words(
    input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None
) -> tuple[torch.Tensor | None, str]:
    """Token ids or the embeddings in their place, and the argument's name; `ValueError` for both."""
    if input_ids is not None and inputs_embeds is not None:
        raise ValueError("expected input_ids or inputs_embeds, received both")
    return (input_ids, "input_ids") if inputs_embeds is None else (inputs_embeds, "inputs_embeds")


def check_captions(config: MMETTextConfig, words: torch.Tensor, attention_mask: torch.Tensor | None, name: str):
    """Raise `ValueError` unless words (of the argument `name`) and mask are what the text encoder reads."""
    if name == "inputs_embeds":
        check_shape(name, words, None, None, config.hidden_size)
        if not words.is_floating_point():
            raise ValueError(f"expected inputs_embeds of floats, received {words.dtype}")
    else:
        check_shape(name, words, None, None)
        check_integers(**{name: words})
    if words.shape[1] > config.max_position_embeddings:
        raise ValueError(
            f"expected at most max_position_embeddings={config.max_position_embeddings} tokens, "
            f"received {words.shape[1]}; ask the processor for truncation=True"
        )
    check_shape(f"the attention mask of {name}", attention_mask, *words.shape[:2])


def check_tokens(config: MMETTextConfig, words: torch.Tensor, attention_mask: torch.Tensor | None):
    """Raise `ValueError` unless token ids are of the vocabulary, and each caption has one that is no padding."""
    if not can_read_values(words):
        return
    wrong = []
    if not words.is_floating_point():
        wrong.append(("input_ids", f"in [0, {config.vocab_size})", words, outside(words, config.vocab_size)))
    if attention_mask is not None:
        wrong += not_masks(attention_mask=attention_mask)
        empty = ~attention_mask.bool().any(dim=1, keepdim=True).expand_as(attention_mask)
        wrong.append(("attention_mask", "with a 1 in each row (text_present: no text)", attention_mask, empty))
    check_values(*wrong)


# ---------------------------------------------------------------------------------------------------------------------
# Embeddings
# ---------------------------------------------------------------------------------------------------------------------


class MMETImageEmbeddings(nn.Module):
    """Overlapping patch projections, [CLS_I] and learned positions; masked patches become a learned [MASK]."""

    def __init__(self, config: MMETImageConfig):
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.position_embedding = nn.Parameter(torch.empty(1, 1 + config.num_patches, config.hidden_size))
        self.patch_embedding = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_stride
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def interpolate_position_embedding(self, rows: int, columns: int) -> torch.Tensor:
        """Position embeddings `(1, 1 + rows * columns, hidden_size)` for another grid, by bicubic interpolation."""
        cls_position, patch_positions = self.position_embedding.split([1, self.config.num_patches], dim=1)
        grid = patch_positions.unflatten(1, self.config.patch_grid).permute(0, 3, 1, 2)
        grid = F.interpolate(grid.float(), size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([cls_position, grid.to(cls_position.dtype).flatten(2).transpose(1, 2)], dim=1)

    def hide_pixels(self, pixel_values: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """Images with 0, the mean, under masked patches `(B, N)`: overlapping neighbours cannot read these pixels."""
        height, width = pixel_values.shape[-2:]
        masked = masked.float().unflatten(1, self.config.grid_of(height, width)).unsqueeze(1)
        patch = masked.new_ones(1, 1, self.config.patch_size, self.config.patch_size)
        covered = F.conv_transpose2d(masked, patch, stride=self.config.patch_stride) > 0
        covered = F.pad(covered, (0, width - covered.shape[-1], 0, height - covered.shape[-2]))
        return pixel_values.masked_fill(covered, 0)

    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> torch.Tensor:
        check_images(self.config, pixel_values, interpolate_pos_encoding)
        rows, columns = grid = self.config.grid_of(*pixel_values.shape[-2:])
        check_shape("bool_masked_pos", bool_masked_pos, pixel_values.shape[0], rows * columns)
        if bool_masked_pos is not None and self.config.hide_masked_pixels:
            pixel_values = self.hide_pixels(pixel_values, bool_masked_pos.bool())
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))  # (B, D, rows, columns)
        hidden_states = patches.flatten(2).transpose(1, 2)  # (B, N, D)
        if bool_masked_pos is not None:
            mask_token = self.mask_token.to(hidden_states.dtype)
            hidden_states = torch.where(bool_masked_pos.bool().unsqueeze(-1), mask_token, hidden_states)
        cls_token = self.cls_token.to(hidden_states.dtype).expand(hidden_states.shape[0], -1, -1)
        hidden_states = torch.cat([cls_token, hidden_states], dim=1)
        if grid == self.config.patch_grid:
            hidden_states = hidden_states + self.position_embedding
        else:
            hidden_states = hidden_states + self.interpolate_position_embedding(rows, columns)
        return self.dropout(hidden_states)


class MMETTextEmbeddings(nn.Module):
    """BERT's word and position embeddings with layer norm; a caption is one segment, so there are no token types."""

    def __init__(self, config: MMETTextConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embedding = nn.Parameter(torch.empty(1, config.max_position_embeddings, config.hidden_size))
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Token ids `(B, L)`, or embeddings in their place `(B, L, D)`, to states `(B, L, D)`."""
        embedded = words if words.is_floating_point() else self.token_embedding(words.long())
        hidden_states = embedded + self.position_embedding[:, : words.shape[1]]
        return self.dropout(self.layer_norm(hidden_states))


# ---------------------------------------------------------------------------------------------------------------------
# Transformer layers
# ---------------------------------------------------------------------------------------------------------------------


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention written out: `(B, heads, L, head_dim)` in, `(B, L, heads, head_dim)` and the weights out."""
    scores = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def recompute_norms_and_activations(forward: Callable) -> Callable:
    """
    Make the `forward` of a layer keep what its matrix products and attention return, for training, and nothing else.

    The backward pass computes norms, activations and sums again, which is cheap. Gradient checkpointing, which keeps
    less, takes the place of this where it is on; a compiled graph decides by itself what it keeps.
    """

    @functools.wraps(forward)
    def keeping_products(layer: GradientCheckpointingLayer, *args, **kwargs) -> torch.Tensor:
        if not layer.training or layer.gradient_checkpointing or torch.compiler.is_compiling():
            return forward(layer, *args, **kwargs)
        context = functools.partial(create_selective_checkpoint_contexts, _KEPT_OPERATORS)
        run = functools.partial(forward, layer, **kwargs)
        return checkpoint(run, *args, use_reentrant=False, context_fn=context)

    return keeping_products


class MMETAttention(nn.Module):
    """Multi-head self-attention with one matrix for queries, keys and values."""

    def __init__(self, config: MMETEncoderConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.dropout = config.attention_probs_dropout_prob
        self.is_causal = False
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        read_positions: Positions = ...,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """States `(B, L, D)` to those at `read_positions` and, where the implementation has them, the weights."""
        batch, length, _ = hidden_states.shape
        qkv = self.qkv_proj(hidden_states).view(batch, length, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, L, head_dim)
        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, weights = attention_interface(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.scaling,
            dropout=self.dropout if self.training else 0.0,
            **kwargs,
        )
        return self.out_proj(attended.reshape(batch, length, -1)[read_positions]), weights


class MMETMLP(nn.Module):
    """Two linear layers around the activation."""

    def __init__(self, config: MMETEncoderConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class MMETLayer(GradientCheckpointingLayer):
    """A pre-norm transformer layer: norm, sublayer, add, twice."""

    def __init__(self, config: MMETEncoderConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = MMETAttention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MMETMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    @recompute_norms_and_activations
    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        read_positions: Positions = ...,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attended, _ = self.attention(self.attention_norm(hidden_states), attention_mask, read_positions, **kwargs)
        hidden_states = hidden_states[read_positions] + self.dropout(attended)
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))


class MMETTransformer(nn.Module):
    """The layers and the final layer norm that the three encoders have in common."""

    def __init__(self, config: MMETEncoderConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList([MMETLayer(config) for _ in range(config.num_hidden_layers)])
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        read_positions: Positions = ...,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMETEncoderOutput:
        """
        Args:
            hidden_states: `(B, L, D)`.
            attention_mask: `(B, L)`, 1 where attention may look, 0 for padding and absent modalities.
            read_positions: Index of the final states that are read, into `(B, L)`: a boolean mask, or `CLASS_TOKEN`
                for `(B, D)`. The last layer, whose other states nobody looks at, then leaves out their projection and
                MLP. All states by default.

        Returns:
            Final states `(B, L, D)[read_positions]`; `pooler_output` is `None` where a mask reads states.
        """
        attention_mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask
        )
        for layer in self.layers[:-1]:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        # Recorded hidden states are whole: the selection then comes after the last layer.
        records = kwargs.get("output_hidden_states", self.config.output_hidden_states)
        in_layer, after_layer = (..., read_positions) if records else (read_positions, ...)
        hidden_states = self.layers[-1](hidden_states, attention_mask, in_layer, **kwargs)[after_layer]
        normed = self.final_norm(hidden_states)
        output = MMETEncoderOutput(last_hidden_state=normed, pre_norm_hidden_state=hidden_states)
        if not isinstance(read_positions, torch.Tensor):
            output.pooler_output = normed[:, 0] if normed.dim() == 3 else normed
        return output


# ---------------------------------------------------------------------------------------------------------------------
# Image codebook
# ---------------------------------------------------------------------------------------------------------------------


class MMETImageCodebook(nn.Module):
    """
    The codebook of `codebook_type="kmeans"`: a patch's code is the nearest of K centroids of patch descriptors.

    A patch is described by the mean colours of its `codebook_cell`-pixel cells. The centroids are fitted once on
    training images (`mmet.training.codebook.fit_codebook`) and stored with the checkpoint, so nothing has to be
    downloaded.
    """

    centroids: torch.Tensor

    def __init__(self, config: MMETConfig):
        super().__init__()
        self.cell = config.codebook_cell
        self.set_patches(config.image_config)
        self.descriptor_size = config.image_config.num_channels * self.cells_per_patch**2
        self.register_buffer("centroids", torch.zeros(config.codebook_size, self.descriptor_size))

    def set_patches(self, image_config: MMETImageConfig):
        """Read patches of this geometry from now on; `patch_size` cannot change."""
        self.cells_per_patch = image_config.patch_size // self.cell
        self.cells_per_stride = image_config.patch_stride // self.cell

    @property
    def is_fitted(self) -> bool:
        """Whether centroids were fitted (a new codebook holds zeros alone)."""
        return bool(self.centroids.any())

    def describe(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Descriptors `(B, N, descriptor_size)` of the patches of normalised images `(B, C, H, W)`, in float32."""
        cells = F.avg_pool2d(pixel_values.float(), self.cell)
        return F.unfold(cells, self.cells_per_patch, stride=self.cells_per_stride).transpose(1, 2)

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor, bool_masked_pos: torch.BoolTensor | None = None) -> torch.LongTensor:
        """
        Codes of the patches of normalised images `(B, C, H, W)`: the centroid at the smallest Euclidean distance, the
        first of several at the same.

        Args:
            bool_masked_pos: `(B, N)`, True where a code is wanted; everywhere when not given.

        Returns:
            Codes `(B, N)`, or `(num_masked,)` in the row-major order of `bool_masked_pos`.

        Raises:
            ValueError: before there are centroids.
        """
        check_codebook_is_fitted(self, "fit it on training images with mmet.training.codebook.fit_codebook")
        with torch.autocast(pixel_values.device.type, enabled=False):
            descriptors = self.describe(pixel_values)
            if bool_masked_pos is None:
                return nearest_centroids(descriptors.flatten(0, 1), self.centroids).unflatten(0, descriptors.shape[:2])
            return nearest_centroids(descriptors[bool_masked_pos], self.centroids)


def nearest_centroids(descriptors: torch.Tensor, centroids: torch.Tensor) -> torch.LongTensor:
    """
    For each descriptor `(M, D)` the row of `centroids` `(K, D)` nearest to it `(M,)`; the first where several are.

    In float64, where there is such a thing: in float32 the rounding of |c|^2 - 2 d.c exceeds the difference between
    two nearly equal distances. Distances that differ by rounding alone count as the same.
    """
    dtype = torch.float32 if descriptors.device.type == "mps" else torch.float64
    centroids = centroids.to(dtype)
    half_norms = centroids.square().sum(dim=-1) / 2
    codes = []
    for part in descriptors.split(max(1, _SCORES_AT_ONCE // len(centroids))):
        part = part.to(dtype)
        # argmin |d - c|^2 = argmax d.c - |c|^2 / 2
        scores = torch.addmm(-half_norms, part, centroids.T)
        rounding = 64 * torch.finfo(dtype).eps * (part.square().sum(dim=-1, keepdim=True) + half_norms.amax())
        nearest = scores >= scores.amax(dim=-1, keepdim=True) - rounding
        codes.append(nearest.int().argmax(dim=-1))  # the first True
    return torch.cat(codes)


class MMETDalleCodebook(nn.Module):
    """
    The codebook of `codebook_type="dalle"`: the codes of DALL-E's encoder, which FLAVA's masked patches have too.

    The network (transformers' `FlavaImageCodebook`) gives one code for every 8x8 pixels of what it reads. The image is
    cut and resized so that these are the patches: the code of a patch is that of the `patch_stride` x `patch_stride`
    pixels in its middle, which do not overlap. The weights are frozen and stored with the checkpoint; a new codebook
    has none before `load`.
    """

    def __init__(self, config: MMETConfig):
        super().__init__()
        self.sizes = config.dalle_sizes
        self.image_mean, self.image_std = config.codebook_image_mean, config.codebook_image_deviation
        self.set_patches(config.image_config)
        # The network without its wrapper: inside a model there is one PreTrainedModel that initialises and loads.
        self.blocks = transformers.FlavaImageCodebook(transformers.FlavaImageCodebookConfig(**self.sizes)).blocks
        self.requires_grad_(False)
        for parameter in self.parameters():
            init.zeros_(parameter)

    def set_patches(self, image_config: MMETImageConfig):
        """Read patches of this geometry from now on."""
        self.patch_size, self.patch_stride = image_config.patch_size, image_config.patch_stride

    def train(self, mode: bool = True) -> "MMETDalleCodebook":
        """As in the base class. The network is no part of training: loading a checkpoint unfreezes what it loads."""
        return super().train(mode).requires_grad_(False)

    @property
    def is_fitted(self) -> bool:
        """Whether there are weights (a new codebook holds zeros alone)."""
        return bool(self.blocks.output.conv.weight.any())

    @torch.no_grad()
    def load(self, model_or_name: PreTrainedModel | str | os.PathLike, **kwargs):
        """
        Take the weights of a transformers `FlavaImageCodebook`, or of the Hub name or local folder of one.

        Args:
            kwargs: To `from_pretrained` with a name (`revision`, `local_files_only`, ...).

        Raises:
            OSError: when there is nothing to load under that name.
            ValueError: for weights of something else, or a network of other sizes than `codebook_config` says.
        """
        source = model_or_name
        if isinstance(source, (str, os.PathLike)):
            source = self._load_network(source, kwargs)
        received = {name: getattr(source.config, name) for name in self.sizes}
        received["num_groups"] = self.sizes["num_groups"]  # the network has four, whatever it says
        if received != self.sizes:
            raise ValueError(f"expected a codebook network with codebook_config={self.sizes}, received {received}")
        self.blocks.load_state_dict(source.blocks.state_dict())

    @staticmethod
    def _load_network(name: str | os.PathLike, kwargs: dict) -> PreTrainedModel:
        """The `FlavaImageCodebook` of a Hub name or folder; errors as in `load`."""
        try:
            source, loading = transformers.FlavaImageCodebook.from_pretrained(name, output_loading_info=True, **kwargs)
        except OSError as error:
            raise OSError(
                f"the image codebook {str(name)!r} (codebook_name_or_path) cannot be loaded; give a folder that a "
                f"FlavaImageCodebook was saved to, or choose codebook_type='kmeans', which needs none: {error}"
            ) from error
        if loading["missing_keys"] or loading["mismatched_keys"]:
            raise ValueError(f"{str(name)!r} (codebook_name_or_path) is not the checkpoint of a FlavaImageCodebook")
        return source

    def network_pixels(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        What the network reads, `(B, C, 8 * rows, 8 * columns)`: the middles of the patches of normalised images
        `(B, C, H, W)`, side by side, with pixels from 0 to 1 mapped to 0.1 to 0.9 (as `FlavaImageProcessor` does).
        """
        patch, stride = self.patch_size, self.patch_stride
        rows, columns = ((side - patch) // stride + 1 for side in pixel_values.shape[-2:])
        start = (patch - stride) // 2
        pixels = pixel_values[..., start : start + rows * stride, start : start + columns * stride].float()
        mean, std = (pixels.new_tensor(value)[:, None, None] for value in (self.image_mean, self.image_std))
        pixels = pixels * std + mean
        size = (8 * rows, 8 * columns)
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True)
        return 0.8 * pixels.clamp(0, 1) + 0.1

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor, bool_masked_pos: torch.BoolTensor | None = None) -> torch.LongTensor:
        """As in [`MMETImageCodebook`]: codes `(B, N)`, or `(num_masked,)` of the masked patches alone."""
        check_codebook_is_fitted(self, "load its weights with model.image_codebook.load(config.codebook_name_or_path)")
        if bool_masked_pos is not None:
            has_masked = bool_masked_pos.any(dim=1)  # no picture is read for nothing
            pixel_values, bool_masked_pos = pixel_values[has_masked], bool_masked_pos[has_masked]
            if not len(pixel_values):
                return torch.empty(0, dtype=torch.long, device=pixel_values.device)
        dtype = self.blocks.output.conv.weight.dtype
        with torch.autocast(pixel_values.device.type, enabled=False):
            codes = [
                self.blocks(self.network_pixels(part).to(dtype)).argmax(dim=1).flatten(1)
                for part in pixel_values.split(_DALLE_IMAGES_AT_ONCE)
            ]
        return torch.cat(codes) if bool_masked_pos is None else torch.cat(codes)[bool_masked_pos]


def check_codebook_is_fitted(codebook: nn.Module, remedy: str):
    """Raise `ValueError` that says what to do where a codebook has no codes to give yet."""
    if not torch.compiler.is_compiling() and not codebook.is_fitted:
        raise ValueError(
            f"the image codebook has no codes yet: {remedy}, pass mim_labels, or set mim_weight and mmm_image_weight "
            "to 0"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Pretrained base and the three encoders
# ---------------------------------------------------------------------------------------------------------------------


class MMETPreTrainedModel(PreTrainedModel):
    """Weights initialisation, loading and saving for all MMET models."""

    config: MMETConfig
    base_model_prefix = "mmet"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _no_split_modules = ["MMETImageEmbeddings", "MMETTextEmbeddings", "MMETLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": MMETLayer, "attentions": MMETAttention}  # noqa: RUF012
    _auto_classes = {"AutoModel": None}  # noqa: RUF012
    """Auto class -> model class (None: this one) that a saved folder answers with, see `save_pretrained`."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        std = self.config.initializer_range
        if std is None and isinstance(module, (nn.Linear, nn.Conv2d)):
            fan_out, fan_in = module.weight.shape[0], module.weight[0].numel()
            bound = math.sqrt(6 / (fan_in + fan_out))  # Xavier; a convolution counts as the linear map of one patch
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif std is None and isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=module.embedding_dim**-0.5)
            if module.padding_idx is not None and not getattr(module.weight, "_is_hf_initialized", False):
                init.zeros_(module.weight[module.padding_idx])  # as transformers does for the normal initialisation
        else:
            super()._init_weights(module)
        if isinstance(module, (MMETImageEmbeddings, MMETTextEmbeddings, MMETMultimodalModel)):
            for name, parameter in module.named_parameters(recurse=False):
                if name == "mask_token":
                    init.zeros_(parameter)  # a hidden patch is its position and no content (as in FLAVA)
                else:
                    init.normal_(parameter, std=self._token_std(name, parameter.shape[-1]))
        elif isinstance(module, MMETModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
        elif isinstance(module, MMETImageCodebook):
            init.zeros_(module.centroids)
        elif isinstance(module, MMETDalleCodebook):
            for parameter in module.parameters():
                init.zeros_(parameter)
        elif isinstance(module, MMETTokenPredictionHead):
            init.zeros_(module.bias)

    def _token_std(self, name: str, hidden_size: int) -> float:
        """Standard deviation of a class token or of position embeddings, by the parameter's name."""
        config = self.config
        std = config.class_token_initializer_range if name == "cls_token" else config.position_initializer_range
        fallback = config.initializer_range if config.initializer_range is not None else hidden_size**-0.5
        return std if std is not None else fallback

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in the base class; the folder also says which classes its own code offers to the Auto classes."""
        self.config.auto_map = {"AutoConfig": f"configuration_mmet.{type(self.config).__name__}"} | {
            auto_class: f"modeling_mmet.{name or type(self).__name__}"
            for auto_class, name in self._auto_classes.items()
        }
        return super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, use_safetensors: bool | None = None, **kwargs):
        """
        As in the base class, from safetensors alone: reading a pickle may run code of whoever wrote it.

        Raises:
            ValueError: for a folder with other weights alone, or `use_safetensors=False`.
        """
        cls._check_safe_weights(pretrained_model_name_or_path, use_safetensors)
        return super().from_pretrained(pretrained_model_name_or_path, *args, use_safetensors=True, **kwargs)

    @staticmethod
    def _check_safe_weights(name_or_path: str | os.PathLike | None, use_safetensors: bool | None):
        """Raise `ValueError` where weights would have to be read from something else than safetensors."""
        expected = "weights are read as safetensors alone, for other formats can run code"
        if use_safetensors is False:
            raise ValueError(f"{expected}: leave out use_safetensors=False")
        folder = Path(name_or_path) if name_or_path is not None else None
        if folder is None or not folder.is_dir() or any(folder.rglob("*.safetensors")):
            return
        pickles = sorted(
            path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern)
        )
        if pickles:
            raise ValueError(
                f"{expected}: expected model.safetensors in {folder}, received {', '.join(pickles)}; save the model "
                "again with save_pretrained where you trust these files"
            )

    def _resize_token_embeddings(
        self, new_num_tokens: int | None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """The step of `resize_token_embeddings` that replaces weights; `ValueError` without a text encoder."""
        if not isinstance(self.config, (MMETConfig, MMETTextConfig)):
            raise ValueError(f"{type(self).__name__} has no text encoder, so there are no token embeddings to resize")
        return super()._resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)

    @torch.no_grad()
    def resize_image(
        self, image_size: int | tuple[int, int], patch_stride: int | None = None
    ) -> "MMETPreTrainedModel":
        """
        Fit the image encoder to another image size or patch stride, in place; before an optimizer is made.

        The position embeddings are interpolated bicubically to the new patch grid and the configuration says so from
        then on: what is saved is a model of the new geometry. `interpolate_pos_encoding=True` does the same for one
        call and leaves the model as it is.

        Args:
            image_size: New (height, width) in pixels, or the side of a square.
            patch_stride: New distance between neighbouring patches; as it was when not given.

        Returns:
            The model itself.

        Raises:
            ValueError: for a model without an image encoder, or a geometry the configuration refuses.
        """
        modules = list(self.modules())
        embeddings = next((module for module in modules if isinstance(module, MMETImageEmbeddings)), None)
        if embeddings is None:
            raise ValueError(f"{type(self).__name__} has no image encoder to resize")
        geometry = {
            "image_size": [image_size, image_size] if isinstance(image_size, int) else list(image_size),
            "patch_stride": embeddings.config.patch_stride if patch_stride is None else patch_stride,
        }
        resized = copy.deepcopy(self.config)
        image_config = resized if isinstance(resized, MMETImageConfig) else resized.image_config
        image_config.update(geometry)
        try:
            image_config.validate()
            resized.validate()
        except StrictDataclassClassValidationError as error:  # nothing was changed yet
            raise ValueError(str(error.__cause__)) from error
        positions = embeddings.position_embedding
        if image_config.patch_grid != embeddings.config.patch_grid:
            positions = nn.Parameter(
                embeddings.interpolate_position_embedding(*image_config.patch_grid), positions.requires_grad
            )
            embeddings.position_embedding = positions
        embeddings.patch_embedding.stride = (image_config.patch_stride, image_config.patch_stride)
        configs = [getattr(module, "config", None) for module in modules]  # the whole ones, or the image encoder's own
        for config in (getattr(config, "image_config", config) for config in configs):
            if isinstance(config, MMETImageConfig):
                config.update(geometry)
        for module in modules:
            if isinstance(module, (MMETImageCodebook, MMETDalleCodebook)):
                module.set_patches(image_config)
        return self


class MMETImageModel(MMETPreTrainedModel):
    """The image encoder: a vision transformer with [CLS_I] over overlapping patches (section 3.2)."""

    config: MMETImageConfig
    base_model_prefix = "image_model"
    input_modalities = ("image",)
    _input_embed_layer = "patch_embedding"

    def __init__(self, config: MMETImageConfig):
        super().__init__(config)
        self.embeddings = MMETImageEmbeddings(config)
        self.encoder = MMETTransformer(config)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        bool_masked_pos: torch.BoolTensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMETEncoderOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`): Normalised images.
            bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, num_patches)`, *optional*): True where a patch
                is hidden.
            interpolate_pos_encoding: Whether images of another size than `config.image_size` are accepted.
        """
        if bool_masked_pos is not None and can_read_values(bool_masked_pos):
            check_values(*not_masks(bool_masked_pos=bool_masked_pos))
        hidden_states = self.embeddings(pixel_values, bool_masked_pos, interpolate_pos_encoding)
        return self.encoder(hidden_states, **kwargs)


class MMETTextModel(MMETPreTrainedModel):
    """The text encoder: BERT's embeddings under the image encoder's architecture (section 3.2)."""

    config: MMETTextConfig
    base_model_prefix = "text_model"
    main_input_name = "input_ids"
    input_modalities = ("text",)
    _input_embed_layer = "token_embedding"

    def __init__(self, config: MMETTextConfig):
        super().__init__(config)
        self.embeddings = MMETTextEmbeddings(config)
        self.encoder = MMETTransformer(config)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMETEncoderOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*): Tokens; [CLS_T] is the
                first.
            attention_mask (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*): 1 for tokens, 0 for
                padding.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, text_length, hidden_size)`, *optional*): Word
                embeddings in the place of `input_ids`, as `get_input_embeddings()` gives them: without positions.
        """
        words, name = choose_words(input_ids, inputs_embeds)
        if words is None:
            raise ValueError("expected input_ids or inputs_embeds, received neither")
        check_captions(self.config, words, attention_mask, name)
        check_tokens(self.config, words, attention_mask)
        return self.encoder(self.embeddings(words), attention_mask, **kwargs)


class MMETMultimodalModel(MMETPreTrainedModel):
    """The multimodal encoder: self-attention over [CLS_M] and the projected image and text states (section 3.2)."""

    config: MMETMultimodalConfig
    base_model_prefix = "multimodal_model"
    main_input_name = "hidden_states"

    def __init__(self, config: MMETMultimodalConfig):
        super().__init__(config)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.encoder = MMETTransformer(config)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        hidden_states: torch.FloatTensor,
        attention_mask: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMETEncoderOutput:
        r"""
        Args:
            hidden_states (`torch.FloatTensor` of shape `(batch_size, length, hidden_size)`): Projected states,
                without [CLS_M].
            attention_mask (`torch.LongTensor` of shape `(batch_size, length)`, *optional*): 1 for states that are
                there.
        """
        check_shape("hidden_states", hidden_states, None, None, self.config.hidden_size)
        check_shape("attention_mask", attention_mask, *hidden_states.shape[:2])
        if attention_mask is not None and can_read_values(attention_mask):
            check_values(*not_masks(attention_mask=attention_mask))
        cls_token = self.cls_token.to(hidden_states.dtype).expand(hidden_states.shape[0], -1, -1)
        hidden_states = torch.cat([cls_token, hidden_states], dim=1)
        if attention_mask is not None:
            attention_mask = F.pad(attention_mask, (1, 0), value=1)  # [CLS_M] is always there
        return self.encoder(hidden_states, attention_mask, **kwargs)


# ---------------------------------------------------------------------------------------------------------------------
# The model
# ---------------------------------------------------------------------------------------------------------------------


class MMETCompositeModel(MMETPreTrainedModel):
    """What the models of a whole [`MMETConfig`] have in common: where they start from and the word embeddings."""

    config: MMETConfig

    def get_input_embeddings(self) -> nn.Module:
        return self.base_model.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.base_model.text_model.set_input_embeddings(value)

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.FloatTensor,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        Images for contrastive use: `pooler_output` is the projected [CLS_I] `(batch_size, projection_dim)`, not
        normalised; the rest is the image encoder's.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`): Normalised images.
            interpolate_pos_encoding: Whether images of another size than configured are accepted.
        """
        kwargs |= {"interpolate_pos_encoding": interpolate_pos_encoding, "return_dict": True}
        output = self.base_model.image_model(pixel_values, **kwargs)
        return output.as_features(self.base_model.image_projection(output.pooler_output))

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        Captions for contrastive use: `pooler_output` is the projected [CLS_T] `(batch_size, projection_dim)`, not
        normalised; the rest is the text encoder's.

        Args:
            input_ids, attention_mask, inputs_embeds: As in [`MMETTextModel`].
        """
        kwargs |= {"inputs_embeds": inputs_embeds, "return_dict": True}
        output = self.base_model.text_model(input_ids, attention_mask, **kwargs)
        return output.as_features(self.base_model.text_projection(output.pooler_output))

    @can_return_tuple
    def get_multimodal_features(
        self,
        pixel_values: torch.FloatTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        image_present: torch.BoolTensor | None = None,
        text_present: torch.BoolTensor | None = None,
        interpolate_pos_encoding: bool = False,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        """
        Whatever modalities are there: `pooler_output` is h_CLS,M `(batch_size, hidden_size)`, the rest is the
        multimodal encoder's. Arguments as in [`MMETModel`].
        """
        output = self.base_model(
            pixel_values=pixel_values,
            input_ids=input_ids,
            attention_mask=attention_mask,
            image_present=image_present,
            text_present=text_present,
            interpolate_pos_encoding=interpolate_pos_encoding,
            inputs_embeds=inputs_embeds,
            **kwargs,
            return_dict=True,
        ).multimodal_output
        return output.as_features(output.pooler_output)

    def _records_states(self, **kwargs) -> bool:
        """Whether hidden states or attentions are asked for, by an argument or the configuration of an encoder."""
        encoders = (self.base_model.image_model, self.base_model.text_model, self.base_model.multimodal_model)
        return any(
            kwargs.get(name, getattr(encoder.config, name))
            for name in ("output_hidden_states", "output_attentions")
            for encoder in encoders
        )


class MMETModel(MMETCompositeModel):
    """
    The three encoders together. Any non-empty subset of {image, text} may be given, also sample by sample.

    Each encoder runs on the samples that have its modality, so an absent one costs nothing and its content never
    reaches an output or a gradient. A modality that no sample of the batch has counts as not given.
    """

    base_model_prefix = "mmet"
    _auto_classes = {"AutoModel": None, "AutoModelForPreTraining": "MMETForPreTraining"}  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = [_PRETRAINING_KEYS, r"^identity_head\."]  # noqa: RUF012

    def __init__(self, config: MMETConfig):
        super().__init__(config)
        image_config, text_config, multimodal_config = (
            config.image_config,
            config.text_config,
            config.multimodal_config,
        )
        self.image_model = MMETImageModel._from_config(image_config)
        self.text_model = MMETTextModel._from_config(text_config)
        self.multimodal_model = MMETMultimodalModel._from_config(multimodal_config)
        self.image_to_multimodal = nn.Linear(image_config.hidden_size, multimodal_config.hidden_size)
        self.text_to_multimodal = nn.Linear(text_config.hidden_size, multimodal_config.hidden_size)
        self.image_projection = nn.Linear(image_config.hidden_size, config.projection_dim)
        self.text_projection = nn.Linear(text_config.hidden_size, config.projection_dim)
        # Of one dimension, as SigLIP's: FSDP 2 shards no scalars.
        self.logit_scale = nn.Parameter(torch.tensor([float(config.logit_scale_init_value)]))
        self.post_init()

    def encode_images(
        self,
        pixel_values: torch.FloatTensor | None,
        bool_masked_pos: torch.BoolTensor | None = None,
        image_present: torch.BoolTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMETEncoderOutput | None:
        """The image encoder's output, as if it had read the whole batch: zeros for absent images, `None` for none."""
        return encode_present(self.image_model, image_present, pixel_values, bool_masked_pos, **kwargs)

    def encode_texts(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.LongTensor | None = None,
        text_present: torch.BoolTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMETEncoderOutput | None:
        """
        The text encoder's output, as if it had read the whole batch: zeros for absent texts, `None` for none.

        `input_ids` are token ids `(B, L)` or embeddings in their place `(B, L, D)`.
        """

        def encoder(words, attention_mask, **kwargs):
            name = "inputs_embeds" if words.is_floating_point() else "input_ids"
            return self.text_model(**{name: words}, attention_mask=attention_mask, **kwargs)

        return encode_present(encoder, text_present, input_ids, attention_mask, **kwargs)

    def fuse(
        self,
        image_states: torch.FloatTensor | None = None,
        text_states: torch.FloatTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        image_present: torch.BoolTensor | None = None,
        text_present: torch.BoolTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMETEncoderOutput:
        """
        Run the multimodal encoder on the encoders' `pre_norm_hidden_state`s; shapes and masks as in `forward`.

        Raises:
            ValueError: when neither modality is given.
        """
        if image_states is None and text_states is None:
            raise ValueError("no modality at all: give image_states, text_states or both")
        states, masks = [], []
        for given, projection, mask, present in (
            (image_states, self.image_to_multimodal, None, image_present),
            (text_states, self.text_to_multimodal, attention_mask, text_present),
        ):
            if given is None:
                continue
            projected = projection(given)
            if present is not None:
                present = present.bool()[:, None]
                # Zeroed as well as hidden: 0 * NaN in the attention sum would let a broken absent input through.
                projected = projected.masked_fill(~present.unsqueeze(-1), 0)
                mask = present.expand(projected.shape[:2]) if mask is None else mask.bool() & present
            states.append(projected)
            masks.append(mask)
        return self.multimodal_model(
            torch.cat(states, dim=1), self._join_masks(masks, states), **kwargs, return_dict=True
        )

    @staticmethod
    def _join_masks(masks: list[torch.Tensor | None], states: list[torch.Tensor]) -> torch.Tensor | None:
        """Masks `(B, L_i)` of states `(B, L_i, D)` side by side, where `None` hides nothing; `None` for no mask."""
        if all(mask is None for mask in masks):
            return None
        return torch.cat(
            [
                torch.ones(part.shape[:2], dtype=torch.bool, device=part.device) if mask is None else mask.bool()
                for mask, part in zip(masks, states, strict=True)
            ],
            dim=1,
        )

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.FloatTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        bool_masked_pos: torch.BoolTensor | None = None,
        image_present: torch.BoolTensor | None = None,
        text_present: torch.BoolTensor | None = None,
        interpolate_pos_encoding: bool = False,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMETModelOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`, *optional*):
                Normalised images.
            input_ids (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*): Caption tokens.
            attention_mask (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*): 1 for tokens, 0 for
                padding.
            bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, num_patches)`, *optional*): True where a patch
                is hidden.
            image_present, text_present (`torch.BoolTensor` of shape `(batch_size,)`, *optional*):
                Which samples have an image, a text; all of them when not given.
            interpolate_pos_encoding: Whether images of another size than configured are accepted.
            inputs_embeds: Word embeddings in the place of `input_ids`, as in [`MMETTextModel`].

        Raises:
            ValueError: when there is no modality at all, for the batch or for a sample, or an input has another shape,
                dtype or values than it says above.
        """
        words, name = choose_words(input_ids, inputs_embeds)
        captions = ((words, attention_mask, name),)
        check_modalities(self.config, pixel_values, captions, image_present, text_present, interpolate_pos_encoding)
        image_output = self.encode_images(
            pixel_values, bool_masked_pos, image_present, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs
        )
        text_output = self.encode_texts(words, attention_mask, text_present, **kwargs)
        multimodal_output = self.fuse(
            states_of(image_output),
            states_of(text_output),
            attention_mask,
            image_present,
            text_present,
            **kwargs,
        )
        return MMETModelOutput(
            image_embeds=image_output.last_hidden_state if image_output is not None else None,
            text_embeds=text_output.last_hidden_state if text_output is not None else None,
            multimodal_embeds=multimodal_output.last_hidden_state,
            image_output=image_output,
            text_output=text_output,
            multimodal_output=multimodal_output,
        )


def check_modalities(
    config: MMETConfig,
    pixel_values: torch.Tensor | None,
    captions: tuple[tuple[torch.Tensor | None, torch.Tensor | None, str], ...],
    image_present: torch.Tensor | None,
    text_present: torch.Tensor | None,
    interpolate_pos_encoding: bool = False,
) -> int:
    """
    The number of samples of a batch.

    Args:
        captions: Token ids or embeddings, their attention mask and their argument's name, for each kind of captions.

    Raises:
        ValueError: for inputs of other shapes than the encoders read, no sample, inputs of several batches, or a
            sample with neither image nor text.
    """
    inputs = {"pixel_values": pixel_values} | {name: words for words, _, name in captions}
    inputs = {name: value for name, value in inputs.items() if value is not None}
    if not inputs:
        raise ValueError("no modality at all: give pixel_values, input_ids or both")
    if any(value.numel() == 0 for value in inputs.values()):
        shapes = {name: tuple(value.shape) for name, value in inputs.items()}
        raise ValueError(f"expected at least one sample, received an empty batch: {shapes}")
    if pixel_values is not None:
        check_images(config.image_config, pixel_values, interpolate_pos_encoding)
    for words, attention_mask, name in captions:
        if words is not None:
            check_captions(config.text_config, words, attention_mask, name)
    batch_size = next(iter(inputs.values())).shape[0]
    if any(value.shape[0] != batch_size for value in inputs.values()):
        sizes = {name: value.shape[0] for name, value in inputs.items()}
        raise ValueError(f"expected inputs of one batch, received {sizes} samples")
    check_shape("image_present", image_present, batch_size)
    check_shape("text_present", text_present, batch_size)
    given = {"image_present": image_present} if pixel_values is not None else {}
    given |= {"text_present": text_present} if len(inputs) > len(given) else {}
    check_presence(**given)
    return batch_size


def check_presence(**present: torch.Tensor | None):
    """Raise `ValueError` unless each sample has one of the modalities given, by their `(B,)` masks (`None`: all)."""
    masks = [mask for mask in present.values() if mask is not None]
    if not masks or not can_read_values(masks[0]):
        return
    check_values(*not_masks(**present))
    if len(masks) < len(present):
        return
    neither = (~torch.stack([mask.bool() for mask in masks]).any(dim=0)).nonzero().flatten().tolist()
    if neither:
        raise ValueError(f"samples {neither} have neither an image nor a text (image_present, text_present)")


def encode_present(
    encoder: MMETPreTrainedModel, present: torch.Tensor | None, *inputs: torch.Tensor | None, **kwargs
) -> MMETEncoderOutput | None:
    """
    `encoder(*inputs, **kwargs)`, run on the samples that are present alone.

    A compiled or exported graph cannot depend on how many these are: there the encoder reads all samples, with
    neutral inputs for the absent ones.

    Args:
        encoder: Image or text encoder.
        present: `(B,)` booleans; `None` when all samples are present.
        inputs: The encoder's inputs, `B` rows each, the first of them `None` when the modality was not given.

    Returns:
        The output for all `B` samples, with zeros where nothing was encoded; `None` when no sample is present.
    """
    if inputs[0] is None:
        return None
    if present is None:
        return encoder(*inputs, **kwargs, return_dict=True)
    present = present.bool()
    if torch.compiler.is_compiling():
        # Ones in the masks: attention must have something to look at.
        neutral = [_fill_rows(value, ~present, 0 if place == 0 else 1) for place, value in enumerate(inputs)]
        output = encoder(*neutral, **kwargs, return_dict=True)
        return MMETEncoderOutput(**{name: _fill_rows(value, ~present, 0) for name, value in output.items()})
    rows = present.nonzero().flatten()
    if len(rows) == len(present):
        return encoder(*inputs, **kwargs, return_dict=True)
    if not len(rows):
        return None
    output = encoder(*(given if given is None else given[rows] for given in inputs), **kwargs, return_dict=True)
    return MMETEncoderOutput(**{name: _put_rows(value, rows, len(present)) for name, value in output.items()})


def _fill_rows(value: torch.Tensor | tuple | None, rows: torch.Tensor, fill: int):
    """A batch `(B, ...)`, or each tensor of a tuple, with `fill` where `rows` `(B,)` is True."""
    if isinstance(value, tuple):
        return tuple(_fill_rows(item, rows, fill) for item in value)
    return value if value is None else value.masked_fill(rows.reshape(-1, *[1] * (value.dim() - 1)), fill)


def _put_rows(value: torch.Tensor | int | None, rows: torch.Tensor, batch_size: int):
    """Rows `(M, ...)` of a batch, or of each tensor of a tuple, at their places among `batch_size` rows of zeros."""
    if isinstance(value, tuple):
        return tuple(_put_rows(item, rows, batch_size) for item in value)
    return value if value is None else value.new_zeros(batch_size, *value.shape[1:]).index_copy(0, rows, value)


def states_of(output: MMETEncoderOutput | None) -> torch.Tensor | None:
    """The states of an encoder that the multimodal encoder reads; `None` where the encoder did not run."""
    return None if output is None else output.pre_norm_hidden_state


def cut_padding(
    attention_mask: torch.Tensor | None, input_ids: torch.Tensor | None, mlm_labels: torch.Tensor | None = None
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """
    The same captions `(B, L')` without the columns behind the last token, or label, of the whole batch.

    They change no other state and would cost as much as tokens do. A compiled graph keeps them: its shapes stay fixed.
    """
    if attention_mask is None or input_ids is None or torch.compiler.is_compiling():
        return attention_mask, input_ids, mlm_labels
    read = attention_mask.bool() if mlm_labels is None else attention_mask.bool() | (mlm_labels != IGNORE_INDEX)
    length = int((read.any(dim=0) * torch.arange(1, read.shape[1] + 1, device=read.device)).amax())
    length = length or read.shape[1]  # a mask without any token hides nothing that could be told from padding
    cut = [value if value is None else value[:, :length] for value in (attention_mask, input_ids, mlm_labels)]
    return cut[0], cut[1], cut[2]


def check_targets(config: MMETConfig, batch: "MMETPreTrainingBatch", batch_size: int):
    """Raise `ValueError` unless masks and labels fit what they belong to, and hold classes that exist."""
    bool_masked_pos = mim_labels = mlm_labels = None
    if batch.pixel_values is not None:
        bool_masked_pos, mim_labels = batch.bool_masked_pos, batch.mim_labels
        rows, columns = config.image_config.grid_of(*batch.pixel_values.shape[-2:])
        check_shape("bool_masked_pos", bool_masked_pos, batch_size, rows * columns)
        check_shape("mim_labels", mim_labels, batch_size, rows * columns)
    if batch.input_ids_masked is not None:
        mlm_labels = batch.mlm_labels
        check_shape("mlm_labels", mlm_labels, *batch.input_ids_masked.shape)
    check_integers(mim_labels=mim_labels, mlm_labels=mlm_labels)
    sample_labels = {name: getattr(batch, name) for name in ("itm_labels", "person_labels", "person_ids")}
    check_sample_labels(batch_size, **sample_labels)
    targets = (bool_masked_pos, mim_labels, mlm_labels, batch.itm_labels, batch.person_labels)
    first = next((value for value in targets if value is not None), None)
    if first is None or not can_read_values(first):
        return
    wrong = not_masks(bool_masked_pos=bool_masked_pos)
    wrong += not_classes("mlm_labels", mlm_labels, config.text_config.vocab_size)
    wrong += not_classes("itm_labels", batch.itm_labels, 2)
    wrong += not_classes("person_labels", batch.person_labels, config.num_identities)
    if mim_labels is not None and bool_masked_pos is not None:
        expected = f"in [0, {config.codebook_size}) where masked"
        wrong.append(
            ("mim_labels", expected, mim_labels, outside(mim_labels, config.codebook_size) & bool_masked_pos.bool())
        )
    check_values(*wrong)


def check_sample_labels(batch_size: int, **labels: torch.Tensor | None):
    """Raise `ValueError` unless labels, where given, are integers `(B,)`."""
    check_integers(**labels)
    for name, value in labels.items():
        check_shape(name, value, batch_size)


def not_classes(
    name: str, labels: torch.Tensor | None, num_classes: int
) -> list[tuple[str, str, torch.Tensor, torch.Tensor]]:
    """What [`check_values`] is to look for in labels: neither classes (0: of any number) nor `IGNORE_INDEX`."""
    if labels is None:
        return []
    wrong = (labels < 0) if num_classes == 0 else outside(labels, num_classes)
    expected = "of at least 0" if num_classes == 0 else f"in [0, {num_classes})"
    return [(name, f"{expected}, or {IGNORE_INDEX} for unknown", labels, wrong & (labels != IGNORE_INDEX))]


def check_pooled_modality(pooling: str, name: str, given: torch.Tensor | None, present: torch.Tensor | None):
    """Raise `ValueError` unless every sample has the modality that `identity_pooling` reads, the argument `name`."""
    if given is None:
        raise ValueError(f"identity_pooling={pooling!r}: this model embeds {pooling}s; give {name}")
    if torch.compiler.is_compiling() or present is None:
        return
    absent = (~present.bool()).nonzero().flatten().tolist()
    if absent:
        raise ValueError(
            f"identity_pooling={pooling!r}: this model embeds {pooling}s; "
            f"samples {absent} have none ({pooling}_present)"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Heads
# ---------------------------------------------------------------------------------------------------------------------


class MMETPredictionTransform(nn.Module):
    """Dense layer, activation and layer norm before a prediction, as in BERT."""

    def __init__(self, config: MMETEncoderConfig, output_size: int):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, output_size)
        self.activation = ACT2FN[config.hidden_act]
        self.layer_norm = nn.LayerNorm(output_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.layer_norm(self.activation(self.dense(hidden_states)))


class MMETCodePredictionHead(nn.Module):
    """Classifies masked patches `(num_masked, hidden_size)` into image codes `(num_masked, codebook_size)`."""

    def __init__(self, config: MMETEncoderConfig, codebook_size: int):
        super().__init__()
        self.transform = MMETPredictionTransform(config, config.hidden_size)
        self.decoder = nn.Linear(config.hidden_size, codebook_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.transform(hidden_states))


class MMETTokenPredictionHead(nn.Module):
    """Classifies masked tokens `(num_masked, hidden_size)` into words; the decoder may be tied to the embeddings."""

    def __init__(self, config: MMETEncoderConfig, text_config: MMETTextConfig):
        super().__init__()
        self.transform = MMETPredictionTransform(config, text_config.hidden_size)
        self.decoder = nn.Linear(text_config.hidden_size, text_config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(text_config.vocab_size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.transform(hidden_states)) + self.bias

    @torch.no_grad()
    def set_vocabulary(self, decoder: nn.Linear):
        """Predict the words of another decoder; their biases are those of now, that of a new word is the mean."""
        self.decoder = decoder
        bias, vocab_size = self.bias, decoder.out_features
        if len(bias) != vocab_size:
            added = bias.mean().expand(max(vocab_size - len(bias), 0))
            self.bias = nn.Parameter(torch.cat([bias[:vocab_size], added]), requires_grad=bias.requires_grad)


class MMETMatchingHead(nn.Module):
    """Decides from h_CLS,M `(B, hidden_size)` whether image and text belong together: `(B, 2)`, mismatch and match."""

    def __init__(self, config: MMETMultimodalConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, 2)

    def forward(self, cls_state: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.tanh(self.dense(cls_state)))


class MMETBNNeck(nn.BatchNorm1d):
    """
    Batch norm without a bias, in float32 (Luo et al., "Bag of Tricks", 2019).

    A neck whose weight is frozen, as PEFT freezes it, keeps its statistics too and normalises with them in training:
    an adapter saves weights alone, and would come back to other statistics than it was trained with.
    """

    def __init__(self, num_features: int):
        super().__init__(num_features)
        self.register_parameter("bias", None)

    def reset_parameters(self):
        """As in the base class, with or without a bias."""
        self.reset_running_stats()
        init.ones_(self.weight)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features `(B, D)` of any dtype to float32 `(B, D)`."""
        features = features.to(self.weight.dtype)
        if self.training and not self.weight.requires_grad:
            return F.batch_norm(features, self.running_mean, self.running_var, self.weight, eps=self.eps).float()
        return super().forward(features).float()


class MMETIdentityClassifier(nn.Linear):
    """Scores of the training identities, without a bias and in float32 whatever the weights are stored in."""

    def __init__(self, hidden_size: int, num_identities: int):
        super().__init__(hidden_size, num_identities, bias=False)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Embeddings `(B, D)` to float32 `(B, num_identities)`."""
        with maybe_autocast(embeddings.device.type, enabled=False):
            return F.linear(embeddings.float(), self.weight.float())


class MMETIdentityHead(nn.Module):
    """
    BNNeck and classifier, on the class token that `config.identity_pooling` names.

    The embedding is the feature after batch norm. Classifier, triplet and retrieval all use it, as the paper's
    released code does.
    """

    def __init__(self, config: MMETConfig):
        super().__init__()
        hidden_size = getattr(config, f"{config.identity_pooling}_config").hidden_size
        self.bnneck = MMETBNNeck(hidden_size)
        self.classifier = MMETIdentityClassifier(hidden_size, config.num_identities) if config.num_identities else None

    @property
    def is_trained(self) -> bool:
        """Whether batch norm has seen a batch. A new one only scales: normalised, an embedding is the feature."""
        batches = self.bnneck.num_batches_tracked
        return batches.is_meta or bool(batches)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features `(B, D)` to embeddings after batch norm `(B, D)` and logits `(B, num_identities)`, in float32."""
        embeddings = self.bnneck(features)
        return embeddings, self.classifier(embeddings) if self.classifier is not None else None


# ---------------------------------------------------------------------------------------------------------------------
# Several processes
# ---------------------------------------------------------------------------------------------------------------------


def losses_span_processes(module: nn.Module) -> bool:
    """Whether losses are those of the batches of all processes together: in training, as synchronised batch norm."""
    return module.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def exchange_counts(
    inputs: dict[str, torch.Tensor | None], counts: dict[str, torch.Tensor | int], device: torch.device
) -> dict[str, list[int]]:
    """
    The `counts` of each process, in the order of their ranks: the one exchange of a step whose result is looked at.

    Raises:
        ValueError: on every process, where some processes have an input that others lack. They would compute other
            losses and wait for each other for ever.
    """
    values = [int(value is not None) for value in inputs.values()] + list(counts.values())
    row = torch.stack([torch.as_tensor(value, dtype=torch.long, device=device).reshape(()) for value in values])
    gathered = [torch.empty_like(row) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, row)
    rows = torch.stack(gathered).tolist()
    kinds = [row[: len(inputs)] for row in rows]
    if any(kind != kinds[0] for kind in kinds):
        named = [", ".join(itertools.compress(inputs, kind)) or "none" for kind in kinds]
        held = "; ".join(f"process {rank} has {names}" for rank, names in enumerate(named))
        raise ValueError(f"expected batches of one kind on all processes, received different inputs: {held}")
    return {name: [row[len(inputs) + place] for row in rows] for place, name in enumerate(counts)}


def mean_count(counts: dict[str, list[int]] | None, name: str, local_count: int) -> float:
    """
    What a process divides its sum over `local_count` items by: the mean of all processes' counts (1 where all are 0).

    The mean of the quotients over the processes, which is what data-parallel training makes of their gradients, is
    then the mean over all items of all processes, however unevenly these are spread. `counts` are those of
    [`exchange_counts`], `None` where losses do not span processes.
    """
    if counts is None:
        return max(local_count, 1)
    return sum(counts[name]) / len(counts[name]) or 1


def own_rows(counts: list[int]) -> slice:
    """Where this process's rows are among those that [`gather_rows`] puts together."""
    first = sum(counts[: dist.get_rank()])
    return slice(first, first + counts[dist.get_rank()])


class _GatherRows(torch.autograd.Function):
    """All processes' rows; see [`gather_rows`]."""

    @staticmethod
    def forward(ctx, rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
        ctx.own_rows, ctx.num_processes = own_rows(counts), len(counts)
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(gathered, padded)
        return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient[ctx.own_rows] * ctx.num_processes, None


def gather_rows(rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """
    The rows of all processes `(sum(counts), ...)` in the order of their ranks, differentiable in the own ones.

    For losses that every process computes from all rows alike. Each process then holds the gradient with respect to
    its own rows without hearing from the others; it comes back multiplied by the number of processes, so that the
    mean over processes, which is what data-parallel training takes, is the gradient of the one common loss. The
    backward pass exchanges nothing, so it cannot get out of step with the exchange of gradients.

    Args:
        rows: `(counts[rank], ...)`, own rows; the number may differ between processes, the other dimensions may not.
        counts: the number of rows of each process ([`exchange_counts`]).
    """
    return _GatherRows.apply(rows, counts) if any(counts) else rows


def gather_views(
    features: torch.Tensor, labels: torch.Tensor, max_views: list[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    As [`gather_rows`], where other processes only know that this one has at most `max_views[rank]` rows.

    Returns:
        Features and labels of all processes, and which of these rows are this process's own `(num_rows,)`.
    """
    missing = max_views[dist.get_rank()] - len(labels)
    features = gather_rows(F.pad(features, (0, 0, 0, missing)), max_views)
    labels = gather_rows(F.pad(labels, (0, missing), value=_NO_VIEW), max_views)
    is_own = torch.zeros_like(labels, dtype=torch.bool)
    is_own[own_rows(max_views)] = True
    is_view = labels != _NO_VIEW
    return features[is_view], labels[is_view], is_own[is_view]


# ---------------------------------------------------------------------------------------------------------------------
# Losses
# ---------------------------------------------------------------------------------------------------------------------


class _ClampLogitScale(torch.autograd.Function):
    """
    `logit_scale` within its bounds. Outside of them a gradient passes where it leads back.

    With the gradient of `clamp`, which is 0 there, a temperature out of bounds would never move again.
    """

    @staticmethod
    def forward(ctx, logit_scale: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(logit_scale < MIN_LOGIT_SCALE, logit_scale > MAX_LOGIT_SCALE)
        return logit_scale.clamp(MIN_LOGIT_SCALE, MAX_LOGIT_SCALE)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        below, above = ctx.saved_tensors
        leads_away = (below & (gradient > 0)) | (above & (gradient < 0))  # a step goes against the gradient
        return gradient.masked_fill(leads_away, 0)


def identity_contrastive_loss(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    logit_scale: torch.Tensor,
    person_ids: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    L_GC: symmetric cross-entropy between images and texts, where all of one person's are positives.

    With `person_ids` the target of a row is uniform over the columns of the same person, so that no pair of one
    person ever is a negative; without, only the diagonal is positive (CLIP, FLAVA). Computed in float32, under
    autocast too.

    Args:
        image_features, text_features: `(B, D)`, normalised here.
        logit_scale: `(1,)`, logarithm of the inverse temperature; read within 0 and ln(100), as FLAVA does.
        person_ids: `(B,)` integers; negative ids are unknown persons, each for itself.

    Returns:
        The loss (0 for no pair at all) and `(B, B)` logits, images in rows.
    """
    with maybe_autocast(image_features.device.type, enabled=False):
        image_features = F.normalize(image_features.float(), eps=_SMALLEST_NORM)
        text_features = F.normalize(text_features.float(), eps=_SMALLEST_NORM)
        logits = _ClampLogitScale.apply(logit_scale.float()).exp() * image_features @ text_features.T
        if not len(logits):
            return logits.sum(), logits  # a mean over nothing would be NaN
        positive = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        if person_ids is not None:
            same_person = person_ids[:, None] == person_ids[None, :]
            positive = positive | (same_person & (person_ids >= 0)[:, None])
        targets = positive.float() / positive.sum(dim=1, keepdim=True)
        loss = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    return loss, logits


def batch_hard_triplet_loss(
    embeddings: torch.Tensor, labels: torch.Tensor, margin: float | None = None, normalize: bool = True
) -> torch.Tensor:
    """
    L_triplet (Eq. 2) with the hardest positive and negative of the batch (Hermans et al., 2017).

    Distances are taken between float32 differences, under autocast too: |a|^2 + |b|^2 - 2 a.b would round away the
    distance of two images of one person that lie close together.

    Args:
        embeddings: `(B, D)`.
        labels: `(B,)` person labels; negative ones are unknown persons, who take no part.
        margin: m of Eq. 2; `None` is the soft margin log(1 + exp(d_ap - d_an)).
        normalize: Whether distances are taken between L2-normalised embeddings.

    Returns:
        The mean over anchors that have both a positive and a negative; 0 when there is none.
    """
    if not len(embeddings):
        return embeddings.float().sum()  # argmax needs a column
    known = labels >= 0
    same_person = labels[:, None] == labels[None, :]
    positive = same_person & known & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    negative = ~same_person & known[:, None] & known
    anchor = positive.any(dim=1) & negative.any(dim=1)
    with maybe_autocast(embeddings.device.type, enabled=False):
        embeddings = embeddings.float()
        if normalize:
            embeddings = F.normalize(embeddings, eps=_SMALLEST_NORM)
        distances = torch.cdist(embeddings.detach(), embeddings.detach(), compute_mode="donot_use_mm_for_euclid_dist")
        hardest_positive = distances.masked_fill(~positive, -math.inf).argmax(dim=1)
        hardest_negative = distances.masked_fill(~negative, math.inf).argmin(dim=1)
        # The gradient of the norm is 0 for two equal embeddings.
        gap = torch.linalg.vector_norm(embeddings - embeddings[hardest_positive], dim=1)
        gap = gap - torch.linalg.vector_norm(embeddings - embeddings[hardest_negative], dim=1)
    terms = F.softplus(gap) if margin is None else F.relu(gap + margin)
    # where, not indexing: shapes stay fixed, and a batch without anchors gives a zero that still has a gradient.
    return torch.where(anchor, terms, 0.0).sum() / anchor.sum().clamp(min=1)


def masked_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, count: float) -> torch.Tensor:
    """Cross-entropy of `(M, C)` logits summed and divided by `count`; 0 that still has a gradient when M is 0."""
    return F.cross_entropy(logits.float(), labels.long(), reduction="sum") / count


# ---------------------------------------------------------------------------------------------------------------------
# Pretraining
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MMETPreTrainingBatch:
    """
    The inputs of a pretraining step, as `MMETForPreTraining.forward` takes them.

    `input_ids` may be embeddings instead of ids. `counts` are those of all processes ([`exchange_counts`]), `None`
    where losses do not span processes.
    """

    pixel_values: torch.Tensor | None = None
    input_ids: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    input_ids_masked: torch.Tensor | None = None
    masked_attention_mask: torch.Tensor | None = None
    bool_masked_pos: torch.Tensor | None = None
    mim_labels: torch.Tensor | None = None
    mlm_labels: torch.Tensor | None = None
    itm_labels: torch.Tensor | None = None
    person_labels: torch.Tensor | None = None
    person_ids: torch.Tensor | None = None
    image_present: torch.Tensor | None = None
    text_present: torch.Tensor | None = None
    counts: dict[str, list[int]] | None = None

    @property
    def present(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Which samples have an image, and which a caption."""
        return self.image_present, self.text_present

    def pairs(self) -> "MMETPreTrainingBatch":
        """The samples with image and caption alone."""
        rows = rows_with_both(self.present)
        if rows is None:
            return self
        names = [field.name for field in fields(self) if field.name != "counts"]
        values = {name: getattr(self, name) for name in names}
        return replace(self, **{name: value[rows] for name, value in values.items() if value is not None})

    def without_common_padding(self) -> "MMETPreTrainingBatch":
        """The same without the columns of captions that are padding in all of them ([`cut_padding`])."""
        masked_mask, input_ids_masked, mlm_labels = cut_padding(
            self.masked_attention_mask, self.input_ids_masked, self.mlm_labels
        )
        attention_mask, input_ids, _ = cut_padding(self.attention_mask, self.input_ids)
        return replace(
            self,
            input_ids=input_ids,
            attention_mask=attention_mask,
            input_ids_masked=input_ids_masked,
            masked_attention_mask=masked_mask,
            mlm_labels=mlm_labels,
        )

    def with_counts(self, batch_size: int, device: torch.device) -> "MMETPreTrainingBatch":
        """The same with the counts of all processes; `ValueError` where their inputs differ."""
        kinds = ("pixel_values", "input_ids", "input_ids_masked", "bool_masked_pos", "mlm_labels")
        kinds += ("itm_labels", "person_labels", "person_ids")
        inputs = {name: getattr(self, name) for name in kinds}
        return replace(self, counts=exchange_counts(inputs, self.count_targets(batch_size), device))

    def count_targets(self, batch_size: int) -> dict[str, torch.Tensor | int]:
        """How many pairs, masked positions and known pairs the losses of this batch have, and views at most."""
        images, captions = self.pixel_values, (self.input_ids, self.input_ids_masked)
        contents = [value for value in (images, *captions) if value is not None]
        is_paired = images is not None and len(contents) > 1
        masks = [mask.bool() for mask in self.present if mask is not None]
        both = torch.stack(masks).all(dim=0) if masks else contents[0].new_ones(batch_size, dtype=torch.bool)
        matching = both & (self.itm_labels == 1) if is_paired and self.itm_labels is not None else both
        counts = {"pairs": both.sum() if is_paired else 0, "masked_patches": 0, "masked_tokens": 0, "known_pairs": 0}
        if self.bool_masked_pos is not None:
            counts["masked_patches"] = (self.bool_masked_pos.bool() & matching[:, None]).sum()
        if self.mlm_labels is not None:
            counts["masked_tokens"] = ((self.mlm_labels != IGNORE_INDEX) & matching[:, None]).sum()
        if self.itm_labels is not None:
            counts["known_pairs"] = (both & (self.itm_labels != IGNORE_INDEX)).sum()
        return counts | {"views": batch_size + counts["pairs"]}


class MMETMaskedPrediction(NamedTuple):
    """Logits `(num_masked, num_classes)` of masked positions, their classes `(num_masked,)` and the loss."""

    loss: torch.Tensor
    logits: torch.Tensor
    labels: torch.Tensor


class MMETIdentityViews(NamedTuple):
    """Features `(num_views, D)`, the sample of each `(num_views,)`, and the output that holds the samples' own."""

    features: torch.Tensor
    rows: torch.Tensor
    multimodal_output: MMETEncoderOutput | None = None


class MMETIdentityScores(NamedTuple):
    """What the identity head makes of views: embeddings `(V, D)`, logits `(V, num_identities)`, and the losses."""

    embeddings: torch.Tensor
    logits: torch.Tensor | None
    losses: dict[str, torch.Tensor]


class OptionalLabels:
    """
    A `forward` whose labels are all optional, for `Trainer` too.

    `Trainer` looks at the `forward` of a model's class: each argument with "label" in its name counts as one that all
    batches have, and where one lacks there is no `eval_loss`. Seen from the class there are no such arguments here, so
    that the loss of whatever labels a batch has is the one; seen from a model the signature is complete.
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


class MMETForPreTraining(MMETCompositeModel):
    """
    MMET with its eight losses. A loss is computed exactly when its inputs are there and its weight is not 0.

    | batch | inputs | losses |
    | --- | --- | --- |
    | image only | `pixel_values`, `bool_masked_pos` | L_MIM on the image encoder |
    | text only | `input_ids_masked`, `mlm_labels` | L_MLM on the text encoder |
    | paired | the above together, at least one of them masked | L_MMM on the multimodal encoder |
    | paired | the same with `itm_labels` | L_ITM on h_CLS,M of the masked pair |
    | paired | `pixel_values`, `input_ids` | L_GC between [CLS_I] and [CLS_T] |
    | labelled | any of image and text, `person_labels` | L_ID and L_triplet on the identity embedding |

    In training on several processes (`torch.distributed`, its default group) the losses are those of all their batches
    together: negatives, triplets and the BNNeck's statistics range over all of them, and the mean of the processes'
    losses and gradients is that of one process with the whole batch. All processes must have the same inputs.
    """

    _auto_classes = {"AutoModelForPreTraining": None, "AutoModel": "MMETForReID"}  # noqa: RUF012
    # Besides the BNNeck: a codebook whose codes must stay what they are.
    _keep_in_fp32_modules_strict = [*_BNNECK, "image_codebook"]  # noqa: RUF012
    _tied_weights_keys = {  # noqa: RUF012
        "mlm_head.decoder.weight": "mmet.text_model.embeddings.token_embedding.weight",
        "mmm_text_head.decoder.weight": "mmet.text_model.embeddings.token_embedding.weight",
    }

    def __init__(self, config: MMETConfig):
        super().__init__(config)
        self.mmet = MMETModel._from_config(config)
        codebook_class = MMETDalleCodebook if config.codebook_type == "dalle" else MMETImageCodebook
        self.image_codebook = codebook_class(config)
        self.mim_head = MMETCodePredictionHead(config.image_config, config.codebook_size)
        self.mlm_head = MMETTokenPredictionHead(config.text_config, config.text_config)
        self.mmm_image_head = MMETCodePredictionHead(config.multimodal_config, config.codebook_size)
        self.mmm_text_head = MMETTokenPredictionHead(config.multimodal_config, config.text_config)
        self.itm_head = MMETMatchingHead(config.multimodal_config)
        self.identity_head = MMETIdentityHead(config)
        self.post_init()

    def _resize_token_embeddings(
        self, new_num_tokens: int | None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """As in the base class, with the text prediction heads: their decoders, tied or not, and their biases."""
        embeddings = super()._resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        for head in (self.mlm_head, self.mmm_text_head):
            head.set_vocabulary(
                self._get_resized_lm_head(head.decoder, len(embeddings.weight), mean_resizing=mean_resizing)
            )
        return embeddings

    @OptionalLabels
    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.FloatTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        input_ids_masked: torch.LongTensor | None = None,
        masked_attention_mask: torch.LongTensor | None = None,
        bool_masked_pos: torch.BoolTensor | None = None,
        mim_labels: torch.LongTensor | None = None,
        mlm_labels: torch.LongTensor | None = None,
        itm_labels: torch.LongTensor | None = None,
        person_labels: torch.LongTensor | None = None,
        person_ids: torch.LongTensor | None = None,
        image_present: torch.BoolTensor | None = None,
        text_present: torch.BoolTensor | None = None,
        interpolate_pos_encoding: bool = False,
        inputs_embeds: torch.FloatTensor | None = None,
        return_loss: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMETForPreTrainingOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`, *optional*):
                Normalised images.
            input_ids (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*): Each image's own caption,
                unmasked.
            attention_mask (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*): 1 for tokens of
                `input_ids`.
            input_ids_masked (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*): Captions with
                masked tokens; where `itm_labels` is 0, the caption of another person.
            masked_attention_mask (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*): 1 for tokens
                of `input_ids_masked`; `attention_mask` when not given.
            bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, num_patches)`, *optional*): True where a patch
                is masked.
            mim_labels (`torch.LongTensor` of shape `(batch_size, num_patches)`, *optional*): Image codes; by default
                those of the model's own codebook.
            mlm_labels (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*): Original tokens of
                `input_ids_masked` where masked, -100 elsewhere.
            itm_labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*): 1 where `input_ids_masked` describes
                the image, 0 where it does not, -100 where that is unknown: such a pair is in neither L_ITM nor L_MMM.
            person_labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*): Classes in `[0, num_identities)`,
                -100 for unknown; they switch L_ID and L_triplet on.
            person_ids (`torch.LongTensor` of shape `(batch_size,)`, *optional*): Any integers that tell persons apart
                (negative: unknown) for L_GC alone; `person_labels` when not given.
            image_present, text_present (`torch.BoolTensor` of shape `(batch_size,)`, *optional*): Which samples have
                an image, a caption; all of them when not given. L_MMM, L_ITM and L_GC are of the samples with both,
                L_ID and L_triplet of all (with `identity_pooling` of image or text: of those that have it).
            interpolate_pos_encoding: Whether images of another size than configured are accepted.
            inputs_embeds: Word embeddings in the place of `input_ids`, as in [`MMETTextModel`].
            return_loss: Whether the losses that were computed are summed to `loss`.

        Raises:
            ValueError: when there is no sample, a sample has no modality, an input has another shape, dtype or values
                than it says above, or L_MIM or L_MMM lacks codes (`mim_labels` or a fitted codebook).
        """
        input_ids, name = choose_words(input_ids, inputs_embeds)
        batch = MMETPreTrainingBatch(
            pixel_values=pixel_values,
            input_ids=input_ids,
            attention_mask=attention_mask,
            input_ids_masked=input_ids_masked,
            masked_attention_mask=masked_attention_mask if masked_attention_mask is not None else attention_mask,
            bool_masked_pos=bool_masked_pos,
            mim_labels=mim_labels,
            mlm_labels=mlm_labels,
            itm_labels=itm_labels,
            person_labels=person_labels,
            person_ids=person_ids,
            image_present=image_present,
            text_present=text_present,
        )
        masked_captions = (input_ids_masked, batch.masked_attention_mask, "input_ids_masked")
        captions = ((input_ids, attention_mask, name), masked_captions)
        batch_size = check_modalities(
            self.config, pixel_values, captions, image_present, text_present, interpolate_pos_encoding
        )
        check_targets(self.config, batch, batch_size)
        if losses_span_processes(self):
            batch = batch.with_counts(batch_size, self.device)
        if not self._records_states(**kwargs):
            batch = batch.without_common_padding()
        image_kwargs = {**kwargs, "interpolate_pos_encoding": interpolate_pos_encoding}
        if pixel_values is None:
            masked = self._masked_language_modeling(batch, **kwargs)
        elif input_ids is None and input_ids_masked is None:
            masked = self._masked_image_modeling(batch, **image_kwargs)
        else:
            masked = self._masked_multimodal_modeling(batch, **image_kwargs)
        clean = self._clean_objectives(batch, **image_kwargs)
        losses = dict.fromkeys(LOSS_NAMES) | masked.losses | clean.losses
        loss = weighted_sum(self.config, losses) if return_loss else None
        return MMETForPreTrainingOutput(**{**masked, **clean, "loss": loss, "losses": losses})

    def _wants(self, *names: str) -> bool:
        """Whether any of the losses has a weight."""
        return any(getattr(self.config, f"{name}_weight") > 0 for name in names)

    def _masked_image_modeling(self, batch: MMETPreTrainingBatch, **kwargs) -> MMETForPreTrainingOutput:
        """L_MIM: the image encoder classifies the masked patches of unpaired images."""
        if batch.bool_masked_pos is None or not self._wants("mim"):
            return MMETForPreTrainingOutput(losses={})
        masked = batch.bool_masked_pos.bool()
        positions = F.pad(masked, (1, 0))  # [CLS_I] comes first
        image_output = self.mmet.encode_images(batch.pixel_values, masked, read_positions=positions, **kwargs)
        codes = self._predict_codes(self.mim_head, image_output.last_hidden_state, batch, masked)
        return MMETForPreTrainingOutput(
            losses={"mim": codes.loss},
            mim_logits=codes.logits,
            mim_codes=codes.labels,
            **recorded(image_masked_output=image_output),
        )

    def _masked_language_modeling(self, batch: MMETPreTrainingBatch, **kwargs) -> MMETForPreTrainingOutput:
        """L_MLM: the text encoder predicts the masked tokens of unpaired captions."""
        if batch.input_ids_masked is None or batch.mlm_labels is None or not self._wants("mlm"):
            return MMETForPreTrainingOutput(losses={})
        masked = batch.mlm_labels != IGNORE_INDEX
        text_output = self.mmet.encode_texts(
            batch.input_ids_masked, batch.masked_attention_mask, read_positions=masked, **kwargs
        )
        tokens = self._predict_tokens(self.mlm_head, text_output.last_hidden_state, batch, masked)
        return MMETForPreTrainingOutput(
            losses={"mlm": tokens.loss}, mlm_logits=tokens.logits, **recorded(text_masked_output=text_output)
        )

    def _masked_multimodal_modeling(self, batch: MMETPreTrainingBatch, **kwargs) -> MMETForPreTrainingOutput:
        """L_MMM and L_ITM of pairs: the multimodal encoder reads the masked image together with the masked caption."""
        if batch.input_ids_masked is None:  # the caption is read as it is
            batch = replace(
                batch, input_ids_masked=batch.input_ids, masked_attention_mask=batch.attention_mask, mlm_labels=None
            )
        wants_image = batch.bool_masked_pos is not None and self._wants("mmm_image")
        wants_text = batch.mlm_labels is not None and self._wants("mmm_text")
        wants_itm = batch.itm_labels is not None and self._wants("itm")
        if not (wants_image or wants_text or wants_itm):
            return MMETForPreTrainingOutput(losses={})
        batch = batch.pairs()
        captions, labels = batch.input_ids_masked, batch.itm_labels
        # A caption of somebody else says nothing about the masked parts: L_MMM is for matching pairs (as in FLAVA).
        matching = labels == 1 if labels is not None else captions.new_ones(len(captions), dtype=torch.bool)
        num_patches = math.prod(self.config.image_config.grid_of(*batch.pixel_values.shape[-2:]))
        patches = matching.new_zeros(len(captions), num_patches)
        if wants_image:
            patches = batch.bool_masked_pos.bool() & matching[:, None]
        tokens = matching.new_zeros(captions.shape[:2])
        if wants_text:
            tokens = (batch.mlm_labels != IGNORE_INDEX) & matching[:, None]
        # What each head reads of [CLS_M], [CLS_I], patches and tokens.
        class_tokens = F.pad(matching.new_full((len(captions), 1), wants_itm), (0, 1 + num_patches + tokens.shape[1]))
        masked_patches = F.pad(patches, (2, tokens.shape[1]))
        masked_tokens = F.pad(tokens, (2 + num_patches, 0))
        positions = class_tokens | masked_patches | masked_tokens
        states, encoder_outputs = self._masked_states(batch, positions, **kwargs)
        output = MMETForPreTrainingOutput(losses={}, **recorded(**encoder_outputs))
        if wants_image:
            codes = self._predict_codes(self.mmm_image_head, states[masked_patches[positions]], batch, patches)
            output.losses["mmm_image"] = codes.loss
            output.mmm_image_logits, output.mmm_image_codes = codes.logits, codes.labels
        if wants_text:
            words = self._predict_tokens(self.mmm_text_head, states[masked_tokens[positions]], batch, tokens)
            output.losses["mmm_text"], output.mmm_text_logits = words.loss, words.logits
        if wants_itm:
            output.itm_logits = self.itm_head(states[class_tokens[positions]])
            known = labels != IGNORE_INDEX
            count = mean_count(batch.counts, "known_pairs", len(labels[known]))
            output.losses["itm"] = masked_cross_entropy(output.itm_logits[known], labels[known], count)
        return output

    def _masked_states(
        self, batch: MMETPreTrainingBatch, positions: torch.Tensor, **kwargs
    ) -> tuple[torch.Tensor, dict[str, MMETEncoderOutput]]:
        """The multimodal encoder's states of masked pairs at `positions` `(num_read, D)`, and all encoder outputs."""
        captions = batch.input_ids_masked
        if not len(captions):  # encoders read no empty batch; the heads turn no states into a zero with gradient
            width = self.config.multimodal_config.hidden_size
            return torch.zeros(0, width, dtype=self.dtype, device=captions.device), {}
        image_output = self.mmet.encode_images(batch.pixel_values, batch.bool_masked_pos, **kwargs)
        text_output = self.mmet.encode_texts(captions, batch.masked_attention_mask, **kwargs)
        fused = self.mmet.fuse(
            states_of(image_output),
            states_of(text_output),
            batch.masked_attention_mask,
            read_positions=positions,
            **kwargs,
        )
        return fused.last_hidden_state, {
            "image_masked_output": image_output,
            "text_masked_output": text_output,
            "multimodal_masked_output": fused,
        }

    def _predict_codes(
        self, head: MMETCodePredictionHead, states: torch.Tensor, batch: MMETPreTrainingBatch, masked: torch.Tensor
    ) -> MMETMaskedPrediction:
        """Codes of the patches `masked` `(B, N)` from their states `(num_masked, D)`."""
        labels = batch.mim_labels
        labels = labels[masked] if labels is not None else self.image_codebook(batch.pixel_values, masked)
        logits, count = head(states), mean_count(batch.counts, "masked_patches", len(labels))
        return MMETMaskedPrediction(masked_cross_entropy(logits, labels, count), logits, labels)

    def _predict_tokens(
        self, head: MMETTokenPredictionHead, states: torch.Tensor, batch: MMETPreTrainingBatch, masked: torch.Tensor
    ) -> MMETMaskedPrediction:
        """Words of the tokens `masked` `(B, L)` from their states `(num_masked, D)`."""
        labels = batch.mlm_labels[masked]
        logits, count = head(states), mean_count(batch.counts, "masked_tokens", len(labels))
        return MMETMaskedPrediction(masked_cross_entropy(logits, labels, count), logits, labels)

    def _clean_objectives(self, batch: MMETPreTrainingBatch, **kwargs) -> MMETForPreTrainingOutput:
        """L_GC, L_ID and L_triplet, which read unmasked inputs and share the passes of the unimodal encoders."""
        is_paired = batch.pixel_values is not None and batch.input_ids is not None
        has_content = batch.pixel_values is not None or batch.input_ids is not None
        contrasts = is_paired and self._wants("global_contrastive")
        identifies = has_content and batch.person_labels is not None and self._wants("identity", "triplet")
        if not (contrasts or identifies):
            return MMETForPreTrainingOutput(losses={})
        # Only the multimodal identity embedding reads more of the unimodal encoders than their class tokens.
        fuses = identifies and self.config.identity_pooling == "multimodal"
        kwargs["read_positions"] = ... if fuses else CLASS_TOKEN
        image_output = self.mmet.encode_images(batch.pixel_values, image_present=batch.image_present, **kwargs)
        text_output = self.mmet.encode_texts(batch.input_ids, batch.attention_mask, batch.text_present, **kwargs)
        output = MMETForPreTrainingOutput(losses={}, **recorded(image_output=image_output, text_output=text_output))
        if contrasts:
            pairs = rows_with_both(batch.present)
            (person_ids,) = take_rows(pairs, batch.person_ids if batch.person_ids is not None else batch.person_labels)
            output.losses["global_contrastive"], output.logits_per_image = self._contrast(
                self._project_rows(self.mmet.image_projection, image_output, pairs),
                self._project_rows(self.mmet.text_projection, text_output, pairs),
                person_ids,
                batch.counts,
            )
        if identifies:
            views = self._identity_views(batch, image_output, text_output, **kwargs)
            scores = identity_losses(
                self, views.features, batch.person_labels[views.rows], batch.counts and batch.counts["views"]
            )
            output.losses.update(scores.losses)
            output.identity_embeds, output.identity_logits = scores.embeddings, scores.logits
            output.multimodal_output = recorded(fused=views.multimodal_output).get("fused")
        return output

    @staticmethod
    def _project_rows(
        projection: nn.Linear, output: MMETEncoderOutput | None, rows: torch.Tensor | None
    ) -> torch.Tensor:
        """Projected class tokens of these rows; `(0, projection_dim)` where the encoder had nothing to read."""
        if output is None:
            return projection.weight.new_zeros(0, projection.out_features)
        (class_tokens,) = take_rows(rows, output.pooler_output)
        return projection(class_tokens)

    def _contrast(
        self,
        image_features: torch.Tensor,
        text_features: torch.Tensor,
        person_ids: torch.Tensor | None,
        counts: dict[str, list[int]] | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """L_GC of the pairs `(B, D)` of all processes, and the logits of this process's images."""
        if self.training:  # so that no step leads far out of bounds, and no value from outside stays there
            with torch.no_grad():
                self.mmet.logit_scale.clamp_(MIN_LOGIT_SCALE, MAX_LOGIT_SCALE)
        if counts is None:
            return identity_contrastive_loss(image_features, text_features, self.mmet.logit_scale, person_ids)
        pairs = counts["pairs"]
        features = gather_rows(torch.stack([image_features, text_features], dim=1), pairs)
        person_ids = gather_rows(person_ids, pairs) if person_ids is not None else None
        loss, logits = identity_contrastive_loss(*features.unbind(dim=1), self.mmet.logit_scale, person_ids)
        return loss, logits[own_rows(pairs)]

    def _identity_views(
        self,
        batch: MMETPreTrainingBatch,
        image_output: MMETEncoderOutput | None,
        text_output: MMETEncoderOutput | None,
        **kwargs,
    ) -> MMETIdentityViews:
        """
        All views of the batch.

        Views are the samples as they are and, in training, `modality_dropout` of the pairs again with one modality
        dropped: half of them as the image alone, half as the text alone. All of them meet in one batch norm and one
        triplet loss.
        """
        pooling = self.config.identity_pooling
        if pooling != "multimodal":
            outputs = {"image": (image_output, batch.image_present), "text": (text_output, batch.text_present)}
            output, present = outputs[pooling]
            if output is None:
                name = "pixel_values" if pooling == "image" else "input_ids"
                raise ValueError(f"identity_pooling={pooling!r} needs {name} of at least one sample of the batch")
            rows = torch.arange(len(output.pooler_output), device=output.pooler_output.device)
            if present is not None:
                rows = rows[present.bool()]
            return MMETIdentityViews(output.pooler_output[rows], rows)
        kwargs["read_positions"] = CLASS_TOKEN
        image_states, text_states = states_of(image_output), states_of(text_output)
        attention_mask = batch.attention_mask
        fused = self.mmet.fuse(image_states, text_states, attention_mask, *batch.present, **kwargs)
        views = [fused.pooler_output]
        rows = [torch.arange(len(views[0]), device=views[0].device)]
        is_paired = batch.pixel_values is not None and batch.input_ids is not None
        if self.training and self.config.modality_dropout > 0 and is_paired:
            (pairs,) = take_rows(rows_with_both(batch.present), rows[0])
            image_rows, text_rows = self._draw_dropped(pairs, batch.counts)
            if len(image_rows):
                view = self.mmet.fuse(image_states=image_states[image_rows], read_positions=CLASS_TOKEN)
                views.append(view.pooler_output)
                rows.append(image_rows)
            if len(text_rows):
                (text_mask,) = take_rows(text_rows, attention_mask)
                view = self.mmet.fuse(
                    text_states=text_states[text_rows], attention_mask=text_mask, read_positions=CLASS_TOKEN
                )
                views.append(view.pooler_output)
                rows.append(text_rows)
        return MMETIdentityViews(torch.cat(views), torch.cat(rows), fused)

    def _draw_dropped(self, pairs: torch.Tensor, counts) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Which of the pairs `(num_pairs,)` are seen again as the image alone, and which as the text alone.

        On several processes one draw is made among the pairs of all: processes with the same random state, as training
        starts them, drop what one process would.
        """
        total = pairs.shape[0] if counts is None else sum(counts["pairs"])
        # Not randperm: inductor (torch 2.13) fails on a slice of one as an index.
        shuffled = torch.rand(total, device=pairs.device).argsort()
        halves = shuffled[: round(self.config.modality_dropout * total)].tensor_split(2)
        if counts is None:
            return tuple(pairs[half] for half in halves)
        rows = own_rows(counts["pairs"])
        return tuple(pairs[half[(half >= rows.start) & (half < rows.stop)] - rows.start] for half in halves)


def rows_with_both(present: tuple[torch.Tensor | None, torch.Tensor | None]) -> torch.Tensor | None:
    """Indices `(num_pairs,)` of the samples with image and caption; `None` for all, when no mask says otherwise."""
    masks = [mask.bool() for mask in present if mask is not None]
    return torch.stack(masks).all(dim=0).nonzero().flatten() if masks else None


def take_rows(rows: torch.Tensor | None, *values: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """These rows of each tensor (`None`: all of them)."""
    return values if rows is None else tuple(value if value is None else value[rows] for value in values)


def weighted_sum(config: MMETConfig, losses: dict[str, torch.Tensor | None]) -> torch.Tensor | None:
    """The losses that were computed times their `<name>_weight`, summed; `None` when there was none."""
    weighted = [getattr(config, f"{name}_weight") * loss for name, loss in losses.items() if loss is not None]
    return sum(weighted) if weighted else None


def identity_losses(
    model: MMETPreTrainedModel, features: torch.Tensor, labels: torch.Tensor, max_views: list[int] | None = None
) -> MMETIdentityScores:
    """
    L_ID (Eq. 1) and L_triplet (Eq. 2) of the views `(V, D)` whose label is known.

    Where losses span processes, all of it is computed from the views of all processes, on each of them: batch norm
    makes every embedding depend on every view. `max_views` says how many views each may have; embeddings and logits
    are those of this process's views.
    """
    config = model.config
    if max_views is not None:
        features, labels, own_views = gather_views(features, labels, max_views)
    embeddings, logits = model.identity_head(features)
    known, losses = labels >= 0, {}
    if config.identity_weight > 0 and logits is not None:
        smoothing = float(config.label_smoothing)
        targets = labels.long().masked_fill(~known, IGNORE_INDEX)
        summed = F.cross_entropy(
            logits, targets, label_smoothing=smoothing, ignore_index=IGNORE_INDEX, reduction="sum"
        )
        losses["identity"] = summed / known.sum().clamp(min=1)
    if config.triplet_weight > 0:
        losses["triplet"] = batch_hard_triplet_loss(
            embeddings, labels, config.triplet_margin, config.triplet_normalize
        )
    if max_views is not None:
        embeddings, logits = embeddings[own_views], logits[own_views] if logits is not None else None
    return MMETIdentityScores(embeddings, logits, losses)


# ---------------------------------------------------------------------------------------------------------------------
# Re-identification
# ---------------------------------------------------------------------------------------------------------------------


class MMETForReID(MMETCompositeModel):
    """MMET as a person embedder: image, text or both in, one comparable embedding of unit norm out."""

    _auto_classes = {"AutoModel": None, "AutoModelForPreTraining": "MMETForPreTraining"}  # noqa: RUF012
    _keep_in_fp32_modules_strict = [*_BNNECK]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = [_PRETRAINING_KEYS]  # noqa: RUF012

    def __init__(self, config: MMETConfig):
        super().__init__(config)
        self.mmet = MMETModel._from_config(config)
        self.identity_head = MMETIdentityHead(config)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in the base class, with a warning where the identity head was never trained: see `embeddings` there."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # a tuple with output_loading_info=True
        if not model.identity_head.is_trained:
            logger.warning(
                "the identity head of %s was never trained: embeddings are the normalised class token of the %s "
                "encoder as pretraining left it. Train identity_weight and triplet_weight on labelled persons, or "
                "compare images with sentences by get_image_features and get_text_features.",
                pretrained_model_name_or_path,
                model.config.identity_pooling,
            )
        return loaded

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.FloatTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        image_present: torch.BoolTensor | None = None,
        text_present: torch.BoolTensor | None = None,
        labels: torch.LongTensor | None = None,
        interpolate_pos_encoding: bool = False,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMETForReIDOutput:
        r"""
        Args:
            pixel_values, input_ids, attention_mask, image_present, text_present: As in [`MMETModel`]; at least one
                modality a sample.
            labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*): Classes in `[0, num_identities)`, -100
                for unknown.
            interpolate_pos_encoding: Whether images of another size than configured are accepted.
            inputs_embeds: Word embeddings in the place of `input_ids`, as in [`MMETTextModel`].

        Raises:
            ValueError: when a sample has no modality, or lacks the one `config.identity_pooling` reads, or an input
                has another shape, dtype or values than it says above.
        """
        input_ids, name = choose_words(input_ids, inputs_embeds)
        batch_size = check_modalities(
            self.config,
            pixel_values,
            ((input_ids, attention_mask, name),),
            image_present,
            text_present,
            interpolate_pos_encoding,
        )
        check_sample_labels(batch_size, labels=labels)
        if labels is not None and can_read_values(labels):
            check_values(*not_classes("labels", labels, self.config.num_identities))
        if not self._records_states(**kwargs):
            attention_mask, input_ids, _ = cut_padding(attention_mask, input_ids)
        encoded = self._encode(
            pixel_values, input_ids, attention_mask, image_present, text_present, interpolate_pos_encoding, **kwargs
        )
        features = encoded[f"{self.config.identity_pooling}_output"].pooler_output
        if labels is None:
            scores = MMETIdentityScores(*self.identity_head(features), losses={})
        else:
            num_rows = None
            if losses_span_processes(self):
                num_rows = exchange_counts({"labels": labels}, {"rows": batch_size}, labels.device)["rows"]
            scores = identity_losses(self, features, labels, num_rows)
        embeddings = F.normalize(scores.embeddings.float())
        return MMETForReIDOutput(
            loss=weighted_sum(self.config, scores.losses),
            embeddings=embeddings,
            pooler_output=embeddings,
            logits=scores.logits,
            **recorded(**encoded),
        )

    def _encode(
        self, pixel_values, input_ids, attention_mask, image_present, text_present, interpolate_pos_encoding, **kwargs
    ) -> dict[str, MMETEncoderOutput | None]:
        """Outputs of the encoders that `config.identity_pooling` needs, by their names in [`MMETForReIDOutput`]."""
        pooling, image_kwargs = (
            self.config.identity_pooling,
            {**kwargs, "interpolate_pos_encoding": interpolate_pos_encoding},
        )
        if pooling == "image":
            check_pooled_modality(pooling, "pixel_values", pixel_values, image_present)
            return {"image_output": self.mmet.encode_images(pixel_values, read_positions=CLASS_TOKEN, **image_kwargs)}
        if pooling == "text":
            check_pooled_modality(pooling, "input_ids", input_ids, text_present)
            return {
                "text_output": self.mmet.encode_texts(input_ids, attention_mask, read_positions=CLASS_TOKEN, **kwargs)
            }
        image_output = self.mmet.encode_images(pixel_values, image_present=image_present, **image_kwargs)
        text_output = self.mmet.encode_texts(input_ids, attention_mask, text_present, **kwargs)
        fused = self.mmet.fuse(
            states_of(image_output),
            states_of(text_output),
            attention_mask,
            image_present,
            text_present,
            read_positions=CLASS_TOKEN,
            **kwargs,
        )
        return {"image_output": image_output, "text_output": text_output, "multimodal_output": fused}


for _model_class in (MMETImageModel, MMETTextModel, MMETMultimodalModel, MMETModel, MMETForPreTraining, MMETForReID):
    _model_class.register_for_auto_class(next(iter(_model_class._auto_classes)))

__all__ = [
    "LOSS_NAMES",
    "MMETDalleCodebook",
    "MMETForPreTraining",
    "MMETForReID",
    "MMETImageCodebook",
    "MMETImageModel",
    "MMETModel",
    "MMETMultimodalModel",
    "MMETPreTrainedModel",
    "MMETTextModel",
    "batch_hard_triplet_loss",
    "identity_contrastive_loss",
]
