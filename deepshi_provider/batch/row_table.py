"""Rows of a batch and what became of each, outside of memory: a private SQLite database that vanishes when closed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO

from deepshi_provider.batch.rows import row_name
from deepshi_provider.exceptions import InvalidRequest
from deepshi_provider.journal.scratch import open_scratch

_CHUNK = 500


@dataclass(frozen=True, kw_only=True)
class Row:
    """One checked row.

    :param number: its position, from 1.
    :param name: what its images are called.
    :param fields: of its request, complete.
    """

    number: int
    key: str
    name: str
    fields: dict[str, Any]


class RowTable:
    """Rows in their order, each with at most one line of the manifest."""

    def __init__(self) -> None:
        self._db = open_scratch(
            "CREATE TABLE rows (number INTEGER PRIMARY KEY, name TEXT UNIQUE, key TEXT, fields TEXT)",
            "CREATE TABLE lines (number INTEGER PRIMARY KEY, line TEXT)",
        )

    def __enter__(self) -> RowTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM rows").fetchone()[0])

    def fill(self, rows: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Add checked rows.

        :raises InvalidRequest: two rows have one key, or keys that are one in a path.
        """
        for number, (key, fields) in enumerate(rows, start=1):
            self.add(number, key, fields)

    def add(self, number: int, key: str, fields: dict[str, Any]) -> None:
        """Add one checked row.

        :raises InvalidRequest: another row has its key, or one that is the same in a path.
        """
        try:
            self._db.execute(
                "INSERT INTO rows VALUES (?, ?, ?, ?)", (number, row_name(key), key, json.dumps(fields, default=str))
            )
        except sqlite3.IntegrityError:
            other, same = self._db.execute("SELECT number, key FROM rows WHERE name = ?", (row_name(key),)).fetchone()
            keys = f"the same key {key!r}" if same == key else f"the keys {same!r} and {key!r}, one in a path"
            raise InvalidRequest(f"Rows {other} and {number} have {keys}; keys must differ") from None

    def __iter__(self) -> Iterator[Row]:
        return self._rows("")

    def edits(self) -> Iterator[Row]:
        """Yield the rows that edit images, in their order."""
        return self._rows("AND json_extract(fields, '$.images[0]') IS NOT NULL")

    def _rows(self, condition: str) -> Iterator[Row]:
        last = 0
        query = f"SELECT number, key, name, fields FROM rows WHERE number > ? {condition} ORDER BY number LIMIT ?"  # noqa: S608 -- ours
        while chunk := self._db.execute(query, (last, _CHUNK)).fetchall():
            for number, key, name, fields in chunk:
                yield Row(number=number, key=key, name=name, fields=json.loads(fields))
            last = chunk[-1][0]

    def put(self, row: Row, line: dict[str, Any]) -> None:
        """Write down what became of a row."""
        self._db.execute("INSERT OR REPLACE INTO lines VALUES (?, ?)", (row.number, json.dumps(line)))

    def dump_rows(self, file: BinaryIO) -> None:
        """Write the rows as JSONL, for :meth:`load_rows`."""
        for row in self:
            file.write(json.dumps([row.key, row.fields]).encode() + b"\n")

    def load_rows(self, file: BinaryIO) -> None:
        """Add rows that :meth:`dump_rows` wrote; they were checked before."""
        self.fill(tuple(json.loads(line)) for line in file)

    def dump_lines(self, file: BinaryIO, unfinished: dict[str, Any]) -> None:
        """Write one line of JSON per row, in the rows' order.

        :param unfinished: the line, but for its key, of rows that nothing became of.
        """
        query = "SELECT key, line FROM rows LEFT JOIN lines USING (number) ORDER BY number"
        for key, line in self._db.execute(query):
            text = line if line is not None else json.dumps({**unfinished, "key": key})
            file.write(text.encode() + b"\n")
