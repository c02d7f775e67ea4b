"""A MariaDB for tests, which MySQL's clients use: with a new data directory, on a free port, removed afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from tests.support.waiting import wait_for

from .debian import program
from .processes import Process, free_ports

#: User of the server if root starts it, since it refuses to run as root; Debian's package creates this user.
_USER = "mysql"
_PACKAGE = "mariadb-server"
_DATABASE = "shop"


class MariaDB:
    """Runs during a ``with`` block, with an empty database ``shop``.

    :raises MissingProgram: MariaDB is not installed.
    """

    def __init__(self) -> None:
        self._install, self._server = (program(name, _PACKAGE) for name in ("mariadb-install-db", "mariadbd"))
        self._user = _USER if os.geteuid() == 0 else None
        self._password = secrets.token_hex(16)
        (self._port,) = free_ports(1)
        self._process: Process | None = None

    def connection_json(self, client: str) -> str:
        """Return the value for ``AIRFLOW_CONN_<ID>``, a connection of type ``mysql``.

        :param client: the driver: ``mysqlclient`` or ``mysql-connector-python``.
        """
        connection = {
            "conn_type": "mysql",
            "host": "127.0.0.1",
            "port": self._port,
            "schema": _DATABASE,
            "login": "shop",
            "password": self._password,
            "extra": {"client": client},
        }
        return json.dumps(connection)

    @property
    def url(self) -> str:
        """The address of the database for SQLAlchemy, as Airflow's own."""
        return f"mysql+mysqldb://shop:{self._password}@127.0.0.1:{self._port}/{_DATABASE}?charset=utf8mb4"

    def __enter__(self) -> MariaDB:
        # Not below a test's directory, which only its owner can access, since the server may run as another user.
        self._directory = Path(tempfile.mkdtemp(prefix="deepshi-mariadb-"))
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
            self._process.kill(signal.SIGKILL)
            self._process.terminate()
            self._process = None
        shutil.rmtree(self._directory)

    def _create(self) -> None:
        first = self._directory / "first.sql"
        first.write_text(
            f"CREATE DATABASE IF NOT EXISTS {_DATABASE};\n"
            f"CREATE USER IF NOT EXISTS shop@'127.0.0.1' IDENTIFIED BY '{self._password}';\n"
            f"GRANT ALL ON *.* TO shop@'127.0.0.1';\n"
        )
        if self._user:
            for path in (self._directory, first):
                shutil.chown(path, self._user)
        options = ["--skip-test-db", "--auth-root-authentication-method=normal", f"--datadir={self._directory}/data"]
        done = subprocess.run(
            [self._install, "--no-defaults", *options],
            cwd=self._directory,
            env=self._environment(),
            user=self._user,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"mariadb-install-db failed:\n{done.stdout}{done.stderr}")

    def _start(self) -> None:
        folder = self._directory
        options = {
            "datadir": folder / "data",
            "init-file": folder / "first.sql",
            "bind-address": "127.0.0.1",
            "port": self._port,
            "socket": folder / "socket",
            "pid-file": folder / "pid",
            "character-set-server": "utf8mb4",
        }
        self._process = Process(
            "mariadb",
            [self._server, "--no-defaults", *(f"--{name}={value}" for name, value in options.items())],
            env=self._environment(),
            log_path=self._directory / "mariadb.log",
            user=self._user,
        )
        wait_for("an answer from MariaDB", 120, self._ready)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "TMPDIR": str(self._directory)}

    def _ready(self) -> bool:
        if self._process and self._process.exit_code is not None:
            raise RuntimeError(f"MariaDB ended:\n{self._process.log_text()}")
        # It opens its port after the init file.
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
            return bool(connection.recv(1))
        return False
