"""Whole files and folders: written under a temporary name, checked, and renamed.

    write_whole(output / "results.json", text)                     # text, bytes, or several files at once
    with whole_file(output / "rows.safetensors") as draft:         # a file written by another library
        save_file(tensors, draft)
    with whole_folder(Path("data/world")) as draft:                # a folder that appears when it is complete
        files = FolderDraft(draft)
        files.write("images/a.txt", "…")
        files.check()                                              # every file is still there and unchanged

A draft is named `.<name>.partial-<process id>`. A full disk, an error or a kill leaves earlier files unchanged. The
next writer of the same name and `clear_leftovers` remove drafts of dead processes.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mmet.digests import file_blocks
from mmet.field_checks import shown

logger = logging.getLogger(__name__)

MAX_JSON_BYTES = 2**30
"""Largest JSON file that is read: more than any results or logs."""

_LEAST_READ_BYTES = 2**20
"""Asked for even of files whose size is 0, as those of /proc say."""

_DRAFT = re.compile(r"\..+\.partial-([0-9]+)", flags=re.DOTALL)


def write_whole(path: Path, content: str | bytes) -> None:
    """
    Write one file, whole or not at all. Text becomes UTF-8; what UTF-8 cannot hold is written as `\\udcff`.

    Raises:
        OSError: it could not be written; the message names the file, and what was there is unchanged.
    """
    write_all_whole({path: content})


def write_all_whole(contents: Mapping[Path, str | bytes]) -> None:
    """Write several files that belong together: all are written before the first is renamed. Raises `OSError`."""
    drafts: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            with _named_errors(path):
                drafts[path] = _draft_of(path)
                _check_size(drafts[path], _write(drafts[path], content))
                sync(drafts[path])
        for path, draft in drafts.items():
            with _named_errors(path):
                draft.replace(path)
        for folder in {path.parent for path in contents}:
            sync(folder)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """
    A draft to write to, which becomes `path` at the end of the block and is removed when the block raises.

    Raises:
        OSError: the draft is missing or unreadable at the end, or cannot be renamed.
    """
    draft = _draft_of(path)
    try:
        yield draft
        with _named_errors(path):
            check_readable(draft, path.suffix)
            sync(draft)
            draft.replace(path)
            sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """
    Create an empty folder beside `target`; rename it at the end of the block, or remove it when the block raises.

    Raises:
        OSError: `target` is there and not empty, or the folder cannot be made or renamed.
    """
    target = target.absolute()
    make_folder(target.parent)
    draft = _draft_of(target)
    shutil.rmtree(draft, ignore_errors=True)  # a killed run may have had the same process id
    draft.mkdir()
    try:
        yield draft
        if target.exists():
            target.rmdir()
        draft.rename(target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


@dataclass(frozen=True)
class FolderDraft:
    """
    The files of a folder that is being written, with size and checksum of each.

    Attributes:
        root: the folder, which must exist.
        files: size and CRC-32 of every file, by its path below `root` with forward slashes. Files that another
            process wrote are added with `files.update`.
    """

    root: Path
    files: dict[str, tuple[int, int]] = field(default_factory=dict)

    def write(self, name: str, content: bytes | str) -> None:
        """Write a file, and the folders above it. Raises `OSError` when `root` is gone."""
        data = content.encode("utf-8") if isinstance(content, str) else content
        path = self.root / name
        try:
            path.write_bytes(data)
        except FileNotFoundError:
            if not self.root.is_dir():  # somebody removed it: do not make it again without its other files
                raise
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self.files[name] = len(data), zlib.crc32(data)

    def note(self, name: str) -> None:
        """Add a file that another library wrote. Raises `OSError` when it cannot be read."""
        self.files[name] = _size_and_crc(self.root / name)

    def remove(self, name: str) -> None:
        """Remove a folder and forget the files in it."""
        shutil.rmtree(self.root / name)
        for file in [file for file in self.files if file.startswith(f"{name}/")]:
            del self.files[file]

    def check(self) -> None:
        """Read every file again. Raises `OSError` that names the files that are missing or hold something else."""
        damaged = [f"{name} ({reason})" for name in self.files if (reason := self._defect(name))]
        if damaged:
            names = ", ".join(damaged[:3]) + (", …" if len(damaged) > 3 else "")
            raise OSError(
                f"{len(damaged):,} of {len(self.files):,} files are not as they were written: {names}. Something "
                "removed or changed them during the work; nothing is left of it, so run the same command again"
            )

    def _defect(self, name: str) -> str:
        try:
            return "" if _size_and_crc(self.root / name) == self.files[name] else "changed"
        except FileNotFoundError:
            return "missing"
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"


def _size_and_crc(path: Path) -> tuple[int, int]:
    size = crc = 0
    for block in file_blocks(path):
        size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """
    The content of a regular file. Pipes and devices, which may never end, are not read.

    Raises:
        ValueError: it is no regular file, or holds more than `max_bytes`; the message does not name it.
        OSError: it is not there or cannot be read.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file; put the file itself in this place")
        if status.st_size > max_bytes:
            raise ValueError(f"expected at most {max_bytes:,} bytes, received {status.st_size:,}")
        # What is asked for is allocated at once, whatever the file holds: `max_bytes` would be gigabytes.
        return file.read(max(status.st_size, _LEAST_READ_BYTES))


