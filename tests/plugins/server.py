"""An API server of Airflow with the page, on any database."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.plugins.site import PREFIX
from tests.services.airflow_database import migrate
from tests.services.airflow_settings import USERS, environment, write_passwords
from tests.services.processes import Process, free_ports
from tests.support.waiting import wait_for


@dataclass
class PageServer:
    """A running API server.

    :ivar url: of the database, for SQLAlchemy.
    """

    url: str
    client: httpx.Client
    process: psutil.Process

    def memory(self) -> int:
        return sum(p.memory_info().rss for p in [self.process, *self.process.children(recursive=True)])

    def get(self, path: str, **query: Any) -> tuple[dict[str, Any], float]:
        """Return a route's JSON, and the seconds that it took."""
        begun = time.monotonic()
        found = self.client.get(f"{PREFIX}{path}", params=query).raise_for_status().json()
        return found, time.monotonic() - begun


@contextmanager
def api_server(url: str, home: Path, *, is_new: bool = False) -> Iterator[PageServer]:
    """Start an API server, and wait until it has counted the costs of the default period.

    :param is_new: whether to make Airflow's tables first.
    """
    (port,) = free_ports(1)
    write_passwords(home)
    env = environment(home, home / "dags", port, 1, {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url})
    if is_new:
        migrate(env, home / "migrate.log", timeout=1200)
    command = [sys.executable, "-m", "airflow", "api-server"]
    process = Process("api-server", command, env=env, log_path=home / f"api-server-{port}.log")
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=300)

    def token() -> str | None:
        try:
            answer = client.post("/auth/token", json={"username": "admin", "password": USERS["admin"]})
        except httpx.TransportError:
            return None
        return str(answer.json()["access_token"]) if answer.is_success else None

    try:
        client.cookies.set("_token", wait_for("an API server", 300, token))
        wait_for("a count ahead", 300, lambda: "30 days are counted, in" in process.log_text())
        yield PageServer(url, client, psutil.Process(process.pid))
    finally:
        process.terminate()
        client.close()
