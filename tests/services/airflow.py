"""A real Airflow for tests: database, API server, scheduler, DAG processor and triggerers.

This folder must not be on a PYTHONPATH, since the module would hide the package ``airflow``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import httpx
from typing_extensions import Self

from tests.support.waiting import wait_for

from .airflow_api import AirflowApi, Json
from .airflow_database import create
from .airflow_settings import PRELOADED, environment, write_local_settings, write_passwords
from .processes import Process, free_ports


class Triggerer(Process):
    """A triggerer: the first process is a supervisor, and its child runs the triggers' loop.

    ``kill(SIGKILL)`` kills only the supervisor; ``kill_hard()`` kills both, like a lost machine.
    """

    job_id = 0
    """The ``triggerer_id`` of its triggers; set when it is healthy."""


class Airflow(AirflowApi):
    """Runs during a ``with`` block; :class:`AirflowApi` has the REST API's methods.

    :param home: An empty or new directory for database, logs and passwords.
    :param dags_folder: May be filled later; new files are found within seconds.
    :param env: Additional environment of all processes: ``AIRFLOW_CONN_…``, ``PYTHONPATH``, settings.
    :param triggerers: Initial number of triggerers; :meth:`start_triggerer` adds one.
    :param parallelism: Number of concurrent tasks; each takes about 100 MB.
    :param preloaded: Modules that the scheduler imports, so that its tasks need not; see :func:`write_local_settings`.
    """

    start_timeout = 180.0
    """Seconds that migration, and then the start of all processes, may take."""

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        *,
        env: Mapping[str, str] | None = None,
        triggerers: int = 1,
        parallelism: int = 4,
        preloaded: Sequence[str] | None = PRELOADED,
    ) -> None:
        (port,) = free_ports(1)
        super().__init__(f"http://127.0.0.1:{port}")
        self.home = home.absolute()
        self.database_path = self.home / "airflow.db"
        self._env = environment(self.home, dags_folder.absolute(), port, parallelism, env or {})
        self._wanted_triggerers = triggerers
        self._preloaded = preloaded
        self._started_triggerers = 0
        self._processes: list[Process] = []

    def __enter__(self) -> Self:
        self._component_logs.mkdir(parents=True, exist_ok=True)
        write_passwords(self.home)
        write_local_settings(self.home, self._preloaded)
        try:
            self._create_database()
            self._spawn_components()
            self._wait_until_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End all processes concurrently: with SIGTERM, and after 3 s with SIGKILL."""
        self._http.close()
        with ThreadPoolExecutor(max_workers=max(1, len(self._processes))) as pool:
            list(pool.map(lambda process: process.terminate(timeout=3), self._processes))

    @property
    def triggerers(self) -> list[Triggerer]:
        """The triggerers whose first process is alive, oldest first."""
        found = [process for process in self._processes if isinstance(process, Triggerer)]
        return [triggerer for triggerer in found if triggerer.exit_code is None]

    @property
    def processes(self) -> list[Process]:
        """All processes: ``api-server``, ``scheduler``, ``dag-processor``, ``triggerer-1``…, ``worker-1``…"""
        return list(self._processes)

    def start_triggerer(self) -> Triggerer:
        """Start another triggerer and return it when it is healthy."""
        triggerer = self._spawn_triggerer()
        self._wait_for_job(triggerer)
        return triggerer

    def suspend(self, triggerer: Triggerer, *, only_supervisor: bool = False) -> None:
        """Stop a triggerer (SIGSTOP) at a moment when it has no lock on SQLite, which would stop all others."""

        def stopped() -> bool:
            if only_supervisor:
                triggerer.kill(signal.SIGSTOP)
            else:
                triggerer.pause()
            try:
                with contextlib.closing(sqlite3.connect(self.database_path, timeout=2)) as database:
                    database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                triggerer.resume()
                return False
            return True

        wait_for("a triggerer without a lock", 180, stopped)

    def triggerer_of(
        self, dag_id: str, run_id: str, task_id: str, map_index: int = -1, timeout: float = 180
    ) -> Triggerer:
        """Return the triggerer that runs the trigger of a deferred task."""

        def owner() -> Triggerer | None:
            trigger = self.task_instance(dag_id, run_id, task_id, map_index)["trigger"] or {}
            job_id = trigger.get("triggerer_id")
            return next((t for t in self.triggerers if t.job_id == job_id), None)

        return wait_for(f"a triggerer for {task_id}", timeout, owner)

    def task_pid(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> int:
        """Return the process that runs the operator's code, once the task is running.

        Its parent, the LocalExecutor's worker, sends the heartbeats and reports its end.
        """
        task = self.wait_for_state(dag_id, run_id, task_id, ["running"], map_index=map_index)
        return int(task["pid"])

    def kill_task(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> None:
        """SIGKILL a running task's process, as the kernel does when memory runs out.

        Its worker notices that and reports it immediately.
        """
        os.kill(self.task_pid(dag_id, run_id, task_id, map_index), signal.SIGKILL)

    def all_log_files(self) -> list[Path]:
        """The components' logs, and those of tasks, triggers and DAG parsing."""
        folders = (self._component_logs, self.home / "logs")
        return [path for folder in folders for path in folder.rglob("*") if path.is_file()]

    def log_text(self) -> str:
        """The logs of all components, including triggerers that have ended."""
        paths = sorted(self._component_logs.glob("*.log"))
        return "\n".join(path.read_text(errors="replace") for path in paths)

    @property
    def _component_logs(self) -> Path:
        return self.home / "components"

    def _create_database(self) -> None:
        create(self.database_path)

    def _spawn_components(self) -> None:
        self._spawn("api-server")
        self._spawn("scheduler", "--skip-serve-logs")
        self._spawn("dag-processor")
        for _ in range(self._wanted_triggerers):
            self._spawn_triggerer()

    def _spawn_triggerer(self) -> Triggerer:
        self._started_triggerers += 1
        name = f"triggerer-{self._started_triggerers}"
        log_path = self._component_logs / f"{name}.log"
        # Airflow writes the user's name into the job's row: so each triggerer finds its job.
        triggerer = Triggerer(
            name,
            _command("triggerer", "--skip-serve-logs"),
            env={**self._env, "LOGNAME": name},
            log_path=log_path,
        )
        self._processes.append(triggerer)
        return triggerer

    def _spawn(self, *arguments: str, name: str | None = None) -> None:
        name = name or arguments[0]
        log_path = self._component_logs / f"{name}.log"
        self._processes.append(Process(name, _command(*arguments), env=self._env, log_path=log_path))

    def _wait_until_healthy(self) -> None:
        def healthy() -> bool:
            for process in self._processes:
                if process.exit_code is not None:
                    raise RuntimeError(f"{process.name} ended:\n{process.log_text()}")
            with contextlib.suppress(httpx.TransportError):  # the server is not up yet
                health = self.get("/monitor/health")
                parts = ("metadatabase", "scheduler", "dag_processor")
                return all(health[part]["status"] == "healthy" for part in parts)
            return False

        wait_for("a healthy Airflow", self.start_timeout, healthy)
        for triggerer in self.triggerers:
            self._wait_for_job(triggerer)

    def _wait_for_job(self, triggerer: Triggerer) -> None:
        def job() -> Json | None:
            if triggerer.exit_code is not None:
                raise RuntimeError(f"{triggerer.name} ended:\n{triggerer.log_text()}")
            jobs = self.get("/jobs", job_type="TriggererJob", is_alive=True)["jobs"]
            return next((job for job in jobs if job["unixname"] == triggerer.name), None)

        triggerer.job_id = wait_for(f"a healthy {triggerer.name}", self.start_timeout, job)["id"]


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "airflow", *arguments]
