"""The running services, and a client of the page's routes."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from deepshi_provider.emulator.testing import Emulator
from tests.services.airflow import Airflow

PREFIX = "/deepshi-costs"

#: DAG id to run id.
Runs = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Site:
    """An Airflow whose runs have ended.

    :ivar ledgers: what the emulator had charged when the run of each DAG had ended, one after the other.
    """

    airflow: Airflow
    deepshi: Emulator
    images: Path
    runs: Runs
    ledgers: dict[str, dict[str, Any]]
    clients: dict[str | None, httpx.Client] = field(default_factory=dict)

    @property
    def ledger(self) -> dict[str, Any]:
        """The emulator's ledger of the run of ``pictures``."""
        return self.ledgers["pictures"]

    def client(self, user: str | None) -> httpx.Client:
        """Return a client logged in by cookie, like a browser; with ``None``, one without login."""
        if user not in self.clients:
            cookies = {"_token": self.airflow.token(user)} if user else {}
            self.clients[user] = httpx.Client(
                base_url=self.airflow.base_url, trust_env=False, timeout=30, cookies=cookies
            )
        return self.clients[user]

    def get(self, path: str, user: str | None = "admin", **query: object) -> httpx.Response:
        """Get a route of the page."""
        return self.client(user).get(f"{PREFIX}{path}", params={name: str(value) for name, value in query.items()})

    def data(self, user: str = "admin", **query: object) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/data", user, **query).raise_for_status().json()
        return found

    def pictures(self, user: str = "admin", **query: object) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/gallery", user, **query).raise_for_status().json()["pictures"]
        return found

    def write_sheet(self, task_id: str, value: Any, *, dag_id: str = "strange") -> dict[str, Any]:
        """Write an XCom like any user who may write XComs; return the task as parameters of ``/image``."""
        run_id = self.runs[dag_id]
        with closing(sqlite3.connect(self.airflow.database_path, timeout=30)) as database, database:
            row = database.execute("SELECT id FROM dag_run WHERE dag_id = ? AND run_id = ?", (dag_id, run_id))
            database.execute(
                "INSERT OR REPLACE INTO xcom (dag_run_id, task_id, map_index, key, dag_id, run_id, value, timestamp) "
                "VALUES (?, ?, -1, 'deepshi_cost', ?, ?, ?, ?)",
                (*row.fetchone(), task_id, dag_id, run_id, json.dumps(value), _now()),
            )
        return {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "number": 0}

    def forget_sheets(self, dag_id: str = "strange") -> None:
        with closing(sqlite3.connect(self.airflow.database_path, timeout=30)) as database, database:
            database.execute("DELETE FROM xcom WHERE dag_id = ?", (dag_id,))


def sheet(uri: str, *, output_uri: str, media_type: str = "image/png", cost_usd: str | None = "0.5") -> dict[str, Any]:
    """Return a cost sheet with one image."""
    return {
        "version": 1,
        "ended": True,
        "operation": "generate",
        "dag_id": "strange",
        "run_id": "r",
        "task_id": "t",
        "map_index": -1,
        "try_number": 1,
        "cost_usd": cost_usd,
        "saved_usd": "0",
        "unknown_outcomes": 0,
        "may_have_cost_usd": "0",
        "models": [
            {"model": "m", "cost_usd": cost_usd, "images": 1, "reused": 0, "saved_usd": "0", "unknown_outcomes": 0}
        ],
        "images": [{"uri": uri, "media_type": media_type, "width": 4, "height": 3, "key": None, "sha256": _hash(uri)}],
        "output_uri": output_uri,
        "output_conn_id": None,
        "manifest_uri": None,
    }


def _hash(uri: str) -> str:
    """Return the hash of an image, of which only the first digits count; any for one that is missing or too large."""
    path = Path(unquote(urlsplit(uri).path))
    is_image = path.is_file() and path.stat().st_size < 2**27
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if is_image else 16 * "0"


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")
