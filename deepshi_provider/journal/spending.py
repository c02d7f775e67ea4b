"""A sum of money as limits count it: reported and possible costs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import NamedTuple

from deepshi_provider.costs.budget_state import BudgetState, WindowState, perhaps
from deepshi_provider.costs.money import usd

_USD = r"\d+(?:\.\d+)?"
_COUNTS = r"(?:0|\d+x[0-9a-f]{16}(?:-\d+x[0-9a-f]{16})*)"
#: What :meth:`Spending.as_name` returns.
SPENDING = rf"{_USD}_{_USD}_{_COUNTS}_{_COUNTS}"
#: Maximum number of price classes in a name; the rest counts as :data:`_OTHERS`, a class that never has a price.
_MOST_CLASSES = 4
_OTHERS = "0" * 16

#: Number of requests by price class, as :func:`~deepshi_provider.journal.entries.short_hash`, in its order.
Counts = tuple[tuple[str, int], ...]


def counts_of(numbers: Mapping[str, int]) -> Counts:
    """Return numbers of requests by price class."""
    return tuple(sorted((key, number) for key, number in numbers.items() if number))


class Spending(NamedTuple):
    """Reported and possible costs.

    :param usd: the costs that the API reported.
    :param possible_usd: unreported costs, unknown outcomes and requests under way, at the known prices.
    :param lost: requests with unreported cost or unknown outcome whose class had no known price.
    :param learning: requests under way whose class had no known price.
    """

    usd: Decimal = Decimal(0)
    possible_usd: Decimal = Decimal(0)
    lost: Counts = ()
    learning: Counts = ()

    @property
    def most_usd(self) -> Decimal:
        """The sum of reported and possible costs."""
        return self.usd + self.possible_usd

    @property
    def blind(self) -> int:
        """Number of requests of unknown price that were, are or may have been paid for.

        Without those of classes that did not fit into a name, since nobody can tell when their prices are known.
        """
        return sum(number for key, number in (*self.lost, *self.learning) if key != _OTHERS)

    @property
    def blind_classes(self) -> set[str]:
        """The keys of their price classes."""
        return {key for key, _ in (*self.lost, *self.learning)}

    def at_price(self, price: Decimal) -> Spending:
        """Return the sum with each request of unknown price at this price."""
        return self.at_prices(lambda _: price)

    def at_prices(self, price_of: Callable[[str], Decimal | None]) -> Spending:
        """Return the sum with each request of unknown price at the price of its class, if that is known.

        :param price_of: returns the known price of a class, by its key.
        """
        found = {key: price_of(key) for key in self.blind_classes}
        known = {key: price for key, price in found.items() if price is not None}
        possible = sum(
            (known.get(key, Decimal(0)) * number for key, number in (*self.lost, *self.learning)), Decimal(0)
        )
        return Spending(
            self.usd,
            self.possible_usd + possible,
            tuple((key, number) for key, number in self.lost if key not in known),
            tuple((key, number) for key, number in self.learning if key not in known),
        )

    def settled(self) -> Spending:
        """Return the sum with requests under way as lost: those that have not ended after an hour or more."""
        return self._replace(lost=_together(self.lost, self.learning), learning=())

    def as_name(self, most: int = _MOST_CLASSES) -> str:
        """Return the sum as a part of an object's name: ``<USD>_<possible USD>_<lost>_<learning>``.

        The numbers of requests are ``<number>x<class>``, joined with ``-``; ``0`` if there are none.

        :param most: number of classes; the rest counts together.
        """
        lost, learning = _counts_text(self.lost, most), _counts_text(self.learning, most)
        return f"{self.usd:f}_{self.possible_usd:f}_{lost}_{learning}"

    @classmethod
    def of_name(cls, text: str) -> Spending:
        """Return the sum that :meth:`as_name` has written.

        :raises ValueError: the text is not one.
        """
        if not re.fullmatch(SPENDING, text, re.ASCII):
            raise ValueError(f"not a sum: {text[:100]!r}")
        spent, possible, lost, learning = text.split("_")
        return cls(Decimal(spent), Decimal(possible), _counts_in(lost), _counts_in(learning))

    def __add__(self, other: object) -> Spending:
        if not isinstance(other, Spending):
            return NotImplemented
        return Spending(
            self.usd + other.usd,
            self.possible_usd + other.possible_usd,
            _together(self.lost, other.lost),
            _together(self.learning, other.learning),
        )

    def as_text(self) -> str:
        """Return the sum as text: a range if a part of it is only possible."""
        if self.blind:
            return f"at least {usd(self.usd)} ({self.blind} requests of unknown price)"
        return f"at least {usd(self.usd)}, up to about {usd(self.most_usd)}" if self.possible_usd else usd(self.usd)

    def __str__(self) -> str:
        return usd(self.usd) + perhaps(self.possible_usd, self.blind)


def _counts_text(counts: Counts, most: int) -> str:
    if len(counts) > most:
        rest = sum(number for _, number in counts[most - 1 :])
        counts = (*counts[: most - 1], (_OTHERS, rest))
    return "-".join(f"{number}x{key}" for key, number in counts) or "0"


def _counts_in(text: str) -> Counts:
    parts = () if text == "0" else (part.partition("x") for part in text.split("-"))
    return tuple((key, int(number)) for number, _, key in parts)


def _together(first: Counts, second: Counts) -> Counts:
    if not (first and second):
        return first or second
    return counts_of(Counter(dict(first)) + Counter(dict(second)))


class Limit(NamedTuple):
    """A limit and the spending that counts against it.

    :param name: name of the user's setting.
    :param usd: the limit, in USD.
    :param whose: who has spent it and when, for messages.
    :param group: the budget group of the limit.
    :param window: day or month of the limit, ISO 8601; empty for the limit of a task or DAG run.
    :param resets_at: the end of the window, ISO 8601 with the offset of its time zone.
    :param own_since: the first hour from which ``spent`` lacks this task's own part.
    """

    name: str
    usd: Decimal
    spent: Spending
    whose: str = ""
    group: str | None = None
    window: str = ""
    resets_at: str = ""
    own_since: str = ""

    def at_prices(self, price_of: Callable[[str], Decimal | None]) -> Limit:
        """Return the limit with its spending at known prices; see :meth:`Spending.at_prices`."""
        return self._replace(spent=self.spent.at_prices(price_of))

    def with_own(self, own: Spending) -> Limit:
        """Return the limit with this task's own spending added."""
        own_part = "" if self.window else f", {own} of them by this task"  # ``own`` is only the last part
        return self._replace(spent=self.spent + own, whose=f" {self.whose}{own_part}")

    def state(self) -> WindowState:
        """Return the state of a limit per day or month."""
        return WindowState(
            **self.plain_state().model_dump(), group=self.group, window=self.window, resets_at=self.resets_at
        )

    def plain_state(self) -> BudgetState:
        """Return the state of any limit."""
        return BudgetState(
            name=self.name,
            limit_usd=self.usd,
            spent_usd=self.spent.usd,
            may_have_cost_usd=self.spent.possible_usd,
            unpriced=self.spent.blind,
        )

    @property
    def advice(self) -> str:
        """What the user can do when the limit is reached."""
        if self.resets_at:
            return f"The budget starts again at {self.resets_at}: clear the task then, or raise it and clear the task"
        return f"Raise {self.name} and clear the task to continue"
