"""Opens remote directories with Airflow's ``ObjectStoragePath`` and a connection."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.sdk import BaseHook, ObjectStoragePath

from deepshi_provider.client.settings import Settings
from deepshi_provider.exceptions import InvalidConnection
from deepshi_provider.hooks.supervisor import one_at_a_time
from deepshi_provider.journal.entries import Owner, path_part
from deepshi_provider.store.locations import Location
from deepshi_provider.store.store import PATIENCE, Store
from deepshi_provider.store.stores import Stores


def open_with_airflow(location: Location, conn_id: str | None) -> tuple[Any, str]:
    """Open a remote directory with an Airflow connection, or with the store's own defaults.

    :raises InvalidConnection: the connection is not defined; Airflow would use anonymous access.
    """
    with one_at_a_time():
        if conn_id:
            try:
                BaseHook.get_connection(conn_id)
            except AirflowNotFoundException as err:
                raise InvalidConnection(f"The connection {conn_id!r} of the object store is not defined") from err
        path = ObjectStoragePath(location.uri, conn_id=conn_id)
        return path.fs, str(path.path)


STORES = Stores(open_remote=open_with_airflow)


def shared_store(settings: Settings, *, patience: float = PATIENCE) -> Store | None:
    """Return the connection's ``output_uri``, in which tasks share spending and prices; ``None`` if it has none."""
    uri = settings.output_uri
    return STORES.at(uri, settings.output_conn_id, patience=patience) if uri else None


def default_output_uri(base: str, owner: Owner) -> str:
    """Return the directory of a task instance: ``<base>/<dag_id>/<run_id>/<task_id>[/<map_index>]``."""
    parts = [owner.dag_id, owner.run_id, owner.task_id]
    if owner.map_index >= 0:
        parts.append(str(owner.map_index))
    return "/".join([base.rstrip("/"), *(path_part(part) for part in parts)])
