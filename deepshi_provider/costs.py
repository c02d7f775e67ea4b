"""The cost sheet: what one task instance has cost, as other tasks, reports and pages read it from its XCom.

Money is text in it, exact to the last digit; ``None`` means that the API told no cost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, PlainSerializer

#: Exact in files and XComs: money is text there, never a binary fraction.
Usd = Annotated[Decimal, PlainSerializer(lambda amount: f"{amount:f}", return_type=str, when_used="json")]

Operation = Literal["generate", "edit", "batch"]

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

    :param cost_usd: of all sendings, failed tries included.
    :param images: pictures that this task instance bought.
    :param reused: pictures that others had bought.
    :param saved_usd: what the reused ones cost when they were bought.
    :param unknown_outcomes: sendings that may have been paid for and are not in ``cost_usd``.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    model: str
    cost_usd: Usd | None = Decimal(0)
    images: int = 0
    reused: int = 0
    saved_usd: Usd = Decimal(0)
    unknown_outcomes: int = 0


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
    :param saved_usd: what the reused pictures cost when they were bought.
    :param unknown_outcomes: sendings that may have been paid for and are not in ``cost_usd``.
    :param may_have_cost_usd: what these may have cost, at the price that their like had; ``None`` if that is not known.
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
        was_unknown = min(1, entry.unknown_outcomes)
        entries[name] = entry.model_copy(
            update={
                "cost_usd": (entry.cost_usd or Decimal(0)) + cost_usd,
                "unknown_outcomes": entry.unknown_outcomes - was_unknown,
            }
        )
        unknown = self.unknown_outcomes - was_unknown
        doubt = self.may_have_cost_usd
        return self.model_copy(
            update={
                "cost_usd": (self.cost_usd or Decimal(0)) + cost_usd,
                "unknown_outcomes": unknown,
                "may_have_cost_usd": Decimal(0) if not unknown else doubt and max(Decimal(0), doubt - cost_usd),
                "models": shortened(entries.values()),
            }
        )


class Tally:
    """Adds up the models of a sheet.

    :param lost: model and fingerprint of each sending whose outcome is unknown.
    :ivar models: by name.
    """

    def __init__(self, lost: Iterable[tuple[str, str]] = ()) -> None:
        self._lost = [(_name(model), fingerprint) for model, fingerprint in lost]
        self._asked = {fingerprint for _, fingerprint in self._lost}
        self._of_request: dict[str, Decimal] = {}
        self._of_model: dict[str, Decimal] = {}
        self._costs: dict[str, list[Decimal | None]] = {}
        self._images: dict[str, int] = {}
        self._reused: dict[str, int] = {}
        self._saved: dict[str, Decimal] = {}

    def paid(self, model: str | None, fingerprint: str, cost_usd: Decimal | None, images: int) -> None:
        """Add a sending that cost money."""
        name = _name(model)
        self._images[name] = self._images.get(name, 0) + images
        told = self._costs.setdefault(name, [])
        # Two entries are enough to tell "nothing", "not told" and a sum apart, however many sendings there are.
        self._costs[name] = [total([*told, cost_usd])] if told else [cost_usd]
        if cost_usd is not None:
            self._of_model[name] = max(cost_usd, self._of_model.get(name, cost_usd))
            if fingerprint in self._asked:
                self._of_request[fingerprint] = cost_usd

    def reused(self, model: str | None, cost_usd: Decimal | None, images: int) -> None:
        """Add pictures that others had bought."""
        name = _name(model)
        self._reused[name] = self._reused.get(name, 0) + images
        self._saved[name] = self._saved.get(name, Decimal(0)) + (cost_usd or Decimal(0))

    def sums(self) -> dict[str, Any]:
        """Return the fields of a :class:`CostSheet` that are sums, and its ``models``."""
        lost: dict[str, int] = {}
        doubts: list[Decimal | None] = []
        for model, fingerprint in self._lost:
            lost[model] = lost.get(model, 0) + 1
            doubts.append(self._of_request.get(fingerprint, self._of_model.get(model)))
        models = [
            ModelCosts(
                model=name,
                cost_usd=total(self._costs.get(name, [])),
                images=self._images.get(name, 0),
                reused=self._reused.get(name, 0),
                saved_usd=self._saved.get(name, Decimal(0)),
                unknown_outcomes=lost.get(name, 0),
            )
            for name in {**self._costs, **self._reused, **lost}
        ]
        return {
            "cost_usd": total(cost for costs in self._costs.values() for cost in costs),
            "saved_usd": sum(self._saved.values(), Decimal(0)),
            "unknown_outcomes": len(self._lost),
            "may_have_cost_usd": None if None in doubts else total(doubts),
            "models": shortened(models),
        }


def total(costs: Iterable[Decimal | None]) -> Decimal | None:
    """Return the sum of the known costs; 0 for nothing at all, ``None`` if costs there are and none is known."""
    all_costs = list(costs)
    known = [cost for cost in all_costs if cost is not None]
    return sum(known, Decimal(0)) if known or not all_costs else None


def shortened(models: Iterable[ModelCosts], most: int = MOST_MODELS) -> list[ModelCosts]:
    """Return the entries of a sheet, the most expensive first; those that are too many become :data:`OTHERS`."""
    ordered = sorted(models, key=lambda m: (m.model == OTHERS, -(m.cost_usd or Decimal(0)), m.model))
    if len(ordered) <= most:
        return ordered
    kept, rest = ordered[: most - 1], ordered[most - 1 :]
    others = ModelCosts(
        model=OTHERS,
        cost_usd=total(m.cost_usd for m in rest),
        images=sum(m.images for m in rest),
        reused=sum(m.reused for m in rest),
        saved_usd=sum((m.saved_usd for m in rest), Decimal(0)),
        unknown_outcomes=sum(m.unknown_outcomes for m in rest),
    )
    return [*kept, others]


def _name(model: str | None) -> str:
    return (model or UNNAMED)[:_LONGEST_NAME]
