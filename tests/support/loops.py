"""Measures the processor time of an event loop's callbacks, which does not depend on the machine's other load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest


@dataclass
class Callbacks:
    """Processor time of callbacks, in seconds.

    :param longest: longest time of one callback, during which the loop is blocked.
    :param total: total time of all callbacks.
    """

    longest: float = 0.0
    total: float = 0.0


@contextmanager
def measured_callbacks() -> Iterator[Callbacks]:
    """Measure each callback of the event loops that run in the ``with`` block, in this thread."""
    found = Callbacks()
    run = asyncio.Handle._run  # noqa: SLF001 -- the only place where asyncio calls callbacks

    def measured(handle: asyncio.Handle) -> None:
        begun = time.thread_time()
        run(handle)
        took = time.thread_time() - begun
        found.longest = max(found.longest, took)
        found.total += took

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.Handle, "_run", measured)
        yield found
