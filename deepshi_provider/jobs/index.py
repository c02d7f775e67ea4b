"""What is in a shared directory, known from few calls: two listings, and one file with the records themselves.

A record is an object of its own, because it must be durable the moment its images are. Ten thousand of them would take
ten thousand reads, so each batch leaves an *index* behind that repeats them. The index is a cache: the listing says
what is true, and records that are not in the index are read one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from typing import BinaryIO

from pydantic import TypeAdapter

from deepshi_provider.exceptions import StorageFailed
from deepshi_provider.jobs.ledger import Ledger, located, merge, parse_entry
from deepshi_provider.manifest import Owner, Record, Sending, StoredImage
from deepshi_provider.storage import STATE, Store, in_thread

INDEX_NAME = f"{STATE}/index.jsonl"

#: Records that are read at once.
_AT_ONCE = 64
_LINE: TypeAdapter[tuple[str, Record]] = TypeAdapter(tuple[str, Record])


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
        self._sizes = await self._store.list("")
        await in_thread(self._take, state)
        if INDEX_NAME.rpartition("/")[2] in state:
            with contextlib.suppress(StorageFailed):  # a cache, and another batch may be renewing it
                await self._store.process(INDEX_NAME, lambda file: self._take_cache(state, file))
        missing = [s for s in self._all() if s.record and not self._find(s.record)]
        ledger = Ledger(self._store, "")
        for start in range(0, len(missing), _AT_ONCE):
            some = missing[start : start + _AT_ONCE]
            for sending, record in zip(some, await asyncio.gather(*map(ledger.read_record, some)), strict=True):
                self._put(str(sending.record), record)

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
        return located(Record.model_validate_json(self._find(sending.record) or b""), self._store)

    def costs_of(self, owner: Owner, name: str | None = None) -> list[Decimal | None]:
        """Return what each sending of a task instance has cost, in USD, over all its tries.

        :param name: only of those under this name.
        """
        sendings = self._all() if name is None else self._sendings.get(name, [])
        own = (self.record(s) for s in sendings if s.record and s.task_key == owner.task_key)
        return [record.cost_usd for record in own if record.owner.is_same_task(owner)]

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
        entry = f"{name}.{k}.{record.fingerprint[:16]}.{record.owner.task_key}.{record.kind}.json"
        is_new = self._find(entry) is None
        self._put(entry, record)
        return is_new

    async def save(self) -> None:
        """Write the index, if it would say more than the old one."""
        if self._is_stale:
            await self._store.write_file(INDEX_NAME, self._write, "application/jsonl")

    def _all(self) -> Iterator[Sending]:
        return (sending for sendings in self._sendings.values() for sending in sendings)

    def _find(self, entry: str | None) -> str | None:
        found = self._db.execute("SELECT record FROM records WHERE name = ?", (entry,)).fetchone()
        return found[0] if found else None

    def _put(self, entry: str, record: Record) -> None:
        self._is_stale = True
        self._db.execute("INSERT OR REPLACE INTO records VALUES (?, ?)", (entry, record.model_dump_json()))

    def _take(self, state: dict[str, int]) -> None:
        for entry in state:
            name, sending = parse_entry(entry)
            if sending:
                self._sendings.setdefault(name, []).append(sending)

    def _take_cache(self, state: dict[str, int], file: BinaryIO) -> None:
        entries = (_index_entry(line) for line in file)
        self._db.executemany(
            "INSERT OR REPLACE INTO records VALUES (?, ?)",
            (entry for entry in entries if entry and entry[0] in state),
        )

    def _write(self, file: BinaryIO) -> None:
        for name, record in self._db.execute("SELECT name, record FROM records ORDER BY name"):
            file.write(f"[{json.dumps(name)}, {record}]\n".encode())


def _index_entry(line: bytes) -> tuple[str, str] | None:
    """Return name and record of a line, or ``None``: it is a cache, and what it lacks is read one by one."""
    try:
        entry, record = _LINE.validate_json(line)
    except ValueError:
        return None
    return entry, record.model_dump_json()
