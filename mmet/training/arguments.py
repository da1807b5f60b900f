"""The arguments of pretraining: dataclasses that a YAML recipe fills and the command line overrides.

A recipe is a flat YAML mapping of the fields below and of transformers' `TrainingArguments`; anything on the command
line wins:

    accelerate launch run_pretrain.py recipes/demo.yaml --image_masking random --max_steps 100
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments

from mmet.argument_parser import ArgumentParser
from mmet.data import parse_data_argument
from mmet.distributed import wait_for_processes
from mmet.field_checks import SEED_RANGE, SHARE_RANGE, Range, check_fields, option
from mmet.recipe_files import read_mapping_file
from mmet.starter import resolve_model
from mmet.starting import program_name
from mmet.training.augmentation import build_augmentation
from mmet.training.loss_schedule import LossSchedule
from mmet.training.model_config import build_config, check_config_fields
from mmet.training.recipes import find_recipe
from mmet.training.sampling import MAX_BATCH_SIZE, check_mix
from mmet.training.training_options import (
    OPTION_RANGES,
    check_prepared_options,
    read_mappings,
    refuse_options_without_effect,
)
from modeling_mmet import LOSS_NAMES

TRAINING_STREAMS = ("paired_data", "image_data", "text_data")
"""The fields that name training data by its use; `data` stands for all of them."""

MIN_TEXT_LENGTH = 3
"""Length of the shortest caption that can teach anything: [CLS], a word, [SEP]."""

MAX_SHARPNESS = 20
"""With this exponent, a patch half on the person weighs a millionth of one wholly on it."""


@dataclass
class ModelArguments:
    """The model to train and its starting weights."""

    model_name_or_path: str | None = option(
        None, "Checkpoint to continue from (folder, Hub name, or starter). None starts from scratch."
    )
    text_model_name_or_path: str | None = option(
        None,
        "Text encoder to start from (folder or Hub name of a BERT-like encoder), with an image encoder in "
        "model_name_or_path. None builds a new one.",
    )
    model_config: dict[str, Any] | None = option(
        None,
        "Fields of MMETConfig as a nested mapping (YAML or JSON), merged into the recipe's. With "
        "--model_name_or_path, only fields that do not change sizes of the model, such as triplet_margin.",
    )
    tokenizer_name: str | None = option(
        None, "BERT tokenizer (folder or Hub name). None trains a WordPiece vocabulary on the captions."
    )
    vocab_size: int = option(
        2000, "Size of a vocabulary trained on the captions.", range=Range(at_least=6, at_most=10**6)
    )
    codebook_images: int = option(
        2048, "Maximum number of training images to fit a k-means image codebook on.", range=Range(at_least=1)
    )
    lora_rank: int = option(
        0,
        "Rank of LoRA matrices in the encoders' layers; only they and the identity head are trained. 0 trains all "
        "weights.",
        range=Range(at_least=0, at_most=1024),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.text_model_name_or_path is not None and self.model_name_or_path is None:
            raise ValueError("text_model_name_or_path: expected an image encoder in model_name_or_path, received none")
        if self.lora_rank and self.model_name_or_path is None:
            raise ValueError("lora_rank: expected model_name_or_path, the trained model to add to; received none")
        if self.model_name_or_path is not None:
            self.model_name_or_path = resolve_model(self.model_name_or_path)
        if self.model_name_or_path is None:  # else the checkpoint's configuration is changed
            build_config(self.model_config, vocab_size=self.vocab_size, num_identities=0, loss_weights={})
        else:
            check_config_fields(self.model_config or {})


@dataclass
class DataArguments:
    """The training data, and how examples are masked and augmented."""

    data: list[str] = option(
        list,
        "name=folder of all training data: pairs, images and captions alike. On the command line it "
        "replaces all training data of the recipe.",
        reader=parse_data_argument,
    )
    paired_data: list[str] = option(
        list,
        "name=folder of datasets with images, captions and person ids; replaces data for pairs.",
        reader=parse_data_argument,
    )
    image_data: list[str] = option(
        list, "name=folder, used only for images; replaces data for images.", reader=parse_data_argument
    )
    text_data: list[str] = option(
        list, "name=folder, used only for captions; replaces data for captions.", reader=parse_data_argument
    )
    validation_identities: float = option(
        0.1,
        "Training persons of each domain that are held out of all training data for validation: a share "
        "below 1 (rounded, at least two), or a number from 2 up. 0 holds out none.",
        range=Range(at_least=0),
    )
    validation_images_per_identity: int = option(
        16, "Maximum number of images per validation person.", range=Range(at_least=2)
    )
    validation_seed: int = option(
        0,
        "Chooses the held-out persons. Keep it the same for all stages and seeds of an experiment.",
        range=SEED_RANGE,
    )
    eval_data: list[str] = option(
        list,
        "name=folder of datasets to evaluate on during training, in addition to the validation persons.",
        reader=parse_data_argument,
    )
    eval_split: str = option(
        "test",
        "Split of eval_data: test (query and gallery where the dataset has them), or the validation split "
        "that text datasets publish.",
        choices=["test", "validation"],
    )
    select_on: str | None = option(
        None,
        "What chooses the checkpoint that becomes the model: validation, eval_data, or last. None: "
        "validation where identities are trained and persons are held out, else last.",
        choices=["validation", "eval_data", "last"],
    )
    skip_bad_images: bool = option(
        False, "Replace pictures that cannot be decoded by others and list them; otherwise stop."
    )
    max_text_length: int = option(
        64,
        "Longest caption in tokens, including [CLS] and [SEP]; longer ones are cut.",
        range=Range(at_least=MIN_TEXT_LENGTH),
    )
    image_masking: str = option(
        "pedestrian", "Which patches are masked.", choices=["pedestrian", "random", "block", "none"]
    )
    mask_ratio: float = option(0.15, "Share of an image's patches that is masked.", range=SHARE_RANGE)
    person_segmenter: str | None = option(
        None,
        "module:function that finds the person in pictures without a mask, for pedestrian masking: a list "
        "of pictures in, a mask of its picture's size or None for each out. Naming it runs its module's code.",
    )
    mask_prior: str = option(
        "figure",
        "Where pedestrian masking looks for the person in a picture without any mask: figure (a standing "
        "one), masks (the mean of the training masks), or the file of a grey picture, white where persons are.",
    )
    mask_sharpness: float = option(
        3.0,
        "Exponent on the share of a patch that is person, its weight in pedestrian masking: 1 draws in "
        "proportion to it, 3 keeps to the trunk.",
        range=Range(above=0, at_most=MAX_SHARPNESS),
    )
    mlm_probability: float = option(0.15, "Share of a caption's tokens that is masked.", range=SHARE_RANGE)
    itm_mismatch_probability: float = option(
        0.5, "Share of the pairs that get another person's caption for L_ITM.", range=SHARE_RANGE
    )
    caption_noise: float = option(
        0.0,
        "Share of tokens in identity batches that become random, to prepare for other domains' words.",
        range=SHARE_RANGE,
    )
    augmentation: dict[str, Any] | None = option(
        None,
        "Fields of mmet.training.augmentation.PersonAugmentation, as a mapping (YAML or JSON), merged "
        "over the recipe's; None for its defaults.",
    )

    data_places: dict[str, str] = field(init=False, repr=False, compare=False, default_factory=dict)
    """Where each training stream was set, for the first lines of a run's output."""

    def __post_init__(self) -> None:
        check_fields(self)
        build_augmentation(self.augmentation)
        self._check_masking()
        for stream in TRAINING_STREAMS:
            setattr(self, stream, getattr(self, stream) or list(self.data))
        if not any(getattr(self, stream) for stream in TRAINING_STREAMS):
            raise ValueError(
                "no training data: give --data, or --paired_data, --image_data and --text_data, as name=folder"
            )
        if self.select_on == "validation" and not self.validation_identities:
            raise ValueError("select_on=validation needs validation_identities above 0")
        if self.select_on == "eval_data" and not self.eval_data:
            raise ValueError("select_on=eval_data needs --eval_data name=folder")

    def _check_masking(self) -> None:
        """Raise `ValueError` if settings of pedestrian masking are given with another masking."""
        defaults = {"person_segmenter": None, "mask_prior": "figure", "mask_sharpness": 3.0}
        changed = [name for name, default in defaults.items() if getattr(self, name) != default]
        if changed and self.image_masking != "pedestrian":
            raise ValueError(
                f"{', '.join(changed)}: only image_masking=pedestrian asks where the person is, received "
                f"image_masking={self.image_masking}"
            )


