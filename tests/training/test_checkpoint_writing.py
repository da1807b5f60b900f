"""Killed, stopped or out of room at any moment: what is left resumes to the very weights of an uninterrupted run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from full_disk import full_disk
from process_group import CONTEXT
from safetensors.torch import load_file, save_file
from tiny_runs import draw_world, write_recipe

from mmet.training import checkpoint_writing
from mmet.training.arguments import parse_arguments
from mmet.training.checkpoint_writing import (
    CheckpointError,
    check_space,
    check_writable,
    checkpoint_bytes,
    publish_files,
    replace_folder,
)
from mmet.training.pretraining import run_pretraining
from mmet.training.trainer import MMETTrainer
from run_pretrain import main

REPOSITORY = Path(__file__).parents[2]
STEPS = 24


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Every kind of batch, a checkpoint and an evaluation every three steps, the two latest and the best kept."""
    folder = tmp_path_factory.mktemp("world")
    world = draw_world(folder / "source", num_ids=10)
    steps = {"max_steps": STEPS, "logging_steps": 3, "save_steps": 3, "save_total_limit": 2}
    return write_recipe(folder, world, validation_identities=2, **steps)


def run_script(folder, arguments):
    """In a process of its own: the script, as a user calls it."""
    torch.set_num_threads(1)
    with (folder / "messages.txt").open("a", encoding="utf-8") as messages:
        os.dup2(messages.fileno(), sys.stderr.fileno())
        sys.exit(main(arguments))


class OneProcess:
    """A run of the script in a process that is forked with its imports done."""

    def __init__(self, recipe, folder, *more):
        folder.mkdir(exist_ok=True, parents=True)
        self._messages = folder / "messages.txt"
        self._messages.touch()
        arguments = [recipe, "--output_dir", str(folder), "--resume_from_checkpoint", "true", *more]
        self._process = CONTEXT.Process(target=run_script, args=(folder, arguments))
        self._process.start()
        self.pid = self._process.pid

    @property
    def messages(self):
        return self._messages.read_text(encoding="utf-8")

    def poll(self):
        return self._process.exitcode

    def kill(self):
        self._process.kill()

    def wait(self):
        self._process.join(300)
        assert self._process.exitcode is not None, "it does not end"
        return self._process.exitcode


class TwoProcesses:
    """A run of the script by torchrun, which leads a process group, so that all of it can be killed at once."""

    def __init__(self, recipe, folder, *more):
        folder.mkdir(exist_ok=True, parents=True)
        self._messages = folder / "messages.txt"
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command = [*launch, "run_pretrain.py", recipe, "--output_dir", str(folder), "--resume_from_checkpoint", "true"]
        settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        with self._messages.open("a", encoding="utf-8") as messages:
            self._process = subprocess.Popen(
                [*command, *more],
                cwd=REPOSITORY,
                env=os.environ | settings | {"GLOO_SOCKET_IFNAME": "lo"},
                stdout=subprocess.DEVNULL,
                stderr=messages,
                start_new_session=True,
            )

    @property
    def messages(self):
        return self._messages.read_text(encoding="utf-8")

    def poll(self):
        return self._process.poll()

    def kill(self):
        os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self):
        return self._process.wait(500)


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return finish(OneProcess, recipe, folder)


def wait_for(condition, process, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def saved_steps(folder):
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


def finish(start, recipe, folder):
    process = start(recipe, folder)
    assert process.wait() == 0, process.messages
    return folder


def largest_difference(first, second, name="model.safetensors"):
    first, second = (load_file(folder / name) for folder in (first, second))
    assert first.keys() == second.keys()
    return max((first[name].double() - second[name].double()).abs().max().item() for name in first)


def kill_at_random(start, recipe, folder, rng):
    """Kill a run at a random moment after its first new checkpoint; whether it was killed before its end."""
    before = saved_steps(folder)
    process = start(recipe, folder)
    wait_for(lambda: saved_steps(folder) != before, process)
    time.sleep(rng.uniform(0, 0.6))
    was_killed = process.poll() is None
    if was_killed:
        process.kill()
    process.wait()
    return was_killed


def kill_until(start, recipe, folder, kills, rng):
    """Kill `kills` runs, each continued from the kill before, or begun anew where that came near its end."""
    killed, folders = 0, [folder / "0"]
    while killed < kills:
        killed += kill_at_random(start, recipe, folders[-1], rng)
        if killed < kills and max(saved_steps(folders[-1]), default=0) > STEPS - 6:
            folders.append(folder / str(len(folders)))
    return folders


def test_run_pretrain_script__a_killed_run_resumes_to_the_same_weights(recipe, whole, tmp_path):
    for folder in kill_until(OneProcess, recipe, tmp_path, 1, random.Random(0)):
        finish(OneProcess, recipe, folder)
        assert largest_difference(whole, folder) == 0
        assert not (folder / ".unfinished").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("start", "tolerance"), [(OneProcess, 0), (TwoProcesses, 1e-6)])
def test_run_pretrain_script__twenty_kills(recipe, tmp_path, start, tolerance):
    expected = finish(start, recipe, tmp_path / "whole")
    for folder in kill_until(start, recipe, tmp_path, 20, random.Random(1)):
        finish(start, recipe, folder)
        assert largest_difference(expected, folder) <= tolerance


