"""Services and environment that all tests share.

Airflow reads its environment once, when it is first imported, so its home is set here, before any test imports it.
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_HOME = tempfile.TemporaryDirectory(prefix="deepshi-tests-")
os.environ |= {
    "AIRFLOW_HOME": _HOME.name,
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
}

from deepshi_provider.emulator.testing import Emulator  # noqa: E402 -- after the environment
from tests.places import local, new_place, place, s3_place  # noqa: E402
from tests.services.s3_proxy import proxy  # noqa: E402
from tests.services.seaweedfs import SeaweedFS  # noqa: E402

__all__ = ["local", "new_place", "place", "proxy", "s3_place"]


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what imports have made: tests that count what is left call it often."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let it clean up: some C libraries complain of what is left."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def emulator_process() -> Iterator[Emulator]:
    """One emulator process for the whole session, without latency."""
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def emulator(emulator_process: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The emulator, fresh, as the connection ``deepshi_default``."""
    emulator_process.reset()
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator_process.connection_json())
    return emulator_process


@pytest.fixture(scope="session")
def seaweedfs_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """One S3 server process for the whole session."""
    with SeaweedFS(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
def s3(seaweedfs_process: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> SeaweedFS:
    """The S3 server, as the connection ``s3_test``."""
    monkeypatch.setenv("AIRFLOW_CONN_S3_TEST", seaweedfs_process.airflow_connection_json())
    return seaweedfs_process


@pytest.fixture
def images_dir(tmp_path: Path) -> Path:
    """A directory for images."""
    path = tmp_path / "images"
    path.mkdir()
    return path
