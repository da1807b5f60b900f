"""Runs a function in several processes that form a gloo group, for tests of what processes do together.

Made for busy machines: the imports, which can take minutes there, are over before anything waits for anything; the
processes meet in a file, not at a port that another may take; and none leaves before all are done.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from accelerate import PartialState

# Processes are forked from a server that has imported the slow modules once and has done nothing else.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["modeling_mmet", "mmet.training.pretraining", "run_pretrain", "mmet.gallery"])


def run_processes(
    function: Callable[..., Any], folder: Path, *arguments: Any, num_processes: int = 2, timeout: float = 300
) -> list[Any]:
    """
    `function(rank, *arguments)` in each of `num_processes` processes of one group; what each returned, by rank.

    Args:
        function: of the top level of a module, for it is sent by its name.
        folder: where the processes meet and leave their results.
        arguments: picklable.
        timeout: seconds after which the processes are killed.

    Raises:
        AssertionError: with the traceback, when a process raised, died or did not end in time.
    """
    meeting = folder / uuid4().hex  # a file store serves one group
    processes = [
        CONTEXT.Process(target=_enter, args=(function, rank, num_processes, meeting, arguments))
        for rank in range(num_processes)
    ]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout)
    finally:
        for process in processes:
            process.kill()
            process.join()
    left = {path.name: path.read_text(encoding="utf-8") for path in folder.glob(f"{meeting.name}.*.error")}
    exit_codes = [process.exitcode for process in processes]
    assert exit_codes == [0] * num_processes, (exit_codes, *left.values())
    return [torch.load(f"{meeting}.{rank}.result", weights_only=False) for rank in range(num_processes)]


def _enter(function: Callable[..., Any], rank: int, num_processes: int, meeting: Path, arguments: tuple) -> None:
    torch.set_num_threads(1)
    # accelerate reads its place from here, and insists on an address although the group meets in a file.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes)}
    os.environ |= {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}  # no look-up of the machine's name
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{meeting}",
            rank=rank,
            world_size=num_processes,
            timeout=timedelta(seconds=200),
        )
        PartialState(cpu=True)  # accelerate takes this group over
        torch.save(function(rank, *arguments), f"{meeting}.{rank}.result")
        # A process that just exits resets its connections, and the others may lose what they have not read yet.
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()
    except BaseException:
        Path(f"{meeting}.{rank}.error").write_text(traceback.format_exc(), encoding="utf-8")
        raise
