"""The journal of a whole directory, for batches: reads tens of thousands of attempts with a few calls.

Each record is a separate object, because it must be durable as soon as its images are. Reading ten thousand records
would take ten thousand calls, so each batch writes an *index* with copies of them. The index is a cache: the listing
decides which records exist, and those that are not in the index are read one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

from deepshi_provider.costs.price_class import PriceRange
from deepshi_provider.costs.tally import Tally
from deepshi_provider.exceptions import StorageFailed
from deepshi_provider.journal.entries import Attempt, Owner, Record
from deepshi_provider.journal.journal import AT_ONCE, Journal
from deepshi_provider.journal.snapshot import Records, Snapshot
from deepshi_provider.store.store import STATE, Store, in_thread

INDEX_NAME = f"{STATE}/index.jsonl"

#: Seconds for which a listing of the whole directory counts as recent.
_FRESH = 10.0
#: Seconds that listing the whole directory may take; if it takes longer, names are listed one by one.
_QUICK = 1.0


class DirectoryJournal(Journal):
    """Claims and records under all names of a directory."""

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
        """List the directory and its images, and read all records.

        :raises StorageFailed: the directory cannot be listed, or a record cannot be read.
        """
        await self.refresh()
        await self._store.scan(self._records.take_sizes, "")
        with contextlib.suppress(StorageFailed):  # a cache; it may be missing, or another batch may be writing it
            await self._store.process(INDEX_NAME, self._load_index)
        await self._read_records(a for a in self._snapshot.records() if a.record not in self._records)

    async def recent(self, name: str) -> list[Attempt] | None:
        """Return the attempts under a name as of a few seconds ago; ``None`` if the caller should list the name itself.

        :raises StorageFailed: the directory cannot be listed.
        """
        async with self._listing:
            if time.monotonic() - self._listed_at > _FRESH:
                if self._took > _QUICK:
                    return None
                await self._refresh()
            return self._snapshot.attempts(name)

    def images_were_in_place(self, record: Record) -> bool:
        """Return whether the images of a record existed, with the same lengths, when the directory was opened."""
        return all(self._records.has_image(image) for image in record.images)

    async def save_index(self) -> None:
        """Write the index, if it has more records than the old one.

        :raises StorageFailed: the index cannot be written.
        """
        if self._is_index_stale:
            await self._store.write_file(INDEX_NAME, self._records.dump, "application/jsonl")

    async def tally(self, owner: Owner) -> Tally:
        """Return the costs and possible costs of a task instance over all its tries, as of the last listing.

        :raises StorageFailed: a claim or a record cannot be read.
        """
        try:
            await self._read_claims(self._snapshot.unsettled())
            await self._read_records(a for a in self._snapshot.records(owner.task_key) if not self._knows(a))
            return await in_thread(self._known_tally, owner)
        except sqlite3.Error as err:  # the disk for temporary files is full
            raise StorageFailed(f"The records of {self._store.uri} could not be added up: {err}") from err

    def prices(self) -> dict[str, PriceRange]:
        """Return the price range of each price class, from the records that were read."""
        return self._records.prices()

    async def _read_records(self, attempts: Iterator[Attempt]) -> None:
        while some := await in_thread(lambda: list(islice(attempts, AT_ONCE))):
            await asyncio.gather(*map(self.record_of, some))

    def _load_index(self, file: BinaryIO) -> None:
        self._records.load(file, self._snapshot.__contains__)
