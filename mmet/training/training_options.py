"""Check transformers' `TrainingArguments`: allowed values, and options that are refused with a reason.

Every option of `TrainingArguments` either works as transformers documents it, or is refused unless it has its default
value, because `MMETTrainer` has its own sampling, losses and evaluation and would ignore it.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, cast

import torch
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations.integration_utils import get_available_reporting_integrations
from transformers.trainer_pt_utils import AcceleratorConfig

from mmet.field_checks import SEED_RANGE, Range, check_choice, check_value, errors_about, shown, suggestion
from mmet.recipe_files import parse_mapping, read_mapping_file
from mmet.training.sampling import MAX_BATCH_SIZE

_COUNT = Range(at_least=1)
_POSITIVE = Range(above=0)
_NOT_NEGATIVE = Range(at_least=0)
_BETA = Range(at_least=0, below=1)

OPTION_RANGES = {
    "per_device_train_batch_size": Range(at_least=1, at_most=MAX_BATCH_SIZE),
    "per_device_eval_batch_size": Range(at_least=1, at_most=MAX_BATCH_SIZE),
    "num_train_epochs": Range(above=0, at_most=10**6),
    "max_steps": Range(at_least=-1, at_most=10**9),
    "learning_rate": Range(at_least=1e-12, at_most=10**6),  # a smaller one changes no float32
    "warmup_steps": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "adam_beta1": _BETA,
    "adam_beta2": _BETA,
    "adam_epsilon": Range(above=0, at_most=1),  # a step is divided by it
    "gradient_accumulation_steps": Range(at_least=1, at_most=10**6),
    "max_grad_norm": _NOT_NEGATIVE,
    "neftune_noise_alpha": _NOT_NEGATIVE,
    "torch_empty_cache_steps": _COUNT,
    "logging_steps": _POSITIVE,
    "eval_steps": _POSITIVE,
    "eval_delay": _NOT_NEGATIVE,
    "save_steps": _POSITIVE,
    "save_total_limit": _COUNT,
    "seed": SEED_RANGE,
    "data_seed": SEED_RANGE,
    "dataloader_num_workers": Range(at_least=0, at_most=1024),
    "dataloader_prefetch_factor": _COUNT,
    "ddp_bucket_cap_mb": _COUNT,
    "ddp_timeout": Range(at_least=1, at_most=10**7),
}
"""Allowed numbers for options of `TrainingArguments`."""

_OWN_EVALUATION = "evaluation here searches galleries and has no batches of predictions"
_SELECTION = "--select_on chooses the checkpoint that becomes the model"
_WHOLE_BATCHES = "the sampler makes every batch complete and of one kind"

OPTIONS_WITHOUT_EFFECT = {
    "auto_find_batch_size": "batches are planned for one size before training starts",
    "average_tokens_across_devices": "losses are means over examples, not over tokens",
    "batch_eval_metrics": _OWN_EVALUATION,
    "bf16_full_eval": _OWN_EVALUATION,
    "dataloader_drop_last": _WHOLE_BATCHES,
    "deepspeed": "models are sharded with FSDP: see recipes/accelerate/gpu_8_fsdp.yaml",
    "do_predict": "run_reid_eval.py evaluates a trained model",
    "enable_jit_checkpoint": "SIGTERM already saves a checkpoint",
    "eval_accumulation_steps": _OWN_EVALUATION,
    "eval_do_concat_batches": _OWN_EVALUATION,
    "eval_use_gather_object": _OWN_EVALUATION,
    "fp16_full_eval": _OWN_EVALUATION,
    "greater_is_better": _SELECTION,
    "include_for_metrics": _OWN_EVALUATION,
    "include_num_input_tokens_seen": "batches of images have no tokens to count",
    "label_names": "the collator determines the labels",
    "label_smoothing_factor": "the model computes its losses: set label_smoothing in model_config",
    "length_column_name": _WHOLE_BATCHES,
    "liger_kernel_config": "Liger has no kernels for this model",
    "load_best_model_at_end": _SELECTION,
    "logging_nan_inf_filter": "a loss that is not finite ends the run before it is logged",
    "metric_for_best_model": _SELECTION,
    "parallelism_config": "only DDP and FSDP are supported",
    "prediction_loss_only": _OWN_EVALUATION,
    "remove_unused_columns": "the collator reads complete samples",
    "train_sampling_strategy": "batch_mix and balance_domains determine the sampling",
    "use_cache": "the model has no cache of keys and values",
    "use_liger_kernel": "Liger has no kernels for this model",
}
"""Options that `MMETTrainer` does not read, with the reason; they keep their defaults."""

_MAPPINGS_OF_OPTIONS = {
    "activation_checkpointing_kwargs": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing",
    "fsdp_config": "fsdp",
}
"""Options that are mappings, and the option without which they have no effect."""

_FILES = ("accelerator_config", "fsdp_config")
"""Options that are mappings, or the name of a file that holds one."""

_ACCELERATOR_FIELDS = ("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler")


def refuse_options_without_effect(arguments: TrainingArguments) -> None:
    """Raise `ValueError` for an option that would have no effect. To be called before transformers prepares them."""
    for field in dataclasses.fields(arguments):
        reason = OPTIONS_WITHOUT_EFFECT.get(field.name)
        value = getattr(arguments, field.name)
        if reason and value != default_of(field):
            raise ValueError(f"{field.name}: {shown(value)} would have no effect: {reason}")
    if arguments.max_steps == 0:
        raise ValueError("max_steps: 0 would save an untrained model; give a number of steps, or -1 for epochs")
    if arguments.save_strategy == "best":
        raise ValueError(f"save_strategy: best would have no effect: {_SELECTION}")
    if "underflow_overflow" in arguments.debug:
        raise ValueError(
            "debug: underflow_overflow stops at the model's boolean masks; a loss that is not finite ends the run "
            "with a message that names its images"
        )
    if arguments.do_eval and arguments.eval_strategy == "no":
        raise ValueError("do_eval: true would have no effect: set eval_strategy")
    if arguments.dataloader_persistent_workers and not arguments.dataloader_num_workers:
        raise ValueError("dataloader_persistent_workers: there are no workers; set dataloader_num_workers")
    # transformers 5.20 has only the older of these names.
    checkpointing = getattr(arguments, "activation_checkpointing", False) or arguments.gradient_checkpointing
    for name, option in _MAPPINGS_OF_OPTIONS.items():
        switched_on = arguments.fsdp if option == "fsdp" else checkpointing
        if (value := getattr(arguments, name, None)) and not switched_on:
            raise ValueError(f"{name}: {shown(value)} would have no effect without {option}")
    _check_trackers(arguments.report_to)
    _check_compilation(arguments)


def read_mappings(arguments: TrainingArguments) -> None:
    """
    Parse the options that are mappings, given as JSON or YAML or as the name of a file with one, in place.

    Raises:
        ValueError: a text or file holds no mapping, or a mapping has unknown names.
    """
    for name in TrainingArguments._VALID_DICT_FIELDS:
        value = getattr(arguments, name)
        if isinstance(value, str) and not value.lstrip().startswith("{") and name in _FILES:
            setattr(arguments, name, read_mapping_file(Path(value), name))
        elif isinstance(value, str):
            with errors_about(name):
                setattr(arguments, name, parse_mapping(value))
        check_value(name, getattr(arguments, name), dict[str, Any] | None)
    known = [field.name for field in dataclasses.fields(AcceleratorConfig)]
    for name in cast(Any, arguments.accelerator_config) or {}:
        check_choice("accelerator_config", name, known)


def _check_compilation(arguments: TrainingArguments) -> None:
    """Raise `ValueError` for a mode or backend that `torch.compile` does not have."""
    for name, list_choices in (
        ("torch_compile_mode", lambda: torch._inductor.list_mode_options()),
        ("torch_compile_backend", lambda: torch._dynamo.list_backends(exclude_tags=())),
    ):
        value = getattr(arguments, name)
        if value is not None:
            check_choice(name, value, list_choices())


def check_prepared_options(arguments: TrainingArguments) -> None:
    """
    Raise `ValueError` for options that contradict each other or need a missing package. To be called after
    transformers has prepared them.
    """
    plain = AcceleratorConfig()
    for name in _ACCELERATOR_FIELDS:
        value = getattr(arguments.accelerator_config, name)
        if value != getattr(plain, name):
            raise ValueError(f"accelerator_config.{name}: {shown(value)} would have no effect: {_WHOLE_BATCHES}")
    _check_schedule(arguments)
    try:
        _, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    except ImportError as error:
        raise ValueError(
            f"optim: {name_of(arguments.optim)} needs a package that is not installed: {error}"
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        if arguments.optim_target_modules is None and "optim_target_modules" in str(error):
            raise ValueError(f"optim: {name_of(arguments.optim)} needs optim_target_modules") from error
        if arguments.optim_args:
            raise ValueError(f"optim_args: {shown(arguments.optim_args)} cannot be used: {error}") from error
    else:
        defaults = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
        for name, key in (("adam_beta1", "betas"), ("adam_beta2", "betas"), ("adam_epsilon", "eps")):
            if getattr(arguments, name) != defaults[name] and key not in options:
                raise ValueError(f"{name} would have no effect: optim {name_of(arguments.optim)} has no {key}")
        _check_optimizer_options(arguments, options)
        if arguments.optim_target_modules is not None:  # optimizers that read it would have needed the model above
            raise ValueError(
                f"optim_target_modules would have no effect: optim {name_of(arguments.optim)} has no such modules"
            )


def _check_optimizer_options(arguments: TrainingArguments, options: dict[str, Any]) -> None:
    """Raise `ValueError` for a part of `optim_args` that does not change the optimizer's options."""
    parts = [part for part in (arguments.optim_args or "").split(",") if part.strip()]
    for part in parts:
        fewer = copy.copy(arguments)
        fewer.optim_args = ",".join(other for other in parts if other is not part) or None
        if Trainer.get_optimizer_cls_and_kwargs(fewer)[1] == options:
            raise ValueError(
                f"optim_args: {part.strip()} has no effect on optim {name_of(arguments.optim)}; remove it"
            )


