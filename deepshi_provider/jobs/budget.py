"""How much a batch may spend: what is spent, and what is in flight at the price that its like has had so far."""

from __future__ import annotations

import asyncio
from collections import Counter
from decimal import Decimal

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.exceptions import BudgetExceeded

#: Fields that may set the price; the prompt does not.
_PRICED = ("model", "n", "width", "height", "aspect_ratio", "resolution", "image_size", "quality")


def price_class(request: GenerateRequest) -> str:
    """Return what requests of one price have in common."""
    return " ".join([request.operation, *(str(getattr(request, field)) for field in _PRICED)])


class Budget:
    """Lets requests start while they are surely affordable.

    The price of a class is the highest that one of its requests had. The first request of a class goes alone, to learn
    the price: it is the only one that may go over the limit.

    :param limit: USD, or ``None`` for no limit.
    :param spent: USD spent before.
    """

    def __init__(self, limit: Decimal | None, spent: Decimal = Decimal(0)) -> None:
        self.limit = limit
        self.spent = spent
        self._prices: dict[str, Decimal] = {}
        self._in_flight: Counter[str] = Counter()
        self._changed = asyncio.Condition()

    async def reserve(self, kind: str) -> None:
        """Wait until a request of a price class may start, and count it as in flight.

        :raises BudgetExceeded: it may not, and nothing in flight can change that.
        """
        async with self._changed:
            while not self._affordable(kind):
                if not self._in_flight.total():
                    raise BudgetExceeded(
                        f"Not sent: ${self.spent} of max_cost_usd ${self.limit} are spent, and the next picture costs "
                        f"${self._prices.get(kind, 'an unknown sum')}"
                    )
                await self._changed.wait()
            self._in_flight[kind] += 1

    async def settle(self, kind: str, cost: Decimal | None, *, may_be_paid: bool = False) -> None:
        """Take note of how a request ended.

        :param cost: what it cost, if the API told.
        :param may_be_paid: its outcome is unknown: its class's price counts as spent.
        """
        async with self._changed:
            self._in_flight[kind] -= 1
            if cost is not None:
                self.spent += cost
                self._prices[kind] = max(cost, self._prices.get(kind, cost))
            elif may_be_paid:
                self.spent += self._prices.get(kind, Decimal(0))
            self._changed.notify_all()

    def _affordable(self, kind: str) -> bool:
        if self.limit is None:
            return True
        if any(count and name not in self._prices for name, count in self._in_flight.items()):
            return False  # its price is being learned
        flying = sum((self._prices[name] * count for name, count in self._in_flight.items() if count), Decimal(0))
        if kind not in self._prices:
            return not self._in_flight.total() and self.spent < self.limit
        return self.spent + flying + self._prices[kind] <= self.limit
