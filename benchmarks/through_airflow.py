"""Many pictures through a whole Airflow: their rate, and their traces in the metadata database.

``python -m benchmarks.through_airflow DIRECTORY RUNS PICTURES SIZE SECONDS [VARIANT]`` prints one JSON object per run
and way of making them: ``PICTURES`` of ``SIZE`` bytes, each after ``SECONDS``, or fewer by the slow ways. A variant
measures some ways: ``preloaded``, where the scheduler has imported the modules of all of them, or ``postgres``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.ways import PARTS, count
from tests.services.airflow import Airflow
from tests.services.airflow_api import TERMINAL_RUN_STATES
from tests.services.airflow_database import migrate
from tests.services.postgres import Postgres
from tests.support.waiting import wait_for

#: Concurrent tasks in Airflow: the default limit for a DAG.
PARALLELISM = 16
#: Timeout in seconds for one way.
_PATIENCE = 600.0
#: The ways of each variant.
_WAYS = {
    "": tuple(PARTS),
    "preloaded": ("mapped_blocking", "http_blocking"),
    "postgres": ("batch_200", "mapped_blocking", "mapped_deferred", "http_blocking", "http_deferred"),
}
#: Besides what docs/production.md recommends.
_PRELOADED = ("airflow.providers.http.operators.http",)


class _OnPostgres(Airflow):
    def __init__(self, *arguments: Any, env: dict[str, str], postgres: Postgres, **options: Any) -> None:
        addresses = {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{postgres.address}",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"postgresql+asyncpg://{postgres.address}",
        }
        super().__init__(*arguments, env={**env, **addresses}, **options)

    def _create_database(self) -> None:
        migrate(self._env, self._component_logs / "migrate.log", self.start_timeout)


def _measure(airflow: Airflow, way: str, made: Path, pictures: int, size: int) -> dict[str, Any]:
    """Run one DAG to its end.

    ``wall_s`` is the run's duration in Airflow, and ``waited_s`` the time from its request to its start;
    ``rows`` and ``used_bytes`` are what the database holds more than before, and ``file_bytes`` is what its file has
    grown by: what was deleted meanwhile is in the last one only. ``tasks_cpu_s`` is the processor time of the
    scheduler with all its tasks, ``api_cpu_s`` that of the API server.
    """
    airflow.wait_for_dag(way)
    before, cpu_before = _database(airflow.database_path), _cpu_s(airflow)
    run_id = airflow.trigger(way)

    def ended() -> dict[str, Any] | None:
        run = airflow.get(f"/dags/{way}/dagRuns/{run_id}")
        return run if run["state"] in TERMINAL_RUN_STATES else None

    run = wait_for(f"the end of {way}", _PATIENCE, ended, every=1.0)
    cpu = {name: seconds - cpu_before[name] for name, seconds in _cpu_s(airflow).items()}
    found = [path for path in (made / way).rglob("*.png") if path.stat().st_size == size]
    if run["state"] != "success" or len(found) != pictures:
        raise RuntimeError(f"{way}: {run['state']}, {len(found)} of {pictures} pictures\n{_task_logs(airflow)}")
    shutil.rmtree(made / way)
    after = _database(airflow.database_path)
    queued, begun, over = (datetime.fromisoformat(run[key]) for key in ("queued_at", "start_date", "end_date"))
    tries = sum(task["try_number"] for task in airflow.task_instances(way, run_id))
    seconds = {"wall_s": (over - begun).total_seconds(), "waited_s": (begun - queued).total_seconds()}
    return {"way": way, "pictures": pictures, "tries": tries, **seconds, **cpu} | {
        name: after[name] - before[name] for name in after
    }


def _cpu_s(airflow: Airflow) -> dict[str, float]:
    """Return the processor time in seconds of the scheduler, with all its tasks, and of the API server."""
    names = {"scheduler": "tasks_cpu_s", "api-server": "api_cpu_s"}
    return {names[process.name]: _with_children(process.pid) for process in airflow.processes if process.name in names}


def _with_children(pid: int) -> float:
    first = psutil.Process(pid)
    seconds = 0.0
    for process in (first, *first.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # included in the time of its parent
            seconds += sum(process.cpu_times()[:4])  # its own, and that of its finished children
    return seconds


def _database(path: Path) -> dict[str, int]:
    """Return the number of rows in all tables, the bytes of tables and indexes, and the length of the file.

    Nothing if the database is not SQLite.
    """
    if not path.exists():
        return {}
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        counts = [database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables]  # noqa: S608
        (used,) = database.execute("SELECT sum(pgsize - unused) FROM dbstat WHERE aggregate = TRUE").fetchone()
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        (page_size,) = database.execute("PRAGMA page_size").fetchone()
    return {"rows": sum(counts), "used_bytes": used, "file_bytes": pages * page_size}


def _task_logs(airflow: Airflow) -> str:
    logs = sorted((airflow.home / "logs").rglob("*.log"), key=lambda path: path.stat().st_mtime)
    return "\n".join(path.read_text(errors="replace")[-2000:] for path in logs[-3:])


def _one_run(directory: str, pictures: int, size: int, seconds: str, variant: str) -> None:
    """Start an Airflow and run its DAGs one after another; the server's address is in the environment."""
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(
            tempfile.TemporaryDirectory(dir=directory, prefix="airflow-", ignore_cleanup_errors=True)
        )
        made = Path(name, "made")
        connection = json.loads(os.environ["AIRFLOW_CONN_DEEPSHI_DEFAULT"])
        connection["extra"]["output_uri"] = made.as_uri()
        kept = ("AIRFLOW_CONN_BENCH_HTTP", "BENCH_URL", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
        environment = {
            **{name: os.environ[name] for name in kept},
            "AIRFLOW_CONN_DEEPSHI_DEFAULT": json.dumps(connection),
            "BENCH_MADE": str(made),
            "BENCH_PROMPT": f"{size} bytes, {seconds} s",
            "BENCH_PICTURES": str(pictures),
            "PYTHONPATH": str(Path(__file__).parent.parent),
        }
        kind: Any = Airflow
        options: dict[str, Any] = {"env": environment, "parallelism": PARALLELISM}
        if variant == "postgres":
            kind, options["postgres"] = _OnPostgres, stack.enter_context(Postgres())
        options["preloaded"] = _PRELOADED if variant == "preloaded" else None
        dags = Path(__file__).with_name("dags")
        airflow = stack.enter_context(kind(Path(name, "home"), dags, **options))
        airflow.wait_for_dag("warm")
        if airflow.wait_for_run("warm", airflow.trigger("warm")) != "success":  # the first run is slow
            raise RuntimeError(_task_logs(airflow))
        for way in _WAYS[variant]:
            print(json.dumps(_measure(airflow, way, made, count(way, pictures), size)), flush=True)


def main() -> None:
    """Measure in each of the runs, with a new database, so that none uses free space of an earlier one."""
    directory, runs, pictures, size, seconds, *variant = sys.argv[1:]
    for _ in range(int(runs)):
        _one_run(directory, int(pictures), int(size), seconds, *(variant or [""]))


if __name__ == "__main__":
    main()
