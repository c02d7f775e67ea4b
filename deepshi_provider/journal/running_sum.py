"""A sum that grows while a task spends, with unreported costs and requests under way."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import NamedTuple

from deepshi_provider.costs.money import is_known
from deepshi_provider.costs.tally import Tally
from deepshi_provider.journal.prices import Prices
from deepshi_provider.journal.spending import Spending


class _Doubt(NamedTuple):
    """Requests of one price class for which the API reported the same part of the cost."""

    price_class: str
    reported: Decimal


class RunningSum:
    """Reported costs, with unreported ones at the known prices of their classes."""

    def __init__(self) -> None:
        self.usd = Decimal(0)
        self.doubts: Counter[_Doubt] = Counter()
        #: Number of requests under way, by price class.
        self.under_way: Counter[str] = Counter()

    @property
    def classes(self) -> set[str]:
        """The price classes of unreported costs and of requests under way."""
        return {doubt.price_class for doubt in self.doubts} | set(self.under_way)

    def add(self, price_class: str, cost_usd: Decimal | None) -> None:
        """Add one request; ``None`` or :class:`~deepshi_provider.costs.money.AtLeast` is an unreported cost."""
        self.usd += cost_usd or Decimal(0)
        if not is_known(cost_usd):
            self.doubts[_Doubt(price_class, cost_usd or Decimal(0))] += 1

    def add_tally(self, tally: Tally) -> None:
        """Add the tally of a journal."""
        self.usd += tally.cost_usd or Decimal(0)
        for doubt in tally.doubts():
            self.doubts[_Doubt(doubt.price_class, doubt.reported)] += 1

    def raise_to(self, tally: Tally) -> None:
        """Raise the sum to the tally of a journal, in which requests under way are attempts with unknown outcome."""
        self.usd = max(self.usd, tally.cost_usd or Decimal(0))
        found = Counter(_Doubt(doubt.price_class, doubt.reported) for doubt in tally.doubts())
        found.subtract({_Doubt(name, Decimal(0)): count for name, count in self.under_way.items()})
        self.doubts |= found

    def spending(self, prices: Prices) -> Spending:
        """Return the sum, with unreported costs at the prices that this process knows."""
        possible, blind = Decimal(0), 0
        for doubt, count in self.doubts.items():
            price = prices.cached(doubt.price_class)
            possible += max(Decimal(0), (price or Decimal(0)) - doubt.reported) * count
            blind += count if price is None else 0
        return Spending(self.usd, possible, blind)

    def with_requests_under_way(self, prices: Prices) -> Spending:
        """Return the same, with requests under way as possible costs."""
        flying = (count * (prices.cached(name) or Decimal(0)) for name, count in self.under_way.items())
        return self.spending(prices) + Spending(possible_usd=sum(flying, Decimal(0)), under_way=self.under_way.total())
