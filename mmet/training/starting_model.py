"""Build the starting model and its processor: from a checkpoint, or new from a recipe and captions."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import BertTokenizer

from configuration_mmet import MMETConfig, MMETImageConfig, MMETTextConfig
from mmet.checkpoint_files import CONFIG_FILE, check_checkpoint_folder, check_model, load_tokenizer, read_headers
from mmet.conversion.model_types import ANCESTORS, Conversion, convert, model_type_of, normalisation_of
from mmet.distributed import compute_once
from mmet.field_checks import errors_about
from mmet.training.arguments import ModelArguments, ObjectiveArguments
from mmet.training.dataset import TrainingDataset
from mmet.training.model_config import build_config, merge_config, override_config
from mmet.training.sampling import IDENTITY_KINDS
from mmet.training.tokenization import load_person_words, train_wordpiece_tokenizer
from mmet.training.training_data import TrainingSources
from modeling_mmet import MMETForPreTraining
from processing_mmet import MMETImageProcessor, MMETProcessor

logger = logging.getLogger(__name__)


def check_sources_of_weights(arguments: ModelArguments, checkpoint: str | None) -> None:
    """Raise `ValueError`, before anything is loaded, if a starting model or checkpoint cannot be read."""
    tokenizer = arguments.tokenizer_name
    for field in ("model_name_or_path", "text_model_name_or_path"):
        name = getattr(arguments, field)
        if name is not None:
            with errors_about(field):
                check_start(name, has_tokenizer=tokenizer is not None)
    if tokenizer is not None:
        with errors_about("tokenizer_name"):
            load_tokenizer(tokenizer)
    if checkpoint is not None:
        check_checkpoint_folder(Path(checkpoint))


def check_start(name_or_path: str, *, has_tokenizer: bool) -> None:
    """
    Check a folder that training starts from: an MMET model, or one that can be converted. Hub names are checked by
    transformers.

    Raises:
        ValueError: the model is of another type, or a file is missing or damaged.
    """
    folder = Path(name_or_path)
    model_type = model_type_of(name_or_path) if (folder / CONFIG_FILE).is_file() else MMETConfig.model_type
    if model_type not in ANCESTORS:
        check_model(name_or_path)
        return
    read_headers(folder)
    if ANCESTORS[model_type].reads_text and not has_tokenizer:
        load_tokenizer(name_or_path)


def build_model(
    arguments: ModelArguments, objectives: ObjectiveArguments, sources: TrainingSources, dataset: TrainingDataset
) -> tuple[MMETProcessor, MMETForPreTraining]:
    """
    Build processor and model: from the named checkpoint (converted if it is of another architecture), or new ones from
    the configuration and the captions.

    Raises:
        ValueError: the model cannot be converted, or `model_config` or tokenizer do not fit it.
        OSError: there is no model of that name.
    """
    num_identities = dataset.count_identities([kind for kind in IDENTITY_KINDS if kind in objectives.mix])
    name = arguments.model_name_or_path
    with errors_about("model_name_or_path"):
        is_foreign = name is not None and model_type_of(name) in ANCESTORS
    if name is not None and is_foreign:
        return _convert_model(name, arguments, objectives, sources, num_identities)
    if arguments.text_model_name_or_path is not None:
        raise ValueError(
            f"text_model_name_or_path: {name} has a text encoder already; expected an image encoder in "
            "model_name_or_path, or no text_model_name_or_path"
        )
    if name is not None:
        processor = MMETProcessor.from_pretrained(name)
        config = override_config(MMETConfig.from_pretrained(name), arguments.model_config)
        config.update({**objectives.loss_weights, "num_identities": num_identities or config.num_identities})
        # Always in float32: `--bf16` computes in half precision, but keeps the weights in float32.
        model = MMETForPreTraining.from_pretrained(
            name,
            config=config,
            ignore_mismatched_sizes=True,  # of the identity head; `check_model` has compared the others
            use_safetensors=True,
            dtype=torch.float32,
        )
        return processor, model
    tokenizer = _build_tokenizer(arguments, sources)
    config = build_config(
        arguments.model_config,
        vocab_size=len(tokenizer),
        num_identities=num_identities,
        loss_weights=objectives.loss_weights,
    )
    return build_processor(config, tokenizer), MMETForPreTraining(config)


def _convert_model(
    name: str,
    arguments: ModelArguments,
    objectives: ObjectiveArguments,
    sources: TrainingSources,
    num_identities: int,
) -> tuple[MMETProcessor, MMETForPreTraining]:
    """Convert processor and model of other architectures; the recipe determines the missing parts, which are new."""
    text_name = _text_start(name, arguments)
    reader = arguments.tokenizer_name or text_name
    tokenizer = _build_tokenizer(replace(arguments, tokenizer_name=reader), sources)
    geometry = (arguments.model_config or {}).get("image_config") or {}
    start = convert(name, image_size=geometry.get("image_size"), patch_stride=geometry.get("patch_stride"))
    if text_name not in (None, name):
        text_start = convert(text_name)
        start = Conversion(text_start.fields | start.fields, text_start.weights | start.weights)
    mean, deviation = normalisation_of(name)
    config = merge_config(
        arguments.model_config,
        start.fields | {"codebook_image_mean": mean, "codebook_image_deviation": deviation},
        vocab_size=len(tokenizer),
        num_identities=num_identities,
        loss_weights=objectives.loss_weights,
    )
    text, image = cast(MMETTextConfig, config.text_config), cast(MMETImageConfig, config.image_config)
    if len(tokenizer) > text.vocab_size:
        raise ValueError(
            f"{reader}: expected a tokenizer of at most {text.vocab_size:,} words, as many as {text_name or name} "
            f"has embeddings, received {len(tokenizer):,}: it is another model's"
        )
    model = MMETForPreTraining(config)
    model.load_state_dict(start.weights, strict=False)  # the conversion has compared names and shapes
    logger.info(
        "%s is converted: images of %s pixels, patches of %d every %d",
        name,
        image.image_size,
        image.patch_size,
        image.patch_stride,
    )
    return build_processor(config, tokenizer, {"image_mean": mean, "image_std": deviation}), model


def _text_start(name: str, arguments: ModelArguments) -> str | None:
    """
    The model that the text encoder comes from: a second model beside an image encoder, the converted model itself, or
    None for a new text encoder.

    Raises:
        ValueError: there are two text encoders, or the second model is no text encoder.
    """
    second, ancestor = arguments.text_model_name_or_path, ANCESTORS[model_type_of(name)]
    if second is None:
        return name if ancestor.reads_text else None
    if ancestor.reads_text:
        raise ValueError(
            f"text_model_name_or_path: expected an image encoder beside it, received {name}, which reads text"
        )
    kind = ANCESTORS.get(model_type_of(second))
    if kind is None or kind.part != "text_model":
        raise ValueError(f"text_model_name_or_path: expected a text encoder, received {second}")
    return second


def build_processor(
    config: MMETConfig, tokenizer: BertTokenizer, normalisation: Mapping[str, Any] | None = None
) -> MMETProcessor:
    """Build the processor of a model; its copy of the tokenizer truncates captions to the text encoder's length."""
    text, image = cast(MMETTextConfig, config.text_config), cast(MMETImageConfig, config.image_config)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = text.max_position_embeddings
    height, width = cast(list[int], image.image_size)
    image_processor = MMETImageProcessor(
        size={"height": height, "width": width},
        patch_size=cast(int, image.patch_size),
        patch_stride=cast(int, image.patch_stride),
        exact_resize=False,  # in training and after it alike; see docs/data_at_scale.md
        **(normalisation or {}),
    )
    return MMETProcessor(image_processor, tokenizer)  # type: ignore[no-untyped-call]


def _build_tokenizer(arguments: ModelArguments, sources: TrainingSources) -> BertTokenizer:
    """Load the named tokenizer, or train a WordPiece vocabulary on the training captions."""
    if arguments.tokenizer_name is not None:
        return load_tokenizer(arguments.tokenizer_name)
    captions = [caption for caption in sources.captions() if caption.strip()]
    if not captions:
        logger.info("no captions in the training data: the vocabulary consists of words that describe people")
        captions = load_person_words()
    return compute_once(lambda: train_wordpiece_tokenizer(captions, vocab_size=arguments.vocab_size))
