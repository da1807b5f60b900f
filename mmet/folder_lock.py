"""Allow one run at a time in an output folder, by a lock that names its holder and is released however it ends.

    with locked(Path("outputs/run")):          # an existing or new folder
        ...
    with locked_target(Path("data/world")):    # a folder that appears when it is complete: the lock lies beside it
        ...

The operating system holds the lock (POSIX record locks, which also work over NFS), so any kill releases it; the file
only names the holder. For several processes of one run, the main process holds the lock.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shlex
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from mmet.distributed import compute_once
from mmet.field_checks import without_password
from mmet.whole_files import clear_leftovers, make_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LOCK_FILE = "_in_use.json"
"""The file inside a folder that is in use. Trainer pushes no file whose name begins so to the Hub."""

_SECRETS = ("--hub_token",)

_HELD = (errno.EACCES, errno.EAGAIN)
_depths: dict[Path, int] = {}
"""Locks of this process, with how often each was taken: record locks do not tell a process from itself."""


class FolderInUseError(OSError):
    """Another run writes to the folder; the message names the process."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """
    Hold the lock of an output folder; create the folder if missing, and remove what killed runs left in it.

    Raises:
        FolderInUseError: another process holds it.
        OSError: the folder cannot be created or written.
    """
    is_new = not folder.exists()
    make_folder(folder)
    try:
        with _held(folder / LOCK_FILE, folder):
            clear_leftovers(folder)
            yield
    finally:
        if is_new:
            with suppress(OSError):  # nothing was written to it
                folder.rmdir()


@contextmanager
def locked_by_main_process(folder: Path) -> Iterator[None]:
    """`locked` for all processes of a run: the main process holds the lock. Raises on all of them."""
    with ExitStack() as held:

        def hold() -> None:
            held.enter_context(locked(folder))

        compute_once(hold)
        yield


@contextmanager
def locked_target(target: Path) -> Iterator[None]:
    """Hold the lock of a folder that is written elsewhere and then renamed. Raises as `locked` does."""
    make_folder(target.parent)
    with _held(target.with_name(f".{target.name}.lock"), target):
        yield


@contextmanager
def _held(path: Path, folder: Path) -> Iterator[None]:
    path = path.resolve()
    if path in _depths:
        _depths[path] += 1
        try:
            yield
        finally:
            _depths[path] -= 1
        return
    owner = os.getpid()
    descriptor = _acquire(path, folder)
    _depths[path] = 1
    try:
        yield
    finally:
        del _depths[path]
        if os.getpid() == owner:  # a forked process inherits neither the lock nor the right to remove it
            with suppress(OSError):
                path.unlink()
        os.close(descriptor)


def _acquire(path: Path, folder: Path) -> int:
    """Open and lock the file; open it again if its holder has removed it in the meantime."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock(descriptor, folder)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    _describe_holder(descriptor)
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD:  # a file system without locks
            logger.warning("%s cannot be locked (%s): let no second run write to it", folder, error.strerror)
            return
        raise FolderInUseError(
            f"{folder} is in use by {_holder(descriptor)}: wait for it or end it, or choose another folder"
        ) from None


def _describe_holder(descriptor: int) -> None:
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(_without_secrets(sys.orig_argv)),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, (json.dumps(holder) + "\n").encode(), 0)


def _without_secrets(command: Sequence[str]) -> list[str]:
    """A command line whose tokens are replaced by dots, and whose addresses have no passwords."""
    shown = list(map(without_password, command))
    for number, word in enumerate(shown):
        name, separator, _ = word.partition("=")
        if name in _SECRETS and separator:
            shown[number] = f"{name}=…"
        elif number and shown[number - 1] in _SECRETS:
            shown[number] = "…"
    return shown


def _holder(descriptor: int) -> str:
    """The process that holds a lock, in words."""
    try:
        holder = json.loads(os.pread(descriptor, 65_536, 0))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']} ({holder['command']})"
    except (ValueError, KeyError, TypeError, OSError):  # locked, and not described yet
        return "another process"
