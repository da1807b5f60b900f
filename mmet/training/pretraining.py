"""Pretraining from arguments to a saved model: load the data, build tokenizer, model and codebook, train, save.

`run_pretrain.py` parses the arguments and calls `run_pretraining`; each step is a function of its own, so that a
notebook can stop anywhere between them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm
from transformers import BertTokenizer
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType, set_seed

from configuration_mmet import MMETConfig, MMETImageConfig, MMETTextConfig
from mmet.checkpoint_files import check_checkpoint_folder, check_model, load_tokenizer
from mmet.data import (
    DataArgument,
    distinct_labels,
    get_spec,
    load_reid_dataset,
    load_sources,
    parse_data_arguments,
)
from mmet.data.synthetic import PROVENANCE_FILE
from mmet.distributed import compute_on_all, compute_once
from mmet.folder_lock import locked_by_main_process
from mmet.hub import check_hub, create_repository
from mmet.stopping import StopSignal
from mmet.training.arguments import (
    MIN_TEXT_LENGTH,
    TRAINING_STREAMS,
    DataArguments,
    ModelArguments,
    ObjectiveArguments,
    PretrainingArguments,
    build_config,
    override_config,
)
from mmet.training.augmentation import PersonAugmentation
from mmet.training.checkpoints import check_space, check_writable, checkpoint_bytes, last_checkpoint
from mmet.training.codebook import CodebookFit, fit_codebook, num_images_needed
from mmet.training.collator import MMETDataCollator
from mmet.training.dataset import TrainingDataset
from mmet.training.loss_schedule import LossSchedule
from mmet.training.masking import mean_coverage_prior, num_masked_patches, picture_prior
from mmet.training.model_card import (
    RESULT_FILE,
    DataSummary,
    build_model_card,
    not_a_result,
    read_result,
    training_result,
    write_result,
)
from mmet.training.run_record import DataRecord, RunRecord, check_resume
from mmet.training.sampling import IDENTITY_KINDS, MAX_SEED, Draw, IdentityBatchShape, MixedBatchSampler
from mmet.training.segmenter import load_segmenter
from mmet.training.skipping import SkippedImages
from mmet.training.tokenization import load_person_words, train_wordpiece_tokenizer
from mmet.training.trainer import MMETTrainer
from mmet.training.validation import (
    Persons,
    RetrievalEvaluator,
    RetrievalSet,
    choose_persons,
    evaluation_set,
    split_persons,
    validation_sets,
)
from mmet.whole_files import write_whole
from modeling_mmet import LOSS_NAMES, MMETDalleCodebook, MMETForPreTraining
from processing_mmet import MMETImageProcessor, MMETProcessor

logger = logging.getLogger(__name__)

_IMAGES_PER_READ = 64

_PRIOR_IMAGES = 1024
"""Pictures whose masks a measured prior is the mean of, at most: the share of a patch is then right to 0.03."""


@dataclass(frozen=True)
class TrainingSources:
    """The training splits of the datasets that were asked for, by how they are used."""

    paired: list[datasets.Dataset]
    image: list[datasets.Dataset]
    text: list[datasets.Dataset]

    @classmethod
    def load(cls, arguments: DataArguments) -> TrainingSources:
        """Load every `name=folder` once, however often it is used. Raises `DatasetError` for an unusable folder."""
        wanted = parse_data_arguments(arguments.paired_data, arguments.image_data, arguments.text_data)
        loaded = iter([splits["train"] for splits in load_sources(list(chain(*wanted)))])
        return cls(*(list(islice(loaded, len(sources))) for sources in wanted))

    def distinct(self) -> list[datasets.Dataset]:
        """Every source once, however often it is used."""
        return list({id(source): source for source in (*self.paired, *self.image, *self.text)}.values())

    def without(self, persons: Persons) -> TrainingSources:
        """The sources without the rows of these persons."""
        if not persons:
            return self
        kept = {id(source): split_persons(source, persons)[0] for source in self.distinct()}
        return TrainingSources(
            *([kept[id(source)] for source in sources] for sources in (self.paired, self.image, self.text))
        )

    def captions(self) -> Iterator[str]:
        """Every caption once per image it describes."""
        for source in {id(source): source for source in (*self.paired, *self.text)}.values():
            yield from chain.from_iterable(source["captions"])


def run_pretraining(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    objective_arguments: ObjectiveArguments,
    training_arguments: PretrainingArguments,
) -> Path:
    """
    Pretrain as the arguments say and save model and processor.

    Returns:
        The folder of the trained model, `training_arguments.output_dir`.

    Raises:
        ValueError: for arguments that contradict each other or the data (`DatasetError` for a folder).
        NonFiniteLossError: when a loss stops being finite.
        FolderInUseError: when another run writes to the output folder.
        CheckpointError: when the output folder cannot take what is to be written there.
        TrainingStopped: after a Ctrl-C or SIGTERM, once a checkpoint is saved.
    """
    output = Path(training_arguments.output_dir)
    log_training_data(data_arguments)
    if training_arguments.push_to_hub:
        compute_once(lambda: check_hub(training_arguments))
    compute_once(lambda: check_writable(output))
    with locked_by_main_process(output):
        checkpoint = compute_once(lambda: find_checkpoint(training_arguments))
        if compute_once(lambda: _finished(training_arguments)):
            logger.warning("%s has been trained to its last step already: nothing to do", output)
            return output
        compute_on_all(lambda: check_sources_of_weights(model_arguments, checkpoint))
        _train(model_arguments, data_arguments, objective_arguments, training_arguments, checkpoint)
    return output


def _train(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    objective_arguments: ObjectiveArguments,
    training_arguments: PretrainingArguments,
    checkpoint: str | None,
) -> None:
    """Load the data, build the model, train from the beginning or a checkpoint, and save the model."""
    set_seed(training_arguments.seed)
    data = compute_on_all(lambda: load_data(data_arguments))
    plan_selection(data_arguments, objective_arguments, training_arguments, data.evaluation_sets)
    dataset = TrainingDataset(
        paired=data.sources.paired,
        image=data.sources.image,
        text=data.sources.text,
        augmentation=build_augmentation(data_arguments.augmentation),
        skip_bad_images=data_arguments.skip_bad_images,
    )
    processor, model = build_model(model_arguments, objective_arguments, data.sources, dataset)
    check_objectives(
        model.config,
        data_arguments,
        objective_arguments,
        batch_size=training_arguments.per_device_train_batch_size,
        num_processes=training_arguments.world_size,
    )
    compute_once(lambda: _check_room(model, training_arguments))
    record = RunRecord.of(
        (model_arguments, data_arguments, objective_arguments, training_arguments),
        model.config,
        processor.tokenizer.get_vocab(),
        data.records,
        num_processes=training_arguments.world_size,
        start=model_arguments.model_name_or_path,
    )
    if checkpoint is not None:
        compute_once(lambda: compare_records(Path(checkpoint), record, training_arguments))
    if training_arguments.push_to_hub:  # last of the checks: a run that is refused leaves nothing on the Hub
        compute_once(lambda: create_repository(training_arguments))
    with StopSignal() as stop:
        kinds = kinds_that_need_codes(model, data_arguments, objective_arguments)
        if kinds and checkpoint is None:  # a checkpoint to resume brings its own
            prepare_codebook(model, processor, dataset, kinds, model_arguments.codebook_images, training_arguments)
        trainer = build_trainer(
            model, processor, dataset, data, data_arguments, objective_arguments, training_arguments, stop, record
        )
        trainer.train(resume_from_checkpoint=checkpoint)
    finish(trainer, data, data_arguments, objective_arguments, training_arguments)


def compare_records(checkpoint: Path, record: RunRecord, arguments: PretrainingArguments) -> None:
    """Raise `ValueError` where a run differs from its checkpoint and was not meant to; log what is allowed."""
    for change in check_resume(checkpoint, record, allow_changes=arguments.allow_changed_resume):
        logger.warning("%s is continued although %s", checkpoint, change)


def check_sources_of_weights(arguments: ModelArguments, checkpoint: str | None) -> None:
    """Raise `ValueError` where the model or checkpoint to go on from cannot be read, before anything is loaded."""
    if arguments.model_name_or_path is not None:
        check_model(arguments.model_name_or_path)
    if arguments.tokenizer_name is not None:
        load_tokenizer(arguments.tokenizer_name)
    if checkpoint is not None:
        check_checkpoint_folder(Path(checkpoint))


def finish(
    trainer: MMETTrainer,
    data: LoadedData,
    data_arguments: DataArguments,
    objectives: ObjectiveArguments,
    arguments: PretrainingArguments,
) -> None:
    """Leave the trained model, its card and, at last, the result file; push them where `push_to_hub` says so."""
    output = Path(arguments.output_dir)
    trainer.save_model(_internal_call=True)
    trainer.skipped.gather()
    if arguments.should_save:
        sets = {one.name: one.description for one in data.evaluation_sets}
        result = training_result(trainer, data_arguments, objectives, arguments, data.summaries, sets)
        name = arguments.hub_model_id or output.name
        trainer.save_state()
        trainer.skipped.save(output)
        write_whole(output / "README.md", str(build_model_card(result, name=name)))
        write_result(result, output)
    trainer.accelerator.wait_for_everyone()
    if arguments.push_to_hub:
        trainer.push_to_hub(commit_message="Trained model", revision=arguments.hub_revision)


def _check_room(model: MMETForPreTraining, arguments: PretrainingArguments) -> None:
    """Raise `CheckpointError` where the disk has no room for the checkpoints."""
    expected = 1
    if arguments.save_strategy == SaveStrategy.STEPS and arguments.max_steps > 0:
        expected = max(1, math.ceil(arguments.max_steps / max(1, arguments.save_steps)))
    check_space(
        Path(arguments.output_dir),
        checkpoint_bytes(model, str(getattr(arguments.optim, "value", arguments.optim))),
        num_kept=min(expected, arguments.save_total_limit or expected),
    )


@dataclass(frozen=True)
class LoadedData:
    """
    What a run trains and evaluates on; `summaries` tell the result file and the model card about it, `records` a
    resume.
    """

    sources: TrainingSources
    evaluation_sets: list[RetrievalSet]
    summaries: list[DataSummary]
    records: dict[str, DataRecord]


def load_data(arguments: DataArguments) -> LoadedData:
    """
    The training sources without the validation persons, and what is evaluated on: these persons, and `eval_data`.

    Raises:
        DatasetError: for an unusable folder.
        ValueError: for more validation persons than the data can spare.
    """
    sources = TrainingSources.load(arguments)
    held_out = choose_persons(
        sources.distinct(), amount=arguments.validation_identities, seed=arguments.validation_seed
    )
    sets = validation_sets(
        sources.distinct(),
        held_out,
        images_per_person=arguments.validation_images_per_identity,
        seed=arguments.validation_seed,
    )
    (evaluated,) = parse_data_arguments(arguments.eval_data)
    for label, (name, folder, options) in zip(distinct_labels(evaluated), evaluated, strict=True):
        dataset = load_reid_dataset(name, folder, **options)
        sets.append(evaluation_set(label, dataset, split=arguments.eval_split))
    summaries = summarize_sources(arguments, sources, held_out)
    return LoadedData(
        sources.without(held_out), sets, summaries, compute_once(lambda: record_data(arguments, sources))
    )


def record_data(arguments: DataArguments, sources: TrainingSources) -> dict[str, DataRecord]:
    """What each source holds, by a name that does not depend on where it lies, in the order of their first use."""
    records: dict[str, DataRecord] = {}
    for argument, split, uses in _sources_in_use(arguments, sources):
        number = sum(known.partition(" ")[0] == argument.name for known in records)
        records[f"{argument.name} {number + 1}" if number else argument.name] = DataRecord.of(split, uses)
    return records


def _sources_in_use(
    arguments: DataArguments, sources: TrainingSources
) -> Iterator[tuple[DataArgument, datasets.Dataset, list[str]]]:
    """Each source once, with its training split and its uses, in the order in which they are used first."""
    kinds = ("paired", "image", "text")
    uses: dict[str, list[str]] = {}
    splits: dict[str, tuple[DataArgument, datasets.Dataset]] = {}
    parsed = parse_data_arguments(*(getattr(arguments, f"{use}_data") for use in kinds))
    for use, named in zip(kinds, parsed, strict=True):
        for argument, split in zip(named, getattr(sources, use), strict=True):
            uses.setdefault(str(argument), []).append(use)
            splits[str(argument)] = argument, split
    yield from ((argument, split, uses[written]) for written, (argument, split) in splits.items())


def summarize_sources(arguments: DataArguments, sources: TrainingSources, held_out: Persons) -> list[DataSummary]:
    """One summary for each `name=folder`, in the order in which they are used first."""
    summaries = []
    for argument, split, uses in _sources_in_use(arguments, sources):
        spec = get_spec(argument.name)
        columns = split.select_columns(["person_id", "captions"]).with_format("arrow")[:]
        person_ids = np.unique(columns["person_id"].to_numpy())
        held = np.concatenate([np.asarray(held_out.get(domain, ()), np.int64) for domain in split.unique("domain")])
        captions = int(pc.sum(pc.list_value_length(columns["captions"])).as_py() or 0)
        summaries.append(
            DataSummary(
                name=argument.label,
                title=spec.title,
                uses=tuple(uses),
                images=len(split),
                persons=int((person_ids >= 0).sum()),
                captions=captions,
                held_out_persons=int(np.isin(person_ids, held).sum()),
                licence=spec.licence,
                synthetic=any(argument.root.glob(PROVENANCE_FILE)),
            )
        )
    return summaries


def plan_selection(
    data: DataArguments,
    objectives: ObjectiveArguments,
    arguments: PretrainingArguments,
    sets: Sequence[RetrievalSet],
) -> None:
    """
    Settle in `data.select_on` and `arguments` what chooses the checkpoint that becomes the model.

    Without a choice of the user's, validation chooses where identities are trained: masked objectives alone do not
    aim at retrieval, so of such a stage the last checkpoint counts.

    Raises:
        ValueError: where a checkpoint is to be chosen that is never evaluated or never saved.
    """
    if data.select_on is None:
        validates = any(one.role == "validation" for one in sets) and arguments.eval_strategy != "no"
        data.select_on = "validation" if validates and _trains_identities(objectives) else "last"
    if not sets:
        if arguments.asks_to_evaluate:
            raise ValueError(
                f"eval_strategy: {arguments.eval_strategy} would have no effect: nobody is held out and there is no "
                "eval_data; set validation_identities or eval_data"
            )
        arguments.eval_strategy, arguments.do_eval = IntervalStrategy.NO, False
    if data.select_on == "last":
        schedule = SchedulerType(arguments.lr_scheduler_type)
        if schedule in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY):
            raise ValueError(
                f"lr_scheduler_type: {schedule.value} follows the metric that chooses the checkpoint, and "
                "select_on=last has none; set select_on to validation or eval_data"
            )
        return
    saved, evaluated = (arguments.save_strategy, arguments.save_steps), (arguments.eval_strategy, arguments.eval_steps)
    if saved != evaluated:
        raise ValueError(
            f"select_on={data.select_on} chooses among checkpoints that are evaluated: set save_strategy and "
            f"eval_strategy, save_steps and eval_steps alike (received {saved[0]} {saved[1]} and {evaluated[0]} "
            f"{evaluated[1]}), or --select_on last"
        )
    role = {"validation": "validation", "eval_data": "data"}[data.select_on]
    arguments.load_best_model_at_end = True
    arguments.metric_for_best_model = f"{role}_mAP"
    arguments.greater_is_better = True


def build_augmentation(fields: Any) -> PersonAugmentation:
    """The augmentation of a recipe's fields (None: the defaults). Raises `ValueError` for a field it does not have."""
    try:
        return PersonAugmentation(**(fields or {}))
    except TypeError as error:
        raise ValueError(f"augmentation: {error}") from None


