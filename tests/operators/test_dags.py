"""Real DAG runs, with ``dag.test()`` and a database: what Airflow itself does with our operators."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from deepshi_provider.emulator.testing import Emulator
from tests.services.airflow_programs import call, environment
from tests.support.places import LocalPlace

pytestmark = pytest.mark.airflow

DAGS = ["mapped", "mapped_over_xcom", "chain", "native", "retried"]
REFUSAL = 402


class Runs(NamedTuple):
    """What is left of one run of each DAG.

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


def _paths(xcom: dict[str, Any]) -> list[Path]:
    return [Path(urlsplit(image["uri"]).path) for image in xcom["images"]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """One run of each DAG, in one process of its own."""
    home = tmp_path_factory.mktemp("airflow")
    place = LocalPlace(tmp_path_factory.mktemp("images"))
    with Emulator(tls=True) as emulator:
        emulator.fault("not_an_image", prompt="a spoilt boat")
        emulator.fault("cut", prompt="a lost boat", charged=False)
        emulator.fault("status", status=REFUSAL, prompt="a refused boat", times=None)
        emulator.fault("cut", prompt="a boat sent once", times=None, charged=False)
        connection = emulator.connection_json(output_uri=place.uri)
        env = environment(home, Path(__file__).parent / "dags", connection, log_level="INFO")
        log = call("tests.support.run_dags", *DAGS, env=env)
        yield Runs(home / "airflow.db", place, emulator.requests(), log)


def test_expanded_task_has_a_directory_per_map_index(runs: Runs) -> None:
    assert runs.tries("mapped") == {f"boats[{index}]": ("success", 1) for index in range(3)}
    values = runs.xcoms("mapped", "return_value")
    folder = f"{runs.place.uri}/{runs.run_folder('mapped')}/boats"
    assert {name: [image["uri"] for image in value["images"]] for name, value in values.items()} == {
        f"boats[{index}]": [f"{folder}/{index}/image-0.jpg"] for index in range(3)
    }
    prompts = ["one boat", "two boats", "a boat of jpeg"]
    for index, prompt in enumerate(prompts):
        (request,) = runs.sent(prompt)
        assert (request["fields"]["seed"], request["fields"]["output_format"]) == (index, "jpeg")
        (path,) = _paths(values[f"boats[{index}]"])
        assert path.stat().st_size == values[f"boats[{index}]"]["images"][0]["size_bytes"]
        assert runs.xcoms("mapped", "cost_usd")[f"boats[{index}]"] == float(request["cost_usd"])


def test_values_from_upstream_are_no_templates(runs: Runs) -> None:
    assert set(runs.xcoms("mapped_over_xcom", "cost_usd")) == {"boats[0]", "boats[1]", "sized[0]", "sized[1]"}
    assert [len(runs.sent(prompt)) for prompt in ("{{ not a template }}", "b")] == [1, 1]
    assert sorted(request["fields"]["width"] for request in runs.sent("sized")) == [64, 65]


def test_edit_takes_the_output_of_a_generation_as_it_is(runs: Runs) -> None:
    assert set(runs.tries("chain").values()) == {("success", 1)}
    values = runs.xcoms("chain", "return_value")
    (generation,), (edit,), (second,) = (runs.sent(p) for p in ("a pair of boats", "make it blue", "make it red"))
    assert generation["fields"]["width"] == 64
    assert [image["sha256"] for image in edit["images"]] == [image["sha256"] for image in values["made"]["images"]]
    assert [image["sha256"] for image in second["images"]] == [image["sha256"] for image in values["blue"]["images"]]
    assert values["total"] == {
        "cost_usd": values["made"]["cost_usd"] + values["blue"]["cost_usd"],
        "uris": [image["uri"] for image in values["blue"]["images"]],
    }
    for path in _paths(values["made"]) + _paths(values["blue"]) + _paths(values["again"]):
        assert path.is_file()


def test_native_rendering_gives_numbers_and_lists(runs: Runs) -> None:
    assert set(runs.tries("native").values()) == {("success", 1)}
    (first,), (second,) = runs.sent("1984"), runs.sent("native")
    assert {"width": 64, "height": 48}.items() <= first["fields"].items()
    assert "seed" not in first["fields"]
    (image,) = runs.xcoms("native", "return_value")["first"]["images"]
    assert [sent["sha256"] for sent in second["images"]] == [image["sha256"]]


def test_retries_are_made_where_they_may_help(runs: Runs) -> None:
    assert runs.tries("retried") == {
        "spoilt": ("success", 2),
        "lost": ("success", 2),
        "refused": ("failed", 1),
        "never": ("failed", 1),
        "wrong": ("failed", 1),
    }
    prompts = ["a spoilt boat", "a lost boat", "a refused boat", "a boat sent once", "a boat"]
    assert [len(runs.sent(prompt)) for prompt in prompts] == [2, 2, 1, 1, 0]
    assert runs.sent("a lost boat")[0]["fields"]["seed"] == 7, "default_args reach the operator"
    values = runs.xcoms("retried", "return_value")
    assert set(values) == {"spoilt", "lost"}
    assert (values["lost"]["unknown_outcomes"], values["spoilt"]["unknown_outcomes"]) == (1, 0)


def test_costs_count_all_tries_and_are_told_by_failed_tasks_too(runs: Runs) -> None:
    costs = runs.xcoms("retried", "cost_usd")
    paid = {
        prompt: sum((Decimal(request["cost_usd"] or 0) for request in runs.sent(prompt)), Decimal(0))
        for prompt in ("a spoilt boat", "a lost boat")
    }
    assert {task: Decimal(repr(cost)) for task, cost in costs.items()} == {
        "spoilt": paid["a spoilt boat"],
        "lost": paid["a lost boat"],
        "refused": 0,
        "never": 0,
        "wrong": 0,
    }
    assert paid["a spoilt boat"] == 2 * paid["a lost boat"] > 0


def test_logs_name_neither_the_key_nor_bytes(runs: Runs) -> None:
    assert "sk-bf-emulator" not in runs.log
    assert len(max(runs.log.splitlines(), key=len)) < 20_000
