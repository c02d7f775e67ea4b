"""Runs the application on uvicorn, on this machine only."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from .app import build_app
from .settings import Settings
from .state import State

HOST = "127.0.0.1"


class ReachableProtocol(H11Protocol):
    """uvicorn's protocol, which also passes itself to the application.

    ASGI cannot cut a connection, but the transport can.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        reachable = {**app_state, "connection": self}
        super().__init__(config, server_state, reachable, _loop)


class EmulatorServer(uvicorn.Server):
    """A server that prints its address as soon as it listens.

    :param ca_file: certificate of the CA that clients must trust, with TLS.
    """

    def __init__(self, config: uvicorn.Config, api_key: str, ca_file: Path | None) -> None:
        super().__init__(config)
        self._api_key = api_key
        self._ca_file = ca_file

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then print the address."""
        await super().startup(sockets)
        if not self.started:
            return
        port = self.servers[0].sockets[0].getsockname()[1]
        url = f"{'https' if self._ca_file else 'http'}://{HOST}:{port}"
        connection: dict[str, object] = {"conn_type": "deepshi", "host": url, "password": self._api_key}
        if self._ca_file:
            connection["extra"] = {"verify": str(self._ca_file)}
        print(f"Deepshi emulator at {url} (API key {self._api_key})", flush=True)
        print(f"AIRFLOW_CONN_DEEPSHI_DEFAULT='{json.dumps(connection)}'", flush=True)
        if self._ca_file:
            print(f"CA file, for the connection's verify: {self._ca_file}", flush=True)


def serve(*, port: int, latency: float, api_key: str, tls: bool) -> None:
    """Serve until the process gets a signal to stop.

    :param port: 0 = a free port.
    :param latency: seconds per picture.
    :param tls: serve HTTPS with a certificate of a new CA, whose file is printed.
    """
    if not tls:
        _run(port, latency, api_key)
        return
    from .certificates import issue  # only with TLS: the import takes a third of the start's time

    # uvicorn raises the signal again after its shutdown; as an exception it lets the directory be deleted.
    signal.signal(signal.SIGTERM, _exit)
    with tempfile.TemporaryDirectory(prefix="deepshi-emulator-") as directory:
        ca_file, server_file = issue(Path(directory), HOST)
        _run(port, latency, api_key, ca_file, server_file)


def _exit(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _run(port: int, latency: float, api_key: str, ca_file: Path | None = None, server_file: Path | None = None) -> None:
    state = State(api_key, Settings(latency=latency))
    config = uvicorn.Config(
        build_app(state),
        ssl_certfile=server_file,
        host=HOST,
        port=port,
        http=ReachableProtocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        # Longer than clients keep idle connections, so that no request is sent on one that is being closed.
        timeout_keep_alive=75,
        backlog=4096,
    )
    EmulatorServer(config, api_key, ca_file).run()
