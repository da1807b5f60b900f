"""Ctrl-C and SIGTERM: work is brought to a good end first, and a second Ctrl-C ends the process at once.

    with stop_by_exception():          # commands: StopRequested is raised where the program is, drafts are removed
        ...
    with StopSignal() as stop:         # training: the step is finished, a checkpoint saved, TrainingStopped raised
        trainer = MMETTrainer(stop=stop, ...)

Errors that end a run early and are not bugs are defined here too, so that a command can report them in one line.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}

_GRACE_SECONDS = 3.0
"""A launcher of several processes passes a Ctrl-C on that they have received themselves: it is not a second one."""


class RunError(RuntimeError):
    """A run cannot go on for a reason that the user can put right; the message says how."""


class TrainingStopped(RuntimeError):
    """Training was asked to stop; the message names the saved checkpoint, `number` the signal."""

    def __init__(self, message: str, number: int = signal.SIGTERM) -> None:
        super().__init__(message)
        self.number = number


class StopRequested(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, raised where the program was; `number` is the signal."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(f"stopped by {signal_name(number)}")
        self.number = number


def signal_name(number: int) -> str:
    """Return the name of a signal for messages: `Ctrl-C` or `SIGTERM`."""
    return _SIGNALS.get(signal.Signals(number), signal.Signals(number).name)


class StopSignal:
    """
    Records a Ctrl-C or SIGTERM inside the block instead of ending the process.

    Attributes:
        requested: number of the first signal that came; 0 before.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._handlers: _Handlers | None = None

    def __enter__(self) -> StopSignal:
        self._handlers = _Handlers(self._note)
        self._handlers.install()
        return self

    def __exit__(self, *_: object) -> None:
        if self._handlers is not None:
            self._handlers.restore()

    def _note(self, number: int) -> None:
        self.requested = self.requested or number


@contextmanager
def stop_by_exception() -> Iterator[None]:
    """Raise `StopRequested` at the first Ctrl-C or SIGTERM inside the block."""

    def stop(number: int) -> None:
        raise StopRequested(number)

    handlers = _Handlers(stop)
    handlers.install()
    try:
        yield
    finally:
        handlers.restore()


class _Handlers:
    """
    Calls `on_stop` with the number of the first signal of each kind. A second Ctrl-C ends the process by the signal.

    Worker processes are forked with these handlers. There, Ctrl-C does nothing, for the process that started them ends
    them, and SIGTERM ends them as ever.
    """

    def __init__(self, on_stop: Callable[[int], None]) -> None:
        self._on_stop = on_stop
        self._process = os.getpid()
        self._received: dict[int, float] = {}
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}

    def restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            if number != signal.SIGINT:
                _end_by(number)
            return
        grace = _GRACE_SECONDS if int(os.environ.get("WORLD_SIZE") or 1) > 1 else 0.0
        if number in self._received:
            if number == signal.SIGINT and time.monotonic() - self._received[number] >= grace:
                _end_by(number)
            return
        self._received[number] = time.monotonic()
        if number == signal.SIGINT and not grace:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends the process even in the middle of a long operation
        if len(self._received) == 1:
            self._on_stop(number)


def _end_by(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
