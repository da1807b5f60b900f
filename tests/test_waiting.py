"""Processes that look for each other: places that are none, peers that do not come, and peers that come late."""

from __future__ import annotations

import logging
import os
import socket
import time

import pytest
import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.state import AcceleratorState

from mmet.command_line import run_command
from mmet.distributed import check_place, wait_for_processes

PLACE = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_USE_AGENT_STORE",
)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in PLACE:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"LOCAL_RANK": "abc"}, "LOCAL_RANK: expected a whole number, received 'abc'"),
        ({"RANK": "5", "WORLD_SIZE": "2"}, "RANK: expected less than WORLD_SIZE=2, received '5'"),
        ({"LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"}, "LOCAL_RANK: expected less than LOCAL_WORLD_SIZE=2"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE: expected a number of processes from 1 up, received '0'"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: expected a whole number, received 'two'"),
        ({"WORLD_SIZE": "1.5"}, "WORLD_SIZE: expected a whole number"),
        ({"RANK": "-7"}, "RANK: expected a whole number from 0 up"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT: expected a whole number"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT: expected a port from 1 to 65535"),
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "x"}, "OMPI_COMM_WORLD_LOCAL_RANK: expected a whole number"),
    ],
)
def test_check_place__what_is_no_place_is_one_message(monkeypatch, capsys, place, message):
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        check_place()
    assert run_command("x.py", lambda command: pytest.fail("work began")) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("x.py: error: the environment variable")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    "place", [{}, {"LOCAL_RANK": "-1", "RANK": "-1"}, {"RANK": "1", "WORLD_SIZE": "2"}, {"RANK": ""}]
)
def test_check_place__what_launchers_write_passes(monkeypatch, place):
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    check_place()
    assert run_command("x.py", lambda command: 7) == 7


@pytest.mark.parametrize(("rank", "lacking"), [(0, r"2 of 3 missing \(rank 1, 2\)"), (1, "rank 0 does not answer")])
def test_wait_for_processes__says_whom_it_waits_for_and_gives_up(monkeypatch, caplog, port, rank, lacking):
    for name, value in {"RANK": rank, "WORLD_SIZE": 3, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    expected = rf"rank {rank} waits for the other processes at 127.0.0.1, port {port}: {lacking}"
    start = time.monotonic()
    with caplog.at_level(logging.WARNING), pytest.raises(TimeoutError, match=expected):
        wait_for_processes(cpu=True, notice_seconds=0.2, limit_seconds=1)
    assert time.monotonic() - start < 10
    (notice,) = caplog.messages
    assert notice.endswith("giving up after 1 s")


def test_wait_for_processes__nothing_to_wait_for_returns_at_once(monkeypatch):
    start = time.monotonic()
    wait_for_processes(cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "1")
    wait_for_processes(cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    wait_for_processes(cpu=True)  # no address: torch says so
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    wait_for_processes(cpu=False)  # accelerate makes no group on the CPU without being told
    assert time.monotonic() - start < 5
    assert not torch.distributed.is_initialized()


def meet(rank: int, port: int, delay: float) -> int:
    """Come after `delay`, form a group at the same address, and add up the ranks."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"ACCELERATE_USE_CPU": "true"}
    AcceleratorState._reset_state(reset_partial_state=True)  # another test of this process may have left one
    time.sleep(delay)
    wait_for_processes(cpu=True, limit_seconds=60)
    PartialState(cpu=True)
    total = torch.tensor([rank + 1])
    dist.all_reduce(total)
    dist.barrier()
    return int(total)


@pytest.mark.parametrize("delays", [(0.0, 0.7), (0.7, 0.0)])
def test_wait_for_processes__late_ones_are_waited_for_and_the_group_is_made(port, delays):
    children = []
    for rank, delay in enumerate(delays):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = meet(rank, port, delay)
            finally:  # a child must never go on as a second pytest
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [3, 3]
