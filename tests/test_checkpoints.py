"""Killed, stopped or out of room at any moment: what is left resumes to the very weights of an uninterrupted run."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mmet import checkpoints
from mmet.arguments import parse_arguments
from mmet.checkpoints import CheckpointError, check_space, check_writable, checkpoint_bytes, replace_folder
from mmet.data.synthetic import write_world
from mmet.pretraining import run_pretraining
from mmet.trainer import MMETTrainer
from run_pretrain import STOPPED, main

REPOSITORY = Path(__file__).parents[1]
ENCODER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
STEPS = 30


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Every kind of batch, a checkpoint and an evaluation every three steps, the two latest and the best kept."""
    folder = tmp_path_factory.mktemp("world")
    write_world("finegpr", folder / "source", num_ids=10, images_per_id=4, seed=3, image_height=100, image_width=52)
    source = [f"finegpr={folder / 'source'}"]
    fields = {
        "output_dir": str(folder / "run"),
        "paired_data": source,
        "image_data": source,
        "text_data": source,
        "model_config": {
            "image_config": {**ENCODER, "image_size": [52, 28]},
            "text_config": {**ENCODER, "max_position_embeddings": 48},
            "multimodal_config": ENCODER,
            "projection_dim": 16,
            "codebook_size": 16,
        },
        "vocab_size": 1200,
        "max_text_length": 48,
        "batch_mix": {"paired": 1, "identity": 1, "image": 1, "text": 1},
        "persons_per_batch": 4,
        "images_per_person": 2,
        "per_device_train_batch_size": 8,
        "validation_identities": 2,
        "max_steps": STEPS,
        "learning_rate": 1.0e-3,
        "logging_steps": 3,
        "save_steps": 3,
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return run_pretraining(*parse_arguments([recipe, "--output_dir", str(folder)]))


def start(recipe, folder, num_processes=1, *more):
    """The script in a process (or two) of its own; it leads a process group, so that all of it can be signalled."""
    launch = [sys.executable]
    if num_processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    command = [*launch, "run_pretrain.py", recipe, "--output_dir", str(folder), "--resume_from_checkpoint", "true"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(
        [*command, *more],
        cwd=REPOSITORY,
        env=environment | {"GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, process, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def saved_steps(folder):
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


def finish(recipe, folder, num_processes=1):
    process = start(recipe, folder, num_processes)
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors


def largest_difference(first, second):
    first, second = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert first.keys() == second.keys()
    return max((first[name].double() - second[name].double()).abs().max().item() for name in first)


def kill_at_random(recipe, folder, rng, num_processes=1):
    """One run that is killed at a random moment after it began to train; whether it was killed before its end."""
    process = start(recipe, folder, num_processes)
    before = saved_steps(folder)
    wait_for(lambda: saved_steps(folder) != before or process.poll() is not None, process)
    time.sleep(rng.uniform(0, 1.0))
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return process.returncode != 0


def kill_until(recipe, folder, kills, rng, num_processes=1):
    """Kill `kills` runs: a new one is started where one came to its end first."""
    killed, attempt = 0, 0
    folders = []
    while killed < kills:
        current = folder / str(attempt)
        while killed < kills and kill_at_random(recipe, current, rng, num_processes):
            killed += 1
            if max(saved_steps(current)) > STEPS - 6:
                break
        folders.append(current)
        attempt += 1
    return folders


def test_run_pretrain_script__killed_runs_resume_to_the_same_weights(recipe, whole, tmp_path):
    folders = kill_until(recipe, tmp_path, 3, random.Random(0))
    for folder in folders:
        finish(recipe, folder)
        assert largest_difference(whole, folder) == 0
        assert not (folder / ".unfinished").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("num_processes", "tolerance"), [(1, 0), (2, 1e-6)])
def test_run_pretrain_script__twenty_kills(recipe, tmp_path, num_processes, tolerance):
    finish(recipe, tmp_path / "whole", num_processes)
    for folder in kill_until(recipe, tmp_path, 20, random.Random(1), num_processes):
        finish(recipe, folder, num_processes)
        assert largest_difference(tmp_path / "whole", folder) <= tolerance


def test_run_pretrain_script__sigterm_saves_the_step_and_says_so(recipe, whole, tmp_path):
    rarely = ("--save_steps", str(STEPS), "--eval_steps", str(STEPS))
    process = start(recipe, tmp_path, 1, *rarely, "--logging_steps", "1")
    wait_for(lambda: (tmp_path / ".unfinished").exists() or process.poll() is not None or _training(process), process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == STOPPED == 143, errors
    (step,) = saved_steps(tmp_path)
    assert 0 < step < STEPS
    assert f"stopped by SIGTERM after step {step}, saved {tmp_path / f'checkpoint-{step}'}" in errors
    state = json.loads((tmp_path / f"checkpoint-{step}" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == step
    finish(recipe, tmp_path)
    final = load_file(tmp_path / f"checkpoint-{STEPS}" / "model.safetensors")
    expected = load_file(whole / f"checkpoint-{STEPS}" / "model.safetensors")
    assert all(torch.equal(final[name], expected[name]) for name in expected)


def _training(process):
    """Whether it has said that the codebook is fitted, the last thing before the first step."""
    return any("image codebook:" in line for line in iter(process.stderr.readline, "") if "codes" in line)


def test_run_pretraining__full_disk_keeps_the_last_good_checkpoint(recipe, whole, tmp_path, monkeypatch):
    def save_on_a_full_disk(self, *arguments):
        full = self.state.global_step == 9
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if full:
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))  # no file may grow beyond
        try:
            return save(self, *arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    save = MMETTrainer._save_checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(MMETTrainer, "_save_checkpoint", save_on_a_full_disk)
        with pytest.raises(CheckpointError, match=r"step 9 could not be written.*last good one is .*checkpoint-6"):
            run_pretraining(*parse_arguments([recipe, "--output_dir", str(tmp_path)]))
    assert max(saved_steps(tmp_path)) == 6
    assert not (tmp_path / ".unfinished").exists()
    run_pretraining(*parse_arguments([recipe, "--output_dir", str(tmp_path), "--resume_from_checkpoint", "true"]))
    assert largest_difference(whole, tmp_path) == 0


def test_run_pretrain_script__no_room_or_no_folder_is_said_before_training(recipe, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    assert main([recipe, "--output_dir", str(tmp_path / "file" / "run")]) == 2
    assert "file/run cannot be written to" in capsys.readouterr().err
    usage = type(checkpoints.shutil.disk_usage("/"))
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda folder: usage(10**9, 10**9, 1000))
    monkeypatch.setattr(MMETTrainer, "train", lambda *arguments, **kwargs: pytest.fail("trained"))
    assert main([recipe, "--output_dir", str(tmp_path / "run")]) == 2
    assert "0.00 GB free" in capsys.readouterr().err


def test_checkpoint_bytes__counts_what_the_optimizer_keeps():
    model = torch.nn.Linear(10, 10)
    model.bias.requires_grad_(False)
    model.register_buffer("statistics", torch.zeros(5))
    assert checkpoint_bytes(model, "adamw_torch_fused") == 4 * (110 + 5 + 2 * 100)
    assert checkpoint_bytes(model, "sgd") == 4 * (110 + 5 + 100)


def test_check_space__warns_where_only_some_fit(tmp_path, monkeypatch, caplog):
    usage = type(checkpoints.shutil.disk_usage("/"))
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda folder: usage(10**10, 0, 5 * 10**9))
    check_space(tmp_path, 10**9, num_kept=4)
    assert not caplog.text
    check_space(tmp_path, 10**9, num_kept=5)
    assert "5 checkpoints of 1.00 GB" in caplog.text


def test_check_writable__makes_the_folder_and_leaves_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_replace_folder__an_older_one_gives_way(tmp_path):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name, encoding="utf-8")
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "file").read_text(encoding="utf-8") == "new"
