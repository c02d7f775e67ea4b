"""Rows of a batch from a file on any object store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.batch.rows import check_rows, read_file
from deepshi_provider.store.stores import Stores


async def read_requests(
    uri: str, conn_id: str | None, table: RowTable, defaults: Mapping[str, Any], stream: bool | None, stores: Stores
) -> None:
    """Fill a table with the checked rows of a file.

    :raises InvalidRequest: the URI or a row cannot be used, or the file is not what its name says.
    :raises StorageFailed: the file cannot be read.
    """
    store, name = stores.object_at(uri, conn_id)
    await store.process(name, lambda file: table.fill(check_rows(read_file(uri, file), defaults, stream)))
