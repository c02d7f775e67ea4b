"""Makes Airflow ready before anything is measured: the first run is slow, and so is each worker's first task."""

from __future__ import annotations

import time

from airflow.sdk import DAG, task

from benchmarks.ways import DEFAULTS


@task
def wait(seconds: float) -> float:
    """Hold a worker."""
    time.sleep(seconds)
    return seconds


with DAG("warm", schedule=None, default_args=DEFAULTS):
    # Then more tasks than run at once, each long enough that all workers get one.
    wait.override(task_id="first")(0.0) >> wait.expand(seconds=[1.0] * 32)
