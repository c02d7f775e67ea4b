"""The sendings of a whole directory, as one listing showed them, outside of memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType

from deepshi_provider.journal.entries import Sending
from deepshi_provider.journal.journal import parse_entry
from deepshi_provider.journal.scratch import open_scratch

# Names are kept as bytes: a foreign file's name may hold what is no text.
_CODING = ("utf-8", "surrogatepass")
_TABLE = """
CREATE TABLE entries (name BLOB, sending BLOB, entry BLOB, task_key BLOB, PRIMARY KEY (name, sending, entry))
WITHOUT ROWID
"""


class Listing:
    """Claims and records, by the names of their objects."""

    def __init__(self) -> None:
        self._db = open_scratch(_TABLE)

    def __enter__(self) -> Listing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget everything."""
        self._db.close()

    def take(self, objects: Iterable[tuple[str, int]]) -> None:
        """Take note of what :meth:`Store.scan` finds in the folder of claims and records."""
        rows = filter(None, (_row(entry) for entry, _ in objects))
        self._db.fill("INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?)", rows)

    def __contains__(self, entry: str) -> bool:
        row = _row(entry)
        query = "SELECT 1 FROM entries WHERE (name, sending, entry) = (?, ?, ?)"
        return row is not None and self._db.execute(query, row[:3]).fetchone() is not None

    def sendings(self, name: str) -> list[Sending]:
        """Return what is known of the sendings under a name; one with a claim and records is there more than once."""
        return list(self._find("SELECT entry FROM entries WHERE name = ?", name))

    def records(self, task_key: str | None = None) -> Iterator[Sending]:
        """Yield the sendings that have a record.

        :param task_key: only those whose record is of this owner.
        """
        if task_key is None:
            return self._find("SELECT entry FROM entries WHERE task_key IS NOT NULL")
        return self._find("SELECT entry FROM entries WHERE task_key = ?", task_key)

    def unsettled(self) -> Iterator[Sending]:
        """Yield the sendings that have only a claim."""
        return self._find(
            "SELECT entry FROM entries AS claim WHERE task_key IS NULL AND NOT EXISTS (SELECT 1 FROM entries "
            "WHERE name = claim.name AND sending = claim.sending AND task_key IS NOT NULL)"
        )

    def _find(self, query: str, *values: str) -> Iterator[Sending]:
        for (entry,) in self._db.execute(query, [value.encode(*_CODING) for value in values]):
            sending = parse_entry(entry.decode(*_CODING))[1]
            if sending:
                yield sending


def _row(entry: str) -> tuple[bytes, bytes, bytes, bytes | None] | None:
    """Return the row of an object's name, or ``None``: it is about no sending."""
    name, sending = parse_entry(entry)
    if sending is None:
        return None
    key = f"{sending.k}.{sending.fingerprint}".encode(*_CODING)
    task_key = None if sending.task_key is None else sending.task_key.encode(*_CODING)
    return name.encode(*_CODING), key, entry.encode(*_CODING), task_key
