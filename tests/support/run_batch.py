"""Runs a batch in a separate process: reads its job, rows and times as JSON, and writes the outcome's."""

from __future__ import annotations

import asyncio
import json
import sys

from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.hooks.batch_jobs import run_batch_job
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.journal.lease import Times


def main() -> None:
    given = json.load(sys.stdin)
    with RowTable() as table:
        table.fill((name, fields) for name, fields in given["rows"])
        running = run_batch_job(BatchJob.model_validate(given["job"]), table, times=Times(**given["times"]))
        outcome = asyncio.run(running)
    sys.stdout.write(f"\n{outcome.model_dump_json()}\n")
