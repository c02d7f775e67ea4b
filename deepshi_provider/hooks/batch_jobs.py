"""Runs batches with Airflow's connections; :mod:`deepshi_provider.hooks.jobs` does this for single requests."""

from __future__ import annotations

from collections.abc import Callable

from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.batch.run import run_batch
from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.directories import STORES
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.jobs.outcome import BatchOutcome
from deepshi_provider.journal.lease import TIMES, Times
from deepshi_provider.store.store import PATIENCE


async def run_batch_job(
    job: BatchJob,
    rows: RowTable | None = None,
    *,
    hook: DeepshiHook | None = None,
    interrupted: Callable[[CostSheet], None] | None = None,
    patience: float = PATIENCE,
    times: Times = TIMES,
) -> BatchOutcome:
    """Run a batch; see :func:`deepshi_provider.batch.run.run_batch`.

    :param hook: the hook of the job's connection, if already looked up.
    :raises InvalidConnection: the connection is invalid; nothing was sent.
    """
    client = await (hook or DeepshiHook(job.deepshi_conn_id)).aclient()
    return await run_batch(job, client, STORES, rows, interrupted=interrupted, patience=patience, times=times)
