"""All limits need the known prices: of run, day, month and group, of a batch, and of a hook; in both modes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from airflow.sdk.execution_time.context import set_current_context

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.costs.tally import Tally
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import BudgetExceeded, OutcomeUnknown, StorageFailed
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.jobs import run_job as run
from deepshi_provider.jobs.job import Job
from deepshi_provider.journal.account import Account
from deepshi_provider.journal.entries import Owner
from deepshi_provider.journal.lease import Times
from deepshi_provider.journal.prices import Prices
from deepshi_provider.journal.run_costs import RunCosts, RunEntry
from deepshi_provider.store.store import Store
from tests.services.forks import start_module
from tests.support.batches import BANANA, batch, deferred, ended, rows_of
from tests.support.counts import error, posts, taken
from tests.support.jobs import make_job
from tests.support.places import LocalPlace
from tests.support.tasks import TaskInstance, context_of, execute
from tests.support.waiting import until

#: Price of a picture in USD, and its price class.
PRICE = Decimal("0.039")
CLASS = "generate nano-banana-2 n=1 resolution=1K"
LIMITS = ["run", "day", "month", "group"]

#: Sets up the connection with one kind of limit, and returns a function that makes jobs under it.
Limited = Callable[[str, str], Callable[..., Job]]


@pytest.fixture
def limited(emulator: Emulator, local: LocalPlace, monkeypatch: pytest.MonkeyPatch) -> Limited:
    def limited(kind: str, amount: str) -> Callable[..., Job]:
        budgets: dict[str, dict[str, Any]] = {
            "day": {"max_cost_usd_per_day": amount},
            "month": {"max_cost_usd_per_month": amount},
            "group": {"budget_groups": {"team": {"max_cost_usd_per_day": amount}}},
        }
        extra = {"output_uri": local.uri, "budget_time_zone": noon(), **budgets.get(kind, {})}
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(**extra))
        more: dict[str, Any] = {"run": {"max_run_cost_usd": amount}, "group": {"budget_group": "team"}}.get(kind, {})
        return lambda task, **fields: job(local, task, **{**more, **fields})

    return limited


def noon() -> str:
    """A time zone in which it is about noon, so that no test crosses midnight."""
    hours = datetime.now(timezone.utc).hour - 12
    return f"Etc/GMT{hours:+d}" if hours else "UTC"  # these names have inverted signs


def job(place: LocalPlace, task: str, **more: Any) -> Job:
    """A picture of $0.039 in the task's own directory."""
    fields: dict[str, Any] = {"prompt": task, "model": "nano-banana-2", "resolution": "1K"}
    fields |= {"width": None, "height": None, **more.pop("fields", {})}
    where = {"output_uri": f"{place.uri}/{task}", "runs_uri": place.uri}
    return make_job(place, fields=fields, owner={"task_id": task, **more.pop("owner", {})}, **{**where, **more})


@contextlib.contextmanager
def unreadable(place: LocalPlace, ending: str) -> Iterator[None]:
    """Let the store fail to read the only object with this ending."""
    (path,) = [place.path / name for name in place.names() if name.endswith(ending)]
    data = path.read_bytes()
    path.unlink()
    path.symlink_to("/proc/self/mem")  # a file that exists, and whose first bytes cannot be read
    yield
    path.unlink()
    path.write_bytes(data)


def price_of(place: LocalPlace) -> str:
    """Return the name of the only remembered price."""
    (name,) = [name for name in place.names() if name.startswith("_deepshi_prices/")]
    return name


@pytest.mark.parametrize("kind", LIMITS)
async def test_a_known_price_that_cannot_be_read_lifts_no_limit(
    emulator: Emulator, local: LocalPlace, limited: Limited, kind: str
) -> None:
    job = limited(kind, "0.05")
    assert (await run(job("a"))).status == "success"
    with unreadable(local, price_of(local)):
        refused = await run(job("b"))
    assert (error(refused)["type"], error(refused)["charged"], refused.retry) == ("StorageFailed", "no", True)
    assert "Not sent: the known price of this request could not be read" in error(refused)["message"]
    refused = await run(job("b", owner={"try_number": 2}))
    assert error(refused)["type"] == "BudgetExceeded"
    assert (posts(emulator), taken(emulator)) == (1, PRICE)


