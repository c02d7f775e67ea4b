"""One run of each DAG of this folder, with ``dag.test()`` and a database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from deepshi_provider.emulator.testing import Emulator
from tests.services.dag_runs import DagRuns
from tests.support.places import LocalPlace

DAGS = ["mapped", "mapped_over_xcom", "chain", "native", "retried", "lazy", "labelled", "names", "edits", "bought"]


class Runs(NamedTuple):
    """The outputs of one run of each DAG.

    :param database: Airflow's.
    :param place: the connection's ``output_uri``.
    :param requests: the emulator's journal.
    """

    database: Path
    place: LocalPlace
    requests: list[dict[str, Any]]
    log: str

    def tries(self, dag_id: str) -> dict[str, tuple[str, int]]:
        """State and number of tries of each task instance."""
        rows = self._select("SELECT task_id, map_index, state, try_number FROM task_instance WHERE dag_id = ?", dag_id)
        return {_name(task, index): (state, number) for task, index, state, number in rows}

    def xcoms(self, dag_id: str, key: str) -> dict[str, Any]:
        """The XComs of a run under a key, by task instance."""
        rows = self._select("SELECT task_id, map_index, value FROM xcom WHERE dag_id = ? AND key = ?", dag_id, key)
        # SQLite keeps a JSON number as a number.
        values = [(_name(task, index), value) for task, index, value in rows]
        return {name: json.loads(value) if isinstance(value, str) else value for name, value in values}

    def sent(self, prompt: str) -> list[dict[str, Any]]:
        return [request for request in self.requests if request["prompt"] == prompt]

    def run_folder(self, dag_id: str) -> str:
        """The directory of the run, inside the place."""
        ((run_id,),) = self._select("SELECT run_id FROM dag_run WHERE dag_id = ?", dag_id)
        return f"{dag_id}/{run_id.replace(':', '-').replace('+', '_')}"

    def _select(self, query: str, *values: str) -> list[Any]:
        with closing(sqlite3.connect(self.database)) as database:
            return database.execute(query, values).fetchall()


def _name(task_id: str, map_index: int) -> str:
    return task_id if map_index < 0 else f"{task_id}[{map_index}]"


@pytest.fixture(scope="session")
def runs(dag_runs: DagRuns, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """One run of each DAG."""
    place = LocalPlace(tmp_path_factory.mktemp("images"))
    with Emulator(tls=True) as emulator:
        emulator.fault("not_an_image", prompt="a spoilt boat")
        emulator.fault("cut", prompt="a lost boat", charged=False)
        emulator.fault("status", status=402, prompt="a refused boat", times=None)
        emulator.fault("status", status=402, prompt="a refused chair", times=None)
        emulator.fault("cut", prompt="a boat sent once", times=None, charged=False)
        variables = {"AIRFLOW_CONN_DEEPSHI_DEFAULT": emulator.connection_json(output_uri=place.uri)}
        _, log = dag_runs.run(Path(__file__).parent / "dags", DAGS, variables=variables)
        yield Runs(dag_runs.database, place, emulator.requests(), log)
