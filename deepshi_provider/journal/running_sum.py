"""A sum that grows while a task spends, with unreported costs and requests under way."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import NamedTuple

from deepshi_provider.costs.money import is_known
from deepshi_provider.costs.tally import Tally
from deepshi_provider.journal.entries import short_hash
from deepshi_provider.journal.prices import Prices
from deepshi_provider.journal.spending import Spending, counts_of


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
        """Raise the sum to the tally of a journal, made while no request of this process was under way."""
        self.usd = max(self.usd, tally.cost_usd or Decimal(0))
        self.doubts |= Counter(_Doubt(doubt.price_class, doubt.reported) for doubt in tally.doubts())

    def spending(self, prices: Prices) -> Spending:
        """Return the sum, with unreported costs at the prices that this process knows."""
        possible, lost = Decimal(0), Counter[str]()
        for doubt, count in self.doubts.items():
            price = prices.cached(doubt.price_class)
            if price is None:
                lost[short_hash(doubt.price_class)] += count
            else:
                possible += max(Decimal(0), price - doubt.reported) * count
        return Spending(self.usd, possible, counts_of(lost))

    def with_requests_under_way(self, prices: Prices) -> Spending:
        """Return the same, with requests under way as possible costs."""
        flying = Spending(learning=counts_of({short_hash(name): count for name, count in self.under_way.items()}))
        price_of = {short_hash(name): prices.cached(name) for name in self.under_way}
        return self.spending(prices) + flying.at_prices(price_of.get)
