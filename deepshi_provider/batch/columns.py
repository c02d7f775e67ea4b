"""What columns mean that are no fields of a request: they name the row, are read by templates, or are carried along."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal

from deepshi_provider.api.requests import EditRequest
from deepshi_provider.api.texts import did_you_mean
from deepshi_provider.batch.cells import check_name, is_missing, native
from deepshi_provider.batch.manifest import MANIFEST_COLUMNS
from deepshi_provider.exceptions import InvalidRequest

log = logging.getLogger(__name__)

#: Columns that every row may have.
COLUMNS = frozenset(EditRequest.model_fields) - {"stream"} | {"key", "extra_params"}

_RESERVED = {name.casefold(): name for name in MANIFEST_COLUMNS}
#: Columns that a manifest may have besides its own; rows of JSONL may each have others.
_MOST_CARRIED = 1000


@dataclass(frozen=True, kw_only=True)
class Columns:
    """How an operator uses the columns of its rows.

    :param key: the column that holds the row's key; ``None`` for ``key`` itself, which may be missing.
    :param carry: columns that go to the manifest: names, or ``"*"`` for all that are no fields of a request.
    """

    key: str | None = None
    carry: Literal["*"] | tuple[str, ...] = ()

    def known(self, used: frozenset[str]) -> frozenset[str]:
        """Return the columns that a row is expected to have.

        :param used: by templates.
        """
        named = () if self.carry == "*" else self.carry
        return COLUMNS.union(used, named, () if self.key is None else (self.key,))

    def check_names(self, row: Mapping[Any, Any], used: frozenset[str]) -> None:
        """Make sure that all names of a row are known: an unknown one may be a typing error, and is paid for.

        :raises InvalidRequest: the message names what may have been meant.
        """
        known = self.known(used)
        unknown = [] if self.carry == "*" else sorted(row.keys() - known, key=repr)
        if not unknown:
            return
        meant = "".join(dict.fromkeys(did_you_mean(name, known) for name in unknown))
        raise InvalidRequest(
            f"unknown column {', '.join(repr(name)[:100] for name in unknown[:5])}; put fields of the model into "
            f"extra_params.{meant} The columns are {', '.join(sorted(known))}. To take others to the manifest, name "
            "them in carry, or all with carry='*'"
        )

    def warn_of_typing_errors(self, names: AbstractSet[Any], used: frozenset[str]) -> None:
        """Warn of carried columns that look like fields of a request: what they hold is not sent.

        :param names: columns that no earlier row had.
        :param used: by templates.
        """
        known = self.known(used)
        for name in sorted(names - known, key=repr) if self.carry == "*" else ():
            if meant := did_you_mean(name, COLUMNS):
                log.warning(
                    "The column %r goes to the manifest and is not sent.%s If not, name the columns in carry",
                    name,
                    meant,
                )

    def key_of(self, row: Mapping[Any, Any]) -> str | None:
        """Return the key that a row names, if it names one.

        :raises InvalidRequest: it cannot be one, or the key column is missing.
        """
        column = "key" if self.key is None else self.key
        value = row.get(column)
        if is_missing(value):
            if self.key is None:
                return None
            meant = "" if column in row else did_you_mean(column, [name for name in row if isinstance(name, str)])
            raise InvalidRequest(f"key_column {column!r} is {'empty' if column in row else 'missing'}.{meant}")
        if column != "key" and "key" in row:
            raise InvalidRequest(f"there is a column 'key' beside key_column {column!r}; leave one of them out")
        try:
            value = native(value)
        except ValueError as err:
            raise InvalidRequest(f"{column} {err}") from None
        if isinstance(value, list | dict | bytes):
            raise InvalidRequest(f"{column} is {type(value).__name__}, which names nothing")
        return str(value)

    def carried(self, row: Mapping[Any, Any]) -> dict[str, Any]:
        """Return the cells of a row that go to the manifest.

        :raises InvalidRequest: the manifest cannot have such a column, or not such a cell.
        """
        names = [name for name in row if name not in COLUMNS] if self.carry == "*" else self.carry
        cells: dict[str, Any] = {}
        for name in names:
            column = check_name(name)
            if (own := _RESERVED.get(column.casefold())) is not None:
                raise InvalidRequest(
                    f"the column {column!r} cannot be carried: the manifest has a column {own!r} of its own. Give it "
                    "another name, or name the other columns in carry"
                )
            try:
                cells[column] = native(row.get(column))
            except (ValueError, RecursionError) as err:
                raise InvalidRequest(f"the column {column[:100]!r} cannot be carried: it {err}") from None
        return cells


def check_differ(source: str, columns: Sequence[str]) -> None:
    """Make sure that no two columns have one name: only one of them would count.

    :param source: of the rows, for the message.
    :raises InvalidRequest: two do.
    """
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise InvalidRequest(f"{source}: two columns have the same name, {', '.join(map(repr, twice[:5]))}")


class CarriedNames:
    """The names of carried columns over all rows, in the order in which they come."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def __iter__(self) -> Any:
        return iter(self._names.values())

    def add(self, name: str) -> None:
        """Take note of a column.

        :raises InvalidRequest: there are too many, or two differ by upper and lower case alone.
        """
        same = self._names.setdefault(name.casefold(), name)
        if same != name:
            raise InvalidRequest(f"the columns {same!r} and {name!r} are one for databases; rename one of them")
        if len(self._names) > _MOST_CARRIED:
            raise InvalidRequest(f"more than {_MOST_CARRIED:,} columns are carried; name those that you need in carry")
