"""Batches with what Airflow hands in; :mod:`deepshi_provider.hooks.jobs` has it for single requests."""

from __future__ import annotations

from collections.abc import Callable

from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.batch.run import run_batch
from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.directories import STORES
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.jobs.outcome import BatchOutcome
from deepshi_provider.store.store import PATIENCE


async def run_batch_job(
    job: BatchJob,
    rows: RowTable | None = None,
    *,
    hook: DeepshiHook | None = None,
    interrupted: Callable[[CostSheet], None] | None = None,
    patience: float = PATIENCE,
) -> BatchOutcome:
    """Carry out a batch; see :func:`deepshi_provider.batch.run.run_batch`.

    :param hook: of the job's connection, if it was looked up before.
    :raises InvalidConnection: the connection cannot be used; nothing was sent.
    """
    client = await (hook or DeepshiHook(job.deepshi_conn_id)).aclient()
    return await run_batch(job, client, STORES, rows, interrupted=interrupted, patience=patience)
