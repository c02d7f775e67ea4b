"""Outcomes of jobs: the event that a trigger yields, the task's result, or the error."""

from __future__ import annotations

import functools
import json
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from deepshi_provider.api.texts import storable
from deepshi_provider.costs.budget_state import WindowState
from deepshi_provider.costs.money import as_number, plain
from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.jobs.plan import Plan
from deepshi_provider.journal.entries import Purchased

#: Maximum characters of JSON for an error's message in a trigger's event.
_LONGEST_MESSAGE = 500
#: Maximum bytes of an event with a plan; the trigger adds the job's URI.
_MOST_BYTES = 4500


class Outcome(BaseModel):
    """Fields that the outcomes of all jobs have.

    :param map_index: of the task instance; -1 if it is not mapped.
    :param key: JSON that identifies the result for its readers; likewise ``metadata``.
    :param manifest_uri: URI of the manifest: a JSON document for a single request, a file with a line per row for a
        batch.
    :param costs: the task instance's cost sheet, over all its tries.
    :param budget_warnings: budgets per day and month that this try was the first to find nearly spent.
    :param error: :meth:`~deepshi_provider.exceptions.DeepshiError.as_data`, if the job failed.
    :param retry: whether another try of the task may succeed.
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
    def image_count(self) -> int:
        """Number of images; for a batch, of rows that have images."""
        raise NotImplementedError

    @property
    def task_cost_usd(self) -> Decimal | None:
        """The cost of the task instance over all its tries, as far as the API reported it."""
        return self.costs.cost_usd if self.costs else None

    def as_event(self, storage_conn_id: str | None) -> dict[str, Any]:
        """Return the trigger's event: JSON types, below 5 kB."""
        shown = self.model_dump(mode="json", exclude={"costs", "prompt"})
        return {**shown, "error": _short(self.error), "costs": self.costs and self.costs.as_xcom()}

    def labels(self) -> dict[str, Any]:
        """Return the fields that distinguish this result from those of other mapped tasks."""
        return {"map_index": self.map_index, "key": self.key, "metadata": self.metadata}


class ImageOutcome(Outcome, Purchased):
    """The outcome of a single request; after a success it is stored as the manifest.

    :param prompt: the prompt of the images; only in the manifest.
    :param cost_usd: the cost of this try; ``None`` if the API reported none.
    :param fallback: position in ``fallbacks``, from 0, of the request that succeeded; ``None`` if it is the job's own.
    :param reused: whether the images were already stored, so that nothing was sent.
    """

    kind: Literal["single"] = "single"
    operation: Literal["generate", "edit"] = "generate"
    prompt: str | None = None
    sends: int = 0
    reused: bool = False
    fallback: int | None = None

    @property
    def image_count(self) -> int:
        """Number of images."""
        return len(self.images)

    def as_event(self, storage_conn_id: str | None) -> dict[str, Any]:
        """Return the event; after a success it has the manifest's URI instead of the result.

        :param storage_conn_id: connection of the manifest's store.
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
        return storable({**self.purchased(), "images": images, **numbers, **where, **self.labels()})


class BatchOutcome(Outcome):
    """The outcome of a batch.

    :param rows: number of all rows.
    :param created: rows that this task instance bought, in any of its tries.
    :param reused: rows whose images other task instances had bought.
    :param skipped: rows that were not started.
    :param unknown_outcomes: attempts that may have been paid for and are not in the cost.
    :param warnings: mismatches of the first rows that have any; the manifest lists all.
    :param plan: what the batch was about to buy; ``None`` if it ended before the plan was made.
    """

    kind: Literal["batch"] = "batch"
    rows: int
    created: int = 0
    reused: int = 0
    failed: int = 0
    skipped: int = 0
    warnings: list[str] = []
    plan: Plan | None = None

    @property
    def image_count(self) -> int:
        """Number of rows that have images."""
        return self.created + self.reused

    def made_plan(self) -> Plan:
        """Return the plan.

        :raises DeepshiError: it could not be made.
        """
        if self.error or self.plan is None:
            raise DeepshiError.from_data(self.error or {"message": "The plan could not be made"})
        return self.plan

    def as_event(self, storage_conn_id: str | None) -> dict[str, Any]:
        """Return the event; it holds the plan as its XCom does, with as many price classes as fit."""
        event = {**super().as_event(storage_conn_id), "plan": self.plan and self.plan.as_xcom()}
        while self.plan and len(json.dumps(event)) > _MOST_BYTES and event["plan"]["classes"]:
            event["plan"]["classes"].pop()
        return event

    def as_xcom(self) -> dict[str, Any]:
        """Return the task's ``return_value``: JSON types only, money as a number."""
        counts = self.model_dump(include={"rows", "created", "reused", "failed", "skipped", "unknown_outcomes"})
        where = {"cost_usd": as_number(self.task_cost_usd), "manifest_uri": self.manifest_uri}
        return storable({**counts, **where, "warnings": self.warnings, **self.labels()})


def failure(err: DeepshiError) -> dict[str, Any]:
    """Return the fields of the outcome of a job that failed before anything was sent."""
    return {"status": "failed", "error": err.as_data(), "retry": err.retryable}


def outcome_of(event: object) -> ImageOutcome | BatchOutcome:
    """Return the outcome in an event of :meth:`Outcome.as_event`; for a single success, only its manifest's URI.

    :raises ValueError: the event is not one of :meth:`Outcome.as_event`.
    """
    return _any_outcome().validate_python(event)


@functools.cache
def _any_outcome() -> TypeAdapter[ImageOutcome | BatchOutcome]:
    """Return the type adapter; built on first use, since that takes longer than importing the module."""
    return TypeAdapter(Annotated[ImageOutcome | BatchOutcome, Field(discriminator="kind")])


def _short(error: dict[str, Any] | None) -> dict[str, Any] | None:
    """Shorten an error for an event, which is stored in Airflow's database and logged."""
    message = (error or {}).get("message", "")
    while len(json.dumps(message)) > _LONGEST_MESSAGE:
        message = message[: len(message) * 9 // 10]
    return error and {**error, "message": message, "request_id": (error.get("request_id") or "")[:100] or None}