@dataclass
class ObjectiveArguments:
    """Which losses are trained, their weights, and how batches are mixed."""

    batch_mix: dict[str, float] | None = option(
        None,
        "Proportions of batch kinds: paired (masked), identity (P x K), identity_image (P x K without "
        "captions), image, text. None: paired alone.",
        range=Range(at_least=0),
        replaced_whole=True,
    )
    persons_per_batch: int = option(
        16, "P of identity batches (paper: 16).", range=Range(at_least=2, at_most=MAX_BATCH_SIZE)
    )
    images_per_person: int = option(
        4, "K of identity batches (paper: 4).", range=Range(at_least=1, at_most=MAX_BATCH_SIZE)
    )
    balance_domains: bool = option(
        False,
        "Draw equally often from each domain of a kind of batch, however many images it has; otherwise in "
        "proportion to their sizes.",
    )
    mim_weight: float | None = option(None, "Weight of L_MIM; None keeps the model's.", range=Range(at_least=0))
    mlm_weight: float | None = option(None, "Weight of L_MLM.", range=Range(at_least=0))
    mmm_image_weight: float | None = option(None, "Weight of L_MMM's image part.", range=Range(at_least=0))
    mmm_text_weight: float | None = option(None, "Weight of L_MMM's text part.", range=Range(at_least=0))
    itm_weight: float | None = option(None, "Weight of L_ITM.", range=Range(at_least=0))
    global_contrastive_weight: float | None = option(None, "Weight of L_GC.", range=Range(at_least=0))
    identity_weight: float | None = option(None, "Weight of L_ID.", range=Range(at_least=0))
    triplet_weight: float | None = option(None, "Weight of L_triplet.", range=Range(at_least=0))
    loss_schedule: dict[str, Any] | None = option(
        None,
        "Factors of loss weights that change, by loss (mim, identity, ...): [share of the steps, factor] "
        "points, linear between them, such as {mim: [[0, 1], [1, 0]]}. None: weights stay as they are.",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.batch_mix is not None:
            check_mix(self.batch_mix)
        self.schedule = LossSchedule(self.loss_schedule or {})

    @property
    def mix(self) -> dict[str, float]:
        """The kinds of batch in training, with their proportions."""
        mix = {"paired": 1.0} if self.batch_mix is None else self.batch_mix
        return {kind: share for kind, share in mix.items() if share}

    @property
    def loss_weights(self) -> dict[str, float]:
        """The given weights, by their name in `MMETConfig`."""
        names = [f"{name}_weight" for name in LOSS_NAMES]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass
class PretrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments` with the defaults that raw samples and homogeneous batches need."""

    output_dir: str = option("outputs/pretrain", "Where checkpoints and the model go.")
    remove_unused_columns: bool = option(False, "The collator reads raw samples; keep False.")
    dataloader_drop_last: bool = option(True, "Only whole batches; keep True for P x K.")
    logging_steps: float = option(10, "Steps between two log lines.")
    hub_strategy: str = option(
        "end",
        "When push_to_hub pushes: end, every_save, checkpoint or all_checkpoints.",
        choices=["end", "every_save", "checkpoint", "all_checkpoints"],
    )
    ddp_find_unused_parameters: bool | None = option(
        True,
        "Whether several processes look for parameters that a kind of batch leaves alone; keep True "
        "(Trainer's own choice is False with activation checkpointing) unless all batches are paired.",
    )
    allow_changed_resume: bool = option(
        False, "Resume although recipe or data differ from the checkpoint's; otherwise a difference is an error."
    )
    eval_strategy: str = option(
        "auto",
        "When to evaluate: auto (whenever a checkpoint is saved), no, steps or epoch.",
        choices=["auto", "no", "steps", "epoch"],
    )

    def __post_init__(self) -> None:
        check_fields(self, OPTION_RANGES)
        refuse_options_without_effect(self)
        self.asks_to_evaluate = self.eval_strategy not in ("auto", "no") or self.eval_on_start
        if self.eval_strategy == "auto":
            self.eval_strategy = self.save_strategy if str(self.save_strategy) in ("steps", "epoch") else "no"
            self.eval_steps = self.eval_steps or self.save_steps
        wait_for_processes(cpu=self.use_cpu or parse_flag_from_env("ACCELERATE_USE_CPU"))
        read_mappings(self)
        try:
            super().__post_init__()  # type: ignore[no-untyped-call]
        except (TypeError, KeyError, AttributeError) as error:  # from mappings that it passes on
            raise ValueError(f"an option of TrainingArguments cannot be used: {error}") from error
        check_prepared_options(self)
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # pinned memory is for copies to an accelerator


def parse_arguments(
    argv: Sequence[str],
) -> tuple[ModelArguments, DataArguments, ObjectiveArguments, PretrainingArguments]:
    """
    Parse `[recipe] [--field value ...]`; the recipe is a file or the name of a shipped one.

    Raises:
        ValueError: the recipe cannot be read, or a field or value does not exist.
    """
    parser = build_parser()
    argv = list(argv)
    recipe: dict[str, Any] = {}
    place = "default"
    if argv and not argv[0].startswith("-"):
        path = find_recipe(argv.pop(0))
        place = f"recipe {path}"
        recipe = _read_recipe(parser, path)
    options = parser.read_options(argv)
    if "data" in options:  # it replaces all training data of the recipe
        recipe = {name: value for name, value in recipe.items() if name not in TRAINING_STREAMS}
    fields = parser.merge(recipe, options)
    try:
        parsed: Any = parser.build(fields)
    except ValueError as error:
        name = str(error).partition(":")[0].partition("[")[0].partition(".")[0].partition(" ")[0]
        raise ValueError(f"{place}: {error}" if name in recipe and name not in options else str(error)) from error
    parsed[1].data_places = {
        stream: "command line" if stream in options or (stream not in recipe and "data" in options) else place
        for stream in TRAINING_STREAMS
    }
    return parsed  # type: ignore[no-any-return]


def build_parser() -> ArgumentParser:
    """The parser of `run_pretrain.py`: the project's options first, then those of transformers."""
    program = program_name("run_pretrain.py")
    return ArgumentParser(
        [ModelArguments, DataArguments, ObjectiveArguments, PretrainingArguments],
        prog=program,
        usage=f"{program} [recipe] [--option value ...]",
        description="Pretrain MMET. A recipe is a YAML or JSON file of these options, or the name of a shipped one "
        "such as demo (--list_recipes lists them); the command line overrides it. Options that are mappings take "
        "YAML or JSON.",
    )


def _read_recipe(parser: ArgumentParser, path: Path) -> dict[str, Any]:
    """Read and convert the fields of a recipe. Raises `ValueError` that names the file and the problem."""
    recipe = read_mapping_file(path)
    try:
        return parser.convert(recipe)
    except ValueError as error:
        raise ValueError(f"recipe {path}: {error}") from error
