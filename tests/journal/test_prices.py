"""Prices already paid for a class predict the cost of its requests and bound unknown costs."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.jobs import run_job as run
from deepshi_provider.jobs.job import Job
from deepshi_provider.jobs.outcome import ImageOutcome
from deepshi_provider.journal import prices
from deepshi_provider.journal.prices import Prices
from deepshi_provider.store.store import Store
from tests.support.counts import posts, taken
from tests.support.jobs import make_job
from tests.support.places import LocalPlace, Place

#: Price of a picture in USD, and its price class.
PRICE = Decimal("0.039")
CLASS = "generate nano-banana-2 n=1 resolution=1K"
NOWHERE: dict[str, Any] = {"runs_uri": None, "runs_conn_id": None}


def job(place: Place, task: str, folder: str | None = None, **more: Any) -> Job:
    """A picture of $0.039 in the task's own directory."""
    fields = {"prompt": task, "model": "nano-banana-2", "resolution": "1K", "width": None, "height": None}
    where: dict[str, Any] = {"runs_uri": place.uri, "runs_conn_id": place.conn_id}
    where |= {"output_uri": f"{place.uri}/{folder or task}"}
    owner = {"task_id": task, **more.pop("owner", {})}
    return make_job(place, fields=fields | more.pop("fields", {}), owner=owner, **{**where, **more})


def remembered(place: Place) -> list[dict[str, Any]]:
    names = [name for name in place.names() if name.startswith("_deepshi_prices/")]
    return [json.loads(place.read(name)) for name in names]


def refusal(ended: ImageOutcome) -> str:
    assert ended.error is not None
    assert ended.error["type"] == "BudgetExceeded"
    return str(ended.error["message"])


async def test_a_paid_price_is_stored_once_per_class(emulator: Emulator, place: Place) -> None:
    for task in ("a", "b"):
        await run(job(place, task))
    await run(job(place, "c", fields={"resolution": "4K"}))
    (small,) = [price for price in remembered(place) if price["price_class"] == CLASS]
    assert (len(remembered(place)), small["cost_usd"]) == (2, "0.039")


async def test_a_known_price_above_the_remaining_limit_is_not_paid(emulator: Emulator, place: Place) -> None:
    assert (await run(job(place, "a", max_run_cost_usd="0.05"))).status == "success"
    message = refusal(await run(job(place, "b", max_run_cost_usd="0.05")))
    assert "$0.039 of max_run_cost_usd $0.05 are spent by this DAG run" in message
    assert "the next picture costs $0.039" in message
    assert (posts(emulator), taken(emulator)) == (1, PRICE)


async def test_a_run_knows_the_prices_of_other_runs(emulator: Emulator, local: Place) -> None:
    await run(job(local, "a"))
    other = job(local, "b", max_run_cost_usd="0.03", owner={"run_id": "tuesday"})
    assert "$0 of max_run_cost_usd $0.03 are spent" in refusal(await run(other))
    assert posts(emulator) == 1


async def test_a_price_found_only_in_the_directorys_records_counts(emulator: Emulator, place: Place) -> None:
    await run(job(place, "a", folder="all", **NOWHERE))
    assert remembered(place) == []
    refusal(await run(job(place, "b", folder="all", max_run_cost_usd="0.03")))
    assert posts(emulator) == 1


async def test_another_class_has_another_price(emulator: Emulator, local: Place) -> None:
    await run(job(local, "a", fields={"resolution": "4K"}))
    assert (await run(job(local, "b", max_run_cost_usd="0.2"))).status == "success"


async def test_a_run_with_a_limit_buys_three_pictures_at_most_without_any_price(
    emulator: Emulator, place: Place
) -> None:
    emulator.settings(cost_form="absent")
    for task in ("a", "b", "c"):
        assert (await run(job(place, task, max_run_cost_usd="10"))).status == "success"
    message = refusal(await run(job(place, "d", max_run_cost_usd="10")))
    assert "3 requests were or may have been paid for without a reported price" in message
    assert posts(emulator) == 3


async def test_purchases_at_unknown_price_are_limited_over_all_tries(emulator: Emulator, local: Place) -> None:
    emulator.settings(cost_form="absent")
    for number in range(1, 6):
        await run(job(local, "a", max_run_cost_usd="10", reuse=False, owner={"try_number": number}))
    assert posts(emulator) == 3


@pytest.mark.parametrize("loss", ["cost absent", "cut"])
async def test_an_unreported_cost_counts_at_the_price_of_its_class(emulator: Emulator, place: Place, loss: str) -> None:
    await run(job(place, "known"))
    if loss == "cut":
        emulator.fault("cut", times=None, charged=True)
    else:
        emulator.settings(cost_form="absent")
    for task in ("a", "b", "c", "d"):
        await run(job(place, task, max_run_cost_usd="0.12", max_resends=0))
    assert (posts(emulator), taken(emulator)) == (3, 3 * PRICE)


