"""Ctrl-C and SIGTERM: work ends well and says so in one line, a second Ctrl-C ends it at once."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from mmet.command_line import run_command
from mmet.data.synthetic.__main__ import main as draw
from mmet.stopping import RunError, StopRequested, StopSignal, TrainingStopped, stop_by_exception
from mmet.whole_files import whole_file, whole_folder

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Forked:
    """A function in a forked process; what it writes to standard error goes to a file."""

    def __init__(self, function, folder: Path) -> None:
        self._errors = folder / "errors.txt"
        self._ready = folder / "ready"
        self.pid = os.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            with self._errors.open("w", encoding="utf-8") as errors:
                os.dup2(errors.fileno(), 2)
                sys.stderr = errors
                os._exit(function(self._ready))

    def wait_until_ready(self) -> Forked:
        deadline = time.monotonic() + 60
        while not self._ready.exists():
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.005)
        return self

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self) -> tuple[int, str]:
        """The exit code (that of a signal negative) and the messages."""
        status = os.waitpid(self.pid, 0)[1]
        return os.waitstatus_to_exitcode(status), self._errors.read_text(encoding="utf-8")


def write_for_ever(ready: Path) -> int:
    """A command in the middle of writing a file and a folder."""

    def work(command):
        with whole_folder(ready.with_name("folder")), whole_file(ready.with_name("file")) as draft:
            draft.write_text("half", encoding="utf-8")
            ready.touch()
            time.sleep(60)

    return run_command("x.py", work, after_stop="call it again")


@pytest.mark.parametrize("number", CODES)
def test_run_command__a_stop_is_one_line_and_leaves_no_draft(tmp_path, number):
    process = Forked(write_for_ever, tmp_path).wait_until_ready()
    process.send(number)
    assert process.end() == (CODES[number], f"x.py: stopped by {NAMES[number]}; call it again\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["errors.txt", "ready"]


def clean_up_slowly(ready: Path) -> int:
    def work(command):
        try:
            ready.touch()
            time.sleep(60)
        finally:
            ready.unlink()
            time.sleep(60)

    return run_command("x.py", work)


def test_run_command__a_second_ctrl_c_ends_at_once(tmp_path):
    process = Forked(clean_up_slowly, tmp_path).wait_until_ready()
    process.send(signal.SIGINT)
    while (tmp_path / "ready").exists():
        time.sleep(0.005)
    start = time.monotonic()
    process.send(signal.SIGINT)
    assert process.end() == (-signal.SIGINT, "")
    assert time.monotonic() - start < 5


def note_a_stop(ready: Path) -> int:
    """Training: the step goes on after the signal."""
    with StopSignal() as stop:
        ready.touch()
        while not stop.requested:
            time.sleep(0.005)
        ready.unlink()
        time.sleep(0.1)  # the step
    return stop.requested


@pytest.mark.parametrize("number", CODES)
def test_stop_signal__notes_which_and_goes_on(tmp_path, number):
    process = Forked(note_a_stop, tmp_path).wait_until_ready()
    process.send(number)
    assert process.end()[0] == number


def test_stop_signal__a_second_ctrl_c_ends_at_once(tmp_path):
    process = Forked(lambda ready: time.sleep(note_a_stop(ready) * 60), tmp_path).wait_until_ready()
    process.send(signal.SIGINT)
    while (tmp_path / "ready").exists():
        time.sleep(0.005)
    process.send(signal.SIGINT)
    assert process.end()[0] == -signal.SIGINT


def test_stop_signal__several_sigterms_are_one(tmp_path):
    process = Forked(note_a_stop, tmp_path).wait_until_ready()
    for _ in range(3):
        process.send(signal.SIGTERM)
    assert process.end()[0] == signal.SIGTERM


def note_in_a_group(ready: Path) -> int:
    os.environ["WORLD_SIZE"] = "2"
    return note_a_stop(ready)


def test_stop_signal__a_launcher_that_passes_ctrl_c_on_does_not_end_the_step(tmp_path):
    process = Forked(note_in_a_group, tmp_path).wait_until_ready()
    process.send(signal.SIGINT)
    process.send(signal.SIGINT)
    assert process.end()[0] == signal.SIGINT


def start_a_worker(ready: Path) -> int:
    """A worker that is forked inside the block; the exit code tells what ended it."""
    with StopSignal():
        worker = os.fork()
        if worker == 0:
            ready.touch()
            time.sleep(0.5)
            os._exit(7)
        code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
        ready.with_name("worker").write_text(str(code), encoding="utf-8")
    return 0


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 7), (signal.SIGTERM, -signal.SIGTERM)])
def test_stop_signal__workers_leave_ctrl_c_to_their_parent_and_end_by_sigterm(tmp_path, number, expected):
    process = Forked(start_a_worker, tmp_path).wait_until_ready()
    (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
    os.kill(int(worker), number)
    process.end()
    assert int((tmp_path / "worker").read_text(encoding="utf-8")) == expected


def test_handlers__are_those_of_before_afterwards():
    before = [signal.getsignal(number) for number in CODES]
    with stop_by_exception(), StopSignal():
        assert [signal.getsignal(number) for number in CODES] != before
    with pytest.raises(StopRequested) as stopped, stop_by_exception():
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.number == signal.SIGTERM
    assert [signal.getsignal(number) for number in CODES] == before


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (ValueError("bad field"), 2, "x.py: error: bad field\n"),
        (OSError("full disk"), 2, "x.py: error: full disk\n"),
        (RunError("no finite loss"), 2, "x.py: error: no finite loss\n"),
        (TrainingStopped("saved", signal.SIGINT), 130, "x.py: saved\n"),
        (TrainingStopped("saved"), 143, "x.py: saved\n"),
        (StopRequested(), 130, "x.py: stopped by Ctrl-C\n"),
    ],
)
def test_run_command__every_end_has_its_code_and_line(capsys, raised, code, message):
    def work(command):
        raise raised

    assert run_command("x.py", work) == code
    assert capsys.readouterr().err == message


def test_run_command__returns_what_the_work_returns():
    assert run_command("x.py", lambda command: None) == 0
    assert run_command("x.py", lambda command: 1) == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_drawing__ctrl_c_leaves_nothing(tmp_path, workers):
    arguments = ["--layout", "finegpr", "--output", str(tmp_path / "out" / "world"), "--num_ids", "400"]

    def run(ready: Path) -> int:
        with contextlib.redirect_stdout(io.StringIO()):
            return draw([*arguments, "--images_per_id", "16", "--num_workers", workers])

    process = Forked(run, tmp_path)
    while not list(tmp_path.glob("out/.world.partial-*/**/*.jpg")):
        time.sleep(0.01)
    process.send(signal.SIGINT)
    start = time.monotonic()
    code, messages = process.end()
    assert time.monotonic() - start < 10, "it drew on"
    assert (code, messages) == (130, "python -m mmet.data.synthetic: stopped by Ctrl-C; nothing was written\n")
    assert list((tmp_path / "out").iterdir()) == []
