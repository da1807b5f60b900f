"""Errors of several processes: told once where all have them, told by the one that is alone, exit code 2 for all."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from process_group import run_processes

import run_pretrain
import run_reid_eval
from mmet.command_line import report_error, run_command, show_results
from mmet.distributed import ErrorChannel

REPOSITORY = Path(__file__).parents[1]


def said_by(function, *arguments):
    """What a function returned, and what it wrote to standard error."""
    with contextlib.redirect_stderr(io.StringIO()) as message:
        returned = function(*arguments)
    return returned, message.getvalue()


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
    for (code, message), (other_code, other_message), words in zip(first, second, expected, strict=True):
        assert (code, other_code) == (2, 2)
        assert words in message
        assert message.count(".py: ") == 1
        assert other_message == ""


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


def printing(*texts):
    """A command that prints."""

    def work(command):
        for text in texts:
            print(text)

    return work


@contextlib.contextmanager
def standard_streams(output, errors=None, encoding="ascii"):
    """Standard output and standard error as a shell redirects them, in this process."""
    kept = sys.stdout, sys.stderr
    sys.stdout = io.TextIOWrapper(output, encoding=encoding)
    sys.stderr = io.TextIOWrapper(errors or io.BytesIO(), encoding=encoding)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.detach()
        sys.stdout, sys.stderr = kept


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", b"\\u2192"), ("cp1252", b"\\u2192"), ("utf-8", "→".encode())]
)
def test_run_command__what_cannot_be_encoded_is_escaped(encoding, shown):
    output, errors = io.BytesIO(), io.BytesIO()

    def work(command):
        print("image→text")
        sys.stdout.flush()
        raise ValueError("no folder →")

    with standard_streams(output, errors, encoding):
        assert run_command("x.py", work) == 2
        sys.stderr.flush()
        assert output.getvalue() == b"image" + shown + b"text\n"
        assert errors.getvalue() == b"x.py: error: no folder " + shown + b"\n"


def closed_pipe():
    """The writing end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "wb")


def test_run_command__a_reader_that_left_is_no_error():
    errors = io.BytesIO()
    with standard_streams(closed_pipe(), errors):
        assert run_command("x.py", printing("a" * 100_000)) == 0
        sys.stderr.flush()
        assert errors.getvalue() == b""
        print("nothing more is raised at the end", flush=True)


def test_run_command__output_on_a_full_disk_is_an_error():
    errors = io.BytesIO()
    with standard_streams(open("/dev/full", "wb", buffering=0), errors):  # noqa: PTH123
        assert run_command("x.py", printing("a")) == 2
        sys.stderr.flush()
        assert errors.getvalue() == b"x.py: error: standard output cannot be written (No space left on device)\n"


def test_show_results__says_where_they_are_if_they_cannot_be_printed():
    errors = io.BytesIO()
    with standard_streams(closed_pipe(), errors):
        assert run_command("x.py", lambda command: show_results("a table", "Saved to out: results.json")) == 0
        sys.stderr.flush()
        assert errors.getvalue() == b"Saved to out: results.json\n"
    errors = io.BytesIO()
    with standard_streams(open("/dev/full", "wb", buffering=0), errors):  # noqa: PTH123
        assert run_command("x.py", lambda command: show_results("a table", "Saved to out: results.json")) == 2
        sys.stderr.flush()
        message = b"x.py: error: Saved to out: results.json, but it cannot be printed (No space left on device)\n"
        assert errors.getvalue() == message


def test_run_command__the_callers_log_levels_are_put_back():
    loggers = [logging.getLogger(name) for name in ("", "mmet", "mmet.data", "mmet.evaluation.systems.cache")]
    before = [logger.level for logger in loggers]

    def work(command):
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        raise ValueError("no")

    assert run_command("x.py", work) == 2
    assert [logger.level for logger in loggers] == before
