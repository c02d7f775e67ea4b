"""Makes jobs."""

from __future__ import annotations

import time
from typing import Any

from deepshi_provider.jobs.job import BatchJob, Job
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
    """Return the job of a small generation.

    :param owner: fields that differ from the first try of the task ``boat``.
    :param fields: request fields, added to those of :data:`BOAT` or replacing them.
    :param seconds: seconds until its deadline.
    """
    who = {"dag_id": "shop", "run_id": "monday", "task_id": "boat", **(owner or {})}
    usual: dict[str, Any] = {
        "operation": "generate",
        "fields": {**BOAT, "stream": True, **(fields or {})},
        "owner": Owner(**who),
        "output_uri": place.uri,
        "output_conn_id": place.conn_id,
        "deepshi_conn_id": "deepshi_default",
        "preflight": "off",
        "deadline": time.time() + seconds,
    }
    return Job(**{**usual, **more})


def make_batch(place: Place, rows: int, *, owner: dict[str, Any] | None = None, **more: Any) -> BatchJob:
    """Return the job of a batch.

    :param owner: fields that differ from the first try of the task ``boats``.
    """
    usual: dict[str, Any] = {
        "owner": Owner(**{"dag_id": "shop", "run_id": "monday", "task_id": "boats", **(owner or {})}),
        "output_uri": place.uri,
        "output_conn_id": place.conn_id,
        "deepshi_conn_id": "deepshi_default",
        "preflight": "off",
        "rows": rows,
        "generation_timeout": 60,
        "max_concurrency": 4,
    }
    return BatchJob(**{**usual, **more})
