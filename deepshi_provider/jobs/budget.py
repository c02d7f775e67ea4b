"""How much a batch may spend: what is spent, and what is in flight at the price that its like has had so far."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal

from deepshi_provider.api.requests import EditRequest, GenerateRequest
from deepshi_provider.costs import CostSheet, total
from deepshi_provider.exceptions import BudgetExceeded
from deepshi_provider.jobs.run_costs import RunCosts

#: Fields that may set the price; the prompt does not.
_PRICED = ("model", "n", "width", "height", "aspect_ratio", "resolution", "image_size", "quality")
#: Pictures that a batch with a limit buys without hearing any price.
_MOST_BLIND = 3


def price_class(request: GenerateRequest) -> str:
    """Return what requests of one price have in common."""
    inputs = len(request.images) if isinstance(request, EditRequest) else 0
    return " ".join([request.operation, str(inputs), *(str(getattr(request, field)) for field in _PRICED)])


class Bill:
    """What a task instance has paid over all its tries.

    :ivar usd: the sum; ``None`` until the store was asked, and if there are costs and none was told.
    :ivar unrecorded: model and cost of each paid sending whose record the failing store did not take.
    :ivar costs: the cost sheet as far as it is known without the store, if the batch was cancelled.
    """

    def __init__(self) -> None:
        self.usd: Decimal | None = None
        self.unrecorded: list[tuple[str, Decimal]] = []
        self.costs: CostSheet | None = None
        self._is_empty = True

    def begin(self, costs: Iterable[Decimal | None]) -> None:
        """Take note of what earlier tries have paid."""
        earlier = list(costs)
        self.usd = total(earlier)
        self._is_empty = not earlier

    def add(self, cost: Decimal | None) -> None:
        """Take note of one sending."""
        self.usd = total([cost] if self._is_empty else [self.usd, cost])
        self._is_empty = False


class Budget:
    """Lets requests start while they are surely affordable, for the task and for the DAG run.

    The price of a class is the highest that one of its requests had. The first request of a class goes alone, to learn
    the price: it is the only one that may go over the limit.

    :param limit: USD, or ``None`` for no limit.
    :param spent: USD spent before.
    :param run_costs: asked before each request what other tasks of the run have spent, if the run has a limit.
    """

    def __init__(self, limit: Decimal | None, spent: Decimal = Decimal(0), run_costs: RunCosts | None = None) -> None:
        self.limit = limit
        self.spent = spent
        self._run_costs = run_costs if run_costs and run_costs.limit is not None else None
        self._others = Decimal(0)
        self._prices: dict[str, Decimal] = {}
        self._unpriced: Counter[str] = Counter()
        self._blind = 0
        self._in_flight: Counter[str] = Counter()
        self._changed = asyncio.Condition()

    def learn(self, kind: str, cost: Decimal) -> None:
        """Take note of what a request of a price class has cost, now or earlier."""
        self._prices[kind] = max(cost, self._prices.get(kind, cost))
        if lost := self._unpriced.pop(kind, 0):
            self.spent += self._prices[kind] * lost

    def count_lost(self, kind: str) -> None:
        """Count a request that may have been paid for: at its class's price, as soon as that is known."""
        if kind in self._prices:
            self.spent += self._prices[kind]
        else:
            self._unpriced[kind] += 1

    async def reserve(self, kind: str) -> None:
        """Wait until a request of a price class may start, and count it as in flight.

        :raises BudgetExceeded: it may not, and nothing in flight can change that.
        :raises StorageFailed: what the run has spent is not known.
        """
        while True:
            if self._run_costs:
                self._others = await self._run_costs.others()
            async with self._changed:
                refusal = self._refusal(kind)
                if refusal is None:
                    self._in_flight[kind] += 1
                    return
                if not self._in_flight.total():
                    raise BudgetExceeded(refusal)
                await self._changed.wait()

    async def settle(self, kind: str, cost: Decimal | None, *, paid: bool = False) -> None:
        """Take note of how a request ended.

        :param cost: what it cost, if the API told.
        :param paid: whether it was, or may have been, paid for.
        """
        async with self._changed:
            self._in_flight[kind] -= 1
            if cost is not None:
                self.spent += cost
                self.learn(kind, cost)
            elif paid:
                self._blind += kind not in self._prices
                self.count_lost(kind)
            self._changed.notify_all()

    def _limits(self) -> list[tuple[str, Decimal, Decimal]]:
        """Return name, amount and what is spent of each limit."""
        limits = [] if self.limit is None else [("max_cost_usd", self.limit, self.spent)]
        if self._run_costs and self._run_costs.limit is not None:
            limits.append(("max_run_cost_usd", self._run_costs.limit, self._others + self.spent))
        return limits

    def _refusal(self, kind: str) -> str | None:
        """Return why a request of a price class may not start now, or ``None`` if it may."""
        limits = self._limits()
        if not limits:
            return None
        if any(count and name not in self._prices for name, count in self._in_flight.items()):
            return "A price is being learned"
        flying = sum((self._prices[name] * count for name, count in self._in_flight.items() if count), Decimal(0))
        refusals = (self._excess(kind, spent, flying, limit, name) for name, limit, spent in limits)
        return next(filter(None, refusals), None)

    def _excess(self, kind: str, spent: Decimal, flying: Decimal, limit: Decimal, name: str) -> str | None:
        known = f"Not sent: ${spent:f} of {name} ${limit:f} are spent"
        advice = f"Raise {name} and clear the task to go on"
        if kind in self._prices:
            if spent + flying + self._prices[kind] <= limit:
                return None
            return f"{known}, and the next picture costs ${self._prices[kind]:f}. {advice}"
        if self._blind >= _MOST_BLIND:
            lost = f"{self._blind} pictures came or were lost without any price being told"
            return f"{known} as far as is known; {lost}. {advice}"
        return f"{known}. {advice}" if self._in_flight.total() or spent >= limit else None
