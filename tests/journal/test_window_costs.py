"""What all tasks of a connection spend in a day and in a month, whoever is killed, retried or cleared."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import pytest
from pydantic import SecretStr, ValidationError

from deepshi_provider.client.settings import Settings
from deepshi_provider.costs.price_class import PriceRange
from deepshi_provider.costs.tally import Tally
from deepshi_provider.exceptions import BudgetExceeded, StorageFailed, TimedOut
from deepshi_provider.hooks.directories import STORES
from deepshi_provider.journal.account import Account, Reservation, at_known_prices
from deepshi_provider.journal.entries import Owner, short_hash
from deepshi_provider.journal.lease import Times
from deepshi_provider.journal.prices import Prices
from deepshi_provider.journal.run_costs import RunCosts, RunEntry
from deepshi_provider.journal.spending import Limit, Spending
from deepshi_provider.journal.window_costs import WindowCosts
from tests.services.s3_proxy import S3Proxy
from tests.services.seaweedfs import S3Server
from tests.support.places import Place, S3Place
from tests.support.waiting import until

PRICE = Decimal("0.039")
#: Of the classes ``a`` and ``b``, only ``a`` has a known price.
B = short_hash("b")
QUICK = Times(poll=0.02, learning=0.1)


@dataclass
class Clock:
    """Unix seconds that the test sets."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def set(self, text: str, zone: str = "UTC") -> None:
        self.now = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@dataclass
class World:
    """Tasks of one connection."""

    place: Place
    extra: dict[str, Any]
    clock: Clock = field(default_factory=Clock)
    patience: float = 60

    def account(
        self,
        task: str,
        *,
        try_number: int = 1,
        group: str | None = None,
        price: Decimal = PRICE,
        times: Times = QUICK,
        run_limit: Decimal | None = None,
    ) -> Account:
        """The account of one try, as its process has it."""
        owner = Owner(dag_id="d", run_id="r", task_id=task, try_number=try_number)
        entry = RunEntry(owner=owner, operation="generate", output_uri="file:///nowhere")
        store = STORES.at(self.place.uri, self.place.conn_id, patience=self.patience)
        settings = Settings(
            conn_id="c", base_url="http://x", api_key=SecretStr("k"), output_uri=self.place.uri, **self.extra
        )
        windows = WindowCosts(
            entry, store, settings.account, settings.budgets(group), patience=self.patience, clock=self.clock
        )
        prices = Prices(settings.account, store)
        prices.take({"a": PriceRange(price, price)})
        run = RunCosts(entry, None if run_limit is None else store, limit=run_limit)
        return Account(prices, run, None, windows, times=times)

    async def buy(self, task: str, cost: Decimal | None = PRICE, price_class: str = "a", **more: Any) -> Account:
        """Buy one picture in a task of its own; a cost that is ``None`` is an unknown outcome."""
        account = self.account(task, **more)
        await account.begin(Tally())
        async with account.reserved(price_class) as reservation:
            await account.add(price_class, cost, at=self.clock.now, reservation=reservation)
        return account

    async def begun(self, stack: contextlib.AsyncExitStack, task: str, price_class: str, **more: Any) -> Account:
        """Start a request that is under way until the stack is closed."""
        account = self.account(task, **more)
        await account.begin(Tally())
        await stack.enter_async_context(account.reserved(price_class))
        return account

    @property
    def prices_account(self) -> str:
        return Settings(conn_id="c", base_url="http://x", api_key=SecretStr("k")).account

    async def spent(self, **more: Any) -> list[Spending]:
        """What a new task would learn of each limit."""
        return [limit.spent for limit in await self.account("looker", **more).limits()]

    def entries(self) -> list[str]:
        """The days of all entries, with what their names say."""
        parts = [name.split("/") for name in self.place.names() if name.startswith("_deepshi_spending/")]
        return sorted(f"{part[2]} {part[3]}" for part in parts if len(part) == 4 and part[2] != "warned")


@pytest.fixture
def world(place: Place) -> World:
    made = World(place, {"max_cost_usd_per_day": "1.00", "max_cost_usd_per_month": "2"})
    made.clock.set("2026-11-26T12:00:00")
    return made


async def test_a_process_does_not_hide_what_another_one_with_the_same_try_has_under_way(world: World) -> None:
    first, second = world.account("one"), world.account("one")
    await first.begin(Tally())
    async with first.reserved("a"):
        await second.begin(Tally())
        async with second.reserved("a"):
            pass  # another process has the claim
        assert await world.spent() == [Spending(possible_usd=PRICE)] * 2
    assert await world.spent() == [Spending()] * 2


