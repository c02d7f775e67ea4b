"""One Airflow for all reviews, with pictures in files and on S3."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepshi_provider.emulator.testing import Emulator
from tests.review.reviewing import Reviewing
from tests.services.airflow import Airflow
from tests.services.seaweedfs import SeaweedFS
from tests.support.browser import chromium

__all__ = ["chromium"]

ROOT = Path(__file__).parents[2]
DAGS = Path(__file__).parent / "dags"


@pytest.fixture(scope="package")
def reviewing(tmp_path_factory: pytest.TempPathFactory, seaweedfs_process: SeaweedFS) -> Iterator[Reviewing]:
    root = tmp_path_factory.mktemp("reviewing")
    images = root / "images"
    images.mkdir()
    s3 = seaweedfs_process
    with (
        Emulator() as deepshi,
        Airflow(
            root / "airflow",
            DAGS,
            env={
                "AIRFLOW_CONN_DEEPSHI_DEFAULT": deepshi.connection_json(output_uri=images.as_uri()),
                "AIRFLOW_CONN_DEEPSHI_S3": deepshi.connection_json(
                    output_uri="s3://images/reviews", output_conn_id="s3_test"
                ),
                "AIRFLOW_CONN_DEEPSHI_S3_ENV": deepshi.connection_json(output_uri="s3://images/of-environment"),
                "AIRFLOW_CONN_S3_TEST": s3.airflow_connection_json(),
                # The credentials that boto3 finds without a connection.
                "AWS_ACCESS_KEY_ID": s3.access_key,
                "AWS_SECRET_ACCESS_KEY": s3.secret_key,
                "AWS_ENDPOINT_URL": s3.endpoint_url,
                "AWS_DEFAULT_REGION": "us-east-1",
                "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            },
        ) as airflow,
    ):
        found = Reviewing(airflow=airflow, deepshi=deepshi)
        yield found
        for client in found.clients.values():
            client.close()
