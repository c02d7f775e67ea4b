"""The sendings under one name in a directory: claims and records, and what they mean for the next request."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import BinaryIO, cast, get_args

from pydantic import ValidationError

from deepshi_provider.exceptions import InvalidRequest, StorageFailed
from deepshi_provider.journal.entries import Claim, Owner, Record, RecordKind, Sending, may_have_images, unsettled
from deepshi_provider.journal.lease import Lease, Watch
from deepshi_provider.store.store import STATE, Store

_KINDS = frozenset(get_args(RecordKind))
_CHUNK = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Purchase:
    """A stored record with the number of its sending."""

    k: int
    record: Record


class Ledger:
    """Claims and records of one name in one directory.

    :ivar written: the records that were written through this object, each with its sending.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self.written: list[tuple[Sending, Record]] = []

    async def sendings(self) -> list[Sending]:
        """Return all sendings under this name, oldest first, fresh from the store."""
        return await self._store.scan(
            lambda objects: parse_listing(self._name, (entry for entry, _ in objects)), prefix=f"{self._name}."
        )

    async def claim(self, k: int, claim: Claim) -> bool:
        """Create the k-th claim; return ``False`` if another process was first."""
        name = claim_name(self._name, k, claim.fingerprint)
        return await self._store.create(f"{STATE}/{name}", claim.model_dump_json().encode())

    def claim_uri(self, sending: Sending) -> str:
        """Return the URI of a sending's claim, to tell the user."""
        return self._store.uri_of(f"{STATE}/{sending.claim}")

    async def withdraw(self, k: int, fingerprint: str) -> None:
        """Remove a claim whose sending was surely free."""
        name = f"{STATE}/{claim_name(self._name, k, fingerprint)}"
        await self._store.patiently(lambda: self._store.remove(name))

    async def record(self, k: int, record: Record) -> None:
        """Write what became of the k-th sending."""
        name = record_name(self._name, k, record)
        data = record.model_dump_json().encode()
        await self._store.patiently(lambda: self._store.write(f"{STATE}/{name}", data))
        self.written.append((parse_entry(name)[1] or Sending(k=k, fingerprint=record.fingerprint[:16]), record))

    async def take_slot(self, owner: Owner, fingerprint: str) -> None:
        """Make sure that no other task of this run puts images of another request under this name.

        :raises InvalidRequest: one does; both would pay, and one image would be lost.
        :raises StorageFailed: the slot cannot be read.
        """
        name = f"{STATE}/{self._name}.{owner.run_key}.slot.json"
        own = {"task_id": owner.task_id, "map_index": owner.map_index, "fingerprint": fingerprint}
        if await self._store.create(name, json.dumps(own).encode()):
            return
        try:
            first = json.loads(await self._store.read(name) or b"")
            is_same_task = (first["task_id"], first["map_index"]) == (owner.task_id, owner.map_index)
            if is_same_task or first["fingerprint"] == fingerprint:
                return
            taken_by = first["task_id"] + (f"[{first['map_index']}]" if first["map_index"] >= 0 else "")
        except (ValueError, TypeError, KeyError):
            raise StorageFailed(f"{self._store.uri_of(name)} cannot be read; delete it and clear the task") from None
        raise InvalidRequest(
            f"Not sent: task {taken_by} of this run has the same output directory, {self._store.uri}, for another "
            "request. Give each task its own output_uri, with {{ ti.map_index }} in it for a mapped task "
            f"({self._store.uri_of(name)} says who was first)"
        )

    async def purchases(self, sendings: Iterable[Sending], fingerprint: str) -> AsyncIterator[Purchase]:
        """Yield the records of stored images for a request, newest first; whether they are still there is not asked."""
        stored = [s for s in sendings if s.kind == "stored" and s.fingerprint == fingerprint[:16]]
        for sending in reversed(stored):
            record = await self.read_record(sending)
            if record.fingerprint == fingerprint:
                yield Purchase(k=sending.k, record=record)

    async def is_intact(self, purchase: Purchase, sendings: Iterable[Sending]) -> bool:
        """Return whether the images of a purchase are still in place.

        Their lengths are compared. Their contents too, if another attempt under the same name may have put images there
        that happen to be as long, whatever its number: who is first to claim may be last to store.
        """
        own = record_name(self._name, purchase.k, purchase.record)
        others = any(may_have_images(sending) for sending in sendings if sending.record != own)
        for image in purchase.record.images:
            name = image.uri.rpartition("/")[2]
            if await self._store.size(name) != image.size_bytes:
                return False
            if others and await self._store.process(name, _sha256) != image.sha256:
                return False
        return True

    async def live_claim(self, sendings: Iterable[Sending], watch: Watch, lease: Lease) -> Sending | None:
        """Return one of the sendings whose answer may still come, to another process or elsewhere in this one."""
        for sending in unsettled(sendings):
            asked_at = time.monotonic()
            data = await self._store.read(f"{STATE}/{sending.claim}")
            if data is None:
                continue
            attempt = f"{self._name}.{sending.k}"
            try:
                claim = Claim.model_validate_json(data)
            except ValidationError:  # being written at this moment, or cut short by a crash
                alive = watch.is_fresh(str(sending.claim), data, asked_at)
            else:
                is_own = claim.holder == lease.holder
                alive = attempt in lease.attempts if is_own else await watch.is_at(claim, attempt)
            if alive:
                return sending
        return None

    async def read_record(self, sending: Sending) -> Record:
        """Return the record of a sending that has one.

        :raises StorageFailed: it cannot be read; that is never taken for "there is none".
        """
        data = await self._store.read(f"{STATE}/{sending.record}")
        try:
            return located(Record.model_validate_json(data or b""), self._store)
        except ValidationError as err:
            uri = self._store.uri_of(f"{STATE}/{sending.record}")
            raise StorageFailed(f"The record {uri} cannot be read; restore or delete it") from err