async def test_tasks_count_together_until_the_day_is_over(world: World) -> None:
    for number in range(25):
        await world.buy(f"task {number}")
    assert await world.spent() == [Spending(25 * PRICE), Spending(25 * PRICE)]
    with pytest.raises(BudgetExceeded) as raised:
        await world.buy("one more")
    assert raised.value.message == (
        "Not sent: $0.975 of max_cost_usd_per_day $1.00 are spent on 2026-11-26 with connection 'c', and the next "
        "picture costs $0.039. The budget starts again at 2026-11-27T00:00:00+00:00: clear the task then, or raise it "
        "and clear the task"
    )
    world.clock.set("2026-11-27T00:00:00")
    await world.buy("one more")
    assert await world.spent() == [Spending(PRICE), Spending(26 * PRICE)]


async def test_a_month_adds_up_across_days_and_ends(world: World) -> None:
    world.extra = {"max_cost_usd_per_month": "0.5"}
    for day in range(1, 13):
        world.clock.set(f"2026-11-{day:02}T23:59:59")
        await world.buy(f"task {day}")
        assert await world.spent() == [Spending(day * PRICE)]
    with pytest.raises(BudgetExceeded, match=r"\$0.468 of max_cost_usd_per_month \$0.5 are spent in 2026-11 with"):
        await world.buy("one more")
    for name in [name for name in world.place.names() if name.endswith("/2026-11.json")]:
        world.place.write(name, b"{")  # it is a cache
    assert await world.spent() == [Spending(12 * PRICE)]
    world.clock.set("2026-12-01T00:00:00")
    assert await world.spent() == [Spending()]


async def test_days_begin_at_midnight_in_the_budgets_time_zone(world: World) -> None:
    world.extra = {"max_cost_usd_per_day": "0.04", "budget_time_zone": "Europe/Berlin"}
    world.clock.set("2026-11-26T23:30:00", "Europe/Berlin")
    await world.buy("a")
    with pytest.raises(BudgetExceeded, match=r"starts again at 2026-11-27T00:00:00\+01:00"):
        await world.buy("b")
    world.clock.set("2026-11-26T23:00:00")
    await world.buy("b")
    assert {entry.partition(" ")[0] for entry in world.entries()} == {"2026-11-26", "2026-11-27"}


async def test_a_retried_or_cleared_task_counts_once(world: World) -> None:
    await world.buy("a")
    earlier = Tally()
    earlier.paid("m", "", PRICE, 1, "a")
    await world.account("a", try_number=2).begin(earlier, earlier)
    account = world.account("a", try_number=3)
    await account.begin(earlier, earlier)
    assert (await world.spent())[0] == Spending(PRICE)
    async with account.reserved("a") as reservation:
        await account.add("a", PRICE, at=world.clock.now, reservation=reservation)
    assert (await world.spent())[0] == Spending(2 * PRICE)
    world.clock.set("2026-11-27T09:00:00")
    both = Tally()
    both.paid("m", "", 2 * PRICE, 2, "a")
    tomorrow = world.account("a", try_number=4)
    await tomorrow.begin(both, Tally())
    assert await world.spent() == [Spending(), Spending(2 * PRICE)]


async def test_a_killed_worker_leaves_what_it_had_in_flight(world: World) -> None:
    account = world.account("a")
    await account.begin(Tally())
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(account.reserved("a"))
        assert (await world.spent())[0] == Spending(possible_usd=3 * PRICE)
        # The process dies here, and its next try finds one picture recorded and one claim without a record.
        left = Tally()
        left.lost("m", "", "a")
        left.paid("m", "", PRICE, 1, "a")
        await world.account("a", try_number=2).begin(left, left)
        assert (await world.spent())[0] == Spending(PRICE, PRICE)


async def test_what_was_free_is_given_back(world: World) -> None:
    account = world.account("a")
    await account.begin(Tally())
    async with account.reserved("a"):
        pass
    assert (await world.spent())[0] == Spending()


async def test_an_unknown_outcome_counts_at_its_price(world: World) -> None:
    await world.buy("a", None)
    assert (await world.spent())[0] == Spending(possible_usd=PRICE)


async def test_midnight_in_mid_request_counts_it_on_one_day(world: World) -> None:
    world.clock.set("2026-11-26T23:59:59")
    account = world.account("a")
    await account.begin(Tally())
    for cost in (PRICE, None):
        world.clock.set("2026-11-26T23:59:59")
        async with account.reserved("a") as reservation:
            claimed = world.clock.now
            world.clock.set("2026-11-27T00:00:10")
            at = world.clock.now if cost else claimed
            await account.add("a", cost, at=at, reservation=reservation)
    assert await world.spent() == [Spending(PRICE), Spending(PRICE, PRICE)]


