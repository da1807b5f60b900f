# Copyright 2026 The MMET authors. Licensed under the Apache License, Version 2.0.
"""MMET: image, text and multimodal transformers, the eight training losses, and the identity embedding.

Implements "Learning Robust Visual-Semantic Embedding for Generalizable Person Re-identification" (Xiang et al.,
2023), sections 3.2 and 3.3. Three pre-norm transformers of one architecture: an image encoder over (overlapping)
patches, a text encoder over BERT tokens, and a multimodal encoder that reads [CLS_M] and the states of the modalities
present. Their layers are in `layers_mmet.py`. This module is saved with every checkpoint: it imports only torch,
transformers and its siblings.

    >>> from modeling_mmet import MMETForReID
    >>> model = MMETForReID.from_pretrained("path/to/checkpoint")
    >>> inputs = processor(images=[crop], text=["a woman in a red jacket"], return_tensors="pt")
    >>> model(**inputs).embeddings  # (1, D), unit norm
"""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple, logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

try:
    from .codebooks_mmet import MMETDalleCodebook, MMETImageCodebook
    from .configuration_mmet import MMETConfig, MMETImageConfig, MMETMultimodalConfig, MMETTextConfig
    from .inputs_mmet import (
        IGNORE_INDEX,
        MMETPreTrainingBatch,
        OptionalLabels,
        check_captions,
        check_labels,
        check_pooled_modality,
        check_samples,
        check_states,
        check_targets,
        check_tokens,
        choose_words,
        take,
        text_length,
    )
    from .layers_mmet import (
        CLASS_TOKEN,
        MMETAttention,
        MMETEncoderOutput,
        MMETImageEmbeddings,
        MMETLayer,
        MMETOutput,
        MMETStartingLinear,
        MMETTextEmbeddings,
        MMETTransformer,
        Positions,
    )
    from .objectives_mmet import (
        BOTH_VIEW,
        IMAGE_VIEW,
        LOSS_NAMES,
        MAX_LOGIT_SCALE,
        MIN_LOGIT_SCALE,
        TEXT_VIEW,
        MMETCodePredictionHead,
        MMETIdentityHead,
        MMETIdentityScores,
        MMETMatchingHead,
        MMETTokenPredictionHead,
        batch_hard_triplet_loss,
        contrastive_logits,
        exchange_counts,
        gather_rows,
        identity_contrastive_loss,
        identity_losses,
        losses_span_processes,
        masked_cross_entropy,
        mean_count,
        own_rows,
        weighted_sum,
    )
except ImportError:
    from codebooks_mmet import MMETDalleCodebook, MMETImageCodebook
    from configuration_mmet import MMETConfig, MMETImageConfig, MMETMultimodalConfig, MMETTextConfig
    from inputs_mmet import (
        IGNORE_INDEX,
        MMETPreTrainingBatch,
        OptionalLabels,
        check_captions,
        check_labels,
        check_pooled_modality,
        check_samples,
        check_states,
        check_targets,
        check_tokens,
        choose_words,
        take,
        text_length,
    )
    from layers_mmet import (
        CLASS_TOKEN,
        MMETAttention,
        MMETEncoderOutput,
        MMETImageEmbeddings,
        MMETLayer,
        MMETOutput,
        MMETStartingLinear,
        MMETTextEmbeddings,
        MMETTransformer,
        Positions,
    )
    from objectives_mmet import (
        BOTH_VIEW,
        IMAGE_VIEW,
        LOSS_NAMES,
        MAX_LOGIT_SCALE,
        MIN_LOGIT_SCALE,
        TEXT_VIEW,
        MMETCodePredictionHead,
        MMETIdentityHead,
        MMETIdentityScores,
        MMETMatchingHead,
        MMETTokenPredictionHead,
        batch_hard_triplet_loss,
        contrastive_logits,
        exchange_counts,
        gather_rows,
        identity_contrastive_loss,
        identity_losses,
        losses_span_processes,
        masked_cross_entropy,
        mean_count,
        own_rows,
        weighted_sum,
    )

logger = logging.get_logger(__name__)

_BNNECK = [f"bnneck.{name}" for name in ("weight", "running_mean", "running_var")]
"""Statistics that half precision cannot represent."""

_ZERO_SHOT = {"AutoModelForZeroShotImageClassification": "MMETForZeroShotImageClassification"}
"""Auto classes that each folder with both projections supports as well."""

_PRETRAINING_KEYS = r"^(mim_head|mlm_head|mmm_image_head|mmm_text_head|itm_head|image_codebook)\."
"""Parts of a pretraining checkpoint besides the encoders and the identity head."""


# --- Outputs ---------------------------------------------------------------------------------------------------------


