# Copyright 2026 The MMET authors. Licensed under the Apache License, Version 2.0.
"""MMET configuration: one object for the whole model and one for each of its three encoders.

The defaults are the paper's: ViT-B/16 for image, text and multimodal encoder; 256x128 crops, cut into overlapping
16-pixel patches every 12 pixels (21x10 = 210 patches); all eight losses. (The collator masks 15 %.) This module is
saved with every checkpoint, so it imports only transformers.
"""

import math

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import SubConfigSpec

IDENTITY_POOLINGS = ("multimodal", "image", "text")
CODEBOOK_TYPES = ("kmeans", "dalle")
KMEANS_CODES = 1024
DALLE_CODEBOOK = {
    "num_groups": 4,
    "num_blocks_per_group": 2,
    "hidden_size": 256,
    "input_channels": 3,
    "vocab_size": 8192,
}
"""Sizes of DALL-E's encoder, the defaults of transformers' `FlavaImageCodebookConfig`."""

PATCH_SIZE = 16
PATCH_STRIDE = 12
BACKBONE_STRIDE = 32
"""Default geometry in pixels: the paper's, and the distance between cells of a convolutional network's last map."""

MAX_WIDTH = 2**16
MAX_LAYERS = 2**10
MAX_POSITIONS = 2**16
MAX_WORDS = 2**24
"""Largest accepted sizes: a larger one is taken for a mistake, which would otherwise exhaust the memory."""


def _check_number(name, value, at_least=-math.inf, at_most=math.inf, below=math.inf):
    """Raise `ValueError` for a number that is out of range; `None` is always accepted."""
    if value is None or (math.isfinite(value) and at_least <= value <= at_most and value < below):
        return
    bounds = {"at least": at_least, "at most": at_most, "below": below}
    expected = " and ".join(f"{words} {bound}" for words, bound in bounds.items() if math.isfinite(bound))
    raise ValueError(f"{name} must be {expected or 'finite'}; got {value}")


