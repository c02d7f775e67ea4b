"""The cost sheet: its sums, its size, and that it is the same for blocking and deferred tasks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from decimal import Decimal
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from hypothesis import given
from hypothesis import strategies as st

from deepshi_provider.costs.money import total
from deepshi_provider.costs.sheet import OTHERS, CostSheet, ModelCosts, SheetImage, shortened
from deepshi_provider.costs.tally import Tally
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.reports.totals import InstanceCosts, make_report
from deepshi_provider.triggers.images import DeepshiImagesTrigger
from tests.support.batches import PRICE, batch, rows_of
from tests.support.places import Place
from tests.support.tasks import TaskInstance, context_of, execute, generate

money = st.none() | st.decimals(min_value=0, max_value=1000, places=12)
attempts = st.lists(st.tuples(st.sampled_from([f"model-{number}" for number in range(12)]), money), max_size=40)
BEGUN: dict[str, Any] = {"ended": True, "operation": "batch", "dag_id": "d", "run_id": "r", "task_id": "t"}


@given(attempts)
def test_models_and_total_agree_exactly_also_when_there_are_many(paid: list[tuple[str, Decimal | None]]) -> None:
    tally = Tally()
    for model, cost in paid:
        tally.paid(model, "f", cost, 1)
    sheet = CostSheet.model_validate(CostSheet(**BEGUN, **tally.sums()).as_xcom())
    known = [cost for _, cost in paid if cost is not None]
    assert sheet.cost_usd == (sum(known, Decimal(0)) if known or not paid else None)
    assert sum((model.cost_usd or Decimal(0) for model in sheet.models), Decimal(0)) == sum(known, Decimal(0))
    assert sum(model.images for model in sheet.models) == len(paid)
    assert len(sheet.models) <= 8


@given(attempts, st.lists(st.sampled_from(["a", "b"]), max_size=3))
def test_the_report_of_one_task_has_the_sums_of_its_sheet(
    paid: list[tuple[str, Decimal | None]], lost: list[str]
) -> None:
    tally = Tally()
    for model in lost:
        tally.lost(model)
    for model, cost in paid:
        tally.paid(model, "f", cost, 1)
    sheet = CostSheet(**BEGUN, **tally.sums())
    report = make_report("d", "r", "2026", ["t"], [InstanceCosts(status="ended", sheet=sheet)])
    names = ("cost_usd", "untold", "saved_usd", "unknown_outcomes", "may_have_cost_usd")
    assert [getattr(report, name) for name in names] == [getattr(sheet, name) for name in names]
    unread = sheet.model_copy(update={"models": [], "cost_usd": None})
    assert make_report("d", "r", "2026", [], [InstanceCosts(status="ended", sheet=unread)]).cost_usd is None


def test_lost_attempts_may_cost_the_price_of_similar_ones() -> None:
    tally = Tally()
    for model, fingerprint in (("a", "same"), ("a", "another"), ("b", "unheard")):
        tally.lost(model, fingerprint)
    tally.paid("a", "same", Decimal("0.1"), 1)
    tally.paid("a", "third", Decimal("0.30"), 1)
    assert tally.sums()["may_have_cost_usd"] is None, "nobody knows what b costs"
    tally.paid("b", "other", Decimal(1), 1)
    sums = tally.sums()
    assert (sums["unknown_outcomes"], sums["may_have_cost_usd"]) == (3, Decimal("0.1") + Decimal("0.30") + 1)


def test_sheet_is_below_4_kb_whatever_is_in_it() -> None:
    models = [ModelCosts(model=f"{number}" + "ä" * 99, cost_usd=Decimal(f"0.{number + 1:012}")) for number in range(20)]
    image = SheetImage(uri="s3://bucket/" + "ü" * 900, media_type="image/png", width=1, height=1)
    cost = total(model.cost_usd for model in models)
    sheet = CostSheet(**BEGUN, models=shortened(models), images=[image] * 8, cost_usd=cost)
    value = sheet.as_xcom()
    assert len(json.dumps(value)) <= 4000
    assert sum(Decimal(model["cost_usd"]) for model in value["models"]) == sheet.cost_usd
    assert value["models"][-1]["model"] == OTHERS


def deferred(operator: Any, ti: TaskInstance) -> None:
    """Run one try of a deferrable operator, including its trigger."""
    operator.deferrable = True
    with pytest.raises(TaskDeferred) as raised:
        execute(operator, ti)
    trigger = raised.value.trigger
    assert isinstance(trigger, DeepshiImagesTrigger)

    async def event() -> dict[str, Any]:
        async for fired in trigger.run():
            return dict(fired.payload)
        raise AssertionError("no event")

    copy = operator.prepare_for_execution()
    copy.render_template_fields(context_of(ti))
    copy.execute_complete(context_of(ti), asyncio.run(event()))


@pytest.mark.slow
@pytest.mark.parametrize("fault", [None, "not_an_image", "cut"])
@pytest.mark.parametrize("kind", ["single", "batch"])
def test_blocking_and_deferred_sheets_agree(emulator: Emulator, place: Place, kind: str, fault: str | None) -> None:
    sheets = []
    for way in ("blocking", "deferred"):
        emulator.clear_faults()
        prompt = "a red boat" if kind == "single" else "a boat with the number 3"
        if fault:
            emulator.fault(fault, prompt=prompt, **({"charged": True} if fault == "cut" else {}))
        where: dict[str, Any] = {"output_uri": f"{place.uri}/{way}", "output_conn_id": place.conn_id, "max_resends": 0}
        operator = generate(preflight="off", **where) if kind == "single" else batch(place, rows_of(12), **where)
        ti = TaskInstance(task_id=operator.task_id)
        with contextlib.suppress(DeepshiError, AirflowFailException):
            execute(operator, ti) if way == "blocking" else deferred(operator, ti)
        assert [sheet.ended for sheet in ti.sheets] == [False, True]
        text = json.dumps([sheet.as_xcom() for sheet in ti.sheets])
        sheets.append(json.loads(re.sub(r'"sha256": "\w{16}"', f'"sha256": "{"0" * 16}"', text.replace(f"/{way}", ""))))
    assert sheets[0] == sheets[1]
    last = CostSheet.model_validate(sheets[0][-1])
    count = 12 if kind == "batch" else 1
    assert last.cost_usd == (count - (fault == "cut")) * PRICE
    assert (last.unknown_outcomes, last.models[0].images) == (int(fault == "cut"), count - (fault is not None))


def test_first_sheet_of_a_later_try_has_the_earlier_payments(emulator: Emulator, place: Place) -> None:
    emulator.fault("not_an_image")
    operator = generate(output_uri=place.uri, output_conn_id=place.conn_id, preflight="off")
    first = TaskInstance(task_id="boat")
    with pytest.raises(Exception, match="image"):
        execute(operator, first)
    second = TaskInstance(task_id="boat", try_number=2)
    execute(operator, second)
    assert [sheet.cost_usd for sheet in (*first.sheets, *second.sheets)] == [0, PRICE, PRICE, 2 * PRICE]
