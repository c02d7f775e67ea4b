"""Servers for tests of the client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

from deepshi_provider.emulator.testing import Emulator
from tests.services.authority import Authority
from tests.services.nginx import Nginx
from tests.support.servers import Wire

Start = Callable[..., Nginx]

#: Before Airflow 3.3 no public function sets up metrics.
collect_ignore = [] if Version(version("apache-airflow-core")) >= Version("3.3") else ["test_metrics.py"]


@pytest.fixture
def wire(scheme: str, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Servers with the answers that a test defines."""
    return Wire(scheme, authority, monkeypatch)


@pytest.fixture
def nginx(emulator: Emulator, authority: Authority, tmp_path: Path, wire: Wire) -> Iterator[Start]:
    """Start nginx with these directives in front of the emulator, behind the connection ``deepshi_default``."""
    with ExitStack() as running:

        def start(**directives: object) -> Nginx:
            folder = tmp_path / "nginx"
            folder.mkdir()
            server = running.enter_context(Nginx(folder, emulator.base_url, authority, **directives))
            wire.connect_to(server.base_url, max_retries=2, max_retry_wait=0.02, read_timeout=30)
            return server

        yield start
