"""Work that several processes share: computed once and sent to all, or failing on all where it fails on one.

A process that raises alone leaves the others waiting in an exchange that it never joins. What can fail on one process
only therefore goes through these functions; with one process they are plain calls.

    tokenizer = compute_once(lambda: train_wordpiece_tokenizer(captions, vocab_size=2000))
    sources = compute_on_all(lambda: load_reid_dataset("market1501", folder))
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

Result = TypeVar("Result")


def compute_once(function: Callable[[], Result]) -> Result:
    """
    `function()` of the main process, on every process; the others do not call it.

    For results that must be the same everywhere, or that one process can compute for all. They are pickled.

    Raises:
        Exception: what `function` raised, on every process.
    """
    if PartialState().num_processes == 1:
        return function()
    outcome: list[Any] = [None, None]
    if PartialState().is_main_process:
        outcome = list(_attempt(function))
    own_error = outcome[1]
    result, error = broadcast_object_list([outcome[0], _sendable(own_error)])
    if error is not None:
        raise own_error or error
    return result


def compute_on_all(function: Callable[[], Result]) -> Result:
    """
    `function()` of each process, once it has succeeded on all of them.

    Raises:
        Exception: what `function` raised on this process, else what it raised on the first one where it failed.
    """
    if PartialState().num_processes == 1:
        return function()
    result, own_error = _attempt(function)
    errors = [error for error in gather_object([_sendable(own_error)]) if error is not None]
    if errors:
        raise own_error or errors[0]
    return result  # type: ignore[return-value]


class ErrorChannel:
    """
    Tells the processes each other's last message. It is a group of its own, so that a process that fails alone is not
    caught up in an exchange that the others are in, nor they in its. All processes make one at the same place.

    Args:
        seconds: how long a process that fails waits for the others to fail as well.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        several = PartialState().num_processes > 1
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=seconds)) if several else None

    def exchange(self, message: str) -> list[str] | None:
        """The message of every process, by rank; None where not all of them came with one in time."""
        if self._group is None:
            return [message]
        messages: list[Any] = [None] * dist.get_world_size(self._group)
        try:
            dist.all_gather_object(messages, message, group=self._group)
        except RuntimeError:  # what gloo raises when time is over or another process is gone
            return None
        with suppress(RuntimeError):
            dist.barrier(group=self._group)  # nobody leaves while another still reads
        return messages


def close_process_group() -> None:
    """Wait for all processes and take leave of them: one that just exits may break off what others still read."""
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()


def _attempt(function: Callable[[], Result]) -> tuple[Result | None, Exception | None]:
    """The result, or what was raised instead of it."""
    try:
        return function(), None
    except Exception as error:
        return None, error


def _sendable(error: Exception | None) -> Exception | None:
    """The error, or one with its message where it cannot travel between processes."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # pickling runs the error's own code, which may raise anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
