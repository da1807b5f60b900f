"""Files are whole or as they were: full disks, damaged drafts, errors half-way, leftovers of killed processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from full_disk import full_disk
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mmet.whole_files import (
    MAX_JSON_BYTES,
    check_folder,
    check_readable,
    check_writable,
    clear_leftovers,
    make_folder,
    read_json,
    read_regular_file,
    whole_file,
    whole_folder,
    write_all_whole,
    write_whole,
)

WRITERS = {
    "text": lambda path: write_whole(path, "x" * 5_000),
    "bytes": lambda path: write_whole(path, b"x" * 5_000),
    "several": lambda path: write_all_whole({path: b"small", path.with_name("large"): b"x" * 5_000}),
    "library": lambda path: _save_tensors(path, 5_000),
}


def _save_tensors(path: Path, size: int) -> None:
    with whole_file(path) as draft:
        save_file({"rows": np.zeros(size, dtype=np.uint8)}, draft)


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("writer", WRITERS)
def test_writing__on_a_full_disk_keeps_what_was_there(tmp_path, writer):
    path = tmp_path / "file.safetensors"
    path.write_bytes(b"the old content")
    with full_disk(), pytest.raises(Exception, match=r"file|File") as raised:
        WRITERS[writer](path)
    if writer != "library":  # there, the library's own error comes through
        assert isinstance(raised.value, OSError)
        assert "could not be written" in str(raised.value)
    assert path.read_bytes() == b"the old content"
    assert [file.name for file in tmp_path.iterdir()] == ["file.safetensors"]


def test_write_all_whole__no_file_takes_its_name_before_all_are_written(tmp_path):
    names = [tmp_path / name for name in ("a", "b", "c")]
    write_all_whole(dict.fromkeys(names, "old"))
    with full_disk(), pytest.raises(OSError, match=r"/b could not be written.*what was there before is unchanged"):
        write_all_whole({names[0]: "new", names[1]: "x" * 2_000, names[2]: "new"})
    assert {name.read_text(encoding="utf-8") for name in names} == {"old"}
    write_all_whole(dict.fromkeys(names, "new"))
    assert {name.read_text(encoding="utf-8") for name in names} == {"new"}


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_write_whole__text_comes_back_as_utf_8_with_lone_surrogates_escaped(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    write_whole(path, text)
    assert path.read_bytes() == text.encode("utf-8", "backslashreplace")


def test_write_whole__a_name_that_is_no_utf_8_stays_valid_json(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    write_whole(tmp_path / "a.json", json.dumps({"name": name}, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": name}


DAMAGED = {
    ".json": lambda path: path.write_text('{"a": 1', encoding="utf-8"),
    ".safetensors": lambda path: (save_file({"a": np.zeros(500)}, path), os.truncate(path, 900)),
    ".pt": lambda path: (torch.save({"a": torch.zeros(500)}, path), os.truncate(path, 900)),
    ".md": lambda path: None,  # not written at all
}


@pytest.mark.parametrize("suffix", DAMAGED)
def test_whole_file__what_cannot_be_read_back_does_not_take_the_name(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="could not be written"), whole_file(path) as draft:
        DAMAGED[suffix](draft)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_check_folder__names_the_damaged_file(tmp_path):
    for suffix in (".json", ".safetensors", ".pt"):
        folder = tmp_path / suffix[1:]
        folder.mkdir()
        (folder / "whole.json").write_text("{}", encoding="utf-8")
        check_folder(folder)
        DAMAGED[suffix](folder / f"broken{suffix}")
        with pytest.raises(OSError, match=rf"broken\{suffix} is damaged"):
            check_folder(folder)


def test_check_readable__missing(tmp_path):
    with pytest.raises(OSError, match="gone is missing"):
        check_readable(tmp_path / "gone", "")


def test_leftovers__of_killed_processes_are_cleared_and_of_running_ones_kept(tmp_path):
    dead, alive = dead_pid(), os.getppid()
    for name in (f".a.txt.partial-{dead}", f".a.txt.partial-{alive}", f".b.txt.partial-{dead}", ".partial-notes"):
        (tmp_path / name).write_text("", encoding="utf-8")
    (tmp_path / f".world.partial-{dead}" / "images").mkdir(parents=True)
    write_whole(tmp_path / "a.txt", "")
    assert not (tmp_path / f".a.txt.partial-{dead}").exists()
    assert (tmp_path / f".b.txt.partial-{dead}").exists(), "another name's"
    clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [f".a.txt.partial-{alive}", ".partial-notes", "a.txt"]
    )


def test_whole_folder__appears_at_the_end_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "world"
    left = tmp_path / "deep" / f".world.partial-{dead_pid()}"
    left.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt), whole_folder(target) as draft:
        _stop_after(draft / "file")
    assert list((tmp_path / "deep").iterdir()) == []
    with whole_folder(target) as draft:
        (draft / "file").touch()
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["file"]
    with pytest.raises(OSError, match="not empty"), whole_folder(target) as draft:
        (draft / "other").touch()
    assert [path.name for path in target.iterdir()] == ["file"]


def _stop_after(file: Path) -> None:
    file.touch()
    raise KeyboardInterrupt


def test_check_writable__makes_the_folder_and_leaves_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        check_writable(tmp_path / "file" / "b")


@pytest.mark.parametrize("kind", ["pipe", "device", "huge", "deep", "not JSON", "latin"])
def test_read_json__what_is_no_json_file_is_a_value_error(tmp_path, kind):
    path = tmp_path / "a.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(MAX_JSON_BYTES + 1)  # a hole: takes no room
    else:
        path.write_bytes({"deep": b"[" * 100_000, "not JSON": b"{", "latin": b'"\xe9"'}[kind])
    with pytest.raises(ValueError, match=r"regular file|at most|nested|line 1|decode"):
        read_json(path)


def test_read_json__reads_what_json_holds(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, "人"]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"a": [1, "人"]}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))):
        read_json(tmp_path)


def test_make_folder__deeper_than_recursion_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    deep = Path("d/" * 1_500)
    make_folder(deep)
    make_folder(deep)
    assert deep.is_dir()
    subprocess.run(["rm", "-rf", "d"], check=True)


def test_make_folder__a_file_in_its_place(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="file"):
            make_folder(folder)


@pytest.mark.parametrize(
    ("content", "reason"), [('{"a": {"b": 1, "b": 2}}', "'b' stands twice"), ("[" * 100_000, "nested too deep")]
)
def test_read_json__refuses(tmp_path, content, reason):
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(ValueError, match=reason):
        read_json(tmp_path / "state.json")


def test_read_regular_file__takes_memory_for_what_the_file_holds(tmp_path):
    path = tmp_path / "small"
    path.write_bytes(b"x" * 3_000_000)
    tracemalloc.start()
    content = read_regular_file(path, 2**31)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert content == b"x" * 3_000_000
    assert peak < 8_000_000


def test_read_regular_file__of_the_system_which_tells_no_size():
    assert b"Name:" in read_regular_file(Path("/proc/self/status"), 2**31)