def find_checkpoint(arguments: PretrainingArguments) -> str | None:
    """
    The checkpoint to resume from: the one that was named, with `true` the last one if there is any, else None.

    Raises:
        ValueError: when the output folder holds checkpoints and resuming was not asked for, so that nothing is
            overwritten.
    """
    resume = arguments.resume_from_checkpoint
    output = Path(arguments.output_dir)
    last = last_checkpoint(output)
    if isinstance(resume, str) and resume.lower() not in ("true", "false"):
        if not Path(resume).is_dir():
            raise ValueError(f"resume_from_checkpoint={resume} is not a folder")
        return resume
    if str(resume).lower() == "true":
        return str(last) if last is not None else None
    if last is not None:
        raise ValueError(
            f"{output} already holds {last.name}: pass --resume_from_checkpoint true to continue it, "
            "or another --output_dir to start anew"
        )
    return None


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


def _trains_identities(objectives: ObjectiveArguments) -> bool:
    return any(kind in objectives.mix for kind in IDENTITY_KINDS)


_LOSSES_OF_KINDS = {
    "paired": ("mmm_image", "mmm_text", "itm", "global_contrastive"),
    "image": ("mim",),
    "text": ("mlm",),
    "identity": ("identity", "triplet", "global_contrastive"),
    "identity_image": ("identity", "triplet"),
}
"""What a batch of each kind can train."""


