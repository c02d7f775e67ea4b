"""What a task instance has spent, and whether it may spend more: the one sum that its limits, log and DAG run use."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from decimal import Decimal
from typing import NamedTuple

from deepshi_provider.costs.money import is_known, usd
from deepshi_provider.costs.tally import Tally
from deepshi_provider.exceptions import BudgetExceeded, DeepshiError
from deepshi_provider.journal.prices import Prices
from deepshi_provider.journal.run_costs import RunCosts
from deepshi_provider.journal.spending import Spending

#: Requests of unknown price that are paid for, or may be, before a limit stops further ones: over all tries of a task
#: for its own limit, over all its tasks for a run's.
MOST_BLIND = 3


class _Doubt(NamedTuple):
    """Requests of one price class of which the same part of the price was reported."""

    price_class: str
    reported: Decimal


class Account:
    """Adds up what a task instance spends over all its tries, and lets requests start while they are affordable.

    A request is taken to cost the highest known price of its class. The first request of a class without a known price
    goes alone, to learn it: it is the only one that may exceed a limit. A request that was or may have been paid for at
    a price that was not reported counts at the price of its class; when :data:`MOST_BLIND` requests have none, requests
    without a known price are refused.

    :param prices: the known prices of the connection.
    :param run: shares all spending with the run's other tasks, and knows theirs.
    :param limit: USD that the task instance may spend; ``None`` for no limit.
    :ivar has_begun: whether it knows what earlier tries have spent.
    :ivar closed_by: why no further request may start: the first refusal is final.
    """

    def __init__(self, prices: Prices, run: RunCosts, limit: Decimal | None = None) -> None:
        self.prices = prices
        self._run = run
        self._limit = limit
        self._usd = Decimal(0)
        self._doubts: Counter[_Doubt] = Counter()
        #: Requests that have started and not ended, by price class.
        self.under_way: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self.has_begun = False
        self.closed_by: DeepshiError | None = None

    @property
    def spending(self) -> Spending:
        """What the task instance has spent, with what is in doubt at the prices that are known by now."""
        possible, blind = Decimal(0), 0
        for doubt, count in self._doubts.items():
            price = self.prices.at_hand(doubt.price_class)
            possible += max(Decimal(0), (price or Decimal(0)) - doubt.reported) * count
            blind += count if price is None else 0
        return Spending(self._usd, possible, blind)

    async def begin(self, earlier: Tally) -> None:
        """Add what earlier tries have spent, and report it to the run; only the first call counts. Never raises."""
        if self.has_begun:
            return
        self.has_begun = True
        self._usd += earlier.cost_usd or Decimal(0)
        for doubt in earlier.doubts():
            self._doubts[_Doubt(doubt.price_class, doubt.reported)] += 1
        await self._learn_prices(doubt.price_class for doubt in [*self._doubts])
        await self._run.begin(self.spending)

    async def add(self, price_class: str, cost_usd: Decimal | None) -> None:
        """Add a request that was or may have been paid for, and report it to the run. Never raises.

        :param cost_usd: as :func:`~deepshi_provider.costs.money.paid` returns it.
        """
        self._usd += cost_usd or Decimal(0)
        if is_known(cost_usd):
            await asyncio.gather(self.prices.learn(price_class, cost_usd), self._run.report(self.spending))
            return
        self._doubts[_Doubt(price_class, cost_usd or Decimal(0))] += 1
        await self._learn_prices([price_class])
        await self._run.report(self.spending)

    async def correct(self, spent: Decimal | None) -> None:
        """Raise the sum to what the records say in the end: a second process on this same job may have paid too."""
        self._usd = max(self._usd, spent or Decimal(0))
        if self.has_begun:
            await self._run.report(self.spending)

    @contextlib.asynccontextmanager
    async def reserved(self, price_class: str) -> AsyncIterator[bool]:
        """Keep the price of a request free while it is under way.

        It gives whether the request had to wait for others.

        :raises BudgetExceeded: it may not start, and nothing that is under way can change that.
        :raises StorageFailed: what the run has spent is not known.
        """
        try:
            has_waited = await self._reserve(price_class)
        except DeepshiError as err:
            self.close(err)
            raise
        try:
            yield has_waited
        finally:
            self.under_way -= Counter([price_class])
            self._wake()

    def close(self, error: DeepshiError) -> None:
        """Let no further request start: those that wait, and all later ones, get this error."""
        self.closed_by = self.closed_by or error
        self._wake()

    async def _reserve(self, price_class: str) -> bool:
        has_waited = False
        is_limited = self._limit is not None or self._run.limit is not None
        if is_limited:
            await self._learn_prices([price_class])
        while True:
            if self.closed_by:
                raise self.closed_by
            others = await self._run.others() if self._run.limit is not None else Spending()
            if self.closed_by:
                raise self.closed_by
            # From here to the end nothing is awaited, so that two requests cannot both take the last of the money.
            refused = self._refusal(price_class, others) if is_limited else ""
            if not refused:
                self.under_way[price_class] += 1
                return has_waited
            if not self.under_way.total():
                raise BudgetExceeded(refused)
            has_waited = True
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _refusal(self, price_class: str, others: Spending) -> str:
        """Return why a request may not start now; empty if it may."""
        in_flight = self.under_way
        prices = {name: self.prices.at_hand(name) for name in in_flight}
        if None in prices.values():
            return "A price is being learned"
        flying = sum(((prices[name] or Decimal(0)) * count for name, count in in_flight.items()), Decimal(0))
        own, price = self.spending, self.prices.at_hand(price_class)
        whose = f" by this DAG run, {own} of them by this task"
        limits = [("max_cost_usd", self._limit, own, ""), ("max_run_cost_usd", self._run.limit, others + own, whose)]
        refusals = (
            _refusal(name, limit, spent, price, whose, flying=flying if in_flight else None)
            for name, limit, spent, whose in limits
            if limit is not None
        )
        return next(filter(None, refusals), "")

    async def _learn_prices(self, price_classes: Iterable[str]) -> None:
        await asyncio.gather(*map(self.prices.known, dict.fromkeys(price_classes)))


def _refusal(
    name: str, limit: Decimal, spent: Spending, price: Decimal | None, whose: str, *, flying: Decimal | None
) -> str:
    """Return why a request may not start under a limit; empty if it may.

    :param price: of the request, the highest known of its class; ``None`` if there is none.
    :param whose: more about what was spent.
    :param flying: what the requests under way will cost; ``None`` if there are none.
    """
    known = f"Not sent: {spent} of {name} {usd(limit)} are spent{whose}"
    advice = f"Raise {name} and clear the task to go on"
    if price is not None:
        if spent.most_usd + (flying or Decimal(0)) + price <= limit:
            return ""
        return f"{known}, and the next picture costs {usd(price)}. {advice}"
    if spent.blind >= MOST_BLIND:
        lost = f"{spent.blind} requests were or may have been paid for without a reported price"
        return f"{known} as far as is known; {lost}. {advice}"
    return f"{known}. {advice}" if flying is not None or spent.most_usd >= limit else ""