async def test_a_kill_before_the_entry_is_written_loses_no_unknown_outcome(emulator: Emulator, local: Place) -> None:
    """Only the claim is left; the next try adds it to the run's entries."""
    emulator.fault("cut", charged=True)
    await run(job(local, "a", max_resends=1))
    for name in local.names():
        if name.startswith("_deepshi_runs/"):
            local.delete(name)
    await run(job(local, "known", owner={"run_id": "tuesday"}))
    await run(job(local, "a", max_resends=1, owner={"try_number": 2}))
    entries = [name.rpartition("/")[2] for name in local.names() if name.startswith("_deepshi_runs/")]
    assert [name.partition(".")[2] for name in entries if "_" in name] == ["0.039_0.039_0_0.json"]


async def test_lost_answers_may_have_cost_the_price_of_their_class(emulator: Emulator, place: Place) -> None:
    await run(job(place, "known"))
    emulator.fault("cut", times=2, charged=True)
    await run(job(place, "a", owner={"run_id": "tuesday"}))
    ended = await run(job(place, "a", owner={"run_id": "tuesday", "try_number": 2}))
    assert ended.costs is not None
    sums = ended.costs.model_dump(include={"cost_usd", "untold", "unknown_outcomes", "may_have_cost_usd"})
    assert sums == {"cost_usd": 0, "untold": 0, "unknown_outcomes": 2, "may_have_cost_usd": 2 * PRICE}
    assert taken(emulator) == PRICE + ended.costs.may_have_cost_usd  # type: ignore[operator] # known, as asserted


async def test_an_unreported_cost_is_counted_beside_the_sum(emulator: Emulator, local: Place) -> None:
    await run(job(local, "a"))
    emulator.settings(cost_form="absent")
    ended = await run(job(local, "a", reuse=False, owner={"try_number": 2}))
    assert ended.costs is not None
    assert (ended.costs.cost_usd, ended.costs.untold, ended.costs.may_have_cost_usd) == (PRICE, 1, PRICE)
    assert [(m.cost_usd, m.untold, m.may_have_cost_usd) for m in ended.costs.models] == [(PRICE, 1, PRICE)]


async def test_the_highest_price_counts_until_it_expires(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def learnt(cost: str) -> Decimal | None:
        await Prices("account", Store(local.uri)).learn("c", Decimal(cost))
        return await Prices("account", Store(local.uri)).known("c")

    assert [await learnt(cost) for cost in ("0.2", "0.3", "0.1")] == [Decimal(c) for c in ("0.2", "0.3", "0.3")]
    monkeypatch.setattr(prices, "RECENT", 0.0)
    assert await learnt("0.1") == Decimal("0.1")


async def test_an_unreadable_price_book_fails_no_task(emulator: Emulator, local: Place) -> None:
    await run(job(local, "a"))
    (name,) = [name for name in local.names() if name.startswith("_deepshi_prices/")]
    local.write(name, b"{")
    assert (await run(job(local, "b", max_run_cost_usd="0.08"))).status == "success"
    assert [price["cost_usd"] for price in remembered(local)] == ["0.039"], "it is replaced by a readable one"


async def test_lower_prices_widen_the_range_and_leave_the_highest(local: Place) -> None:
    for cost in ("0.2", "0.1", "0.3"):
        await Prices("account", Store(local.uri)).learn("c", Decimal(cost))
    (price,) = await Prices("account", Store(local.uri)).remembered()
    assert price.range == (Decimal("0.1"), Decimal("0.3"))


async def test_the_price_book_stays_small(local: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prices, "MOST_CLASSES", 5)
    for number in range(20):
        await Prices("account", Store(local.uri)).learn(f"class {number}", Decimal(number))
    assert len(await Prices("account", Store(local.uri)).remembered()) == 5
    assert await Prices("other", Store(local.uri)).remembered() == [], "each connection has its own"


async def test_a_price_that_could_not_be_read_is_not_replaced_by_a_lower_one(local: LocalPlace) -> None:
    await Prices("account", Store(local.uri)).learn("c", Decimal("0.3"))
    (path,) = [local.path / name for name in local.names()]
    data = path.read_bytes()
    path.unlink()
    path.mkdir()
    same_process = Prices("account", Store(local.uri))
    await same_process.learn("c", Decimal("0.1"))
    path.rmdir()
    path.write_bytes(data)
    await same_process.learn("c", Decimal("0.05"))
    assert await Prices("account", Store(local.uri)).known("c") == Decimal("0.3")


async def test_a_higher_price_of_another_process_survives(local: Place) -> None:
    first, second = (Prices("account", Store(local.uri)) for _ in range(2))
    await first.learn("c", Decimal("0.039"))
    await second.known("c")
    await first.learn("c", Decimal("0.050"))
    await second.learn("c", Decimal("0.030"))
    (price,) = await Prices("account", Store(local.uri)).remembered()
    assert price.range == (Decimal("0.030"), Decimal("0.050"))


async def test_of_two_prices_at_once_the_higher_is_kept(local: Place) -> None:
    same = Prices("account", Store(local.uri))
    await asyncio.gather(same.learn("c", Decimal("0.2")), same.learn("c", Decimal("0.1")))
    (price,) = await Prices("account", Store(local.uri)).remembered()
    assert price.range == (Decimal("0.1"), Decimal("0.2"))