def check_objectives(
    config: MMETConfig, data: DataArguments, objectives: ObjectiveArguments, *, batch_size: int, num_processes: int = 1
) -> None:
    """
    Raise `ValueError` for settings with which a kind of batch in the mix, or one of its losses, teaches nothing.

    Args:
        config: of the model, with the loss weights.
        data: how examples are masked.
        objectives: the mix and the schedule of its losses.
        batch_size: examples of a batch, on each process.
        num_processes: L_GC compares the examples of all of them.
    """
    weighted = _weighted_losses(config, objectives)
    trained = weighted - {"mim", "mmm_image"} if data.image_masking == "none" else weighted
    for kind in objectives.mix:
        _check_kind(kind, weighted, trained)
    losses = trained & {loss for kind in objectives.mix for loss in _LOSSES_OF_KINDS[kind]}
    _check_masks(config, data, losses)
    _check_partners(data, objectives, losses, batch_size, num_processes)
    longest = cast(MMETTextConfig, config.text_config).max_position_embeddings
    if set(objectives.mix) - {"image", "identity_image"} and longest < MIN_TEXT_LENGTH:
        raise ValueError(
            f"max_position_embeddings: the model reads captions of {longest} tokens, which hold no word beside [CLS] "
            f"and [SEP]; at least {MIN_TEXT_LENGTH} are needed"
        )


