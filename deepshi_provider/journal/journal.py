"""The journal of a directory: attempts, their outcomes and their costs.

Claims and records are small objects in ``_deepshi/``, next to the images. Object stores cannot append, so these objects
*are* the journal.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from decimal import Decimal
from itertools import islice
from types import TracebackType
from typing import NamedTuple

from pydantic import ValidationError
from typing_extensions import Self

from deepshi_provider.costs.money import paid
from deepshi_provider.costs.price_class import PriceRange
from deepshi_provider.costs.tally import Tally
from deepshi_provider.exceptions import InvalidRequest, StorageFailed
from deepshi_provider.journal.entries import (
    Attempt,
    Claim,
    Owner,
    Record,
    StoredImage,
    attempt_key,
    attempts_in,
    claim_name,
    may_have_images,
    parse_entry,
    record_name,
    slot_name,
    unsettled,
)
from deepshi_provider.journal.lease import Lease, Watch, is_lease, lease_name
from deepshi_provider.journal.snapshot import NameSnapshot, Records, Snapshot
from deepshi_provider.store.hashes import sha256_of
from deepshi_provider.store.store import SETTLING, STATE, CreatedLate, Store

log = logging.getLogger(__name__)

#: Number of objects read concurrently.
AT_ONCE = 64


class Purchase(NamedTuple):
    """A stored record with the number of its attempt."""

    k: int
    record: Record


class Journal:
    """Claims and records under one name in a directory.

    It holds the last listing, and everything that this process has done since, even if the store failed to store it.

    :param name: listings are limited to objects under this name; see
        :class:`~deepshi_provider.journal.directory.DirectoryJournal` for a whole directory.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._only = name
        self._snapshot = self._new_snapshot()
        self._records: dict[str, Record] | Records = {}
        #: Claims of attempts without a record, if made or read here; ``None`` if a claim is unreadable.
        self._claims: dict[str, Claim | None] = {}
        #: Records that could not be stored, with their costs.
        self._unwritten: dict[str, Record] = {}
        #: Changes by this process since the start of a listing that is still running: entry, and whether it exists.
        self._news: list[tuple[str, bool]] | None = None
        self._listing = asyncio.Lock()
        self._is_listed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget everything."""
        self._snapshot.close()

    # ------------------------------------------------------------------ reading

    @property
    def is_listed(self) -> bool:
        """Whether the directory was ever listed; if not, only this process's own attempts are known."""
        return self._is_listed

    async def refresh(self) -> None:
        """List the directory again.

        :raises StorageFailed: the directory cannot be listed.
        """
        async with self._listing:
            await self._refresh()

    async def list_attempts(self, name: str) -> list[Attempt]:
        """Return the attempts under a name, oldest first, fresh from the store."""
        found = await self._store.scan(
            lambda objects: attempts_in(name, (entry for entry, _ in objects)), prefix=f"{name}."
        )
        self._is_listed = True
        self._snapshot.forget(name)
        for entry in (*(str(a.record or a.claim) for a in found), *self._unwritten):
            self._note(entry)
        return self._snapshot.attempts(name)

    def attempts(self, name: str) -> list[Attempt]:
        """Return the known attempts under a name, oldest first; does not read the store."""
        return self._snapshot.attempts(name)

    async def record_of(self, attempt: Attempt) -> Record:
        """Return the record of an attempt that has one.

        :raises StorageFailed: the record cannot be read; it is never taken as missing.
        """
        known = self._records.get(str(attempt.record))
        if known is not None:
            return self._located(known)
        record = await _read_record(self._store, str(attempt.record))
        self._keep(str(attempt.record), record)
        return self._located(record)

    def known_record(self, attempt: Attempt) -> Record | None:
        """Return the record of an attempt if it was already read; does not read the store."""
        known = self._records.get(str(attempt.record))
        return None if known is None else self._located(known)

    async def purchases(self, attempts: Iterable[Attempt], fingerprint: str) -> AsyncIterator[Purchase]:
        """Yield the records of stored images for a request, newest first; does not check that they still exist."""
        stored = [a for a in attempts if a.kind == "stored" and a.fingerprint == fingerprint[:16]]
        for attempt in reversed(stored):
            record = await self.record_of(attempt)
            if record.fingerprint == fingerprint:
                yield Purchase(k=attempt.k, record=record)

    async def is_intact(self, name: str, purchase: Purchase, attempts: Iterable[Attempt]) -> bool:
        """Return whether the images of a purchase are still in place.

        Compares their lengths, and also their contents if another attempt under the same name may have stored images of
        the same length. Its number does not matter: the first to claim may be the last to store.
        """
        own = record_name(name, purchase.k, purchase.record)
        others = any(may_have_images(attempt) for attempt in attempts if attempt.record != own)
        return await self.are_intact(purchase.record.images, compare=others)

    async def are_intact(self, images: Iterable[StoredImage], *, compare: bool) -> bool:
        """Return whether images are in place with their lengths.

        :param compare: whether to compare their contents too.
        """
        for image in images:
            file = image.uri.rpartition("/")[2]
            if await self._store.size(file) != image.size_bytes:
                return False
            if compare and await self._store.process(file, sha256_of) != image.sha256:
                return False
        return True

    async def live_claim(
        self, name: str, attempts: Iterable[Attempt], watch: Watch, lease: Lease, seen: dict[str, bytes | None]
    ) -> Attempt | None:
        """Return one of the attempts whose answer may still arrive, in another process or elsewhere in this one.

        :param seen: filled with the claims that were read, for :meth:`are_unchanged`.
        """
        for attempt in unsettled(attempts):
            asked_at = time.monotonic()
            data = seen[str(attempt.claim)] = await self._store.read(f"{STATE}/{attempt.claim}")
            if data is None:
                continue
            key = attempt_key(name, attempt.k, attempt.fingerprint)
            try:
                claim = Claim.model_validate_json(data)
            except ValidationError:  # being written at this moment, or truncated by a crash
                alive = watch.is_fresh(str(attempt.claim), data, asked_at)
            else:
                is_own = claim.lease_owner == lease.owner
                alive = key in lease.attempts if is_own else await watch.is_at(claim, key)
            if alive:
                return attempt
        return None

    async def are_unchanged(self, seen: dict[str, bytes | None]) -> bool:
        """Return whether claims are those that were read; no two have the same bytes."""
        return all([await self._store.read(f"{STATE}/{entry}") == data for entry, data in seen.items()])

    def claim_uri(self, attempt: Attempt) -> str:
        """Return the URI of an attempt's claim."""
        return self._store.uri_of(f"{STATE}/{attempt.claim}")

    # ------------------------------------------------------------------ writing

    async def claim(self, name: str, k: int, claim: Claim) -> bool:
        """Create the k-th claim under a name; return ``False`` if another process was first.

        :raises CreatedLate: another process may have been first, and this claim may have replaced its own.
        """
        entry = claim_name(name, k, claim.fingerprint)
        try:
            is_ours = await self._store.create(f"{STATE}/{entry}", claim.model_dump_json().encode())
        except CreatedLate as err:
            # A process has its lease before it looks for a claim. Without another lease, there is nobody to wait for.
            if await self._store.scan(functools.partial(_has_other_lease, claim.lease_owner)):
                raise
            # It may have been there and have ended: not within the time that it had to wait itself, though.
            listed = await self.list_attempts(name)
            is_settled = any(a.record and (a.k, a.fingerprint) == (k, claim.fingerprint[:16]) for a in listed)
            is_ours = err.took <= SETTLING and not is_settled
        if is_ours:
            self._claims[entry] = claim
            self._note(entry)
        return is_ours

    async def withdraw(self, name: str, k: int, fingerprint: str, lease: Lease) -> None:
        """Delete the claim of an attempt under way that was certainly free.

        If this process was paused during the attempt, the claim remains, and counts as one with unknown outcome.
        Another process may have counted it and given its own attempt the next number. A third one that finds no claim
        would start with the first number again, and both would send.

        :param lease: this process's lease, which lists the attempt.
        :raises StorageFailed: the claim remains likewise.
        """
        entry = claim_name(name, k, fingerprint)
        path, claim, is_repeated, is_kept = f"{STATE}/{entry}", self._claims.get(entry), False, False
        begun = lease.attempts[attempt_key(name, k, fingerprint)]

        async def remove() -> None:
            nonlocal is_repeated, is_kept
            if is_kept := lease.lapsed_since(begun):
                return
            if is_repeated and claim and await self._store.read(path) != claim.model_dump_json().encode():
                return  # it is deleted, and another process may have made its own
            is_repeated = True
            await self._store.remove(path)

        await self._store.patiently(remove)
        if is_kept:
            log.warning("A free attempt keeps its claim, since this process was paused: %s", self._store.uri_of(path))
            return
        self._claims.pop(entry, None)
        self._note(entry, exists=False)

    async def settle(self, name: str, k: int, record: Record) -> None:
        """Write the record of the k-th attempt under a name.

        :raises StorageFailed: the record could not be stored; see :meth:`keep`.
        """
        entry = record_name(name, k, record)
        data = record.model_dump_json().encode()
        await self._store.patiently(lambda: self._store.write(f"{STATE}/{entry}", data))
        self._claims.pop(claim_name(name, k, record.fingerprint), None)
        self._keep(entry, record)
        self._note(entry)

    def keep(self, name: str, k: int, record: Record) -> None:
        """Keep a record that could not be stored, so that this process still counts its cost."""
        entry = record_name(name, k, record)
        self._unwritten[entry] = record
        self._note(entry)

    async def take_slot(self, name: str, owner: Owner, fingerprint: str) -> None:
        """Check that no other task of this run stores images of another request under this name.

        :raises InvalidRequest: another task does; both would pay, and one image would be lost.
        :raises StorageFailed: the slot cannot be read.
        """
        slot = f"{STATE}/{slot_name(name, owner)}"
        own = {"task_id": owner.task_id, "map_index": owner.map_index, "fingerprint": fingerprint}
        try:
            if await self._store.create(slot, json.dumps(own).encode()):
                return
        except CreatedLate as err:
            raise StorageFailed(f"Not sent: {err}") from None
        try:
            first = json.loads(await self._store.read(slot) or b"")
            is_same_task = (first["task_id"], first["map_index"]) == (owner.task_id, owner.map_index)
            if is_same_task or first["fingerprint"] == fingerprint:
                return
            taken_by = first["task_id"] + (f"[{first['map_index']}]" if first["map_index"] >= 0 else "")
        except (ValueError, TypeError, KeyError):
            raise StorageFailed(f"{self._store.uri_of(slot)} cannot be read; delete it and clear the task") from None
        raise InvalidRequest(
            f"Not sent: task {taken_by} of this run uses the same output directory, {self._store.uri}, for another "
            "request. Give each task its own output_uri, with {{ ti.map_index }} in it for a mapped task "
            f"({self._store.uri_of(slot)} shows which task was first)"
        )

    # ------------------------------------------------------------------ costs

    async def tally(self, owner: Owner) -> Tally:
        """Add up what a task instance has paid, and may have paid, over all its tries, as of the last listing.

        :raises StorageFailed: a claim or a record cannot be read.
        """
        return await self.tally_of(owner, self._only)

    async def tally_of(self, owner: Owner, name: str) -> Tally:
        """Return the costs and possible costs of a task instance under one name, over all its tries."""
        attempts = self._snapshot.attempts(name)
        await self._read_claims(iter(unsettled(attempts)))
        own = (a for a in attempts if a.record and a.task_key == owner.task_key)
        await asyncio.gather(*(self.record_of(a) for a in own if not self._knows(a)))
        return self._known_tally(owner, attempts)

    def known_tally(self, owner: Owner, since: float = 0.0) -> Tally:
        """Return the known costs and possible costs of a task instance; does not read the store.

        :param since: leave out attempts that were recorded, or claimed if they have no record, before; unix seconds.
        """
        return self._known_tally(owner, since=since)

    def costs_of(self, owner: Owner, name: str) -> list[Decimal | None]:
        """Return the known cost of each attempt of a task instance under a name, in USD."""
        known = [self._known(a) for a in self._snapshot.attempts(name) if a.task_key == owner.task_key]
        return [paid(record) for record in known if record and record.owner.is_same_task(owner)]

    def known_tally_of(self, owner: Owner, name: str, since: float = 0.0) -> Tally:
        """Return the known costs and possible costs of a task instance under one name; does not read the store."""
        return self._known_tally(owner, self._snapshot.attempts(name), since)

    def _known_tally(self, owner: Owner, attempts: list[Attempt] | None = None, since: float = 0.0) -> Tally:
        tally = Tally()
        for attempt in self._snapshot.unsettled() if attempts is None else unsettled(attempts):
            claim = self._claims.get(str(attempt.claim))
            if claim is None and attempt.claim in self._claims:
                tally.lost(None)
            elif claim and claim.owner.is_same_task(owner) and claim.claimed_at >= since:
                tally.lost(claim.model, claim.fingerprint, claim.price_class)
        for attempt in self._snapshot.records(owner.task_key) if attempts is None else attempts:
            record = self._known(attempt)
            if record is None:
                tally.is_partial |= attempt.task_key == owner.task_key
            elif record.owner.is_same_task(owner) and record.recorded_at >= since:
                tally.paid(record.model, record.fingerprint, paid(record), len(record.images), record.price_class)
        return tally

    async def _read_claims(self, attempts: Iterator[Attempt]) -> None:
        """Read the claims of attempts with unknown outcome; an unreadable claim may be of any task."""
        unread = (a for a in attempts if a.claim not in self._claims)
        while some := list(islice(unread, AT_ONCE)):
            found = await asyncio.gather(*(self._store.read(f"{STATE}/{attempt.claim}") for attempt in some))
            for attempt, data in zip(some, found, strict=True):
                if data is not None:  # otherwise it was deleted, so the attempt was free
                    self._claims[str(attempt.claim)] = _claim(data)

    def _knows(self, attempt: Attempt) -> bool:
        return attempt.record in self._unwritten or attempt.record in self._records

    def _known(self, attempt: Attempt) -> Record | None:
        return self._unwritten.get(str(attempt.record)) or self._records.get(str(attempt.record))

    # ------------------------------------------------------------------ listing

    def _new_snapshot(self) -> NameSnapshot | Snapshot:
        return NameSnapshot(self._only)

    async def _refresh(self) -> None:
        snapshot = self._new_snapshot()
        self._news = []
        try:
            await self._store.scan(snapshot.take, prefix=f"{self._only}." if self._only else "")
        except BaseException as err:
            snapshot.close()
            if isinstance(err, sqlite3.Error):  # the disk for temporary files is full
                raise StorageFailed(f"The records of {self._store.uri} could not be listed: {err}") from err
            raise
        finally:
            news, self._news = self._news, None
        for entry, exists in [*news, *((entry, True) for entry in self._unwritten)]:
            (snapshot.put if exists else snapshot.discard)(entry)
        # The old one is not closed: a thread may still be reading it.
        self._snapshot = snapshot
        self._is_listed = True

    def _note(self, entry: str, *, exists: bool = True) -> None:
        (self._snapshot.put if exists else self._snapshot.discard)(entry)
        if self._news is not None:
            self._news.append((entry, exists))

    def _keep(self, entry: str, record: Record) -> None:
        self._records[entry] = record

    def _located(self, record: Record) -> Record:
        """Return a record with its images' URIs in this directory, which may have been moved or copied."""
        images = [i.model_copy(update={"uri": self._store.uri_of(i.uri.rpartition("/")[2])}) for i in record.images]
        return record.model_copy(update={"images": images})