async def test_groups_have_budgets_of_their_own(world: World) -> None:
    groups = {"team-a": {"max_cost_usd_per_day": "0.08"}, "b": {"max_cost_usd_per_month": "10"}}
    world.extra = {"max_cost_usd_per_day": "0.2", "budget_groups": groups}
    for number in range(2):
        await world.buy(f"a{number}", group="team-a")
    with pytest.raises(BudgetExceeded, match=r"max_cost_usd_per_day of budget group 'team-a' \$0.08 are spent on"):
        await world.buy("a3", group="team-a")
    for number in range(3):
        await world.buy(f"b{number}", group="b")
    with pytest.raises(BudgetExceeded, match=r"\$0.195 of max_cost_usd_per_day \$0.2 are spent on"):
        await world.buy("nobody's")
    assert await world.spent(group="b") == [Spending(5 * PRICE), Spending(3 * PRICE)]
    assert await world.spent(group="unnamed") == [Spending(5 * PRICE)]


@pytest.mark.slow
async def test_many_at_once_go_over_by_what_is_in_flight_at_most(world: World) -> None:
    ends = await asyncio.gather(*(world.buy(f"t{n}") for n in range(60)), return_exceptions=True)
    bought = sum(isinstance(end, Account) for end in ends)
    assert all(isinstance(end, Account | BudgetExceeded) for end in ends)
    assert (await world.spent())[0] == Spending(bought * PRICE)
    assert bought >= 25
    with pytest.raises(BudgetExceeded):
        await world.buy("late")


@pytest.mark.s3
@pytest.mark.parametrize("limit", ["run", "day"])
async def test_an_entry_that_could_not_be_deleted_at_once_is_deleted_later(
    proxy: S3Proxy, s3_place: S3Place, limit: str
) -> None:
    world = World(ProxiedPlace(s3_place, proxy.conn_id), {"max_cost_usd_per_day": "0.039"} if limit == "day" else {})
    world.clock.set("2026-11-26T12:00:00")
    more: dict[str, Any] = {"run_limit": PRICE} if limit == "run" else {}
    account = world.account("one", **more)
    await account.begin(Tally())
    async with account.reserved("a"):
        assert [name for name in s3_place.names() if "0_0.039_0_0" in name] != []
        proxy.refuses_deletions = 1
    assert proxy.refuses_deletions == 0
    assert [name for name in s3_place.names() if "0_0.039_0_0" in name] == [], "it was free"
    await world.buy("two", **more)