def _weighted_losses(config: MMETConfig, objectives: ObjectiveArguments) -> set[str]:
    """The losses whose weight is above 0 at some time of the run."""
    schedule = LossSchedule(objectives.schedule_points)
    return {
        name
        for name in LOSS_NAMES
        if getattr(config, f"{name}_weight") > 0
        and any(factor > 0 for _, factor in schedule.points.get(name, ((0.0, 1.0),)))
    }


def _check_kind(kind: str, weighted: set[str], trained: set[str]) -> None:
    """Raise `ValueError` where batches of a kind train no loss."""
    losses = set(_LOSSES_OF_KINDS[kind])
    if trained & losses:
        return
    if weighted & losses:
        raise ValueError(
            f"batch_mix: {kind} batches would teach nothing with image_masking none; choose another masking, or leave "
            f"{kind} out of the mix"
        )
    raise ValueError(
        f"batch_mix: {kind} batches would teach nothing, for the weights of all their losses "
        f"({', '.join(_LOSSES_OF_KINDS[kind])}) are 0; raise one, or leave {kind} out of the mix"
    )


def _check_masks(config: MMETConfig, data: DataArguments, losses: set[str]) -> None:
    """Raise `ValueError` where a masked loss has nothing masked."""
    patches = cast(MMETImageConfig, config.image_config).num_patches
    if losses & {"mim", "mmm_image"} and not num_masked_patches(data.mask_ratio, patches):
        raise ValueError(
            f"mask_ratio: {data.mask_ratio} masks none of the {patches} patches, so "
            f"{_named(losses, 'mim', 'mmm_image')} would teach nothing; raise it, or set image_masking none"
        )
    if losses & {"mlm", "mmm_text"} and not data.mlm_probability:
        raise ValueError(
            f"mlm_probability: 0 masks no word, so {_named(losses, 'mlm', 'mmm_text')} would teach nothing; raise it, "
            "or set the weight 0"
        )