@dataclass
class MMETModelOutput(MMETOutput):
    """
    Output of [`MMETModel`]; fields of an absent modality are `None`.

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
    Output of [`MMETForPreTraining`]. Pairs are the samples with an image and a caption.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`): Weighted sum of the computed losses; `None` if there are none.
        losses (`dict[str, torch.FloatTensor | None]`): Each of `LOSS_NAMES`, unweighted; `None` where not computed.
        mim_logits, mmm_image_logits (`torch.FloatTensor` of shape `(num_masked_patches, codebook_size)`):
            For the masked patches only, in the row-major order of `bool_masked_pos` (for L_MMM: of the matching
            pairs).
        mlm_logits, mmm_text_logits (`torch.FloatTensor` of shape `(num_masked_tokens, vocab_size)`):
            For the masked tokens only, in the row-major order of `mlm_labels` (for L_MMM: of the matching pairs).
        mim_codes, mmm_image_codes (`torch.LongTensor` of shape `(num_masked_patches,)`): Target codes of `mim_logits`
            and `mmm_image_logits`.
        itm_logits (`torch.FloatTensor` of shape `(num_pairs, 2)`): Mismatch and match.
        logits_per_image (`torch.FloatTensor` of shape `(num_pairs, num_pairs)`): Scaled cosine similarities of L_GC
            (the columns are the captions of all processes, if losses span them).
        identity_embeds (`torch.FloatTensor` of shape `(num_views, hidden_size)`): Identity embeddings after the
            BNNeck, of every view.
        identity_logits (`torch.FloatTensor` of shape `(num_views, num_identities)`): Classifier scores of every view.
        image_output, text_output, multimodal_output ([`MMETEncoderOutput`]): The encoders' outputs for the unmasked
            samples, if `output_hidden_states` or `output_attentions` requests them.
        image_masked_output, text_masked_output, multimodal_masked_output ([`MMETEncoderOutput`]): The same for the
            masked inputs; of the pairs, if there are images and captions.
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
class MMETImageTextOutput(MMETOutput):
    """
    Output of [`MMETForZeroShotImageClassification`].

    Args:
        logits_per_image (`torch.FloatTensor` of shape `(num_images, num_sentences)`): Scaled cosine similarities, as
            L_GC compares them.
        logits_per_text (`torch.FloatTensor` of shape `(num_sentences, num_images)`): Transpose of `logits_per_image`.
        image_embeds (`torch.FloatTensor` of shape `(num_images, projection_dim)`): Projected [CLS_I] of unit norm.
        text_embeds (`torch.FloatTensor` of shape `(num_sentences, projection_dim)`): Projected [CLS_T] of unit norm.
    """

    logits_per_image: torch.FloatTensor | None = None
    logits_per_text: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None


@dataclass
class MMETForReIDOutput(MMETOutput):
    """
    Output of [`MMETForReID`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`): L_ID + L_triplet (Eq. 3), with labels.
        embeddings (`torch.FloatTensor` of shape `(batch_size, hidden_size)`): Identity embeddings of unit norm;
            compare by inner product.
        pooler_output: `embeddings` under the name that transformers' pipelines read.
        logits (`torch.FloatTensor` of shape `(batch_size, num_identities)`): Classifier scores, if the model has a
            classifier.
        image_output, text_output, multimodal_output ([`MMETEncoderOutput`]): As in [`MMETForPreTrainingOutput`].
    """

    loss: torch.FloatTensor | None = None
    embeddings: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    image_output: MMETEncoderOutput | None = None
    text_output: MMETEncoderOutput | None = None
    multimodal_output: MMETEncoderOutput | None = None


# --- Pretrained base and the three encoders --------------------------------------------------------------------------


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
    """Auto class -> model class (None: this one) that it loads from a saved folder, see `save_pretrained`."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        std = self.config.initializer_range
        if isinstance(module, MMETStartingLinear):
            init.copy_(module.weight, module.start())
            init.zeros_(module.bias)
        elif std is None and isinstance(module, (nn.Linear, nn.Conv2d)):
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
        elif isinstance(module, MMETTokenPredictionHead):
            init.zeros_(module.bias)
        elif isinstance(module, (MMETImageCodebook, MMETDalleCodebook)):
            for tensor in (*module.parameters(), *module.buffers()):
                init.zeros_(tensor)

    def _token_std(self, name: str, hidden_size: int) -> float:
        """Standard deviation of a class token or of position embeddings, by the parameter's name."""
        config = self.config
        std = config.class_token_initializer_range if name == "cls_token" else config.position_initializer_range
        fallback = config.initializer_range if config.initializer_range is not None else hidden_size**-0.5
        return std if std is not None else fallback

    def save_pretrained(self, save_directory, is_main_process: bool = True, *args, **kwargs):
        """
        As in the base class. The folder also names the classes of its own code for the Auto classes and, for an
        embedder, the modules for sentence-transformers.
        """
        self.config.auto_map = {"AutoConfig": f"configuration_mmet.{type(self.config).__name__}"} | {
            auto_class: f"modeling_mmet.{name or type(self).__name__}"
            for auto_class, name in self._auto_classes.items()
        }
        is_embedder = "MMETForReID" in self.config.auto_map["AutoModel"]
        if is_embedder and is_main_process and not Path(save_directory).is_file():
            write_sentence_modules(Path(save_directory), self.config.identity_pooling)
        return super().save_pretrained(save_directory, is_main_process, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, use_safetensors: bool | None = None, **kwargs):
        """
        As in the base class, but from safetensors only: reading a pickle may run its author's code.

        Raises:
            ValueError: the folder has only other weights, or `use_safetensors=False`.
        """
        expected = "weights are read as safetensors alone, for other formats can run code"
        if use_safetensors is False:
            raise ValueError(f"{expected}: leave out use_safetensors=False")
        files = sorted(Path(pretrained_model_name_or_path).rglob("*")) if pretrained_model_name_or_path else []
        pickles = [path.name for path in files if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        if pickles and not any(path.suffix == ".safetensors" for path in files):
            raise ValueError(
                f"{expected}: expected model.safetensors in {pretrained_model_name_or_path}, received "
                f"{', '.join(pickles)}; save the model again with save_pretrained where you trust these files"
            )
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, use_safetensors=True, **kwargs)
        except OSError as error:
            if "cannot be loaded with `safetensors`" not in str(error):  # which advises what is refused above
                raise
            raise ValueError(
                f"{expected}: expected model.safetensors in {pretrained_model_name_or_path}, received a repository "
                "without it; save the model again with save_pretrained where you trust what is there"
            ) from error

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

        The position embeddings are interpolated bicubically to the new patch grid, and the configuration is updated.
        `interpolate_pos_encoding=True` does the same for one call.

        Args:
            image_size: New (height, width) in pixels, or the side of a square.
            patch_stride: New distance between neighbouring patches; unchanged if not given.

        Returns:
            The model itself.

        Raises:
            ValueError: the model has no image encoder, or the configuration refuses the geometry.
        """
        embeddings = next((module for module in self.modules() if isinstance(module, MMETImageEmbeddings)), None)
        if embeddings is None:
            raise ValueError(f"{type(self).__name__} has no image encoder to resize")
        geometry = {
            "image_size": [image_size, image_size] if isinstance(image_size, int) else list(image_size),
            "patch_stride": embeddings.config.patch_stride if patch_stride is None else patch_stride,
        }
        resized = copy.deepcopy(self.config)
        image_config = getattr(resized, "image_config", resized)
        image_config.update(geometry)
        try:
            image_config.validate()
            resized.validate()
        except StrictDataclassClassValidationError as error:  # nothing was changed yet
            raise ValueError(str(error.__cause__)) from error
        if image_config.patch_grid != embeddings.config.patch_grid:
            positions = embeddings.interpolate_position_embedding(*image_config.patch_grid)
            requires_grad = embeddings.position_embedding.requires_grad
            embeddings.position_embedding = nn.Parameter(positions, requires_grad)
        if embeddings.backbone is None:
            embeddings.patch_embedding.stride = (image_config.patch_stride, image_config.patch_stride)
        for module in self.modules():
            config = getattr(module, "config", None)
            config = getattr(config, "image_config", config)  # of the whole model, or of the image encoder alone
            if isinstance(config, MMETImageConfig):
                config.update(geometry)
        return self


def write_sentence_modules(folder: Path, identity_pooling: str):
    """
    Write the files that `SentenceTransformer(folder)` reads, so that its own modules give the `embeddings` of
    sentences, images, or both. The module after the model only names the output; the library reads its width from the
    configuration.
    """
    modalities = ("image", "text", "image+text") if identity_pooling == "multimodal" else (identity_pooling,)
    reading = {"method": "forward", "method_output_name": "pooler_output"}
    library = "sentence_transformers.base.modules"
    files = {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": f"{library}.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Normalize", "type": f"{library}.Normalize"},
        ],
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": dict.fromkeys(modalities, reading),
            "module_output_name": "embedding",
        },
        "1_Normalize/config.json": {
            "module_input_name": "embedding",
            "module_output_name": "sentence_embedding",
        },
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "similarity_fn_name": "cosine",
            "prompts": {},
        },
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


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
        read_positions: Positions = ...,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMETEncoderOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`): Normalised images.
            bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, num_patches)`, *optional*): True where a patch
                is hidden.
            interpolate_pos_encoding: Whether images of another size than `config.image_size` are accepted.
            read_positions: As in [`MMETTransformer`].
        """
        hidden_states, row_features = self.embeddings(pixel_values, bool_masked_pos, interpolate_pos_encoding)
        registers = self.config.num_register_tokens
        if registers and read_positions is ...:  # they come last, and nobody reads them
            read_positions = (slice(None), slice(-registers))
        elif registers and isinstance(read_positions, Tensor):
            read_positions = F.pad(read_positions, (0, registers))
        rotary = self.embeddings.rotary_positions(*pixel_values.shape[-2:])
        if rotary is not None:
            kwargs["rotary"] = rotary
        output = self.encoder(hidden_states, read_positions=read_positions, **kwargs)
        output.row_features = row_features
        return output


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
                embeddings instead of `input_ids`, as `get_input_embeddings()` returns them: without positions.
        """
        name, words = choose_words(input_ids, inputs_embeds)
        if words is None:
            raise ValueError("expected input_ids or inputs_embeds, received neither")
        check_captions(self.config, name, words, attention_mask)
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
        class_states: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMETEncoderOutput:
        r"""
        Args:
            hidden_states (`torch.FloatTensor` of shape `(batch_size, length, hidden_size)`): Projected states,
                without [CLS_M].
            attention_mask (`torch.LongTensor` of shape `(batch_size, length)`, *optional*): 1 for states that are
                present.
            class_states (`torch.FloatTensor` of shape `(batch_size, hidden_size)`, *optional*): States added to
                [CLS_M] before the first layer.
        """
        check_states(self.config, hidden_states, attention_mask)
        cls_token = self.cls_token.to(hidden_states.dtype).expand(hidden_states.shape[0], -1, -1)
        if class_states is not None:
            cls_token = cls_token + class_states.unsqueeze(1)
        hidden_states = torch.cat([cls_token, hidden_states], dim=1)
        if attention_mask is not None:
            attention_mask = F.pad(attention_mask, (1, 0), value=1)  # [CLS_M] is always there
        return self.encoder(hidden_states, attention_mask, **kwargs)


# --- The model -------------------------------------------------------------------------------------------------------


def encode_present(
    encoder: Callable, present: Tensor | None, *inputs: Tensor | None, **kwargs
) -> MMETEncoderOutput | None:
    """
    Run `encoder(*inputs, **kwargs)` only on the samples that are present.

    A compiled or exported graph cannot depend on their number: there the encoder reads all samples, with neutral
    inputs for the absent ones.

    Args:
        present: `(B,)` booleans; `None` if all samples are present.
        inputs: The encoder's inputs, `B` rows each; the first is `None` if the modality is absent.

    Returns:
        The output for all `B` samples, with zeros for absent ones; `None` if no sample is present.
    """
    if inputs[0] is None:
        return None
    if present is None:
        return encoder(*inputs, **kwargs, return_dict=True)
    present = present.bool()
    if torch.compiler.is_compiling():
        words, *masks = inputs
        neutral = (fill_rows(words, ~present, 0), *(fill_rows(mask, ~present, 1) for mask in masks))
        output = encoder(*neutral, **kwargs, return_dict=True)
        return change_rows(output, lambda states: fill_rows(states, ~present, 0))
    rows = present.nonzero().flatten()
    if not len(rows):
        return None
    if len(rows) == len(present):
        return encoder(*inputs, **kwargs, return_dict=True)
    output = encoder(*(take(value, rows) for value in inputs), **kwargs, return_dict=True)
    return change_rows(
        output, lambda states: states.new_zeros(len(present), *states.shape[1:]).index_copy(0, rows, states)
    )


def fill_rows(tensor: Tensor | None, rows: Tensor, value: int) -> Tensor | None:
    """Fill the rows of a batch `(B, ...)` with `value` where `rows` `(B,)` is True."""
    return None if tensor is None else tensor.masked_fill(rows.reshape(-1, *[1] * (tensor.dim() - 1)), value)


def change_rows(output: MMETEncoderOutput, change: Callable[[Tensor], Tensor]) -> MMETEncoderOutput:
    """Apply a function to each tensor of an output."""
    return MMETEncoderOutput(
        **{
            name: tuple(map(change, value)) if isinstance(value, tuple) else change(value)
            for name, value in output.items()
        }
    )


class MMETCompositeModel(MMETPreTrainedModel):
    """Base class of the models with an [`MMETConfig`]: features of each kind, and the word embeddings."""

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
        Image features for contrastive use: `pooler_output` is the projected [CLS_I] `(batch_size, projection_dim)`,
        not normalised; the other fields are those of the image encoder. Arguments as in [`MMETImageModel`].
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
        Text features for contrastive use: `pooler_output` is the projected [CLS_T] `(batch_size, projection_dim)`, not
        normalised; the other fields are those of the text encoder. Arguments as in [`MMETTextModel`].
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
        Features of the given modalities: `pooler_output` is h_CLS,M `(batch_size, hidden_size)`, the other fields are
        those of the multimodal encoder. Arguments as in [`MMETModel`].
        """
        kwargs |= {"image_present": image_present, "text_present": text_present, "inputs_embeds": inputs_embeds}
        kwargs |= {"interpolate_pos_encoding": interpolate_pos_encoding, "return_dict": True}
        output = self.base_model(pixel_values, input_ids, attention_mask, **kwargs).multimodal_output
        return output.as_features(output.pooler_output)

    def _records_states(self, **kwargs) -> bool:
        """Whether an argument or the configuration of an encoder requests hidden states or attentions."""
        encoders = (self.base_model.image_model, self.base_model.text_model, self.base_model.multimodal_model)
        names = ("output_hidden_states", "output_attentions")
        return any(kwargs.get(name, getattr(encoder.config, name)) for name in names for encoder in encoders)


class MMETModel(MMETCompositeModel):
    """
    The three encoders together. Any non-empty subset of {image, text} may be given, also sample by sample.

    Each encoder runs on the samples that have its modality, so an absent modality costs nothing and its content never
    reaches an output or a gradient. A modality that no sample of the batch has counts as not given.
    """

    base_model_prefix = "mmet"
    _auto_classes = {"AutoModel": None, "AutoModelForPreTraining": "MMETForPreTraining"} | _ZERO_SHOT
    _keys_to_ignore_on_load_unexpected = [_PRETRAINING_KEYS, r"^identity_head\."]  # noqa: RUF012

    def __init__(self, config: MMETConfig):
        super().__init__(config)
        image_size, text_size = config.image_config.hidden_size, config.text_config.hidden_size
        multimodal_size = config.multimodal_config.hidden_size
        self.image_model = MMETImageModel._from_config(config.image_config)
        self.text_model = MMETTextModel._from_config(config.text_config)
        self.multimodal_model = MMETMultimodalModel._from_config(config.multimodal_config)
        self.image_to_multimodal = (
            MMETStartingLinear(image_size, multimodal_size, identity=True)
            if config.multimodal_config.start_from_class_tokens
            else nn.Linear(image_size, multimodal_size)
        )
        self.text_to_multimodal = nn.Linear(text_size, multimodal_size)
        self.image_projection = nn.Linear(image_size, config.projection_dim)
        self.text_projection = nn.Linear(text_size, config.projection_dim)
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
        """The image encoder's output for the whole batch, with zeros for absent images; `None` if there are none."""
        return encode_present(self.image_model, image_present, pixel_values, bool_masked_pos, **kwargs)

    def encode_texts(
        self,
        input_ids: Tensor | None,
        attention_mask: torch.LongTensor | None = None,
        text_present: torch.BoolTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMETEncoderOutput | None:
        """The same for the text encoder, with token ids `(B, L)` or embeddings `(B, L, D)` instead."""

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
        projected, masks = [], []
        for states, projection, mask, present in (
            (image_states, self.image_to_multimodal, None, image_present),
            (text_states, self.text_to_multimodal, attention_mask, text_present),
        ):
            if states is None:
                continue
            states = projection(states)
            if present is not None:
                present = present.bool()[:, None]
                # Zeroed as well as masked: 0 * NaN in the attention sum would let an invalid absent input through.
                states = states.masked_fill(~present.unsqueeze(-1), 0)
                mask = present.expand(states.shape[:2]) if mask is None else mask.bool() & present
            projected.append(states)
            masks.append(mask)
        joined = None
        if any(mask is not None for mask in masks):
            masks = [
                states.new_ones(states.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
                for states, mask in zip(projected, masks, strict=True)
            ]
            joined = torch.cat(masks, dim=1)
        if self.config.multimodal_config.start_from_class_tokens:
            kwargs["class_states"] = sum(states[:, 0] for states in projected)  # 0 where a modality is absent
        return self.multimodal_model(torch.cat(projected, dim=1), joined, **kwargs, return_dict=True)

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
            image_present, text_present (`torch.BoolTensor` of shape `(batch_size,)`, *optional*):
                Which samples have an image, a text; all of them when not given.
            pixel_values, bool_masked_pos, interpolate_pos_encoding: As in [`MMETImageModel`].
            input_ids, attention_mask, inputs_embeds: As in [`MMETTextModel`].

        Raises:
            ValueError: the batch or a sample has no modality, or an input has an unexpected shape, dtype or value.
        """
        name, words = choose_words(input_ids, inputs_embeds)
        captions = {name: (words, attention_mask)}
        check_samples(self.config, pixel_values, captions, image_present, text_present, interpolate_pos_encoding)
        image_output = self.encode_images(
            pixel_values, bool_masked_pos, image_present, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs
        )
        text_output = self.encode_texts(words, attention_mask, text_present, **kwargs)
        multimodal_output = self.fuse(
            states_of(image_output), states_of(text_output), attention_mask, image_present, text_present, **kwargs
        )
        return MMETModelOutput(
            image_embeds=image_output.last_hidden_state if image_output is not None else None,
            text_embeds=text_output.last_hidden_state if text_output is not None else None,
            multimodal_embeds=multimodal_output.last_hidden_state,
            image_output=image_output,
            text_output=text_output,
            multimodal_output=multimodal_output,
        )


def states_of(output: MMETEncoderOutput | None) -> Tensor | None:
    """The states of an encoder that the multimodal encoder reads; `None` if the encoder did not run."""
    return None if output is None else output.pre_norm_hidden_state


def recorded(**outputs: MMETEncoderOutput | None) -> dict[str, MMETEncoderOutput]:
    """The encoders' outputs with requested hidden states or attentions, by name."""
    return {
        name: output
        for name, output in outputs.items()
        if output is not None and (output.hidden_states or output.attentions)
    }


# --- Pretraining -----------------------------------------------------------------------------------------------------


class MMETPrediction(NamedTuple):
    """A loss with its logits `(N, num_classes)` and labels `(N,)`; `None` if it was not computed."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    labels: Tensor | None = None


class MMETIdentityViews(NamedTuple):
    """
    Features of views `(num_views, D)`, the sample of each `(num_views,)`, its kind `(num_views,)` (`IMAGE_VIEW`,
    `TEXT_VIEW` or `BOTH_VIEW`), and the multimodal encoder's output for the unchanged samples.
    """

    features: Tensor
    rows: Tensor
    kinds: Tensor
    multimodal_output: MMETEncoderOutput | None = None


class MMETForPreTraining(MMETCompositeModel):
    """
    MMET with its eight losses. A loss is computed if and only if its inputs are given and its weight is not 0.

    | batch | inputs | losses |
    | --- | --- | --- |
    | image only | `pixel_values`, `bool_masked_pos` | L_MIM on the image encoder |
    | text only | `input_ids_masked`, `mlm_labels` | L_MLM on the text encoder |
    | paired | the above together, at least one of them masked | L_MMM on the multimodal encoder |
    | paired | the same with `itm_labels` | L_ITM on h_CLS,M of the masked pair |
    | paired | `pixel_values`, `input_ids` | L_GC between [CLS_I] and [CLS_T] |
    | labelled | any of image and text, `person_labels` | L_ID and L_triplet on the identity embedding |

    In training on several processes (the default group of `torch.distributed`), losses are computed over the batches
    of all processes: negatives, triplets and the BNNeck's statistics include all of them, and the mean of the
    processes' losses and gradients is that of one process with the whole batch. All processes must have the same kinds
    of inputs.
    """

    _auto_classes = {"AutoModelForPreTraining": None, "AutoModel": "MMETForReID"} | _ZERO_SHOT
    # Besides the BNNeck, the codebook: its codes must not change.
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
        self.itm_head = MMETMatchingHead(config)
        self.identity_head = MMETIdentityHead(config)
        self.post_init()

    def _resize_token_embeddings(
        self, new_num_tokens: int | None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """As in the base class, including the text prediction heads: their decoders, tied or not, and their biases."""
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
            input_ids (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*): Each image's own caption,
                unmasked.
            attention_mask (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*): 1 for tokens of
                `input_ids`.
            input_ids_masked (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*): Captions with
                masked tokens; if `itm_labels` is 0, those of another person.
            masked_attention_mask (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*): 1 for tokens
                of `input_ids_masked`; `attention_mask` when not given.
            mim_labels (`torch.LongTensor` of shape `(batch_size, num_patches)`, *optional*): Image codes; by default
                those of the model's own codebook.
            mlm_labels (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*): Original tokens of
                `input_ids_masked` where masked, -100 elsewhere.
            itm_labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*): 1 where `input_ids_masked` describes
                the image, 0 where it does not, -100 where that is unknown: such a pair is in neither L_ITM nor L_MMM.
            person_labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*): Classes in `[0, num_identities)`,
                -100 for unknown; with these labels, L_ID and L_triplet are computed.
            person_ids (`torch.LongTensor` of shape `(batch_size,)`, *optional*): Any integers that tell persons apart
                (negative: unknown) for L_GC alone; `person_labels` when not given.
            image_present, text_present (`torch.BoolTensor` of shape `(batch_size,)`, *optional*): Which samples have
                an image, a caption; all of them when not given. L_MMM, L_ITM and L_GC are of the samples with both,
                L_ID and L_triplet of all (with `identity_pooling` of image or text: of those that have it).
            return_loss: Whether to sum the computed losses to `loss`.
            pixel_values, bool_masked_pos, interpolate_pos_encoding, inputs_embeds: As in [`MMETModel`].

        Raises:
            ValueError: there is no sample, a sample has no modality, an input has an unexpected shape, dtype or value,
                or L_MIM or L_MMM lacks codes (`mim_labels` or a fitted codebook).
        """
        name, words = choose_words(input_ids, inputs_embeds)
        batch = MMETPreTrainingBatch(
            pixel_values=pixel_values,
            input_ids=words,
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
        captions = {name: (words, attention_mask), "input_ids_masked": (input_ids_masked, batch.masked_attention_mask)}
        batch_size = check_samples(
            self.config, pixel_values, captions, image_present, text_present, interpolate_pos_encoding
        )
        check_targets(self.config, batch, batch_size)
        if losses_span_processes(self):
            counts = exchange_counts(batch.inputs(), batch.count_targets(batch_size), self.device)
            batch = replace(batch, counts=counts)
        if not self._records_states(**kwargs):
            batch = batch.without_common_padding()
        image_kwargs = {**kwargs, "interpolate_pos_encoding": interpolate_pos_encoding}
        if pixel_values is None:
            masked = self._masked_language_modeling(batch, **kwargs)
        elif words is None and input_ids_masked is None:
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
        batch = batch.of_pairs()
        num_patches = math.prod(self.config.image_config.grid_of(*batch.pixel_values.shape[-2:]))
        patches, tokens = batch.masked_parts(num_patches, wants_image, wants_text)
        # The states of [CLS_M], [CLS_I], patches and tokens that each head reads.
        class_tokens = F.pad(patches.new_full((len(patches), 1), wants_itm), (0, 1 + num_patches + tokens.shape[1]))
        masked_patches = F.pad(patches, (2, tokens.shape[1]))
        masked_tokens = F.pad(tokens, (2 + num_patches, 0))
        positions = class_tokens | masked_patches | masked_tokens
        states, encoder_outputs = self._masked_states(batch, positions, **kwargs)
        codes = words = matches = MMETPrediction()
        if wants_image:
            codes = self._predict_codes(self.mmm_image_head, states[masked_patches[positions]], batch, patches)
        if wants_text:
            words = self._predict_tokens(self.mmm_text_head, states[masked_tokens[positions]], batch, tokens)
        if wants_itm:
            matches = self._predict_matches(states[class_tokens[positions]], encoder_outputs, batch)
        return MMETForPreTrainingOutput(
            losses={"mmm_image": codes.loss, "mmm_text": words.loss, "itm": matches.loss},
            mmm_image_logits=codes.logits,
            mmm_image_codes=codes.labels,
            mmm_text_logits=words.logits,
            itm_logits=matches.logits,
            **recorded(**encoder_outputs),
        )

    def _masked_states(
        self, batch: MMETPreTrainingBatch, positions: Tensor, **kwargs
    ) -> tuple[Tensor, dict[str, MMETEncoderOutput]]:
        """The multimodal encoder's states of masked pairs at `positions` `(num_read, D)`, and all encoder outputs."""
        captions, attention_mask = batch.input_ids_masked, batch.masked_attention_mask
        if not len(captions):  # encoders read no empty batch; the heads turn no states into a zero with gradient
            width = self.config.multimodal_config.hidden_size
            return torch.zeros(0, width, dtype=self.dtype, device=captions.device), {}
        image_output = self.mmet.encode_images(batch.pixel_values, batch.bool_masked_pos, **kwargs)
        text_output = self.mmet.encode_texts(captions, attention_mask, **kwargs)
        fused = self.mmet.fuse(
            states_of(image_output), states_of(text_output), attention_mask, read_positions=positions, **kwargs
        )
        return fused.last_hidden_state, {
            "image_masked_output": image_output,
            "text_masked_output": text_output,
            "multimodal_masked_output": fused,
        }

    def _predict_codes(
        self, head: MMETCodePredictionHead, states: Tensor, batch: MMETPreTrainingBatch, masked: Tensor
    ) -> MMETPrediction:
        """Codes of the patches `masked` `(B, N)` from their states `(num_masked, D)`."""
        labels = batch.mim_labels
        labels = labels[masked] if labels is not None else self.image_codebook(batch.pixel_values, masked)
        logits, count = head(states), mean_count(batch.counts, "masked_patches", len(labels))
        return MMETPrediction(masked_cross_entropy(logits, labels, count), logits, labels)

    def _predict_tokens(
        self, head: MMETTokenPredictionHead, states: Tensor, batch: MMETPreTrainingBatch, masked: Tensor
    ) -> MMETPrediction:
        """Words of the tokens `masked` `(B, L)` from their states `(num_masked, D)`."""
        labels = batch.mlm_labels[masked]
        logits, count = head(states), mean_count(batch.counts, "masked_tokens", len(labels))
        return MMETPrediction(masked_cross_entropy(logits, labels, count), logits, labels)

    def _predict_matches(
        self, cls_states: Tensor, encoder_outputs: dict[str, MMETEncoderOutput], batch: MMETPreTrainingBatch
    ) -> MMETPrediction:
        """L_ITM from h_CLS,M of the pairs `(B, D)`."""
        image_states, text_states = (
            states_of(encoder_outputs.get(f"{name}_masked_output")) for name in ("image", "text")
        )
        logits, labels = self.matching_logits(cls_states, image_states, text_states), batch.itm_labels
        known = labels != IGNORE_INDEX
        count = mean_count(batch.counts, "known_pairs", len(labels[known]))
        return MMETPrediction(masked_cross_entropy(logits[known], labels[known], count), logits, labels)

    def matching_logits(self, cls_states: Tensor, image_states: Tensor, text_states: Tensor) -> Tensor:
        """
        Logits `(batch_size, 2)`, mismatch and match, that L_ITM's head gives to pairs.

        Args:
            cls_states: h_CLS,M of the pairs, `(batch_size, hidden_size)`.
            image_states, text_states: `pre_norm_hidden_state` of the image and the text encoder, which
                `MMETModel.fuse` made them from.
        """
        class_tokens = None
        if self.itm_head.comparison is not None:
            mmet, width = self.mmet, cls_states.shape[1]
            class_tokens = tuple(
                projection(states[:, 0]) if states is not None else cls_states.new_zeros(0, width)
                for projection, states in (
                    (mmet.image_to_multimodal, image_states),
                    (mmet.text_to_multimodal, text_states),
                )
            )
        return self.itm_head(cls_states, class_tokens)

    def _clean_objectives(self, batch: MMETPreTrainingBatch, **kwargs) -> MMETForPreTrainingOutput:
        """Compute L_GC, L_ID and L_triplet, which read unmasked inputs and share the unimodal encoders' passes."""
        has_content = batch.pixel_values is not None or batch.input_ids is not None
        contrasts = batch.is_paired and self._wants("global_contrastive")
        identifies = has_content and batch.person_labels is not None and self._wants("identity", "triplet")
        if not (contrasts or identifies):
            return MMETForPreTrainingOutput(losses={})
        # Only the multimodal identity embedding needs more than the class tokens of the unimodal encoders.
        fuses = identifies and self.config.identity_pooling == "multimodal"
        kwargs["read_positions"] = ... if fuses else CLASS_TOKEN
        image_output = self.mmet.encode_images(batch.pixel_values, image_present=batch.image_present, **kwargs)
        text_output = self.mmet.encode_texts(batch.input_ids, batch.attention_mask, batch.text_present, **kwargs)
        contrast, views, scores = MMETPrediction(), None, MMETIdentityScores()
        if contrasts:
            contrast = self._contrast_pairs(batch, image_output, text_output)
        if identifies:
            views = self._identity_views(batch, image_output, text_output, **kwargs)
            max_views = batch.counts["views"] if batch.counts is not None else None
            kept = None
            if image_output is not None and image_output.row_features is not None:
                kept = image_output.row_features[views.rows] * (views.kinds == IMAGE_VIEW).unsqueeze(1)
            labels = batch.person_labels[views.rows]
            scores = identity_losses(self, views.features, labels, max_views, views.kinds, kept)
        return MMETForPreTrainingOutput(
            losses={"global_contrastive": contrast.loss} | scores.losses,
            logits_per_image=contrast.logits,
            identity_embeds=scores.embeddings,
            identity_logits=scores.logits,
            **recorded(
                image_output=image_output, text_output=text_output, multimodal_output=views and views.multimodal_output
            ),
        )

    def _contrast_pairs(
        self,
        batch: MMETPreTrainingBatch,
        image_output: MMETEncoderOutput | None,
        text_output: MMETEncoderOutput | None,
    ) -> MMETPrediction:
        """L_GC of the samples with image and caption; an encoder without input has the output `None`."""
        pairs = batch.pairs
        image_features, text_features = (
            projection(output.pooler_output[pairs])
            if output is not None
            else projection.weight.new_zeros(0, projection.out_features)
            for projection, output in (
                (self.mmet.image_projection, image_output),
                (self.mmet.text_projection, text_output),
            )
        )
        person_ids = take(batch.person_ids if batch.person_ids is not None else batch.person_labels, pairs)
        loss, logits = self._contrast(image_features, text_features, person_ids, batch.counts)
        return MMETPrediction(loss, logits)

    def _contrast(
        self,
        image_features: Tensor,
        text_features: Tensor,
        person_ids: Tensor | None,
        counts: dict[str, list[int]] | None,
    ) -> tuple[Tensor, Tensor]:
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
            rows = rows if present is None else rows[present.bool()]
            kind = IMAGE_VIEW if pooling == "image" else TEXT_VIEW
            return MMETIdentityViews(output.pooler_output[rows], rows, torch.full_like(rows, kind))
        kwargs["read_positions"] = CLASS_TOKEN
        image_states, text_states = states_of(image_output), states_of(text_output)
        presence = batch.image_present, batch.text_present
        fused = self.mmet.fuse(image_states, text_states, batch.attention_mask, *presence, **kwargs)
        views = [fused.pooler_output]
        rows = [torch.arange(len(views[0]), device=views[0].device)]
        kinds = [torch.full_like(rows[0], TEXT_VIEW if image_states is None else IMAGE_VIEW)]
        if image_states is not None and text_states is not None:
            kinds[0][batch.pairs] = BOTH_VIEW
            if batch.image_present is not None:
                kinds[0][~batch.image_present.bool()] = TEXT_VIEW
        if self.training and self.config.modality_dropout > 0 and batch.is_paired:
            image_rows, text_rows = self._draw_dropped(rows[0][batch.pairs], batch.counts)
            for kind, dropped, contents in (
                (IMAGE_VIEW, image_rows, {"image_states": image_states}),
                (TEXT_VIEW, text_rows, {"text_states": text_states, "attention_mask": batch.attention_mask}),
            ):
                if len(dropped):
                    contents = {name: take(value, dropped) for name, value in contents.items()}
                    views.append(self.mmet.fuse(**contents, read_positions=CLASS_TOKEN).pooler_output)
                    rows.append(dropped)
                    kinds.append(torch.full_like(dropped, kind))
        return MMETIdentityViews(torch.cat(views), torch.cat(rows), torch.cat(kinds), fused)

    def _draw_dropped(self, pairs: Tensor, counts: dict[str, list[int]] | None) -> tuple[Tensor, Tensor]:
        """
        Choose which pairs `(num_pairs,)` are seen again as the image alone, and which as the text alone.

        On several processes, one draw is made from the pairs of all: processes with equal random states, as in
        training, drop the same modalities as one process would.
        """
        total = pairs.shape[0] if counts is None else sum(counts["pairs"])
        # Not randperm: inductor (torch 2.13) fails on a slice of one as an index.
        shuffled = torch.rand(total, device=pairs.device).argsort()
        share = self.config.modality_dropout
        halves = shuffled[: round(share * total)].tensor_split(2)
        if share > 1:  # the halves overlap
            count = round(share / 2 * total)
            halves = (shuffled[:count], shuffled[total - count :])
        if counts is None:
            return tuple(pairs[half] for half in halves)
        rows = own_rows(counts["pairs"])
        return tuple(pairs[half[(half >= rows.start) & (half < rows.stop)] - rows.start] for half in halves)


# --- Re-identification -----------------------------------------------------------------------------------------------


class MMETForReID(MMETCompositeModel):
    """MMET as a person embedder: an image, a text or both become one comparable embedding of unit norm."""

    _auto_classes = {"AutoModel": None, "AutoModelForPreTraining": "MMETForPreTraining"} | _ZERO_SHOT
    _keep_in_fp32_modules_strict = [*_BNNECK]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = [_PRETRAINING_KEYS]  # noqa: RUF012

    def __init__(self, config: MMETConfig):
        super().__init__(config)
        self.mmet = MMETModel._from_config(config)
        self.identity_head = MMETIdentityHead(config)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in the base class, with a warning if the identity head was never trained."""
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
            labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*): Classes in `[0, num_identities)`, -100
                for unknown.
            pixel_values, input_ids, attention_mask, inputs_embeds: As in [`MMETModel`].
            image_present, text_present, interpolate_pos_encoding: As in [`MMETModel`].

        Raises:
            ValueError: a sample has no modality or lacks that of `config.identity_pooling`, or an input has an
                unexpected shape, dtype or value.
        """
        config = self.config
        name, words = choose_words(input_ids, inputs_embeds)
        captions = {name: (words, attention_mask)}
        batch_size = check_samples(
            config, pixel_values, captions, image_present, text_present, interpolate_pos_encoding
        )
        check_labels(labels, batch_size, config.num_identities)
        if not self._records_states(**kwargs):
            length = text_length(attention_mask, words)
            attention_mask, words = (take(value, (slice(None), slice(length))) for value in (attention_mask, words))
        encoded = self._encode(
            pixel_values, words, attention_mask, image_present, text_present, interpolate_pos_encoding, **kwargs
        )
        features = encoded[f"{config.identity_pooling}_output"].pooler_output
        if labels is None:
            scores = MMETIdentityScores(*self.identity_head(features))
        else:
            num_rows = None
            if losses_span_processes(self):
                num_rows = exchange_counts({"labels": labels}, {"rows": batch_size}, labels.device)["rows"]
            scores = identity_losses(self, features, labels, num_rows)
        embeddings = F.normalize(scores.embeddings.float())
        return MMETForReIDOutput(
            loss=weighted_sum(config, scores.losses),
            embeddings=embeddings,
            pooler_output=embeddings,
            logits=scores.logits,
            **recorded(**encoded),
        )

    def _encode(
        self, pixel_values, words, attention_mask, image_present, text_present, interpolate_pos_encoding, **kwargs
    ) -> dict[str, MMETEncoderOutput | None]:
        """Outputs of the encoders that `config.identity_pooling` needs, by their names in [`MMETForReIDOutput`]."""
        pooling = self.config.identity_pooling
        image_kwargs = {**kwargs, "interpolate_pos_encoding": interpolate_pos_encoding}
        if pooling == "image":
            check_pooled_modality(pooling, "pixel_values", pixel_values, image_present)
            return {"image_output": self.mmet.encode_images(pixel_values, read_positions=CLASS_TOKEN, **image_kwargs)}
        if pooling == "text":
            check_pooled_modality(pooling, "input_ids", words, text_present)
            return {"text_output": self.mmet.encode_texts(words, attention_mask, read_positions=CLASS_TOKEN, **kwargs)}
        image_output = self.mmet.encode_images(pixel_values, image_present=image_present, **image_kwargs)
        text_output = self.mmet.encode_texts(words, attention_mask, text_present, **kwargs)
        states = states_of(image_output), states_of(text_output)
        fused = self.mmet.fuse(
            *states, attention_mask, image_present, text_present, read_positions=CLASS_TOKEN, **kwargs
        )
        return {"image_output": image_output, "text_output": text_output, "multimodal_output": fused}


class MMETForZeroShotImageClassification(MMETCompositeModel):
    """Zero-shot classification: compare every image with every sentence, as L_GC does; sentences are the classes."""

    _auto_classes = {"AutoModelForZeroShotImageClassification": None, "AutoModel": "MMETModel"}  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = [_PRETRAINING_KEYS, r"^identity_head\."]  # noqa: RUF012

    def __init__(self, config: MMETConfig):
        super().__init__(config)
        self.mmet = MMETModel._from_config(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        interpolate_pos_encoding: bool = False,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMETImageTextOutput:
        r"""
        Args:
            pixel_values, interpolate_pos_encoding: As in [`MMETImageModel`].
            input_ids, attention_mask, inputs_embeds: As in [`MMETTextModel`]; as many sentences as there are classes.
        """
        kwargs["return_dict"] = True
        images = self.get_image_features(pixel_values, interpolate_pos_encoding, **kwargs).pooler_output
        texts = self.get_text_features(input_ids, attention_mask, inputs_embeds, **kwargs).pooler_output
        logits = contrastive_logits(images, texts, self.mmet.logit_scale)
        return MMETImageTextOutput(
            logits_per_image=logits,
            logits_per_text=logits.T,
            image_embeds=F.normalize(images.float()),
            text_embeds=F.normalize(texts.float()),
        )


for _model_class in (
    MMETImageModel,
    MMETTextModel,
    MMETMultimodalModel,
    MMETModel,
    MMETForPreTraining,
    MMETForReID,
    MMETForZeroShotImageClassification,
):
    _model_class.register_for_auto_class(next(iter(_model_class._auto_classes)))

__all__ = [
    "LOSS_NAMES",
    "MMETDalleCodebook",
    "MMETForPreTraining",
    "MMETForReID",
    "MMETForZeroShotImageClassification",
    "MMETImageCodebook",
    "MMETImageModel",
    "MMETModel",
    "MMETMultimodalModel",
    "MMETPreTrainedModel",
    "MMETTextModel",
    "batch_hard_triplet_loss",
    "identity_contrastive_loss",
]
