"""The arguments of pretraining: dataclasses that a YAML recipe fills and the command line overrides.

A recipe is a flat YAML mapping of the fields below and of transformers' `TrainingArguments`; anything on the command
line wins:

    accelerate launch run_pretrain.py recipes/demo.yaml --image_masking random --max_steps 100
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from configuration_mmet import MMETConfig
from mmet.command_line import ArgumentParser
from mmet.loss_schedule import LossSchedule
from modeling_mmet import LOSS_NAMES

MAX_SHARPNESS = 20
"""A patch half on the person then weighs a millionth of one that is all on it."""


@dataclass
class ModelArguments:
    """Which model is trained, and from where."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint to continue from (folder or Hub name). None starts from scratch."}
    )
    model_config: dict | str | None = field(
        default=None,
        metadata={
            "help": "Fields of MMETConfig, nested, as a mapping (recipe) or JSON (command line). Beside "
            "--model_name_or_path: those that leave the encoders' sizes as they are, such as triplet_margin."
        },
    )
    tokenizer_name: str | None = field(
        default=None,
        metadata={"help": "BERT tokenizer (folder or Hub name). None trains a WordPiece vocabulary on the captions."},
    )
    vocab_size: int = field(default=2000, metadata={"help": "Size of a vocabulary trained on the captions."})
    codebook_images: int = field(
        default=2048, metadata={"help": "Training images that a k-means image codebook is fitted on, at most."}
    )

    def __post_init__(self):
        if self.codebook_images < 1:
            raise ValueError(f"codebook_images must be at least 1, received {self.codebook_images}")
        if isinstance(self.model_config, str):
            self.model_config = json.loads(self.model_config)


@dataclass
class DataArguments:
    """What it is trained on and how examples are masked and augmented."""

    paired_data: list[str] = field(
        default_factory=list, metadata={"help": "name=folder of datasets with images, captions and person ids."}
    )
    image_data: list[str] = field(default_factory=list, metadata={"help": "name=folder, used for images alone."})
    text_data: list[str] = field(default_factory=list, metadata={"help": "name=folder, used for captions alone."})
    validation_identities: float = field(
        default=0.1,
        metadata={
            "help": "Training persons of each domain that are held out of all training data for validation: a share "
            "below 1 (rounded, at least two), or a number from 2 up. 0 holds out none."
        },
    )
    validation_images_per_identity: int = field(
        default=16, metadata={"help": "Images of a validation person that are evaluated on, at most."}
    )
    validation_seed: int = field(
        default=0,
        metadata={"help": "Which persons are held out. Keep it over the stages and seeds of one experiment."},
    )
    eval_data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "name=folder of datasets that are evaluated on during training, beside the validation split."
        },
    )
    eval_split: str = field(
        default="test",
        metadata={
            "help": "Split of eval_data: test (query and gallery where the dataset has them), or the validation split "
            "that text datasets publish.",
            "choices": ["test", "validation"],
        },
    )
    select_on: str | None = field(
        default=None,
        metadata={
            "help": "What chooses the checkpoint that becomes the model: validation, eval_data, or last. None: "
            "validation where identities are trained and persons are held out, else last.",
            "choices": ["validation", "eval_data", "last"],
        },
    )
    skip_bad_images: bool = field(
        default=False,
        metadata={"help": "Replace pictures that cannot be decoded by others, count and list them; else stop."},
    )
    max_text_length: int = field(default=64, metadata={"help": "Longest caption in tokens; longer ones are cut."})
    image_masking: str = field(
        default="pedestrian",
        metadata={"help": "Which patches are masked.", "choices": ["pedestrian", "random", "block", "none"]},
    )
    mask_ratio: float = field(default=0.15, metadata={"help": "Share of an image's patches that is masked."})
    person_segmenter: str | None = field(
        default=None,
        metadata={
            "help": "module:function that finds the person in pictures without a mask, for pedestrian masking: a list "
            "of pictures in, a mask of its picture's size or None for each out. Naming it runs its module's code."
        },
    )
    mask_prior: str = field(
        default="figure",
        metadata={
            "help": "Where pedestrian masking looks for the person in a picture without any mask: figure (a standing "
            "one), masks (the mean of the training masks), or the file of a grey picture, white where persons are."
        },
    )
    mask_sharpness: float = field(
        default=3.0,
        metadata={
            "help": "Exponent on the share of a patch that is person, its weight in pedestrian masking: 1 draws in "
            "proportion to it, 3 keeps to the trunk."
        },
    )
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of a caption's tokens that is masked."})
    itm_mismatch_probability: float = field(
        default=0.5, metadata={"help": "Share of the pairs that get another person's caption for L_ITM."}
    )
    caption_noise: float = field(
        default=0.0,
        metadata={"help": "Share of tokens in identity batches that become random, against another domain's words."},
    )
    augmentation: dict | str | None = field(
        default=None,
        metadata={
            "help": "Fields of mmet.augmentation.PersonAugmentation, as a mapping or JSON; None for its defaults."
        },
    )

    def __post_init__(self):
        if isinstance(self.augmentation, str):
            self.augmentation = json.loads(self.augmentation)
        self._check_masking()
        if not (self.paired_data or self.image_data or self.text_data):
            raise ValueError("no training data: give --paired_data, --image_data or --text_data as name=folder")
        if self.validation_identities < 0 or self.validation_images_per_identity < 2:
            raise ValueError(
                "expected validation_identities of at least 0 and validation_images_per_identity of at least 2, "
                f"received {self.validation_identities} and {self.validation_images_per_identity}"
            )
        if self.select_on == "validation" and not self.validation_identities:
            raise ValueError("select_on=validation needs validation_identities above 0")
        if self.select_on == "eval_data" and not self.eval_data:
            raise ValueError("select_on=eval_data needs --eval_data name=folder")

    def _check_masking(self):
        """Raise `ValueError` for a sharpness out of range, and for pedestrian masking's settings beside another."""
        if not 0 < self.mask_sharpness <= MAX_SHARPNESS:
            raise ValueError(f"expected mask_sharpness in (0, {MAX_SHARPNESS}], received {self.mask_sharpness}")
        defaults = {"person_segmenter": None, "mask_prior": "figure", "mask_sharpness": 3.0}
        given = [name for name, default in defaults.items() if getattr(self, name) != default]
        if given and self.image_masking != "pedestrian":
            raise ValueError(
                f"{', '.join(given)}: only image_masking=pedestrian asks where the person is, received "
                f"image_masking={self.image_masking}"
            )


