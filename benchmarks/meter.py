"""The cost of a block to its process: memory, processor time, and delays of the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import time
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

#: Seconds between two samples of the event loop's delay.
_TICK = 0.005


@contextlib.asynccontextmanager
async def metered() -> AsyncIterator[dict[str, Any]]:
    """Measure the block; afterwards the dictionary contains the figures.

    ``wall_s`` and ``cpu_s`` (all threads, system calls included), ``memory_mb`` (peak over what was resident before, MB
    of 10**6 bytes), ``delay_p99_ms`` and ``delay_max_ms`` of the event loop.
    """
    figures: dict[str, Any] = {}
    gc.collect()
    before = _kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # noqa: ASYNC240 -- resets the peak (proc(5))
    delays = array("d")  # a list would affect the measured memory
    watch = asyncio.create_task(_watch(delays))
    await asyncio.sleep(0)
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield figures
    finally:
        figures["wall_s"], figures["cpu_s"] = time.perf_counter() - wall, time.process_time() - cpu
        figures["memory_mb"] = (_kilobytes("VmHWM") - before) * 1024 / 1e6
        await asyncio.sleep(_TICK)
        watch.cancel()
        in_order = sorted(delays)
        figures["delay_p99_ms"] = 1000 * in_order[int(0.99 * (len(in_order) - 1))]
        figures["delay_max_ms"] = 1000 * in_order[-1]


async def _watch(delays: array[float]) -> None:
    """Collect the delays with which the loop wakes this coroutine up.

    A long delay counts once for each sample that it covers: otherwise a loop that is always blocked would have a single
    sample.
    """
    while True:
        due = time.perf_counter() + _TICK
        await asyncio.sleep(_TICK)
        late = max(0.0, time.perf_counter() - due)
        delays.append(late)
        while late > _TICK:
            late -= _TICK
            delays.append(late)


def _kilobytes(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if not found:
        raise RuntimeError(f"/proc/self/status has no {name}; this needs Linux")
    return int(found[1])
