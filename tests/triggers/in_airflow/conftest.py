"""One Airflow with its triggerers, an emulator and an S3 server, for the whole session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deepshi_provider.emulator.testing import Emulator
from tests.services.airflow import Airflow
from tests.services.seaweedfs import SeaweedFS
from tests.triggers.in_airflow.world import API_KEY, World

DAGS = Path(__file__).parent / "dags"


@pytest.fixture(scope="package")
def running_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("deferred")
    (root / "images").mkdir()
    with (
        Emulator(latency=0.5, api_key=API_KEY, tls=True) as deepshi,
        SeaweedFS(root / "s3") as s3,
        Airflow(
            root / "airflow",
            DAGS,
            env={
                "AIRFLOW_CONN_DEEPSHI_DEFAULT": deepshi.connection_json(output_uri=(root / "images").as_uri()),
                "AIRFLOW_CONN_S3_TEST": s3.airflow_connection_json(),
            },
        ) as airflow,
    ):
        for dag_id in ("deferred", "many"):
            airflow.wait_for_dag(dag_id)
        yield World(airflow=airflow, deepshi=deepshi, s3=s3, images=root / "images")


@pytest.fixture
def world(running_world: World) -> World:
    """The running services, with the emulator reset to no faults and default settings."""
    running_world.reset()
    return running_world
