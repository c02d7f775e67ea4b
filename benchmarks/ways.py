"""What the DAGs that :mod:`benchmarks.through_airflow` compares have in common; each is a file of its own in ``dags``.

A task imports the whole file of its DAG, so that no way pays for the imports of another.

All comes from the environment: ``BENCH_PROMPT`` (which tells the server how to answer), ``BENCH_PICTURES`` (a quarter
of them is made by deferred mapped tasks, which take longest), and ``BENCH_MADE``, the directory below which each DAG
has its own. The ways without the provider do the least that leaves a picture there.
"""

from __future__ import annotations

import base64
import os
import uuid
from datetime import timedelta
from pathlib import Path

_PROMPT = os.environ["BENCH_PROMPT"]
PROMPTS = [f"{_PROMPT}, row {number}" for number in range(int(os.environ["BENCH_PICTURES"]))]
#: Prompts of mapped tasks that defer.
FEWER_PROMPTS = PROMPTS[: len(PROMPTS) // 4]
# A failure of Airflow's own, which happens on a loaded machine, must not end the whole measurement.
DEFAULTS = {"retries": 1, "retry_delay": timedelta(seconds=1)}


def save(way: str, b64_json: str) -> str:
    """Write a picture into the DAG's directory, and return its path."""
    path = Path(os.environ["BENCH_MADE"], way, f"{uuid.uuid4()}.png")
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(base64.b64decode(b64_json))
    return str(path)
