"""Finishes work after payment, whatever cancels it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class _Unstoppable(asyncio.Task[Result]):
    """A task that cannot be cancelled: a stopping triggerer cancels all tasks of its loop, then waits for them."""

    def cancel(self, msg: object = None) -> bool:
        """Do nothing."""
        return False


async def uninterrupted(work: Coroutine[Any, Any, Result]) -> Result:
    """Await work after payment. If cancelled, finish the work first, then raise ``CancelledError``."""
    task = _Unstoppable(work, loop=asyncio.get_running_loop())
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as err:
            cancelled = err
    if cancelled:
        if error := task.exception():
            log.error("%s: %s", type(error).__name__, error)
        raise cancelled
    return task.result()
