"""Airflow as in production: with PostgreSQL, Celery workers, Redis as broker, and several triggerers."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

from .airflow import Airflow
from .airflow_database import migrate
from .debian import MissingProgram
from .postgres import Postgres
from .redis import Redis

#: Packages of the dependency group ``cluster``.
_PACKAGES = ("apache-airflow-providers-celery", "asyncpg", "psycopg2-binary", "redis")


class AirflowCluster(Airflow):
    """A cluster on this machine, which runs during a ``with`` block.

    :param workers: number of Celery workers.
    :param slots: number of concurrent tasks per worker; each takes about 100 MB.
    :raises MissingProgram: the dependency group ``cluster`` is not installed.
    """

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        *,
        postgres: Postgres,
        redis: Redis,
        env: Mapping[str, str] | None = None,
        triggerers: int = 2,
        workers: int = 2,
        slots: int = 4,
    ) -> None:
        installed = {distribution.name for distribution in importlib.metadata.distributions()}
        if missing := [name for name in _PACKAGES if name not in installed]:
            raise MissingProgram(f"Missing: {', '.join(missing)}. `make test-cluster` and `make cluster` install them")
        settings = {**_celery(postgres, redis, slots), **_quick_reactions(), **(env or {})}
        super().__init__(home, dags_folder, env=settings, triggerers=triggerers, parallelism=workers * slots)
        self._wanted_workers = workers

    def start_what_ended(self) -> list[str]:
        """Restart processes that have ended, like a supervisor, and return their names."""
        ended = [process for process in self._processes if process.exit_code is not None]
        for process in ended:
            process.kill_hard()  # its remaining children
            process.start_again()
        return [process.name for process in ended]

    def _create_database(self) -> None:
        migrate(self._env, self._component_logs / "migrate.log", self.start_timeout)

    def _spawn_components(self) -> None:
        super()._spawn_components()
        for number in range(1, self._wanted_workers + 1):
            name = f"worker-{number}"
            pid_file = str(self.home / f"{name}.pid")  # by default, all share one
            options = ("--celery-hostname", name, "--pid", pid_file, "--skip-serve-logs")
            self._spawn("celery", "worker", *options, name=name)


def _celery(postgres: Postgres, redis: Redis, slots: int) -> dict[str, str]:
    return {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{postgres.address}",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"postgresql+asyncpg://{postgres.address}",
        "AIRFLOW__CELERY__BROKER_URL": redis.url,
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql+psycopg2://{postgres.address}",
        "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(slots),
    }


def _quick_reactions() -> dict[str, str]:
    """Intervals in seconds, added to those of every test Airflow."""
    seconds = {
        # A task is queued again if its broker or worker died before it started.
        "SCHEDULER__TASK_QUEUED_TIMEOUT": 60,
        "SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": 5,
        # A new scheduler takes over the tasks of one that is silent for this time.
        "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": 15,
        "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": 10,
    }
    return {f"AIRFLOW__{name}": str(value) for name, value in seconds.items()}
