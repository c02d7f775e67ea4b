"""The cost sheet: what one task instance has cost, as other tasks, reports and pages read it from its XCom.

Money is text in it, exact to the last digit. A cost that the API did not report is not 0: such requests are counted as
``untold``, and a sum beside them is a lower bound. So is one beside requests whose outcome is unknown. What both may
have cost is ``may_have_cost_usd``, at the highest known price of their class.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, PlainSerializer

#: Exact in files and XComs: money is text there, never a binary fraction.
Usd = Annotated[Decimal, PlainSerializer(lambda amount: f"{amount:f}", return_type=str, when_used="json")]

#: ``hook``: what hooks bought in a task, one by one.
Operation = Literal["generate", "edit", "batch", "hook"]

#: XCom that holds the sheet of a task instance.
XCOM_KEY = "deepshi_cost"
#: Images of a batch that its sheet names.
MOST_IMAGES = 8
#: Models that a sheet tells apart; the others are one entry, :data:`OTHERS`.
MOST_MODELS = 8
OTHERS = "(others)"
#: The model of a sending that does not say its model.
UNNAMED = "(unnamed)"

#: Bytes of a sheet as XCom: it lies in Airflow's database.
_MOST_BYTES = 4000
#: Characters of a model's name.
_LONGEST_NAME = 100


class ModelCosts(BaseModel):
    """What a task instance has cost by one model.

    :param cost_usd: of all requests whose cost the API reported, failed tries included; ``None`` if it reported none.
    :param untold: paid requests whose cost the API did not report, or not all of it.
    :param images: pictures that this task instance bought.
    :param reused: pictures that others had bought.
    :param saved_usd: what the reused ones cost when they were bought.
    :param unknown_outcomes: sendings that may have been paid for and are not in ``cost_usd``.
    :param may_have_cost_usd: what untold costs and unknown outcomes may come to; ``None`` if that is not known.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    model: str
    cost_usd: Usd | None = Decimal(0)
    untold: int = 0
    images: int = 0
    reused: int = 0
    saved_usd: Usd = Decimal(0)
    unknown_outcomes: int = 0
    may_have_cost_usd: Usd | None = Decimal(0)


class SheetImage(BaseModel):
    """One of the images that the task instance made or took.

    :param width: pixels.
    :param height: pixels.
    :param key: of the row, in a batch.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    uri: str
    media_type: str
    width: int
    height: int
    key: str | None = None


class CostSheet(BaseModel):
    """What one task instance has cost, over all its tries.

    :param ended: whether the try has come to its end; before that, the sheet tells of earlier tries only.
    :param key: JSON that names the result for who reads it; likewise ``metadata``.
    :param cost_usd: what the API reported; ``None`` if there are costs and it reported none. A lower bound if
        ``untold`` or ``unknown_outcomes`` is not 0.
    :param untold: paid requests whose cost the API did not report, or not all of it.
    :param saved_usd: what the reused pictures cost when they were bought.
    :param unknown_outcomes: sendings that may have been paid for and are not in ``cost_usd``.
    :param may_have_cost_usd: what untold costs and unknown outcomes may come to beside ``cost_usd``, at the highest
        known price of their class; ``None`` if that is not known.
    :param models: the most expensive first.
    :param images: all of a single request; the first :data:`MOST_IMAGES` of a batch, in the rows' order.
    :param output_uri: where records and claims lie; empty if the task did not come that far.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    version: Literal[1] = 1
    ended: bool
    operation: Operation
    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    try_number: int = 1
    key: Any = None
    metadata: Any = None
    cost_usd: Usd | None = Decimal(0)
    untold: int = 0
    saved_usd: Usd = Decimal(0)
    unknown_outcomes: int = 0
    may_have_cost_usd: Usd | None = Decimal(0)
    models: list[ModelCosts] = []
    images: list[SheetImage] = []
    output_uri: str = ""
    output_conn_id: str | None = None
    manifest_uri: str | None = None

    def as_xcom(self) -> dict[str, Any]:
        """Return the sheet as JSON types, below 4 kB: images that are too many are left out."""
        sheet = self
        while len(json.dumps(value := sheet.model_dump(mode="json"))) > _MOST_BYTES:
            if sheet.images:
                sheet = sheet.model_copy(update={"images": sheet.images[:-1]})
            elif len(sheet.models) > 1:
                sheet = sheet.model_copy(update={"models": shortened(sheet.models, len(sheet.models) - 1)})
            elif sheet.metadata is not None:
                sheet = sheet.model_copy(update={"metadata": None})
            else:
                break
        return value

    def with_unrecorded(self, model: str, cost_usd: Decimal) -> CostSheet:
        """Return the sheet with a sending whose price is known although the store did not take its record.

        Its claim, which stands, is no unknown outcome then.
        """
        entries = {entry.model: entry for entry in self.models}
        name = _name(model)
        entry = entries.get(name, ModelCosts(model=name))
        was_unknown = 0 if isinstance(cost_usd, AtLeast) else min(1, entry.unknown_outcomes)
        entries[name] = entry.model_copy(update=_settled(entry, cost_usd, was_unknown))
        return self.model_copy(
            update={**_settled(self, cost_usd, was_unknown), "models": shortened(entries.values())},
        )


