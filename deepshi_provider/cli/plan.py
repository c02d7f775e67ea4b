"""The cost of a file of requests, and recent prices of each price class; nothing is bought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from deepshi_provider.batch.columns import Columns
from deepshi_provider.batch.requests_file import read_requests
from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.costs.money import usd
from deepshi_provider.hooks.batch_jobs import run_batch_job
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.directories import STORES
from deepshi_provider.hooks.jobs import prices_of
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.jobs.plan import Plan
from deepshi_provider.journal.entries import Owner
from deepshi_provider.journal.prices import Price

#: Takes the place of a task; no DAG has an empty id.
_NOBODY = Owner(dag_id="", run_id="", task_id="plan")


async def plan_file(
    hook: DeepshiHook,
    file: str,
    conn_id: str | None,
    defaults: Mapping[str, Any],
    columns: Columns,
    place: tuple[str, str | None],
    max_cost_usd: Decimal | None,
) -> Plan:
    """Return what a batch with the rows of a file would buy.

    :param file: local path or URI of a JSONL, CSV or Parquet file.
    :param conn_id: Airflow connection of the file's store.
    :param defaults: default values of fields.
    :param columns: the meaning of other columns.
    :param place: URI of the batch's output directory and its connection id.
    :raises DeepshiError: a row is invalid, or the file or the directory cannot be read.
    """
    store = STORES.at(*place)
    with RowTable() as rows:
        await read_requests(file, conn_id, rows, defaults, None, STORES, columns)
        job = BatchJob(
            owner=_NOBODY,
            output_uri=store.uri,
            output_conn_id=store.conn_id,
            deepshi_conn_id=hook.deepshi_conn_id,
            rows=len(rows),
            generation_timeout=0,
            max_concurrency=1,
            max_cost_usd=max_cost_usd,
            plan_only=True,
            **await _memory_of(hook),
        )
        return (await run_batch_job(job, rows, hook=hook)).made_plan()


async def known_prices(hook: DeepshiHook) -> list[Price]:
    """Return the recent prices of each price class on a connection.

    :raises DeepshiError: the prices cannot be read.
    """
    return await prices_of(await hook.asettings()).remembered()


def as_table(prices: Sequence[Price]) -> str:
    """Return one line per price class: its price or price range, and the day on which the highest price was paid."""
    lines = []
    for price in prices:
        low, high = map(usd, price.range)
        day = datetime.fromtimestamp(price.seen_at, timezone.utc).date().isoformat()
        lines.append(f"{low if low == high else f'{low} to {high}'}  {day}  {price.price_class}")
    return "\n".join([*lines, f"{len(prices)} price class{'es' * (len(prices) != 1)}, by recent payments"])


async def _memory_of(hook: DeepshiHook) -> dict[str, Any]:
    """Return the job fields for the directory of the connection's remembered prices."""
    settings = await hook.asettings()
    return {"runs_uri": settings.output_uri, "runs_conn_id": settings.output_conn_id}
