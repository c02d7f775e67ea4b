"""The connection with a directory."""

from __future__ import annotations

import pytest

from deepshi_provider.emulator.testing import Emulator
from tests.support.models import WITH_MODELS
from tests.support.places import Place

collect_ignore = [] if WITH_MODELS else ["test_agents.py"]


@pytest.fixture
def directory(emulator: Emulator, place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The connection's directory for images."""
    connection = emulator.connection_json(output_uri=place.uri, output_conn_id=place.conn_id)
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", connection)
    return place
