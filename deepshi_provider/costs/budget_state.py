"""The state of a limit: plain data for plans, warnings and callbacks."""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from deepshi_provider.costs.money import Usd, usd


class BudgetState(BaseModel):
    """A limit and its spending.

    :param name: name of the setting; with the name of the budget group, if it has one.
    :param limit_usd: the limit.
    :param spent_usd: the spending, as far as the API reported it.
    :param may_have_cost_usd: possible costs: requests in flight, unreported costs and unknown outcomes.
    :param unpriced: number of such requests of unknown price, which are not in ``may_have_cost_usd``.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    name: str
    limit_usd: Usd
    spent_usd: Usd
    may_have_cost_usd: Usd = Decimal(0)
    unpriced: int = 0

    @property
    def left_usd(self) -> Decimal:
        """What is certainly left, if nothing has an unknown price."""
        return max(Decimal(0), self.limit_usd - self.spent_usd - self.may_have_cost_usd)


class WindowState(BudgetState):
    """The state of a limit per day or month.

    :param window: the day or month, ISO 8601.
    :param resets_at: the end of the window, ISO 8601 with the offset of its time zone.
    """

    group: str | None = None
    window: str
    resets_at: str

    @property
    def text(self) -> str:
        """One sentence for people."""
        spent = f"{usd(self.spent_usd)}{perhaps(self.may_have_cost_usd, self.unpriced)}"
        return (
            f"{spent} of {self.name} {usd(self.limit_usd)} are spent in {self.window}; "
            f"it starts again at {self.resets_at}"
        )


def perhaps(possible_usd: Decimal, unpriced: int) -> str:
    """Return the possible part of a sum for people; empty if there is none.

    :param unpriced: number of requests of unknown price.
    """
    parts = [f"{usd(possible_usd)} more"] if possible_usd else []
    parts += [f"{unpriced} request{'s' * (unpriced != 1)} of unknown price"] if unpriced else []
    return f" and perhaps {' and '.join(parts)}" if parts else ""
