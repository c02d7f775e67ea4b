"""The report on a run counts what hooks bought in its plain tasks, to the last digit."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from deepshi_provider.emulator.testing import Emulator
from tests.services.airflow_programs import call, environment
from tests.support.places import LocalPlace

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Run:
    """A run that is over.

    :ivar price: USD of one picture.
    """

    place: LocalPlace
    reported: dict[str, float]
    stats: dict[str, Any]
    price: Decimal
    log: str

    def file(self, task_id: str, ending: str) -> str:
        (name,) = [name for name in self.place.names() if name.endswith(f"/{task_id}/report.{ending}")]
        return self.place.read(name).decode()

    def report(self, task_id: str) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.file(task_id, "json"))
        return report


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    home = tmp_path_factory.mktemp("airflow")
    place = LocalPlace(tmp_path_factory.mktemp("images"))
    with Emulator() as emulator:
        emulator.fault("cut", prompt="an owl in the snow", charged=True)
        connection = emulator.connection_json(output_uri=place.uri)
        env = environment(home, Path(__file__).parent / "hook_dags", connection, log_level="INFO")
        log = call("tests.support.run_dags", "hooked", env=env)
        with closing(sqlite3.connect(home / "airflow.db")) as database:
            rows = database.execute("SELECT task_id, value FROM xcom WHERE key = 'run_cost_usd'").fetchall()
        price = Decimal(emulator.requests()[0]["cost_usd"])
        yield Run(place, {task_id: float(value) for task_id, value in rows}, emulator.stats(), price, log)


def test_the_total_is_what_the_server_took(run: Run) -> None:
    report = run.report("everything")
    # Fox, owl and boat: two, three (one of the first try), and one picture; one answer was lost.
    assert run.stats["posts"] == 2 + 4 + 1, run.log
    assert Decimal(report["cost_usd"]) == 6 * run.price
    assert (report["images"], report["unknown_outcomes"], report["untold"]) == (6, 1, 0)
    assert Decimal(report["may_have_cost_usd"]) == run.price
    assert Decimal(report["cost_usd"]) + Decimal(report["may_have_cost_usd"]) == Decimal(run.stats["cost_usd"])
    assert run.reported["everything"] == float(6 * run.price)


def test_what_hooks_bought_in_a_task_has_a_line_of_its_own(run: Run) -> None:
    tasks = [(t["task_id"], t["status"], t["instances"]) for t in run.report("everything")["tasks"]]
    assert tasks == [("boat", "ended", 1), ("script", "hook", 2)]
    sheets = [i["sheet"] for i in run.report("everything")["instances"] if i["status"] == "hook"]
    assert [(s["operation"], s["map_index"], s["try_number"]) for s in sheets] == [("hook", 0, 1), ("hook", 1, 2)]
    assert [Decimal(s["cost_usd"]) for s in sheets] == [2 * run.price, 3 * run.price]
    lines = [line for line in csv.DictReader(io.StringIO(run.file("everything", "csv"))) if line["status"] == "hook"]
    assert [(line["task_id"], line["operation"], line["model"], line["images"]) for line in lines] == [
        ("script", "hook", "deepshi-banana-pro", "2"),
        ("script", "hook", "deepshi-banana-pro", "3"),
    ]
    assert sum(Decimal(line["cost_usd"]) for line in lines) == 5 * run.price
    page = run.file("everything", "html")
    assert page.count('<td>script <span class="soft">') == 1
    assert page.count('<td class="text">hook</td>') == 1 + 2


def test_a_report_on_named_tasks_counts_the_hooks_of_these_alone(run: Run) -> None:
    assert run.reported["only_boat"] == float(run.price)
    assert run.reported["only_script"] == float(5 * run.price)
    assert [task["status"] for task in run.report("only_script")["tasks"]] == ["hook"]
