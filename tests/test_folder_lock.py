"""One run in a folder: a second one is told whose it is, and a lock is free however its holder ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import run_pretrain
import run_reid_eval
from mmet.ablate.__main__ import main as ablate
from mmet.data.extract_cuhk03 import main as extract
from mmet.data.synthetic.__main__ import main as draw
from mmet.data.to_parquet import main as convert
from mmet.folder_lock import LOCK_FILE, FolderInUseError, locked, locked_target
from mmet.report.__main__ import main as report


class Holder:
    """A forked process that holds a lock until it is killed; with `worker`, it has forked one of its own."""

    def __init__(self, lock, folder: Path, *, worker: bool = False) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            sys.orig_argv = ["python", "run_pretrain.py", "--hub_token", "secret", "rtsp://guard:secret@gate"]
            with lock(folder):
                if not worker or os.fork():
                    os.write(writer, b"held")
                time.sleep(60)
                os._exit(0)
        os.close(writer)
        assert os.read(reader, 4) == b"held"
        os.close(reader)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def kill_all(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)


@pytest.mark.parametrize("lock", [locked, locked_target])
def test_lock__names_its_holder_and_is_free_after_a_kill(tmp_path, lock):
    folder = tmp_path / "run"
    holder = Holder(lock, folder, worker=True)
    try:
        with pytest.raises(FolderInUseError) as raised, lock(folder):
            pytest.fail("two in one folder")
        place = f"process {holder.pid} on {socket.gethostname()} since 20"
        for words in (f"{folder} is in use", place, "run_pretrain.py --hub_token"):
            assert words in str(raised.value)
        assert "secret" not in str(raised.value)
        holder.kill()  # its worker lives on
        with lock(folder):
            pass
    finally:
        holder.kill_all()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "a lock that is given back leaves no file"


def test_lock__a_stopped_process_still_holds_it(tmp_path):
    holder = Holder(locked, tmp_path)
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        with pytest.raises(FolderInUseError), locked(tmp_path):
            pass
    finally:
        holder.kill()


def test_locked__once_more_in_the_same_process_is_no_conflict(tmp_path):
    with locked(tmp_path):
        with locked(tmp_path / "." / ".." / tmp_path.name):
            assert (tmp_path / LOCK_FILE).is_file()
        assert (tmp_path / LOCK_FILE).is_file()
    assert list(tmp_path.iterdir()) == []


def test_locked__a_file_without_a_holder_is_taken_over_and_drafts_are_cleared(tmp_path):
    (tmp_path / LOCK_FILE).write_text('{"pid": 1}', encoding="utf-8")
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (tmp_path / f".results.json.partial-{process.pid}").touch()
    with locked(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]


def test_locked__a_folder_that_nothing_was_written_to_does_not_stay(tmp_path):
    with pytest.raises(ValueError, match="bad"), locked(tmp_path / "run"):
        raise ValueError("bad")
    assert not (tmp_path / "run").exists()
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "file").touch()
    assert (tmp_path / "run" / "file").exists()


def test_locked__of_many_processes_one_at_a_time(tmp_path):
    """Each adds one to a number that it reads and writes: lost additions show two holders at once."""
    (tmp_path / "number").write_text("0", encoding="utf-8")
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            os._exit(_count(tmp_path, 20))
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert (tmp_path / "number").read_text(encoding="utf-8") == "80"


def _count(folder: Path, times: int) -> int:
    done = 0
    while done < times:
        try:
            with locked(folder):
                number = int((folder / "number").read_text(encoding="utf-8"))
                time.sleep(0.001)
                (folder / "number").write_text(str(number + 1), encoding="utf-8")
            done += 1
        except FolderInUseError:
            time.sleep(0.001)
    return 0


COMMANDS = {
    "train": (run_pretrain.main, ["--paired_data", "finegpr=x", "--report_to", "none", "--output_dir"], locked),
    "evaluate": (run_reid_eval.main, ["--model_name_or_path", "x", "--data", "market1501=x", "--output_dir"], locked),
    "report": (report, ["--run", "x", "--results", "x", "--data", "market1501=x", "--output"], locked),
    "ablate": (ablate, ["--tables", "1", "--output"], locked),
    "draw": (draw, ["--layout", "finegpr", "--num_ids", "1", "--images_per_id", "1", "--output"], locked_target),
    "convert": (convert, ["finegpr=x", "--output"], locked_target),
    "extract": (extract, ["--mat", "x", "--output"], locked_target),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands__a_second_one_in_the_same_folder_is_one_message(tmp_path, capsys, name):
    command, arguments, lock = COMMANDS[name]
    folder = tmp_path / "out"
    holder = Holder(lock, folder)
    before = sorted(tmp_path.rglob("*"))
    try:
        assert command([*arguments, str(folder)]) == 2
    finally:
        holder.kill()
    message = capsys.readouterr().err
    assert f"{folder} is in use by process {holder.pid} on" in message
    assert message.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
