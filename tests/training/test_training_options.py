"""Every option of transformers' `TrainingArguments` is known: it works here, or is refused with the reason."""

import dataclasses

import pytest
from transformers import TrainingArguments

from mmet.training.arguments import PretrainingArguments
from mmet.training.training_options import OPTIONS_WITHOUT_EFFECT

WORKING = """
accelerator_config activation_checkpointing activation_checkpointing_kwargs adam_beta1 adam_beta2 adam_epsilon bf16
data_seed dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers dataloader_persistent_workers
dataloader_pin_memory dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb
ddp_find_unused_parameters ddp_static_graph ddp_timeout debug disable_tqdm do_eval do_train eval_delay eval_on_start
eval_steps eval_strategy fp16 fsdp fsdp_config full_determinism gradient_accumulation_steps gradient_checkpointing
gradient_checkpointing_kwargs hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy hub_token
ignore_data_skip learning_rate local_rank log_level log_level_replica log_on_each_node logging_first_step
logging_steps logging_strategy lr_scheduler_kwargs lr_scheduler_type max_grad_norm max_steps neftune_noise_alpha
num_train_epochs optim optim_args optim_target_modules output_dir per_device_eval_batch_size
per_device_train_batch_size project push_to_hub report_to restore_callback_states_from_checkpoint
resume_from_checkpoint run_name save_on_each_node save_only_model save_steps save_strategy save_total_limit seed
skip_memory_metrics tf32 torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps
trackio_bucket_id trackio_space_id trackio_static_space_id use_cpu warmup_steps weight_decay
"""
"""Options that the trainer, accelerate or the project's own code reads; one that is new is to be looked at first."""

FIELDS = {field.name for field in dataclasses.fields(TrainingArguments)}


def test_options__each_works_or_is_refused_with_a_reason():
    working, refused = set(WORKING.split()), set(OPTIONS_WITHOUT_EFFECT)
    assert working | refused == FIELDS
    assert not working & refused


@pytest.mark.parametrize("name", OPTIONS_WITHOUT_EFFECT)
def test_options__reasons_are_sentences(name):
    assert len(OPTIONS_WITHOUT_EFFECT[name].split()) >= 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optim": "sgd", "optim_args": "momentm=0.9"}, "optim_args: momentm=0.9 has no effect on optim sgd"),
        (
            {"optim": "adamw_torch", "optim_args": "beta3=0.9"},
            "optim_args: beta3=0.9 has no effect on optim adamw_torch",
        ),
        ({"optim": "sgd", "optim_args": "momentum=0.9,dampenin=1"}, "optim_args: dampenin=1 has no effect"),
        (
            {"lr_scheduler_type": "constant", "warmup_steps": 1},
            "warmup_steps would .* constant has no warm-up; constant_w",
        ),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "warmup_steps": 1, "eval_strategy": "steps"}, "has no warm-up"),
        ({"torch_compile_mode": "fast"}, "torch_compile_mode: expected one of default, .*received 'fast'"),
        ({"torch_compile_backend": "inducter"}, "torch_compile_backend: .*did you mean 'inductor'"),
        ({"debug": "underflow_overflow"}, "debug: underflow_overflow stops at"),
        ({"save_strategy": "best"}, "save_strategy: best would have no effect: --select_on"),
    ],
)
def test_options__those_that_nothing_reads_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        PretrainingArguments(output_dir=str(tmp_path), use_cpu=True, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"optim": "sgd", "optim_args": "momentum=0.9, nesterov=true"},
        {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 3},
        {"lr_scheduler_type": "constant"},
        {"torch_compile_mode": "reduce-overhead"},
        {"torch_compile_backend": "eager"},
    ],
)
def test_options__those_that_are_read_are_taken(tmp_path, options):
    arguments = PretrainingArguments(output_dir=str(tmp_path), use_cpu=True, **options)
    assert {name: getattr(arguments, name) for name in options} == options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"activation_checkpointing_kwargs": {"every_n_layers": 2}},
            "activation_checkpointing_kwargs: .*would have no",
        ),
        ({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, "gradient_checkpointing_kwargs: .*would have no"),
        ({"fsdp_config": {"version": 2}}, "fsdp_config: .*would have no effect without fsdp"),
        ({"optim_target_modules": ["fc1"]}, "optim_target_modules would have no effect: optim adamw_torch_fused"),
        ({"lr_scheduler_kwargs": "x"}, "lr_scheduler_kwargs: expected a mapping"),
        ({"activation_checkpointing": True, "activation_checkpointing_kwargs": "x"}, "_kwargs: expected a mapping"),
        ({"accelerator_config": {"split_batch": True}}, "accelerator_config: .*did you mean 'split_batches'"),
        ({"accelerator_config": {3: True}}, "accelerator_config: a name: expected text, received 3"),
        ({"accelerator_config": "no/such.json"}, "accelerator_config no/such.json does not exist"),
        ({"report_to": None}, "report_to: None is unknown"),
        ({"learning_rate": 1e-300}, "learning_rate: expected a number of at least 1e-12"),
        ({"adam_epsilon": 1e308}, "adam_epsilon: expected a number above 0 and at most 1"),
    ],
)
def test_options__mappings_and_what_needs_another_option(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        PretrainingArguments(output_dir=str(tmp_path), use_cpu=True, **options)


def test_options__mappings_as_text_and_files(tmp_path):
    file = tmp_path / "accelerator.json"
    file.write_text('{"non_blocking": true}')
    arguments = PretrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        accelerator_config=str(file),
        activation_checkpointing=True,
        activation_checkpointing_kwargs='{"every_n_layers": 2}',
    )
    assert arguments.accelerator_config.non_blocking
    assert arguments.activation_checkpointing_kwargs == {"every_n_layers": 2}
