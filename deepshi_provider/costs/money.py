"""Money in USD: exact inside, text in files, and a number outside of Python. A cost that is not known is not 0."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any, Protocol

from pydantic import PlainSerializer

#: Exact in files and XComs: money is text there, never a binary fraction.
Usd = Annotated[Decimal, PlainSerializer(lambda amount: f"{amount:f}", return_type=str, when_used="json")]


class AtLeast(Decimal):
    """A cost beside which more may have been taken: the answer ended before it reported all."""


class HasCost(Protocol):
    """What one request has cost."""

    @property
    def cost_usd(self) -> Decimal | None:
        """What the API reported."""

    @property
    def cost_is_complete(self) -> bool:
        """Whether nothing beyond it can have been taken."""


def paid(what: HasCost) -> Decimal | None:
    """Return what a request has cost, in USD: as :class:`AtLeast` if that need not be all, ``None`` if not reported."""
    cost = what.cost_usd
    return cost if cost is None or what.cost_is_complete else AtLeast(cost)


def is_known(cost: Decimal | None) -> bool:
    """Return whether a cost is all that was paid; otherwise it is at least that, or not reported at all."""
    return cost is not None and not isinstance(cost, AtLeast)


def total(costs: Iterable[Decimal | None]) -> Decimal | None:
    """Return the sum of the known costs; 0 for nothing at all, ``None`` if there are costs and none is known."""
    all_costs = list(costs)
    known = [cost for cost in all_costs if cost is not None]
    return sum(known, Decimal(0)) if known or not all_costs else None


def usd(amount: Decimal) -> str:
    """Return money with all its digits, the same wherever it is named."""
    return f"${amount:f}"


def as_number(cost: Decimal | None) -> float | None:
    """Return money as it leaves Python: a JSON number."""
    return None if cost is None else float(cost)


def plain(value: Any) -> Any:
    """Return data with every ``Decimal`` as a number that JSON and XCom take."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and "." not in str(value) else float(value)
    return value
