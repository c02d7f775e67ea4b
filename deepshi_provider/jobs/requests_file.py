"""Rows of a batch from a file on any object store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepshi_provider.jobs.rows import check_rows, read_file
from deepshi_provider.jobs.table import RowTable
from deepshi_provider.locations import split
from deepshi_provider.storage import Store


async def read_requests(
    uri: str, conn_id: str | None, table: RowTable, defaults: Mapping[str, Any], stream: bool | None
) -> None:
    """Fill a table with the checked rows of a file.

    :raises InvalidRequest: the URI or a row cannot be used, or the file is not what its name says.
    :raises StorageFailed: the file cannot be read.
    """
    folder, name = split(uri)
    await Store(folder, conn_id).process(
        name, lambda file: table.fill(check_rows(read_file(uri, file), defaults, stream))
    )
