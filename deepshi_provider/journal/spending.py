"""A sum of money as limits count it: what was reported, and what may come on top."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from deepshi_provider.costs.budget_state import WindowState
from deepshi_provider.costs.money import usd


class Spending(NamedTuple):
    """What was spent.

    :param usd: what the API reported.
    :param possible_usd: unreported costs and unknown outcomes, at the known prices of their classes.
    :param blind: those of them whose class has no known price.
    :param under_way: requests that have not ended; what they may cost is possible.
    """

    usd: Decimal = Decimal(0)
    possible_usd: Decimal = Decimal(0)
    blind: int = 0
    under_way: int = 0

    @property
    def most_usd(self) -> Decimal:
        """The sum of what was spent and what may have been."""
        return self.usd + self.possible_usd

    def __add__(self, other: object) -> Spending:
        if not isinstance(other, Spending):
            return NotImplemented
        return Spending(
            self.usd + other.usd,
            self.possible_usd + other.possible_usd,
            self.blind + other.blind,
            self.under_way + other.under_way,
        )

    def in_words(self) -> str:
        """Return the sum as a log line shows it: as a range if a part of it is in doubt."""
        if self.blind:
            return f"at least {usd(self.usd)} ({self.blind} requests of unknown price)"
        return f"at least {usd(self.usd)}, up to about {usd(self.most_usd)}" if self.possible_usd else usd(self.usd)

    def __str__(self) -> str:
        return usd(self.usd) + (f" and perhaps {usd(self.possible_usd)} more" if self.possible_usd else "")


class Limit(NamedTuple):
    """What may be spent, and what is.

    :param name: of the user's setting.
    :param usd: its value.
    :param whose: more about what was spent, for a message.
    :param group: budget group that it is for.
    :param window: day or month that it is for, ISO 8601; empty if it is for a task or a DAG run.
    :param resets_at: when that ends, ISO 8601 with the offset of its time zone.
    """

    name: str
    usd: Decimal
    spent: Spending
    whose: str = ""
    group: str | None = None
    window: str = ""
    resets_at: str = ""

    def with_own(self, own: Spending) -> Limit:
        """Return the limit with what this task has spent as well."""
        own_part = "" if self.window else f", {own} of them by this task"  # of a month, only what it has spent today
        return self._replace(spent=self.spent + own, whose=f" {self.whose}{own_part}")

    def state(self) -> WindowState:
        """Return the state of a day's or month's limit."""
        return WindowState(
            name=self.name,
            limit_usd=self.usd,
            spent_usd=self.spent.usd,
            may_have_cost_usd=self.spent.possible_usd,
            group=self.group,
            window=self.window,
            resets_at=self.resets_at,
        )

    @property
    def advice(self) -> str:
        """What a user can do when it is reached."""
        if self.resets_at:
            return f"The budget begins anew at {self.resets_at}: clear the task then, or raise it and clear the task"
        return f"Raise {self.name} and clear the task to go on"
