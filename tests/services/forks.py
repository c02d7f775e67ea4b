"""Processes that run a module of ``tests.support``, without importing Airflow each time.

They are forked from one process that has imported it, since that takes seconds of processor time. That process is
multiprocessing's fork server: the process of the tests has threads, so it cannot fork.
"""

from __future__ import annotations

import importlib
import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import closing
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from types import TracebackType

from typing_extensions import Self

#: What the processes import, also with a place on S3.
_IMPORTED = [
    "aiobotocore.session",
    "s3fs",
    "tests.support.killed_jobs",
    "tests.support.run_batch",
    "tests.support.run_job",
    "tests.support.run_operator",
]


def fork_server() -> ForkServerContext:
    """Return the context whose processes start with all imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    return context


class Forked:
    """A process that runs a module's ``main()``; what it prints is in ``stdout``, as with :class:`subprocess.Popen`."""

    def __init__(self, module: str, text: str) -> None:
        context = fork_server()
        reader, writer = context.Pipe(duplex=False)
        with closing(reader), closing(writer):
            self._process = context.Process(target=_run, args=(module, text, writer, dict(os.environ)))
            self._process.start()
            self.stdout = open(os.dup(reader.fileno()), encoding="utf-8")  # noqa: PTH123, SIM115 - closed in __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stdout.close()
        self.wait()

    def poll(self) -> int | None:
        """Return the exit code, or ``None`` while it runs."""
        return self._process.exitcode

    def send_signal(self, signum: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        if self._process.is_alive() and self._process.pid is not None:
            os.kill(self._process.pid, signum)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def wait(self) -> int | None:
        """Wait for its end and return the exit code, which is negative if a signal ended it."""
        self._process.join()
        return self._process.exitcode


def start_module(module: str, text: str) -> Forked:
    """Start a module's ``main()`` with a text as its input and this process's environment."""
    return Forked(module, text)


def last_line_of(process: Forked) -> str:
    """Wait until a process ends, which must succeed, and return its last line."""
    with process:
        printed = process.stdout.read()
    assert process.wait() == 0, printed
    return printed.splitlines()[-1]


def _run(module: str, text: str, output: Connection, environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(output.fileno(), 1)
    output.close()
    sys.stdin = io.StringIO(text)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - until the process ends
    importlib.import_module(module).main()
    sys.stdout.flush()
