"""Time and memory of a batch by its number of rows. One process per batch: ``python -m benchmarks.growth ROWS``.

The server answers at once, so all the time that passes is the provider's own. Prints one JSON object: the first run,
and ``rerun_…``, in which every row finds its picture.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.meter import metered
from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.hooks.batch_jobs import run_batch_job as run_batch
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.journal.entries import Owner


async def buy(
    prompts: Sequence[str], to: str, run_id: str, *, conn_id: str | None = None, max_concurrency: int = 8
) -> int:
    """Buy a picture for each prompt in one batch; return the number of new ones.

    :param conn_id: Airflow connection of the store that ``to`` is in.
    """
    job = BatchJob(
        rows=len(prompts),
        stream=True,
        generation_timeout=600,
        max_concurrency=max_concurrency,
        owner=Owner(dag_id="bench", run_id=run_id, task_id="batch"),
        output_uri=to,
        output_conn_id=conn_id,
        deepshi_conn_id="deepshi_default",
        preflight="off",
    )
    with RowTable() as table:
        named = ((f"row-{number}", prompt) for number, prompt in enumerate(prompts))
        table.fill((key, {"model": "bench", "prompt": prompt, "stream": True}) for key, prompt in named)
        summary = await run_batch(job, table)
    if summary.status != "success":
        raise RuntimeError(summary.model_dump_json())
    return summary.created


async def _measure(rows: int, to: Path) -> dict[str, Any]:
    prompts = [f"4096 bytes, row {number}" for number in range(rows)]
    await buy(prompts[:1], (to / "warm").as_uri(), "warm")
    async with metered() as first:
        created = await buy(prompts, (to / "rows").as_uri(), "first")
    async with metered() as again:
        created_again = await buy(prompts, (to / "rows").as_uri(), "again")
    if (created, created_again) != (rows, 0):
        raise RuntimeError(f"{created} and {created_again} of {rows} pictures were bought")
    return {"rows": rows, **first, **{f"rerun_{name}": figure for name, figure in again.items()}}


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="deepshi-bench-") as directory:
        print(json.dumps(asyncio.run(_measure(int(sys.argv[1]), Path(directory)))))
