"""Ctrl-C in the seconds in which a command is imported: one line and 130; other programs keep their own handler."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (
    ["run_pretrain.py"],
    ["run_reid_eval.py"],
    ["-m", "mmet.report"],
    ["-m", "mmet.ablate"],
    ["-um", "mmet.data.to_parquet"],
    ["-mmmet.data.synthetic"],
)


def stop_while_importing(*command: str, environment: dict[str, str] | None = None) -> tuple[int, list[str]]:
    """Send SIGINT once the first heavy import is on its way; exit code, and what is said but for Python's list."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", *command],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # A shell's background jobs ignore Ctrl-C and hand that down; these processes are to heed it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.rpartition("|")[2].strip().startswith(("numpy.", "torch.", "transformers.")):
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    return process.wait(), [line for line in rest.splitlines() if not line.startswith("import time:")]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_imports__ctrl_c_is_one_line(command):
    assert stop_while_importing(*command) == (130, ["stopped by Ctrl-C"])


def test_imports__of_several_processes_the_first_one_speaks():
    environment = {"PATH": "/usr/bin", "LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"}
    assert stop_while_importing("run_pretrain.py", environment=environment) == (130, [])


@pytest.mark.parametrize("code", ["import mmet, modeling_mmet", "import run_reid_eval"])
def test_imports__a_program_of_somebody_else_is_interrupted_as_ever(code):
    exit_code, message = stop_while_importing("-c", code)
    assert exit_code == -signal.SIGINT
    assert message[-1] == "KeyboardInterrupt"
