"""Money in USD: ``Decimal`` in Python, text in files, a number in results. An unknown cost is ``None``, not 0."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Protocol

from pydantic import PlainSerializer

#: A type that is written as text to files and XComs, so that money stays exact.
Usd = Annotated[Decimal, PlainSerializer(lambda amount: f"{amount:f}", return_type=str, when_used="json")]


#: Maximum digits of an amount that a user gives, on each side of the decimal point.
MOST_DIGITS = 30


class AtLeast(Decimal):
    """A lower bound of a cost: the answer ended before it had reported all of it."""


class HasCost(Protocol):
    """The cost of one request."""

    @property
    def cost_usd(self) -> Decimal | None:
        """The cost that the API reported."""

    @property
    def cost_is_complete(self) -> bool:
        """Whether ``cost_usd`` is the whole cost."""


def paid(what: HasCost) -> Decimal | None:
    """Return a request's cost in USD; :class:`AtLeast` if it may be incomplete, ``None`` if it was not reported."""
    cost = what.cost_usd
    return cost if cost is None or what.cost_is_complete else AtLeast(cost)


def amount_of(value: Any) -> Decimal | None:
    """Return an amount in USD that a user gives; ``None`` if the value is not one, or has too many digits."""
    try:
        found = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    if not found.is_finite() or found < 0:
        return None
    has_few_digits = int(found.as_tuple().exponent) >= -MOST_DIGITS and found.adjusted() < MOST_DIGITS
    return found if has_few_digits else None


def is_known(cost: Decimal | None) -> bool:
    """Return whether a cost is complete, that is, neither a lower bound nor unreported."""
    return cost is not None and not isinstance(cost, AtLeast)


def total(costs: Iterable[Decimal | None]) -> Decimal | None:
    """Return the sum of the known costs; 0 if there are no costs, ``None`` if there are costs but none is known."""
    all_costs = list(costs)
    known = [cost for cost in all_costs if cost is not None]
    return sum(known, Decimal(0)) if known or not all_costs else None


def usd(amount: Decimal) -> str:
    """Return an amount as text, with all its digits."""
    return f"${amount:f}"


def as_number(cost: Decimal | None) -> float | None:
    """Return an amount as a JSON number."""
    return None if cost is None else float(cost)


def plain(value: Any) -> Any:
    """Return data with each ``Decimal`` as a number, for JSON and XCom."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and "." not in str(value) else float(value)
    return value
