"""The account of a task instance: the sum that its limits, its log and its DAG run use."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from deepshi_provider.costs.budget_state import WindowState
from deepshi_provider.costs.money import is_known, usd
from deepshi_provider.costs.tally import Tally
from deepshi_provider.exceptions import BudgetExceeded, DeepshiError, TimedOut
from deepshi_provider.journal.entries import short_hash
from deepshi_provider.journal.lease import TIMES, Times
from deepshi_provider.journal.prices import Prices
from deepshi_provider.journal.run_costs import RunCosts
from deepshi_provider.journal.running_sum import RunningSum
from deepshi_provider.journal.spending import Limit, Spending
from deepshi_provider.journal.window_costs import WindowCosts

log = logging.getLogger(__name__)

#: Number of requests of unknown price that were or may have been paid for, after which a limit stops further ones. For
#: the limit of a task, it counts all its tries; for that of a run, all its tasks.
MOST_BLIND = 3


@dataclass(kw_only=True)
class Reservation:
    """The price that is reserved for one request under way.

    :param hour: the hour in which the request started.
    :param has_waited: whether it had to wait for other requests.
    """

    price_class: str
    hour: str
    has_waited: bool
    is_open: bool = True


class Account:
    """Adds up the spending of a task instance over all its tries, and lets requests start while the limits allow it.

    A request counts at the highest known price of its class. The first request of a class without a known price is
    sent alone, to learn the price: it is the only one that may exceed a limit. A request that was or may have been
    paid for at an unreported price counts at the price of its class as soon as that is known, and until then at that of
    the next request. If :data:`MOST_BLIND` such requests have no known price, further requests without a known price
    wait for those of them that are under way, and are then refused.

    :param prices: the known prices of the connection.
    :param run: shares the spending with the run's other tasks.
    :param limit: USD that the task instance may spend; ``None`` for no limit.
    :param windows: shares the spending per hour with all tasks of the connection.
    :param times: how long to wait for other tasks.
    :ivar has_begun: whether the spending of earlier tries is included.
    :ivar closed_by: why no further request may start; the first refusal is final.
    :ivar warnings: budgets per day and month that this task was the first to find nearly spent.
    """

    def __init__(
        self,
        prices: Prices,
        run: RunCosts,
        limit: Decimal | None = None,
        windows: WindowCosts | None = None,
        *,
        times: Times = TIMES,
    ) -> None:
        self.prices = prices
        self._times = times
        self._run = run
        self._limit = limit
        self._windows = windows if windows and windows.has_limits else None
        self._all = RunningSum()
        self._hours: dict[str, RunningSum] = {}
        #: The hour since which these are complete; earlier ones lack other tries. ``None`` before :meth:`begin`.
        self._known_since: str | None = None
        self._changed = asyncio.Event()
        self.has_begun = False
        self.closed_by: DeepshiError | None = None
        self.warnings: list[WindowState] = []

    @property
    def spending(self) -> Spending:
        """The spending of the task instance; unreported costs count at the prices known so far."""
        return self._all.spending(self.prices)

    @property
    def under_way(self) -> Counter[str]:
        """Requests that have started and not ended, by price class."""
        return self._all.under_way

    @property
    def is_limited(self) -> bool:
        """Whether any limit applies: of the task, its run, a day or a month."""
        return self._limit is not None or self._run.limit is not None or self._windows is not None

    @property
    def counts_since(self) -> float | None:
        """The start of the hour that is counted separately, in unix seconds; ``None`` if there is none."""
        return self._windows.began_at() if self._windows else None

    async def limits(self) -> list[Limit]:
        """Return all limits that apply, with their spending.

        :raises StorageFailed: the spending cannot be read.
        """
        return self._with_own(*await self._ask())

    async def begin(self, earlier: Tally, recent: Tally | None = None, *, report: bool = True) -> None:
        """Add the spending of earlier tries and report it to the run. Later calls do nothing. Never raises.

        :param recent: the part of ``earlier`` since :attr:`counts_since`.
        :param report: ``False`` if nothing will be bought.
        """
        if self.has_begun:
            return
        self.has_begun = True
        self.prices.note(earlier.prices())
        self._all.add_tally(earlier)
        if self._windows:
            self._known_since = self._windows.this_hour()
            if recent:
                self._hour(self._known_since).add_tally(recent)
        await self._learn_prices(self._all.classes)
        if report:
            await self._with_hours(self._run.begin(self.spending))

    async def add(
        self,
        price_class: str,
        cost_usd: Decimal | None,
        *,
        at: float | None = None,
        reservation: Reservation | None = None,
    ) -> None:
        """Add a request that was or may have been paid for, and report it to run, day and month. Never raises.

        :param cost_usd: as :func:`~deepshi_provider.costs.money.paid` returns it.
        :param at: time of its record, or of its claim if it has no record, in unix seconds; now by default.
        :param reservation: the request's reservation, which this ends.
        """
        if cost_usd is not None and is_known(cost_usd) and price_class:
            # Before a request that waits is woken, which must not start as if the price were unknown.
            self.prices.note({price_class: cost_usd})
        if reservation:
            self._settle(reservation)
        self._all.add(price_class, cost_usd)
        if self._windows:
            self._hour(self._windows.this_hour() if at is None else self._windows.hour_of(at)).add(
                price_class, cost_usd
            )
        if is_known(cost_usd):
            await asyncio.gather(self.prices.learn(price_class, cost_usd), self._report())
        else:
            await self._learn_prices([price_class])
            await self._report()
        await self.warn()

    async def recount(self, tally: Tally, recent: Tally | None = None) -> None:
        """Raise the sums to those of the journal, since another process may have paid for the same job.

        :param tally: made while no request of this process was under way: it would count twice.
        :param recent: the part of ``tally`` since :attr:`counts_since`, if a later request depends on it.
        """
        self.prices.note(tally.prices())
        self._all.raise_to(tally)
        hour = self._windows.this_hour() if self._windows else None
        if hour and recent:
            self._hour(hour).raise_to(recent)
        for name, spent in self._hours.items():
            if hour and name < hour:  # from now on listed, where what its rows have reserved must not remain
                spent.under_way.clear()
        await self._learn_prices(self._all.classes)
        if self.has_begun:
            await self._report()
        self._known_since = hour  # what the other process has spent earlier is only in its entries

    @contextlib.asynccontextmanager
    async def reserved(self, price_class: str) -> AsyncIterator[Reservation]:
        """Reserve the price of a request while it is under way; wait until it fits into the limits.

        :raises BudgetExceeded: the request does not fit, even if all requests under way turn out to be free.
        :raises StorageFailed: the spending cannot be read, or this reservation cannot be reported.
        """
        try:
            reservation = await self._reserve(price_class)
        except DeepshiError as err:
            self.close(err)
            if isinstance(err, BudgetExceeded):
                await self.warn()  # a killed process may have crossed the share
            raise
        try:
            yield reservation
        finally:
            if reservation.is_open:
                self._settle(reservation)
                await self._report_under_way()

    async def check(self, price_class: str) -> None:
        """Check that a request fits into the limits now; reserve nothing.

        :raises BudgetExceeded: it does not fit.
        :raises TimedOut: other tasks' requests of unknown price did not end in time.
        :raises StorageFailed: the spending cannot be read.
        """
        if self.is_limited:
            await self._check_prices(price_class)
            self._settle(await self._opened(price_class))

    def close(self, error: DeepshiError) -> None:
        """Refuse all waiting and later requests with this error."""
        self.closed_by = self.closed_by or error
        self._wake()

    async def _reserve(self, price_class: str) -> Reservation:
        if self.is_limited:
            await self._check_prices(price_class)
        reservation = await self._opened(price_class)
        try:
            await self._report_under_way()
            self._run.check()
            if self._windows:
                self._windows.check()
        except BaseException:
            self._settle(reservation)
            raise
        return reservation

    async def _opened(self, price_class: str) -> Reservation:
        has_waited, gives_up_at = False, math.inf
        while True:
            if self.closed_by:
                raise self.closed_by
            run, windows = await self._ask(price_class)
            if self.closed_by:
                raise self.closed_by
            limits = self._with_own(run, windows)
            # No await between the check and the reservation, so that two requests cannot both take the rest.
            refused = self._refusal(price_class, limits)
            if not refused:
                return self._open(price_class, has_waited=has_waited)
            has_waited = True
            if self.under_way.total():
                await self._changed.wait()
                continue
            if self._refusal(price_class, map(_without_learning, limits)):
                raise BudgetExceeded(refused)
            if gives_up_at == math.inf:
                log.info("Other tasks have requests of unknown price under way; waiting for them")
                gives_up_at = time.monotonic() + self._times.learning
            if time.monotonic() >= gives_up_at:
                raise TimedOut(
                    f"Not sent: {MOST_BLIND} or more requests of other tasks are under way, and after "
                    f"{self._times.learning:g} s their price is still unknown, so no more can be counted against a "
                    "limit. The next try looks again"
                )
            await asyncio.sleep(self._times.poll)

    def _open(self, price_class: str, *, has_waited: bool) -> Reservation:
        hour = self._windows.this_hour() if self._windows else ""
        self._all.under_way[price_class] += 1
        self._hour(hour).under_way[price_class] += 1
        return Reservation(price_class=price_class, hour=hour, has_waited=has_waited)

    def _settle(self, reservation: Reservation) -> None:
        reservation.is_open = False
        for total in (self._all, self._hour(reservation.hour)):
            total.under_way -= Counter([reservation.price_class])
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _hour_known_since(self) -> str | None:
        return self._known_since

    def _hour(self, hour: str) -> RunningSum:
        return self._hours.setdefault(hour, RunningSum())

    async def _report(self) -> None:
        has_limit = self._run.limit is not None
        spent = self._all.with_requests_under_way(self.prices) if has_limit else self.spending
        await self._with_hours(self._run.report(spent))

    async def _report_under_way(self) -> None:
        """Report a request that has started, or has ended at no cost, where a limit counts it."""
        await (self._report_hours() if self._run.limit is None else self._report())

    async def _with_hours(self, report: Coroutine[Any, Any, None]) -> None:
        """Await a report to the run, and at the same time those of the hours, if a limit needs them."""
        await (asyncio.gather(report, self._report_hours()) if self._windows else report)

    async def _report_hours(self) -> None:
        if self._windows:
            sums = [(hour, spent.with_requests_under_way(self.prices)) for hour, spent in self._hours.items()]
            await asyncio.gather(*(self._windows.report(hour, spent) for hour, spent in sums))

    async def warn(self) -> None:
        """Warn of budgets that are nearly spent, or may be. Never raises.

        List after writing this task's entry, so that one of many sees all.
        """
        if self._windows is None:
            return
        try:
            listed = await self._windows.limits(self._hour_known_since)
            limits = self._with_own([], await at_known_prices(listed, self.prices))
        except DeepshiError as err:
            log.warning("Could not check whether a budget is nearly spent: %s", err)
            return
        for state in await self._windows.warnings.newly_crossed(limit for limit in limits if limit.window):
            self.warnings.append(state)
            log.warning("Budget: %s", state.text)

    async def _ask(self, *price_classes: str) -> tuple[list[Limit], list[Limit]]:
        """Return the limits of run, day and month, with the spending of other tasks.

        :param price_classes: classes of next requests, whose price to read again if it was not known.
        """
        run: list[Limit]
        windows: list[Limit]
        if self._windows:
            run, windows = await asyncio.gather(self._run.limits(), self._windows.limits(self._hour_known_since))
        else:
            run, windows = await self._run.limits(), []
        classes = price_classes if self.is_limited else ()
        known = await at_known_prices([*run, *windows], self.prices, classes)
        return known[: len(run)], known[len(run) :]

    def _with_own(self, run: list[Limit], windows: list[Limit]) -> list[Limit]:
        own = self.spending
        task = [Limit("max_cost_usd", self._limit, own)] if self._limit is not None else []
        return [
            *task,
            *(limit.with_own(own) for limit in run),
            *(limit.with_own(self._since(max(limit.own_since, limit.window))) for limit in windows),
        ]

    def _since(self, hour: str) -> Spending:
        """Return the task's spending since an hour; the next one may have begun after the spending was listed."""
        return sum((spent.spending(self.prices) for name, spent in self._hours.items() if name >= hour), Spending())

    def _flying(self, limit: Limit) -> Decimal:
        """Return the price of the requests under way, without those that a limit already counts as spent.

        Requests that started before its day or month may be paid for in it.
        """
        under_way = Counter[str]()
        for hour, spent in self._hours.items():
            if not limit.window <= hour < limit.own_since:
                under_way += spent.under_way
        return sum(((self.prices.cached(name) or Decimal(0)) * n for name, n in under_way.items()), Decimal(0))

    def _refusal(self, price_class: str, limits: Iterable[Limit]) -> str:
        """Return the reason why a request may not start now; empty if it may, as it always may without a limit."""
        if not self.is_limited:
            return ""
        in_flight = self.under_way
        if None in map(self.prices.cached, in_flight):
            return "A price is being learned"
        price = self.prices.cached(price_class)
        refusals = (_refusal(limit, price, flying=self._flying(limit) if in_flight else None) for limit in limits)
        return next(filter(None, refusals), "")

    async def _learn_prices(self, price_classes: Iterable[str]) -> None:
        await asyncio.gather(*map(self.prices.known, dict.fromkeys(price_classes)))

    async def _check_prices(self, price_class: str) -> None:
        """Read the prices that limits need.

        :raises StorageFailed: one cannot be read.
        """
        await asyncio.gather(*map(self.prices.checked, {price_class, *self._all.classes}))


