"""A sum of money as limits count it: reported and possible costs."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from deepshi_provider.costs.budget_state import WindowState
from deepshi_provider.costs.money import usd


class Spending(NamedTuple):
    """Reported and possible costs.

    :param usd: the costs that the API reported.
    :param possible_usd: unreported costs, unknown outcomes and requests under way, at the known prices.
    :param blind: number of such requests whose class had no known price when the sum was written.
    :param under_way: number of requests that have not ended.
    """

    usd: Decimal = Decimal(0)
    possible_usd: Decimal = Decimal(0)
    blind: int = 0
    under_way: int = 0

    @property
    def most_usd(self) -> Decimal:
        """The sum of reported and possible costs."""
        return self.usd + self.possible_usd

    def at_price(self, price: Decimal) -> Spending:
        """Return the sum with each request of unknown price at this price."""
        return self._replace(possible_usd=self.possible_usd + self.blind * price, blind=0)

    def __add__(self, other: object) -> Spending:
        if not isinstance(other, Spending):
            return NotImplemented
        return Spending(
            self.usd + other.usd,
            self.possible_usd + other.possible_usd,
            self.blind + other.blind,
            self.under_way + other.under_way,
        )

    def as_text(self) -> str:
        """Return the sum as text: a range if a part of it is only possible."""
        if self.blind:
            return f"at least {usd(self.usd)} ({self.blind} requests of unknown price)"
        return f"at least {usd(self.usd)}, up to about {usd(self.most_usd)}" if self.possible_usd else usd(self.usd)

    def __str__(self) -> str:
        return usd(self.usd) + (f" and perhaps {usd(self.possible_usd)} more" if self.possible_usd else "")


class Limit(NamedTuple):
    """A limit and the spending that counts against it.

    :param name: name of the user's setting.
    :param usd: the limit, in USD.
    :param whose: who has spent it and when, for messages.
    :param group: the budget group of the limit.
    :param window: day or month of the limit, ISO 8601; empty for the limit of a task or DAG run.
    :param resets_at: the end of the window, ISO 8601 with the offset of its time zone.
    """

    name: str
    usd: Decimal
    spent: Spending
    whose: str = ""
    group: str | None = None
    window: str = ""
    resets_at: str = ""

    def with_own(self, own: Spending) -> Limit:
        """Return the limit with this task's own spending added."""
        own_part = "" if self.window else f", {own} of them by this task"  # for a month, ``own`` is only today's part
        return self._replace(spent=self.spent + own, whose=f" {self.whose}{own_part}")

    def state(self) -> WindowState:
        """Return the state of a limit per day or month."""
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
        """What the user can do when the limit is reached."""
        if self.resets_at:
            return f"The budget starts again at {self.resets_at}: clear the task then, or raise it and clear the task"
        return f"Raise {self.name} and clear the task to continue"
