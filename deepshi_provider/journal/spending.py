"""A sum of money as limits count it: what was reported, and what may come on top."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from deepshi_provider.costs.money import usd


class Spending(NamedTuple):
    """What was spent.

    :param usd: what the API reported.
    :param possible_usd: unreported costs and unknown outcomes, at the known prices of their classes.
    :param blind: those of them whose class has no known price.
    """

    usd: Decimal = Decimal(0)
    possible_usd: Decimal = Decimal(0)
    blind: int = 0

    @property
    def most_usd(self) -> Decimal:
        """The sum of what was spent and what may have been."""
        return self.usd + self.possible_usd

    def __add__(self, other: object) -> Spending:
        if not isinstance(other, Spending):
            return NotImplemented
        return Spending(self.usd + other.usd, self.possible_usd + other.possible_usd, self.blind + other.blind)

    def in_words(self) -> str:
        """Return the sum as a log line shows it: as a range if a part of it is in doubt."""
        if self.blind:
            return f"at least {usd(self.usd)} ({self.blind} requests of unknown price)"
        return f"at least {usd(self.usd)}, up to about {usd(self.most_usd)}" if self.possible_usd else usd(self.usd)

    def __str__(self) -> str:
        return usd(self.usd) + (f" and perhaps {usd(self.possible_usd)} more" if self.possible_usd else "")