@dataclass
class ObjectiveArguments:
    """Which losses are trained, how much each counts, and how batches are mixed."""

    batch_mix: dict | str | None = field(
        default=None,
        metadata={
            "help": "Proportions of batch kinds: paired (masked), identity (P x K), identity_image (P x K without "
            "captions), image, text. None: paired alone."
        },
    )
    persons_per_batch: int = field(default=16, metadata={"help": "P of identity batches (paper: 16)."})
    images_per_person: int = field(default=4, metadata={"help": "K of identity batches (paper: 4)."})
    balance_domains: bool = field(
        default=False,
        metadata={
            "help": "Draw equally often from each domain of a kind of batch, however many images each has; else in "
            "proportion to their sizes."
        },
    )
    mim_weight: float | None = field(default=None, metadata={"help": "Weight of L_MIM; None keeps the model's."})
    mlm_weight: float | None = field(default=None, metadata={"help": "Weight of L_MLM."})
    mmm_image_weight: float | None = field(default=None, metadata={"help": "Weight of L_MMM's image part."})
    mmm_text_weight: float | None = field(default=None, metadata={"help": "Weight of L_MMM's text part."})
    itm_weight: float | None = field(default=None, metadata={"help": "Weight of L_ITM."})
    global_contrastive_weight: float | None = field(default=None, metadata={"help": "Weight of L_GC."})
    identity_weight: float | None = field(default=None, metadata={"help": "Weight of L_ID."})
    triplet_weight: float | None = field(default=None, metadata={"help": "Weight of L_triplet."})
    loss_schedule: dict | str | None = field(
        default=None,
        metadata={
            "help": "Factors of loss weights that change, by loss (mim, identity, ...): [share of the steps, factor] "
            "points, linear between them, such as {mim: [[0, 1], [1, 0]]}. None: weights stay as they are."
        },
    )

    def __post_init__(self):
        if isinstance(self.batch_mix, str):
            self.batch_mix = json.loads(self.batch_mix)
        if isinstance(self.loss_schedule, str):
            self.loss_schedule = json.loads(self.loss_schedule)
        LossSchedule(self.schedule_points)  # raises for points that make no schedule

    @property
    def schedule_points(self) -> dict[str, Any]:
        """The points of `loss_schedule`; none where weights stay as they are."""
        return self.loss_schedule if isinstance(self.loss_schedule, dict) else {}

    @property
    def mix(self) -> dict[str, float]:
        """The kinds of batch that are trained on, with their proportions."""
        given = self.batch_mix if isinstance(self.batch_mix, dict) else {"paired": 1.0}
        return {kind: share for kind, share in given.items() if share}

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weights that were given, by their name in `MMETConfig`."""
        names = [f"{name}_weight" for name in LOSS_NAMES]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass
class PretrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments` with the defaults that raw samples and homogeneous batches need."""

    output_dir: str = field(default="outputs/pretrain", metadata={"help": "Where checkpoints and the model go."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "The collator reads raw samples; keep False."}
    )
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Only whole batches; keep True for P x K."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between two log lines."})
    hub_strategy: str = field(
        default="end", metadata={"help": "When push_to_hub pushes: end, every_save, checkpoint or all_checkpoints."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=True,
        metadata={
            "help": "Whether several processes look for parameters that a kind of batch leaves alone; keep True "
            "(Trainer's own choice is False with activation checkpointing) unless all batches are paired."
        },
    )
    eval_strategy: str = field(
        default="auto",
        metadata={"help": "When to evaluate: auto (whenever a checkpoint is saved), no, steps or epoch."},
    )

    def __post_init__(self):
        if self.eval_strategy == "auto":
            self.eval_strategy = self.save_strategy if str(self.save_strategy) in ("steps", "epoch") else "no"
            self.eval_steps = self.eval_steps or self.save_steps
        super().__post_init__()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # pinned memory is for copies to an accelerator


def parse_arguments(
    argv: Sequence[str],
) -> tuple[ModelArguments, DataArguments, ObjectiveArguments, PretrainingArguments]:
    """
    Parse `[recipe.yaml] [--field value ...]`.

    Raises:
        ValueError: for a recipe that cannot be read, and for fields or values that do not exist.
    """
    dataclass_types: list[Any] = [ModelArguments, DataArguments, ObjectiveArguments, PretrainingArguments]
    parser = ArgumentParser(dataclass_types)
    argv = list(argv)
    if argv and argv[0].endswith((".yaml", ".yml")):
        parser.set_defaults(**read_recipe(Path(argv.pop(0)), {action.dest for action in parser._actions}))
    parsed: Any = parser.parse_args_into_dataclasses(args=argv)
    return parsed


def read_recipe(path: Path, known_fields: set[str]) -> dict[str, Any]:
    """The fields of a recipe. Raises `ValueError` naming the file, and the field with the nearest existing name."""
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"recipe {path} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe {path} is not YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"recipe {path} must be a mapping of fields, received {type(recipe).__name__}")
    for name in recipe:
        if name not in known_fields:
            near = difflib.get_close_matches(str(name), known_fields, n=1)
            raise ValueError(
                f"recipe {path} has an unknown field {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
    return recipe


def build_config(fields: Any, *, vocab_size: int, num_identities: int, loss_weights: dict[str, float]) -> MMETConfig:
    """
    An `MMETConfig` from a recipe's nested `fields` (a mapping or None), the tokenizer's vocabulary, the data's
    identities and the loss weights.

    Raises:
        ValueError: for a field that no configuration has (transformers itself would accept it in silence).
    """
    fields = dict(fields or {})
    _check_fields(fields)
    fields["text_config"] = {**(fields.get("text_config") or {}), "vocab_size": vocab_size}
    return MMETConfig(**{**fields, "num_identities": num_identities, **loss_weights})


FIELDS_OF_A_STAGE = (
    "identity_pooling",
    "modality_dropout",
    "label_smoothing",
    "triplet_margin",
    "triplet_normalize",
)
"""Fields of `MMETConfig`, beside the loss weights, that a later stage may choose anew: they fit any weights."""


def override_config(config: MMETConfig, fields: Any) -> MMETConfig:
    """
    The configuration of a checkpoint with a recipe's `fields` (a mapping or None) in place of its own.

    Raises:
        ValueError: for a field that no configuration has, or another value of one that the checkpoint decides.
    """
    fields = dict(fields or {})
    _check_fields(fields)
    chosen = {name: fields[name] for name in fields if name in FIELDS_OF_A_STAGE or name.endswith("_weight")}
    stored = config.to_dict()
    changed = [name for name in fields if name not in chosen and not _agrees(fields[name], stored[name])]
    if changed:
        raise ValueError(
            f"model_config beside model_name_or_path: only {', '.join(FIELDS_OF_A_STAGE)} and loss weights may differ "
            f"from the checkpoint, received another {', '.join(sorted(changed))}"
        )
    return MMETConfig.from_dict({**stored, **chosen})


def _agrees(given: Any, stored: Any) -> bool:
    """Whether a recipe's value says nothing else than the stored one; None says nothing, a mapping what it names."""
    if isinstance(given, dict):
        return all(_agrees(value, (stored or {}).get(name)) for name, value in given.items())
    if isinstance(given, (list, tuple)) and isinstance(stored, (list, tuple)):
        return list(given) == list(stored)
    return given is None or given == stored


def _check_fields(fields: dict[str, Any]) -> None:
    known = {name: {f.name for f in dataclasses.fields(config)} for name, config in MMETConfig.sub_configs.items()}
    known[""] = {f.name for f in dataclasses.fields(MMETConfig)}
    for prefix, names in known.items():
        given = set(fields.get(prefix) or {}) if prefix else set(fields)
        if given - names:
            raise ValueError(f"model_config{'.' * bool(prefix)}{prefix} has unknown fields: {sorted(given - names)}")
