"""Claims and records as plain data, the names of their objects, and the rules for them.

Each attempt has a number ``k``, which counts the attempts of one request under one name in one directory, from 1. Other
requests under the name do not count: otherwise two processes that see different claims of another request would give
their claims of the same request different names, and both would send.

- A **claim** is written before the k-th attempt and never again: from then on money may have been spent.
- A **record** is written when the outcome of an attempt that cost money is known. It proves the images that it lists.
- A claim without a record is an attempt whose outcome is unknown.
- The claim of an attempt that was certainly free is deleted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, cast, get_args

from pydantic import BaseModel, ConfigDict

from deepshi_provider.costs.money import Usd

#: Name of the images, records and claims of a single request.
IMAGE = "image"
#: Maximum characters of an id that is used unchanged in a path; file systems allow 255 bytes with all endings.
_LONGEST_PART = 120
#: Pydantic would cache 16,384 strings of claims and records, up to 2 MB, although they are all different.
CACHE_STRINGS: Literal["keys"] = "keys"
#: The time in Airflow's run ids, kept readable in paths: ``T03:04:05+00:00`` → ``T03-04-05_00-00``.
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

    @classmethod
    def of(cls, ti: Any) -> Owner:
        """Return the owner for an Airflow task instance."""
        map_index = -1 if ti.map_index is None else ti.map_index
        names = {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id}
        return cls(**names, map_index=map_index, try_number=ti.try_number)

    @property
    def task_key(self) -> str:
        """Key of the task instance, the same for all its tries; short and safe in paths."""
        return short_hash("\x00".join([self.dag_id, self.run_id, self.task_id, str(self.map_index)]))

    @property
    def run_key(self) -> str:
        """Key of the DAG run, short and safe in paths."""
        return short_hash(f"{self.dag_id}\x00{self.run_id}")

    @property
    def attributes(self) -> dict[str, str | int]:
        """Span attributes of the try, with the names that Airflow uses."""
        return {
            "airflow.dag_id": self.dag_id,
            "airflow.task_id": self.task_id,
            "airflow.dag_run.run_id": self.run_id,
            "airflow.task_instance.try_number": self.try_number,
            "airflow.task_instance.map_index": self.map_index,
        }

    def is_same_task(self, other: Owner) -> bool:
        """Whether both are tries of the same task instance."""
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
    """A request that is about to be sent, and its sender.

    :param lease_owner: id of the running process; see :mod:`deepshi_provider.journal.lease`.
    :param heartbeat: number of the process's last heartbeat; later ones list this attempt while it is under way.
    :param price_class: see :func:`deepshi_provider.costs.price_class.price_class`.
    """

    model_config = ConfigDict(frozen=True, defer_build=True, cache_strings=CACHE_STRINGS)

    fingerprint: str
    owner: Owner
    lease_owner: str
    model: str
    price_class: str = ""
    claimed_at: float
    heartbeat: int = 0


#: ``stored``: the images are in place; ``lost``: the answer had no usable image; ``superseded``: another process had
#: stored images of the same request, so these were discarded.
RecordKind = Literal["stored", "lost", "superseded"]
_KINDS = frozenset(get_args(RecordKind))


class Purchased(BaseModel):
    """The result of one request, as stored in its record and returned by its task.

    :param cost_usd: ``None`` if the API did not report it.
    :param sends: number of POSTs, including refused ones.
    :param unknown_outcomes: earlier attempts of the same request that may have been paid for.
    :param warnings: mismatches, such as fewer images than requested; sentences without a full stop.
    """

    model_config = ConfigDict(frozen=True, defer_build=True, cache_strings=CACHE_STRINGS)

    images: list[StoredImage] = []
    model: str | None = None
    size: str | None = None
    created: int | None = None
    cost_usd: Usd | None = None
    usage: dict[str, Any] = {}
    sends: int = 1
    unknown_outcomes: int = 0
    warnings: list[str] = []

    def purchased(self) -> dict[str, Any]:
        """Return the fields of this class, for another model that has them."""
        return {name: getattr(self, name) for name in Purchased.model_fields}


class Record(Purchased):
    """The outcome of an attempt that cost money.

    :param lease_owner: the process that sent the request, as in its claim. On a store that ignores that a claim exists,
        two processes may send it and write two records.
    :param price_class: see :func:`deepshi_provider.costs.price_class.price_class`.
    :param cost_is_complete: whether ``cost_usd`` is the whole cost; ``False`` if the answer was cut off.
    :param one_colour: indices of images that show only one colour.
    :param recorded_at: unix seconds.
    :param request: the fields that were sent, and the input images of an edit; without the prompt if prompts are not
        kept. For people only: no code uses it, and copies in the index lack it.
    """

    kind: RecordKind
    fingerprint: str
    owner: Owner
    lease_owner: str
    price_class: str = ""
    cost_is_complete: bool = True
    one_colour: list[int] = []
    recorded_at: float
    request: dict[str, Any] | None = None


class Attempt(NamedTuple):
    """One attempt under a name, parsed from the names of its objects.

    :param fingerprint: the first 16 hex digits of the request's fingerprint.
    :param claim: name of the claim's object.
    :param record: name of the record's object; ``None`` while the outcome is unknown.
    :param kind: the kind of the record.
    :param task_key: the task key of the record's owner.
    """

    k: int
    fingerprint: str
    claim: str | None = None
    record: str | None = None
    kind: RecordKind | None = None
    task_key: str | None = None


def attempt_key(name: str, k: int, fingerprint: str) -> str:
    """Return the key of an attempt, unique in its directory."""
    return f"{name}.{k}.{fingerprint[:16]}"


def claim_name(name: str, k: int, fingerprint: str) -> str:
    """Return the name of a claim's object; :func:`parse_entry` reads it."""
    return f"{attempt_key(name, k, fingerprint)}.claim.json"


