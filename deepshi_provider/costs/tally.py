"""Adds up the costs and possible costs of a task instance by model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from deepshi_provider.costs.money import is_known, total
from deepshi_provider.costs.sheet import ModelCosts, model_name, shortened, sum_of


class Doubt(NamedTuple):
    """A request that was or may have been paid for, and whose cost was not, or not completely, reported.

    :param reported: the reported part of its cost, in USD.
    :param price_class: see :func:`deepshi_provider.costs.price_class.price_class`.
    """

    model: str
    fingerprint: str = ""
    price_class: str = ""
    reported: Decimal = Decimal(0)

    def remainder(self, price: Decimal) -> Decimal:
        """Return the possible cost in addition to the reported part, for a given price."""
        return max(Decimal(0), price - self.reported)


class Tally:
    """Adds attempts, and returns the sums of a :class:`~deepshi_provider.costs.sheet.CostSheet`.

    Add attempts with unknown outcome first: a paid attempt of the same request then sets their price.

    :ivar is_partial: whether earlier costs could not be read; a sum without other costs is then unknown, not 0.
    """

    def __init__(self) -> None:
        self.is_partial = False
        self._asked: set[str] = set()
        self._lost: Counter[Doubt] = Counter()
        self._unreported: Counter[Doubt] = Counter()
        self._of_request: dict[str, Decimal] = {}
        self._of_class: dict[str, Decimal] = {}
        self._elsewhere: dict[str, Decimal] = {}
        self._of_model: dict[str, Decimal] = {}
        self._models: dict[str, ModelCosts] = {}

    def __bool__(self) -> bool:
        return bool(self._models or self._lost)

    @property
    def cost_usd(self) -> Decimal | None:
        """The reported cost; ``None`` if there are costs and the API reported none."""
        unread = [None] if self.is_partial else []
        return total([*unread, *(entry.cost_usd for entry in self._models.values() if entry.has_costs)])

    def lost(self, model: str | None, fingerprint: str = "", price_class: str = "") -> None:
        """Add an attempt whose outcome is unknown."""
        self._lost[Doubt(model_name(model), fingerprint, price_class)] += 1
        self._asked.add(fingerprint)

    def paid(
        self, model: str | None, fingerprint: str, cost_usd: Decimal | None, images: int, price_class: str = ""
    ) -> None:
        """Add an attempt that cost money.

        :param fingerprint: fingerprint of its request; attempts of it with unknown outcome count at the same price.
        :param cost_usd: as :func:`~deepshi_provider.costs.money.paid` returns it.
        """
        name = model_name(model)
        is_reported = is_known(cost_usd)
        failed = Decimal(0) if images else cost_usd or Decimal(0)
        untold = int(not is_reported)
        self._add(ModelCosts(model=name, cost_usd=cost_usd, failed_usd=failed, untold=untold, images=images))
        if cost_usd is None or not is_reported:
            self._unreported[Doubt(name, "", price_class, cost_usd or Decimal(0))] += 1
            return
        self._of_model[name] = max(cost_usd, self._of_model.get(name, cost_usd))
        if price_class:
            self._of_class[price_class] = max(cost_usd, self._of_class.get(price_class, cost_usd))
        if fingerprint and fingerprint in self._asked:
            self._of_request[fingerprint] = cost_usd

    def reused(self, model: str | None, cost_usd: Decimal | None, images: int) -> None:
        """Add images that other task instances had bought."""
        self._add(ModelCosts(model=model_name(model), reused=images, saved_usd=cost_usd or Decimal(0)))

    def doubts(self) -> Iterator[Doubt]:
        """Yield each attempt whose cost is not completely known."""
        yield from self._lost.elements()
        yield from self._unreported.elements()

    def unpriced(self) -> set[str]:
        """Return the price classes for which this task instance has no price, but others may."""
        doubts = [*self._lost, *self._unreported]
        classes = {doubt.price_class for doubt in doubts if doubt.fingerprint not in self._of_request}
        return classes - self._of_class.keys() - {""}

    def prices(self) -> dict[str, Decimal]:
        """Return the highest cost that the task instance has paid in each price class."""
        return dict(self._of_class)

    def learn(self, price_class: str, cost_usd: Decimal) -> None:
        """Record the cost of another request of a price class."""
        self._elsewhere[price_class] = cost_usd

    def sums(self) -> dict[str, Any]:
        """Return the sums and ``models`` of a :class:`~deepshi_provider.costs.sheet.CostSheet`, by field name."""
        names = dict.fromkeys([*self._models, *(doubt.model for doubt in self._lost)])
        models = [self._of(name) for name in names]
        all_models = sum_of("", models)
        return {
            "cost_usd": self.cost_usd,
            "untold": all_models.untold,
            "saved_usd": all_models.saved_usd,
            "unknown_outcomes": all_models.unknown_outcomes,
            "may_have_cost_usd": all_models.may_have_cost_usd,
            "models": shortened(models),
        }

    def _add(self, entry: ModelCosts) -> None:
        known = self._models.get(entry.model)
        self._models[entry.model] = known + entry if known else entry

    def _of(self, name: str) -> ModelCosts:
        lost = {doubt: count for doubt, count in self._lost.items() if doubt.model == name}
        unreported = {doubt: count for doubt, count in self._unreported.items() if doubt.model == name}
        priced = [(self._price(doubt), doubt, count) for doubt, count in (*lost.items(), *unreported.items())]
        known = [doubt.remainder(price) * count for price, doubt, count in priced if price is not None]
        return self._models.get(name, ModelCosts(model=name)).model_copy(
            update={
                "unknown_outcomes": sum(lost.values()),
                "may_have_cost_usd": sum(known, Decimal(0)) if len(known) == len(priced) else None,
            }
        )

    def _price(self, doubt: Doubt) -> Decimal | None:
        """Return the best known price: of this request, of its class here or elsewhere, or of its model here."""
        found = (
            self._of_request.get(doubt.fingerprint),
            self._of_class.get(doubt.price_class),
            self._elsewhere.get(doubt.price_class),
            self._of_model.get(doubt.model),
        )
        return next((price for price in found if price is not None), None)
