"""Sums over sheets of which a part is in doubt."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from deepshi_provider.costs.tally import Tally
from deepshi_provider.journal.entries import Owner
from deepshi_provider.journal.sheets import make_sheet
from deepshi_provider.plugins.costs.sheets import SheetRow
from deepshi_provider.plugins.costs.totals import Totals


def row(task_id: str, tally: Tally) -> SheetRow:
    owner = Owner(dag_id="d", run_id="r", task_id=task_id)
    sheet = make_sheet(owner, "generate", "file:///x", None, ended=True, **tally.sums())
    return SheetRow("d", "r", task_id, -1, datetime(2026, 1, 1, tzinfo=timezone.utc), json.dumps(sheet.as_xcom()))


def said(entries: dict[str, Any], name: str) -> dict[str, tuple[str, int, int, str | None]]:
    return {e[name]: (e["cost_usd"], e["untold"], e["unknown_outcomes"], e["up_to_usd"]) for e in entries["entries"]}


def rows() -> list[SheetRow]:
    known = Tally()
    known.paid("a", "f", Decimal("0.039"), 1, "class a")
    lost = Tally()
    for _ in range(2):
        lost.lost("a", "g", "class a")
    lost.learn("class a", Decimal("0.039"))
    untold = Tally()
    untold.paid("b", "h", None, 1, "class b")
    return [row("known", known), row("lost", lost), row("untold", untold)]


def test_every_table_says_what_may_have_been_charged_besides() -> None:
    totals = Totals()
    totals.add_all(rows()[:2])
    found = totals.as_json()
    assert said(found["tasks"], "task_id") == {"known": ("0.039", 0, 0, "0.039"), "lost": ("0", 0, 2, "0.078")}
    assert said(found["dags"], "dag_id") == {"d": ("0.039", 0, 2, "0.117")}
    assert said(found["runs"], "run_id") == {"r": ("0.039", 0, 2, "0.117")}
    assert said(found["models"], "model") == {"a": ("0.039", 0, 2, "0.117")}
    assert (found["totals"]["may_have_cost_usd"], found["totals"]["up_to_usd"]) == ("0.078", "0.117")


def test_a_cost_of_unknown_price_makes_the_upper_bound_unknown() -> None:
    totals = Totals()
    totals.add_all(rows())
    found = totals.as_json()
    assert said(found["tasks"], "task_id")["untold"] == ("0", 1, 0, None)
    assert said(found["dags"], "dag_id") == {"d": ("0.039", 1, 2, None)}
    assert (found["totals"]["untold"], found["totals"]["not_told"]) == (1, 1)


def test_a_model_has_its_own_part_of_the_doubt() -> None:
    totals = Totals(model="a")
    totals.add_all(rows())
    found = totals.as_json()["totals"]
    assert (found["cost_usd"], found["untold"], found["unknown_outcomes"], found["up_to_usd"]) == (
        "0.039",
        0,
        2,
        "0.117",
    )
