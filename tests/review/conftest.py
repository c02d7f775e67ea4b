"""Reviews in the everyday Airflow, with pictures in files and on S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.review.reviewing import Reviewing
from tests.support.browser import chromium
from tests.support.everyday_airflow import EverydayAirflow

__all__ = ["chromium"]

DAGS = Path(__file__).parent / "dags"


@pytest.fixture(scope="package")
def reviewing(everyday_airflow: EverydayAirflow) -> Iterator[Reviewing]:
    everyday_airflow.add(DAGS)
    found = Reviewing(airflow=everyday_airflow.airflow, deepshi=everyday_airflow.deepshi)
    yield found
    for client in found.clients.values():
        client.close()
