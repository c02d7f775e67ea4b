"""Makes jobs, and counts what the server saw."""

from __future__ import annotations

import time
from typing import Any

from deepshi_provider.jobs.job import Job
from deepshi_provider.journal.entries import Owner
from tests.support.places import Place

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
