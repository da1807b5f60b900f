# Copyright 2026 The MMET authors. Licensed under the Apache License, Version 2.0.
"""The layers of MMET's encoders: embeddings of images and words, and the pre-norm transformer over them (section 3.2).

`save_pretrained` puts this module beside `modeling_mmet.py`, which imports it.

    >>> embeddings = MMETImageEmbeddings(config.image_config)
    >>> hidden_states, _ = embeddings(pixel_values)  # (B, 1 + num_patches, hidden_size)
"""

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import EllipsisType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from transformers import AutoModel
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import maybe_autocast

try:
    from .configuration_mmet import MMETEncoderConfig, MMETImageConfig, MMETTextConfig
    from .inputs_mmet import check_detail_layer, check_feature_map, check_images
except ImportError:
    from configuration_mmet import MMETEncoderConfig, MMETImageConfig, MMETTextConfig
    from inputs_mmet import check_detail_layer, check_feature_map, check_images

Positions = EllipsisType | tuple[slice, int | slice] | Tensor
"""Index into states `(B, L, D)`: all of them (`...`), `CLASS_TOKEN`, or those where a boolean `(B, L)` is True."""

CLASS_TOKEN: Positions = (slice(None), 0)

_KEPT_OPERATORS = [
    *(getattr(torch.ops.aten, name).default for name in ("mm", "addmm", "bmm", "baddbmm", "native_dropout")),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
]
"""Operations whose results a layer keeps: matrix products, attention, and dropout, which may be part of attention."""


# --- Outputs ---------------------------------------------------------------------------------------------------------


@dataclass
class MMETOutput(ModelOutput):
    """Base class of the outputs of all models."""

    def to_tuple(self) -> tuple:
        """The values that are not `None`, with the encoders' outputs converted to tuples too."""
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
            Hidden states before the final layer norm, which the multimodal encoder reads, as in FLAVA.
        row_features (`torch.FloatTensor` of shape `(batch_size, hidden_size)`): What the row projection of an image
            encoder with `class_token_rows` adds to [CLS_I].
        hidden_states, attentions (`tuple(torch.FloatTensor)`): On request, one for each layer.
    """

    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    pre_norm_hidden_state: torch.FloatTensor | None = None
    row_features: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None

    def as_features(self, pooler_output: Tensor) -> BaseModelOutputWithPooling:
        """This output with another `pooler_output`, in the type that transformers' `get_..._features` return."""
        return BaseModelOutputWithPooling(
            self.last_hidden_state, pooler_output, hidden_states=self.hidden_states, attentions=self.attentions
        )


# --- Embeddings ------------------------------------------------------------------------------------------------------


class MMETStartingLinear(nn.Linear):
    """A linear map whose weight is initialised with zeros, or with ones on its diagonal (`identity`)."""

    def __init__(self, in_features: int, out_features: int, identity: bool = False):
        self.identity = identity
        super().__init__(in_features, out_features)

    def start(self) -> Tensor:
        """Return the initial weight."""
        start = torch.zeros_like(self.weight, requires_grad=False)
        return nn.init.eye_(start) if self.identity else start


class MMETDetails(nn.Module):
    """
    A small network whose output, first zero, is added to [CLS_I]. It reads features of the whole picture, each
    normalised: the stripes' components, the mean colours of a grid, and the components of an earlier map of the
    backbone.
    """

    def __init__(self, config: MMETImageConfig, channels: int):
        super().__init__()
        self.colour_grid, self.detail_grid = config.colour_grid, config.detail_grid
        width = config.hidden_size if config.class_token_rows else 0
        if self.colour_grid:
            width += config.num_channels * math.prod(self.colour_grid)
        self.projection = None
        if self.detail_grid:
            self.projection = MMETStartingLinear(channels * math.prod(self.detail_grid), config.detail_size)
            width += config.detail_size
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = MMETStartingLinear(config.intermediate_size, config.hidden_size)

    def describe_cells(self, detail_map: Tensor) -> Tensor:
        """Compute the means of the grid's cells of an earlier map `(B, C, rows, columns)`: `(B, cells * C)`."""
        return F.adaptive_avg_pool2d(detail_map, self.detail_grid).flatten(2).transpose(1, 2).flatten(1)

    def forward(self, pixel_values: Tensor, row_features: Tensor | None, detail_map: Tensor | None) -> Tensor:
        """Map normalised images `(B, C, H, W)`, the stripes' components `(B, D)` and the earlier map to `(B, D)`."""
        parts = [row_features] if row_features is not None else []
        if self.colour_grid:
            parts.append(F.adaptive_avg_pool2d(pixel_values.to(self.fc1.weight.dtype), self.colour_grid).flatten(1))
        if self.projection is not None:
            parts.append(self.projection(self.describe_cells(detail_map)))
        normalized = torch.cat([F.layer_norm(part, part.shape[1:]) for part in parts], dim=1)
        return self.fc2(self.activation(self.fc1(normalized)))