def _check_partners(
    data: DataArguments, objectives: ObjectiveArguments, losses: set[str], batch_size: int, num_processes: int
) -> None:
    """Raise `ValueError` where a loss that compares examples finds none to compare."""
    share = data.itm_mismatch_probability
    if "itm" in losses and share in (0, 1):
        raise ValueError(
            f"itm_mismatch_probability: with {share} all pairs have the same answer, so itm would teach nothing; "
            "choose a share between 0 and 1, or set itm_weight 0"
        )
    if losses & {"mmm_image", "mmm_text"} and share == 1:
        raise ValueError(
            f"itm_mismatch_probability: 1 leaves no matching pair, of which {_named(losses, 'mmm_image', 'mmm_text')} "
            "predict the masked parts; lower it"
        )
    if "paired" in objectives.mix and "itm" in losses and batch_size < 2:
        raise ValueError(
            "per_device_train_batch_size: a batch of 1 has no caption of another person, so itm would teach nothing; "
            "raise it, or set itm_weight 0"
        )
    if "paired" in objectives.mix and "global_contrastive" in losses and batch_size * num_processes < 2:
        raise ValueError(
            "per_device_train_batch_size: a batch of 1 has nothing to compare a pair with, so global_contrastive "
            "would teach nothing; raise it, or set global_contrastive_weight 0"
        )
    if "identity_image" in objectives.mix and "triplet" in losses and objectives.images_per_person < 2:
        raise ValueError(
            "images_per_person: 1 leaves triplet without a second image of a person in identity_image batches; raise "
            "it, or set triplet_weight 0"
        )


