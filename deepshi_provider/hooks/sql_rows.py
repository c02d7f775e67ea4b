"""Reads the rows of a batch from any database with a SQL provider for Airflow."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.sdk import BaseHook

from deepshi_provider.batch.columns import Header, check_differ, ignore_header
from deepshi_provider.exceptions import DeepshiError, InvalidConnection, InvalidRequest, StorageFailed

#: Rows per fetch.
_CHUNK = 500
_CURSOR = "deepshi_rows"


def query_rows(
    conn_id: str,
    sql: str,
    parameters: Iterable[Any] | Mapping[str, Any] | None,
    header: Header = ignore_header,
) -> Generator[dict[str, Any], None, None]:
    """Yield the rows of a query, with a server-side cursor where the driver has one.

    :param parameters: values for the placeholders, in the driver's form.
    :param header: called with the columns.
    :raises InvalidConnection: the connection is not defined, or not of a SQL type.
    :raises InvalidRequest: two columns have the same name, or there is no Python value for a cell.
    :raises StorageFailed: the database refused the query, or the connection broke.
    """
    hook = _hook(conn_id)
    source = f"requests_sql on connection {conn_id!r}"
    try:
        with _closed(hook.get_conn()) as connection, _cursor(connection) as cursor:
            statement = sql.strip().rstrip(";")
            cursor.execute(statement, parameters) if parameters else cursor.execute(statement)
            # psycopg2 knows the columns of a server-side cursor only after the first rows.
            chunk = cursor.fetchmany(_CHUNK)
            if cursor.description is None:
                raise InvalidRequest(f"{source} returns no rows; a query is needed")
            names = [column[0] for column in cursor.description]
            check_differ(source, names)
            header(names)
            while chunk:
                yield from (_row(names, row) for row in chunk)
                chunk = cursor.fetchmany(_CHUNK)
    except DeepshiError:
        raise
    except (OverflowError, ValueError) as err:
        raise InvalidRequest(f"{source} has a value that Python or its driver does not support: {err}") from err
    except Exception as err:  # each driver raises its own errors
        raise StorageFailed(f"{source} failed: {type(err).__name__}: {err}", charged="no") from err


def _hook(conn_id: str) -> Any:
    try:
        from airflow.providers.common.sql.hooks.sql import DbApiHook
    except ImportError as err:
        raise InvalidRequest("requests_sql needs the extra 'sql' of airflow-provider-deepshi") from err
    try:
        hook = BaseHook.get_hook(conn_id)
    except AirflowNotFoundException as err:
        raise InvalidConnection(f"sql_conn_id: connection {conn_id!r} is not defined") from err
    except Exception as err:  # Airflow's error for a connection type without its provider differs between versions
        raise InvalidConnection(f"sql_conn_id: connection {conn_id!r} cannot be used: {err}") from err
    if not isinstance(hook, DbApiHook):
        raise InvalidConnection(f"sql_conn_id: connection {conn_id!r} is not of a SQL type")
    return hook


@contextmanager
def _closed(resource: Any) -> Iterator[Any]:
    """Close a connection or cursor in the end, whatever that raises; only the query's own errors matter."""
    try:
        yield resource
    finally:
        with suppress(Exception):  # each driver raises its own errors, mysql-connector if rows are left
            resource.close()


def _cursor(connection: Any) -> AbstractContextManager[Any]:
    """Return a cursor; a server-side one if the driver's default cursor would fetch the whole result."""
    module = type(connection).__module__.partition(".")[0]
    if module in ("psycopg", "psycopg2"):
        return _closed(connection.cursor(name=_CURSOR))
    if module == "MySQLdb":
        from MySQLdb.cursors import SSCursor

        return nullcontext(connection.cursor(SSCursor))  # closing it would read all rows that are left
    return _closed(connection.cursor())


def _row(names: list[str], row: Any) -> dict[str, Any]:
    return dict(row) if isinstance(row, Mapping) else dict(zip(names, row, strict=True))