class MMETImageEmbeddings(nn.Module):
    """
    Overlapping patch projections, [CLS_I] and learned positions; masked patches become a learned [MASK]. With a
    backbone, the cells of its feature map are projected, and it never sees the pixels of masked patches.
    """

    def __init__(self, config: MMETImageConfig):
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.position_embedding = nn.Parameter(torch.empty(1, 1 + config.num_patches, config.hidden_size))
        if config.num_register_tokens:
            self.register_tokens = nn.Parameter(torch.empty(1, config.num_register_tokens, config.hidden_size))
        if config.embedding_norm:
            self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        detail_channels = 0
        if config.backbone_config is None:
            self.backbone = None
            geometry = {"kernel_size": config.patch_size, "stride": config.patch_stride}
            self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, **geometry)
        else:
            self.backbone = AutoModel.from_config(copy.deepcopy(config.backbone_config), attn_implementation="eager")
            channels, detail_channels = self._backbone_channels()
            self.patch_embedding = nn.Conv2d(channels, config.hidden_size, kernel_size=1)
        self.row_channels = self.row_projection = None
        if config.class_token_channels:
            self.row_channels = MMETStartingLinear(channels, config.class_token_channels)
            channels = config.class_token_channels
        if config.class_token_rows:
            self.row_projection = MMETStartingLinear(config.class_token_rows * channels, config.hidden_size)
        self.details = MMETDetails(config, detail_channels) if config.colour_grid or config.detail_grid else None
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.train()

    @torch.no_grad()
    def _backbone_channels(self) -> tuple[int, int]:
        """Find the channels of the backbone's last and earlier map, by a forward pass on the meta device."""
        backbone = copy.deepcopy(self.backbone).to("meta").eval()
        size = self.config.image_size
        pixel_values = torch.empty(1, self.config.num_channels, *size, dtype=backbone.dtype, device="meta")
        output = backbone(pixel_values, output_hidden_states=True, return_dict=True)
        check_feature_map(self.config, size, output.last_hidden_state.shape)
        detail_shape = check_detail_layer(self.config, output.hidden_states) if self.config.detail_grid else [0, 0]
        return output.last_hidden_state.shape[1], detail_shape[1]

    def train(self, mode: bool = True) -> "MMETImageEmbeddings":
        """As in the base class; a frozen backbone stays frozen. (Loading makes new parameters, then calls this.)"""
        super().train(mode)
        if self.config.freeze_backbone:
            self.backbone.requires_grad_(False).eval()
            for projection in self.starting_projections().values():
                projection.requires_grad_(False)
        return self

    def starting_projections(self) -> dict[str, MMETStartingLinear]:
        """The linear maps that are fitted before the first training step, by the option of each."""
        details = self.details.projection if self.details is not None else None
        projections = {
            "class_token_channels": self.row_channels,
            "class_token_rows": self.row_projection,
            "detail_grid": details,
        }
        return {name: projection for name, projection in projections.items() if projection is not None}

    def interpolate_position_embedding(self, rows: int, columns: int) -> Tensor:
        """Position embeddings `(1, 1 + rows * columns, hidden_size)` for another grid, by bicubic interpolation."""
        cls_position, patch_positions = self.position_embedding.split([1, self.config.num_patches], dim=1)
        grid = patch_positions.unflatten(1, self.config.patch_grid).permute(0, 3, 1, 2)
        grid = F.interpolate(grid.float(), size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([cls_position, grid.to(cls_position.dtype).flatten(2).transpose(1, 2)], dim=1)

    def hide_pixels(self, pixel_values: Tensor, masked: Tensor) -> Tensor:
        """Set pixels under masked patches `(B, N)` to 0, the mean, so that overlapping neighbours cannot read them."""
        height, width = pixel_values.shape[-2:]
        masked = masked.float().unflatten(1, self.config.grid_of(height, width)).unsqueeze(1)
        patch = masked.new_ones(1, 1, self.config.patch_size, self.config.patch_size)
        covered = F.conv_transpose2d(masked, patch, stride=self.config.patch_stride) > 0
        covered = F.pad(covered, (0, width - covered.shape[-1], 0, height - covered.shape[-2]))
        return pixel_values.masked_fill(covered, 0)

    def run_backbone(self, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
        """
        The feature map `(B, C, rows, columns)` that patches are projected from (the pixels without a backbone), and
        the earlier map that `detail_grid` reads.
        """
        pixel_values = pixel_values.to(self.patch_embedding.weight.dtype)
        if self.backbone is None:
            return pixel_values, None
        # On a CPU, depthwise convolutions are twice as fast with the channels last.
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        reads_details = self.config.detail_grid is not None
        output = self.backbone(pixel_values, output_hidden_states=reads_details, return_dict=True)
        check_feature_map(self.config, list(pixel_values.shape[-2:]), output.last_hidden_state.shape)
        detail_map = output.hidden_states[self.config.detail_layer] if reads_details else None
        return output.last_hidden_state, detail_map

    def describe_rows(self, features: Tensor) -> Tensor:
        """Means of the stripes of a feature map `(B, C, rows, columns)`: `(B, class_token_rows, C)`."""
        return F.adaptive_avg_pool2d(features, (self.config.class_token_rows, 1)).squeeze(-1).transpose(1, 2)

    def project_rows(self, rows: Tensor) -> Tensor:
        """Map stripes `(B, class_token_rows, C)` to the components `(B, D)` that are added to [CLS_I]."""
        if self.row_channels is not None:
            rows = self.row_channels(rows)
        return self.row_projection(rows.flatten(1))

    def forward(
        self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None, interpolate_pos_encoding: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Compute embeddings `(B, 1 + N, D)`, and the components `(B, D)` that the row projection added to [CLS_I].

        Registers, if the configuration has them, follow the patches.
        """
        check_images(self.config, pixel_values, interpolate_pos_encoding, bool_masked_pos)
        if bool_masked_pos is not None and (self.config.hide_masked_pixels or self.backbone is not None):
            pixel_values = self.hide_pixels(pixel_values, bool_masked_pos.bool())
        features, detail_map = self.run_backbone(pixel_values)
        patches = self.patch_embedding(features)  # (B, D, rows, columns)
        hidden_states = patches.flatten(2).transpose(1, 2)  # (B, N, D)
        if bool_masked_pos is not None:
            mask_token = self.mask_token.to(hidden_states.dtype)
            hidden_states = torch.where(bool_masked_pos.bool().unsqueeze(-1), mask_token, hidden_states)
        cls_token = self.cls_token.to(hidden_states.dtype).expand(hidden_states.shape[0], -1, -1)
        row_features = None
        if self.row_projection is not None:
            row_features = self.project_rows(self.describe_rows(features))
            cls_token = cls_token + row_features.unsqueeze(1)
        if self.details is not None:
            cls_token = cls_token + self.details(pixel_values, row_features, detail_map).unsqueeze(1)
        hidden_states = torch.cat([cls_token, hidden_states], dim=1)
        grid = self.config.grid_of(*pixel_values.shape[-2:])
        fits = grid == self.config.patch_grid
        hidden_states = hidden_states + (
            self.position_embedding if fits else self.interpolate_position_embedding(*grid)
        )
        if self.config.num_register_tokens:
            registers = self.register_tokens.to(hidden_states.dtype).expand(hidden_states.shape[0], -1, -1)
            hidden_states = torch.cat([hidden_states, registers], dim=1)
        if self.config.embedding_norm:
            hidden_states = self.norm(hidden_states)
        return self.dropout(hidden_states), row_features

    def rotary_positions(self, height: int, width: int) -> tuple[Tensor, Tensor] | None:
        """
        Cosines and sines `(L, head_dim)` that rotate queries and keys of an image's tokens, as in DINOv3: by the
        position of a patch, from -1 to 1. Class token and registers are not rotated.
        """
        config = self.config
        if config.rotary_base is None:
            return None
        device, head_dim = self.position_embedding.device, config.hidden_size // config.num_attention_heads
        sides = [
            (2 * torch.arange(cells, dtype=torch.float32, device=device) + 1) / cells - 1
            for cells in config.grid_of(height, width)
        ]
        places = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1).flatten(0, 1)  # (N, 2)
        waves = config.rotary_base ** -torch.arange(0, 1, 4 / head_dim, dtype=torch.float32, device=device)
        angles = (2 * math.pi * places[:, :, None] * waves).flatten(1).tile(2)
        angles = F.pad(angles, (0, 0, 1, config.num_register_tokens))
        return angles.cos(), angles.sin()


class MMETTextEmbeddings(nn.Module):
    """BERT's word and position embeddings with layer norm; a caption is one segment, so there are no token types."""

    def __init__(self, config: MMETTextConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embedding = nn.Parameter(torch.empty(1, config.max_position_embeddings, config.hidden_size))
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.train()

    def train(self, mode: bool = True) -> "MMETTextEmbeddings":
        """As in the base class; frozen word embeddings stay so. (Loading makes new parameters, then calls this.)"""
        super().train(mode)
        if self.config.freeze_token_embedding:
            self.token_embedding.requires_grad_(False)
        return self

    def forward(self, words: Tensor) -> Tensor:
        """Embed token ids `(B, L)`, or word embeddings `(B, L, D)` instead: states `(B, L, D)`."""
        embedded = words if words.is_floating_point() else self.token_embedding(words.long())
        hidden_states = embedded + self.position_embedding[:, : words.shape[1]]
        return self.dropout(self.layer_norm(hidden_states))


# --- Transformer layers ----------------------------------------------------------------------------------------------


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[Tensor, Tensor]:
    """Plain softmax attention: `(B, heads, L, head_dim)` in, `(B, L, heads, head_dim)` and the weights out."""
    scores = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def recompute_norms_and_activations(forward: Callable) -> Callable:
    """
    Make the `forward` of a layer keep only the results of its matrix products and attention for the backward pass.

    The backward pass computes norms, activations and sums again, which is cheap. Gradient checkpointing, which keeps
    less, replaces this if it is on; a compiled graph decides for itself what to keep.
    """

    @functools.wraps(forward)
    def keeping_products(layer: GradientCheckpointingLayer, hidden_states: Tensor, *args, **kwargs) -> Tensor:
        if not layer.training or layer.gradient_checkpointing or torch.compiler.is_compiling():
            return forward(layer, hidden_states, *args, **kwargs)
        context = functools.partial(create_selective_checkpoint_contexts, _KEPT_OPERATORS)
        run = functools.partial(forward, layer, **kwargs)
        device = hidden_states.device.type
        is_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        # Without the cache of cast weights, because the backward pass must repeat what the forward pass does.
        with maybe_autocast(device, enabled=is_autocast, cache_enabled=False):
            return checkpoint(run, hidden_states, *args, use_reentrant=False, context_fn=context)

    return keeping_products


def turn(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate queries or keys `(B, heads, L, head_dim)`; the halves of a head are the two coordinates."""
    first, second = states.chunk(2, dim=-1)
    turned = states.float() * cosines + torch.cat([-second, first], dim=-1).float() * sines
    return turned.to(states.dtype)


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
        output = MMETStartingLinear if config.zero_residuals else nn.Linear
        self.out_proj = output(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        read_positions: Positions = ...,
        rotary: tuple[Tensor, Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[Tensor, Tensor | None]:
        """Map states `(B, L, D)` to those at `read_positions`; also return the weights if the implementation does."""
        batch, length, _ = hidden_states.shape
        qkv = self.qkv_proj(hidden_states).view(batch, length, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, L, head_dim)
        if rotary is not None:
            query, key = turn(query, *rotary), turn(key, *rotary)
        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.dropout if self.training else 0.0
        attended, weights = attention_interface(
            self, query, key, value, attention_mask, scaling=self.scaling, dropout=dropout, **kwargs
        )
        return self.out_proj(attended.reshape(batch, length, -1)[read_positions]), weights


class MMETMLP(nn.Module):
    """Two linear layers around the activation."""

    def __init__(self, config: MMETEncoderConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        output = MMETStartingLinear if config.zero_residuals else nn.Linear
        self.fc2 = output(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
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
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        read_positions: Positions = ...,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Tensor:
        attended, _ = self.attention(self.attention_norm(hidden_states), attention_mask, read_positions, **kwargs)
        hidden_states = hidden_states[read_positions] + self.dropout(attended)
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))


def sees(batch: int, head: int, query: int | Tensor, key: int | Tensor) -> bool | Tensor:
    """Whether a token attends to another if the class token is isolated: no other token attends to it."""
    return (key != 0) | (query == 0)


class MMETTransformer(nn.Module):
    """The layers and the final layer norm, shared by the three encoders."""

    def __init__(self, config: MMETEncoderConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList([MMETLayer(config) for _ in range(config.num_hidden_layers)])
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        read_positions: Positions = ...,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMETEncoderOutput:
        """
        Args:
            hidden_states: `(B, L, D)`.
            attention_mask: `(B, L)`, 1 for positions to attend to, 0 for padding and absent modalities.
            read_positions: The final states that are used. The last layer skips the projection and the MLP of all
                others.

        Returns:
            Final states `(B, L, D)[read_positions]`; `pooler_output` is `None` if `read_positions` is a mask.
        """
        visible = {"and_mask_function": sees} if getattr(self.config, "isolated_class_token", False) else {}
        attention_mask = create_bidirectional_mask(self.config, hidden_states, attention_mask, **visible)
        for layer in self.layers[:-1]:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        if kwargs.get("output_hidden_states", self.config.output_hidden_states):  # they are recorded whole
            hidden_states = self.layers[-1](hidden_states, attention_mask, **kwargs)[read_positions]
        else:
            hidden_states = self.layers[-1](hidden_states, attention_mask, read_positions, **kwargs)
        normed = self.final_norm(hidden_states)
        output = MMETEncoderOutput(last_hidden_state=normed, pre_norm_hidden_state=hidden_states)
        if not isinstance(read_positions, Tensor):
            output.pooler_output = normed[:, 0] if normed.dim() == 3 else normed
        return output