class HasCosts(Protocol):
    """Whatever has the sums of a :class:`CostSheet`."""

    @property
    def cost_usd(self) -> Decimal | None:
        """What the API reported."""

    @property
    def untold(self) -> int:
        """Paid requests whose cost it did not report."""

    @property
    def unknown_outcomes(self) -> int:
        """Requests that may have been paid for."""

    @property
    def may_have_cost_usd(self) -> Decimal | None:
        """What both may come to."""


def in_words(sums: HasCosts) -> str:
    """Return a sum as a log line or a page names it: ``$0.039``, or ``at least $0.039, up to about $0.078 (…)``."""
    doubts = [
        f"{count} {what}{'' if count == 1 else 's'}"
        for count, what in ((sums.unknown_outcomes, "unknown outcome"), (sums.untold, "unreported cost"))
        if count
    ]
    if not doubts:
        return "an unknown sum" if sums.cost_usd is None else usd(sums.cost_usd)
    least = sums.cost_usd or Decimal(0)
    if sums.may_have_cost_usd is None:
        return f"at least {usd(least)} ({', '.join(doubts)} of unknown price)"
    return f"at least {usd(least)}, up to about {usd(least + sums.may_have_cost_usd)} ({', '.join(doubts)})"


def usd(amount: Decimal) -> str:
    """Return money with all its digits, the same wherever it is named."""
    return f"${amount:f}"


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


class Doubt(NamedTuple):
    """A request that was or may have been paid for, at a price that nobody reported, or not as a whole.

    :param reported: the part of its price that is known, in USD.
    :param price_class: see :func:`deepshi_provider.costs.price_class.price_class`.
    """

    model: str
    fingerprint: str = ""
    price_class: str = ""
    reported: Decimal = Decimal(0)

    def remainder(self, price: Decimal) -> Decimal:
        """Return what it may have cost beside what was reported, if its price is this."""
        return max(Decimal(0), price - self.reported)


