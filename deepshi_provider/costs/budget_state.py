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
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    name: str
    limit_usd: Usd
    spent_usd: Usd


class WindowState(BudgetState):
    """The state of a limit per day or month.

    :param may_have_cost_usd: possible costs: requests in flight, unreported costs and unknown outcomes.
    :param window: the day or month, ISO 8601.
    :param resets_at: the end of the window, ISO 8601 with the offset of its time zone.
    """

    may_have_cost_usd: Usd = Decimal(0)
    group: str | None = None
    window: str
    resets_at: str

    @property
    def left_usd(self) -> Decimal:
        """What is certainly left."""
        return max(Decimal(0), self.limit_usd - self.spent_usd - self.may_have_cost_usd)

    @property
    def text(self) -> str:
        """One sentence for people."""
        perhaps = f" and perhaps {usd(self.may_have_cost_usd)} more" if self.may_have_cost_usd else ""
        return (
            f"{usd(self.spent_usd)}{perhaps} of {self.name} {usd(self.limit_usd)} are spent in {self.window}; "
            f"it starts again at {self.resets_at}"
        )
