"""Filtered sums over sheets: upper bounds, the previous period, bars and tables."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from deepshi_provider.costs.tally import Tally
from deepshi_provider.journal.entries import Owner
from deepshi_provider.journal.sheets import make_sheet
from deepshi_provider.plugins.costs.book import Book
from deepshi_provider.plugins.costs.month import BASIS_DAYS, Budget, first_day, month_as_json
from deepshi_provider.plugins.costs.sheets import SheetRow
from deepshi_provider.plugins.costs.tables import pictures_csv, table_csv
from deepshi_provider.plugins.costs.views import MOST_ENTRIES, MOST_PARTS, Choice, View

DAY = date(2026, 3, 10)
TABLES = ("dags", "tasks", "models", "runs")


def row(
    task_id: str, tally: Tally, *, day: date = DAY, dag_id: str = "d", run_id: str = "r", conn_id: str | None = None
) -> SheetRow:
    owner = Owner(dag_id=dag_id, run_id=run_id, task_id=task_id)
    sheet = make_sheet(owner, "generate", "file:///x", None, ended=True, deepshi_conn_id=conn_id, **tally.sums())
    at = datetime(day.year, day.month, day.day, 12, tzinfo=timezone.utc)
    return SheetRow(dag_id, run_id, task_id, -1, at, json.dumps(sheet.as_xcom()))


def paid(cost: str, *, model: str = "a", images: int = 1) -> Tally:
    tally = Tally()
    tally.paid(model, "f", Decimal(cost), images, f"class {model}")
    return tally


def view(rows: list[SheetRow], *, start: date = DAY, end: date = DAY, **filters: Any) -> View:
    return View(Book().count(rows), Choice(**{"dag_ids": frozenset({"d", "e"}), **filters}), start, end)


def entries_by(entries: dict[str, Any], name: str) -> dict[str, tuple[str, int, int, str | None]]:
    return {e[name]: (e["cost_usd"], e["untold"], e["unknown_outcomes"], e["up_to_usd"]) for e in entries["entries"]}


def doubtful() -> list[SheetRow]:
    lost = Tally()
    for _ in range(2):
        lost.lost("a", "g", "class a")
    lost.learn("class a", Decimal("0.039"))
    untold = Tally()
    untold.paid("b", "h", None, 1, "class b")
    return [row("known", paid("0.039")), row("lost", lost), row("untold", untold)]


def test_every_table_has_the_possible_additional_costs() -> None:
    found = view(doubtful()[:2]).as_json(TABLES)
    assert entries_by(found["tasks"], "task_id") == {"known": ("0.039", 0, 0, "0.039"), "lost": ("0", 0, 2, "0.078")}
    assert entries_by(found["dags"], "dag_id") == {"d": ("0.039", 0, 2, "0.117")}
    assert entries_by(found["runs"], "run_id") == {"r": ("0.039", 0, 2, "0.117")}
    assert entries_by(found["models"], "model") == {"a": ("0.039", 0, 2, "0.117")}
    assert (found["totals"]["may_have_cost_usd"], found["totals"]["up_to_usd"]) == ("0.078", "0.117")


def test_the_highest_possible_cost_comes_first() -> None:
    found = view(doubtful()[:2]).as_json(TABLES)
    assert [entry["task_id"] for entry in found["tasks"]["entries"]] == ["lost", "known"]


def test_a_cost_of_unknown_price_makes_the_upper_bound_unknown() -> None:
    found = view(doubtful()).as_json(TABLES)
    assert entries_by(found["tasks"], "task_id")["untold"] == ("0", 1, 0, None)
    assert entries_by(found["dags"], "dag_id") == {"d": ("0.039", 1, 2, None)}
    assert (found["totals"]["untold"], found["totals"]["incomplete"]) == (1, 1)


def test_a_model_has_its_own_possible_costs() -> None:
    found = view(doubtful(), model="a").as_json(TABLES)["totals"]
    sums = (found["cost_usd"], found["untold"], found["unknown_outcomes"], found["up_to_usd"])
    assert sums == ("0.039", 0, 2, "0.117")


def test_a_task_of_two_models_is_one_task_instance() -> None:
    both = paid("0.039")
    both.paid("b", "g", Decimal("0.05"), 1)
    found = view([row("t", both)]).as_json(TABLES)["totals"]
    assert (found["task_instances"], found["cost_usd"], found["per_image_usd"]) == (1, "0.089", "0.044500000000")
    of_one = view([row("t", both)], model="b").as_json(TABLES)["totals"]
    assert (of_one["task_instances"], of_one["cost_usd"]) == (1, "0.05")


def test_a_budget_group_has_its_own_sums() -> None:
    rows = [row("t", paid("0.2")), row("u", paid("0.1"))]
    sheet = {**json.loads(rows[0].text), "budget_group": "team-a"}
    found = view([rows[0]._replace(text=json.dumps(sheet)), rows[1]], group="team-a")
    assert found.total.cost_usd == Decimal("0.2")
    assert found.as_json(TABLES)["choices"]["groups"] == ["team-a"]


def test_costs_without_a_picture_are_listed_separately() -> None:
    both = paid("0.039")
    both.paid("a", "g", Decimal("0.05"), 0)
    found = view([row("t", both)])
    totals = found.as_json(TABLES)["totals"]
    assert (totals["cost_usd"], totals["failed_usd"]) == ("0.089", "0.05")
    (day,) = found.days_as_json("dag")["days"]
    assert (day["parts"], day["failed_usd"]) == (["0.039", "0.000"], "0.05")


def test_the_previous_period_is_compared_with_the_same_filters() -> None:
    rows = [
        row("t", paid("0.2")),
        row("t", paid("0.1"), day=DAY - timedelta(days=1)),
        row("u", paid("0.7"), day=DAY - timedelta(days=1)),
    ]
    found = view(rows, task_id="t").as_json(TABLES)
    assert (found["totals"]["cost_usd"], found["before"]["cost_usd"]) == ("0.2", "0.1")


@pytest.mark.parametrize("stack", ["dag", "model"])
def test_the_parts_of_a_bar_add_up_to_it(stack: Any) -> None:
    rows = [row("t", paid(f"0.{n:02}", model=f"m{n}"), dag_id="d", run_id=f"r{n}") for n in range(1, 12)]
    rows += [row("t", paid("0.5", model="m1"), dag_id="e")]
    found = view(rows).days_as_json(stack)
    (day,) = found["days"]
    assert len(found["series"]) == (2 if stack == "dag" else MOST_PARTS)
    assert len(day["parts"]) == len(found["series"]) + 1
    assert sum(map(Decimal, day["parts"])) == Decimal(day["cost_usd"]) == Decimal("1.16")


def test_a_dag_without_access_is_nowhere() -> None:
    rows = [row("t", paid("0.2")), row("t", paid("0.1"), dag_id="secret", run_id="hidden")]
    found = view(rows)
    written = json.dumps([found.as_json(TABLES), found.days_as_json("dag")]) + "".join(table_csv(found, "runs"))
    assert "secret" not in written
    assert "hidden" not in written
    assert found.total.cost_usd == Decimal("0.2")
    assert found.hidden == 1


def test_csv_has_every_entry_and_the_same_sum() -> None:
    rows = [row("t", paid(f"0.{n:03}"), run_id=f"r{n}") for n in range(1, MOST_ENTRIES + 6)]
    found = view(rows)
    lines = list(csv.DictReader("".join(table_csv(found, "runs")).splitlines()))
    shown = found.as_json(TABLES)["runs"]
    assert len(lines) == MOST_ENTRIES + 5 == len(shown["entries"]) + shown["others"]["count"]
    assert [line["run_id"] for line in lines[:MOST_ENTRIES]] == [entry["run_id"] for entry in shown["entries"]]
    assert sum(Decimal(line["cost_usd"]) for line in lines) == found.total.cost_usd


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1", "\r=1", "\n=1", "＝1"])  # noqa: RUF001
def test_no_cell_is_a_formula(name: str) -> None:
    found = view([row(name, paid("0.2"), run_id=name)])
    (line,) = csv.DictReader("".join(table_csv(found, "tasks")).splitlines(keepends=True))
    assert line["task_id"] == f"'{name}"
    picture = {"prompt": name, "models": [], "key": name, "dag_id": "d"}
    (line,) = csv.DictReader("".join(pictures_csv([picture])).splitlines(keepends=True))
    assert (line["prompt"], line["key"]) == (f"'{name}", f"'{name}")


def budget(conn_id: str = "main", **more: Any) -> Budget:
    return Budget(**{"conn_id": conn_id, "per_month": Decimal(40), "per_day": Decimal(2), **more})


def month_of(rows: list[SheetRow], *budgets: Budget, **filters: Any) -> dict[str, Any]:
    return month_as_json(view(rows, start=first_day(DAY), end=DAY, **filters), DAY, budgets)


def test_budgets_of_two_connections_are_never_added_up() -> None:
    rows = [
        row("t", paid("1"), conn_id="main"),
        row("t", paid("0.5"), conn_id="main", day=DAY - timedelta(days=1)),
        row("t", paid("7"), conn_id="other"),
        row("t", paid("100"), conn_id="main", day=DAY - timedelta(days=DAY.day)),
    ]
    limits = (budget(), budget("other", per_month=Decimal(8), per_day=None, zone="Europe/Berlin"))
    month = month_of(rows, *limits)
    assert (month["spent_usd"], month["budget_usd"], month["day_budget_usd"]) == ("8.5", None, None)
    assert month["budgets"] == [
        {
            "connection": "main",
            "group": None,
            "zone": "UTC",
            "spent_usd": "1.5",
            "limit_usd": "40",
            "today_usd": "1",
            "day_limit_usd": "2",
        },
        {
            "connection": "other",
            "group": None,
            "zone": "Europe/Berlin",
            "spent_usd": "7",
            "limit_usd": "8",
            "today_usd": "7",
            "day_limit_usd": None,
        },
    ]
    of_one = month_of(rows, limits[1], conn_id="other")
    assert (of_one["spent_usd"], of_one["budget_usd"]) == ("7", "8")


def test_a_budget_is_no_line_beside_costs_that_do_not_count_against_it() -> None:
    rows = [row("t", paid("1"), conn_id="main"), row("t", paid("2"), conn_id=None)]
    assert month_of(rows, budget())["budget_usd"] is None
    assert month_of(rows, budget())["budgets"][0]["spent_usd"] == "1"
    assert month_of(rows, budget(counts_unnamed=True))["budget_usd"] == "40"
    assert month_of(rows[:1], budget())["budget_usd"] == "40"


def test_a_task_that_has_bought_nothing_is_no_model() -> None:
    rows = [row("waits", Tally()), row("t", paid("1")), row("reused", Tally())]
    found = view(rows)
    assert [entry["model"] for entry in found.as_json(TABLES)["models"]["entries"]] == ["a"]
    assert [line["model"] for line in csv.DictReader("".join(table_csv(found, "models")).splitlines())] == ["a"]
    unknown = {**json.loads(rows[0].text), "cost_usd": None}
    found = view([rows[0]._replace(text=json.dumps(unknown))])
    assert [entry["model"] for entry in found.as_json(TABLES)["models"]["entries"]] == [""], "its cost is unknown"


def test_the_forecast_continues_the_last_days() -> None:
    today = date(2026, 3, 16)
    rows = [row("t", paid("1"), day=today - timedelta(days=back)) for back in range(1, BASIS_DAYS + 1)]
    rows += [row("t", paid("0.25"), day=today), row("t", paid("50"), day=today - timedelta(days=BASIS_DAYS + 1))]
    found = view(rows, start=first_day(today), end=today)
    month = month_as_json(found, today, [budget(counts_unnamed=True)])
    assert (month["start"], month["end"], len(month["days"])) == ("2026-03-01", "2026-03-31", 16)
    assert (month["spent_usd"], month["today_usd"]) == ("64.25", "0.25")
    # The rest of today, and fifteen more days.
    assert Decimal(month["forecast_usd"]) == Decimal("64.25") + Decimal("0.75") + 15
    assert (month["budget_usd"], month["day_budget_usd"]) == ("40", "2")


def test_a_longer_book_has_the_same_sums_as_one_of_the_period() -> None:
    lost = Tally()
    lost.lost("a", "g", "class a")
    rows = [
        row(f"t{number % 3}", tally, day=DAY - timedelta(days=number), run_id=f"r{number}", dag_id="de"[number % 2])
        for number in range(40)
        for tally in (lost if number % 7 == 0 else paid(f"0.{number + 1:03}", model="ab"[number % 2]),)
    ]
    rows += [row("t", paid("9"), dag_id="secret", day=DAY - timedelta(days=number)) for number in (3, 30)]
    rows += [rows[0]._replace(text="{}", timestamp=rows[number].timestamp) for number in (2, 5, 15, 30)]
    start, first = DAY - timedelta(days=9), DAY - timedelta(days=19)
    exact = [found for found in rows if first <= found.timestamp.date() <= DAY]
    hidden, runs = set(), set()
    every = Choice(dag_ids=frozenset({"d", "e"}))
    for choice in (every, replace(every, dag_id="d"), replace(every, model="a"), replace(every, task_id="t1")):
        views = [
            View(Book(runs_from=from_).count(counted), choice, start, DAY, first)
            for from_, counted in ((start, exact), (DAY - timedelta(days=25), rows))
        ]
        of_period, of_more = [
            ({**found.as_json(TABLES), "counted_at": 0}, found.days_as_json("model"), list(table_csv(found, "runs")))
            for found in views
        ]
        assert of_period == of_more
        assert of_more[0]["unreadable"] == 3
        runs.add(of_more[0]["totals"]["runs"])
        hidden |= {found.hidden for found in views}
    assert (hidden, max(runs)) == ({1}, 10)


@pytest.mark.slow
def test_a_view_does_not_change_the_book() -> None:
    book = Book().count([row("t", paid("0.1"), run_id="r"), row("t", paid("0.2"), run_id="s"), *doubtful()])
    before = {line: repr(found) for line, found in (*book.lines.items(), *book.days.items())}
    for _ in range(2):
        found = View(book, Choice(dag_ids=frozenset({"d"})), DAY, DAY)
        found.as_json(TABLES)
        found.days_as_json("dag")
        list(table_csv(found, "days"))
    assert before == {line: repr(found) for line, found in (*book.lines.items(), *book.days.items())}
