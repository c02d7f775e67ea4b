"""What a batch costs with the number of its rows. One process per batch: ``python -m benchmarks.growth ROWS``.

The server answers at once, so all the time that passes is the provider's own. Prints one JSON object: the first run,
and ``rerun_…``, in which every row finds its picture.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.meter import metered
from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.hooks.batch_jobs import run_batch_job as run_batch
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.journal.entries import Owner


async def _batch(rows: int, to: Path, run_id: str) -> int:
    job = BatchJob(
        rows=rows,
        stream=True,
        generation_timeout=600,
        max_concurrency=8,
        owner=Owner(dag_id="bench", run_id=run_id, task_id="batch"),
        output_uri=to.as_uri(),
        deepshi_conn_id="deepshi_default",
        preflight="off",
    )
    with RowTable() as table:
        prompts = ((f"row-{number}", f"4096 bytes, row {number}") for number in range(rows))
        table.fill((key, {"model": "bench", "prompt": prompt, "stream": True}) for key, prompt in prompts)
        summary = await run_batch(job, table)
    if summary.status != "success":
        raise RuntimeError(summary.model_dump_json())
    return summary.created


async def _measure(rows: int, to: Path) -> dict[str, Any]:
    await _batch(1, to / "warm", "warm")
    async with metered() as first:
        created = await _batch(rows, to / "rows", "first")
    async with metered() as again:
        created_again = await _batch(rows, to / "rows", "again")
    if (created, created_again) != (rows, 0):
        raise RuntimeError(f"{created} and {created_again} of {rows} pictures were bought")
    return {"rows": rows, **first, **{f"rerun_{name}": figure for name, figure in again.items()}}


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="deepshi-bench-") as directory:
        print(json.dumps(asyncio.run(_measure(int(sys.argv[1]), Path(directory)))))
