"""Report, XComs and the server's ledger agree on real DAG runs to the last digit."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.journal.spending import Spending
from deepshi_provider.reports.page import rounded
from tests.reports.conftest import Run

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

#: A blocking and a deferred DAG.
DAGS = ["costly", "too_costly"]


def xcoms(run: Run, key: str) -> dict[tuple[str, int], Any]:
    rows = run.select("SELECT task_id, map_index, value FROM xcom WHERE dag_id = ? AND key = ?", key)
    return {(task, index): json.loads(v) if isinstance(v, str) else v for task, index, v in rows}


def states(run: Run) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for task_id, state in run.select("SELECT task_id, state FROM task_instance WHERE dag_id = ?"):
        found.setdefault(task_id, Counter())[state] += 1
    return found


def known(run: Run, prompt: str | None = None) -> Decimal:
    """What the server charged, except for the one lost answer."""
    costs = [r["cost_usd"] for r in run.requests if r["fault"] != "cut" and prompt in (None, r["prompt"])]
    return sum((Decimal(cost) for cost in costs if cost), Decimal(0))


@pytest.fixture(params=DAGS)
def run(request: pytest.FixtureRequest, runs: dict[str, Run]) -> Run:
    return runs[request.param]


def test_the_run_ended_as_expected(run: Run) -> None:
    end = "success" if run.dag_id == "costly" else "failed"
    assert states(run) == {
        "boats": {"success": 3},
        "blue": {"success": 1},
        "catalog": {"success": 1},
        "animal": {"success": 2},
        "other": {"skipped": 1},
        "refused": {"failed": 1},
        "never": {"upstream_failed": 1},
        "report": {end: 1},
    }, run.log


def test_report_agrees_with_the_servers_ledger_to_the_last_digit(run: Run) -> None:
    report = json.loads(run.file("report", "json"))
    lost = [Decimal(r["cost_usd"]) for r in run.requests if r["fault"] == "cut"]
    assert len(lost) == 1
    assert Decimal(report["cost_usd"]) == known(run)
    assert (report["unknown_outcomes"], Decimal(report["may_have_cost_usd"])) == (1, lost[0])
    assert Decimal(report["cost_usd"]) + Decimal(report["may_have_cost_usd"]) == run.taken
    assert (report["images"], report["reused"], report["untold"]) == (3 + 1 + 13 + 2, 0, 0)
    models = [Decimal(model["may_have_cost_usd"]) for model in report["models"]]
    assert sum(models) == lost[0], "by model too"
    by_model: Counter[str] = Counter()
    for request in run.requests:
        if request["fault"] != "cut" and request["cost_usd"]:
            by_model[request["model"]] += Decimal(request["cost_usd"])  # type: ignore[assignment] # exact sums
    assert {model["model"]: Decimal(model["cost_usd"]) for model in report["models"]} == by_model


def test_each_task_has_its_share_including_failed_tries(run: Run) -> None:
    tasks = {task["task_id"]: task for task in json.loads(run.file("report", "json"))["tasks"]}
    assert list(tasks) == ["boats", "blue", "catalog", "refused", "never", "animal"]
    boats = sum(known(run, prompt) for prompt in ("a red boat", "a spoilt boat", "a lost boat"))
    rows = sum(known(run, f"row {number}") for number in range(12)) + known(run, "large")
    assert Decimal(tasks["boats"]["cost_usd"]) == boats
    assert Decimal(tasks["blue"]["cost_usd"]) == known(run, "make it blue")
    assert Decimal(tasks["catalog"]["cost_usd"]) == rows
    assert Decimal(tasks["animal"]["cost_usd"]) == known(run, "a fox") + known(run, "a owl")
    assert (tasks["refused"]["status"], tasks["refused"]["cost_usd"]) == ("ended", "0")
    assert tasks["never"]["status"] == "not run"
    assert (tasks["boats"]["instances"], tasks["animal"]["instances"]) == (3, 2)


def test_sheets_and_numbers_in_xcom_agree(run: Run) -> None:
    numbers = xcoms(run, "cost_usd")
    sheets = {who: CostSheet.model_validate(value) for who, value in xcoms(run, "deepshi_cost").items()}
    reported = xcoms(run, "run_cost_usd").pop(("report", -1))
    assert sheets.keys() == numbers.keys(), "whoever adds up cost_usd counts nothing twice"
    assert all(sheet.ended for sheet in sheets.values())
    assert {who: float(sheet.cost_usd or 0) for who, sheet in sheets.items()} == numbers
    assert sum((sheet.cost_usd or Decimal(0) for sheet in sheets.values()), Decimal(0)) == known(run)
    assert reported == float(known(run))
    spoilt = sheets["boats", 1]
    assert spoilt.cost_usd == known(run, "a spoilt boat") > 0
    assert (spoilt.try_number, spoilt.models[0].images, len(spoilt.images)) == (2, 1, 1)
    lost = sheets["boats", 2]
    assert (lost.unknown_outcomes, lost.may_have_cost_usd) == (1, lost.cost_usd)
    assert [image.key for image in sheets["catalog", -1].images] == [f"row-{number}" for number in range(8)]
    assert sheets["blue", -1].operation == "edit"


def test_csv_and_page_agree(run: Run) -> None:
    lines = list(csv.DictReader(io.StringIO(run.file("report", "csv"))))
    assert sum((Decimal(line["cost_usd"] or 0) for line in lines), Decimal(0)) == known(run)
    assert sum(int(line["images"] or 0) for line in lines) == 19
    page = run.file("report", "html")
    assert f'<span title="${known(run):f}">{rounded(known(run))}</span></strong>' in page
    assert page.count("data:image/webp;base64,") == 3 + 1 + 8 + 2
    assert "<script" not in page


def test_limits_are_checked_after_the_report_is_written(run: Run) -> None:
    words = f"This run has cost at least ${known(run):f}, up to about ${run.taken:f} (1 unknown outcome)"
    assert f"{words}, more than warn_cost_usd" in run.log
    exceeded = f"{words}, more than max_cost_usd $0.01. Report: {run.place.uri}/too_costly/"
    assert (exceeded in run.log) == (run.dag_id == "too_costly")


def test_a_failed_image_task_fails_the_run(run: Run) -> None:
    assert json.loads(run.file("report", "json"))["failed"] == ["refused", "never"]
    failed = "2 image task(s) failed: refused, never"
    assert (failed in run.log) == (run.dag_id != "costly")


def test_entries_of_the_run_ledger_agree(run: Run) -> None:
    """If a task has several entries, the largest counts: a later try cannot know which one an earlier try left."""
    greatest: dict[str, Spending] = {}
    for name in (name.rpartition("/")[2] for name in run.place.names() if name.startswith("_deepshi_runs/")):
        spent = name.partition(".")[2].removesuffix(".json")
        entry = Spending.of_name(spent) if "_" in spent else Spending(Decimal(spent))
        greatest[name[:16]] = max(entry, greatest.get(name[:16], entry))
    entries = greatest.values()
    assert len(entries) == 3 + 1 + 1 + 2 + 1
    together = sum(entries, Spending())
    assert together == Spending(known(run), run.taken - known(run)), "the lost boat"
