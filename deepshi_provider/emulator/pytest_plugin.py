"""Fixtures with which DAGs are tested against the emulator, for nothing.

They are there with ``pytest_plugins = ["deepshi_provider.emulator.pytest_plugin"]`` in the ``conftest.py`` at the root
of your tests. The plugin is no entry point: that would import this package in every run of pytest in the environment,
before coverage begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .testing import Emulator

CONNECTION = "AIRFLOW_CONN_DEEPSHI_DEFAULT"


@pytest.fixture(scope="session")
def deepshi_emulator_tls() -> bool:
    """Whether the emulator serves HTTPS, as Deepshi does; a fixture of this name in your ``conftest.py`` decides."""
    return False


@pytest.fixture(scope="session")
def deepshi_emulator_process(deepshi_emulator_tls: bool) -> Iterator[Emulator]:
    """One emulator process for the whole session, without latency, on a free port of 127.0.0.1."""
    with Emulator(tls=deepshi_emulator_tls) as emulator:
        yield emulator


@pytest.fixture
def deepshi_emulator(deepshi_emulator_process: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Emulator:
    """The emulator, fresh, as the connection ``deepshi_default``; images go to ``tmp_path / "deepshi"``.

    Its ``stats()`` counts calls, images and dollars, ``requests()`` lists what was asked for, and ``fault(…)`` lets
    something go wrong.
    """
    deepshi_emulator_process.reset()
    output_uri = (tmp_path / "deepshi").as_uri()
    monkeypatch.setenv(CONNECTION, deepshi_emulator_process.connection_json(output_uri=output_uri))
    return deepshi_emulator_process