def _check_schedule(arguments: TrainingArguments) -> None:
    """Raise `ValueError` for options that the learning rate schedule does not accept."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=arguments.learning_rate)
    options: dict[str, Any] = dict(cast(Any, arguments.lr_scheduler_kwargs) or {})
    try:
        scheduler = get_scheduler(
            arguments.lr_scheduler_type,
            optimizer,
            num_warmup_steps=1,
            num_training_steps=10,
            scheduler_specific_kwargs=options,
        )
    except (TypeError, ValueError) as error:
        name = name_of(arguments.lr_scheduler_type)
        raise ValueError(f"lr_scheduler_kwargs: {shown(options)} do not fit the schedule {name}: {error}") from error
    if arguments.warmup_steps and scheduler.get_last_lr()[0] == arguments.learning_rate:
        name = name_of(arguments.lr_scheduler_type)
        advice = "; constant_with_warmup has one" if name == "constant" else ""
        raise ValueError(f"warmup_steps would have no effect: the schedule {name} has no warm-up{advice}")


def name_of(option: Any) -> str:
    """An option's name, as an enumeration or as text."""
    return str(getattr(option, "value", option))


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a dataclass's field."""
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _check_trackers(report_to: Any) -> None:
    """Raise `ValueError` for a tracker that transformers does not know or that is not installed."""
    names = list(report_to) if isinstance(report_to, (list, tuple)) else [report_to]
    available = [*get_available_reporting_integrations(), "all", "none"]  # type: ignore[no-untyped-call]
    for name in names:
        if name not in available:
            raise ValueError(
                f"report_to: {shown(name)} is unknown or not installed; installed: {', '.join(available)}"
                f"{suggestion(name, available)}"
            )