async def test_without_a_limit_a_price_that_cannot_be_read_stops_no_task(emulator: Emulator, local: LocalPlace) -> None:
    await run(job(local, "a"))
    with unreadable(local, price_of(local)):
        assert (await run(job(local, "b"))).status == "success"
        emulator.fault("cut", charged=True)
        lost = await run(job(local, "c"))
    assert (error(lost)["type"], lost.retry) == ("OutcomeUnknown", True)
    assert posts(emulator) == 3


async def test_a_record_that_cannot_be_read_lifts_no_limit(emulator: Emulator, local: LocalPlace) -> None:
    """The price is known only from the records of the directory."""
    here = {"output_uri": f"{local.uri}/all", "max_run_cost_usd": "0.03"}
    await run(job(local, "a", output_uri=f"{local.uri}/all", runs_uri=None))
    with unreadable(local, ".stored.json"):
        refused = await run(job(local, "b", **here))
        assert (error(refused)["type"], refused.retry) == ("StorageFailed", True)
        elsewhere = {**here, "max_run_cost_usd": None}
        assert (await run(job(local, "c", **elsewhere, owner={"run_id": "tuesday"}))).status == "success"
    assert posts(emulator) == 2


async def test_an_invalid_price_is_replaced_by_the_records(emulator: Emulator, local: LocalPlace) -> None:
    here = {"output_uri": f"{local.uri}/all"}
    await run(job(local, "a", **here))
    local.write(price_of(local), b"{")
    refused = await run(job(local, "b", **here, max_run_cost_usd="0.05"))
    assert (error(refused)["type"], posts(emulator)) == ("BudgetExceeded", 1)


@pytest.mark.parametrize("mode", ["blocking", "deferred"])
def test_a_batch_with_a_limit_does_not_start_without_reading_the_price(
    emulator: Emulator, local: LocalPlace, limited: Limited, mode: str
) -> None:
    limited("run", "1")
    operator = batch(local, rows_of(1), **BANANA, output_uri=f"{local.uri}/first", task_id="first")
    assert ended(operator)[1] is None
    fields = {**BANANA, "output_uri": f"{local.uri}/second", "max_cost_usd": "0.03", "deferrable": mode == "deferred"}
    operator = batch(local, rows_of(3), **fields)
    unread = pytest.raises(StorageFailed, match="Not sent: the known price of this request could not be read")
    with unreadable(local, price_of(local)), unread:
        if mode == "deferred":
            deferred(operator)
        else:
            execute(operator, TaskInstance(task_id="catalog"))
    assert (posts(emulator), taken(emulator)) == (1, PRICE)


def test_draw_sends_nothing_under_a_limit_if_the_price_cannot_be_read(
    emulator: Emulator, local: LocalPlace, limited: Limited
) -> None:
    limited("run", "1")
    boat: dict[str, Any] = {"prompt": "a boat", "width": 64, "height": 48}
    asyncio.run(run(make_job(local, runs_uri=local.uri)))
    price = float(taken(emulator))
    second = TaskInstance(task_id="second")
    with unreadable(local, price_of(local)), pytest.raises(StorageFailed), set_current_context(context_of(second)):
        DeepshiHook().draw(**boat, max_cost_usd=price / 2)
    with pytest.raises(BudgetExceeded), set_current_context(context_of(second)):
        DeepshiHook().draw(**boat, max_cost_usd=price / 2)
    assert posts(emulator) == 1


def buy_in_hooks(place: LocalPlace, count: int) -> TaskInstance:
    """Buy pictures of $0.039 with a hook, in a task of their own."""
    ti = TaskInstance(task_id="script", map_index=None)
    with set_current_context(context_of(ti)):
        for number in range(count):
            request = GenerateRequest(model="nano-banana-2", prompt=f"p{number}", resolution="1K", stream=True)
            with contextlib.suppress(OutcomeUnknown):
                DeepshiHook().generate(request).close()
    return ti


