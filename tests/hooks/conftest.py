"""The connection with a directory; and what Python 3.10 cannot have."""

from __future__ import annotations

import sys

import pytest

from deepshi_provider.emulator.testing import Emulator
from tests.support.places import Place

#: apache-airflow-providers-common-ai 1.0 needs Python 3.11.
collect_ignore = [] if sys.version_info >= (3, 11) else ["test_agents.py"]


@pytest.fixture
def directory(emulator: Emulator, place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Where the connection puts images."""
    connection = emulator.connection_json(output_uri=place.uri, output_conn_id=place.conn_id)
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", connection)
    return place
