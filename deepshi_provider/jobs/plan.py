"""The plan of a batch: what it is about to buy and what that will cost, as data and as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict

from deepshi_provider.api.texts import storable
from deepshi_provider.costs.budget_state import BudgetState
from deepshi_provider.costs.money import Usd, usd
from deepshi_provider.costs.price_class import PriceRange
from deepshi_provider.exceptions import BudgetExceeded
from deepshi_provider.journal.spending import Limit

#: Key of the XCom with the plan of a batch.
PLAN_KEY = "deepshi_plan"
#: Maximum number of price classes in the XCom, and characters of each, since it is stored in Airflow's database.
_MOST_CLASSES = 8
_LONGEST_CLASS = 60


class PlannedClass(BaseModel):
    """The requests of one price class.

    :param requests: number of requests to buy.
    :param low_usd: the lowest known price of one request, in USD; ``None`` if none is known.
    :param high_usd: the highest known price, in USD; ``None`` if none is known.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    price_class: str
    requests: int
    low_usd: Usd | None = None
    high_usd: Usd | None = None


class Plan(BaseModel):
    """What a batch will buy, and what that costs if each request succeeds at the first attempt.

    :param stored: rows whose images are already stored.
    :param new: rows to buy that have no stored images.
    :param changed: rows to buy whose stored images are gone or belong to another request.
    :param refused: rows that will fail at no cost: by preflight, ``max_resends``, or a missing input image.
    :param undecided: edits that are bought only if their input images have changed; these are read only with
        ``plan_only``.
    :param low_usd: the lowest total cost, in USD; requests of unknown price count as 0.
    :param high_usd: the highest total cost, in USD; ``None`` if a price is unknown.
    :param unpriced: requests to buy whose price is unknown.
    :param classes: the requests to buy by price class, the most expensive first.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    rows: int
    stored: int
    new: int
    changed: int
    refused: int = 0
    undecided: int = 0
    low_usd: Usd = Decimal(0)
    high_usd: Usd | None = Decimal(0)
    unpriced: int = 0
    classes: list[PlannedClass] = []
    budgets: list[BudgetState] = []

    def summary(self) -> str:
        """Return the plan in one line."""
        counts = [f"{self.new:,} new", f"{self.changed:,} changed", f"{self.stored:,} stored"]
        counts += [f"{self.refused:,} refused"] if self.refused else []
        counts += [f"{self.undecided:,} not compared"] if self.undecided else []
        return "; ".join([f"plan: {', '.join(counts)}", self._price(), *map(_budget, self.budgets)])

    def as_lines(self) -> list[str]:
        """Return the plan as text: a summary, then one line per price class."""
        return [self.summary(), *(f"  {c.requests:,} at {_each(c)}  {c.price_class}" for c in self.classes)]

    def as_xcom(self) -> dict[str, Any]:
        """Return the plan as JSON types, below 2 kB; money is text."""
        named = [c.model_copy(update={"price_class": c.price_class[:_LONGEST_CLASS]}) for c in self.classes]
        return storable(self.model_copy(update={"classes": named[:_MOST_CLASSES]}).model_dump(mode="json"))

    def refusal(self) -> BudgetExceeded | None:
        """Return an error if the lowest total cost is more than is left of a budget."""
        for budget in self.budgets:
            left = budget.left_usd  # what may have been spent counts against the limit, so these rows would be refused
            if self.low_usd > left:
                return BudgetExceeded(
                    f"Nothing was bought: the batch costs at least {usd(self.low_usd)}, and {usd(left)} of "
                    f"{budget.name} {usd(budget.limit_usd)} are left. start_over_budget=True buys what fits. "
                    f"Raise {budget.name} and clear the task to continue"
                )
        return None

    def _price(self) -> str:
        unknown = f" ({self.unpriced:,} of unknown price)" if self.unpriced else ""
        if self.unpriced and not self.low_usd:
            return f"an unknown amount{unknown}"
        most = self.high_usd
        return f"about {usd(self.low_usd)}{'' if most in (None, self.low_usd) else f' to {usd(most)}'}{unknown}"


def make_plan(
    counts: Mapping[str, int],
    to_buy: Mapping[str, int],
    undecided: Mapping[str, int],
    prices: Mapping[str, PriceRange | None],
    limits: Iterable[Limit],
) -> Plan:
    """Return the plan for the given counts.

    :param counts: rows by ``stored``, ``new``, ``changed``, ``refused``.
    :param to_buy: number of requests by price class.
    :param undecided: number of edits that may have to be bought, by price class.
    :param prices: known prices by price class; ``None`` if none is known.
    """
    low, high, unpriced = Decimal(0), Decimal(0), 0
    for name, count in [*to_buy.items(), *undecided.items()]:
        price = prices[name]
        unpriced += count if price is None else 0
        high += count * price.high if price else 0
    for name, count in to_buy.items():
        price = prices[name]
        low += count * price.low if price else 0
    return Plan(
        rows=sum(counts.values()) + sum(undecided.values()),
        stored=counts.get("stored", 0),
        new=counts.get("new", 0),
        changed=counts.get("changed", 0),
        refused=counts.get("refused", 0),
        undecided=sum(undecided.values()),
        low_usd=low,
        high_usd=None if unpriced else high,
        unpriced=unpriced,
        classes=sorted((_planned(*item, prices) for item in to_buy.items()), key=_by_cost),
        budgets=[limit.plain_state() for limit in limits],
    )


def _planned(name: str, requests: int, prices: Mapping[str, PriceRange | None]) -> PlannedClass:
    price = prices[name]
    bounds = {"low_usd": price.low, "high_usd": price.high} if price else {}
    return PlannedClass(price_class=name, requests=requests, **bounds)


def _by_cost(planned: PlannedClass) -> tuple[Decimal, str]:
    return -(planned.high_usd or Decimal(0)) * planned.requests, planned.price_class


def _each(planned: PlannedClass) -> str:
    if planned.low_usd is None or planned.high_usd is None:
        return "unknown price"
    low, high = usd(planned.low_usd), usd(planned.high_usd)
    return low if low == high else f"{low} to {high}"


def _budget(budget: BudgetState) -> str:
    name = "budget" if budget.name == "max_cost_usd" else f"budget {budget.name}"
    least, most = budget.spent_usd, budget.spent_usd + budget.may_have_cost_usd
    spent = usd(least) if most == least else f"{usd(least)} to {usd(most)}"
    unpriced = f" ({budget.unpriced:,} of unknown price)" if budget.unpriced else ""
    return f"{name} {usd(budget.limit_usd)}" + (f", {spent} of it spent{unpriced}" if most or unpriced else "")
