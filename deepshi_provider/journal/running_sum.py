"""A sum that grows while a task spends, with what is in doubt and what is under way."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import NamedTuple

from deepshi_provider.costs.money import is_known
from deepshi_provider.costs.tally import Tally
from deepshi_provider.journal.prices import Prices
from deepshi_provider.journal.spending import Spending


class _Doubt(NamedTuple):
    """Requests of one price class of which the same part of the price was reported."""

    price_class: str
    reported: Decimal


class RunningSum:
    """What was spent, with what is in doubt at the prices that are known by now."""

    def __init__(self) -> None:
        self.usd = Decimal(0)
        self.doubts: Counter[_Doubt] = Counter()
        #: Requests that have started and not ended, by price class.
        self.under_way: Counter[str] = Counter()

    def add(self, price_class: str, cost_usd: Decimal | None) -> None:
        """Add one request; a cost that is ``None`` or :class:`~deepshi_provider.costs.money.AtLeast` is in doubt."""
        self.usd += cost_usd or Decimal(0)
        if not is_known(cost_usd):
            self.doubts[_Doubt(price_class, cost_usd or Decimal(0))] += 1

    def add_tally(self, tally: Tally) -> None:
        """Add what a journal says."""
        self.usd += tally.cost_usd or Decimal(0)
        for doubt in tally.doubts():
            self.doubts[_Doubt(doubt.price_class, doubt.reported)] += 1

    def spending(self, prices: Prices) -> Spending:
        """Return the sum, with what is in doubt at the prices that are at hand."""
        possible, blind = Decimal(0), 0
        for doubt, count in self.doubts.items():
            price = prices.at_hand(doubt.price_class)
            possible += max(Decimal(0), (price or Decimal(0)) - doubt.reported) * count
            blind += count if price is None else 0
        return Spending(self.usd, possible, blind)

    def with_what_is_under_way(self, prices: Prices) -> Spending:
        """Return the same with what is under way as possible."""
        flying = (count * (prices.at_hand(name) or Decimal(0)) for name, count in self.under_way.items())
        return self.spending(prices) + Spending(possible_usd=sum(flying, Decimal(0)), under_way=self.under_way.total())
