"""Fills the row table of a batch operator: from a list, a table, a file or a query."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import ObjectStoragePath

from deepshi_provider.api.texts import is_blank
from deepshi_provider.batch.arrow import is_table, table_rows
from deepshi_provider.batch.cells import is_missing
from deepshi_provider.batch.columns import Header
from deepshi_provider.batch.requests_file import read_requests
from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.batch.rows import check_rows
from deepshi_provider.batch.templates import check_has_none
from deepshi_provider.exceptions import InvalidRequest
from deepshi_provider.hooks.blocking import run_here
from deepshi_provider.hooks.directories import STORES
from deepshi_provider.operators.rendered import FileUri, from_text, input_images, listed, rows_or_uri

if TYPE_CHECKING:
    from deepshi_provider.operators.images import DeepshiGenerateImagesOperator


def fill_rows(task: DeepshiGenerateImagesOperator, rows: RowTable, output_conn_id: str | None) -> None:
    """Check the rows in the operator's rendered fields, and add them to a table.

    :param output_conn_id: connection of the object store, for a file of rows.
    :raises InvalidRequest: there are no rows, or one is not a valid request.
    :raises StorageFailed: the file or the database cannot be read.
    """
    if not is_blank(task.fallbacks):
        check_has_none("fallbacks", [*listed("fallbacks", task.fallbacks)])
    defaults = task.defaults()
    columns = task.columns()
    rows.declare(columns.carried_names(()))
    uri, found = _source(task, lambda names: rows.declare(columns.carried_names(names)))
    if uri is not None:
        run_here(read_requests(uri, output_conn_id, rows, defaults, task.stream, STORES, columns))
    else:
        with contextlib.ExitStack() as stack:
            if isinstance(found, Generator):  # a query: a wrong row must not leave its connection open
                stack.callback(found.close)
            rows.fill(check_rows(found, defaults, task.stream, columns))


def with_input_images(row: Any) -> Any:
    """Return a row with its ``images`` as a list; they may be the XCom of an image task, as in the operators."""
    if not isinstance(row, Mapping) or is_blank(row.get("images")) or is_missing(row["images"]):
        return row
    return {**row, "images": input_images(row["images"])}


def _source(task: DeepshiGenerateImagesOperator, header: Header) -> tuple[str | None, Iterable[Any]]:
    """Return the URI of the file of rows, or the rows."""
    given = [name for name in ("requests", "requests_uri", "requests_sql") if not is_blank(getattr(task, name))]
    if len(given) != 1:
        raise InvalidRequest("Exactly one of requests, requests_uri and requests_sql is needed")
    if given == ["requests_sql"]:
        return None, _queried(task, header)
    value = task.requests_uri if given == ["requests_uri"] else rows_or_uri(task.requests)
    if given == ["requests_uri"] or isinstance(value, os.PathLike | ObjectStoragePath | FileUri):
        return str(value), ()
    return None, table_rows(value, header) if is_table(value) else _with_input_images(listed("requests", value))


def _with_input_images(rows: Iterable[Any]) -> Iterator[Any]:
    for number, row in enumerate(rows, start=1):
        try:
            found = with_input_images(row)
        except InvalidRequest as err:
            raise InvalidRequest(f"Row {number}: {err.message}") from None
        yield found


def _queried(task: DeepshiGenerateImagesOperator, header: Header) -> Iterator[dict[str, Any]]:
    from deepshi_provider.hooks.sql_rows import query_rows  # needs the extra ``sql``

    if is_blank(task.sql_conn_id):
        raise InvalidRequest("requests_sql needs sql_conn_id, the connection of its database")
    return query_rows(str(task.sql_conn_id), str(task.requests_sql), _parameters(task.sql_parameters), header)


def _parameters(value: Any) -> Sequence[Any] | Mapping[str, Any] | None:
    """Return the values of a query's placeholders, also from rendered text; ``None`` if there are none."""
    if is_blank(value):
        return None
    if isinstance(value, str):
        value = from_text("sql_parameters", value)
    if isinstance(value, Mapping | list | tuple):
        return value
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise InvalidRequest(f"sql_parameters: a list or a dictionary is needed, got {type(value).__name__}")
    return list(listed("sql_parameters", value))
