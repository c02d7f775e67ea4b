"""A StatsD server for tests: takes datagrams and keeps their lines.

https://github.com/statsd/statsd/blob/master/docs/metric_types.md
"""

from __future__ import annotations

import re
import socket
import threading
from types import TracebackType
from typing import NamedTuple

from tests.support.waiting import wait_for

_LINE = re.compile(r"(?P<name>[^,:]+)(?P<tags>(,[^,=]+=[^,=:]+)*):(?P<value>[-0-9.e]+)\|(?P<kind>c|ms|g)")


class Metric(NamedTuple):
    """One line: a counter (``c``) or a timing (``ms``), with Influx' tags."""

    name: str
    tags: dict[str, str]
    value: float
    kind: str


class StatsD:
    """Runs from ``with`` to its end, on a port of its own."""

    def __enter__(self) -> StatsD:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(timeout=10)
        self._socket.close()

    def environment(self) -> dict[str, str]:
        """Return the settings with which Airflow sends its metrics here, with tags."""
        settings = {"STATSD_ON": True, "STATSD_HOST": "127.0.0.1", "STATSD_PORT": self.port}
        settings["STATSD_INFLUXDB_ENABLED"] = True
        return {f"AIRFLOW__METRICS__{name}": str(value) for name, value in settings.items()}

    def metrics(self, *, among: dict[str, str]) -> list[Metric]:
        """Return what came of this provider with these tags, in order."""
        found = [_parsed(line) for line in list(self._lines) if ".deepshi." in line]
        return [metric for metric in found if among.items() <= metric.tags.items()]

    def wait_for(self, name: str, *, among: dict[str, str], timeout: float = 60) -> Metric:
        """Return the first metric of a name with these tags."""

        def found() -> Metric | None:
            return next((m for m in self.metrics(among=among) if m.name == name), None)

        return wait_for(f"the metric {name}", timeout, found)

    def _receive(self) -> None:
        while data := self._socket.recv(65_536):
            self._lines += data.decode().splitlines()


def _parsed(line: str) -> Metric:
    match = _LINE.fullmatch(line)
    assert match, line
    tags = dict(tag.split("=", 1) for tag in match["tags"].split(",") if tag)
    return Metric(match["name"].removeprefix("airflow."), tags, float(match["value"]), match["kind"])
