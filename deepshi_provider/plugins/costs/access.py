"""Login and rights of the page's readers: the only module that uses non-public parts of Airflow.

It is tested with each supported version of Airflow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, get_user, requires_access_dag
from airflow.models.connection import Connection
from airflow.models.dag import DagModel, DagTag
from airflow.models.dagrun import DagRun
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from fastapi import Depends

__all__ = [
    "Connection",
    "DagModel",
    "DagRun",
    "DagTag",
    "Reader",
    "ReaderDep",
    "RenderedTaskInstanceFields",
    "XComModel",
    "create_session",
]

#: Refuses requests without a login (401).
logged_in: Any = Depends(get_user)

# Airflow's own check for XComs, which also refuses (403) a ``dag_id`` in the query that the user may not read.
_xcoms_readable: Callable[..., Any] = requires_access_dag(method="GET", access_entity=DagAccessEntity.XCOM)


class Reader:
    """A logged-in user who may read XComs.

    :ivar dag_ids: the DAGs that this user may read.
    """

    def __init__(self, user: Any) -> None:
        self._user = user
        self.dag_ids: set[str] = get_auth_manager().get_authorized_dag_ids(user=user, method="GET")

    def may_read_prompts(self, dag_id: str) -> bool:
        """Return whether Airflow shows the rendered templates of this DAG to the user."""
        return get_auth_manager().is_authorized_dag(
            method="GET",
            access_entity=DagAccessEntity.TASK_INSTANCE,
            details=DagDetails(id=dag_id),
            user=self._user,
        )


def _reader(user: GetUserDep, _: Annotated[None, Depends(_xcoms_readable)]) -> Reader:
    return Reader(user)


ReaderDep = Annotated[Reader, Depends(_reader)]
