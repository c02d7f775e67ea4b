"""An auth manager with rights per DAG: viewers may not read DAGs whose names begin with ``secret``."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager


class LimitedAuthManager(SimpleAuthManager):
    def is_authorized_dag(self, *, method: Any, user: Any, access_entity: Any = None, details: Any = None) -> bool:
        if user.role == "viewer" and details and details.id and details.id.startswith("secret"):
            return False
        return super().is_authorized_dag(method=method, user=user, access_entity=access_entity, details=details)
