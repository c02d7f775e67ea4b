"""The Airflow plugin. Workers import it too, so it imports the web framework only at the first request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

try:
    from airflow.sdk.plugins_manager import AirflowPlugin
except ModuleNotFoundError:  # before Airflow 3.2
    from airflow.plugins_manager import AirflowPlugin  # type: ignore[assignment,unused-ignore]

Message = MutableMapping[str, Any]

PREFIX = "/deepshi-costs"


# Served by the page itself; the browser requests them with the login of Airflow's UI.
_ICONS = {"icon": f"{PREFIX[1:]}/page/icon.svg", "icon_dark_mode": f"{PREFIX[1:]}/page/icon-dark.svg"}


class CostsApp:
    """The ASGI application, created at the first request."""

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        from deepshi_provider.plugins.costs.app import app

        await app(scope, receive, send)


def count_ahead(app: Any) -> Any:
    """Start counting costs in the API server, which calls this when it starts; return the application unchanged."""
    from deepshi_provider.plugins.costs import ahead

    ahead.start()
    return app


class DeepshiCostsPlugin(AirflowPlugin):
    """Adds "Deepshi costs" to the navigation, and as a tab to each DAG, run and task instance.

    The URLs are relative to Airflow's own, which may have a path.
    """

    name = "deepshi_costs"
    # Airflow reads these from the class, and declares them without ClassVar.
    fastapi_apps: list[Any] = [  # noqa: RUF012
        {"app": CostsApp(), "url_prefix": PREFIX, "name": "Deepshi costs"}
    ]
    # No middleware: it is what Airflow calls when the API server starts, in that process only.
    fastapi_root_middlewares: list[Any] = [  # noqa: RUF012
        {"middleware": count_ahead, "name": "Deepshi costs, counted ahead"}
    ]
    external_views: list[Any] = [  # noqa: RUF012
        {
            "name": "Deepshi costs",
            "href": f"{PREFIX[1:]}/",
            "destination": "nav",
            "category": "browse",
            "url_route": "deepshi-costs",
            **_ICONS,
        },
        {
            "name": "Deepshi costs",
            "href": f"{PREFIX[1:]}/?dag_id={{DAG_ID}}&tab=1",
            "destination": "dag",
            "url_route": "deepshi-dag-costs",
            **_ICONS,
        },
        {
            "name": "Deepshi costs",
            "href": f"{PREFIX[1:]}/?dag_id={{DAG_ID}}&run_id={{RUN_ID}}&tab=1",
            "destination": "dag_run",
            "url_route": "deepshi-run-costs",
            **_ICONS,
        },
        {
            "name": "Deepshi costs",
            "href": f"{PREFIX[1:]}/?dag_id={{DAG_ID}}&run_id={{RUN_ID}}&task_id={{TASK_ID}}"
            "&map_index={MAP_INDEX}&tab=1",
            "destination": "task_instance",
            "url_route": "deepshi-task-costs",
            **_ICONS,
        },
    ]
