"""What is in a shared directory, known from few calls: two listings, and one file with the records themselves.

A record is an object of its own, because it must be durable the moment its images are. Ten thousand of them would take
ten thousand reads, so each batch leaves an *index* behind that repeats them. The index is a cache: the listing says
what is true, and records that are not in the index are read one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import islice
from typing import BinaryIO

from pydantic import ConfigDict, TypeAdapter

from deepshi_provider.costs.sheet import UNNAMED, Doubt, paid
from deepshi_provider.exceptions import StorageFailed
from deepshi_provider.journal.entries import CACHE_STRINGS, Owner, Record, Sending, StoredImage
from deepshi_provider.journal.journal import Ledger, located, merge, record_name
from deepshi_provider.journal.listing import Listing
from deepshi_provider.journal.scratch import open_scratch
from deepshi_provider.store.store import STATE, Store, in_thread

INDEX_NAME = f"{STATE}/index.jsonl"

#: Records that are read at once.
_AT_ONCE = 64
#: Seconds for which a listing of the whole directory is taken for what is there.
_FRESH = 10.0
#: Seconds that listing it anew may take; if it takes longer, names are listed one by one.
_QUICK = 1.0
_LINE: TypeAdapter[tuple[str, Record]] = TypeAdapter(tuple[str, Record], config=ConfigDict(cache_strings=CACHE_STRINGS))


class Index:
    """The sendings and images of a whole directory, as they were when it was opened."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listing = Listing()
        self._db = open_scratch(
            "CREATE TABLE records (name TEXT PRIMARY KEY, record TEXT) WITHOUT ROWID",
            "CREATE TABLE sizes (name BLOB PRIMARY KEY, size INTEGER) WITHOUT ROWID",
        )
        self._is_stale = False
        self._recent = self._listing
        self._listed_at = self._took = 0.0
        self._relisting = asyncio.Lock()

    async def open(self) -> None:
        """List the directory, and learn all its records.

        :raises StorageFailed: the directory cannot be listed, or a record cannot be read.
        """
        await self._list(self._listing)
        await self._store.scan(self._take_sizes, "")
        with contextlib.suppress(StorageFailed):  # a cache; there may be none, or another batch may be renewing it
            await self._store.process(INDEX_NAME, self._take_cache)
        missing = (s for s in self._listing.records() if not self._find(s.record))
        ledger = Ledger(self._store, "")
        while some := await in_thread(lambda: list(islice(missing, _AT_ONCE))):
            for sending, record in zip(some, await asyncio.gather(*map(ledger.read_record, some)), strict=True):
                self._put(str(sending.record), record)

    def close(self) -> None:
        """Forget everything."""
        self._recent.close()
        self._listing.close()
        self._db.close()

    def sendings(self, name: str) -> list[Sending]:
        """Return the sendings under a name, oldest first, as they were when the index was opened."""
        return merge(self._listing.sendings(name))

    async def recent(self, name: str) -> list[Sending] | None:
        """Return the sendings under a name as they were a few seconds ago; ``None`` if it is better listed by itself.

        :raises StorageFailed: the directory cannot be listed.
        """
        async with self._relisting:
            if time.monotonic() - self._listed_at > _FRESH:
                if self._took > _QUICK:
                    return None
                listing = Listing()
                try:
                    await self._list(listing)
                except BaseException:
                    listing.close()
                    raise
                if self._recent is not self._listing:
                    self._recent.close()
                self._recent = listing
            return merge(self._recent.sendings(name))

    async def _list(self, listing: Listing) -> None:
        begun = time.monotonic()
        await self._store.scan(listing.take)
        self._listed_at, self._took = begun, time.monotonic() - begun

    def has(self, image: StoredImage) -> bool:
        """Return whether an image is in place, with its length."""
        name = _encoded(image.uri.rpartition("/")[2])
        query = "SELECT 1 FROM sizes WHERE name = ? AND size = ?"
        return self._db.execute(query, (name, image.size_bytes)).fetchone() is not None

    def record(self, sending: Sending) -> Record:
        """Return the record of one of :meth:`sendings` that has one."""
        return located(Record.model_validate_json(self._find(sending.record) or b""), self._store)

    def costs_of(self, owner: Owner, name: str | None = None) -> list[Decimal | None]:
        """Return what each sending of a task instance has cost, in USD, over all its tries.

        :param name: only of those under this name.
        """
        sendings = self._listing.records(owner.task_key) if name is None else self._listing.sendings(name)
        own = (self.record(s) for s in sendings if s.record and s.task_key == owner.task_key)
        return [paid(record) for record in own if record.owner.is_same_task(owner)]

    def unsettled(self) -> Iterator[Sending]:
        """Yield the sendings that have only a claim."""
        return self._listing.unsettled()

    def prices(self) -> dict[str, Decimal]:
        """Return the highest cost of each price class in the records, in USD."""
        query = (
            "SELECT DISTINCT json_extract(record, '$.price_class'), json_extract(record, '$.cost_usd') FROM records "
            "WHERE json_extract(record, '$.cost_is_complete')"
        )
        prices: dict[str, Decimal] = {}
        for price_class, cost in self._db.execute(query):
            if cost is not None:
                prices[price_class] = max(Decimal(cost), prices.get(price_class, Decimal(0)))
        return prices

    def unreported(self, owner: Owner) -> list[Doubt]:
        """Return each record of a task instance whose cost the API did not report, or not all of it."""
        query = (
            "SELECT json_extract(record, '$.price_class'), json_extract(record, '$.cost_usd') FROM records "
            "WHERE name GLOB ? "
            "AND (json_extract(record, '$.cost_usd') IS NULL OR NOT json_extract(record, '$.cost_is_complete'))"
        )
        found = self._db.execute(query, (f"*.{owner.task_key}.*",))
        return [Doubt(UNNAMED, "", sys.intern(price_class), Decimal(cost or 0)) for price_class, cost in found]

    def cached(self, entry: str) -> Record | None:
        """Return a record by the name of its object, if it is known; nothing is asked of the store."""
        found = self._find(entry)
        return None if found is None else Record.model_validate_json(found)

    def records_of(self, owner: Owner) -> Iterator[Record]:
        """Yield the known records of a task instance; nothing is asked of the store."""
        query = "SELECT record FROM records WHERE name GLOB ?"
        for (found,) in self._db.execute(query, (f"*.{owner.task_key}.*",)).fetchall():
            yield Record.model_validate_json(found)

    def add(self, name: str, k: int, record: Record) -> bool:
        """Put the record of the k-th sending under a name into the index, and return whether it was not there."""
        entry = record_name(name, k, record)
        is_new = self._find(entry) is None
        self._put(entry, record)
        return is_new

    async def save(self) -> None:
        """Write the index, if it would say more than the old one."""
        if self._is_stale:
            await self._store.write_file(INDEX_NAME, self._write, "application/jsonl")

    def _find(self, entry: str | None) -> str | None:
        found = self._db.execute("SELECT record FROM records WHERE name = ?", (entry,)).fetchone()
        return found[0] if found else None

    def _put(self, entry: str, record: Record) -> None:
        self._is_stale = True
        self._db.execute("INSERT OR REPLACE INTO records VALUES (?, ?)", (entry, record.model_dump_json()))

    def _take_sizes(self, objects: Iterable[tuple[str, int]]) -> None:
        rows = ((_encoded(name), size) for name, size in objects)
        self._db.fill("INSERT OR REPLACE INTO sizes VALUES (?, ?)", rows)

    def _take_cache(self, file: BinaryIO) -> None:
        entries = (_index_entry(line) for line in file)
        self._db.fill(
            "INSERT OR REPLACE INTO records VALUES (?, ?)",
            (entry for entry in entries if entry and entry[0] in self._listing),
        )

    def _write(self, file: BinaryIO) -> None:
        for name, record in self._db.execute("SELECT name, record FROM records ORDER BY name"):
            file.write(f"[{json.dumps(name)}, {record}]\n".encode())


def _encoded(name: str) -> bytes:
    """Return a file's name as bytes: that of a foreign file may hold what is no text."""
    return name.encode("utf-8", "surrogatepass")


def _index_entry(line: bytes) -> tuple[str, str] | None:
    """Return name and record of a line, or ``None``: it is a cache, and what it lacks is read one by one."""
    try:
        entry, record = _LINE.validate_json(line)
    except ValueError:
        return None
    return entry, record.model_dump_json()