@pytest.mark.parametrize("loss", ["cost absent", "cut"])
@pytest.mark.parametrize("kind", ["run", "day", "month"])
def test_what_hooks_buy_at_an_unreported_price_counts_at_its_known_price(
    emulator: Emulator, local: LocalPlace, limited: Limited, kind: str, loss: str
) -> None:
    job = limited(kind, "0.18")
    asyncio.run(run(job("known")))
    if loss == "cut":
        emulator.fault("cut", times=3, charged=True)
    else:
        emulator.settings(cost_form="absent")
    ti = buy_in_hooks(local, 3)
    emulator.settings(cost_form="object")
    refused = asyncio.run(run(job("b")))
    assert "$0.039 and perhaps $0.117 more" in error(refused)["message"]
    assert (posts(emulator), taken(emulator)) == (4, 4 * PRICE)
    assert (ti.sheets[-1].cost_usd or 0, ti.sheets[-1].may_have_cost_usd) == (0, 3 * PRICE)
    cheap = {"model": "deepshi-banana-pro", "resolution": None, "width": 64, "height": 48}
    other_class = asyncio.run(run(job("c", fields=cheap)))
    assert other_class.status == "success", "the rest of the limit can be spent on cheaper pictures"


@pytest.mark.parametrize("kind", ["run", "day", "month"])
def test_limits_know_the_prices_that_hooks_have_paid(
    emulator: Emulator, local: LocalPlace, limited: Limited, kind: str
) -> None:
    job = limited(kind, "0.05")
    buy_in_hooks(local, 1)
    refused = asyncio.run(run(job("b")))
    assert "$0.039 of max_" in error(refused)["message"]
    assert "the next picture costs $0.039" in error(refused)["message"]
    assert (posts(emulator), taken(emulator)) == (1, PRICE)


def test_a_batch_knows_the_price_that_a_hook_has_paid(emulator: Emulator, local: LocalPlace, limited: Limited) -> None:
    limited("run", "1")
    buy_in_hooks(local, 1)
    _, err = ended(batch(local, rows_of(3), **BANANA, output_uri=f"{local.uri}/catalog", max_cost_usd="0.03"))
    assert "and $0.03 of max_cost_usd $0.03 are left" in str(err)
    assert (posts(emulator), taken(emulator)) == (1, PRICE)


@pytest.mark.parametrize(
    ("kind", "buyer"), [*((kind, "tasks") for kind in LIMITS), *((kind, "hooks") for kind in ("run", "day", "month"))]
)
def test_purchases_without_a_price_count_as_soon_as_one_is_known(
    emulator: Emulator, local: LocalPlace, limited: Limited, kind: str, buyer: str
) -> None:
    job = limited(kind, "0.15")
    emulator.settings(cost_form="absent")
    if buyer == "hooks":
        buy_in_hooks(local, 3)
    else:
        for task in "abc":
            assert asyncio.run(run(job(task))).status == "success"
    emulator.settings(cost_form="object")
    asyncio.run(learn_elsewhere(local))
    refused = asyncio.run(run(job("d")))
    assert "$0 and perhaps $0.117 more of max_" in error(refused)["message"]
    assert "the next picture costs $0.039" in error(refused)["message"]
    assert (posts(emulator), taken(emulator)) == (3, 3 * PRICE)


async def learn_elsewhere(place: LocalPlace) -> None:
    """Remember the price, as after a purchase that counts against none of the limits."""
    await Prices((await DeepshiHook().asettings()).account, Store(place.uri)).learn(CLASS, PRICE)


async def kill_in_flight(emulator: Emulator, job: Job) -> None:
    """Run a job in a process that is killed when the server has its request."""
    sent = posts(emulator)
    emulator.settings(latency=300)
    with start_module("tests.support.run_job", job.model_dump_json()) as worker:
        await until("a request", lambda: posts(emulator) == sent + 1)
        worker.kill()
        await until("its end", lambda: emulator.stats()["in_flight"] == 0)
    emulator.settings(latency=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "group"])
