"""One run of each DAG of this folder, each with its own emulator, whose ledger is compared."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from deepshi_provider.emulator.testing import Emulator
from tests.services.dag_runs import DagRuns
from tests.support.places import LocalPlace
from tests.support.run_dags import MARK

DAGS = ("costly", "too_costly", "hooked")


@dataclass(frozen=True)
class Run:
    """One run of one DAG, with the server's ledger of it.

    :ivar place: where its connection puts images.
    :ivar taken: USD that the server has taken.
    """

    dag_id: str
    database: Path
    place: LocalPlace
    requests: list[dict[str, Any]]
    taken: Decimal
    log: str

    def select(self, query: str, *values: str) -> list[Any]:
        """Query the database; the first parameter is the DAG's id."""
        with closing(sqlite3.connect(self.database)) as database:
            return database.execute(query, (self.dag_id, *values)).fetchall()

    def file(self, task_id: str, ending: str) -> str:
        """Return the report file of a task."""
        (name,) = [name for name in self.place.names() if name.endswith(f"/{task_id}/report.{ending}")]
        return self.place.read(name).decode()


@pytest.fixture(scope="session")
def runs(dag_runs: DagRuns, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """The runs by DAG id."""
    root = tmp_path_factory.mktemp("reports")
    with contextlib.ExitStack() as running:
        servers = {dag_id: running.enter_context(Emulator()) for dag_id in DAGS}
        places = {dag_id: LocalPlace(root / dag_id) for dag_id in DAGS}
        for dag_id, server in servers.items():
            if dag_id == "hooked":
                server.fault("cut", prompt="an owl in the snow", charged=True)
                continue
            server.fault("not_an_image", prompt="a spoilt boat")
            server.fault("cut", prompt="a lost boat", charged=True)
            server.fault("status", status=402, prompt="a refused boat", times=None)
        variables = {f"DEEPSHI_OF_{d}": servers[d].connection_json(output_uri=places[d].uri) for d in DAGS}
        dags = [f"{dag_id}=DEEPSHI_OF_{dag_id}" for dag_id in DAGS]
        _, log = dag_runs.run(Path(__file__).parent / "dags", dags, variables=variables)
        logs = dict(part.split("\n", 1) for part in log.split(MARK)[1:])
        yield {
            dag_id: Run(
                dag_id,
                dag_runs.database,
                places[dag_id],
                server.requests(),
                Decimal(server.stats()["cost_usd"]),
                logs[dag_id],
            )
            for dag_id, server in servers.items()
        }
