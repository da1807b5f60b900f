"""Errors of several processes: told once where all have them, told by the one that is alone, exit code 2 for all."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from process_group import run_processes

import run_pretrain
import run_reid_eval
from mmet.command_line import report_error
from mmet.distributed import ErrorChannel

REPOSITORY = Path(__file__).parents[1]


def said_by(function, *arguments):
    """What a function returned, and what it wrote to standard error."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        returned = function(*arguments)
    return returned, said.getvalue()


def mistakes_in_process(rank, folder):
    """Both scripts with mistakes that are found before and after the processes know of each other."""
    pretrain = ["--output_dir", str(folder / "run"), "--report_to", "none", "--paired_data"]
    evaluate = ["--model_name_or_path", str(folder), "--output_dir", str(folder / "eval"), "--data"]
    return [
        said_by(run_pretrain.main, [*pretrain, f"finegpr={folder}", "--image_masking", "everything"]),
        said_by(run_pretrain.main, [str(folder / "absent.yaml")]),
        said_by(run_pretrain.main, [*pretrain, f"finegpr={folder / 'absent'}"]),
        said_by(run_reid_eval.main, [*evaluate, f"market1501={folder}", "--query", "sound"]),
        said_by(run_reid_eval.main, [*evaluate, f"market1501={folder}"]),
    ]


@pytest.mark.slow
def test_main__mistakes_are_told_by_the_main_process_alone(tmp_path):
    first, second = run_processes(mistakes_in_process, tmp_path, tmp_path)
    expected = ("image_masking", "absent.yaml does not exist", "absent", "--query", "cannot load a model")
    for (code, said), (other_code, other_said), words in zip(first, second, expected, strict=True):
        assert (code, other_code) == (2, 2)
        assert words in said
        assert said.count(".py: ") == 1
        assert other_said == ""


def report_in_process(rank):
    channel = ErrorChannel(seconds=2)
    both = [
        said_by(report_error, "x.py", ValueError(message), channel)[1] for message in ("the same", f"that of {rank}")
    ]
    alone = said_by(report_error, "x.py", OSError("full disk"), channel)[1] if rank == 1 else ""
    dist.barrier()  # the others' exchanges go on
    return [*both, alone]


def test_report_error__no_message_is_lost_and_none_told_twice(tmp_path):
    first, second = run_processes(report_in_process, tmp_path)
    assert first == ["x.py: the same\n", "x.py: that of 0\nx.py: that of 1\n", ""]
    assert second == ["", "", "x.py: process 1 alone: full disk\n"]


def test_report_error__one_process_just_prints(capsys):
    for channel in (None, ErrorChannel()):
        report_error("x.py", ValueError("no folder"), channel)
        assert capsys.readouterr().err == "x.py: no folder\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["run_pretrain.py", "--paired_data", "finegpr=absent", "--output_dir", "run"],
        ["run_reid_eval.py", "--model_name_or_path", "absent", "--data", "market1501=absent"],
        ["run_reid_eval.py", "--model_name_or_path", "absent", "--data", "market1501=absent", "--max_rank", "1"],
    ],
)
def test_scripts__under_torchrun_a_mistake_is_one_line(tmp_path, command):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run = subprocess.run(
        [*launch, str(REPOSITORY / command[0]), *command[1:]],
        cwd=tmp_path,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode != 0
    assert run.stderr.count(f"{command[0]}: ") == 1, run.stderr
