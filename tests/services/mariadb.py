"""A MariaDB for tests, which MySQL's clients use."""

from __future__ import annotations

import contextlib
import json
import signal
import socket

from .database_server import DatabaseServer
from .processes import Process

_DATABASE = "shop"


class MariaDB(DatabaseServer):
    """Runs during a ``with`` block, with an empty database ``shop``.

    :raises MissingProgram: MariaDB is not installed.
    """

    name = "MariaDB"
    package = "mariadb-server"
    system_user = "mysql"
    ends_by = signal.SIGKILL

    def __init__(self) -> None:
        super().__init__("mariadb-install-db", "mariadbd")

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

    def _create(self) -> None:
        options = ["--skip-test-db", "--auth-root-authentication-method=normal", f"--datadir={self._directory}/data"]
        self._call("mariadb-install-db", "--no-defaults", *options)

    def _start(self) -> Process:
        folder = self._directory
        first = (
            f"CREATE DATABASE IF NOT EXISTS {_DATABASE};\n"
            f"CREATE USER IF NOT EXISTS shop@'127.0.0.1' IDENTIFIED BY '{self._password}';\n"
            f"GRANT ALL ON *.* TO shop@'127.0.0.1';\n"
        )
        options = {
            "datadir": folder / "data",
            "init-file": self._written("first.sql", first),
            "bind-address": "127.0.0.1",
            "port": self._port,
            "socket": folder / "socket",
            "pid-file": folder / "pid",
            "character-set-server": "utf8mb4",
        }
        return self._process_of("mariadbd", "--no-defaults", *(f"--{name}={value}" for name, value in options.items()))

    def _ready(self) -> bool:
        # It opens its port after the init file.
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
            return bool(connection.recv(1))
        return False
