"""An emulator for tests: a process of its own, on a free port, stopped afterwards."""

from __future__ import annotations

import http.client
import json
import os
import select
import ssl
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast
from urllib.parse import urlsplit

_CALL_SECONDS = 60.0


class Emulator:
    """A running emulator.

    .. code-block:: python

        @pytest.fixture(scope="session")
        def deepshi():
            with Emulator() as emulator:
                yield emulator


        def test_the_dag_buys_two_pictures(deepshi, monkeypatch):
            deepshi.reset()
            monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", deepshi.connection_json())
            ...
            assert deepshi.stats()["images"] == 2

    :param latency: seconds per picture.
    :param port: 0 = a free port.
    :param tls: serve HTTPS; the connection's ``verify`` is then the file of the emulator's CA.
    :param start_timeout: seconds to wait for it to listen.

    :ivar base_url: its URL, without ``/v1``.
    :ivar ca_file: file of the CA that clients must trust; ``None`` without TLS.
    """

    def __init__(
        self,
        *,
        latency: float = 0.0,
        port: int = 0,
        api_key: str = "sk-bf-emulator",
        tls: bool = False,
        start_timeout: float = 120.0,
    ) -> None:
        self.api_key = api_key
        self.base_url = ""
        self.ca_file: str | None = None
        self._arguments = ["--port", str(port), "--latency", str(latency), "--api-key", api_key]
        self._arguments += ["--tls"] if tls else []
        self._start_timeout = start_timeout
        self._calls = _Calls("", None)
        self._files = tempfile.TemporaryDirectory(prefix="deepshi-emulator-")  # the killed process leaves them
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._started().pid

    def __enter__(self) -> Emulator:
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "deepshi_provider.emulator", *self._arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": _python_path(), "TMPDIR": self._files.name},
        )
        try:
            connection = self._read_connection()
            self.base_url = connection["host"]
            self.ca_file = connection.get("extra", {}).get("verify")
            self._calls = _Calls(self.base_url, self.ca_file)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._calls.close()
        if self._process is not None:
            self._process.kill()  # it has nothing to save
            self._process.communicate()
        self._files.cleanup()
        self._log.close()

    def log(self) -> str:
        """Return its stderr so far: one line per request."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def connection_json(self, **extra: object) -> str:
        """Return the Airflow connection to it, as the value of ``AIRFLOW_CONN_DEEPSHI_DEFAULT``.

        :param extra: the connection's extra, such as ``output_uri``; with TLS, ``verify`` is added.
        """
        connection: dict[str, object] = {
            "conn_type": "deepshi",
            "host": self.base_url,
            "password": self.api_key,
        }
        if self.ca_file:
            extra = {"verify": self.ca_file, **extra}
        if extra:
            connection["extra"] = extra
        return json.dumps(connection)

    def stats(self) -> dict[str, Any]:
        """Return counts of calls and money; ``cost_usd`` is an exact decimal as text."""
        stats: dict[str, Any] = json.loads(self._call("GET", "/emulator/stats"))
        return stats

    def requests(self) -> list[dict[str, Any]]:
        """Return all generation and edit requests since the last reset, in order of arrival."""
        entries: list[dict[str, Any]] = json.loads(self._call("GET", "/emulator/requests"))
        return entries

    def picture(self, request_id: str, index: int = 0) -> bytes:
        """Return the bytes of one picture of one of the last 64 requests."""
        return self._call("GET", f"/emulator/pictures/{request_id}/{index}")

    def fault(self, name: str, **params: object) -> None:
        """Queue a fault.

        :param params: ``times``, ``prompt``, ``path`` and the fault's own parameters.
        :raises ValueError: the fault or a parameter is unknown.
        """
        self._call("POST", "/emulator/faults", {"fault": name, **params})

    def clear_faults(self) -> None:
        """Remove all queued faults."""
        self._call("DELETE", "/emulator/faults")

    def settings(self, **values: object) -> None:
        """Change settings.

        :raises ValueError: a setting is unknown.
        """
        self._call("PUT", "/emulator/settings", values)

    def reset(self) -> None:
        """Reset the emulator: no requests, no faults, initial settings."""
        self._call("POST", "/emulator/reset")

    def _call(self, method: str, path: str, body: object = None) -> bytes:
        status, content = self._calls.send(method, path, None if body is None else json.dumps(body).encode())
        if status >= 300:
            raise ValueError(f"{method} {path}: {content.decode()}")
        return content

    def _read_connection(self) -> dict[str, Any]:
        """Wait until it listens, and return the connection that it prints then."""
        output = cast(IO[bytes], self._started().stdout)  # a pipe
        if not select.select([output], [], [], self._start_timeout)[0]:
            raise TimeoutError(f"the emulator did not start:\n{self.log()}")
        if not output.readline().startswith(b"Deepshi emulator at "):
            raise RuntimeError(f"the emulator did not start:\n{self.log()}")
        connection: dict[str, Any] = json.loads(output.readline().partition(b"=")[2].strip().strip(b"'"))
        return connection

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the emulator runs only inside 'with Emulator() as …'")
        return self._process


class _Calls:
    """Sends calls from any thread on one connection: a TLS handshake for each would take most of a test's time."""

    def __init__(self, base_url: str, ca_file: str | None) -> None:
        address = urlsplit(base_url).netloc
        self._connection = http.client.HTTPConnection(address, timeout=_CALL_SECONDS)
        if ca_file:
            context = ssl.create_default_context(cafile=ca_file)
            self._connection = http.client.HTTPSConnection(address, timeout=_CALL_SECONDS, context=context)
        self._owner = os.getpid()
        self._lock = threading.Lock()

    def send(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Return status and body of an answer."""
        with self._lock:
            if self._owner != os.getpid():  # forked: the parent uses the connection
                self._owner = os.getpid()
                self._connection.close()
            is_new = self._connection.sock is None
            try:
                return self._send(method, path, body)
            except (ConnectionError, http.client.RemoteDisconnected, ssl.SSLEOFError):
                self._connection.close()
                if is_new:
                    raise
                return self._send(method, path, body)  # the server had closed the idle connection

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        try:
            self._connection.request(method, path, body, {"content-type": "application/json"})
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except BaseException:  # the next call must not read this one's answer
            self._connection.close()
            raise


def _python_path() -> str:
    """Return a PYTHONPATH on which this package is found, even if only this process's ``sys.path`` has it."""
    root = str(Path(__file__).parents[2])
    return os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
