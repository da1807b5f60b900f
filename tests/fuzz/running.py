"""Run a command of the project in this process and judge how it ended: done, or one message and exit code 2."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import random
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS = 120
"""A command that takes longer hangs; the slowest good ones take a few seconds."""

MEMORY_BYTES = 8 * 2**30
"""Address space that a command may take beyond what the process has; good ones take little."""

LONGEST_MESSAGE = 60
"""Lines: a wrong folder is answered with the tree that was expected."""

Command = Callable[[Sequence[str]], int | None]


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    output: str
    errors: str


class Hanging(Exception):
    """A command did not end in time."""


class _Stream(io.TextIOWrapper):
    """Text in memory that is encoded as a terminal or a file would have it."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)

    def getvalue(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding, "replace")


def run(
    command: Command,
    arguments: Sequence[str],
    *,
    encoding: str = "utf-8",
    file_bytes: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Outcome:
    """
    Run a `main(arguments)`; an escaped exception is a traceback in `errors`, as a user would see it.

    Args:
        command: to run.
        arguments: of it.
        encoding: of standard output and standard error.
        file_bytes: largest file that can be written, as on a full disk; None for no limit.
        memory_bytes: address space that the command may take beyond what the process has.
    """
    output, errors = _Stream(encoding), _Stream(encoding)
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors), _limits(file_bytes, memory_bytes):
        try:
            code = command(list(arguments)) or 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except Hanging:
            code = -1
            errors.write(f"Traceback: still running after {SECONDS} s\n")
        except BaseException:
            code = 1
            errors.write(traceback.format_exc().encode(encoding, "backslashreplace").decode(encoding))
    return Outcome(code, output.getvalue(), errors.getvalue())


@contextlib.contextmanager
def _limits(file_bytes: int | None, memory_bytes: int) -> Iterator[None]:
    """Limits of time, memory and files. What hangs outside Python ends the process, and says where."""

    def stop(*_: object) -> None:
        raise Hanging

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(2 * SECONDS, exit=True, file=sys.__stderr__)
    with contextlib.ExitStack() as limits:
        limits.enter_context(_limit(resource.RLIMIT_AS, _address_space() + memory_bytes))
        if file_bytes is not None:
            limits.enter_context(_limit(resource.RLIMIT_FSIZE, file_bytes))
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _limit(kind: int, value: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def remove(*paths: Path) -> None:
    """Remove files and folders, however deep: `shutil.rmtree` goes down by recursion."""
    subprocess.run(["rm", "-rf", "--", *paths], check=True)


def option_names(main_module) -> list[str]:
    """The options that a command's `--help` shows; those that start processes or reach for a network are left out."""
    outcome = run(main_module.main, ["--help"])
    words = {word.strip("[],|") for word in outcome.output.split() if word.strip("[").startswith("--")}
    names = {word[2:].partition("=")[0] for word in words}
    return sorted(
        name for name in names if name and not any(word in name for word in ("worker", "hub", "launcher", "help"))
    )


def judge_data(outcome: Outcome) -> Outcome:
    """The doctor ends with 1 where it found something to mend: that is an answer, too."""
    return Outcome(0, outcome.output, outcome.errors) if outcome.code == 1 and outcome.output else outcome


def complaint(outcome: Outcome, named: Sequence[str] = ()) -> str | None:
    """
    What is wrong with an outcome; None for success, and for exit code 2 with a message.

    Args:
        outcome: of a command.
        named: one of which a message must hold; empty for any message.
    """
    if "Traceback" in outcome.errors:
        return outcome.errors[-1_500:]
    if outcome.code not in (0, 2):
        return f"exit code {outcome.code}: {outcome.errors[-500:]}"
    lines = [line for line in outcome.errors.splitlines() if line.strip()]
    if outcome.code == 2 and not lines:
        return "exit code 2 without a message"
    if outcome.code == 2 and len(lines) > LONGEST_MESSAGE:
        return f"a message of {len(lines)} lines: {outcome.errors[:500]}"
    if outcome.code == 2 and named and not any(name in outcome.errors for name in named):
        return f"a message that does not name {' or '.join(named)}: {outcome.errors[:500]}"
    return None


@dataclass(frozen=True)
class Attempt:
    """
    What was tried.

    Attributes:
        change: in words.
        outcome: of the command.
        named: see `complaint`.
    """

    change: str
    outcome: Outcome
    named: Sequence[str] = ()


def fuzz(area: str, count: int, attempt: Callable[[random.Random], Attempt]) -> None:
    """
    Make `count` attempts, each from a seed of its own, and fail with all that went wrong.

    Args:
        area: names the seeds, so that a single one can be repeated.
        count: attempts.
        attempt: runs one command on one mutated input.
    """
    failures = []
    for number in range(count):
        tried = attempt(random.Random(f"{area} {number}"))
        reason = complaint(tried.outcome, tried.named)
        if reason is not None:
            failures.append(f"--- {area} {number}: {tried.change[:600]}\n{reason}")
    assert not failures, f"{len(failures)} of {count} inputs:\n" + "\n".join(failures[:20])
