"""A PostgreSQL for tests: with a new data directory, on a free port, removed afterwards."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from tests.support.waiting import wait_for

from .debian import program
from .processes import Process, free_ports

#: User of the server if root starts it, since it refuses to run as root; Debian's package creates this user.
_USER = "postgres"
_PACKAGE = "postgresql"
_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",  # each process of Airflow and Celery keeps several open
    "fsync": "off",  # the data need not survive a crash
}


class Postgres:
    """Runs during a ``with`` block, with an empty database.

    :raises MissingProgram: PostgreSQL is not installed.
    """

    def __init__(self, database: str = "airflow") -> None:
        self._programs = {name: program(name, _PACKAGE) for name in ("initdb", "postgres", "pg_isready", "createdb")}
        self._user = _USER if os.geteuid() == 0 else None
        self._database = database
        self._password = secrets.token_hex(16)
        (self._port,) = free_ports(1)
        self._process: Process | None = None

    @property
    def address(self) -> str:
        """``user:password@host:port/database``, for URIs of all drivers."""
        return f"airflow:{self._password}@127.0.0.1:{self._port}/{self._database}"

    def __enter__(self) -> Postgres:
        # Not below a test's directory, which only its owner can access, since the server may run as another user.
        self._directory = Path(tempfile.mkdtemp(prefix="deepshi-postgres-"))
        try:
            self._create()
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the server, and delete its data."""
        if self._process is not None:
            if self._process.exit_code is None:
                self._process.kill(signal.SIGINT)  # SIGTERM would wait for clients to leave
            self._process.terminate()
            self._process = None
        shutil.rmtree(self._directory)

    def _create(self) -> None:
        password = self._directory / "password"
        password.write_text(self._password)
        if self._user:
            for path in (self._directory, password):
                shutil.chown(path, self._user)
        self._call(
            *("initdb", "--username=airflow", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"),
            *("--encoding=UTF8", "--locale=C.UTF-8", f"--pgdata={self._directory / 'data'}"),
        )
        password.unlink()

    def _start(self) -> None:
        options = [f"--{name}={value}" for name, value in {**_OPTIONS, "port": self._port}.items()]
        self._process = process = Process(
            "postgres",
            [self._programs["postgres"], "-D", str(self._directory / "data"), *options],
            env=dict(os.environ),
            log_path=self._directory / "postgres.log",
            user=self._user,
        )

        def ready() -> bool:
            if process.exit_code is not None:
                raise RuntimeError(f"PostgreSQL ended:\n{process.log_text()}")
            asked = [self._programs["pg_isready"], "--quiet", "--host=127.0.0.1", f"--port={self._port}"]
            return subprocess.run(asked, check=False).returncode == 0

        wait_for("an answer from PostgreSQL", 120, ready)
        self._call("createdb", "--host=127.0.0.1", f"--port={self._port}", "--username=airflow", self._database)

    def _call(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs[name], *arguments],
            env={**os.environ, "PGPASSWORD": self._password},
            cwd=self._directory,
            user=self._user,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{name} failed:\n{done.stdout}")
