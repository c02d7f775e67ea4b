"""Makes Airflow ready before anything is measured: the first run is slow, and so is each worker's first task."""

from __future__ import annotations

import time

from airflow.sdk import DAG, task


@task
def wait(seconds: float) -> None:
    """Hold a worker."""
    time.sleep(seconds)


with DAG("warm", schedule=None):
    # More tasks than run at once, each long enough that all workers get one.
    wait.expand(seconds=[1.0] * 32)