async def recorded_prices(store: Store, most: int) -> dict[str, PriceRange]:
    """Return the price range of each price class, from some of a directory's records.

    :param most: maximum number of records to read; invalid ones are skipped.
    :raises StorageFailed: the directory cannot be listed, or a record cannot be read.
    """
    some = await store.scan(
        lambda objects: deque((e for e, _ in objects if (a := parse_entry(e)[1]) and a.record), maxlen=most)
    )
    prices: dict[str, PriceRange] = {}
    for data in await asyncio.gather(*(store.read(f"{STATE}/{entry}") for entry in some)):
        try:
            record = Record.model_validate_json(data or b"")
        except ValidationError:  # those of this task are checked elsewhere; the others must not stop it
            continue
        if record.cost_usd is not None and record.cost_is_complete:
            first = PriceRange(record.cost_usd, record.cost_usd)
            prices[record.price_class] = prices.get(record.price_class, first).widened(record.cost_usd)
    return prices


async def _read_record(store: Store, entry: str) -> Record:
    data = await store.read(f"{STATE}/{entry}")
    try:
        return Record.model_validate_json(data or b"")
    except ValidationError as err:
        uri = store.uri_of(f"{STATE}/{entry}")
        raise StorageFailed(f"The record {uri} cannot be read; restore or delete it") from err


def _claim(data: bytes) -> Claim | None:
    try:
        return Claim.model_validate_json(data)
    except ValidationError:
        return None


def _has_other_lease(owner: str, objects: Iterable[tuple[str, int]]) -> bool:
    return any(is_lease(entry) and f"{STATE}/{entry}" != lease_name(owner) for entry, _ in objects)
