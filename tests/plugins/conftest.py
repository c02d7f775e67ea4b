"""One Airflow with the page for the whole session, with finished runs, and a real browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepshi_provider.emulator.testing import Emulator
from tests.plugins.site import Site
from tests.services.airflow import Airflow
from tests.support.browser import chromium

__all__ = ["chromium"]

ROOT = Path(__file__).parents[2]
DAGS = Path(__file__).parent / "dags"


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("site")
    images = root / "images"
    images.mkdir()
    with (
        Emulator() as deepshi,
        Airflow(
            root / "airflow",
            DAGS,
            env={
                "AIRFLOW_CONN_DEEPSHI_DEFAULT": deepshi.connection_json(
                    output_uri=images.as_uri(), max_cost_usd_per_month=250
                ),
                "AIRFLOW__CORE__AUTH_MANAGER": "tests.plugins.auth_manager.LimitedAuthManager",
                "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            },
            triggerers=0,
        ) as airflow,
    ):
        runs = {}
        deepshi.fault("no_terminal", prompt="a lost boat", times=1)
        # One after another, so that the ledger has the cost of each.
        ledgers: dict[str, dict[str, Any]] = {}
        for dag_id in ("pictures", "secret_pictures", "hooked", "strange"):
            airflow.wait_for_dag(dag_id)
            runs[dag_id] = airflow.trigger(dag_id)
            state = airflow.wait_for_run(dag_id, runs[dag_id], timeout=180)
            tasks = airflow.task_instances(dag_id, runs[dag_id])
            assert state == "success", [(task["task_id"], task["map_index"], task["state"]) for task in tasks]
            ledgers[dag_id] = deepshi.stats()
        found = Site(airflow=airflow, deepshi=deepshi, images=images, runs=runs, ledgers=ledgers)
        yield found
        for client in found.clients.values():
            client.close()


@pytest.fixture
def strange(site: Site) -> Iterator[Site]:
    """The site, for a test that writes XComs, which are deleted afterwards."""
    yield site
    site.forget_sheets()
