"""The cost sheet: the cost of one task instance, which other tasks, reports and pages read from its XCom.

Money is exact text. A cost that the API did not report is not 0: such requests are counted as ``untold``, and a sum is
then a lower bound, as it is with requests whose outcome is unknown. The possible cost of both is ``may_have_cost_usd``,
at the highest known price of their class.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from functools import reduce
from operator import add
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from deepshi_provider.api.texts import storable
from deepshi_provider.costs.money import Usd, total, usd

#: ``hook``: hooks' purchases in a task.
Operation = Literal["generate", "edit", "batch", "hook"]

#: Key of the XCom with the cost sheet of a task instance.
XCOM_KEY = "deepshi_cost"
#: Maximum number of images of a batch in its sheet.
MOST_IMAGES = 8
#: Maximum characters of a prompt in a sheet; the record has all of it.
LONGEST_PROMPT = 160
#: Digits of an image's hash in a sheet: nobody can guess them.
HASH_DIGITS = 16
#: Maximum number of input images of an edit in its sheet.
MOST_SOURCES = 3
#: Maximum number of warnings in a sheet, and characters of each.
MOST_WARNINGS = 3
LONGEST_WARNING = 200
#: Maximum number of models in a sheet; the rest is one entry, :data:`OTHERS`.
MOST_MODELS = 8
OTHERS = "(others)"
#: The name for attempts without a model.
UNNAMED = "(unnamed)"

#: Maximum bytes of a sheet as XCom, since it is stored in Airflow's database.
_MOST_BYTES = 4000
#: Maximum characters of a prompt if the sheet would be too large.
_SHORT_PROMPT = 60
#: Maximum characters of a model's name.
_LONGEST_NAME = 100


class ModelCosts(BaseModel):
    """The cost of a task instance for one model.

    :param cost_usd: the reported cost of all requests, including failed tries; ``None`` if the API reported none.
    :param untold: paid requests whose cost the API did not report, or not all of it.
    :param images: number of images that this task instance bought.
    :param reused: number of images that other task instances had bought.
    :param saved_usd: the original cost of the reused images.
    :param unknown_outcomes: attempts that may have been paid for and are not in ``cost_usd``.
    :param may_have_cost_usd: possible cost of unreported costs and unknown outcomes; ``None`` if unknown.
    :param failed_usd: the part of ``cost_usd`` paid for attempts without an image; not written if it is 0.
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
    failed_usd: Usd = Decimal(0)

    @model_serializer(mode="wrap")
    def _short(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in written(self).items() if name != "failed_usd" or self.failed_usd}

    @property
    def has_costs(self) -> bool:
        """Whether any attempt was certainly paid for; otherwise a cost of 0 is not a price."""
        return self.cost_usd != 0 or bool(self.images or self.untold)

    def __add__(self, other: ModelCosts) -> ModelCosts:
        doubts = [self.may_have_cost_usd, other.may_have_cost_usd]
        return ModelCosts(
            model=self.model or other.model,
            cost_usd=total(entry.cost_usd for entry in (self, other) if entry.has_costs),
            untold=self.untold + other.untold,
            images=self.images + other.images,
            reused=self.reused + other.reused,
            saved_usd=self.saved_usd + other.saved_usd,
            unknown_outcomes=self.unknown_outcomes + other.unknown_outcomes,
            may_have_cost_usd=None if None in doubts else total(doubts),
            failed_usd=self.failed_usd + other.failed_usd,
        )


