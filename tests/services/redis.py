"""A Redis for tests, on a free port and without persistence: if it dies, all queued messages are lost."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from types import TracebackType

from tests.support.waiting import wait_for

from .debian import program
from .processes import Process, free_ports


class Redis:
    """Runs during a ``with`` block.

    :param directory: directory for its log.
    :raises MissingProgram: Redis is not installed.
    """

    def __init__(self, directory: Path) -> None:
        self._program = program("redis-server", "redis-server")
        self._log_path = directory / "redis.log"
        (self._port,) = free_ports(1)
        self.url = f"redis://127.0.0.1:{self._port}/0"

    def __enter__(self) -> Redis:
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        options = {"port": str(self._port), "bind": "127.0.0.1", "save": "", "appendonly": "no"}
        #: May be killed and started again on the same port.
        self.process = Process(
            "redis",
            [self._program, *(word for name, value in options.items() for word in (f"--{name}", value))],
            env=dict(os.environ),
            log_path=self._log_path,
        )
        try:
            wait_for("an answer from Redis", 120, self._ready)
        except BaseException:
            self.process.kill_hard()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.terminate()

    def _ready(self) -> bool:
        if self.process.exit_code is not None:
            raise RuntimeError(f"Redis ended:\n{self.process.log_text()}")
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection,
        ):
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        return False
