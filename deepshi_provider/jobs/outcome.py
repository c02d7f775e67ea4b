"""How a job ended: what a trigger fires, what a task returns, or why it failed."""

from __future__ import annotations

import functools
import json
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from deepshi_provider.costs.budget_state import WindowState
from deepshi_provider.costs.money import as_number, plain
from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.jobs.plan import Plan
from deepshi_provider.journal.entries import Purchased

#: Longest message of an error in a trigger's event, in characters of JSON.
_LONGEST_MESSAGE = 500
#: Bytes of an event that a plan does not exceed.
_MOST_BYTES = 5000


class Outcome(BaseModel):
    """What all jobs have in common when they have ended.

    :param map_index: of the task instance; -1 if it is not mapped.
    :param key: JSON that names the result for who reads it; likewise ``metadata``.
    :param manifest_uri: of a single request, its manifest; of a batch, JSONL with one line per row.
    :param costs: the task instance's cost sheet, over all its tries.
    :param budget_warnings: of days and months whose limit is nearly spent, as this try was the first to see.
    :param error: :meth:`~deepshi_provider.exceptions.DeepshiError.as_data`, if it failed.
    :param retry: whether another try of the task may help.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    status: Literal["success", "failed"]
    map_index: int = -1
    key: Any = None
    metadata: Any = None
    unknown_outcomes: int = 0
    manifest_uri: str | None = None
    costs: CostSheet | None = None
    budget_warnings: list[WindowState] = []
    error: dict[str, Any] | None = None
    retry: bool = False

    @property
    def task_cost_usd(self) -> Decimal | None:
        """What the task instance has paid over all its tries, as far as the API reported it."""
        return self.costs.cost_usd if self.costs else None

    def as_event(self, storage_conn_id: str | None) -> dict[str, Any]:
        """Return the small event that a trigger fires: JSON types, below 5 kB."""
        shown = self.model_dump(mode="json", exclude={"costs", "prompt"})
        return {**shown, "error": _short(self.error), "costs": self.costs and self.costs.as_xcom()}

    def labels(self) -> dict[str, Any]:
        """Return the fields that distinguish this result from those of other mapped tasks."""
        return {"map_index": self.map_index, "key": self.key, "metadata": self.metadata}


class ImageOutcome(Outcome, Purchased):
    """How a single request ended; after a success it is stored, as the manifest.

    :param prompt: that the images were made by; it does not leave the manifest.
    :param cost_usd: what this try paid; ``None`` if the API reported no cost.
    :param fallback: position in ``fallbacks``, from 0, of the request that served; ``None`` if it is the job's own.
    :param reused: whether the images were stored before, so that nothing was sent.
    """

    kind: Literal["single"] = "single"
    operation: Literal["generate", "edit"] = "generate"
    prompt: str | None = None
    sends: int = 0
    reused: bool = False
    fallback: int | None = None

    def as_event(self, storage_conn_id: str | None) -> dict[str, Any]:
        """Return the event; a result with images is read from the manifest.

        :param storage_conn_id: connection by which the manifest can be read.
        """
        if self.images:
            where = {"manifest_uri": self.manifest_uri, "storage_conn_id": storage_conn_id}
            return {"kind": self.kind, "status": self.status, **where, "error": _short(self.error)}
        return super().as_event(storage_conn_id)

    def as_xcom(self) -> dict[str, Any]:
        """Return the task's ``return_value``: JSON types only, money as a number."""
        numbers = {"cost_usd": as_number(self.cost_usd), "usage": plain(self.usage)}
        images = [image.model_dump() for image in self.images]
        where = {"manifest_uri": self.manifest_uri, "reused": self.reused, "fallback": self.fallback}
        return {**self.purchased(), "images": images, **numbers, **where, **self.labels()}


class BatchOutcome(Outcome):
    """How a batch ended.

    :param rows: how many there were.
    :param created: rows that this task instance bought, in whichever of its tries.
    :param reused: rows whose images others had bought.
    :param skipped: rows that were not started.
    :param unknown_outcomes: attempts that may have been paid for and are not in the cost.
    :param warnings: what is not as it was asked for, of the first such rows; the manifest has all.
    :param plan: what it was about to buy; ``None`` if it did not come that far.
    """

    kind: Literal["batch"] = "batch"
    rows: int
    created: int = 0
    reused: int = 0
    failed: int = 0
    skipped: int = 0
    warnings: list[str] = []
    plan: Plan | None = None

    def as_event(self, storage_conn_id: str | None) -> dict[str, Any]:
        """Return the event; the plan is in it as its XCom is, with as many price classes as fit."""
        event = {**super().as_event(storage_conn_id), "plan": self.plan and self.plan.as_xcom()}
        while self.plan and len(json.dumps(event)) > _MOST_BYTES and event["plan"]["classes"]:
            event["plan"]["classes"].pop()
        return event

    def as_xcom(self) -> dict[str, Any]:
        """Return the task's ``return_value``: JSON types only, money as a number."""
        counts = self.model_dump(include={"rows", "created", "reused", "failed", "skipped", "unknown_outcomes"})
        where = {"cost_usd": as_number(self.task_cost_usd), "manifest_uri": self.manifest_uri}
        return {**counts, **where, "warnings": self.warnings, **self.labels()}


def outcome_of(event: object) -> ImageOutcome | BatchOutcome:
    """Return the outcome that :meth:`Outcome.as_event` made an event of; of a single success only its place.

    :raises ValueError: it is no such event.
    """
    return _any_outcome().validate_python(event)


@functools.cache
def _any_outcome() -> TypeAdapter[ImageOutcome | BatchOutcome]:
    """Built when it is needed: that takes longer than to import the module."""
    return TypeAdapter(Annotated[ImageOutcome | BatchOutcome, Field(discriminator="kind")])


def _short(error: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return an error that fits into an event: events are stored in Airflow's database and written to the log."""
    message = (error or {}).get("message", "")
    while len(json.dumps(message)) > _LONGEST_MESSAGE:
        message = message[: len(message) * 9 // 10]
    return error and {**error, "message": message, "request_id": (error.get("request_id") or "")[:100] or None}
