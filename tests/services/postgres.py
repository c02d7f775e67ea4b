"""A PostgreSQL for tests."""

from __future__ import annotations

import signal
import subprocess

from .database_server import DatabaseServer
from .processes import Process

_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",  # each process of Airflow and Celery keeps several open
    "fsync": "off",  # the data need not survive a crash
}


class Postgres(DatabaseServer):
    """Runs during a ``with`` block, with an empty database.

    :raises MissingProgram: PostgreSQL is not installed.
    """

    name = "PostgreSQL"
    package = "postgresql"
    system_user = "postgres"
    ends_by = signal.SIGINT  # SIGTERM would wait for clients to leave

    def __init__(self, database: str = "airflow") -> None:
        super().__init__("initdb", "postgres", "pg_isready", "createdb")
        self._database = database

    @property
    def address(self) -> str:
        """``user:password@host:port/database``, for URIs of all drivers."""
        return f"airflow:{self._password}@127.0.0.1:{self._port}/{self._database}"

    def _create(self) -> None:
        password = self._written("password", self._password)
        self._call(
            *("initdb", "--username=airflow", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"),
            *("--encoding=UTF8", "--locale=C.UTF-8", f"--pgdata={self._directory / 'data'}"),
        )
        password.unlink()

    def _start(self) -> Process:
        options = [f"--{name}={value}" for name, value in {**_OPTIONS, "port": self._port}.items()]
        return self._process_of("postgres", "-D", str(self._directory / "data"), *options)

    def _ready(self) -> bool:
        asked = [self._programs["pg_isready"], "--quiet", "--host=127.0.0.1", f"--port={self._port}"]
        return subprocess.run(asked, check=False).returncode == 0

    def _fill(self) -> None:
        self._call("createdb", "--host=127.0.0.1", f"--port={self._port}", "--username=airflow", self._database)

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), "PGPASSWORD": self._password}