def _open_at_once(path: str, flags: int) -> int:
    """Open a file, or a pipe without waiting for its other end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_json(path: Path) -> Any:
    """
    What a regular JSON file holds.

    Raises:
        ValueError: it is no JSON in UTF-8 that `parse_json` takes, or no file that `read_regular_file` reads; the
            message does not name the file.
        OSError: it is not there or cannot be read.
    """
    return parse_json(read_regular_file(path, MAX_JSON_BYTES).decode("utf-8"))


def parse_json(text: str) -> Any:
    """What a JSON text holds. Raises `ValueError` for no JSON, one nested too deep, and a key given twice."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which a repeated key would silently replace what it had before."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise ValueError(f"key {shown(twice)} stands twice in one object")
    return fields


def make_folder(folder: Path) -> None:
    """Make a folder and its parents without recursion, unlike `mkdir(parents=True)`. Raises `OSError`."""
    missing = list(takewhile(lambda place: not place.exists(), folder.parents))
    for place in (*reversed(missing), folder):
        place.mkdir(exist_ok=True)


def check_writable(folder: Path) -> None:
    """Make a folder and write to it, leaving nothing behind. Raises `OSError` where that fails."""
    make_folder(folder)
    with tempfile.TemporaryFile(dir=folder):
        pass


def check_folder(folder: Path) -> None:
    """Read back the files of a folder and flush them to disk. Raises `OSError` that names an unreadable file."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            check_readable(path, path.suffix)
            sync(path)
    sync(folder)


def check_readable(path: Path, suffix: str) -> None:
    """
    Raise `OSError` for a file that is not there, and for JSON, safetensors or PyTorch files that are cut short.

    Args:
        path: the file.
        suffix: what kind of file it is, such as `.json`; other kinds only have to be there.
    """
    if not path.is_file():
        raise OSError(f"{path} is missing")
    try:
        if suffix == ".json":
            read_json(path)
        elif suffix == ".safetensors":
            with safe_open(path, framework="numpy"):  # compares the header's offsets with the file's size
                pass
        elif suffix in (".pt", ".pth"):
            with zipfile.ZipFile(path):  # its directory is the last thing that is written
                pass
    except (ValueError, SafetensorError, zipfile.BadZipFile) as error:
        raise OSError(f"{path} is damaged ({error})") from error


def clear_leftovers(folder: Path, name: str | None = None) -> None:
    """
    Remove drafts of dead processes from a folder; drafts of running processes stay.

    Args:
        folder: where to look; not below it.
        name: whose drafts to remove; None for all.
    """
    prefix = None if name is None else f".{name}.partial-"
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        match = _DRAFT.fullmatch(path.name)
        if match is None or (prefix is not None and not path.name.startswith(prefix)):
            continue
        if not is_running(int(match[1])):
            logger.debug("removing %s, which a killed run left", path)
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Whether a process with this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to disk. Raises `OSError` if writing fails."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot do that for folders
            raise
    finally:
        os.close(descriptor)


def _draft_of(path: Path) -> Path:
    clear_leftovers(path.parent, path.name)
    return path.with_name(f".{path.name}.partial-{os.getpid()}")


def _write(path: Path, content: str | bytes) -> int:
    """Write text or bytes; how many bytes there must be on the disk."""
    if isinstance(content, bytes):
        return path.write_bytes(content)
    path.write_text(content, encoding="utf-8", errors="backslashreplace", newline="")
    return len(content.encode("utf-8", "backslashreplace"))


def _check_size(path: Path, expected: int) -> None:
    received = path.stat().st_size
    if received != expected:
        raise OSError(f"expected {expected:,} bytes on the disk, received {received:,}")


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Add to an error which file it is about, and that nothing was lost."""
    try:
        yield
    except OSError as error:
        kept = "what was there before is unchanged" if path.exists() else "nothing is left of it"
        raise OSError(f"{path} could not be written ({error.strerror or error}); {kept}") from error