@pytest.mark.s3
@pytest.mark.parametrize("limit", ["run", "day"])
async def test_a_store_that_allows_no_deletions_stops_nothing(
    proxy: S3Proxy, s3_place: S3Place, limit: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(ProxiedPlace(s3_place, proxy.conn_id), {"max_cost_usd_per_day": "1"} if limit == "day" else {})
    more: dict[str, Any] = {"run_limit": Decimal(1)} if limit == "run" else {}
    account = world.account("one", **more)
    proxy.refuses_deletions = 1000
    await account.begin(Tally())
    for _ in range(5):
        async with account.reserved("a") as reservation:
            await account.add("a", PRICE, at=world.clock.now, reservation=reservation)
    assert account.spending.usd == 5 * PRICE
    assert caplog.text.count("cannot be deleted") == 1
    assert proxy.refuses_deletions > 970, "a few per report, not one per old entry"


@pytest.mark.s3
async def test_store_that_takes_no_entries_lets_nothing_start(proxy: S3Proxy, s3_place: Place) -> None:
    world = World(s3_place, {"max_cost_usd_per_day": "1"}, patience=1)
    world.clock.set("2026-11-26T12:00:00")
    world.place = ProxiedPlace(s3_place, proxy.conn_id)
    proxy.refuse = "_deepshi_spending"
    with pytest.raises(StorageFailed, match="this hour's costs could not be reported"):
        await world.buy("a")
    proxy.refuse = None
    await world.buy("a")
    proxy.no_listing = "AccessDenied"
    with pytest.raises(StorageFailed):
        await world.buy("b")


@dataclass(frozen=True)
class ProxiedPlace:
    """A place behind the proxy."""

    place: Place
    conn_id: str | None

    @property
    def uri(self) -> str:
        return self.place.uri

    def names(self) -> list[str]:
        return self.place.names()

    def read(self, name: str) -> bytes:
        return self.place.read(name)

    def write(self, name: str, data: bytes) -> None:
        self.place.write(name, data)

    def delete(self, name: str) -> None:
        self.place.delete(name)


def asked(proxy: S3Proxy) -> tuple[set[str], int, int]:
    """Folders that were listed, all calls, and objects that were read."""
    queries = [parse_qs(urlsplit(path).query) for method, path in proxy.seen if method == "GET"]
    listed = [query["prefix"][0] for query in queries if "list-type" in query]
    return set(listed), len(proxy.seen), len([query for query in queries if "list-type" not in query])


@pytest.mark.s3
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("count", [900, pytest.param(100_000, marks=pytest.mark.load)])
async def test_a_month_is_known_from_two_listings_and_one_read(
    proxy: S3Proxy, s3: S3Server, s3_place: Place, count: int
) -> None:
    world = World(s3_place, {"max_cost_usd_per_day": "1000000", "max_cost_usd_per_month": "1000000"})
    world.clock.set("2026-11-01T12:00:00")
    await world.buy("first")
    (first,) = [name for name in s3_place.names() if "/2026-11-01/" in name]
    client, body = s3.client(), s3_place.read(first)

    def fill(number: int) -> None:
        folder, _, name = first.rpartition("/")
        day = f"{folder.rpartition('/')[0]}/2026-11-{number % 30 + 1:02}"
        entry = f"{number // 30 % 12:02}.{number:016x}.{name.split('.', 2)[2]}"
        key = f"{s3_place.uri.partition('images/')[2]}/{day}/{entry}"
        client.put_object(Bucket="images", Key=key, Body=body)

    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(fill, range(count), chunksize=100):
            pass
    world.clock.set("2026-11-30T12:00:00")
    world.place = ProxiedPlace(s3_place, proxy.conn_id)
    proxy.delay = 0.01
    today = Spending((count // 30) * PRICE)
    assert await world.spent() == [today, Spending((count + 1) * PRICE)], "the first one adds up the days"
    proxy.seen.clear()
    account = world.account("looker")
    begun = time.monotonic()
    await account.limits()
    took = time.monotonic() - begun
    listed, calls, read = asked(proxy)
    print(f"{count:,} entries in a month: {calls} calls of 10 ms, {1000 * took:.0f} ms")  # noqa: T201 -- a figure
    assert {prefix.rpartition("/2026")[2] for prefix in listed} == {"-11-30/12.", "-11-30/11."}
    assert read == 1
    assert calls <= 4, "s3fs asks for the head of an object before it reads it"
    proxy.seen.clear()
    assert [limit.spent for limit in await account.limits()] == [today, Spending((count + 1) * PRICE)]
    assert asked(proxy)[1:] == (2, 0), "what is over is asked for once a minute"


#: A limit of $1 for the run, or for day and month.
LIMITS = [{"run_limit": Decimal(1)}, {}]


@pytest.mark.parametrize("limit", LIMITS, ids=["run", "day"])
async def test_a_killed_worker_leaves_what_it_had_in_flight_at_an_unknown_price(
    world: World, limit: dict[str, Any]
) -> None:
    world.extra = {} if limit else world.extra
    async with contextlib.AsyncExitStack() as killed:
        await world.begun(killed, "killed", "b", **limit)
        assert (await world.spent(**limit))[0] == Spending(learning=((B, 1),))
        await Prices(world.prices_account, STORES.at(world.place.uri, world.place.conn_id)).learn("b", Decimal("0.9"))
        assert (await world.spent(**limit))[0] == Spending(possible_usd=Decimal("0.9"))
        await world.buy("one", **limit)
        await world.buy("two", **limit)
        with pytest.raises(BudgetExceeded, match=r"\$0.078 and perhaps \$0.9 more of max_"):
            await world.buy("three", **limit)


@pytest.mark.parametrize("limit", LIMITS, ids=["run", "day"])
async def test_three_requests_of_unknown_price_are_under_way_or_lost_at_most(
    world: World, limit: dict[str, Any]
) -> None:
    world.extra = {} if limit else world.extra
    await world.buy("lost", None, "b", **limit)
    await world.buy("unreported", None, "c", **limit)
    async with contextlib.AsyncExitStack() as killed:
        await world.begun(killed, "killed", "d", **limit)
        with pytest.raises(TimedOut, match="3 or more requests of other tasks are under way"):
            await world.buy("fourth", PRICE, "e", **limit)
        await world.buy("known", **limit)
        world.clock.now += 3 * 3600
        begun = time.monotonic()
        never = Times(poll=0.02, learning=1000)
        if not limit:
            with pytest.raises(BudgetExceeded, match="3 requests were"):
                await world.buy("later", PRICE, "e", times=never)
            assert time.monotonic() - begun < 500, "nobody waits for what was under way hours ago"


@pytest.mark.slow
@pytest.mark.parametrize("limit", LIMITS, ids=["run", "day"])
async def test_a_request_waits_while_other_tasks_learn_prices(world: World, limit: dict[str, Any]) -> None:
    world.extra = {} if limit else world.extra
    patient: dict[str, Any] = {**limit, "times": Times(poll=0.02, learning=1000)}
    others = [contextlib.AsyncExitStack() for _ in range(3)]
    for number, stack in enumerate(others):
        await world.begun(stack, f"task {number}", "b", **patient)
    waiting = asyncio.create_task(world.buy("fourth", PRICE, "b", **patient))
    _, pending = await asyncio.wait([waiting], timeout=0.5)
    assert pending
    for stack in others:
        await stack.aclose()  # they were free
    await waiting
    assert (await world.spent(**limit))[0] == Spending(PRICE)


@pytest.mark.slow
async def test_the_time_to_wait_for_other_tasks_begins_when_only_they_are_in_the_way(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    account = world.account("one", times=Times(poll=0.02, learning=1.5))
    await account.begin(Tally())
    others = [contextlib.AsyncExitStack() for _ in range(3)]
    async with account.reserved("a"):
        for number, stack in enumerate(others):
            await world.begun(stack, f"task {number}", "b")

        async def buy() -> None:
            async with account.reserved("b"):
                pass

        waiting = asyncio.create_task(buy())
        await asyncio.sleep(1.6)
        assert not waiting.done()
    await until("it waits for the others", lambda: "waiting for them" in caplog.text)
    for stack in others:
        await stack.aclose()
    await waiting
    assert caplog.text.count("waiting for them") == 1


async def test_losses_of_many_classes_count_at_their_own_prices_in_later_days_too(world: World) -> None:
    world.extra = {"max_cost_usd_per_month": "1000"}
    for name in "bcdefg":
        await world.buy(f"lost {name}", None, name)
        await world.buy(f"paid {name}", Decimal("0.04"), name)
    for day in range(4):
        await world.buy(f"day {day}", PRICE, f"new class {day}")
        (spent,) = [limit.spent for limit in await world.account(f"looker {day}").limits()]
        looked = (await at_known_prices([Limit("month", Decimal(1000), spent)], world.account("x").prices))[0].spent
        assert (looked.usd, looked.most_usd, looked.blind) == (
            6 * Decimal("0.04") + (day + 1) * PRICE,
            12 * Decimal("0.04") + (day + 1) * PRICE,
            0,
        )
        world.clock.now += 24 * 3600


async def test_a_loss_counts_at_the_price_of_its_own_class_once_that_is_known(world: World) -> None:
    await world.buy("lost", None, "b")
    world.clock.now += 5 * 3600
    assert await world.spent() == [Spending(lost=((B, 1),))] * 2
    looker = world.account("looker")
    assert [limit.spent.blind for limit in await looker.limits()] == [1, 1]
    await world.buy("learns", Decimal("0.5"), "b")
    assert await world.spent() == [Spending(Decimal("0.5"), Decimal("0.5"))] * 2
    with pytest.raises(BudgetExceeded, match=r"\$0.5 and perhaps \$0.5 more of max_cost_usd_per_day \$1.00 are spent"):
        await world.buy("of another class")


async def test_a_record_that_was_not_stored_counts_once_with_its_claim(world: World) -> None:
    await world.buy("a")  # its record could not be stored, so its claim is of unknown outcome
    left = Tally()
    left.lost("m", "", "a")
    again = world.account("a", try_number=2)
    await again.begin(left, left)
    assert await world.spent() == [Spending(PRICE)] * 2
    async with again.reserved("a") as reservation:
        await again.add("a", PRICE, at=world.clock.now, reservation=reservation)
    assert await world.spent() == [Spending(PRICE, PRICE)] * 2


async def test_what_a_killed_worker_may_have_spent_is_warned_of(world: World) -> None:
    world.extra = {"max_cost_usd_per_day": "0.045"}
    async with contextlib.AsyncExitStack() as killed:
        await world.begun(killed, "killed", "a")
        account = world.account("refused")
        await account.begin(Tally())
        with pytest.raises(BudgetExceeded):
            async with account.reserved("a"):
                pass
        (state,) = account.warnings
        assert (state.spent_usd, state.may_have_cost_usd) == (Decimal(0), PRICE)


async def test_an_hour_with_something_under_way_is_not_closed(world: World) -> None:
    world.clock.set("2026-11-26T12:00:00")
    account = world.account("slow")
    await account.begin(Tally())
    async with account.reserved("a") as reservation:
        for hour in range(13, 24):
            world.clock.set(f"2026-11-26T{hour}:00:00")
            assert await world.spent() == [Spending(possible_usd=PRICE)] * 2
        world.clock.set("2026-11-27T04:00:00")
        await account.add("a", PRICE, at=world.clock.now, reservation=reservation)
    assert await world.spent() == [Spending(PRICE)] * 2
    world.clock.set("2026-11-29T04:00:00")
    assert await world.spent() == [Spending(), Spending(PRICE)]


async def test_a_request_counts_once_when_the_hour_turns(world: World) -> None:
    world.extra = {"max_cost_usd_per_day": "0.12", "max_cost_usd_per_month": "0.12"}
    world.clock.set("2026-11-26T12:59:59")
    account = world.account("one")
    await account.begin(Tally())
    first, rest = contextlib.AsyncExitStack(), contextlib.AsyncExitStack()
    await first.enter_async_context(account.reserved("a"))
    await rest.enter_async_context(account.reserved("a"))
    world.clock.set("2026-11-26T13:00:00")
    await rest.enter_async_context(account.reserved("a"))
    fourth = asyncio.create_task(rest.enter_async_context(account.reserved("a")))
    _, pending = await asyncio.wait([fourth], timeout=0.5)
    assert pending
    await first.aclose()  # it was free
    await fourth
    assert await world.spent() == [Spending(possible_usd=3 * PRICE)] * 2
    await rest.aclose()
    assert await world.spent() == [Spending()] * 2


async def test_a_request_of_hours_ago_counts_once(world: World) -> None:
    world.extra = {"max_cost_usd_per_day": "0.08", "max_cost_usd_per_month": "0.08"}
    account = world.account("one")
    await account.begin(Tally())
    async with account.reserved("a"):
        world.clock.set("2026-11-26T15:00:00")
        async with account.reserved("a"):
            assert await world.spent() == [Spending(possible_usd=2 * PRICE)] * 2


async def test_a_request_of_yesterday_may_be_paid_today(world: World) -> None:
    world.extra = {"max_cost_usd_per_day": "0.04"}
    world.clock.set("2026-11-26T23:59:59")
    account = world.account("one")
    await account.begin(Tally())
    async with account.reserved("a") as reservation:
        world.clock.set("2026-11-27T00:00:00")
        waiting = asyncio.create_task(account.check("a"))
        _, pending = await asyncio.wait([waiting], timeout=0.5)
        assert pending
        await account.add("a", PRICE, at=world.clock.now, reservation=reservation)
    with pytest.raises(BudgetExceeded):
        await waiting
    world.clock.set("2026-11-28T00:00:00")
    await world.buy("tomorrow")


async def test_what_was_spent_last_hour_is_not_spent_today(world: World) -> None:
    world.extra = {"max_cost_usd_per_day": "0.04", "max_cost_usd_per_month": "0.08"}
    world.clock.set("2026-11-26T23:59:59")
    account = await world.buy("one")
    world.clock.set("2026-11-27T00:00:00")
    assert [limit.spent for limit in await account.limits()] == [Spending(), Spending(PRICE)]
    async with account.reserved("a"):
        pass


@pytest.mark.s3
@pytest.mark.parametrize("cost", [PRICE, None], ids=["paid", "free"])
async def test_a_request_that_waits_does_not_see_an_entry_of_the_last_hour_that_is_out_of_date(
    proxy: S3Proxy, s3_place: S3Place, cost: Decimal | None
) -> None:
    world = World(ProxiedPlace(s3_place, proxy.conn_id), {"max_cost_usd_per_day": "0.08"})
    world.clock.set("2026-11-26T12:59:59")
    account = world.account("one")
    await account.begin(Tally())

    async def end(reserved: contextlib.AsyncExitStack, reservation: Reservation) -> None:
        if cost:
            await account.add("a", cost, at=world.clock.now, reservation=reservation)
        await reserved.aclose()

    last_hour = contextlib.AsyncExitStack()
    reservation = await last_hour.enter_async_context(account.reserved("a"))
    world.clock.set("2026-11-26T13:00:00")
    if cost is None:
        await world.buy("another")
    async with contextlib.AsyncExitStack() as next_one:
        proxy.held = r"PUT .*/12\."
        ending = asyncio.create_task(end(last_hour, reservation))
        await until("the report", lambda: proxy.held_requests() > 1)
        starting = asyncio.create_task(next_one.enter_async_context(account.reserved("a")))
        await until("the next one", lambda: account.under_way == {"a": 1} or starting.done())
        assert not ending.done()
        proxy.released.set()
        await asyncio.gather(starting, ending)
        assert (await world.spent())[0].most_usd == 2 * PRICE


async def test_reservations_of_the_last_hour_do_not_outlast_a_recount(world: World) -> None:
    """The rows that wait for the turn give theirs up one by one, and each reports what the others still have."""
    account = world.account("one")
    await account.begin(Tally())
    rows = contextlib.AsyncExitStack()
    for _ in range(3):
        await rows.enter_async_context(account.reserved("a"))
    world.clock.set("2026-11-26T13:00:00")
    await account.recount(Tally(), Tally())
    assert await world.spent() == [Spending()] * 2
    await rows.aclose()
    async with account.reserved("a") as reservation:
        await account.add("a", PRICE, at=world.clock.now, reservation=reservation)
    assert await world.spent() == [Spending(PRICE)] * 2


async def test_earlier_tries_and_other_processes_of_the_last_hour_count_once(world: World) -> None:
    await world.buy("one")
    earlier = tally_of(1)
    again = world.account("one", try_number=2)
    await again.begin(earlier, earlier)
    async with again.reserved("a") as reservation:
        await again.add("a", PRICE, at=world.clock.now, reservation=reservation)
    other, earlier = world.account("one", try_number=2), tally_of(2)
    await other.begin(earlier, earlier)  # while the first was paused
    async with other.reserved("a") as reservation:
        await other.add("a", PRICE, at=world.clock.now, reservation=reservation)
    world.clock.set("2026-11-26T13:00:00")
    await again.recount(tally_of(3), Tally())
    for account in (again, world.account("looker")):
        assert [limit.spent for limit in await account.limits()] == [Spending(3 * PRICE)] * 2


def tally_of(paid: int) -> Tally:
    tally = Tally()
    for _ in range(paid):
        tally.paid("m", "", PRICE, 1, "a")
    return tally


@pytest.mark.s3
async def test_killed_workers_cost_no_more_listings(proxy: S3Proxy, s3_place: Place) -> None:
    world = World(s3_place, {"max_cost_usd_per_day": "100", "max_cost_usd_per_month": "100"})
    async with contextlib.AsyncExitStack() as killed:
        for hour in range(8):
            world.clock.set(f"2026-11-26T{hour:02}:30:00")
            account = world.account(f"killed {hour}")
            await account.begin(Tally())
            await killed.enter_async_context(account.reserved("a"))
        world.clock.set("2026-11-26T12:00:00")
        lost = [Spending(possible_usd=8 * PRICE)] * 2
        assert await world.spent() == lost, "the first one adds up the hours"
        world.place = ProxiedPlace(s3_place, proxy.conn_id)
        proxy.seen.clear()
        assert await world.spent() == lost
        listed, _, read = asked(proxy)
        assert ({prefix[-4:] for prefix in listed}, read) == ({"/11.", "/12."}, 1)


async def test_a_slow_request_ends_in_an_hour_that_was_added_up(world: World) -> None:
    world.clock.set("2026-11-26T12:00:00")
    account = world.account("slow")
    await account.begin(Tally())
    async with account.reserved("a") as reservation:
        world.clock.set("2026-11-26T18:00:00")
        assert await world.spent() == [Spending(possible_usd=PRICE)] * 2
        await account.add("a", PRICE, at=world.clock.now, reservation=reservation)
    assert await world.spent() == [Spending(PRICE)] * 2, "it is not counted in both hours"


@pytest.mark.slow
async def test_every_hour_of_a_month_counts_once(world: World) -> None:
    world.extra = {"max_cost_usd_per_day": "100", "max_cost_usd_per_month": "100", "budget_time_zone": "Europe/Berlin"}
    world.clock.set("2026-10-24T21:30:00", "Europe/Berlin")
    for number in range(1, 40):  # the clocks are put back in that night
        await world.buy(f"task {number}")
        assert (await world.spent())[1] == Spending(number * PRICE)
        world.clock.now += 3600
    assert (await world.spent())[0].usd < 39 * PRICE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("zone", "begins"),
    [
        ("Europe/Berlin", "2026-03-28"),  # 02:00 is followed by 03:00
        ("Europe/Berlin", "2026-10-24"),  # 03:00 is followed by 02:00
        ("Australia/Lord_Howe", "2026-10-03"),  # 02:00 is followed by 02:30
        ("Australia/Lord_Howe", "2026-04-04"),  # 02:00 is followed by 01:30
        ("America/Santiago", "2026-09-05"),  # midnight is followed by 01:00
        ("America/Santiago", "2026-04-04"),  # midnight is followed by 23:00
        ("Antarctica/Troll", "2026-10-24"),  # 03:00 is followed by 01:00
    ],
)
async def test_a_day_has_exactly_its_instants_when_the_clocks_change(local: Place, zone: str, begins: str) -> None:
    world = World(local, {"max_cost_usd_per_day": "100", "budget_time_zone": zone})
    world.clock.set(f"{begins}T22:30:00", zone)
    bought: dict[str, int] = {}
    looker = world.account("looker")
    for number in range(24):
        day = datetime.fromtimestamp(world.clock.now, ZoneInfo(zone)).date().isoformat()
        bought[day] = bought.get(day, 0) + 1
        await world.buy(f"task {number}")
        for one in (looker, world.account("new")):
            assert [limit.spent for limit in await one.limits()] == [Spending(bought[day] * PRICE)]
        world.clock.now += 900


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe"])
async def test_a_retry_in_a_repeated_hour_counts_all_of_the_hour(local: Place, zone: str) -> None:
    world = World(local, {"max_cost_usd_per_day": "100", "budget_time_zone": zone})
    world.clock.set("2026-10-25T02:40:00" if zone == "Europe/Berlin" else "2026-04-05T01:40:00", zone)
    await world.buy("a", Decimal("1.00"))
    bought = [(world.clock.now, Decimal("1.00"))]
    world.clock.now += 3600 if zone == "Europe/Berlin" else 1800
    account = world.account("a", try_number=2)
    tally = Tally()
    for at, cost in bought:
        if at >= (account.counts_since or 0):
            tally.paid("m", "", cost, 1, "a")
    await account.begin(tally, tally)
    async with account.reserved("a") as reservation:
        await account.add("a", Decimal("0.75"), at=world.clock.now, reservation=reservation)
    assert await world.spent() == [Spending(Decimal("1.75"))]


@pytest.mark.parametrize(("zone", "at"), [("Australia/Lord_Howe", "2026-10-04T02:40:00"), ("UTC", "2026-11-26T12:10")])
def test_an_hour_begins_where_its_name_does(local: Place, zone: str, at: str) -> None:
    world = World(local, {"max_cost_usd_per_day": "1", "budget_time_zone": zone})
    world.clock.set(at, zone)
    assert world.account("a").counts_since == world.clock.now - 600


def settings(**extra: Any) -> Settings:
    return Settings(conn_id="c", base_url="http://x", api_key=SecretStr("k"), **extra)


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ({"max_cost_usd_per_day": 1}, "budgets need an output_uri"),
        ({"budget_groups": '{"a": {"max_cost_usd_per_day": 1}}'}, "budgets need an output_uri"),
        ({"output_uri": "file:///x", "max_cost_usd_per_day": "much"}, "max_cost_usd_per_day"),
        ({"output_uri": "file:///x", "max_cost_usd_per_month": -1}, "max_cost_usd_per_month"),
        ({"output_uri": "file:///x", "max_cost_usd_per_month": "nan"}, "max_cost_usd_per_month"),
        ({"budget_time_zone": "Middle-earth/Shire"}, "not a time zone"),
        ({"budget_time_zone": "../etc"}, "not a time zone"),
        ({"budget_groups": "team-a"}, "an object is needed"),
        ({"budget_groups": {"a": 5}}, "an object is needed"),
        ({"budget_groups": {"a": {"max_cost_usd_per_week": 5}}}, "max_cost_usd_per_week"),
        ({"warn_at": 80}, "warn_at"),
        ({"output_uri": "file:///x", "budget_groups": {" ": {"max_cost_usd_per_day": 5}}}, "at least 1 character"),
        ({"output_uri": "file:///x", "budget_groups": {"x" * 101: {"max_cost_usd_per_day": 5}}}, "at most 100"),
        ({"output_uri": "file:///x", "budget_groups": {"a": {}, "a ": {}}}, "two groups have the same name"),
        ({"output_uri": "file:///x", "budget_groups": {"a": {"group": "b"}}}, "and no group"),
    ],
)
def test_settings_that_cannot_hold_are_refused(extra: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        settings(**extra)


def test_a_group_is_found_whatever_surrounds_its_name() -> None:
    given = {" team a/ü ": {"max_cost_usd_per_day": "1.00"}}
    (limit,) = settings(output_uri="file:///x", budget_groups=given).budgets("team a/ü").limits
    assert (limit.usd, limit.group) == (Decimal(1), "team a/ü")


def test_budgets_are_the_same_as_json_text_and_as_an_object() -> None:
    groups = '{"a": {"max_cost_usd_per_day": 5.10}}'
    text = settings(output_uri="file:///x", budget_groups=groups, max_cost_usd_per_day="2.50")
    (day, group) = text.budgets("a").limits
    assert (day.usd, group.usd, group.name) == (
        Decimal("2.50"),
        Decimal("5.1"),
        "max_cost_usd_per_day of budget group 'a'",
    )
    assert hash(text) == hash(text.model_copy())