def located(record: Record, store: Store) -> Record:
    """Return a record with the images' URIs in the directory where it was found: directories are moved and copied."""
    images = [i.model_copy(update={"uri": store.uri_of(i.uri.rpartition("/")[2])}) for i in record.images]
    return record.model_copy(update={"images": images})


def claim_name(name: str, k: int, fingerprint: str) -> str:
    """Return the name of a claim's object; :func:`parse_entry` reads it."""
    return f"{name}.{k}.{fingerprint[:16]}.claim.json"


def record_name(name: str, k: int, record: Record) -> str:
    """Return the name of a record's object; :func:`parse_entry` reads it."""
    return f"{name}.{k}.{record.fingerprint[:16]}.{record.owner.task_key}.{record.holder}.{record.kind}.json"


def parse_entry(entry: str) -> tuple[str, Sending | None]:
    """Return the name that a state object belongs to, and what it says of a sending, if it is about one.

    Claims are ``<name>.<k>.<fingerprint>.claim.json``, records
    ``<name>.<k>.<fingerprint>.<task>.<holder>.<kind>.json``.
    """
    stem, _, word = entry.removesuffix(".json").rpartition(".")
    if word == "claim":
        name, *fields = stem.rsplit(".", 2)
        if len(fields) == 2 and fields[0].isdigit():
            return name, Sending(k=int(fields[0]), fingerprint=fields[1], claim=entry)
    elif word in _KINDS:
        name, *fields = stem.rsplit(".", 4)
        if len(fields) == 4 and fields[0].isdigit():
            k, fingerprint, task_key = int(fields[0]), fields[1], fields[2]
            kind = cast(RecordKind, word)
            return name, Sending(k=k, fingerprint=fingerprint, record=entry, kind=kind, task_key=task_key)
    return entry, None


def merge(sendings: Iterable[Sending]) -> list[Sending]:
    """Return the sendings, oldest first: what has a record needs no claim, and of two records both count."""
    found = list(sendings)
    settled = {(s.k, s.fingerprint) for s in found if s.record}
    kept = (s for s in found if s.record or (s.k, s.fingerprint) not in settled)
    return sorted(kept, key=lambda s: (s.k, s.fingerprint, s.record or ""))


def parse_listing(name: str, listing: Iterable[str]) -> list[Sending]:
    """Return the sendings under a name from the names in a listing, oldest first."""
    parsed = (parse_entry(entry) for entry in listing if entry.startswith(f"{name}."))
    return merge(sending for owner, sending in parsed if sending and owner == name)


def new_claim(
    fingerprint: str, owner: Owner, holder: str, model: str, heartbeat: int = 0, price_class: str = ""
) -> Claim:
    """Return a claim for now."""
    return Claim(
        fingerprint=fingerprint,
        owner=owner,
        holder=holder,
        model=model,
        price_class=price_class,
        claimed_at=time.time(),
        heartbeat=heartbeat,
    )


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
