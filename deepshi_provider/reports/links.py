"""URLs of Airflow's own pages."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import quote


class Run(Protocol):
    """An object that identifies a DAG run."""

    dag_id: str
    run_id: str


def dag(airflow_url: str, run: Run) -> str:
    """Return the URL of a run's DAG."""
    return f"{airflow_url.rstrip('/')}/dags/{quote(run.dag_id, safe='')}"


def run(airflow_url: str, run: Run) -> str:
    """Return the URL of a run."""
    return f"{dag(airflow_url, run)}/runs/{quote(run.run_id, safe='')}"


def task(airflow_url: str, run_: Run, task_id: str, map_index: int = -1) -> str:
    """Return the URL of a task instance, which shows its log."""
    mapped = f"/mapped/{map_index}" if map_index >= 0 else ""
    return f"{run(airflow_url, run_)}/tasks/{quote(task_id, safe='')}{mapped}"
