"""Reads rows from the frames and tables of any library, through Arrow's C stream interface."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from deepshi_provider.batch.columns import check_differ
from deepshi_provider.exceptions import InvalidRequest

#: Rows per conversion to Python objects.
_CHUNK = 1000


def is_table(value: Any) -> bool:
    """Return whether a value has Arrow's C stream interface, as frames of pandas and polars and tables of DuckDB do."""
    return hasattr(value, "__arrow_c_stream__")


def table_rows(table: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a frame or table.

    :raises InvalidRequest: pyarrow is missing, or the table cannot be read.
    """
    kind = type(table).__name__
    try:
        import pyarrow as pa
    except ImportError as err:
        raise InvalidRequest(f"A {kind} as rows needs the extra 'parquet' of airflow-provider-deepshi") from err
    try:
        reader = pa.RecordBatchReader.from_stream(table)
        check_differ(kind, reader.schema.names)
        yield from batch_rows(reader)
    except (pa.ArrowException, ValueError, TypeError) as err:
        raise InvalidRequest(f"The {kind} of rows cannot be read: {err}") from err


def batch_rows(batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of record batches."""
    import pyarrow as pa

    for batch in batches:
        # Python's datetime has no nanoseconds.
        names = [f.name for f in batch.schema if pa.types.is_timestamp(f.type) and f.type.unit == "ns"]
        for name in names:
            at = batch.schema.get_field_index(name)
            kind = pa.timestamp("us", tz=batch.schema.field(at).type.tz)
            batch = batch.set_column(at, name, batch.column(at).cast(kind, safe=False))
        for start in range(0, batch.num_rows, _CHUNK):
            yield from batch.slice(start, _CHUNK).to_pylist()
