"""Snapshots of a directory: the names that a listing returned, and the records read since; on disk, not in memory."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import BinaryIO

from pydantic import ConfigDict, TypeAdapter

from deepshi_provider.costs.price_class import PriceRange
from deepshi_provider.journal.entries import (
    CACHE_STRINGS,
    Attempt,
    Record,
    StoredImage,
    attempts_in,
    in_order,
    parse_entry,
    unsettled,
)
from deepshi_provider.journal.scratch import Scratch

# Names are stored as bytes, since the names of other files may not be valid text.
_CODING = ("utf-8", "surrogatepass")
_ATTEMPTS = """
CREATE TABLE entries (name BLOB, attempt BLOB, entry BLOB, task_key BLOB, PRIMARY KEY (name, attempt, entry))
WITHOUT ROWID
"""


class NameSnapshot:
    """The names of claims and records under one name: few, so in memory."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._entries: dict[str, None] = {}

    def close(self) -> None:
        """Do nothing; for the interface of :class:`Snapshot`."""

    def take(self, objects: Iterable[tuple[str, int]]) -> None:
        """Add what :meth:`Store.scan` finds in the folder of claims and records."""
        self._entries.update((entry, None) for entry, _ in objects)

    def put(self, entry: str) -> None:
        """Add one object."""
        self._entries[entry] = None

    def discard(self, entry: str) -> None:
        """Remove one object."""
        self._entries.pop(entry, None)

    def forget(self, name: str) -> None:
        """Remove all objects of a name."""
        self._entries = {entry: None for entry in self._entries if parse_entry(entry)[0] != name}

    def attempts(self, name: str) -> list[Attempt]:
        """Return the attempts under a name, oldest first."""
        return attempts_in(name, self._entries)

    def records(self, task_key: str) -> Iterator[Attempt]:
        """Yield the attempts that have a record of this owner."""
        return (a for a in self.attempts(self._name) if a.record and a.task_key == task_key)

    def unsettled(self) -> Iterator[Attempt]:
        """Yield the attempts that have only a claim."""
        return iter(unsettled(self.attempts(self._name)))


class Snapshot:
    """The names of claims and records of a whole directory: on disk."""

    def __init__(self) -> None:
        self._db = Scratch(_ATTEMPTS)

    def close(self) -> None:
        """Forget everything."""
        self._db.close()

    def take(self, objects: Iterable[tuple[str, int]]) -> None:
        """Add what :meth:`Store.scan` finds in the folder of claims and records."""
        rows = filter(None, (_row(entry) for entry, _ in objects))
        self._db.fill("INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?)", rows)

    def put(self, entry: str) -> None:
        """Add one object."""
        if row := _row(entry):
            self._db.execute("INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?)", row)

    def discard(self, entry: str) -> None:
        """Remove one object."""
        if row := _row(entry):
            self._db.execute("DELETE FROM entries WHERE (name, attempt, entry) = (?, ?, ?)", row[:3])

    def forget(self, name: str) -> None:
        """Remove all objects of a name."""
        self._db.execute("DELETE FROM entries WHERE name = ?", (name.encode(*_CODING),))

    def __contains__(self, entry: str) -> bool:
        row = _row(entry)
        query = "SELECT 1 FROM entries WHERE (name, attempt, entry) = (?, ?, ?)"
        return row is not None and self._db.find(query, row[:3]) is not None

    def attempts(self, name: str) -> list[Attempt]:
        """Return the attempts under a name, oldest first."""
        return in_order(self._find("SELECT entry FROM entries WHERE name = ?", name))

    def records(self, task_key: str | None = None) -> Iterator[Attempt]:
        """Yield the attempts that have a record.

        :param task_key: only those with a record of this owner.
        """
        if task_key is None:
            return self._find("SELECT entry FROM entries WHERE task_key IS NOT NULL")
        return self._find("SELECT entry FROM entries WHERE task_key = ?", task_key)

    def unsettled(self) -> Iterator[Attempt]:
        """Yield the attempts that have only a claim."""
        return self._find(
            "SELECT entry FROM entries AS claim WHERE task_key IS NULL AND NOT EXISTS (SELECT 1 FROM entries "
            "WHERE name = claim.name AND attempt = claim.attempt AND task_key IS NOT NULL)"
        )

    def _find(self, query: str, *values: str) -> Iterator[Attempt]:
        for (entry,) in self._db.rows(query, [value.encode(*_CODING) for value in values]):
            attempt = parse_entry(entry.decode(*_CODING))[1]
            if attempt:
                yield attempt


