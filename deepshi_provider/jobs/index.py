"""What is in a shared directory, known from few calls: two listings, and one file with the records themselves.

A record is an object of its own, because it must be durable the moment its images are. Ten thousand of them would take
ten thousand reads, so each batch leaves an *index* behind that repeats them. The index is a cache: the listing says
what is true, and records that are not in the index are read one by one.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from typing import BinaryIO

from deepshi_provider.jobs.ledger import Ledger, merge, parse_entry
from deepshi_provider.manifest import Owner, Record, Sending, StoredImage
from deepshi_provider.storage import STATE, Store, in_thread

INDEX_NAME = f"{STATE}/index.jsonl"

#: Records that are read at once.
_AT_ONCE = 64


class Index:
    """The sendings and images of a whole directory, as they were when it was opened."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sendings: dict[str, list[Sending]] = {}
        self._sizes: dict[str, int] = {}
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA cache_size = -4000")
        self._db.execute("CREATE TABLE records (name TEXT PRIMARY KEY, record TEXT) WITHOUT ROWID")
        self._db.execute("BEGIN")
        self._is_stale = False

    async def open(self) -> None:
        """List the directory, and learn all its records.

        :raises StorageFailed: the directory cannot be listed, or a record cannot be read.
        """
        state = await self._store.list()
        for entry in state:
            name, sending = parse_entry(entry)
            if sending:
                self._sendings.setdefault(name, []).append(sending)
        self._sizes = await self._store.list("")
        if INDEX_NAME.rpartition("/")[2] in state:
            await in_thread(self._take, await self._store.open(INDEX_NAME))
        missing = [s for s in self._all() if s.record and not self._find(s)]
        for start in range(0, len(missing), _AT_ONCE):
            some = missing[start : start + _AT_ONCE]
            ledger = Ledger(self._store, "")
            for sending, record in zip(some, await asyncio.gather(*map(ledger.read_record, some)), strict=True):
                self.add(sending, record)

    def close(self) -> None:
        """Forget everything."""
        self._db.close()

    def sendings(self, name: str) -> list[Sending]:
        """Return the sendings under a name, oldest first."""
        return merge(self._sendings.get(name, []))

    def has(self, image: StoredImage) -> bool:
        """Return whether an image is in place, with its length."""
        return self._sizes.get(image.uri.rpartition("/")[2]) == image.size_bytes

    def record(self, sending: Sending) -> Record:
        """Return the record of one of :meth:`sendings` that has one."""
        return Record.model_validate_json(self._find(sending) or b"")

    def cost_of(self, owner: Owner) -> list[Decimal | None]:
        """Return what each sending of a task instance has cost, in USD, over all its tries."""
        own = (self.record(s) for s in self._all() if s.record and s.task_key == owner.task_key)
        return [record.cost_usd for record in own if record.owner.is_same_task(owner)]

    def add(self, sending: Sending, record: Record) -> None:
        """Put a record into the index that :meth:`save` leaves behind."""
        self._is_stale = True
        self._db.execute("INSERT OR REPLACE INTO records VALUES (?, ?)", (sending.record, record.model_dump_json()))

    async def save(self) -> None:
        """Write the index, if it would say more than the old one."""
        if self._is_stale:
            await self._store.write_file(INDEX_NAME, self._write, "application/jsonl")

    def _all(self) -> Iterator[Sending]:
        return (sending for sendings in self._sendings.values() for sending in sendings)

    def _find(self, sending: Sending) -> str | None:
        found = self._db.execute("SELECT record FROM records WHERE name = ?", (sending.record,)).fetchone()
        return found[0] if found else None

    def _take(self, file: BinaryIO) -> None:
        with file:
            for line in file:
                try:
                    name, record = json.loads(line)
                    Record.model_validate(record)
                except (ValueError, TypeError):
                    continue  # a cache; what is missing is read one by one
                self._db.execute("INSERT OR REPLACE INTO records VALUES (?, ?)", (name, json.dumps(record)))

    def _write(self, file: BinaryIO) -> None:
        for name, record in self._db.execute("SELECT name, record FROM records ORDER BY name"):
            file.write(f"[{json.dumps(name)}, {record}]\n".encode())
