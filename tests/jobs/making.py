"""Makes jobs, and counts what the server saw."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from deepshi_provider.jobs.job import Job
from deepshi_provider.journal.entries import Owner
from tests.places import Place

BOAT: dict[str, Any] = {"model": "deepshi-banana-pro", "prompt": "a red boat", "width": 64, "height": 48}


def make_job(
    place: Place,
    *,
    owner: dict[str, Any] | None = None,
    fields: dict[str, Any] | None = None,
    seconds: float = 600,
    **more: Any,
) -> Job:
    """A small generation.

    :param owner: what differs from the first try of the task ``boat``.
    :param fields: request fields beside or in place of those of :data:`BOAT`.
    :param seconds: until its deadline.
    """
    who = {"dag_id": "shop", "run_id": "monday", "task_id": "boat", **(owner or {})}
    said: dict[str, Any] = {
        "operation": "generate",
        "fields": {**BOAT, "stream": True, **(fields or {})},
        "owner": Owner(**who),
        "output_uri": place.uri,
        "output_conn_id": place.conn_id,
        "deepshi_conn_id": "deepshi_default",
        "preflight": "off",
        "deadline": time.time() + seconds,
    }
    return Job(**{**said, **more})


async def until(what: str, probe: Callable[[], Any], timeout: float = 60) -> None:
    """Wait, without blocking the loop, for something that happens in another process."""
    deadline = time.monotonic() + timeout
    while not await asyncio.to_thread(probe):
        assert time.monotonic() < deadline, f"{timeout} s passed without {what}"
        await asyncio.sleep(0.02)
