"""Runs the application on uvicorn, on this machine only."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from .app import build_app
from .settings import Settings
from .state import State

HOST = "127.0.0.1"


class ReachableProtocol(H11Protocol):
    """uvicorn's protocol, which also hands itself to the application.

    ASGI cannot break a connection off; the transport can.
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
    """Says where it listens as soon as it does."""

    def __init__(self, config: uvicorn.Config, api_key: str) -> None:
        super().__init__(config)
        self._api_key = api_key

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, then prints the two lines that programs and people wait for."""
        await super().startup(sockets)
        if not self.started:
            return
        port = self.servers[0].sockets[0].getsockname()[1]
        url = f"http://{HOST}:{port}"
        connection = {"conn_type": "deepshi", "host": url, "password": self._api_key}
        print(f"Deepshi emulator at {url} (API key {self._api_key})", flush=True)
        print(f"AIRFLOW_CONN_DEEPSHI_DEFAULT='{json.dumps(connection)}'", flush=True)


def serve(*, port: int, latency: float, api_key: str) -> None:
    """Serves until the process is told to stop.

    :param port: 0 = a free one.
    :param latency: seconds that a picture takes.
    """
    state = State(api_key, Settings(latency=latency))
    config = uvicorn.Config(
        build_app(state),
        host=HOST,
        port=port,
        http=ReachableProtocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        # Longer than clients keep idle connections, so that no request meets a closing one.
        timeout_keep_alive=75,
        backlog=4096,
    )
    EmulatorServer(config, api_key).run()
