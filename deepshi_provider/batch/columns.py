"""Columns that are not request fields: the row's key, columns for templates, and carried columns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal, NamedTuple

from deepshi_provider.api.requests import EditRequest
from deepshi_provider.api.texts import did_you_mean
from deepshi_provider.batch.cells import check_name, is_missing, native
from deepshi_provider.batch.manifest import MANIFEST_COLUMNS
from deepshi_provider.exceptions import InvalidRequest

log = logging.getLogger(__name__)

#: Columns that any row may have.
COLUMNS = frozenset(EditRequest.model_fields) - {"stream"} | {"key", "extra_params"}

#: Takes the names of a table's columns before its first row.
Header = Callable[[Sequence[str]], None]

_RESERVED = {name.casefold(): name for name in MANIFEST_COLUMNS}
#: Maximum number of carried columns in a manifest; each row of a JSONL file may have different ones.
_MOST_CARRIED = 1000


class Columns(NamedTuple):
    """How an operator uses the columns of its rows.

    :param key: the column with the row's key; ``None`` for ``key`` itself, which may be missing.
    :param carry: columns to copy to the manifest: names, or ``"*"`` for all that are not request fields.
    """

    key: str | None = None
    carry: Literal["*"] | tuple[str, ...] = ()

    def known(self, used: frozenset[str]) -> frozenset[str]:
        """Return the columns that a row may have.

        :param used: columns that templates read.
        """
        named = () if self.carry == "*" else self.carry
        return COLUMNS.union(used, named, () if self.key is None else (self.key,))

    def check_names(self, row: Mapping[Any, Any], used: frozenset[str]) -> None:
        """Check that all columns of a row are known: an unknown one may be a typo, which would be paid for.

        :raises InvalidRequest: a column is unknown; the message suggests similar names.
        """
        known = self.known(used)
        unknown = [] if self.carry == "*" else sorted(row.keys() - known, key=repr)
        if not unknown:
            return
        meant = "".join(dict.fromkeys(did_you_mean(name, known) for name in unknown))
        raise InvalidRequest(
            f"unknown column {', '.join(repr(name)[:100] for name in unknown[:5])}; put fields of the model into "
            f"extra_params.{meant} The columns are {', '.join(sorted(known))}. To copy others to the manifest, list "
            "them in carry, or use carry='*'"
        )

    def warn_of_typing_errors(self, names: AbstractSet[Any], used: frozenset[str]) -> None:
        """Warn of carried columns whose names resemble request fields, since their values are not sent.

        :param names: columns that no earlier row had.
        :param used: columns that templates read.
        """
        known = self.known(used)
        for name in sorted(names - known, key=repr) if self.carry == "*" else ():
            if meant := did_you_mean(name, COLUMNS):
                log.warning(
                    "The column %r is copied to the manifest and is not sent.%s If not, list the columns in carry",
                    name,
                    meant,
                )

    def key_of(self, row: Mapping[Any, Any]) -> str | None:
        """Return the key of a row, or ``None`` if it has none.

        :raises InvalidRequest: the value cannot be a key, or the key column is missing.
        """
        column = "key" if self.key is None else self.key
        value = row.get(column)
        if is_missing(value):
            if self.key is None:
                return None
            meant = "" if column in row else did_you_mean(column, [name for name in row if isinstance(name, str)])
            raise InvalidRequest(f"key_column {column!r} is {'empty' if column in row else 'missing'}.{meant}")
        if column != "key" and "key" in row:
            raise InvalidRequest(f"there is a column 'key' in addition to key_column {column!r}; remove one of them")
        try:
            value = native(value)
        except ValueError as err:
            raise InvalidRequest(f"{column} {err}") from None
        if value is None or isinstance(value, list | dict | bytes):
            raise InvalidRequest(f"{column} is {type(value).__name__}, which cannot be a key")
        return str(value)

    def check_carry(self, names: AbstractSet[Any]) -> None:
        """Check that the rows have every column that ``carry`` lists; otherwise a typo would be a column of nulls.

        :param names: the columns of all rows.
        :raises InvalidRequest: no row has such a column.
        """
        for name in () if self.carry == "*" else self.carry:
            if name not in names:
                meant = did_you_mean(name, [other for other in names if isinstance(other, str)])
                raise InvalidRequest(f"carry: no row has a column {name[:100]!r}.{meant}")

    def carried_names(self, names: Iterable[Any]) -> list[str]:
        """Return the names of the columns to carry.

        :param names: the columns of a row or a table.
        :raises InvalidRequest: the manifest cannot hold such a column.
        """
        chosen = [name for name in names if name not in COLUMNS] if self.carry == "*" else self.carry
        for name in chosen:
            if (own := _RESERVED.get(check_name(name).casefold())) is not None:
                raise InvalidRequest(
                    f"the column {name!r} cannot be carried: the manifest has its own column {own!r}. Rename it, or "
                    "list the other columns in carry"
                )
        return list(chosen)

    def carried(self, row: Mapping[Any, Any]) -> dict[str, Any]:
        """Return the carried cells of a row.

        :raises InvalidRequest: the manifest cannot hold such a column or cell.
        """
        cells: dict[str, Any] = {}
        for column in self.carried_names(row):
            try:
                cells[column] = native(row.get(column))
            except (ValueError, RecursionError) as err:
                raise InvalidRequest(f"the column {column[:100]!r} cannot be carried: it {err}") from None
        return cells


def check_differ(source: str, columns: Sequence[str]) -> None:
    """Check that column names differ; otherwise only one of two columns would be read.

    :param source: where the rows come from, for the message.
    :raises InvalidRequest: two columns have the same name.
    """
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise InvalidRequest(f"{source}: two columns have the same name, {', '.join(map(repr, twice[:5]))}")


def ignore_header(names: Sequence[str]) -> None:
    """Take column names and do nothing."""


class CarriedNames:
    """The names of the carried columns of all rows, in order of their first appearance."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def __iter__(self) -> Any:
        return iter(self._names.values())

    def add(self, name: str) -> None:
        """Add a column.

        :raises InvalidRequest: there are too many, or two differ only in case.
        """
        same = self._names.setdefault(name.casefold(), name)
        if same != name:
            raise InvalidRequest(f"the columns {same!r} and {name!r} are the same to databases; rename one of them")
        if len(self._names) > _MOST_CARRIED:
            raise InvalidRequest(f"more than {_MOST_CARRIED:,} columns are carried; list those that you need in carry")
