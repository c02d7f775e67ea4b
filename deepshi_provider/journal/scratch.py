"""Private SQLite databases for data that would grow in memory with the number of rows."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from itertools import takewhile
from typing import Any

#: KiB that a database may keep in memory; the rest goes to a temporary file. A batch opens three databases.
_CACHE = 256


class Scratch(sqlite3.Connection):
    """A database that is deleted when closed. Use it in one thread at a time, except for :meth:`close`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._filling = threading.Lock()
        self._is_closing = False

    def fill(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Execute a statement for each of many rows, in a thread that continues if its coroutine is cancelled."""
        with self._filling:
            self.executemany(statement, takewhile(lambda _: not self._is_closing, rows))
        if self._is_closing:
            super().close()

    def close(self) -> None:
        """Close the database; if another thread is filling it, that thread stops and closes it.

        Closing a connection during ``executemany`` can crash the process.
        """
        self._is_closing = True
        if self._filling.acquire(blocking=False):
            try:
                super().close()
            finally:
                self._filling.release()


def open_scratch(*tables: str) -> Scratch:
    """Return a new database.

    :param tables: statements that create its tables.
    """
    # An empty name is a temporary file that SQLite deletes.
    database = sqlite3.connect("", check_same_thread=False, isolation_level=None, factory=Scratch)
    database.execute(f"PRAGMA cache_size = -{_CACHE}")
    for table in tables:
        database.execute(table)
    database.execute("BEGIN")
    return database
