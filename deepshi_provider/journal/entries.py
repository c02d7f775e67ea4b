"""What was made and what it cost: records, claims and manifests, as plain data, and the rules between them.

Every sending of a request has a number ``k`` that counts the sendings under one name in one directory, from 1.

- A **claim** is written before the k-th sending and never again: from then on money may have been spent.
- A **record** is written when it is known what became of a sending that cost money. It proves the images it lists.
- A claim without a record is a sending whose outcome is unknown.
- A sending that was surely free takes its claim with it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from deepshi_provider.costs.sheet import UNNAMED, CostSheet, Doubt, Usd

#: What the images, records and claims of a single request are called.
IMAGE = "image"
#: Longest message of an error in a trigger's event, in characters of JSON.
_LONGEST_MESSAGE = 500
#: Longest id, in characters, that becomes a part of a path as it is; file systems take 255 bytes with all endings.
_LONGEST_PART = 120
#: Pydantic would keep 16,384 texts of thousands of claims and records, which are all different: up to 2 MB.
CACHE_STRINGS: Literal["keys"] = "keys"
#: The time in Airflow's own run ids, which stays readable in paths: ``T03:04:05+00:00`` → ``T03-04-05_00-00``.
_MOMENT = re.compile(r"(T\d\d):(\d\d):(\d\d(?:\.\d+)?)\+(\d\d):(\d\d)", re.ASCII)
_SHOWN_MOMENT = re.compile(r"T\d\d-\d\d-\d\d(\.\d+)?_\d\d-\d\d", re.ASCII)


class Owner(BaseModel):
    """A try of a task instance."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    try_number: int = 1

    @property
    def task_key(self) -> str:
        """Name of the task instance over all its tries, short and safe in paths."""
        return _digest(self.dag_id, self.run_id, self.task_id, str(self.map_index))

    @property
    def run_key(self) -> str:
        """Name of the DAG run, short and safe in paths."""
        return _digest(self.dag_id, self.run_id)

    def is_same_task(self, other: Owner) -> bool:
        """Whether both are tries of one task instance."""
        return self.model_copy(update={"try_number": other.try_number}) == other


class StoredImage(BaseModel):
    """One image in object storage.

    :param uri: without any connection id.
    :param width: pixels.
    :param height: pixels.
    :param sha256: of its bytes, in hex.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    uri: str
    index: int
    media_type: str
    width: int
    height: int
    size_bytes: int
    sha256: str
    revised_prompt: str | None = None


class Claim(BaseModel):
    """That a request is about to be sent, and by whom.

    :param holder: names the running process; see :mod:`deepshi_provider.journal.lease`.
    :param heartbeat: number of the process's last heartbeat; later ones list the attempts that it is at.
    :param price_class: what sets its price; see :func:`deepshi_provider.batch.budget.price_class`.
    """

    model_config = ConfigDict(frozen=True, defer_build=True, cache_strings=CACHE_STRINGS)

    fingerprint: str
    owner: Owner
    holder: str
    model: str
    price_class: str = ""
    claimed_at: float
    heartbeat: int = 0


#: ``stored``: the images are in place; ``lost``: the answer held no usable image; ``superseded``: another process had
#: taken over, so these images were thrown away.
RecordKind = Literal["stored", "lost", "superseded"]


class Record(BaseModel):
    """What became of a sending that cost money.

    :param holder: the process that sent, as in its claim; two that both did, on a store that ignores that a claim
        exists, leave two records.
    :param price_class: what set its price; see :func:`deepshi_provider.batch.budget.price_class`.
    :param cost_usd: ``None`` if the API did not report it.
    :param cost_is_complete: whether nothing beyond ``cost_usd`` can have been taken; not so if the answer broke off.
    :param sends: POSTs of this sending, refused ones included.
    :param unknown_outcomes: earlier sendings of the same request that may have been paid for.
    :param warnings: what is not as it was asked for, such as fewer images; sentences without a full stop.
    """

    model_config = ConfigDict(frozen=True, defer_build=True, cache_strings=CACHE_STRINGS)

    kind: RecordKind
    fingerprint: str
    owner: Owner
    holder: str
    images: list[StoredImage] = []
    model: str | None = None
    price_class: str = ""
    size: str | None = None
    created: int | None = None
    usage: dict[str, Any] = {}
    cost_usd: Usd | None = None
    cost_is_complete: bool = True
    sends: int = 1
    unknown_outcomes: int = 0
    warnings: list[str] = []
    recorded_at: float

    @property
    def is_cost_known(self) -> bool:
        """Whether ``cost_usd`` is all that was paid; otherwise it is at least that."""
        return self.cost_usd is not None and self.cost_is_complete

    @property
    def doubt(self) -> Doubt:
        """What is in doubt if not."""
        return Doubt(self.model or UNNAMED, self.fingerprint, self.price_class, self.cost_usd or Decimal(0))


class Manifest(BaseModel):
    """How a job ended: what a task returns, or why it failed.

    :param key: JSON that names the result for who reads it; likewise ``metadata``.
    :param cost_usd: what this try paid; ``None`` if the API told no cost.
    :param warnings: what is not as it was asked for, such as fewer images; sentences without a full stop.
    :param task_cost_usd: what the task instance has paid over all its tries, as far as the API told.
    :param costs: the task instance's cost sheet, which XCom gets by itself.
    :param error: :meth:`~deepshi_provider.exceptions.DeepshiError.as_data`, if it failed.
    :param retry: whether another try of the task may help.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    status: Literal["success", "failed"]
    operation: Literal["generate", "edit"] = "generate"
    owner: Owner
    key: Any = None
    metadata: Any = None
    images: list[StoredImage] = []
    model: str | None = None
    size: str | None = None
    created: int | None = None
    cost_usd: Usd | None = None
    usage: dict[str, Any] = {}
    sends: int = 0
    unknown_outcomes: int = 0
    reused: bool = False
    warnings: list[str] = []
    manifest_uri: str
    task_cost_usd: Usd | None = None
    costs: CostSheet | None = None
    error: dict[str, Any] | None = None
    retry: bool = False

    def as_event(self, storage_conn_id: str | None) -> dict[str, Any]:
        """Return the small event that a trigger fires; a success is read from the manifest's object."""
        if self.status == "success":
            where = {"manifest_uri": self.manifest_uri, "storage_conn_id": storage_conn_id}
            return {"kind": "single", "status": "success", **where}
        fields = {"status", "operation", "model", "sends", "unknown_outcomes", "task_cost_usd", "retry"}
        shown = self.model_dump(mode="json", include={*fields, "key", "metadata"})
        return {"kind": "single", **shown, "error": _short(self.error), "costs": self.costs and self.costs.as_xcom()}

    def as_xcom(self) -> dict[str, Any]:
        """Return the task's ``return_value``: JSON types only, money as a number."""
        value = self.model_dump(exclude={"status", "operation", "owner", "task_cost_usd", "costs", "error", "retry"})
        return {**value, "cost_usd": as_number(self.cost_usd), "usage": plain(self.usage), **self.labels()}

    def labels(self) -> dict[str, Any]:
        """Return what tells this result from those of other mapped tasks."""
        return {"map_index": self.owner.map_index, "key": self.key, "metadata": self.metadata}