class Tally:
    """Adds up the models of a sheet.

    :param lost: each sending whose outcome is unknown, as :class:`Doubt`.
    """

    def __init__(self, lost: Iterable[tuple[Any, ...]] = ()) -> None:
        self._lost = Counter(Doubt(_name(doubt[0]), *doubt[1:]) for doubt in lost)
        self._untold: Counter[Doubt] = Counter()
        self._asked = {doubt.fingerprint for doubt in self._lost} - {""}
        self._of_request: dict[str, Decimal] = {}
        self._of_class: dict[str, Decimal] = {}
        self._elsewhere: dict[str, Decimal] = {}
        self._of_model: dict[str, Decimal] = {}
        self._costs: dict[str, list[Decimal | None]] = {}
        self._images: dict[str, int] = {}
        self._reused: dict[str, int] = {}
        self._saved: dict[str, Decimal] = {}

    def paid(
        self, model: str | None, fingerprint: str, cost_usd: Decimal | None, images: int, price_class: str = ""
    ) -> None:
        """Add a sending that cost money."""
        name = _name(model)
        self._images[name] = self._images.get(name, 0) + images
        known = self._costs.setdefault(name, [])
        # One entry is enough to tell "nothing", "not reported" and a sum apart, however many sendings there are.
        self._costs[name] = [total([*known, cost_usd])] if known else [cost_usd]
        if cost_usd is None or isinstance(cost_usd, AtLeast):
            self._untold[Doubt(name, "", price_class, cost_usd or Decimal(0))] += 1
            return
        self._of_model[name] = max(cost_usd, self._of_model.get(name, cost_usd))
        if price_class:
            self._of_class[price_class] = max(cost_usd, self._of_class.get(price_class, cost_usd))
        if fingerprint in self._asked:
            self._of_request[fingerprint] = cost_usd

    def reused(self, model: str | None, cost_usd: Decimal | None, images: int) -> None:
        """Add pictures that others had bought."""
        name = _name(model)
        self._reused[name] = self._reused.get(name, 0) + images
        self._saved[name] = self._saved.get(name, Decimal(0)) + (cost_usd or Decimal(0))

    def unpriced(self) -> set[str]:
        """Return the price classes that somebody else may know a price of: this task instance has none."""
        doubts = [*self._lost, *self._untold]
        classes = {doubt.price_class for doubt in doubts if doubt.fingerprint not in self._of_request}
        return classes - self._of_class.keys() - {""}

    def learn(self, price_class: str, cost_usd: Decimal) -> None:
        """Take note of what others paid for a request of a class."""
        self._elsewhere[price_class] = cost_usd

    def sums(self) -> dict[str, Any]:
        """Return the fields of a :class:`CostSheet` that are sums, and its ``models``."""
        models = [self._of(name) for name in {**self._costs, **self._reused, **{d.model: 0 for d in self._lost}}]
        doubts = [model.may_have_cost_usd for model in models]
        return {
            "cost_usd": total(cost for costs in self._costs.values() for cost in costs),
            "untold": self._untold.total(),
            "saved_usd": sum(self._saved.values(), Decimal(0)),
            "unknown_outcomes": self._lost.total(),
            "may_have_cost_usd": None if None in doubts else total(doubts),
            "models": shortened(models),
        }

    def _of(self, name: str) -> ModelCosts:
        lost = {doubt: count for doubt, count in self._lost.items() if doubt.model == name}
        untold = {doubt: count for doubt, count in self._untold.items() if doubt.model == name}
        prices = [(self._price(doubt), doubt, count) for doubt, count in (*lost.items(), *untold.items())]
        known = [doubt.remainder(price) * count for price, doubt, count in prices if price is not None]
        return ModelCosts(
            model=name,
            cost_usd=total(self._costs.get(name, [])),
            untold=sum(untold.values()),
            images=self._images.get(name, 0),
            reused=self._reused.get(name, 0),
            saved_usd=self._saved.get(name, Decimal(0)),
            unknown_outcomes=sum(lost.values()),
            may_have_cost_usd=sum(known, Decimal(0)) if len(known) == len(prices) else None,
        )

    def _price(self, doubt: Doubt) -> Decimal | None:
        """Return the best known price: of this request, its class here, its class elsewhere, its model here."""
        found = (
            self._of_request.get(doubt.fingerprint),
            self._of_class.get(doubt.price_class),
            self._elsewhere.get(doubt.price_class),
            self._of_model.get(doubt.model),
        )
        return next((price for price in found if price is not None), None)


def total(costs: Iterable[Decimal | None]) -> Decimal | None:
    """Return the sum of the known costs; 0 for nothing at all, ``None`` if there are costs and none is known."""
    all_costs = list(costs)
    known = [cost for cost in all_costs if cost is not None]
    return sum(known, Decimal(0)) if known or not all_costs else None


def shortened(models: Iterable[ModelCosts], most: int = MOST_MODELS) -> list[ModelCosts]:
    """Return the entries of a sheet, the most expensive first; those that are too many become :data:`OTHERS`."""
    ordered = sorted(models, key=lambda m: (m.model == OTHERS, -(m.cost_usd or Decimal(0)), m.model))
    if len(ordered) <= most:
        return ordered
    return [*ordered[: most - 1], added(OTHERS, ordered[most - 1 :])]


def added(name: str, entries: Iterable[ModelCosts]) -> ModelCosts:
    """Return the sum of some entries, under a name."""
    found = list(entries)
    doubts = [entry.may_have_cost_usd for entry in found]
    return ModelCosts(
        model=name,
        cost_usd=total(entry.cost_usd for entry in found),
        untold=sum(entry.untold for entry in found),
        images=sum(entry.images for entry in found),
        reused=sum(entry.reused for entry in found),
        saved_usd=sum((entry.saved_usd for entry in found), Decimal(0)),
        unknown_outcomes=sum(entry.unknown_outcomes for entry in found),
        may_have_cost_usd=None if None in doubts else total(doubts),
    )


def _settled(sums: CostSheet | ModelCosts, cost_usd: Decimal, was_unknown: int) -> dict[str, Any]:
    """Return the fields that change when the cost of a sending becomes known, whose outcome may have been unknown."""
    unknown = sums.unknown_outcomes - was_unknown
    doubt = sums.may_have_cost_usd
    left = doubt and max(Decimal(0), doubt - cost_usd * was_unknown)
    return {
        "cost_usd": (sums.cost_usd or Decimal(0)) + cost_usd,
        "unknown_outcomes": unknown,
        "may_have_cost_usd": left if unknown or sums.untold else Decimal(0),
    }


def _name(model: str | None) -> str:
    return (model or UNNAMED)[:_LONGEST_NAME]