@pytest.mark.parametrize(
    ("number", "name", "code"),
    [(signal.SIGTERM, "SIGTERM", 143), pytest.param(signal.SIGINT, "Ctrl-C", 130, marks=pytest.mark.slow)],
)
def test_run_pretrain_script__a_stop_saves_the_step_and_says_so(recipe, whole, tmp_path, number, name, code):
    process = OneProcess(recipe, tmp_path, "--save_steps", str(STEPS), "--eval_steps", str(STEPS))
    wait_for(lambda: "image codebook:" in process.messages, process)
    os.kill(process.pid, number)
    assert process.wait() == code, process.messages
    (step,) = saved_steps(tmp_path)
    assert 0 < step < STEPS
    assert f"stopped by {name} after step {step}, saved {tmp_path / f'checkpoint-{step}'}" in process.messages
    state = json.loads((tmp_path / f"checkpoint-{step}" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == step
    finish(OneProcess, recipe, tmp_path)
    assert largest_difference(whole, tmp_path, f"checkpoint-{STEPS}/model.safetensors") == 0


def test_run_pretraining__full_disk_keeps_the_last_good_checkpoint(recipe, whole, tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the whole run

    def save_on_a_full_disk(self, *arguments):
        with full_disk(60_000) if self.state.global_step == 9 else nullcontext():
            return save(self, *arguments)

    save = MMETTrainer._save_checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(MMETTrainer, "_save_checkpoint", save_on_a_full_disk)
        with pytest.raises(CheckpointError, match=r"step 9 could not be written.*last good one is .*checkpoint-6"):
            run_pretraining(*parse_arguments([recipe, "--output_dir", str(tmp_path)]))
    torch.set_num_threads(threads)
    assert max(saved_steps(tmp_path)) == 6
    assert not (tmp_path / ".unfinished").exists()
    finish(OneProcess, recipe, tmp_path)
    assert largest_difference(whole, tmp_path) == 0


def test_run_pretrain_script__no_room_or_no_folder_is_said_before_training(recipe, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    assert main([recipe, "--output_dir", str(tmp_path / "file" / "run")]) == 2
    assert "file/run cannot be written to" in capsys.readouterr().err
    usage = type(checkpoint_writing.shutil.disk_usage("/"))
    monkeypatch.setattr(checkpoint_writing.shutil, "disk_usage", lambda folder: usage(10**9, 10**9, 1000))
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
    usage = type(checkpoint_writing.shutil.disk_usage("/"))
    monkeypatch.setattr(checkpoint_writing.shutil, "disk_usage", lambda folder: usage(10**10, 0, 5 * 10**9))
    check_space(tmp_path, 10**9, num_kept=4)
    assert not caplog.text
    check_space(tmp_path, 10**9, num_kept=5)
    assert "5 checkpoints of 1.00 GB" in caplog.text


def test_check_writable__refuses_a_name_that_no_json_file_can_hold(tmp_path):
    with pytest.raises(CheckpointError, match="is not UTF-8; choose another --output_dir"):
        check_writable(tmp_path / "a\udcff")
    assert not list(tmp_path.iterdir())


def test_check_writable__makes_the_folder_and_leaves_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_replace_folder__an_older_one_gives_way(tmp_path):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name, encoding="utf-8")
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "file").read_text(encoding="utf-8") == "new"


def test_publish_files__weights_come_last(tmp_path, monkeypatch):
    names = ["model.safetensors", "model-00001-of-00002.safetensors", "modeling_mmet.py", "config.json", "zebra.txt"]
    (tmp_path / "written").mkdir()
    (tmp_path / "run").mkdir()
    for name in names:
        (tmp_path / "written" / name).write_text("{}", encoding="utf-8")
        if name.endswith(".safetensors"):
            save_file({"a": torch.zeros(1)}, tmp_path / "written" / name)
    moved = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, target: (moved.append(path.name), replace(path, target)))
    publish_files(tmp_path / "written", tmp_path / "run")
    assert moved == ["config.json", "modeling_mmet.py", "zebra.txt", *sorted(names[:2])]
    assert not (tmp_path / "written").exists()


def test_publish_files__folders_in_it_replace_what_was_there(tmp_path):
    for run, text in (("written", "new"), ("run", "old")):
        (tmp_path / run / "1_Normalize").mkdir(parents=True)
        (tmp_path / run / "1_Normalize" / "config.json").write_text(f'"{text}"', encoding="utf-8")
    publish_files(tmp_path / "written", tmp_path / "run")
    assert (tmp_path / "run" / "1_Normalize" / "config.json").read_text(encoding="utf-8") == '"new"'
    assert not (tmp_path / "written").exists()


def test_publish_files__a_damaged_file_keeps_the_model_that_was_there(tmp_path):
    for folder in ("written", "run"):
        (tmp_path / folder).mkdir()
        save_file({"a": torch.zeros(100)}, tmp_path / folder / "model.safetensors")
        (tmp_path / folder / "config.json").write_text(f'{{"of": "{folder}"}}', encoding="utf-8")
    os.truncate(tmp_path / "written" / "model.safetensors", 100)
    with pytest.raises(OSError, match=r"model.safetensors is damaged"):
        publish_files(tmp_path / "written", tmp_path / "run")
    assert "run" in (tmp_path / "run" / "config.json").read_text(encoding="utf-8")
    load_file(tmp_path / "run" / "model.safetensors")