class Summary(BaseModel):
    """How a batch ended.

    :param map_index: of the task instance; -1 if it is not mapped.
    :param key: JSON that names the result for who reads it; likewise ``metadata``.
    :param rows: how many there were.
    :param created: rows that this task instance bought, in whichever of its tries.
    :param reused: rows whose images others had bought.
    :param skipped: rows that were not started.
    :param task_cost_usd: what the task instance has paid over all its tries, as far as the API told.
    :param unknown_outcomes: sendings that may have been paid for and are not in that sum.
    :param manifest_uri: JSONL, one line per row.
    :param costs: the task instance's cost sheet, which XCom gets by itself.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    status: Literal["success", "failed"]
    map_index: int = -1
    key: Any = None
    metadata: Any = None
    rows: int
    created: int = 0
    reused: int = 0
    failed: int = 0
    skipped: int = 0
    unknown_outcomes: int = 0
    manifest_uri: str | None = None
    task_cost_usd: Usd | None = None
    costs: CostSheet | None = None
    error: dict[str, Any] | None = None
    retry: bool = False

    def as_event(self, storage_conn_id: str | None) -> dict[str, Any]:
        """Return the small event that a trigger fires."""
        shown = self.model_dump(mode="json", exclude={"costs"})
        return {"kind": "batch", **shown, "error": _short(self.error), "costs": self.costs and self.costs.as_xcom()}

    def as_xcom(self) -> dict[str, Any]:
        """Return the task's ``return_value``: JSON types only, money as a number."""
        counts = self.model_dump(include={"rows", "created", "reused", "failed", "skipped", "unknown_outcomes"})
        where = {"cost_usd": as_number(self.task_cost_usd), "manifest_uri": self.manifest_uri}
        return {**counts, **where, **self.labels()}

    def labels(self) -> dict[str, Any]:
        """Return what tells this result from those of other mapped tasks."""
        return {"map_index": self.map_index, "key": self.key, "metadata": self.metadata}


@dataclass(frozen=True, kw_only=True)
class Sending:
    """One sending under a name, as a listing of its directory shows it.

    :param fingerprint: its first 16 hex digits.
    :param claim: name of the claim's object.
    :param record: name of the record's object; ``None`` while the outcome is unknown.
    :param kind: of the record.
    :param task_key: of the record's owner.
    """

    k: int
    fingerprint: str
    claim: str | None = None
    record: str | None = None
    kind: RecordKind | None = None
    task_key: str | None = None


def next_k(sendings: Iterable[Sending]) -> int:
    """Return the number of the next sending."""
    return 1 + max((sending.k for sending in sendings), default=0)


def since_purchase(sendings: Iterable[Sending], fingerprint: str) -> list[Sending]:
    """Return the sendings of a request after the last one whose images were stored: money without an image."""
    same = [s for s in sendings if s.fingerprint == fingerprint[:16]]
    last = max((s.k for s in same if s.kind == "stored"), default=0)
    return [s for s in same if s.k > last]


def may_have_images(sending: Sending) -> bool:
    """Return whether a sending may have put images in place; a process may die between an image and its record."""
    return sending.kind != "lost"


def unsettled(sendings: Iterable[Sending]) -> list[Sending]:
    """Return the sendings whose outcome is unknown."""
    return [sending for sending in sendings if not sending.record]


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


def path_part(text: str) -> str:
    """Return an id as one part of a path; ids that do not fit keep apart from each other by a hash."""
    usual = _MOMENT.sub(r"\1-\2-\3_\4-\5", text)
    safe = re.sub(r"[^A-Za-z0-9_.=-]", "_", usual)
    if safe == usual and not safe.endswith(".") and len(safe) <= _LONGEST_PART and not _SHOWN_MOMENT.search(text):
        return safe
    return f"{safe[:_LONGEST_PART]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _short(error: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return an error that fits into an event: events are stored in Airflow's database and written to the log."""
    message = (error or {}).get("message", "")
    while len(json.dumps(message)) > _LONGEST_MESSAGE:
        message = message[: len(message) * 9 // 10]
    return error and {**error, "message": message, "request_id": (error.get("request_id") or "")[:100] or None}


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:16]
