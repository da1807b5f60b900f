"""Seconds and memory of the process that asks, on Linux."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of CPU, over all threads."""
    start = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def memory(field: str) -> int:
    """Bytes of resident memory: `VmRSS` now, `VmHWM` at its peak."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field))


def start_peak() -> None:
    """Let `VmHWM` start anew from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
