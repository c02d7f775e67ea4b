"""How much a batch may spend: what is spent, and what is in flight at the highest known price of its class."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal

from deepshi_provider.costs.sheet import UNNAMED, AtLeast, Doubt
from deepshi_provider.exceptions import BudgetExceeded
from deepshi_provider.journal.run_costs import RunCosts
from deepshi_provider.journal.spending import Spending, refusal


class Budget:
    """Lets requests start while they are surely affordable, for the task and for the DAG run.

    The price of a class is the highest that one of its requests had. The first request of a class without a known
    price goes alone, to learn it: it is the only one that may go over the limit. A request that was or may have been
    paid for at a price that nobody reported counts at the price of its class; when too many classes stay without
    any, their requests are refused (:data:`~deepshi_provider.journal.spending.MOST_BLIND`).

    :param limit: USD, or ``None`` for no limit.
    :param spent: USD spent before.
    :param run_costs: asked before each request what other tasks of the run have spent, if the run has a limit.
    """

    def __init__(self, limit: Decimal | None, spent: Decimal = Decimal(0), run_costs: RunCosts | None = None) -> None:
        self.limit = limit
        self._spent = spent
        self._possible = Decimal(0)
        self._run_costs = run_costs if run_costs and run_costs.limit is not None else None
        self._others = Spending()
        self._prices: dict[str, Decimal] = {}
        self._unpriced: dict[str, list[Doubt]] = {}
        self._in_flight: Counter[str] = Counter()
        self._changed = asyncio.Condition()

    @property
    def spending(self) -> Spending:
        """What the task instance has spent."""
        return Spending(self._spent, self._possible, sum(map(len, self._unpriced.values())))

    @property
    def spent(self) -> Decimal:
        """USD, with what may have been spent at a known price."""
        return self.spending.most_usd

    @property
    def is_limited(self) -> bool:
        """Whether there is any limit."""
        return self.limit is not None or self._run_costs is not None

    def knows(self, kind: str) -> bool:
        """Return whether a price class has a known price."""
        return kind in self._prices

    def learn(self, kind: str, cost: Decimal) -> None:
        """Take note of what a request of a price class has cost, now or earlier."""
        self._prices[kind] = max(cost, self._prices.get(kind, cost))
        for doubt in self._unpriced.pop(kind, ()):
            self._possible += doubt.remainder(self._prices[kind])

    def count_doubt(self, doubt: Doubt) -> None:
        """Count a request that may have been paid for: at its class's price, as soon as that is known."""
        kind = doubt.price_class
        if kind in self._prices:
            self._possible += doubt.remainder(self._prices[kind])
        else:
            self._unpriced.setdefault(kind, []).append(doubt)

    def count(self, kind: str, costs: Iterable[Decimal | None]) -> None:
        """Count what requests of a price class have cost; ``None``: nobody knows."""
        for cost in costs:
            self._spent += cost or Decimal(0)
            if cost is None or isinstance(cost, AtLeast):
                self.count_doubt(Doubt(UNNAMED, "", kind, cost or Decimal(0)))
            else:
                self.learn(kind, cost)

    async def reserve(self, kind: str) -> None:
        """Wait until a request of a price class may start, and count it as in flight.

        :raises BudgetExceeded: it may not, and nothing in flight can change that.
        :raises StorageFailed: what the run has spent is not known.
        """
        while True:
            if self._run_costs:
                self._others = await self._run_costs.others()
            async with self._changed:
                refused = self._refusal(kind)
                if not refused:
                    self._in_flight[kind] += 1
                    return
                if not self._in_flight.total():
                    raise BudgetExceeded(refused)
                await self._changed.wait()

    async def settle(self, kind: str, cost: Decimal | None, *, paid: bool = False) -> None:
        """Take note of how a request ended.

        :param cost: what it cost, if that is known.
        :param paid: whether it was, or may have been, paid for.
        """
        async with self._changed:
            self._in_flight[kind] -= 1
            if cost is not None or paid:
                self.count(kind, [cost])
            self._changed.notify_all()

    def _limits(self) -> list[tuple[str, Decimal, Spending]]:
        """Return name, amount and what is spent of each limit."""
        limits = [] if self.limit is None else [("max_cost_usd", self.limit, self.spending)]
        if self._run_costs and self._run_costs.limit is not None:
            limits.append(("max_run_cost_usd", self._run_costs.limit, self._others.plus(self.spending)))
        return limits

    def _refusal(self, kind: str) -> str:
        """Return why a request of a price class may not start now; empty if it may."""
        limits = self._limits()
        if not limits:
            return ""
        in_flight = {name: count for name, count in self._in_flight.items() if count}
        if in_flight.keys() - self._prices.keys():
            return "A price is being learned"
        flying = sum((self._prices[name] * count for name, count in in_flight.items()), Decimal(0))
        price = self._prices.get(kind)
        refusals = (
            refusal(name, limit, spent, price, flying=flying if in_flight else None) for name, limit, spent in limits
        )
        return next(filter(None, refusals), "")
