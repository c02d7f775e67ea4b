"""Rows of a batch and their outcomes, kept on disk: a private SQLite database that is deleted when closed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO

from deepshi_provider.batch.cells import pack, unpack
from deepshi_provider.batch.columns import CarriedNames
from deepshi_provider.batch.parquet import CellTypes
from deepshi_provider.batch.rows import row_name
from deepshi_provider.exceptions import InvalidRequest
from deepshi_provider.journal.scratch import Scratch

_CHUNK = 500
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Row:
    """One checked row.

    :param number: its position, from 1.
    :param name: the name of its images, without index and extension.
    :param fields: all fields of its request.
    """

    number: int
    key: str
    name: str
    fields: dict[str, Any]


class RowTable:
    """Rows in order, each with at most one line of the manifest."""

    def __init__(self) -> None:
        self._carried = CarriedNames()
        self._db = Scratch(
            "CREATE TABLE rows (number INTEGER PRIMARY KEY, name TEXT UNIQUE, key TEXT, fields TEXT, carried TEXT)",
            "CREATE TABLE lines (number INTEGER PRIMARY KEY, line TEXT)",
            "CREATE TABLE pictures (sha256 TEXT PRIMARY KEY, prompt TEXT, key TEXT)",
        )

    def __enter__(self) -> RowTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def __len__(self) -> int:
        ((count,),) = self._db.rows("SELECT count(*) FROM rows")
        return int(count)

    def declare(self, carried: Iterable[str]) -> None:
        """Add carried columns, which the manifest then has even if there are no rows.

        :raises InvalidRequest: there are too many, or two differ only in case.
        """
        for name in carried:
            self._carried.add(name)

    def fill(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Add checked rows: key, fields and, if there are any, carried cells.

        :raises InvalidRequest: two rows have the same key, or keys that are the same in a path.
        """
        for number, row in enumerate(rows, start=1):
            self.add(number, *row)

    def add(self, number: int, key: str, fields: dict[str, Any], carried: Mapping[str, Any] = NOTHING) -> None:
        """Add one checked row.

        :param carried: carried cells for the manifest, by column.
        :raises InvalidRequest: another row has the same key, or one that is the same in a path.
        """
        self.declare(carried)
        cells = _packed(carried) if carried else None
        try:
            self._db.execute(
                "INSERT INTO rows VALUES (?, ?, ?, ?, ?)",
                (number, row_name(key), key, json.dumps(fields, default=str), cells),
            )
        except sqlite3.IntegrityError:
            ((other, same),) = self._db.rows("SELECT number, key FROM rows WHERE name = ?", (row_name(key),))
            keys = f"the same key {key!r}" if same == key else f"the keys {same!r} and {key!r}, the same in a path"
            raise InvalidRequest(f"Rows {other} and {number} have {keys}; keys must differ") from None

    def __iter__(self) -> Iterator[Row]:
        return self._rows("")

    def unfinished(self) -> Iterator[Row]:
        """Yield the rows that have no line yet, in order."""
        return self._rows("AND NOT EXISTS (SELECT 1 FROM lines WHERE lines.number = rows.number)")

    def edits(self) -> Iterator[Row]:
        """Yield the rows that edit images, in order."""
        return self._rows("AND json_extract(fields, '$.images[0]') IS NOT NULL")

    def _rows(self, condition: str) -> Iterator[Row]:
        last = 0
        query = f"SELECT number, key, name, fields FROM rows WHERE number > ? {condition} ORDER BY number LIMIT ?"  # noqa: S608 -- ours
        while chunk := list(self._db.rows(query, (last, _CHUNK))):
            for number, key, name, fields in chunk:
                yield Row(number=number, key=key, name=name, fields=json.loads(fields))
            last = chunk[-1][0]

    def put(self, row: Row, line: dict[str, Any]) -> None:
        """Store the outcome of a row."""
        self._db.execute("INSERT OR REPLACE INTO lines VALUES (?, ?)", (row.number, _packed(line)))

    def twin(self, sha256: str, prompt: str, key: str) -> str | None:
        """Store the hash of an image; return the key of a row with the same image and another prompt.

        :param prompt: the prompt's SHA-256, in hex.
        """
        self._db.execute("INSERT OR IGNORE INTO pictures VALUES (?, ?, ?)", (sha256, prompt, key))
        query = "SELECT prompt, key FROM pictures WHERE sha256 = ?"
        ((other, name),) = self._db.rows(query, (sha256,))
        return str(name) if other != prompt else None

    def dump_rows(self, file: BinaryIO) -> None:
        """Write the carried columns and the rows as JSONL, for :meth:`load_rows`."""
        file.write(f"{json.dumps(list(self._carried))}\n".encode())
        for key, fields, carried in self._db.rows("SELECT key, fields, carried FROM rows ORDER BY number"):
            file.write(f"[{json.dumps(key)}, {fields}, {carried or '{}'}]\n".encode())

    def load_rows(self, file: BinaryIO) -> None:
        """Add columns and rows that :meth:`dump_rows` wrote; they are already checked."""
        self.declare(json.loads(file.readline()))
        rows = (json.loads(line) for line in file)
        self.fill((key, fields, {name: unpack(cell) for name, cell in cells.items()}) for key, fields, cells in rows)

    def cell_types(self) -> dict[str, CellTypes]:
        """Return the kinds of cells of each carried column, in order."""
        types = {name: CellTypes() for name in self._carried}
        for (carried,) in self._db.rows("SELECT carried FROM rows WHERE carried IS NOT NULL"):
            for name, cell in json.loads(carried).items():
                types[name].add(unpack(cell))
        return types

    def lines(self, unfinished: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the line of each row, in the rows' order; carried columns come last.

        :param unfinished: takes the fields of a row that has no line, and returns its line without the key.
        """
        nothing = dict.fromkeys(self._carried)
        query = "SELECT key, fields, carried, line FROM rows LEFT JOIN lines USING (number) ORDER BY number"
        for key, fields, carried, text in self._db.rows(query):
            line = unfinished(json.loads(fields)) if text is None else _unpacked(text)
            yield {**line, "key": key, **nothing, **_unpacked(carried or "{}")}


def _packed(cells: Mapping[str, Any]) -> str:
    return json.dumps({name: pack(cell) for name, cell in cells.items()})


def _unpacked(text: str) -> dict[str, Any]:
    return {name: unpack(cell) for name, cell in json.loads(text).items()}
