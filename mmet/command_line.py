"""Shared parts of the commands: running, stopping, and reporting an error in one message.

parser = ArgumentParser([Arguments])

def main(argv=None) -> int:
    return run_command("run_pretrain.py", lambda command: train(command, argv))
"""

from __future__ import annotations

import logging
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from accelerate import PartialState
from accelerate.utils import get_int_from_env

from mmet.distributed import ErrorChannel, PlaceError, check_place, close_process_group
from mmet.stopping import RunError, StopRequested, TrainingStopped, stop_by_exception

USER_ERROR_EXIT_CODE = 2
SIGNAL_EXIT_CODE = 128
"""Added to the number of the signal that stopped a command."""


class Command:
    """
    A running command.

    Attributes:
        program: its name, which begins every message.
        channel: through which processes agree on errors to print once; None before `connect`.
    """

    def __init__(self, program: str) -> None:
        self.program = program
        self.channel: ErrorChannel | None = None

    def connect(self) -> None:
        """Join the other processes' error channel; all processes must call this at the same place."""
        self.channel = ErrorChannel()

    @property
    def is_main(self) -> bool:
        """Whether this process speaks for all; of processes that do not know of each other, for this machine's."""
        return PartialState().is_main_process if self.channel is not None else _is_first_here()


def run_command(program: str, work: Callable[[Command], int | None], *, after_stop: str = "") -> int:
    """
    Run a command and return its exit code, 0 or the result of `work`. Errors become messages.

    Ctrl-C and SIGTERM end it with one line and 130 or 143; an error that the user can correct, with one message and 2.
    Output that the terminal or file cannot encode is escaped, and a reader that closes standard output (`| head`) ends
    the command silently. Log levels that `work` sets are restored afterwards.

    Args:
        program: its name, which begins every message.
        work: what to do.
        after_stop: state or advice after a stop, such as "the same command continues where it stopped".
    """
    escape_what_cannot_be_encoded()
    command = Command(program)
    try:
        with log_levels_kept(), stop_by_exception():
            check_place()
            code = work(command) or 0
            if command.channel is not None:
                close_process_group()
            _flush_output()
            return code
    except BrokenPipeError as error:
        if not _reader_left():
            report_error(f"{program}: error", error, command.channel)
            return USER_ERROR_EXIT_CODE
        return 0
    except (ValueError, OSError, RunError) as error:
        report_error(f"{program}: error", error, command.channel)
        return USER_ERROR_EXIT_CODE
    except (TrainingStopped, StopRequested) as stopped:
        if command.is_main:
            hint = f"; {after_stop}" if after_stop else ""
            _tell(f"{program}: {stopped}{hint}")
        if isinstance(stopped, TrainingStopped) and command.channel is not None:
            close_process_group()  # all processes agreed to stop
        return SIGNAL_EXIT_CODE + stopped.number


def report_error(program: str, error: Exception, channel: ErrorChannel | None) -> None:
    """
    Print an error to standard error, once if all processes have it.

    Args:
        program: name at the beginning of the line.
        error: the error of this process.
        channel: None as long as processes do not know of each other. What is wrong with arguments and recipes is the
            same for all processes of a machine: the first one there prints it.
    """
    if channel is None:
        if isinstance(error, PlaceError) or _is_first_here():
            _tell(f"{program}: {error}")
        return
    state, messages = PartialState(), channel.exchange(str(error))
    if messages is None:
        _tell(f"{program}: process {state.process_index} alone: {error}")
    elif state.is_main_process:
        for message in dict.fromkeys(messages):
            _tell(f"{program}: {message}")


@contextmanager
def log_levels_kept() -> Iterator[None]:
    """Restore the levels of all loggers at the end of the block."""
    loggers = [logging.getLogger(name) for name in ("", "mmet", "mmet.data", *logging.root.manager.loggerDict)]
    levels = [(logger, logger.level) for logger in loggers]
    try:
        yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)


def show_results(text: str, saved: str) -> None:
    """
    Print results and where they are saved. If standard output fails, say on standard error where they are.

    Args:
        text: text for standard output.
        saved: sentence that names the folder or file.

    Raises:
        OSError: standard output cannot be written; the message is `saved` and the reason. A reader that left
            (`| head`) is no error.
    """
    try:
        print(f"{text}\n{saved}" if text else saved, flush=True)
    except BrokenPipeError:
        _reader_left()
        _tell(saved)
    except OSError as error:
        _discard_output()
        raise OSError(f"{saved}, but it cannot be printed ({error.strerror or error})") from error


def escape_what_cannot_be_encoded() -> None:
    """Have standard output and standard error write `\\u2192` for an arrow that their encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _flush_output() -> None:
    """Raise errors that the interpreter would otherwise print at its end."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        raise OSError(f"standard output cannot be written ({error.strerror or error})") from error


def _reader_left() -> bool:
    """Whether standard output is a pipe without a reader; if so, discard what is left to write."""
    try:
        watch = select.poll()
        watch.register(sys.stdout.fileno(), 0)  # errors alone
        left = bool(watch.poll(0))
    except (OSError, ValueError, AttributeError):
        return False
    if left:
        _discard_output()
    return left


def _discard_output() -> None:
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _tell(message: str) -> None:
    with suppress(OSError, ValueError):  # there is nobody left to tell
        print(message, file=sys.stderr, flush=True)


def _is_first_here() -> bool:
    """Whether this is the first process of its machine, as accelerate finds its place before it has one."""
    try:
        return bool(get_int_from_env(["LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK"], 0) == 0)
    except ValueError:  # `check_place` says what is wrong with it
        return True
