"""Reads rows from the frames and tables of any library, through Arrow's C stream interface."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from deepshi_provider.batch.columns import Header, check_differ, ignore_header
from deepshi_provider.exceptions import InvalidRequest

#: Rows per conversion to Python objects.
_CHUNK = 1000
#: Errors of cells that Python has no value for: dates out of its range, unknown time zones.
_NO_VALUE = (OverflowError, ValueError, LookupError)
#: What pyarrow calls the nameless index of a pandas frame, which is a column only if rows have been left out.
_INDEX = re.compile(r"__index_level_\d+__", re.ASCII)


def is_table(value: Any) -> bool:
    """Return whether a value has Arrow's C stream interface, as frames of pandas and polars and tables of DuckDB do."""
    return hasattr(value, "__arrow_c_stream__")


def table_rows(table: Any, header: Header = ignore_header) -> Iterator[dict[str, Any]]:
    """Yield the rows of a frame or table.

    :param header: called with its columns.
    :raises InvalidRequest: pyarrow is missing, or the table cannot be read.
    """
    kind = type(table).__name__
    try:
        import pyarrow as pa
    except ImportError as err:
        raise InvalidRequest(f"A {kind} as rows needs the extra 'parquet' of airflow-provider-deepshi") from err
    try:
        reader = pa.RecordBatchReader.from_stream(table)
        names = column_names(reader.schema)
        check_differ(kind, names)
        header(names)
        yield from batch_rows(reader)
    except (pa.ArrowException, ValueError, TypeError) as err:
        raise InvalidRequest(f"The {kind} of rows cannot be read: {err}") from err


def column_names(schema: Any) -> list[str]:
    """Return the names of a schema's columns, without nameless indexes of pandas."""
    return [name for name in schema.names if not _INDEX.fullmatch(name)]


def batch_rows(batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of record batches.

    :raises InvalidRequest: Python has no value for a cell, such as a date after the year 9999.
    """
    import pyarrow as pa

    before = 0
    for batch in batches:
        batch = batch.select(column_names(batch.schema))
        # Python's datetime has no nanoseconds.
        names = [f.name for f in batch.schema if pa.types.is_timestamp(f.type) and f.type.unit == "ns"]
        for name in names:
            at = batch.schema.get_field_index(name)
            kind = pa.timestamp("us", tz=batch.schema.field(at).type.tz)
            batch = batch.set_column(at, name, batch.column(at).cast(kind, safe=False))
        for start in range(0, batch.num_rows, _CHUNK):
            yield from _objects(batch.slice(start, _CHUNK), before + start)
        before += batch.num_rows


def _objects(batch: Any, before: int) -> list[dict[str, Any]]:
    """Return the rows of a record batch as Python objects.

    :param before: number of rows before it.
    """
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except _NO_VALUE as err:
        raise _wrong_cell(batch, before) or err from None
    return rows


def _wrong_cell(batch: Any, before: int) -> InvalidRequest | None:
    for row in range(batch.num_rows):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                column[row].as_py()
            except _NO_VALUE as err:
                return InvalidRequest(
                    f"Row {before + row + 1}: the column {name[:100]!r} has a value that Python does not support, of "
                    f"type {column.type}: {err}"
                )
    return None
