"""Writes the manifest as a Parquet file, with a type for each column."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timezone
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from itertools import islice
from typing import Any, BinaryIO

from deepshi_provider.batch.cells import as_json, as_text
from deepshi_provider.batch.manifest import EMPTY_LINE, int64
from deepshi_provider.exceptions import InvalidRequest

#: Rows per write, and per row group of the file.
_CHUNK = 2000
#: Type of money: exact to 10⁻¹² dollars.
_DIGITS, _PLACES = 18, 12
#: Maximum digits of a decimal that all readers support.
_MOST_DIGITS = 38
#: Larger integers are not exact as floats.
_EXACT = 2**53


def check_installed() -> None:
    """Check that Parquet files can be written here.

    :raises InvalidRequest: pyarrow is missing.
    """
    try:
        import pyarrow.parquet  # noqa: F401 -- only to check that it is installed
    except ImportError:
        raise InvalidRequest(
            "Nothing was sent: manifest_format='parquet' needs the extra 'parquet' of airflow-provider-deepshi, where "
            "the task runs, and in the triggerer if it is deferred"
        ) from None


class CellTypes:
    """Collects the kinds of cells in a carried column, to choose the column's type."""

    def __init__(self) -> None:
        self._kinds: set[str] = set()
        self._before = self._after = 0
        self._largest = 0

    def add(self, cell: Any) -> None:
        """Add one cell."""
        kind = _kind(cell)
        if kind is None:
            return
        self._kinds.add(kind)
        if isinstance(cell, int):
            self._largest = max(self._largest, abs(cell + (cell < 0)))
            self._before = max(self._before, len(str(abs(cell))))
        elif isinstance(cell, Decimal):
            _, digits, exponent = cell.as_tuple()
            assert isinstance(exponent, int)  # noqa: S101 -- it is finite
            self._after = max(self._after, -exponent)
            self._before = max(self._before, len(digits) + exponent, 1)

    def column(self) -> tuple[Any, Callable[[Any], Any]]:
        """Return the column's pyarrow type, and a function that converts a cell to it.

        A column of several kinds, or of a kind that only some readers support, becomes text, which always works.
        """
        import pyarrow as pa

        kinds = self._kinds
        plain: dict[str, Any] = {
            "bool": pa.bool_(),
            "bytes": pa.binary(),
            "date": pa.date32(),
            "datetime": pa.timestamp("us"),
            "datetime with zone": pa.timestamp("us", tz="UTC"),
            "texts": pa.list_(pa.string()),
            "ints": pa.list_(pa.int64()),
        }
        others = kinds - {"empty"} or {"texts"}
        if "empty" in kinds and others in ({"texts"}, {"ints"}):  # an empty list fits any other
            kinds = others
        if len(kinds) == 1 and (only := next(iter(kinds))) in plain:
            return plain[only], lambda cell: cell
        if kinds == {"int"} and self._largest < 2**63:
            return pa.int64(), lambda cell: cell
        digits = self._before + self._after
        if kinds and kinds <= {"int", "decimal"} and digits <= _MOST_DIGITS:
            # Of a fixed width, since a table made from one day's manifest takes the next day's larger numbers too.
            return pa.decimal128(_MOST_DIGITS, self._after), lambda cell: Decimal(cell)
        if kinds and kinds <= {"int", "float"} and self._largest <= _EXACT:
            return pa.float64(), float
        return pa.string(), _as_string


def write_parquet(
    lines: Callable[[], Iterable[Mapping[str, Any]]], carried: Mapping[str, CellTypes], file: BinaryIO
) -> None:
    """Write one row per row of the batch.

    :param lines: returns all lines of the manifest.
    :param carried: the carried columns, in order.
    """
    import pyarrow as pa
    import pyarrow.parquet

    columns = {**_own_columns(), **{name: types.column() for name, types in carried.items()}}
    schema = pa.schema([pa.field(name, kind) for name, (kind, _) in columns.items()])
    rows = iter(lines())
    with pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while chunk := list(islice(rows, _CHUNK)):
            arrays = [
                pa.array([None if (cell := row.get(name)) is None else convert(cell) for row in chunk], type=kind)
                for name, (kind, convert) in columns.items()
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _own_columns() -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    import pyarrow as pa

    kinds: dict[str, tuple[Any, Callable[[Any], Any]]] = {
        **dict.fromkeys(EMPTY_LINE, (pa.string(), str)),
        **dict.fromkeys(("uris", "warnings"), (pa.list_(pa.string()), list)),
        **dict.fromkeys(("cost_usd", "may_have_cost_usd"), (pa.decimal128(_DIGITS, _PLACES), _money)),
        **dict.fromkeys(("width", "height", "fallback", "attempts"), (pa.int32(), int)),
        **dict.fromkeys(("size_bytes", "seed", "tokens_in", "tokens_out"), (pa.int64(), int)),
        "seconds": (pa.float64(), float),
    }
    return kinds


def _money(amount: Decimal) -> Decimal | None:
    """Return an amount, or ``None`` if it is too large for the column: the manifest must be written in any case."""
    try:
        rounded = amount.quantize(Decimal(1).scaleb(-_PLACES), ROUND_HALF_EVEN)
    except InvalidOperation:
        return None
    return rounded if rounded.adjusted() < _DIGITS - _PLACES else None


def _kind(cell: Any) -> str | None:
    if isinstance(cell, datetime):
        return _datetime_kind(cell)
    if isinstance(cell, list):
        return _list_kind(cell)
    for kind, name in ((bool, "bool"), (int, "int"), (float, "float"), (Decimal, "decimal"), (str, "text")):
        if isinstance(cell, kind):
            return name
    if cell is None:
        return None
    return "date" if isinstance(cell, date) else "bytes" if isinstance(cell, bytes) else "json"


def _datetime_kind(cell: datetime) -> str:
    if cell.utcoffset() is None:
        return "datetime"
    try:
        cell.astimezone(timezone.utc)
    except OverflowError:  # in UTC it is in the year 0 or 10000, which pandas and polars cannot read
        return "text"
    return "datetime with zone"


def _list_kind(cell: list[Any]) -> str:
    if not cell:
        return "empty"
    if all(isinstance(item, str) for item in cell):
        return "texts"
    return "ints" if all(int64(item) is not None for item in cell) else "json"


def _as_string(cell: Any) -> str:
    if isinstance(cell, list | dict):
        return json.dumps(cell, ensure_ascii=False)
    if isinstance(cell, bytes):
        return str(as_json(cell))
    if isinstance(cell, float) and math.isfinite(cell):
        return repr(cell)
    return as_text(cell)
