"""Databases that a cancelled task closes while a thread still uses them, which must not crash the process."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from deepshi_provider.journal.scratch import Scratch

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
INSERT = "INSERT INTO numbers VALUES (?)"


def read(database: Scratch, begun: Event) -> None:
    for _ in database.rows(NUMBERS):
        begun.set()


def write(database: Scratch, begun: Event) -> None:
    while True:
        database.execute(INSERT, (1,))
        begun.set()


def look(database: Scratch, begun: Event) -> None:
    while True:
        database.find(f"{NUMBERS} LIMIT 1 OFFSET 1000")
        begun.set()


@pytest.mark.parametrize("use", [read, write, look])
def test_a_thread_that_uses_a_database_sees_that_it_was_closed(use: Callable[[Scratch, Event], None]) -> None:
    with ThreadPoolExecutor() as threads:
        for _ in range(100):
            database, begun = Scratch("CREATE TABLE numbers (i)"), Event()
            used = threads.submit(use, database, begun)
            assert begun.wait(60)
            database.close()
            with pytest.raises(sqlite3.ProgrammingError, match="The database is closed"):
                used.result(60)


def test_a_thread_that_fills_a_database_stops_when_it_is_closed() -> None:
    begun, closed, taken = Event(), Event(), []

    def rows() -> Iterator[tuple[int]]:
        for number in range(1000):
            begun.set()
            assert closed.wait(60)
            taken.append(number)
            yield (number,)

    database = Scratch("CREATE TABLE numbers (i)")
    with ThreadPoolExecutor() as threads:
        filled = threads.submit(database.fill, INSERT, rows())
        assert begun.wait(60)
        database.close()  # and does not wait for the next row
        closed.set()
        filled.result(60)
    assert taken == [0]
    with pytest.raises(sqlite3.ProgrammingError):
        database.execute(INSERT, (1,))


def test_rows_that_change_while_they_are_read_are_read_once() -> None:
    database = Scratch("CREATE TABLE numbers (i INTEGER PRIMARY KEY, seen INTEGER)")
    database.fill("INSERT INTO numbers VALUES (?, 0)", ((number,) for number in range(1000)))
    seen = []
    for (number,) in database.rows("SELECT i FROM numbers WHERE seen = 0"):
        database.execute("UPDATE numbers SET seen = 1 WHERE i = ?", (number,))
        seen.append(number)
    assert seen == list(range(1000))
    database.close()