def record_name(name: str, k: int, record: Record) -> str:
    """Return the name of a record's object; :func:`parse_entry` reads it."""
    key = attempt_key(name, k, record.fingerprint)
    return f"{key}.{record.owner.task_key}.{record.lease_owner}.{record.kind}.json"


def slot_name(name: str, owner: Owner) -> str:
    """Return the name of the slot: the object that reserves a name for the first task of a run that uses it."""
    return f"{name}.{owner.run_key}.slot.json"


def parse_entry(entry: str) -> tuple[str, Attempt | None]:
    """Return the name that an object belongs to, and its attempt; ``None`` if it is not a claim or record.

    Claims are ``<name>.<k>.<fingerprint>.claim.json``, records
    ``<name>.<k>.<fingerprint>.<task>.<lease owner>.<kind>.json``.
    """
    stem, _, word = entry.removesuffix(".json").rpartition(".")
    if word == "claim":
        name, *fields = stem.rsplit(".", 2)
        if len(fields) == 2 and fields[0].isdigit():
            return name, Attempt(k=int(fields[0]), fingerprint=fields[1], claim=entry)
    elif word in _KINDS:
        name, *fields = stem.rsplit(".", 4)
        if len(fields) == 4 and fields[0].isdigit():
            k, fingerprint, task_key = int(fields[0]), fields[1], fields[2]
            kind = cast(RecordKind, word)
            return name, Attempt(k=k, fingerprint=fingerprint, record=entry, kind=kind, task_key=task_key)
    return entry, None


def in_order(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Return the attempts under one name, oldest first. A record replaces its claim; two records both count."""
    found = list(attempts)
    settled = {(a.k, a.fingerprint) for a in found if a.record}
    kept = (a for a in found if a.record or (a.k, a.fingerprint) not in settled)
    return sorted(kept, key=lambda a: (a.k, a.fingerprint, a.record or ""))


def attempts_in(name: str, entries: Iterable[str]) -> list[Attempt]:
    """Return the attempts under a name from the names of objects, oldest first."""
    parsed = (parse_entry(entry) for entry in entries if entry.startswith(f"{name}."))
    return in_order(attempt for owner, attempt in parsed if attempt and owner == name)


def next_k(attempts: Iterable[Attempt], fingerprint: str) -> int:
    """Return the number of a request's next attempt."""
    return 1 + max((attempt.k for attempt in attempts if attempt.fingerprint == fingerprint[:16]), default=0)


def since_purchase(attempts: Iterable[Attempt], fingerprint: str) -> list[Attempt]:
    """Return the attempts of a request since its last stored images: those that cost money without an image."""
    same = [a for a in attempts if a.fingerprint == fingerprint[:16]]
    last = max((a.k for a in same if a.kind == "stored"), default=0)
    return [a for a in same if a.k > last]


def may_have_images(attempt: Attempt) -> bool:
    """Return whether an attempt may have stored images; a process may die between an image and its record."""
    return attempt.kind != "lost"


def unsettled(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Return the attempts whose outcome is unknown."""
    return [attempt for attempt in attempts if not attempt.record]


def path_part(text: str) -> str:
    """Return an id as one part of a path; an id that does not fit is shortened and gets a hash."""
    usual = _MOMENT.sub(r"\1-\2-\3_\4-\5", text)
    safe = re.sub(r"[^A-Za-z0-9_.=-]", "_", usual)
    if safe == usual and not safe.endswith(".") and len(safe) <= _LONGEST_PART and not _SHOWN_MOMENT.search(text):
        return safe
    return f"{safe[:_LONGEST_PART]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def short_hash(text: str) -> str:
    """Return 16 hex digits for a text with any characters, for the name of an object."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