class Records:
    """Records by the names of their objects, and the images that are in place."""

    def __init__(self) -> None:
        self._db = Scratch(
            "CREATE TABLE records (entry TEXT PRIMARY KEY, record TEXT) WITHOUT ROWID",
            "CREATE TABLE sizes (name BLOB PRIMARY KEY, size INTEGER) WITHOUT ROWID",
        )

    def close(self) -> None:
        """Forget everything."""
        self._db.close()

    def __contains__(self, entry: object) -> bool:
        return self._db.find("SELECT 1 FROM records WHERE entry = ?", (entry,)) is not None

    def get(self, entry: str) -> Record | None:
        """Return a record, or ``None``."""
        found = self._db.find("SELECT record FROM records WHERE entry = ?", (entry,))
        return Record.model_validate_json(found[0]) if found else None

    def __setitem__(self, entry: str, record: Record) -> None:
        self._db.execute("INSERT OR REPLACE INTO records VALUES (?, ?)", (entry, _short(record)))

    def load(self, file: BinaryIO, is_wanted: Callable[[str], bool]) -> None:
        """Add the wanted records of a file; skip lines that cannot be read."""
        entries = (_line(line) for line in file)
        self._db.fill(
            "INSERT OR REPLACE INTO records VALUES (?, ?)",
            (entry for entry in entries if entry and is_wanted(entry[0])),
        )

    def dump(self, file: BinaryIO) -> None:
        """Write all records, one per line."""
        for entry, record in self._db.rows("SELECT entry, record FROM records ORDER BY entry"):
            file.write(f"[{json.dumps(entry)}, {record}]\n".encode())

    def take_sizes(self, objects: Iterable[tuple[str, int]]) -> None:
        """Add what :meth:`Store.scan` finds in the directory of the images."""
        rows = ((name.encode(*_CODING), size) for name, size in objects)
        self._db.fill("INSERT OR REPLACE INTO sizes VALUES (?, ?)", rows)

    def has_image(self, image: StoredImage) -> bool:
        """Return whether an image was in place with the same length."""
        name = image.uri.rpartition("/")[2].encode(*_CODING)
        query = "SELECT 1 FROM sizes WHERE name = ? AND size = ?"
        return self._db.find(query, (name, image.size_bytes)) is not None

    def prices(self) -> dict[str, PriceRange]:
        """Return the price range of each price class, from the records."""
        query = (
            "SELECT DISTINCT json_extract(record, '$.price_class'), json_extract(record, '$.cost_usd') FROM records "
            "WHERE json_extract(record, '$.cost_is_complete')"
        )
        prices: dict[str, PriceRange] = {}
        for price_class, text in self._db.rows(query):
            if text is not None:
                cost = Decimal(text)
                prices[price_class] = prices.get(price_class, PriceRange(cost, cost)).widened(cost)
        return prices


def _row(entry: str) -> tuple[bytes, bytes, bytes, bytes | None] | None:
    """Return the row for an object's name, or ``None`` if it is neither a claim nor a record."""
    name, attempt = parse_entry(entry)
    if attempt is None:
        return None
    key = f"{attempt.k}.{attempt.fingerprint}".encode(*_CODING)
    task_key = None if attempt.task_key is None else attempt.task_key.encode(*_CODING)
    return name.encode(*_CODING), key, entry.encode(*_CODING), task_key


@functools.cache
def _index_line() -> TypeAdapter[tuple[str, Record]]:
    """Return the type adapter; built on first use, since a single request has no index."""
    return TypeAdapter(tuple[str, Record], config=ConfigDict(cache_strings=CACHE_STRINGS))


def _line(line: bytes) -> tuple[str, str] | None:
    """Return name and record of a line of the index, or ``None`` if it is invalid: the record is then read itself."""
    try:
        entry, record = _index_line().validate_json(line)
    except ValueError:
        return None
    return entry, _short(record)


def _short(record: Record) -> str:
    """Return a record for the index, without prompts, which would make it many times as long."""
    return record.model_dump_json(exclude={"request"})
