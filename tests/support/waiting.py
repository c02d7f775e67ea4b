"""Waits for a condition in another process or thread, with a deadline that only a fault can reach."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

#: Seconds.
DEADLINE = 120.0
_LONGEST_PAUSE = 0.5


def wait_for(what: str, timeout: float, probe: Callable[[], T | None], every: float = 0.1) -> T:
    """Call ``probe`` until it returns a true value, and return that.

    The pauses grow with the time waited, by a tenth of it: a call of Airflow's API takes its server up to 30 ms, which
    at ten calls a second is a large part of what tests in a real Airflow take from the machine.

    :param what: Ends the message "… s passed without <what>".
    :param timeout: Seconds after which :class:`TimeoutError` is raised.
    :param every: Seconds between the first calls.
    """
    begun = time.monotonic()
    while True:
        if found := probe():
            return found
        waited = time.monotonic() - begun
        if waited > timeout:
            raise TimeoutError(f"{timeout:g} s passed without {what}")
        time.sleep(max(every, min(waited / 10, _LONGEST_PAUSE)))


def wait_until(happened: Callable[[], object], timeout: float = DEADLINE) -> None:
    """Wait until a condition is true, such as one in the emulator's process."""
    wait_for("what should happen", timeout, happened, every=0.01)


async def until(what: str, probe: Callable[[], Any], timeout: float = DEADLINE) -> None:
    """Wait for a condition in another process, without blocking the event loop."""
    await asyncio.to_thread(wait_for, what, timeout, probe, 0.02)