async def at_known_prices(limits: Sequence[Limit], prices: Prices, price_classes: Iterable[str] = ()) -> list[Limit]:
    """Return limits with their spending at the prices that any task has learned since it was written.

    :param price_classes: further classes whose price to read again if it was not known.
    :raises StorageFailed: a price cannot be read.
    """
    keys = {key for limit in limits for key in limit.spent.blind_classes}
    await prices.refresh({*keys, *map(short_hash, price_classes)})
    return [limit.at_prices(prices.of_key) for limit in limits]


def _without_learning(limit: Limit) -> Limit:
    """Return a limit as if the requests of unknown price that are under way in other tasks had been free."""
    return limit._replace(spent=limit.spent._replace(learning=()))


def _refusal(limit: Limit, price: Decimal | None, *, flying: Decimal | None) -> str:
    """Return the reason why a request may not start under a limit; empty if it may.

    :param price: the highest known price of the request's class; ``None`` if there is none.
    :param flying: the price of the requests under way that ``limit`` lacks; ``None`` if none are under way.
    """
    spent = limit.spent if price is None else limit.spent.at_price(price)
    shown = spent._replace(lost=(), learning=())
    known = f"Not sent: {shown} of {limit.name} {usd(limit.usd)} are spent{limit.whose}"
    advice = limit.advice
    if price is not None:
        if spent.most_usd + (flying or Decimal(0)) + price <= limit.usd:
            return ""
        return f"{known}, and the next picture costs {usd(price)}. {advice}"
    if spent.blind >= MOST_BLIND:
        lost = f"{spent.blind} requests were or may have been paid for without a reported price"
        return f"{known} as far as is known; {lost}. {advice}"
    return f"{known}. {advice}" if flying is not None or spent.most_usd >= limit.usd else ""