def _named(losses: set[str], *names: str) -> str:
    return " and ".join(name for name in names if name in losses)


def log_training_data(arguments: DataArguments) -> None:
    """Say what is trained on, and where that was set."""
    for stream in TRAINING_STREAMS:
        sources = getattr(arguments, stream)
        place = arguments.data_places.get(stream)
        logger.info("%s: %s%s", stream, " ".join(sources) or "none", f" ({place})" if place and sources else "")
    places = {arguments.data_places.get(stream) for stream in TRAINING_STREAMS if getattr(arguments, stream)}
    if len(places) > 1:
        logger.warning("training data of the recipe and of the command line are mixed; --data replaces all of it")


def kinds_that_need_codes(
    model: MMETForPreTraining, data: DataArguments, objectives: ObjectiveArguments
) -> tuple[str, ...]:
    """The kinds of batch in the mix with a loss that classifies patches into codes."""
    if data.image_masking == "none":
        return ()
    weights = {"image": model.config.mim_weight, "paired": model.config.mmm_image_weight}
    return tuple(kind for kind, weight in weights.items() if weight > 0 and kind in objectives.mix)


def prepare_codebook(
    model: MMETForPreTraining,
    processor: MMETProcessor,
    dataset: TrainingDataset,
    kinds: Sequence[str],
    num_images: int,
    arguments: PretrainingArguments,
) -> None:
    """
    Give the model's image codebook its codes where it has none: fit `kmeans` on training images of these kinds of
    batch, load `dalle`.

    Raises:
        ValueError: for images that no codebook can be fitted on, weights that are no codebook, or a `dalle` that
            undoes another normalisation than the processor's.
        OSError: when the weights of `dalle` cannot be found.
    """
    config = model.config
    if isinstance(model.image_codebook, MMETDalleCodebook):
        check_normalisation(config, processor.image_processor)
    if model.image_codebook.is_fitted:
        return
    codebook = model.image_codebook
    if isinstance(codebook, MMETDalleCodebook):
        compute_on_all(partial(codebook.load, config.codebook_name_or_path))
        logger.info("image codebook: %d codes of %s", config.codebook_size, config.codebook_name_or_path)
        return

    def fit() -> tuple[CodebookFit, dict[str, torch.Tensor]]:
        """The report and the fitted state: the other processes have not fitted theirs."""
        needed = min(num_images, num_images_needed(config.codebook_size, config.image_config.num_patches))
        draws = draw_codebook_images(dataset, kinds, needed, arguments.seed)
        with tqdm(total=len(draws), desc="image codebook", unit="image", disable=arguments.disable_tqdm) as progress:
            report = fit_codebook(codebook, read_images(processor, dataset, draws, progress), seed=arguments.seed)
        return report, codebook.state_dict()

    report, fitted = compute_once(fit)
    codebook.load_state_dict(fitted)
    logger.info("image codebook: %d codes %s", config.codebook_size, report)


