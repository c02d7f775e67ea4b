"""The Airflow plugin. Workers import it too, so it imports no web framework until a request comes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

try:
    from airflow.sdk.plugins_manager import AirflowPlugin
except ModuleNotFoundError:  # before Airflow 3.2
    from airflow.plugins_manager import AirflowPlugin  # type: ignore[assignment,unused-ignore]

Message = MutableMapping[str, Any]

PREFIX = "/deepshi-costs"


class CostsApp:
    """The ASGI application, made at its first request."""

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        from deepshi_provider.plugins.costs.app import app

        await app(scope, receive, send)


class DeepshiCostsPlugin(AirflowPlugin):
    """Adds "Deepshi costs" to the navigation, and as a tab to each DAG run.

    The addresses are relative: to where Airflow is served from, which may be below a path.
    """

    name = "deepshi_costs"
    # Airflow reads them from the class, and declares them without ClassVar.
    fastapi_apps: list[Any] = [  # noqa: RUF012
        {"app": CostsApp(), "url_prefix": PREFIX, "name": "Deepshi costs"}
    ]
    external_views: list[Any] = [  # noqa: RUF012
        {
            "name": "Deepshi costs",
            "href": f"{PREFIX[1:]}/",
            "destination": "nav",
            "category": "browse",
            "url_route": "deepshi-costs",
        },
        {
            "name": "Deepshi costs",
            "href": f"{PREFIX[1:]}/?dag_id={{DAG_ID}}&run_id={{RUN_ID}}&tab=1",
            "destination": "dag_run",
            "url_route": "deepshi-run-costs",
        },
    ]
