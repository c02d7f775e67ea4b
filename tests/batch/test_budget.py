"""``max_cost_usd`` holds by the server's count, whatever happens."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from deepshi_provider.api.requests import EditRequest, GenerateRequest
from deepshi_provider.batch.budget import Budget
from deepshi_provider.costs.price_class import price_class
from deepshi_provider.costs.sheet import Doubt
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import BudgetExceeded
from deepshi_provider.journal.bill import Bill
from tests.support.batches import (
    BANANA,
    PRICE,
    batch,
    cost_of,
    counts,
    ended,
    lines_of,
    manifests,
    result_of,
    rows_of,
    statuses,
)
from tests.support.counts import posts, taken
from tests.support.places import Place, state


@pytest.mark.slow
@pytest.mark.parametrize("repetition", range(20))
def test_the_limit_holds_with_many_in_flight(emulator: Emulator, local: Place, repetition: int) -> None:
    emulator.settings(latency=[0.1, 0.3])
    ti, err = ended(batch(local, rows_of(40), **BANANA, max_cost_usd=1.00, max_concurrency=16))
    assert isinstance(err, AirflowFailException)
    assert "Raise max_cost_usd and clear the task to go on; 15 of 40 rows were not started" in str(err)
    assert taken(emulator) == Decimal("0.975") == cost_of(lines_of(local))
    assert ti.xcoms == {"cost_usd": 0.975}
    assert emulator.stats()["peak_in_flight"] > 1, "the limit does not make a queue of the batch"
    # Without more money nothing more is bought, ...
    ti, err = ended(batch(local, rows_of(40), **BANANA, max_cost_usd=1.00, max_concurrency=16), try_number=2)
    assert "15 of 40 rows were not started" in str(err)
    assert (ti.xcoms, posts(emulator)) == ({"cost_usd": 0.975}, 25)
    # ... and with more it goes on where it stopped.
    value = result_of(batch(local, rows_of(40), **BANANA, max_cost_usd="1.56", max_concurrency=16), try_number=3)
    assert (counts(value), value["cost_usd"], posts(emulator)) == ((40, 0, 0, 0), 1.56, 40)
    assert taken(emulator) == Decimal("1.56") == cost_of(lines_of(local))


@pytest.mark.slow
def test_rows_that_cost_nothing_are_done_beyond_the_limit(emulator: Emulator, local: Place) -> None:
    rows = rows_of(30)
    result_of(batch(local, rows[10:]))
    _, err = ended(batch(local, rows, max_cost_usd=0), run_id="tuesday")
    assert "10 of 30 rows were not started" in str(err)
    files = [local.read(name).decode().count('"status": "reused"') for name in manifests(local)]
    assert sorted(files) == [0, 20]
    assert posts(emulator) == 20


def test_a_limit_of_zero_sends_nothing(emulator: Emulator, local: Place) -> None:
    ti, err = ended(batch(local, rows_of(3), max_cost_usd=0))
    assert "$0 of max_cost_usd $0 are spent" in str(err)
    assert (ti.xcoms, posts(emulator), state(local, "claim")) == ({"cost_usd": 0.0}, 0, [])
    assert statuses(lines_of(local)) == {"skipped": 3}
    assert [line["key"] for line in lines_of(local)] == ["row-0", "row-1", "row-2"]


@pytest.mark.parametrize("charged", [True, False])
def test_what_may_have_been_paid_counts_against_the_limit(emulator: Emulator, local: Place, charged: bool) -> None:
    emulator.fault("cut", times=10, charged=charged, prompt="number")
    _, err = ended(batch(local, rows_of(40), **BANANA, max_cost_usd=1, max_concurrency=4, max_resends=3))
    assert "max_cost_usd" in str(err)
    assert taken(emulator) <= 1
    assert posts(emulator) <= 25
    emulator.clear_faults()
    ended(batch(local, rows_of(40), **BANANA, max_cost_usd=1, max_concurrency=4, max_resends=3), try_number=2)
    assert (taken(emulator) <= 1, posts(emulator) <= 25) == (True, True), "not forgotten by the next try"


def test_answers_without_an_image_count_against_the_limit(emulator: Emulator, local: Place) -> None:
    emulator.fault("no_data", times=None, prompt="lost")
    rows = [{"key": "first", "prompt": "p"}, *rows_of(40, "lost")]
    ti, _ = ended(batch(local, rows, **BANANA, max_cost_usd=0.5, max_concurrency=4))
    assert taken(emulator) <= Decimal("0.5")
    assert ti.xcoms["cost_usd"] == float(taken(emulator)) == float(cost_of(lines_of(local)))


@pytest.mark.parametrize("fault", ["cost absent", "cut"])
def test_without_any_price_a_batch_with_a_limit_stops_soon(emulator: Emulator, local: Place, fault: str) -> None:
    """Nobody can say what it has spent, so it must not go on for thousands of rows."""
    if fault == "cut":
        emulator.fault("cut", times=None)
    else:
        emulator.settings(cost_form="absent")
    _, err = ended(batch(local, rows_of(40), max_cost_usd=1, max_concurrency=16))
    assert "3 pictures came or were lost without any price being told" in str(err)
    assert posts(emulator) == 3


def test_without_a_limit_no_price_is_needed(emulator: Emulator, local: Place) -> None:
    emulator.settings(cost_form="absent")
    value = result_of(batch(local, rows_of(10)))
    assert (counts(value), value["cost_usd"]) == ((10, 0, 0, 0), None), "unknown is not 0"
    assert {line["cost_usd"] for line in lines_of(local)} == {None}
    assert result_of(batch(local, rows_of(10)), run_id="tuesday")["cost_usd"] == 0.0


def test_an_error_that_stops_the_batch_stops_those_who_wait_for_the_budget(emulator: Emulator, local: Place) -> None:
    emulator.fault("status", status=401, times=None)
    ended(batch(local, rows_of(40), max_cost_usd=1, max_concurrency=16))
    assert posts(emulator) == 1


def request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(**{"model": "m", "prompt": "p", **fields})


def test_what_sets_the_price_makes_a_class() -> None:
    edit: dict[str, Any] = {"model": "m", "prompt": "p"}
    same = [request(), request(prompt="q"), request(seed=1), request(output_format="webp"), request(n=1)]
    others = [
        request(model="m2"),
        request(n=2),
        request(width=64, height=64),
        request(aspect_ratio="16:9"),
        request(resolution="4K"),
        request(image_size="auto_4K"),
        request(quality="high"),
        EditRequest(**edit, images=["a"]),
        EditRequest(**edit, images=["a", "b"]),
    ]
    assert len({price_class(r) for r in same}) == 1
    assert len({price_class(r) for r in [*same, *others]}) == 1 + len(others)


def test_the_first_of_a_class_goes_alone() -> None:
    async def scenario() -> None:
        budget = Budget(Decimal("1.00"))
        await budget.reserve("a")
        waiting = [asyncio.create_task(budget.reserve(kind)) for kind in ("a", "b")]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        await budget.settle("a", Decimal("0.3"))
        await asyncio.wait_for(waiting[0], 1)
        assert not waiting[1].done(), "nor does the first of another while the first's like are in flight"
        await budget.settle("a", Decimal("0.3"))
        await asyncio.wait_for(waiting[1], 1)
        await budget.settle("b", Decimal("0.1"))
        assert budget.spent == Decimal("0.7")
        await budget.reserve("a")  # 0.3 more is exactly the limit
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(budget.reserve("b"), 0.05)
        await budget.settle("a", None)  # and was free
        await budget.reserve("b")

    asyncio.run(scenario())


def test_the_refusal_says_what_is_spent_and_what_the_next_costs() -> None:
    async def scenario() -> str:
        budget = Budget(Decimal("0.10"), Decimal("0.080"))
        budget.learn("a", Decimal("0.039"))
        with pytest.raises(BudgetExceeded) as raised:
            await budget.reserve("a")
        return raised.value.message

    assert asyncio.run(scenario()) == (
        "Not sent: $0.080 of max_cost_usd $0.10 are spent, and the next picture costs $0.039. "
        "Raise max_cost_usd and clear the task to go on"
    )


def test_losses_count_as_soon_as_their_price_is_known() -> None:
    budget = Budget(Decimal(1))
    budget.count_doubt(Doubt("", "", "a"))
    budget.count_doubt(Doubt("", "", "a"))
    assert budget.spent == 0
    budget.learn("a", Decimal("0.1"))
    budget.count_doubt(Doubt("", "", "a"))
    assert budget.spent == Decimal("0.3")
    budget.learn("a", Decimal("0.2"))
    assert budget.spent == Decimal("0.3"), "they are counted once"


def test_a_bill_tells_unknown_from_nothing() -> None:
    bill = Bill()
    told = [bill.usd]  # nobody has looked yet
    bill.begin([])
    told.append(bill.usd)
    for cost in (None, Decimal("0.1"), None, Decimal("0.2")):
        bill.add(cost)
        told.append(bill.usd)
    assert told == [None, 0, None, Decimal("0.1"), Decimal("0.1"), Decimal("0.3")]
    bill.begin([None])
    assert bill.usd is None


def test_without_any_price_all_tries_together_stop_soon(emulator: Emulator, local: Place) -> None:
    emulator.settings(cost_form="absent")
    for number in range(1, 5):
        operator = batch(local, rows_of(40), max_cost_usd=0.05, max_concurrency=8)
        ti, err = ended(operator, try_number=number)
        assert "3 pictures came or were lost without any price being told" in str(err)
        assert (ti.sheets[-1].cost_usd, ti.sheets[-1].untold, ti.sheets[-1].may_have_cost_usd) == (None, 3, None)
    assert posts(emulator) == 3


def test_a_price_that_is_not_reported_any_more_still_counts(emulator: Emulator, local: Place) -> None:
    ended(batch(local, rows_of(1), **BANANA), run_id="sunday")
    emulator.settings(cost_form="absent")
    for number in range(1, 4):
        operator = batch(local, rows_of(40), **BANANA, max_cost_usd=0.2, max_concurrency=8)
        ti, err = ended(operator, try_number=number)
        assert "$0 and perhaps $0.195 more of max_cost_usd $0.2 are spent, and the next picture costs" in str(err)
        assert ti.sheets[-1].may_have_cost_usd == 5 * Decimal("0.039")
    assert taken(emulator) == 6 * Decimal("0.039"), "one of them on sunday"


def test_a_run_limit_counts_pictures_without_a_price_of_other_tasks(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(output_uri=local.uri))
    emulator.settings(cost_form="absent")
    for task_id in ("one", "two"):
        where = {"task_id": task_id, "output_uri": f"{local.uri}/{task_id}"}
        ended(batch(local, rows_of(2), **where, max_run_cost_usd=1))
    assert posts(emulator) == 3


def test_a_price_known_to_the_connection_needs_no_trial(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(output_uri=local.uri))
    where = {"output_uri": f"{local.uri}/other"}
    ended(batch(local, rows_of(1), **BANANA, **where))
    _, err = ended(batch(local, rows_of(3), **BANANA, output_uri=f"{local.uri}/new", max_cost_usd=0.03))
    assert "$0 of max_cost_usd $0.03 are spent, and the next picture costs $0.039" in str(err)
    assert posts(emulator) == 1


@pytest.mark.parametrize("more", [0, 3])
def test_edits_that_are_stored_are_done_whatever_the_budget_says(
    emulator: Emulator, place: Place, tmp_path: Path, more: int
) -> None:
    picture = tmp_path / "boat.png"
    result_of(batch(place, rows_of(1), output_uri=tmp_path.as_uri(), output_conn_id=None))
    picture.write_bytes(next(tmp_path.glob("row-*.png")).read_bytes())
    edits = [row | {"images": str(picture)} for row in rows_of(6 + more, "make it blue")]
    fields: dict[str, Any] = {"model": "deepshi-image-1"}
    result_of(batch(place, edits[more:], **fields))
    bought, before = posts(emulator), taken(emulator)
    price = (before - PRICE) / 6
    for number in (2, 3):
        operator = batch(place, edits, **fields, max_cost_usd=f"{6 * price:f}")
        ti, err = ended(operator, try_number=number)
        assert (err is not None) == bool(more)
        assert not more or "3 of 9 rows were not started" in str(err)
        assert statuses(lines_of(place)) == ({"created": 6, "skipped": more} if more else {"created": 6})
        assert ti.xcoms["cost_usd"] == float(6 * price)
    assert (posts(emulator), taken(emulator)) == (bought, before), "nothing is bought"
