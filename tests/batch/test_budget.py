"""``max_cost_usd`` holds by the server's count, whatever happens."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from deepshi_provider.api.requests import EditRequest, GenerateRequest
from deepshi_provider.costs.price_class import PriceRange, price_class
from deepshi_provider.costs.tally import Tally
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import BudgetExceeded
from deepshi_provider.journal.account import Account
from deepshi_provider.journal.entries import Owner
from deepshi_provider.journal.prices import Prices
from deepshi_provider.journal.run_costs import RunCosts, RunEntry
from deepshi_provider.store.store import Store
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
    assert "Raise max_cost_usd and clear the task to continue; 15 of 40 rows were not started" in str(err)
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
    files = [local.read(name).decode().count('"reused"') for name in manifests(local)]
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


@pytest.mark.slow
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
    assert "3 requests were or may have been paid for without a reported price" in str(err)
    assert posts(emulator) == 3


@pytest.mark.slow
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


def account_of(limit: str, shared: Store | None = None) -> Account:
    entry = RunEntry(owner=Owner(dag_id="d", run_id="r", task_id="t"), operation="batch", output_uri="file:///nowhere")
    return Account(Prices("account", shared), RunCosts(entry, shared), Decimal(limit))


async def buy(account: Account, price_class: str, cost: str | None, *, answered: asyncio.Event | None = None) -> None:
    """Reserve, wait for the answer, and pay; without a cost it was free."""
    async with account.reserved(price_class):
        if answered:
            await answered.wait()
        if cost is not None:
            await account.add(price_class, Decimal(cost))


async def test_the_first_of_a_class_goes_alone() -> None:
    account, answers = account_of("1.00"), [asyncio.Event() for _ in range(4)]
    first = asyncio.create_task(buy(account, "a", "0.3", answered=answers[0]))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(buy(account, "a", "0.3", answered=answers[1]))
    third = asyncio.create_task(buy(account, "b", "0.1", answered=answers[2]))
    await asyncio.sleep(0.01)
    assert account.under_way == {"a": 1}
    answers[0].set()
    await first
    await asyncio.sleep(0.01)
    assert account.under_way == {"a": 1}, "nor does the first of another class while others are under way"
    answers[1].set()
    await second
    answers[2].set()
    await third
    assert account.spending.most_usd == Decimal("0.7")
    last = asyncio.create_task(buy(account, "a", None, answered=answers[3]))  # 0.3 more is exactly the limit
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(buy(account, "b", None))
    await asyncio.sleep(0.05)
    assert (account.under_way, waiting.done()) == ({"a": 1}, False)
    answers[3].set()  # and was free
    await asyncio.gather(last, waiting)


async def test_a_price_is_known_before_it_is_reported(local: Place) -> None:
    """Reports take a while, and a request that waited for the price must not start meanwhile."""
    account = account_of("1.50", Store(local.uri))
    await account.begin(Tally())
    async with account.reserved("a") as first:
        waiting = asyncio.create_task(buy(account, "a", "1.00"))
        await asyncio.sleep(0.05)
        assert account.under_way == {"a": 1}
        await account.add("a", Decimal("1.00"), reservation=first)
    with pytest.raises(BudgetExceeded):
        await waiting
    assert account.spending.most_usd == Decimal("1.00")


async def test_the_refusal_says_what_is_spent_and_what_the_next_costs() -> None:
    account, tally = account_of("0.10"), Tally()
    tally.paid("m", "f", Decimal("0.080"), 1)
    await account.begin(tally)
    account.prices.take({"a": PriceRange(Decimal("0.039"), Decimal("0.039"))})
    with pytest.raises(BudgetExceeded) as raised:
        await buy(account, "a", None)
    assert raised.value.message == (
        "Not sent: $0.080 of max_cost_usd $0.10 are spent, and the next picture costs $0.039. "
        "Raise max_cost_usd and clear the task to continue"
    )
    assert account.closed_by is raised.value


async def test_losses_count_as_soon_as_their_price_is_known() -> None:
    account = account_of("1")
    await account.add("a", None)
    await account.add("a", None)
    assert (account.spending.most_usd, account.spending.blind) == (Decimal(0), 2)
    await account.add("a", Decimal("0.1"))
    await account.add("a", None)
    assert (account.spending.most_usd, account.spending.blind) == (Decimal("0.4"), 0)
    assert account.spending.usd == Decimal("0.1")


def test_a_tally_tells_unknown_from_nothing() -> None:
    tally = Tally()
    sums = [tally.cost_usd]
    for cost in (None, Decimal("0.1"), None, Decimal("0.2")):
        tally.paid("m", "", cost, 1)
        sums.append(tally.cost_usd)
    assert sums == [0, None, Decimal("0.1"), Decimal("0.1"), Decimal("0.3")]
    partial = Tally()
    partial.is_partial = True
    assert partial.cost_usd is None, "what earlier tries have cost is not known"


@pytest.mark.slow
def test_without_any_price_all_tries_together_stop_soon(emulator: Emulator, local: Place) -> None:
    emulator.settings(cost_form="absent")
    for number in range(1, 5):
        operator = batch(local, rows_of(40), max_cost_usd=0.05, max_concurrency=8)
        ti, err = ended(operator, try_number=number)
        assert "3 requests were or may have been paid for without a reported price" in str(err)
        assert (ti.sheets[-1].cost_usd, ti.sheets[-1].untold, ti.sheets[-1].may_have_cost_usd) == (None, 3, None)
    assert posts(emulator) == 3


def test_a_price_that_is_not_reported_any_more_still_counts(emulator: Emulator, local: Place) -> None:
    ended(batch(local, rows_of(1), **BANANA), run_id="sunday")
    emulator.settings(cost_form="absent")
    for number in range(1, 4):
        operator = batch(local, rows_of(40), **BANANA, max_cost_usd=0.2, max_concurrency=8, start_over_budget=True)
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
    new: dict[str, Any] = {"output_uri": f"{local.uri}/new", "max_cost_usd": 0.03, "start_over_budget": True}
    _, err = ended(batch(local, rows_of(3), **BANANA, **new))
    assert "$0 of max_cost_usd $0.03 are spent, and the next picture costs $0.039" in str(err)
    assert posts(emulator) == 1


@pytest.mark.slow
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
