"""One Airflow for all tests that neither stop its processes nor need settings of their own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from deepshi_provider.emulator.testing import Emulator
from tests.services.airflow import Airflow
from tests.services.seaweedfs import S3Server

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class EverydayAirflow:
    """The Airflow and the servers of its connections.

    :param deepshi: the server of ``deepshi_default`` (files), ``deepshi_s3`` (a connection with keys) and
        ``deepshi_s3_env`` (keys from the environment).
    """

    airflow: Airflow
    deepshi: Emulator
    dags: Path

    def add(self, dags: Path) -> None:
        """Add the DAG files of a directory."""
        shutil.copytree(dags, self.dags, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture(scope="session")
def everyday_airflow(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Iterator[EverydayAirflow]:
    root = tmp_path_factory.mktemp("everyday")
    images, dags, s3 = root / "images", root / "dags", s3_server
    images.mkdir()
    dags.mkdir()
    with ExitStack() as running:
        deepshi = running.enter_context(Emulator(tls=True))
        environment = {
            "AIRFLOW_CONN_DEEPSHI_DEFAULT": deepshi.connection_json(output_uri=images.as_uri()),
            "AIRFLOW_CONN_DEEPSHI_S3": deepshi.connection_json(
                output_uri="s3://images/everyday", output_conn_id="s3_test"
            ),
            "AIRFLOW_CONN_DEEPSHI_S3_ENV": deepshi.connection_json(output_uri="s3://images/of-environment"),
            "AIRFLOW_CONN_S3_TEST": s3.airflow_connection_json(),
            # The credentials that boto3 finds without a connection.
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
            "AWS_ENDPOINT_URL": s3.endpoint_url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        }
        airflow = running.enter_context(Airflow(root / "airflow", dags, env=environment))
        yield EverydayAirflow(airflow=airflow, deepshi=deepshi, dags=dags)
