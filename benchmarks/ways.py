"""What the DAGs that :mod:`benchmarks.through_airflow` compares have in common; each is a file of its own in ``dags``.

A task imports the whole file of its DAG, so that no way pays for the imports of another.

All comes from the environment: ``BENCH_PROMPT`` (which tells the server how to answer), ``BENCH_PICTURES``, and
``BENCH_MADE``, the directory below which each DAG has its own. The ways without the provider do the least that leaves
a picture there.
"""

from __future__ import annotations

import base64
import os
import uuid
from datetime import timedelta
from pathlib import Path

#: Of all pictures, a way makes one part; the slow ones make fewer.
PARTS = {
    "batch_8": 4,
    "batch_64": 1,
    "batch_200": 1,
    "mapped_blocking": 2,
    "mapped_deferred": 8,
    "sdk": 4,
    "http_blocking": 2,
    # It fills the database, so it comes last: what it leaves free, others would use.
    "http_deferred": 8,
}


def count(way: str, pictures: int) -> int:
    """Return how many of the pictures a way makes."""
    return max(1, pictures // PARTS[way])


def prompts(way: str) -> list[str]:
    """Return the prompts of a way."""
    number = count(way, int(os.environ["BENCH_PICTURES"]))
    return [f"{os.environ['BENCH_PROMPT']}, row {row}" for row in range(number)]


# A failure of Airflow's own, which happens on a loaded machine, must not end the whole measurement.
DEFAULTS = {"retries": 1, "retry_delay": timedelta(seconds=1)}


def save(way: str, b64_json: str) -> str:
    """Write a picture into the DAG's directory, and return its path."""
    path = Path(os.environ["BENCH_MADE"], way, f"{uuid.uuid4()}.png")
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(base64.b64decode(b64_json))
    return str(path)