def check_normalisation(config: MMETConfig, image_processor: MMETImageProcessor) -> None:
    """Raise `ValueError` unless the codebook undoes the normalisation that the image processor does."""
    for field, name in (("codebook_image_mean", "image_mean"), ("codebook_image_deviation", "image_std")):
        expected, received = getattr(config, field), list(getattr(image_processor, name))
        if not np.allclose(expected, received):
            raise ValueError(
                f"{field}={expected} of the model must be the image processor's {name}, received {received}; "
                "set one as the other"
            )


def draw_codebook_images(dataset: TrainingDataset, kinds: Sequence[str], num_images: int, seed: int) -> list[Draw]:
    """Up to `num_images` draws of different examples of these kinds; their pictures are augmented as in training."""
    sizes = np.array([dataset.sizes[kind] for kind in kinds])
    if not sizes.sum():
        raise ValueError(f"no images to fit the codebook on: give {' or '.join(f'--{kind}_data' for kind in kinds)}")
    rng = np.random.default_rng(seed)
    chosen = rng.choice(sizes.sum(), min(num_images, sizes.sum()), replace=False)
    numbers = np.searchsorted(np.cumsum(sizes), chosen, side="right")
    indices = chosen - (np.cumsum(sizes) - sizes)[numbers]
    seeds = rng.integers(MAX_SEED, size=len(chosen))
    return [
        Draw(kinds[number], index, draw_seed)
        for number, index, draw_seed in zip(numbers.tolist(), indices.tolist(), seeds.tolist(), strict=True)
    ]


def read_images(
    processor: Any, dataset: TrainingDataset, draws: Sequence[Draw], progress: tqdm
) -> Iterator[torch.Tensor]:
    """Batches `(B, C, H, W)` of the draws' pictures."""
    for start in range(0, len(draws), _IMAGES_PER_READ):
        samples = dataset.__getitems__(draws[start : start + _IMAGES_PER_READ])
        pictures = [sample.image for sample in samples]
        yield processor(images=pictures, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        progress.update(len(pictures))


def build_trainer(
    model: MMETForPreTraining,
    processor: MMETProcessor,
    dataset: TrainingDataset,
    loaded: LoadedData,
    data: DataArguments,
    objectives: ObjectiveArguments,
    arguments: PretrainingArguments,
    stop: StopSignal | None = None,
    record: RunRecord | None = None,
) -> MMETTrainer:
    """Sampler, collator, evaluator and trainer."""
    sampler = MixedBatchSampler(
        dataset.sizes,
        mix=objectives.mix,
        batch_size=arguments.per_device_train_batch_size,
        person_labels=dataset.persons(),
        identity_shape=IdentityBatchShape(objectives.persons_per_batch, objectives.images_per_person),
        num_processes=arguments.world_size,
        domains=dataset.domains() if objectives.balance_domains else None,
        seed=arguments.seed if arguments.data_seed is None else arguments.data_seed,
    )
    collator = build_collator(processor, dataset, data, objectives, model.config, arguments.seed)
    evaluator = RetrievalEvaluator(
        loaded.evaluation_sets,
        processor,
        batch_size=arguments.per_device_eval_batch_size,
        num_workers=arguments.dataloader_num_workers,
    )
    return MMETTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
        processing_class=processor,
        train_sampler=sampler,
        loss_schedule=LossSchedule(objectives.schedule_points),
        evaluator=evaluator if loaded.evaluation_sets else None,
        stop=stop,
        record=record,
        skipped=SkippedImages.load(Path(arguments.output_dir)) if arguments.resume_from_checkpoint else None,
    )


