"""Checks a file of requests against the catalog, row by row, before anything is paid for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from deepshi_provider.api.catalog import Catalog
from deepshi_provider.api.contradictions import complaints
from deepshi_provider.batch.columns import Columns
from deepshi_provider.batch.requests_file import read_file
from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.batch.rows import check_row, request_of, used_columns
from deepshi_provider.exceptions import InvalidRequest
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.directories import STORES


@dataclass(kw_only=True)
class Report:
    """The result of a check.

    :param rows: number of rows read.
    :param images: number of images that the rows without complaints request.
    :param complaints: number of printed complaints.
    """

    rows: int = 0
    images: int = 0
    complaints: int = 0

    @property
    def summary(self) -> str:
        """One line for people."""
        found = f"{self.complaints:,} complaints" if self.complaints else "no complaints"
        return f"{self.rows:,} rows read, {found}; rows without complaints request {self.images:,} images"


async def check_file(
    hook: DeepshiHook,
    file: str,
    conn_id: str | None,
    defaults: Mapping[str, Any],
    columns: Columns,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> Report:
    """Check each row by the rules of a batch, then against the catalog entry of its model.

    Input images are not opened.

    :param file: local path or URI of a JSONL, CSV or Parquet file.
    :param conn_id: Airflow connection of the file's store.
    :param defaults: default values of fields.
    :param columns: the meaning of other columns.
    :param say: called with each complaint, in the rows' order; the text begins with the row's number, from 1.
    :param warn: called with each complaint that is only a likely mistake.
    :raises StorageFailed: the file cannot be read.
    :raises DeepshiError: the catalog cannot be read.
    """
    store, name = STORES.object_at(file, conn_id)
    known = columns.known(used_columns(defaults))
    # Before the file, so that a wrong connection fails immediately.
    catalog = await (await hook.aclient()).catalog()

    def work(opened: BinaryIO) -> Report:
        with RowTable() as table:
            return _check(read_file(file, opened, known), defaults, columns, catalog, table, say, warn)

    return await store.process(name, work)


def _check(
    rows: Iterable[Mapping[str, Any]],
    defaults: Mapping[str, Any],
    columns: Columns,
    catalog: Catalog,
    table: RowTable,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> Report:
    report, used, names = Report(), used_columns(defaults), set[Any]()
    try:
        for number, row in enumerate(rows, start=1):
            report.rows = number
            if new := row.keys() - names:
                names |= new
                columns.warn_of_typing_errors(new, used)
            found, likely, images = _look_over(number, row, defaults, columns, catalog, table)
            report.images += images if not found else 0
            report.complaints += len(found)
            for complaint in found:
                say(f"row {number}: {complaint}")
            for complaint in likely:
                warn(f"row {number}: {complaint}")
        if names:
            columns.check_carry(names)
    except InvalidRequest as err:  # the rest of the file does not match its ending, or a column is missing
        if not report.rows:
            raise
        report.complaints += 1
        say(f"after row {report.rows}: {err.message}")
    return report


def _look_over(
    number: int,
    row: Mapping[str, Any],
    defaults: Mapping[str, Any],
    columns: Columns,
    catalog: Catalog,
    table: RowTable,
) -> tuple[list[str], list[str], int]:
    """Return a row's complaints, its likely mistakes, and the number of images that it requests."""
    try:
        checked = check_row(row, defaults, None, columns)
        table.add(number, *checked)
    except InvalidRequest as err:
        return [err.message.removeprefix("The request was not sent: ")], [], 0
    request = request_of(checked.fields)
    found = complaints(request, catalog)
    certain = [complaint.text for complaint in found if complaint.is_certain]
    return certain, [complaint.text for complaint in found if not complaint.is_certain], request.n
