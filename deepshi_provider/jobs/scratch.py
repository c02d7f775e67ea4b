"""Private SQLite databases for what would grow in memory with the number of rows."""

from __future__ import annotations

import sqlite3

#: KiB that a database may hold in memory; what is more lies in a temporary file. A batch opens three databases.
_CACHE = 256


def open_scratch(*tables: str) -> sqlite3.Connection:
    """Return a new database, which vanishes when it is closed; to be used by one thread at a time.

    :param tables: statements that make its tables.
    """
    # An empty name is a temporary file that SQLite deletes.
    database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
    database.execute(f"PRAGMA cache_size = -{_CACHE}")
    for table in tables:
        database.execute(table)
    database.execute("BEGIN")
    return database