def build_collator(
    processor: MMETProcessor,
    dataset: TrainingDataset,
    data: DataArguments,
    objectives: ObjectiveArguments,
    config: MMETConfig,
    seed: int,
) -> MMETDataCollator:
    """
    The collator, with the user's segmenter and the prior of pedestrian masking.

    Raises:
        ValueError: for a segmenter that cannot be loaded or does not do its work, and for an unusable prior.
    """
    masked = [kind for kind in ("paired", "image") if kind in objectives.mix and dataset.sizes[kind]]
    collator = MMETDataCollator(
        processor,
        image_masking=data.image_masking if masked else "none",
        mask_ratio=data.mask_ratio,
        mlm_probability=data.mlm_probability,
        itm_mismatch_probability=data.itm_mismatch_probability,
        caption_noise=data.caption_noise,
        max_length=min(data.max_text_length, cast(MMETTextConfig, config.text_config).max_position_embeddings),
        segmenter=compute_on_all(partial(load_segmenter, name)) if (name := data.person_segmenter) else None,
        sharpness=data.mask_sharpness,
    )
    if collator.segmenter is not None and masked:  # better here than in a worker, hours later
        (sample,) = dataset.__getitems__(draw_codebook_images(dataset, masked, 1, seed))
        compute_on_all(lambda: collator.person_masks([replace(sample, person_mask=None)]))
    if data.mask_prior == "masks" and masked:
        collator.prior = compute_once(lambda: measure_prior(collator, dataset, masked, seed))
    elif data.mask_prior != "figure" and masked:
        collator.prior = compute_on_all(lambda: read_prior(Path(data.mask_prior), processor, data.mask_sharpness))
    return collator


def measure_prior(
    collator: MMETDataCollator, dataset: TrainingDataset, kinds: Sequence[str], seed: int
) -> NDArray[np.float32]:
    """The mean of the masks, augmented as in training, of some pictures of these kinds: `(num_patches,)`."""
    draws = draw_codebook_images(dataset, kinds, _PRIOR_IMAGES, seed)
    batches = (draws[start : start + _IMAGES_PER_READ] for start in range(0, len(draws), _IMAGES_PER_READ))
    coverage = np.concatenate([collator.person_coverage(dataset.__getitems__(batch)) for batch in batches])
    try:
        prior = mean_coverage_prior(coverage, sharpness=collator.sharpness)
    except ValueError:
        raise ValueError(
            f"mask_prior=masks: none of {len(draws)} training pictures has a mask that shows a person; take "
            "mask_prior=figure, or name a person_segmenter"
        ) from None
    logger.info("mask prior: the mean of %d masks", int((~np.isnan(coverage[:, 0])).sum()))
    return prior


def read_prior(path: Path, processor: MMETProcessor, sharpness: float) -> NDArray[np.float32]:
    """The prior of a grey picture. Raises `ValueError` for a file that is none, and a black one."""
    geometry = processor.image_processor
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            size = (geometry.size["height"], geometry.size["width"])
            return picture_prior(picture, size, geometry.patch_size, geometry.patch_stride, sharpness=sharpness)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"mask_prior: expected figure, masks or a grey picture, received {path} ({error})") from None


def _finished(arguments: PretrainingArguments) -> bool:
    """Whether a run that is to be continued has come to its end, with the model saved."""
    if str(arguments.resume_from_checkpoint).lower() != "true":
        return False
    result = read_result(Path(arguments.output_dir))
    if result is None:
        return False
    try:
        done = result["training"]
        if arguments.max_steps > 0:
            return done["steps"] >= arguments.max_steps
        return done["steps"] >= done["max_steps"] and done["num_train_epochs"] >= arguments.num_train_epochs
    except (KeyError, TypeError) as error:
        raise not_a_result(Path(arguments.output_dir, RESULT_FILE), error) from error
