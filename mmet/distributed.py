"""Shared work of several processes: computed once and sent to all; an error on one is raised on all.

If one process raises alone, the others wait forever in an exchange that it never joins. So work that can fail on a
single process goes through these functions; with one process they are plain calls.

    tokenizer = compute_once(lambda: train_wordpiece_tokenizer(captions, vocab_size=2000))
    sources = compute_on_all(lambda: load_reid_dataset("market1501", folder))

Before that, processes have to find each other: `check_place` reads what a launcher says in the environment, and
`wait_for_processes` says what it waits for. `join_processes` does both, for a run that has no Trainer or Accelerator.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

NOTICE_SECONDS = 30.0
"""Seconds after which a waiting process says so."""

LIMIT_SECONDS = 600.0
"""Seconds after which a waiting process gives up."""

_SIZES = {"WORLD_SIZE": "RANK", "LOCAL_WORLD_SIZE": "LOCAL_RANK"}
_RANK_NAMES = ("MPI_LOCALRANKID", "PMI_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")


class PlaceError(ValueError):
    """The environment describes no valid place of a process; the message names the variable."""


def check_place() -> None:
    """
    Check the numbers by which a launcher tells a process its place.

    Raises:
        PlaceError: a variable is no number, or a rank does not fit its size.
    """
    names = (*_SIZES, *_SIZES.values(), *_RANK_NAMES, "OMPI_COMM_WORLD_LOCAL_RANK", "MASTER_PORT")
    numbers = {name: _whole_number(name) for name in names if os.environ.get(name)}
    for size, rank in _SIZES.items():
        if numbers.get(size, 1) < 1:
            raise _bad_place(size, "a number of processes from 1 up")
        if size in numbers and numbers.get(rank, 0) >= numbers[size]:
            raise _bad_place(rank, f"less than {size}={numbers[size]}")
    if not 0 < numbers.get("MASTER_PORT", 1) < 2**16:
        raise _bad_place("MASTER_PORT", "a port from 1 to 65535")


def wait_for_processes(
    cpu: bool = False, *, notice_seconds: float = NOTICE_SECONDS, limit_seconds: float = LIMIT_SECONDS
) -> None:
    """
    Wait for all processes that a launcher announces; after a while, say which are missing.

    Returns at once for one process, an existing group, or a launcher without an address. Afterwards, the group is
    created at the same address without waiting.

    Args:
        cpu: whether the processes were told to use the CPU.
        notice_seconds: when to say that something is missing.
        limit_seconds: when to give up.

    Raises:
        PlaceError: as `check_place` does.
        TimeoutError: some processes did not come; the message names address, port, rank and how many.
    """
    check_place()
    world_size, rank = int(os.environ.get("WORLD_SIZE") or 1), int(os.environ.get("RANK") or 0)
    address, port = os.environ.get("MASTER_ADDR"), int(os.environ.get("MASTER_PORT") or 29_500)
    expected = cpu or (int(os.environ.get("LOCAL_RANK") or -1) >= 0 and torch.cuda.is_available())
    if world_size <= 1 or not address or not expected or dist.is_initialized():
        return
    begin = time.monotonic()
    store: Store | None = None
    noticed = False
    while True:
        if store is None:
            store = _connect(address, port, rank, world_size)
        missing = _missing(store, world_size)
        if not missing:
            return
        waited = time.monotonic() - begin
        ranks = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
        lacking = f"{len(missing)} of {world_size} missing (rank {ranks})" if store else "rank 0 does not answer"
        state = f"rank {rank} waits for the other processes at {address}, port {port}: {lacking}"
        if waited >= limit_seconds:
            raise TimeoutError(
                f"{state} after {waited:.0f} s. Start all processes by one launcher (accelerate launch, torchrun), or "
                "unset WORLD_SIZE to run one process"
            )
        if waited >= notice_seconds and not noticed:
            noticed = True
            logger.warning("%s; giving up after %.0f s", state, limit_seconds)
        time.sleep(0.05 if waited < 1 else 0.5)


def join_processes() -> None:
    """
    Form a group with the processes that a launcher announces, if there are others and none was formed yet.

    Raises:
        PlaceError: as `check_place` does; or the others cannot be joined from here.
        TimeoutError: as `wait_for_processes` does.
    """
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    wait_for_processes(cpu)
    state, announced = PartialState(cpu=cpu), int(os.environ.get("WORLD_SIZE") or 1)
    if state.num_processes != announced:
        raise PlaceError(
            f"the environment variable WORLD_SIZE announces {announced} processes, and this one finds "
            f"{state.num_processes}: set ACCELERATE_USE_CPU=true where there is no GPU, or unset WORLD_SIZE to run one"
        )


def _missing(store: Store | None, world_size: int) -> list[int]:
    """Return the ranks that have not registered."""
    try:
        return [rank for rank in range(world_size) if store is None or not store.check([f"mmet/here/{rank}"])]
    except RuntimeError as error:
        raise OSError(f"the process of rank 0 ended while others were waited for ({error})") from error


def _connect(address: str, port: int, rank: int, world_size: int) -> Store | None:
    """Register this process in the store at which processes meet; None if nobody answers there yet."""
    hosts = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        if not hosts:  # a store's client says at length that nobody answers
            socket.create_connection((address, port), timeout=2).close()
        store = TCPStore(
            address,
            port,
            world_size,
            is_master=hosts,
            timeout=timedelta(seconds=5),
            wait_for_workers=False,
            multi_tenant=True,  # the group that is made next uses the same server
        )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        meeting = PrefixStore(f"attempt_{attempt}", store)
        meeting.set(f"mmet/here/{rank}", "yes")
    except (OSError, RuntimeError, ValueError) as error:  # torch's own are RuntimeErrors
        if hosts:
            raise OSError(
                f"rank 0 cannot listen at {address}, port {port} (MASTER_ADDR, MASTER_PORT): {error}"
            ) from error
        return None
    _stores.append(store)
    return meeting


_stores: list[TCPStore] = []
"""The server lives as long as its first store: others may still read while this process goes on."""


def _whole_number(name: str) -> int:
    try:
        number = int(os.environ[name])
    except ValueError:
        raise _bad_place(name, "a whole number") from None
    if number < -1:  # -1 is what several launchers write for none
        raise _bad_place(name, "a whole number from 0 up")
    return number


def _bad_place(name: str, expected: str) -> PlaceError:
    return PlaceError(
        f"the environment variable {name}: expected {expected}, received {os.environ.get(name, '')!r}; launchers "
        "(accelerate launch, torchrun) set it, unset it to run one process"
    )


def compute_once(function: Callable[[], Result]) -> Result:
    """
    Call `function` on the main process only, and return its result on every process.

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
    return cast(Result, result)


def compute_on_all(function: Callable[[], Result]) -> Result:
    """
    Call `function` on every process; return its result once all have succeeded.

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
    Exchanges error messages between processes in a separate group, so that a process that fails alone does not
    interfere with exchanges of the others. All processes create it at the same place.

    Args:
        seconds: how long a process that fails waits for the others to fail as well.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        several = PartialState().num_processes > 1
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=seconds)) if several else None

    def exchange(self, message: str) -> list[str] | None:
        """Return the message of every process, by rank; None if some did not send one in time."""
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
    """Destroy the process group after all processes are done: one that exits early may interrupt the others."""
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()


def _attempt(function: Callable[[], Result]) -> tuple[Result | None, Exception | None]:
    """The result, or what was raised instead of it."""
    try:
        return function(), None
    except Exception as error:
        return None, error


def _sendable(error: Exception | None) -> Exception | None:
    """The error, or one with the same message if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # pickling runs the error's own code, which may raise anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