class SheetImage(BaseModel):
    """One of the images that the task instance made or reused.

    :param width: pixels.
    :param height: pixels.
    :param key: the row's key, in a batch.
    :param prompt: its first :data:`LONGEST_PROMPT` characters; ``None`` if prompts are not kept.
    :param cost_usd: cost of its request, with all images of it; ``None`` if the API did not report it.
    :param of: number of images of its request.
    :param reused: whether another task instance bought it.
    :param attempt: ``<k>.<fingerprint>`` of the attempt that made it, to find its record.
    :param fallback: position of the fallback that made it, from 0; ``None`` for the task's own request.
    :param sha256: of its bytes, in hex; the first :data:`HASH_DIGITS` digits are enough.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    uri: str
    media_type: str
    width: int
    height: int
    key: str | None = None
    prompt: str | None = None
    cost_usd: Usd | None = None
    of: int = 1
    reused: bool = False
    attempt: Annotated[str, Field(pattern=r"^\d{1,9}\.[0-9a-f]{16}$")] | None = None
    fallback: int | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")] | None = None

    def is_hash(self, sha256: str) -> bool:
        """Return whether the image has a whole hash, as far as its own is known."""
        return self.sha256 is None or sha256.startswith(self.sha256)

    @model_serializer(mode="wrap")
    def _short(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        usual = {
            "prompt": None,
            "cost_usd": None,
            "of": 1,
            "reused": False,
            "attempt": None,
            "fallback": None,
            "sha256": None,
        }
        return {name: value for name, value in written(self).items() if name not in usual or value != usual[name]}


class CostSheet(BaseModel):
    """The cost of one task instance over all its tries.

    :param ended: whether the try has ended; before that, the sheet covers only earlier tries.
    :param key: JSON that identifies the result for its readers; likewise ``metadata``.
    :param cost_usd: the reported cost; ``None`` if there are costs and the API reported none. A lower bound if
        ``untold`` or ``unknown_outcomes`` is not 0.
    :param untold: paid requests whose cost the API did not report, or not all of it.
    :param saved_usd: the original cost of the reused images.
    :param unknown_outcomes: attempts that may have been paid for and are not in ``cost_usd``.
    :param may_have_cost_usd: possible cost of unreported costs and unknown outcomes, in addition to ``cost_usd``, at
        the highest known price of their class; ``None`` if unknown.
    :param models: costs by model, the most expensive first.
    :param images: all images of a single request; the first :data:`MOST_IMAGES` of a batch, in the rows' order.
    :param warnings: the first :data:`MOST_WARNINGS` mismatches.
    :param plan: the summary of a batch's plan.
    :param deepshi_conn_id: the connection that paid; ``None`` if several did.
    :param budget_group: the task's budget group.
    :param sources: the first :data:`MOST_SOURCES` input images of an edit.
    :param output_uri: directory of records and claims; empty if the task failed before it was known.
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
    sources: list[str] = []
    deepshi_conn_id: str | None = None
    budget_group: str | None = None
    warnings: list[str] = []
    plan: str | None = None
    output_uri: str = ""
    output_conn_id: str | None = None
    manifest_uri: str | None = None

    def parts(self) -> list[ModelCosts]:
        """Return the costs by model, or if there are none, since the store failed, the sums as those of no model."""
        sums = {"cost_usd", "untold", "saved_usd", "unknown_outcomes", "may_have_cost_usd"}
        return self.models or [ModelCosts(model="", **self.model_dump(include=sums))]

    def as_xcom(self) -> dict[str, Any]:
        """Return the sheet as JSON types, below 4 kB: prompts are cut, then surplus images are left out."""
        sheet = self
        while len(json.dumps(value := storable(sheet.model_dump(mode="json")))) > _MOST_BYTES:
            if any(len(image.prompt or "") > _SHORT_PROMPT for image in sheet.images):
                cut = [i.model_copy(update={"prompt": i.prompt and i.prompt[:_SHORT_PROMPT]}) for i in sheet.images]
                sheet = sheet.model_copy(update={"images": cut})
            elif sheet.images:
                sheet = sheet.model_copy(update={"images": sheet.images[:-1]})
            elif len(sheet.models) > 1:
                sheet = sheet.model_copy(update={"models": shortened(sheet.models, len(sheet.models) - 1)})
            elif sheet.warnings:
                sheet = sheet.model_copy(update={"warnings": sheet.warnings[:-1]})
            elif sheet.sources:
                sheet = sheet.model_copy(update={"sources": []})
            elif sheet.metadata is not None:
                sheet = sheet.model_copy(update={"metadata": None})
            else:
                break
        return value


class HasCosts(Protocol):
    """Objects with the sums of a :class:`CostSheet`."""

    @property
    def cost_usd(self) -> Decimal | None:
        """The cost that the API reported."""

    @property
    def untold(self) -> int:
        """Number of paid requests whose cost the API did not report."""

    @property
    def unknown_outcomes(self) -> int:
        """Number of requests that may have been paid for."""

    @property
    def may_have_cost_usd(self) -> Decimal | None:
        """The possible cost of both."""


def cost_text(sums: HasCosts) -> str:
    """Return a sum for a log line or a page: ``$0.039``, or ``at least $0.039, up to about $0.078 (…)``."""
    doubts = [
        f"{count} {what}{'' if count == 1 else 's'}"
        for count, what in ((sums.unknown_outcomes, "unknown outcome"), (sums.untold, "unreported cost"))
        if count
    ]
    if not doubts:
        return "an unknown amount" if sums.cost_usd is None else usd(sums.cost_usd)
    least = sums.cost_usd or Decimal(0)
    if sums.may_have_cost_usd is None:
        return f"at least {usd(least)} ({', '.join(doubts)} of unknown price)"
    return f"at least {usd(least)}, up to about {usd(least + sums.may_have_cost_usd)} ({', '.join(doubts)})"


def shortened(models: Iterable[ModelCosts], most: int = MOST_MODELS) -> list[ModelCosts]:
    """Return the most expensive entries, and the sum of the rest as :data:`OTHERS`."""
    ordered = sorted(models, key=lambda m: (m.model == OTHERS, -(m.cost_usd or Decimal(0)), m.model))
    if len(ordered) <= most:
        return ordered
    return [*ordered[: most - 1], sum_of(OTHERS, ordered[most - 1 :])]


def sum_of(name: str, entries: Iterable[ModelCosts]) -> ModelCosts:
    """Return the sum of entries under a new name."""
    return reduce(add, entries, ModelCosts(model=name)).model_copy(update={"model": name})


def model_name(model: str | None) -> str:
    """Return a model's name for a cost sheet."""
    return (model or UNNAMED)[:_LONGEST_NAME]
