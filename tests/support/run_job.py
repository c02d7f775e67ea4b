"""Runs a job in a separate process: reads the job's JSON, and writes the manifest's."""

from __future__ import annotations

import asyncio
import sys

from deepshi_provider.hooks.jobs import run_job as run
from deepshi_provider.jobs.job import Job


def main() -> None:
    manifest = asyncio.run(run(Job.model_validate_json(sys.stdin.read())))
    sys.stdout.write(f"\n{manifest.model_dump_json()}\n")
