"""The journal of a whole directory, for batches: tens of thousands of attempts, known from few calls.

A record is an object of its own because it must be durable the moment its images are. Ten thousand of them would take
ten thousand reads, so each batch leaves an *index* behind that repeats them. The index is a cache: the listing says
what is true, and records that are not in the index are read one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from itertools import islice
from typing import BinaryIO

from deepshi_provider.costs.price_class import PriceRange
from deepshi_provider.costs.tally import Tally
from deepshi_provider.exceptions import StorageFailed
from deepshi_provider.journal.entries import Attempt, Owner, Record
from deepshi_provider.journal.journal import Journal
from deepshi_provider.journal.snapshot import Records, Snapshot
from deepshi_provider.store.store import STATE, Store, in_thread

INDEX_NAME = f"{STATE}/index.jsonl"

#: Objects that are read at once.
_AT_ONCE = 64
#: Seconds for which a listing of the whole directory is taken for what is there.
_FRESH = 10.0
#: Seconds that listing it anew may take; if it takes longer, names are listed one by one.
_QUICK = 1.0


class DirectoryJournal(Journal):
    """Claims and records of one directory, under all names."""

    _snapshot: Snapshot
    _records: Records

    def __init__(self, store: Store) -> None:
        super().__init__(store, "")
        self._records = Records()
        self._listed_at = self._took = float("-inf")
        self._is_index_stale = False

    def close(self) -> None:
        """Forget everything."""
        super().close()
        self._records.close()

    def _new_snapshot(self) -> Snapshot:
        return Snapshot()

    async def _refresh(self) -> None:
        begun = time.monotonic()
        await super()._refresh()
        self._listed_at, self._took = begun, time.monotonic() - begun

    def _keep(self, entry: str, record: Record) -> None:
        self._is_index_stale = True
        super()._keep(entry, record)

    async def open(self) -> None:
        """List the directory and its images, and learn all records.

        :raises StorageFailed: it cannot be listed, or a record cannot be read.
        """
        await self.refresh()
        await self._store.scan(self._records.take_sizes, "")
        with contextlib.suppress(StorageFailed):  # a cache; there may be none, or another batch may be renewing it
            await self._store.process(INDEX_NAME, self._load_index)
        missing = (a for a in self._snapshot.records() if a.record not in self._records)
        while some := await in_thread(lambda: list(islice(missing, _AT_ONCE))):
            await asyncio.gather(*map(self.record_of, some))

    async def recent(self, name: str) -> list[Attempt] | None:
        """Return the attempts under a name as of a few seconds ago; ``None`` if it is better listed by itself.

        :raises StorageFailed: the directory cannot be listed.
        """
        async with self._listing:
            if time.monotonic() - self._listed_at > _FRESH:
                if self._took > _QUICK:
                    return None
                await self._refresh()
            return self._snapshot.attempts(name)

    def images_were_in_place(self, record: Record) -> bool:
        """Return whether the images of a record were there, with their lengths, when the directory was opened."""
        return all(self._records.has_image(image) for image in record.images)

    async def save_index(self) -> None:
        """Write the index, if it would hold more than the old one.

        :raises StorageFailed: the store did not take it.
        """
        if self._is_index_stale:
            await self._store.write_file(INDEX_NAME, self._records.dump, "application/jsonl")

    async def tally(self, owner: Owner) -> Tally:
        """Add up what a task instance has paid, and may have paid, over all its tries, as of the last listing.

        :raises StorageFailed: a claim or a record cannot be read.
        """
        try:
            await self._read_claims(self._snapshot.unsettled())
            missing = (a for a in self._snapshot.records(owner.task_key) if not self._knows(a))
            while some := await in_thread(lambda: list(islice(missing, _AT_ONCE))):
                await asyncio.gather(*map(self.record_of, some))
            return await in_thread(self._known_tally, owner)
        except sqlite3.Error as err:  # the disk for temporary files is full
            raise StorageFailed(f"The records of {self._store.uri} could not be added up: {err}") from err

    def prices(self) -> dict[str, PriceRange]:
        """Return what requests of each price class have cost, by the records that were read."""
        return self._records.prices()

    def _load_index(self, file: BinaryIO) -> None:
        self._records.load(file, self._snapshot.__contains__)