async def test_what_killed_workers_had_in_flight_at_an_unknown_price_counts(
    emulator: Emulator, local: LocalPlace, limited: Limited, kind: str
) -> None:
    job = limited(kind, "0.15")
    for task in "abc":
        await kill_in_flight(emulator, job(task))
    refused = await run(job("d"), times=Times(poll=0.05, learning=0.2))
    assert (error(refused)["type"], error(refused)["charged"], refused.retry) == ("TimedOut", "no", True)
    assert "3 or more requests of other tasks are under way" in error(refused)["message"]
    await learn_elsewhere(local)
    refused = await run(job("e"))
    assert "$0 and perhaps $0.117 more of max_" in error(refused)["message"]
    assert posts(emulator) == 3
    cheap = {"model": "deepshi-banana-pro", "resolution": None, "width": 64, "height": 48}
    assert (await run(job("f", fields=cheap))).status == "success"


@pytest.mark.slow
async def test_a_task_that_has_waited_too_long_for_prices_sends_nothing(
    emulator: Emulator, local: LocalPlace, limited: Limited
) -> None:
    job = limited("run", "1")
    for task in "abc":
        await kill_in_flight(emulator, job(task))
    late = job("d", seconds=6)
    waiting = asyncio.create_task(run(late, times=Times(poll=0.05, learning=1000)))
    await until("half of its time", lambda: time.time() > late.deadline - 2.9)
    await learn_elsewhere(local)
    refused = await waiting
    assert (error(refused)["type"], error(refused)["charged"], refused.retry) == ("TimedOut", "no", True)
    assert (posts(emulator), refused.unknown_outcomes) == (3, 0)


@pytest.mark.parametrize("kind", LIMITS)
def test_a_plan_shows_what_may_have_been_spent_and_counts_it(
    emulator: Emulator, local: LocalPlace, limited: Limited, kind: str
) -> None:
    job = limited(kind, "0.20")
    assert asyncio.run(run(job("known"))).status == "success"
    emulator.fault("cut", charged=True)
    asyncio.run(run(job("lost", max_resends=0)))
    emulator.settings(cost_form="absent")
    assert asyncio.run(run(job("unreported", fields={"model": "flux-2-pro", "resolution": None}))).status == "success"
    emulator.settings(cost_form="object")
    of_limit = {"run": {"max_run_cost_usd": "0.20"}, "group": {"budget_group": "team"}}.get(kind, {})
    sent = posts(emulator)
    fields = {**BANANA, **of_limit, "output_uri": f"{local.uri}/catalog"}
    ti, err = ended(batch(local, rows_of(3), **fields, plan_only=True))
    (plan,) = ti.plans
    assert err is None
    assert plan.summary().endswith("$0.20, $0.039 to $0.078 of it spent (1 of unknown price)")
    ti, err = ended(batch(local, rows_of(4), **fields))
    assert "the batch costs at least $0.156, and $0.122 of max_" in str(err)
    assert posts(emulator) == sent


@pytest.mark.parametrize("mode", ["blocking", "deferred"])
def test_rows_without_a_price_count_in_the_next_try_of_a_batch(
    emulator: Emulator, local: LocalPlace, limited: Limited, mode: str
) -> None:
    limited("run", "1")
    emulator.settings(cost_form="absent")
    where = {"output_uri": f"{local.uri}/catalog", "max_cost_usd": "0.15", "deferrable": mode == "deferred"}
    operator = batch(local, rows_of(6), **BANANA, **where, max_concurrency=1)
    (deferred if mode == "deferred" else ended)(operator)
    assert posts(emulator) == 3
    emulator.settings(cost_form="object")
    asyncio.run(learn_elsewhere(local))
    (deferred if mode == "deferred" else ended)(operator, try_number=2)
    assert (posts(emulator), taken(emulator)) == (3, 3 * PRICE)


async def test_a_price_that_another_process_of_the_task_has_paid_is_known(local: LocalPlace) -> None:
    """Both run the same batch; the second takes its turn, and adds up what the first has spent."""
    entry = RunEntry(owner=Owner(dag_id="d", run_id="r", task_id="t"), operation="batch", output_uri=local.uri)
    prices = Prices("account", Store(local.uri))
    second = Account(prices, RunCosts(entry, None), Decimal("0.05"))
    assert await prices.checked("class") is None
    await second.begin(Tally())
    of_the_first = Tally()
    of_the_first.paid("m", "f", PRICE, 1, "class")
    await second.recount(of_the_first)
    with pytest.raises(BudgetExceeded, match=r"the next picture costs \$0.039"):
        async with second.reserved("class"):
            pass
