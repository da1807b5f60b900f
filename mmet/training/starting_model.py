"""The starting model and processor: from a checkpoint, or new from a recipe and captions."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

import torch
from transformers import BertTokenizer

from configuration_mmet import MMETConfig, MMETImageConfig, MMETTextConfig
from mmet.checkpoint_files import check_checkpoint_folder, check_model, load_tokenizer
from mmet.distributed import compute_once
from mmet.training.arguments import ModelArguments, ObjectiveArguments
from mmet.training.dataset import TrainingDataset
from mmet.training.model_config import build_config, override_config
from mmet.training.sampling import IDENTITY_KINDS
from mmet.training.tokenization import load_person_words, train_wordpiece_tokenizer
from mmet.training.training_data import TrainingSources
from modeling_mmet import MMETForPreTraining
from processing_mmet import MMETImageProcessor, MMETProcessor

logger = logging.getLogger(__name__)


def check_sources_of_weights(arguments: ModelArguments, checkpoint: str | None) -> None:
    """Raise `ValueError` for a starting model or checkpoint that cannot be read, before anything is loaded."""
    if arguments.model_name_or_path is not None:
        check_model(arguments.model_name_or_path)
    if arguments.tokenizer_name is not None:
        load_tokenizer(arguments.tokenizer_name)
    if checkpoint is not None:
        check_checkpoint_folder(Path(checkpoint))


def build_model(
    arguments: ModelArguments, objectives: ObjectiveArguments, sources: TrainingSources, dataset: TrainingDataset
) -> tuple[MMETProcessor, MMETForPreTraining]:
    """Processor and model: from a checkpoint when one is named, else from the configuration and the captions."""
    num_identities = dataset.count_identities([kind for kind in IDENTITY_KINDS if kind in objectives.mix])
    if arguments.model_name_or_path is not None:
        processor = MMETProcessor.from_pretrained(arguments.model_name_or_path)
        config = MMETConfig.from_pretrained(arguments.model_name_or_path)
        config = override_config(config, arguments.model_config)
        config.update({**objectives.loss_weights, "num_identities": num_identities or config.num_identities})
        # In float32 whatever the checkpoint was stored in: `--bf16` computes in half precision, the weights do not.
        model = MMETForPreTraining.from_pretrained(
            arguments.model_name_or_path,
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
    text, image = cast(MMETTextConfig, config.text_config), cast(MMETImageConfig, config.image_config)
    # A processor that truncates cuts at what the text encoder can read.
    tokenizer.model_max_length = text.max_position_embeddings
    height, width = cast(list[int], image.image_size)
    image_processor = MMETImageProcessor(
        size={"height": height, "width": width},
        patch_size=image.patch_size,
        patch_stride=image.patch_stride,
        exact_resize=False,  # the model meets such pictures in training and after it; see docs/data_at_scale.md
    )
    return MMETProcessor(image_processor, tokenizer), MMETForPreTraining(config)


def _build_tokenizer(arguments: ModelArguments, sources: TrainingSources) -> BertTokenizer:
    """The tokenizer that was named, or a WordPiece vocabulary of the training captions."""
    if arguments.tokenizer_name is not None:
        return load_tokenizer(arguments.tokenizer_name)
    captions = [caption for caption in sources.captions() if caption.strip()]
    if not captions:
        logger.info("no captions in the training data: the vocabulary is that of words that describe people")
        captions = load_person_words()
    return compute_once(lambda: train_wordpiece_tokenizer(captions, vocab_size=arguments.vocab_size))