class MMETEncoderConfig(PreTrainedConfig):
    r"""
    Base of the three encoders' configurations: a pre-norm transformer.

    Args:
        hidden_size: Width of the hidden states.
        num_hidden_layers: Number of transformer layers.
        num_attention_heads: Number of attention heads; must divide `hidden_size`.
        intermediate_size: Width of the feed-forward layers.
        hidden_act: Activation of the feed-forward layers.
        hidden_dropout_prob: Dropout after embeddings, attention and feed-forward layers.
        attention_probs_dropout_prob: Dropout on attention weights.
        layer_norm_eps: Epsilon of the layer norms.
        initializer_range: Standard deviation of the normal initialisation of weights (0.02 in ViT, BERT and FLAVA).
            `None` means Xavier-uniform linear layers and word embeddings of unit expected norm, which train far better
            at small width.
        position_initializer_range: Standard deviation of the position embeddings. `None` means `initializer_range`, or
            unit expected norm if that is `None` too. In the image encoder a large value (such as 2, so that a patch's
            place outweighs its colour at first) lets a small model learn identities many times faster.
        class_token_initializer_range: The same for the class token; large values help the multimodal encoder.
        zero_residuals: Whether the last linear map of every attention and feed-forward block starts at zero, so that
            the layers first pass their input on unchanged (as Goyal et al., 2017, do with batch norm's scale). For
            encoders whose input is worth keeping, see `class_token_rows` and `start_from_class_tokens`.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    layer_norm_eps: float = 1e-12
    initializer_range: float | int | None = 0.02
    position_initializer_range: float | int | None = None
    class_token_initializer_range: float | int | None = None
    zero_residuals: bool = False

    def validate_sizes(self):
        """Check that sizes and dropout probabilities are in range and that the activation exists."""
        for name in ("hidden_size", "num_attention_heads", "intermediate_size"):
            _check_number(name, getattr(self, name), at_least=1, at_most=MAX_WIDTH)
        _check_number("num_hidden_layers", self.num_hidden_layers, at_least=1, at_most=MAX_LAYERS)
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            _check_number(name, getattr(self, name), at_least=0, below=1)
        _check_number("layer_norm_eps", self.layer_norm_eps, at_least=0, at_most=1)
        for name in ("initializer_range", "position_initializer_range", "class_token_initializer_range"):
            _check_number(name, getattr(self, name), at_least=0)
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act must be one of {', '.join(ACT2FN)}; got {self.hidden_act!r}")

    def validate_heads(self):
        """Check that the number of heads divides the hidden size."""
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads must divide hidden_size; got {self.num_attention_heads} heads "
                f"for a hidden_size of {self.hidden_size}"
            )


@strict
class MMETImageConfig(MMETEncoderConfig):
    r"""
    Configuration of [`MMETImageModel`], a ViT over (overlapping) patches.

    Args:
        image_size: Height and width of the input in pixels.
        patch_size: Side of a square patch in pixels; by default 16, with a backbone the largest that fits its map.
        patch_stride: Distance between neighbouring patches in pixels. Smaller than `patch_size` means overlapping
            patches (the paper's "12x12", as in TransReID); equal to it means a plain ViT. By default 12, with a
            backbone the distance between the cells of its map.
        num_channels: Number of image channels.
        hide_masked_pixels: Whether the pixels of masked patches are replaced by the mean colour (0) before patches are
            cut. Otherwise, overlapping neighbours show them: with the default geometry, more than half of a masked
            patch. With a backbone they are always replaced.
        backbone_config: Configuration of a convolutional network of transformers (`MobileNetV2Config`, ...) or its
            dictionary with `model_type`. The cells of its last feature map are then projected to the patch tokens, as
            in transformers' ViT hybrid; a patch is the square of pixels at its cell's place.
        freeze_backbone: Whether training leaves the backbone's weights and batch norm statistics unchanged.
        embedding_norm: Whether there is a layer norm between embeddings and layers, as in CLIP.
        num_register_tokens: Number of learned tokens that take part in attention but are not returned, as in DINOv2
            and DINOv3.
        rotary_base: Base of the patches' rotary positions, as in DINOv3 (100); `None` for learned positions only.
        isolated_class_token: Whether the patches do not see [CLS_I], so that their states are those of an encoder
            without a class token, such as SigLIP's.
        class_token_rows: Number of horizontal stripes (as in PCB, Sun et al., 2018) over which the backbone's map is
            averaged; a linear map of these means is added to [CLS_I]. Pretraining fits this map to the principal
            components of the training pictures, so an encoder with `zero_residuals` starts with the features of the
            backbone. 0 for none. Frozen with the backbone.
        class_token_channels: Number of principal components that each stripe is reduced to first, with the same map
            for all stripes; this takes a fraction of the weights and gives nearly the same features. 0 for all
            channels.
        colour_grid: Rows and columns of a grid of mean colours. A small network (`intermediate_size` hidden units),
            which starts at zero, reads them together with the components of `class_token_rows` and `detail_grid`, and
            its output is added to [CLS_I]. Backbones are trained to ignore colours, by which people are described.
        detail_grid: Rows and columns of a grid over whose cells an earlier map of the backbone is averaged, as input
            of the same network; it shows edges and textures, which the last map has lost. Pretraining fits principal
            components of these means, as for `class_token_rows`. Frozen with the backbone.
        detail_layer: Index of that map among the backbone's hidden states, from 0.
        detail_size: Number of these components.
    """

    model_type = "mmet_image_model"
    base_config_key = "image_config"
    sub_configs_defaults = {  # noqa: RUF012 (as in `MMETConfig`)
        "backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="mobilenet_v2", optional=True)
    }

    image_size: list[int] | tuple[int, int] | int = (256, 128)
    patch_size: int | None = None
    patch_stride: int | None = None
    num_channels: int = 3
    hide_masked_pixels: bool = False
    backbone_config: dict | PreTrainedConfig | None = None
    freeze_backbone: bool = False
    embedding_norm: bool = False
    num_register_tokens: int = 0
    rotary_base: float | int | None = None
    isolated_class_token: bool = False
    class_token_rows: int = 0
    class_token_channels: int = 0
    colour_grid: list[int] | tuple[int, int] | None = None
    detail_grid: list[int] | tuple[int, int] | None = None
    detail_layer: int = 0
    detail_size: int = 192

    def __post_init__(self, **kwargs):
        size = self.image_size
        # Lists, because a saved configuration (JSON has no tuples) is read back with lists.
        self.image_size = [size, size] if isinstance(size, int) else list(size)
        self.colour_grid = list(self.colour_grid) if self.colour_grid is not None else None
        self.detail_grid = list(self.detail_grid) if self.detail_grid is not None else None
        backbone = self.backbone_config
        if isinstance(backbone, dict) and str(backbone.get("model_type")) not in CONFIG_MAPPING:
            raise ValueError(
                "backbone_config must name its network by a model_type of transformers, such as 'mobilenet_v2'; got "
                f"{backbone.get('model_type')!r}"
            )
        super().__post_init__(**kwargs)
        if self.patch_stride is None:
            self.patch_stride = PATCH_STRIDE if backbone is None else self._backbone_stride
        if self.patch_size is None:
            self.patch_size = PATCH_SIZE if backbone is None else self._largest_patch()

    @property
    def _backbone_stride(self) -> int:
        """Pixels between the cells of the backbone's map."""
        return getattr(self.backbone_config, "output_stride", None) or self.patch_stride or BACKBONE_STRIDE

    def _largest_patch(self) -> int:
        """The largest patch, up to the stride, that lies wholly in the image at every cell of the backbone's map."""
        stride = self._backbone_stride
        return min(stride, *((side - 1) % stride + 1 for side in self.image_size))

    def validate_patches(self):
        """Check that at least one whole patch fits in the image, and not too many."""
        for name in ("patch_size", "patch_stride", "num_channels"):
            _check_number(name, getattr(self, name), at_least=1, at_most=MAX_WIDTH)
        for side in self.image_size:
            _check_number("a side of image_size", side, at_least=1, at_most=MAX_WIDTH)
        if len(self.image_size) != 2 or min(self.image_size) < self.patch_size or self.patch_stride < 1:
            raise ValueError(
                "image_size must be (height, width), each at least patch_size, and patch_stride at least 1; got "
                f"image_size={self.image_size}, patch_size={self.patch_size}, patch_stride={self.patch_stride}"
            )
        if self.num_patches > MAX_POSITIONS:
            raise ValueError(
                f"an image must have at most {MAX_POSITIONS} patches; got {self.num_patches} of "
                f"image_size={self.image_size}, patch_size={self.patch_size}, patch_stride={self.patch_stride}"
            )

    def validate_tokens(self):
        """Check the number of registers, and that the size of a head is a multiple of 4 for rotary positions."""
        _check_number("num_register_tokens", self.num_register_tokens, at_least=0, at_most=MAX_POSITIONS)
        _check_number("rotary_base", self.rotary_base, at_least=1)
        head_size = self.hidden_size // self.num_attention_heads
        if self.rotary_base is not None and head_size % 4:
            raise ValueError(f"rotary_base needs attention heads whose size is a multiple of 4; got {head_size}")

    def validate_class_token(self):
        """Check the sizes of the parts that are added to [CLS_I]; a grid has at most as many cells as pixels."""
        _check_number("class_token_rows", self.class_token_rows, at_least=0, at_most=MAX_WIDTH)
        _check_number("class_token_channels", self.class_token_channels, at_least=0, at_most=MAX_WIDTH)
        if self.class_token_channels and not self.class_token_rows:
            raise ValueError("class_token_channels needs class_token_rows above 0; got class_token_rows=0")
        _check_number("detail_layer", self.detail_layer, at_least=0, at_most=MAX_LAYERS)
        _check_number("detail_size", self.detail_size, at_least=1, at_most=MAX_WIDTH)
        for name in ("colour_grid", "detail_grid"):
            grid = getattr(self, name)
            if grid is None:
                continue
            if len(grid) != 2:
                raise ValueError(f"{name} must be (rows, columns); got {grid}")
            for cells, side in zip(grid, self.image_size, strict=True):
                _check_number(f"a side of {name}", cells, at_least=1, at_most=side)

    def validate_backbone(self):
        """Check that the backbone reads such images and that its map has one cell per patch."""
        backbone = self.backbone_config
        if backbone is None:
            for name in ("freeze_backbone", "class_token_rows", "detail_grid"):
                if getattr(self, name):
                    raise ValueError(f"{name} needs a backbone; got backbone_config=None")
            return
        channels = getattr(backbone, "num_channels", self.num_channels)
        if channels != self.num_channels:
            raise ValueError(f"num_channels must be the backbone's {channels}; got {self.num_channels}")
        stride, size = self._backbone_stride, self._largest_patch()
        cells = tuple(math.ceil(side / stride) for side in self.image_size)
        if self.patch_stride != stride or self.patch_grid != cells:
            raise ValueError(
                f"patches must be the cells of the backbone's map, {cells[0]} x {cells[1]} for image_size="
                f"{self.image_size}; got {self.patch_grid[0]} x {self.patch_grid[1]} of patch_size={self.patch_size}, "
                f"patch_stride={self.patch_stride}. Leave these two out, or give patch_size={size}, "
                f"patch_stride={stride}"
            )

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patch grid of an image of `height` x `width` pixels."""
        rows, columns = ((side - self.patch_size) // self.patch_stride + 1 for side in (height, width))
        return rows, columns

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
        return self.grid_of(*self.image_size)

    @property
    def num_patches(self) -> int:
        """Number of patches of an image, without [CLS_I]."""
        rows, columns = self.patch_grid
        return rows * columns


@strict
class MMETTextConfig(MMETEncoderConfig):
    r"""
    Configuration of [`MMETTextModel`]: BERT's embeddings under the same transformer as the image encoder.

    Args:
        vocab_size: Size of the tokenizer's vocabulary.
        max_position_embeddings: Longest caption in tokens, special tokens included.
        pad_token_id: Id of the padding token.
        freeze_token_embedding: Whether training leaves the word embeddings unchanged, so that words that the captions
            do not have keep their places among those that they have.
    """

    model_type = "mmet_text_model"
    base_config_key = "text_config"

    vocab_size: int = 30522
    max_position_embeddings: int = 512
    pad_token_id: int | None = 0
    freeze_token_embedding: bool = False

    def validate_vocabulary(self):
        """Check the sizes of vocabulary and captions, and that the padding token is in the vocabulary."""
        _check_number("vocab_size", self.vocab_size, at_least=1, at_most=MAX_WORDS)
        _check_number("max_position_embeddings", self.max_position_embeddings, at_least=1, at_most=MAX_POSITIONS)
        _check_number("pad_token_id", self.pad_token_id, at_least=0, below=self.vocab_size)


@strict
class MMETMultimodalConfig(MMETEncoderConfig):
    r"""
    Configuration of [`MMETMultimodalModel`], the transformer over [CLS_M], image and text states.

    Args:
        start_from_class_tokens: Whether the projected [CLS_I] and [CLS_T], as far as present, are added to [CLS_M]
            before the first layer; the projection of the image encoder then starts as the identity. With
            `zero_residuals`, h_CLS,M starts with the features of the encoders.
    """

    model_type = "mmet_multimodal_model"
    base_config_key = "multimodal_config"

    start_from_class_tokens: bool = False


@strict
class MMETConfig(PreTrainedConfig):
    r"""
    Configuration of [`MMETModel`], [`MMETForPreTraining`] and [`MMETForReID`].

    Args:
        image_config: [`MMETImageConfig`] or its dictionary.
        text_config: [`MMETTextConfig`] or its dictionary.
        multimodal_config: [`MMETMultimodalConfig`] or its dictionary.
        projection_dim: Width of the space in which image and text are contrasted (L_GC).
        logit_scale_init_value: Initial logarithm of the inverse temperature of L_GC (FLAVA and CLIP start at
            ln(1/0.07)).
        codebook_type: Where the codes of masked patches come from: `kmeans` (centroids fitted to the training images)
            or `dalle` (the network that FLAVA takes its codes from, transformers' `FlavaImageCodebook`).
        codebook_size: Number of discrete codes that a masked patch is classified into. `None` means 1,024 for
            `kmeans`, and for `dalle` the number that the network has (8,192), the only one possible.
        codebook_cell: For `kmeans`: side in pixels of the square cells whose mean colours describe a patch; must
            divide `patch_size` and `patch_stride` of the image encoder.
        codebook_name_or_path: For `dalle`: Hub name or local folder that training takes the network's weights from. A
            checkpoint holds them, so this is read only if there are none yet.
        codebook_config: For `dalle`: sizes of the network that differ from DALL-E's, as fields of
            `FlavaImageCodebookConfig`.
        codebook_image_mean, codebook_image_deviation: For `dalle`: mean and standard deviation of each channel with
            which the image processor normalises; the network reads pixels from 0 to 1.
        num_identities: Number of training identities; 0 builds no classifier. transformers' `num_labels` is another
            name for it, and `id2label` and `label2id` follow it.
        identity_pooling: Which class token is the identity embedding: `multimodal` (h_CLS,M), `image` (h_CLS,I) or
            `text` (h_CLS,T).
        modality_dropout: Share of the pairs of a training batch that L_ID and L_triplet also see with one modality
            dropped: half of them the image, half the text. Above 1, some pairs are seen in both ways; at 2, all are.
            This makes image, text and image+text embeddings comparable.
        label_smoothing: Label smoothing of L_ID.
        triplet_margin: Margin m of L_triplet (Eq. 2); `None` is the soft margin log(1 + exp(.)).
        triplet_normalize: Whether L_triplet measures distances between L2-normalised embeddings.
        mim_weight, mlm_weight: Weights of L_MIM and L_MLM on the unimodal encoders. A loss of weight 0 is not
            computed, here and below.
        mmm_image_weight, mmm_text_weight: Weights of the two parts of L_MMM on the multimodal encoder.
        itm_weight: Weight of image-text matching, L_ITM.
        global_contrastive_weight: Weight of L_GC.
        identity_weight, triplet_weight: Weights of L_ID (Eq. 1) and L_triplet (Eq. 2).
        supervised_contrastive_weight: Weight of a loss that is not in the paper: a person's views should be nearer to
            each other than to other persons' (Khosla et al., 2020), image to image, to text and to both, among
            candidates of one kind. Small models on few persons learn far more from it than from L_triplet.
        supervised_contrastive_scale: Inverse temperature of that loss.
        similarity_weight: Weight of another loss that is not in the paper: the identity embeddings of images should
            keep the cosines of the row projection (`class_token_rows`). Otherwise, training on few or drawn persons
            makes the model forget pretrained features that tell other people apart.
        matching_comparison_size: Width of a network that is not in the paper: L_ITM's head adds to its logits what it
            reads in the products and differences of [CLS_I] and [CLS_T]. It learns from far fewer pairs than a head
            that reads h_CLS,M alone. `None` builds none.
        tie_word_embeddings: Whether the text prediction heads share the word embeddings (as in BERT).
        initializer_range: As in the encoders, for the projections and heads.
    """

    model_type = "mmet"
    keys_to_ignore_at_inference = [  # noqa: RUF012
        "losses",
        *(f"{encoder}_output" for encoder in ("image", "text", "multimodal")),
        *(f"{encoder}_masked_output" for encoder in ("image", "text", "multimodal")),
    ]
    sub_configs_defaults = {  # noqa: RUF012 (transformers reads it un-annotated: an annotation would make it a field)
        "image_config": SubConfigSpec(config_class=MMETImageConfig),
        "text_config": SubConfigSpec(config_class=MMETTextConfig),
        "multimodal_config": SubConfigSpec(config_class=MMETMultimodalConfig),
    }

    image_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    multimodal_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 768
    logit_scale_init_value: float | int = 2.6592
    codebook_type: str = "kmeans"
    codebook_size: int | None = None
    codebook_cell: int = 4
    codebook_name_or_path: str | None = "facebook/flava-image-codebook"
    codebook_config: dict | None = None
    codebook_image_mean: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    codebook_image_deviation: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    num_identities: int = 0
    identity_pooling: str = "multimodal"
    modality_dropout: float | int = 1.0
    label_smoothing: float | int = 0.1
    triplet_margin: float | int | None = 0.3
    triplet_normalize: bool = True
    mim_weight: float | int = 1.0
    mlm_weight: float | int = 1.0
    mmm_image_weight: float | int = 1.0
    mmm_text_weight: float | int = 1.0
    itm_weight: float | int = 1.0
    global_contrastive_weight: float | int = 1.0
    identity_weight: float | int = 1.0
    triplet_weight: float | int = 1.0
    supervised_contrastive_weight: float | int = 0.0
    supervised_contrastive_scale: float | int = 10.0
    similarity_weight: float | int = 0.0
    matching_comparison_size: int | None = None
    tie_word_embeddings: bool = True
    initializer_range: float | int | None = 0.02

    def __post_init__(self, **kwargs):
        if self.codebook_size is None:
            self.codebook_size = self.dalle_sizes["vocab_size"] if self.codebook_type == "dalle" else KMEANS_CODES
        self.codebook_image_mean = list(self.codebook_image_mean)
        self.codebook_image_deviation = list(self.codebook_image_deviation)
        if kwargs.get("num_labels") is not None:
            self.num_identities = kwargs.pop("num_labels")
        elif not self.num_identities:
            self.num_identities = len(self.__dict__["id2label"] or {})
        super().__post_init__(**kwargs)
        # AutoModel iterates over these names to choose among the models of one configuration, so None would fail.
        self.architectures = self.architectures or []

    @property
    def hidden_size(self) -> int:
        """Width of the embedding, under the name that sentence-transformers and DeepSpeed read."""
        return getattr(self, f"{self.identity_pooling}_config").hidden_size

    @property
    def num_labels(self) -> int:
        """transformers' name for `num_identities`."""
        return self.num_identities

    @num_labels.setter
    def num_labels(self, num_labels: int):
        self.num_identities = num_labels

    @property
    def id2label(self) -> dict[int, str]:
        """Names of the identities by class; `LABEL_<n>` unless there is a given name for each."""
        names = self.__dict__.get("id2label") or {}
        if len(names) != self.num_identities:
            return {number: f"LABEL_{number}" for number in range(self.num_identities)}
        return names

    @id2label.setter
    def id2label(self, names: dict[int | str, str] | None):
        names = {int(number): name for number, name in (names or {}).items()}
        is_named = any(name != f"LABEL_{number}" for number, name in names.items())
        self.__dict__["id2label"] = names if is_named else None
        if names:
            self.num_identities = len(names)

    @property
    def label2id(self) -> dict[str, int]:
        """Classes of the identities by name, always those of `id2label`."""
        return {name: number for number, name in self.id2label.items()}

    @label2id.setter
    def label2id(self, classes: dict[str, int | str] | None):
        if classes and set(classes) != set(self.id2label.values()):
            self.id2label = {int(number): name for name, number in classes.items()}

    @property
    def custom_pipelines(self) -> dict[str, dict]:
        """The pipelines in a folder's own code, by task, under transformers' name for them."""
        try:
            from .pipelines_mmet import CUSTOM_PIPELINES
        except ImportError:
            from pipelines_mmet import CUSTOM_PIPELINES
        is_embedder = "MMETModel" not in self.architectures
        return {
            task: {"impl": f"pipelines_mmet.{pipeline_class}", "pt": [auto_class]}
            for task, (pipeline_class, auto_class) in CUSTOM_PIPELINES.items()
            if is_embedder or auto_class != "AutoModel"
        }

    @property
    def dalle_sizes(self) -> dict[str, int]:
        """All sizes of the network of `codebook_type="dalle"`."""
        return DALLE_CODEBOOK | (self.codebook_config or {})

    def validate_codebook(self):
        """Check the codebook's type and size, and that it fits the patches."""
        if self.codebook_type not in CODEBOOK_TYPES:
            raise ValueError(f"codebook_type must be one of {CODEBOOK_TYPES}; got {self.codebook_type!r}")
        if self.codebook_size is None or self.codebook_size < 2:
            raise ValueError(f"codebook_size must be at least 2; got {self.codebook_size}")
        if self.codebook_type == "dalle":
            self._validate_dalle_codebook()
        else:
            self._validate_kmeans_codebook()

    def _validate_kmeans_codebook(self):
        """Check that a cell divides the patch size and the patch stride."""
        image = self.image_config
        if self.codebook_cell < 1 or image.patch_size % self.codebook_cell or image.patch_stride % self.codebook_cell:
            raise ValueError(
                "codebook_cell must divide patch_size and patch_stride; got "
                f"codebook_cell={self.codebook_cell}, patch_size={image.patch_size}, patch_stride={image.patch_stride}"
            )

    def _validate_dalle_codebook(self):
        """Check the numbers of codes and channels, and that the pixels of a code lie within its patch."""
        image, sizes = self.image_config, self.dalle_sizes
        unknown = sorted(sizes.keys() - DALLE_CODEBOOK.keys())
        if unknown:
            raise ValueError(f"codebook_config has the fields {sorted(DALLE_CODEBOOK)}; got {unknown}")
        if self.codebook_size != sizes["vocab_size"]:
            raise ValueError(
                f"codebook_size must be the network's {sizes['vocab_size']} for codebook_type='dalle' (or None); "
                f"got {self.codebook_size}"
            )
        channels = {image.num_channels, len(self.codebook_image_mean), len(self.codebook_image_deviation)}
        if channels != {sizes["input_channels"]}:
            raise ValueError(
                "num_channels, codebook_image_mean and codebook_image_deviation must have the "
                f"{sizes['input_channels']} channels of the codebook's network; got {image.num_channels}, "
                f"{len(self.codebook_image_mean)} and {len(self.codebook_image_deviation)}"
            )
        if image.patch_stride > image.patch_size:
            raise ValueError(
                "patch_stride must not exceed patch_size for codebook_type='dalle'; got "
                f"patch_stride={image.patch_stride}, patch_size={image.patch_size}"
            )

    def validate_identity(self):
        """Check the options of the identity embedding."""
        if self.identity_pooling not in IDENTITY_POOLINGS:
            raise ValueError(f"identity_pooling must be one of {IDENTITY_POOLINGS}; got {self.identity_pooling!r}")
        if not 0 <= self.modality_dropout <= 2:
            raise ValueError(f"modality_dropout must lie in [0, 2]; got {self.modality_dropout}")
        if self.num_identities < 0:
            raise ValueError(f"num_identities must not be negative; got {self.num_identities}")

    def validate_numbers(self):
        """Check that all numbers are finite and in range."""
        _check_number("projection_dim", self.projection_dim, at_least=1, at_most=MAX_WIDTH)
        _check_number("num_identities", self.num_identities, at_least=0, at_most=MAX_WORDS)
        _check_number("codebook_size", self.codebook_size, at_least=2, at_most=MAX_WORDS)
        _check_number("matching_comparison_size", self.matching_comparison_size, at_least=1, at_most=MAX_WIDTH)
        _check_number("logit_scale_init_value", self.logit_scale_init_value)
        _check_number("label_smoothing", self.label_smoothing, at_least=0, below=1)
        _check_number("triplet_margin", self.triplet_margin, at_least=0)
        _check_number("initializer_range", self.initializer_range, at_least=0)
        for value in self.codebook_image_mean:
            _check_number("codebook_image_mean", value)
        if not all(math.isfinite(value) and value > 0 for value in self.codebook_image_deviation):
            raise ValueError(f"codebook_image_deviation must be above 0; got {self.codebook_image_deviation}")

    def validate_weights(self):
        """Check that loss weights are finite and not negative."""
        weights = {name: getattr(self, name) for name in vars(type(self)) if name.endswith("_weight")}
        wrong = {name: weight for name, weight in weights.items() if not 0 <= weight < math.inf}
        if wrong:
            raise ValueError(f"loss weights must be finite and not negative; got {wrong}")


MMETImageConfig.register_for_auto_class()
MMETTextConfig.register_for_auto_class()
MMETMultimodalConfig.register_for_auto_class()
MMETConfig.register_for_auto_class()

__all__ = ["MMETConfig", "MMETImageConfig", "MMETMultimodalConfig", "MMETTextConfig"]
