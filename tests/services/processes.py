"""Processes with their own session and log file. Linux only.

All children of a process are found by its *session*, not its process group: since Airflow 3.3
each task runs in its own group, which ``os.killpg`` of the scheduler does not reach.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import psutil

from tests.support.waiting import wait_for

T = TypeVar("T")


def free_ports(count: int) -> list[int]:
    """Return ``count`` different free ports of 127.0.0.1.

    They are outside the kernel's range for connections: an Airflow takes half a minute to listen, and other processes
    that connect in the meantime must not get them.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = range(min(10_000, lowest - 5_000), lowest)
    ports: list[int] = []
    for port in random.SystemRandom().sample(candidates, len(candidates)):
        with socket.socket() as server, contextlib.suppress(OSError):  # in use
            server.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError(f"fewer than {count} ports are free")


class ProcessStat(NamedTuple):
    """``/proc/<pid>/stat`` of a process that is not a zombie."""

    pid: int
    parent: int
    session: int
    rss_bytes: int


def process_stats() -> Iterator[ProcessStat]:
    """Yield all living processes of the machine."""
    page = os.sysconf("SC_PAGE_SIZE")
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended between the two calls
        # The name in parentheses may contain spaces; proc_pid_stat(5) counts fields from 1.
        fields = stat.rpartition(") ")[2].split()
        state, parent, session, rss_pages = fields[0], fields[1], fields[3], fields[21]
        if state not in "ZX":
            yield ProcessStat(int(folder.name), int(parent), int(session), int(rss_pages) * page)


def listening(pids: Iterable[int]) -> set[str]:
    """Return the addresses on which processes listen."""
    found = set()
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            connections = psutil.Process(pid).net_connections(kind="inet")
            found |= {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}
    return found


class Process:
    """A command that runs in its own session, with all its children.

    :param name: Name for error messages.
    :param log_path: File that standard output and error are appended to.
    :param user: User to run as; only root may set it.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, env: Mapping[str, str], log_path: Path, user: str | None = None
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._command = command
        self._env = dict(env)
        self._user = user
        self.start_again()

    def start_again(self) -> None:
        """Start the same command again after its end, like a supervisor; append to the same log."""
        with self.log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                self._command,
                env=self._env,
                cwd=self.log_path.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self._user,
            )

        self._guard = _guard(self._popen.pid)

    @property
    def pid(self) -> int:
        """The first process, which is the supervisor of Airflow's components; also the session's id."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """``None`` while the first process is alive; negative if a signal ended it."""
        return self._popen.poll()

    def stats(self) -> list[ProcessStat]:
        """Return all living processes of the session, including the first one."""
        return [stat for stat in process_stats() if stat.session == self.pid]

    def children(self) -> list[int]:
        """Return the pids of the session's living processes except the first."""
        return [stat.pid for stat in self.stats() if stat.pid != self.pid]

    def rss_bytes(self) -> int:
        """Return the resident memory of the session; pages shared after a fork count once per process."""
        return sum(stat.rss_bytes for stat in self.stats())

    def log_text(self) -> str:
        """Return the process's output so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def kill(self, signum: signal.Signals) -> None:
        """Send a signal to the first process only."""
        self._popen.send_signal(signum)

    def kill_all(self, signum: signal.Signals) -> None:
        """Send a signal to all living processes of the session, starting with the first one."""
        for stat in sorted(self.stats(), key=lambda stat: stat.pid != self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(stat.pid, signum)

    def pause(self) -> None:
        """Stop the whole session (SIGSTOP), like a suspended machine."""
        self.kill_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after :meth:`pause`."""
        self.kill_all(signal.SIGCONT)

    def kill_hard(self) -> None:
        """SIGKILL the whole session, like a lost machine, and wait until no process is left."""
        # Stopped first: otherwise a process that forks might leave a child behind, and one that
        # notices another's death would react.
        self.kill_all(signal.SIGSTOP)

        def gone() -> bool:
            self.kill_all(signal.SIGKILL)
            return self.exit_code is not None and not self.stats()

        wait_for(f"the end of {self.name}", 60, gone, every=0.02)
        self._guard.kill()
        self._guard.communicate()

    def terminate(self, timeout: float = 10) -> None:
        """Send SIGTERM to the first process, wait for it, then kill its remaining children.

        :param timeout: Seconds until all get SIGKILL.
        """
        if self.exit_code is None:
            self.kill(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout)
        self.kill_hard()


def _guard(group: int) -> subprocess.Popen[bytes]:
    """Start a shell that kills a process group when this process has ended in any way.

    Only this process has the other end of the shell's input, which therefore closes with it.
    """
    return subprocess.Popen(
        ["sh", "-c", 'read -r _; kill -s KILL -- "-$0"', str(group)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
