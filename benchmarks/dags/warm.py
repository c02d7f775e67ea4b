"""Warms Airflow up before the measurements: the first run is slow, and so is each worker's first task."""

from __future__ import annotations

import time

from airflow.sdk import DAG, task


@task
def wait(seconds: float) -> None:
    """Occupy a worker."""
    time.sleep(seconds)


with DAG("warm", schedule=None):
    # More tasks than run concurrently, each long enough for all workers to get one.
    wait.expand(seconds=[1.0] * 32)
