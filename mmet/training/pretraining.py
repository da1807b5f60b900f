"""Pretraining from arguments to a saved model: load the data, build tokenizer, model and codebook, train, save.

`run_pretrain.py` parses the arguments and calls `run_pretraining`; each step is a function, so that a notebook can run
them one by one.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from transformers.trainer_utils import SaveStrategy, set_seed

from configuration_mmet import MMETConfig, MMETTextConfig
from mmet.distributed import compute_on_all, compute_once
from mmet.folder_lock import locked_by_main_process
from mmet.stopping import StopSignal
from mmet.training.arguments import DataArguments, ModelArguments, ObjectiveArguments, PretrainingArguments
from mmet.training.augmentation import build_augmentation
from mmet.training.checkpoint_selection import plan_selection
from mmet.training.checkpoint_writing import check_space, check_writable, checkpoint_bytes, last_checkpoint
from mmet.training.class_token_start import prepare_starting_projections
from mmet.training.codebook import kinds_that_need_codes, prepare_codebook
from mmet.training.collator import MMETDataCollator
from mmet.training.dataset import TrainingDataset
from mmet.training.hub import check_hub, create_repository
from mmet.training.lora import add_lora, merge_lora
from mmet.training.mask_prior import measure_prior, read_prior
from mmet.training.model_card import build_model_card
from mmet.training.objective_checks import check_objectives
from mmet.training.run_record import RunRecord, check_resume
from mmet.training.run_result import is_finished, training_result, write_result
from mmet.training.sampling import IdentityBatchShape, MixedBatchSampler, draw_examples
from mmet.training.segmenter import load_segmenter
from mmet.training.skipping import SkippedImages
from mmet.training.starting_model import build_model, check_sources_of_weights
from mmet.training.trainer import MMETTrainer
from mmet.training.training_data import TrainingData, load_data, log_training_data
from mmet.training.training_options import name_of
from mmet.training.validation import RetrievalEvaluator
from mmet.whole_files import write_whole
from modeling_mmet import MMETForPreTraining
from processing_mmet import MMETProcessor

logger = logging.getLogger(__name__)


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
        ValueError: arguments contradict each other or the data (`DatasetError` for a folder).
        NonFiniteLossError: a loss is not finite.
        FolderInUseError: another run writes to the output folder.
        CheckpointError: the output folder cannot be written or has too little space.
        TrainingStopped: after a Ctrl-C or SIGTERM, once a checkpoint is saved.
    """
    output = Path(training_arguments.output_dir)
    log_training_data(data_arguments)
    if training_arguments.push_to_hub:
        compute_once(lambda: check_hub(training_arguments))
    compute_once(lambda: check_writable(output))
    with locked_by_main_process(output):
        checkpoint = compute_once(lambda: find_checkpoint(training_arguments))
        if compute_once(lambda: is_finished(training_arguments)):
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
    if training_arguments.push_to_hub:  # the last check, so that a refused run leaves nothing on the Hub
        compute_once(lambda: create_repository(training_arguments))
    with StopSignal() as stop:
        kinds = kinds_that_need_codes(model, data_arguments, objective_arguments)
        if kinds and checkpoint is None:  # a checkpoint has its own
            prepare_codebook(model, processor, dataset, kinds, model_arguments.codebook_images, training_arguments)
        if checkpoint is None:
            prepare_starting_projections(model, processor, dataset, objective_arguments.mix, training_arguments)
        if model_arguments.lora_rank:
            add_lora(model, model_arguments.lora_rank)
        trainer = build_trainer(
            model, processor, dataset, data, data_arguments, objective_arguments, training_arguments, stop, record
        )
        trainer.train(resume_from_checkpoint=checkpoint)
    if model_arguments.lora_rank:
        merge_lora(model)
    finish(trainer, data, data_arguments, objective_arguments, training_arguments)


def compare_records(checkpoint: Path, record: RunRecord, arguments: PretrainingArguments) -> None:
    """Raise `ValueError` for differences between a run and its checkpoint that are not allowed; log the others."""
    for change in check_resume(checkpoint, record, allow_changes=arguments.allow_changed_resume):
        logger.warning("%s is continued although %s", checkpoint, change)


def finish(
    trainer: MMETTrainer,
    data: TrainingData,
    data_arguments: DataArguments,
    objectives: ObjectiveArguments,
    arguments: PretrainingArguments,
) -> None:
    """Save the trained model, its card and, last, the result file; push them with `push_to_hub`."""
    output = Path(arguments.output_dir)
    trainer.save_model(_internal_call=True)
    trainer.skipped.gather()
    if arguments.should_save:
        sets = {searched.name: searched.description for searched in data.evaluation_sets}
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
    """Raise `CheckpointError` if the disk has no room for the checkpoints."""
    expected = 1
    if arguments.save_strategy == SaveStrategy.STEPS and arguments.max_steps > 0:
        expected = max(1, math.ceil(arguments.max_steps / max(1, arguments.save_steps)))
    check_space(
        Path(arguments.output_dir),
        checkpoint_bytes(model, name_of(arguments.optim)),
        num_kept=min(expected, arguments.save_total_limit or expected),
    )


def find_checkpoint(arguments: PretrainingArguments) -> str | None:
    """
    The checkpoint to resume from: the named one; with `true` the last one, if there is one; else None.

    Raises:
        ValueError: the output folder holds checkpoints and resuming was not requested; nothing is overwritten.
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


def build_trainer(
    model: MMETForPreTraining,
    processor: MMETProcessor,
    dataset: TrainingDataset,
    loaded: TrainingData,
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
        loss_schedule=objectives.schedule,
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
        ValueError: the segmenter cannot be loaded or fails, or the prior is unusable.
    """
    masked = [kind for kind in ("paired", "image") if kind in objectives.mix and dataset.sizes[kind]]
    collator = MMETDataCollator(
        processor,
        image_masking=data.image_masking if masked else "none",
        mask_ratio=data.mask_ratio,
        mlm_probability=data.mlm_probability,
        itm_mismatch_probability=data.itm_mismatch_probability,
        caption_noise=data.caption_noise,
        max_length=_caption_length(data.max_text_length, cast(MMETTextConfig, config.text_config)),
        segmenter=compute_on_all(partial(load_segmenter, name)) if (name := data.person_segmenter) else None,
        sharpness=data.mask_sharpness,
    )
    if collator.segmenter is not None and masked:  # better here than in a worker, hours later
        (sample,) = dataset.__getitems__(draw_examples(dataset.sizes, masked, 1, seed))
        compute_on_all(lambda: collator.person_masks([replace(sample, person_mask=None)]))
    if data.mask_prior == "masks" and masked:
        collator.prior = compute_once(lambda: measure_prior(collator, dataset, masked, seed))
    elif data.mask_prior != "figure" and masked:
        collator.prior = compute_on_all(lambda: read_prior(Path(data.mask_prior), processor, data.mask_sharpness))
    return collator


def _caption_length(max_text_length: int, config: MMETTextConfig) -> int:
    """Number of tokens at which captions are cut: as requested, but at most the model's positions."""
    if max_text_length > config.max_position_embeddings:
        logger.warning(
            "captions are cut at %d tokens, the model's max_position_embeddings, not at max_text_length=%d",
            *(config.max_position_embeddings, max_text_length),
        )
    return min(max_text_length, config.max_position_embeddings)
