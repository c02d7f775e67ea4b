"""Private SQLite databases for data that would grow in memory with the number of rows."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

#: KiB that a database may keep in memory; the rest goes to a temporary file. A batch opens three databases.
_CACHE = 256
#: Rows that are read at once.
_AT_ONCE = 100

Cells = tuple[Any, ...]


class Scratch:
    """A database that is deleted when closed, or when nothing refers to it any more.

    Any thread may use and close it. A task that is cancelled closes it while a thread is still reading, and closing a
    connection during a statement can crash the process, so the thread then closes it after its statement.

    :param tables: statements that create its tables.
    """

    def __init__(self, *tables: str) -> None:
        # An empty name is a temporary file that SQLite deletes.
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._lock = threading.Lock()
        self._is_closing = False
        for statement in (f"PRAGMA cache_size = -{_CACHE}", *tables, "BEGIN"):
            self.execute(statement)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; every later use raises :class:`sqlite3.ProgrammingError`."""
        self._is_closing = True
        if self._lock.acquire(blocking=False):
            try:
                self._db.close()
            finally:
                self._lock.release()

    def execute(self, statement: str, values: Sequence[Any] = ()) -> None:
        """Execute a statement that returns nothing."""
        with self._in_use():
            self._db.execute(statement, values)

    def fill(self, statement: str, rows: Iterable[Cells]) -> None:
        """Execute a statement for each of many rows, until they end or the database is closed.

        :param rows: must not use this database, which is locked until they end.
        """
        with self._in_use():
            self._db.executemany(statement, takewhile(lambda _: not self._is_closing, rows))

    def find(self, query: str, values: Sequence[Any] = ()) -> Cells | None:
        """Return the first row of a query, or ``None``."""
        with self._in_use():
            found: Cells | None = self._db.execute(query, values).fetchone()
        return found

    def rows(self, query: str, values: Sequence[Any] = ()) -> Iterator[Cells]:
        """Yield the rows of a query."""
        with self._in_use():
            cursor = self._db.execute(query, values)
            some = cursor.fetchmany(_AT_ONCE)
        while some:
            yield from some
            with self._in_use():
                some = cursor.fetchmany(_AT_ONCE)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        try:
            with self._lock:
                if self._is_closing:
                    raise sqlite3.ProgrammingError("The database is closed")
                yield
        finally:
            if self._is_closing:
                self.close()
