"""What the database servers of tests share: a new data directory, a free port, and a user of their own under root."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import ClassVar

from typing_extensions import Self

from tests.support.waiting import wait_for

from .debian import program
from .processes import Process, free_ports


class DatabaseServer:
    """Runs during a ``with`` block, with an empty database; its data are deleted afterwards.

    :param programs: names of its programs.
    :raises MissingProgram: a program is not installed.
    """

    name: ClassVar[str]
    #: Debian's package.
    package: ClassVar[str]
    #: The user that it runs as if root starts it, since it refuses to run as root; the package creates this user.
    system_user: ClassVar[str]
    #: The signal that ends it at once, without waiting for clients to leave.
    ends_by: ClassVar[signal.Signals]

    def __init__(self, *programs: str) -> None:
        self._programs = {name: program(name, self.package) for name in programs}
        self._user = self.system_user if os.geteuid() == 0 else None
        self._password = secrets.token_hex(16)
        (self._port,) = free_ports(1)
        self._process: Process | None = None

    def __enter__(self) -> Self:
        # Not below a test's directory, which only its owner can access, since the server may run as another user.
        self._directory = Path(tempfile.mkdtemp(prefix=f"deepshi-{self.name.lower()}-"))
        try:
            self._own(self._directory)
            self._create()
            self._process = self._start()
            wait_for(f"an answer from {self.name}", 120, self._answers)
            self._fill()
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
                self._process.kill(self.ends_by)
            self._process.terminate()
            self._process = None
        shutil.rmtree(self._directory)

    def _create(self) -> None:
        """Write the data directory."""
        raise NotImplementedError

    def _start(self) -> Process:
        raise NotImplementedError

    def _ready(self) -> bool:
        """Return whether the running server takes connections."""
        raise NotImplementedError

    def _fill(self) -> None:
        """Create the database, if the server has not done so when it started."""

    def _answers(self) -> bool:
        if self._process and self._process.exit_code is not None:
            raise RuntimeError(f"{self.name} ended:\n{self._process.log_text()}")
        return self._ready()

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "TMPDIR": str(self._directory)}

    def _process_of(self, program: str, *arguments: str) -> Process:
        return Process(
            self.name.lower(),
            [self._programs[program], *arguments],
            env=self._environment(),
            log_path=self._directory / "server.log",
            user=self._user,
        )

    def _written(self, name: str, text: str) -> Path:
        """Return a new file that the server can read."""
        path = self._directory / name
        path.write_text(text)
        self._own(path)
        return path

    def _own(self, path: Path) -> None:
        if self._user:
            shutil.chown(path, self._user)

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs[program], *arguments],
            env=self._environment(),
            cwd=self._directory,
            user=self._user,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed:\n{done.stdout}")
