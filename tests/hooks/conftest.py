"""A connection with an extra of its own, and what is logged, for the tests of the hook."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.hooks.wire import Wire
from tests.services.authority import Authority
from tests.services.nginx import Nginx

Connect = Callable[..., DeepshiHook]
Start = Callable[..., Nginx]
LogLines = Callable[[], list[str]]


@pytest.fixture(params=["http", "https"])
def scheme(request: pytest.FixtureRequest) -> str:
    """Whatever speaks through a socket here does so plainly and over TLS."""
    return str(request.param)


@pytest.fixture
def wire(scheme: str, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Servers that answer as a test says."""
    return Wire(scheme, authority, monkeypatch)


@pytest.fixture
def nginx(emulator: Emulator, authority: Authority, tmp_path: Path, wire: Wire) -> Iterator[Start]:
    """Start nginx in front of the emulator, with these directives, as the connection ``deepshi_default``."""
    with ExitStack() as running:

        def start(**directives: object) -> Nginx:
            folder = tmp_path / "nginx"
            folder.mkdir()
            server = running.enter_context(Nginx(folder, emulator.base_url, authority, **directives))
            wire.connect_to(server.base_url, max_retries=2, max_retry_wait=0.02, read_timeout=30)
            return server

        yield start


@pytest.fixture
def connect(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Return a hook whose connection has this extra."""

    def connect(**extra: object) -> DeepshiHook:
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(**extra))
        return DeepshiHook()

    return connect


@pytest.fixture
def hook(connect: Connect) -> DeepshiHook:
    """A hook that retries twice, almost without waiting, and does not bear long silence."""
    return connect(max_retries=2, max_retry_wait=0.02, read_timeout=5)


@pytest.fixture
def log_lines(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> LogLines:
    """Return what was logged since the last call: by structlog, which prints as Airflow sets it up, and by logging."""
    caplog.set_level(logging.DEBUG)

    def log_lines() -> list[str]:
        printed = capsys.readouterr()
        logged = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
        caplog.clear()
        return [*printed.out.splitlines(), *printed.err.splitlines(), *logged]

    return log_lines
