"""How much of a limit is spent: plain data, for plans, warnings and callbacks."""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from deepshi_provider.costs.money import Usd, usd


class BudgetState(BaseModel):
    """A limit, and what is spent of it.

    :param name: of the setting; with the group's name if it is for one.
    :param limit_usd: its value.
    :param spent_usd: how much of it is spent, as far as the API reported it.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    name: str
    limit_usd: Usd
    spent_usd: Usd


class WindowState(BudgetState):
    """The same of a day or a month.

    :param may_have_cost_usd: what is in flight, was not reported, or has an unknown outcome.
    :param window: the day or month, ISO 8601.
    :param resets_at: when it ends, ISO 8601 with the offset of its time zone.
    """

    may_have_cost_usd: Usd = Decimal(0)
    group: str | None = None
    window: str
    resets_at: str

    @property
    def left_usd(self) -> Decimal:
        """What is surely left."""
        return max(Decimal(0), self.limit_usd - self.spent_usd - self.may_have_cost_usd)

    @property
    def text(self) -> str:
        """One sentence for people."""
        perhaps = f" and perhaps {usd(self.may_have_cost_usd)} more" if self.may_have_cost_usd else ""
        return (
            f"{usd(self.spent_usd)}{perhaps} of {self.name} {usd(self.limit_usd)} are spent in {self.window}; "
            f"it begins anew at {self.resets_at}"
        )
