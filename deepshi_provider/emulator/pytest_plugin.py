"""Pytest fixtures to test DAGs against the emulator at no cost.

Enable them with ``pytest_plugins = ["deepshi_provider.emulator.pytest_plugin"]`` in the ``conftest.py`` at the root of
your tests. The plugin is not an entry point, which would import this package in every run of pytest in the environment,
before coverage starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .testing import Emulator

CONNECTION = "AIRFLOW_CONN_DEEPSHI_DEFAULT"


@pytest.fixture(scope="session")
def deepshi_emulator_tls() -> bool:
    """Whether the emulator serves HTTPS, as Deepshi does; override this fixture in your ``conftest.py``."""
    return False


@pytest.fixture(scope="session")
def deepshi_emulator_process(deepshi_emulator_tls: bool) -> Iterator[Emulator]:
    """Start one emulator process for the whole session, without latency, on a free port of 127.0.0.1."""
    with Emulator(tls=deepshi_emulator_tls) as emulator:
        yield emulator


@pytest.fixture
def deepshi_emulator(deepshi_emulator_process: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Emulator:
    """Reset the emulator and make it the connection ``deepshi_default``; images go to ``tmp_path / "deepshi"``.

    Its ``stats()`` counts calls, images and dollars, ``requests()`` lists the requests, and ``fault(…)`` causes a
    fault.
    """
    deepshi_emulator_process.reset()
    output_uri = (tmp_path / "deepshi").as_uri()
    monkeypatch.setenv(CONNECTION, deepshi_emulator_process.connection_json(output_uri=output_uri))
    return deepshi_emulator_process
