"""The report of a run counts the purchases of hooks in its plain tasks to the last digit."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from tests.reports.conftest import Run

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Purchases:
    """The outputs of the run.

    :ivar reported: XCom ``run_cost_usd`` of each report.
    :ivar price: USD of one picture.
    """

    run: Run
    reported: dict[str, float]
    price: Decimal

    def report(self, task_id: str) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.run.file(task_id, "json"))
        return report


@pytest.fixture
def bought(runs: dict[str, Run]) -> Purchases:
    run = runs["hooked"]
    rows = run.select("SELECT task_id, value FROM xcom WHERE dag_id = ? AND key = 'run_cost_usd'")
    price = Decimal(run.requests[0]["cost_usd"])
    return Purchases(run, {task_id: float(value) for task_id, value in rows}, price)


def test_the_total_equals_the_servers_charges(bought: Purchases) -> None:
    report = bought.report("everything")
    # Fox, owl and boat bought two, three (one in the first try) and one picture; one answer was lost.
    assert len(bought.run.requests) == 2 + 4 + 1, bought.run.log
    assert Decimal(report["cost_usd"]) == 6 * bought.price
    assert (report["images"], report["unknown_outcomes"], report["untold"]) == (6, 1, 0)
    assert Decimal(report["may_have_cost_usd"]) == bought.price
    assert Decimal(report["cost_usd"]) + Decimal(report["may_have_cost_usd"]) == bought.run.taken
    assert bought.reported["everything"] == float(6 * bought.price)


def test_purchases_of_hooks_in_a_task_have_their_own_line(bought: Purchases) -> None:
    tasks = [(t["task_id"], t["status"], t["instances"]) for t in bought.report("everything")["tasks"]]
    assert tasks == [("boat", "ended", 1), ("script", "hook", 2)]
    sheets = [i["sheet"] for i in bought.report("everything")["instances"] if i["status"] == "hook"]
    assert [(s["operation"], s["map_index"], s["try_number"]) for s in sheets] == [("hook", 0, 1), ("hook", 1, 2)]
    assert [Decimal(s["cost_usd"]) for s in sheets] == [2 * bought.price, 3 * bought.price]
    lines = [
        line for line in csv.DictReader(io.StringIO(bought.run.file("everything", "csv"))) if line["status"] == "hook"
    ]
    assert [(line["task_id"], line["operation"], line["model"], line["images"]) for line in lines] == [
        ("script", "hook", "deepshi-banana-pro", "2"),
        ("script", "hook", "deepshi-banana-pro", "3"),
    ]
    assert sum(Decimal(line["cost_usd"]) for line in lines) == 5 * bought.price
    page = bought.run.file("everything", "html")
    assert page.count('<td>script <span class="quiet">') == 1
    assert page.count('<td class="text">hook</td>') == 1 + 2


def test_a_report_on_named_tasks_counts_only_their_hooks(bought: Purchases) -> None:
    assert bought.reported["only_boat"] == float(bought.price)
    assert bought.reported["only_script"] == float(5 * bought.price)
    assert [task["status"] for task in bought.report("only_script")["tasks"]] == ["hook"]
