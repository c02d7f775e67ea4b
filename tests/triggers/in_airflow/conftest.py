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

#: Task processes are forked from the scheduler: with these imports there, each starts a second earlier.
#: In the triggerer a full run of the garbage collector stops the loop for 0.2 s and more, by the million objects that
#: Airflow and botocore keep. Without these objects, what is measured is what triggers do.
PRELOAD = """
import gc
import os
import sys

if {"scheduler", "triggerer"} & set(sys.argv):
    import aiobotocore.session
    import s3fs
    import deepshi_provider.operators.images

if "triggerer" in sys.argv:
    os.register_at_fork(after_in_child=gc.freeze)
"""


@pytest.fixture(scope="package")
def running_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("deferred")
    (root / "images").mkdir()
    config = root / "airflow" / "config"
    config.mkdir(parents=True)
    (config / "airflow_local_settings.py").write_text(PRELOAD)
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
