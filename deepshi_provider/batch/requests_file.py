"""Reads the rows of a batch from a file on any object store."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, cast

from deepshi_provider.api.texts import shown_uri
from deepshi_provider.batch.arrow import batch_rows, column_names
from deepshi_provider.batch.columns import COLUMNS, Columns, Header, check_differ, ignore_header
from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.batch.rows import check_rows, used_columns
from deepshi_provider.exceptions import InvalidRequest
from deepshi_provider.store.stores import Stores

_PARQUET_MAGIC = b"PAR1"
_LONGEST_LINE = 4 * 2**20  # characters
#: Bytes of a column of a Parquet file to read at once.
_PIECE = 2**20


async def read_requests(
    uri: str,
    conn_id: str | None,
    table: RowTable,
    defaults: Mapping[str, Any],
    stream: bool | None,
    stores: Stores,
    columns: Columns,
) -> None:
    """Fill a table with the checked rows of a file.

    :raises InvalidRequest: the URI or a row is invalid, or the file's content does not match its ending.
    :raises StorageFailed: the file cannot be read.
    """
    store, name = stores.object_at(uri, conn_id)
    known = columns.known(used_columns(defaults))

    def header(names: Sequence[str]) -> None:
        table.declare(columns.carried_names(names))

    def fill(file: BinaryIO) -> None:
        table.fill(check_rows(read_file(uri, file, known, header), defaults, stream, columns))

    await store.process(name, fill)


def read_file(
    uri: str, file: BinaryIO, known: Collection[str] = COLUMNS, header: Header = ignore_header
) -> Iterator[dict[str, Any]]:
    """Return the rows of an open JSONL, CSV or Parquet file, by its ending.

    :param known: columns of which a CSV header must have at least one.
    :param header: called with the columns of a CSV or Parquet file.
    :raises InvalidRequest: the file's content does not match its ending; the message names the line.
    """
    ending = uri.rpartition(".")[2].lower()
    uri = shown_uri(uri)
    if ending in ("jsonl", "ndjson"):
        return _read_jsonl(uri, file)
    if ending == "csv":
        return _read_csv(uri, file, known, header)
    if ending in ("parquet", "pq"):
        return _read_parquet(uri, file, header)
    raise InvalidRequest(f"requests_uri {uri} must end in .jsonl, .csv or .parquet")


def _lines(uri: str, file: BinaryIO, newline: str) -> Iterator[str]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)
    try:
        while line := text.readline(_LONGEST_LINE):
            yield line
    except UnicodeDecodeError:
        raise InvalidRequest(f"{uri} is not a text file in UTF-8") from None
    finally:
        if not file.closed:
            text.detach()  # the caller closes the file


def _read_jsonl(uri: str, file: BinaryIO) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(uri, file, "\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=functools.partial(_object, f"{uri}, line {number}"))
        except InvalidRequest:
            raise
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise InvalidRequest(f"{uri} is not JSONL: line {number} is not a JSON object")
        yield row


def _read_csv(uri: str, file: BinaryIO, known: Collection[str], header: Header) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(_lines(uri, file, ""), strict=True)
    try:
        columns = reader.fieldnames or []
        if not set(columns) & set(known):
            raise InvalidRequest(
                f"{uri} is not CSV with a header: none of its columns is known, {columns[:5]}. The columns are "
                f"{', '.join(sorted(known))}"
            )
        check_differ(uri, columns)
        header(columns)
        for row in reader:
            if None in row or None in row.values():
                raise InvalidRequest(f"{uri}, line {reader.line_num}: the number of fields differs from the header's")
            yield row
    except csv.Error as err:
        raise InvalidRequest(f"{uri} is not CSV, line {reader.line_num}: {err}") from None


def _read_parquet(uri: str, file: BinaryIO, header: Header) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as err:
        raise InvalidRequest("Parquet needs the extra 'parquet' of airflow-provider-deepshi") from err
    magic = file.read(4)
    file.seek(0)
    if magic != _PARQUET_MAGIC:
        raise InvalidRequest(f"{uri} is not a Parquet file")
    try:
        with _on_disk(file) as local:
            parquet = pyarrow.parquet.ParquetFile(
                local,
                # Otherwise it reads whole columns of a row group, which may be the whole file.
                buffer_size=_PIECE,
                pre_buffer=False,
                # Spark's older timestamps; as nanoseconds, years outside 1677 to 2262 become others.
                coerce_int96_timestamp_unit="us",
            )
            names = column_names(parquet.schema_arrow)
            check_differ(uri, names)
            header(names)
            yield from batch_rows(parquet.iter_batches(batch_size=1000, use_threads=False))
    except pyarrow.ArrowException as err:
        raise InvalidRequest(f"{uri} is not a Parquet file: {err}") from err


@contextlib.contextmanager
def _on_disk(file: BinaryIO) -> Iterator[BinaryIO]:
    """Return a local file itself, and a copy of a remote one, from which each small read would be a request."""
    try:
        file.fileno()
    except io.UnsupportedOperation:
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy, _PIECE)
            copy.seek(0)
            yield cast(BinaryIO, copy)
    else:
        yield file


def _object(place: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        check_differ(place, [name for name, _ in pairs])
    return value
