"""Shared code of the DAGs that :mod:`benchmarks.through_airflow` compares; each is a separate file in ``dags``.

A task imports the whole file of its DAG, so separate files keep the imports of the ways apart.

All settings are in the environment: ``BENCH_PROMPT`` (which selects the server's answer), ``BENCH_PICTURES``, and
``BENCH_MADE``, the parent of each DAG's directory. The ways without the provider do the minimum that stores a picture
there.
"""

from __future__ import annotations

import base64
import os
import uuid
from datetime import timedelta
from pathlib import Path

#: Fraction of all pictures that a way makes; slow ones make fewer.
PARTS = {
    "batch_8": 4,
    "batch_64": 1,
    "batch_200": 1,
    "mapped_blocking": 2,
    "mapped_deferred": 8,
    "sdk": 4,
    "http_blocking": 2,
    # It fills the database, so it comes last: others would use the space that it frees.
    "http_deferred": 8,
}


def count(way: str, pictures: int) -> int:
    """Return the number of pictures for a way."""
    return max(1, pictures // PARTS[way])


def prompts(way: str) -> list[str]:
    """Return the prompts of a way."""
    number = count(way, int(os.environ["BENCH_PICTURES"]))
    return [f"{os.environ['BENCH_PROMPT']}, row {row}" for row in range(number)]


# A failure of Airflow on a loaded machine must not end the whole measurement.
DEFAULTS = {"retries": 1, "retry_delay": timedelta(seconds=1)}


def save(way: str, b64_json: str) -> str:
    """Write a picture into the DAG's directory, and return its path."""
    path = Path(os.environ["BENCH_MADE"], way, f"{uuid.uuid4()}.png")
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(base64.b64decode(b64_json))
    return str(path)
