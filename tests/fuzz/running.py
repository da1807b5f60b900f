"""Run a command of the project in this process and judge how it ended: done, or one message and exit code 2."""

from __future__ import annotations

import contextlib
import io
import random
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

SECONDS = 120
"""A command that takes longer hangs; the slowest good ones take a few seconds."""

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


def run(command: Command, arguments: Sequence[str]) -> Outcome:
    """Run a `main(arguments)`; an escaped exception is a traceback in `errors`, as a user would see it."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors), _limit(SECONDS):
        try:
            code = command(list(arguments)) or 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except Hanging:
            code = -1
            errors.write(f"Traceback: still running after {SECONDS} s\n")
        except BaseException:
            code = 1
            errors.write(traceback.format_exc())
    return Outcome(code, output.getvalue(), errors.getvalue())


@contextlib.contextmanager
def _limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hanging

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def complaint(outcome: Outcome) -> str | None:
    """What is wrong with an outcome; None for success, and for exit code 2 with a message."""
    if "Traceback" in outcome.errors:
        return outcome.errors[-1_500:]
    if outcome.code not in (0, 2):
        return f"exit code {outcome.code}: {outcome.errors[-500:]}"
    lines = [line for line in outcome.errors.splitlines() if line.strip()]
    if outcome.code == 2 and not lines:
        return "exit code 2 without a message"
    if outcome.code == 2 and len(lines) > LONGEST_MESSAGE:
        return f"a message of {len(lines)} lines: {outcome.errors[:500]}"
    return None


def fuzz(area: str, count: int, attempt: Callable[[random.Random], tuple[str, Outcome]]) -> None:
    """
    Make `count` attempts, each from a seed of its own, and fail with all that went wrong.

    Args:
        area: names the seeds, so that a single one can be repeated.
        count: attempts.
        attempt: runs one command on one mutated input; returns what was changed, and the outcome.
    """
    failures = []
    for number in range(count):
        description, outcome = attempt(random.Random(f"{area} {number}"))
        reason = complaint(outcome)
        if reason is not None:
            failures.append(f"--- {area} {number}: {description[:600]}\n{reason}")
    assert not failures, f"{len(failures)} of {count} inputs:\n" + "\n".join(failures[:20])
