"""Fixtures for a hook with a connection's extra, and for log lines."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.deepshi import DeepshiHook

Connect = Callable[..., DeepshiHook]
LogLines = Callable[[], list[str]]


@pytest.fixture
def connect(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Return a function that returns a hook with the given extra."""

    def connect(**extra: object) -> DeepshiHook:
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(**extra))
        return DeepshiHook()

    return connect


@pytest.fixture
def hook(connect: Connect) -> DeepshiHook:
    """Return a hook with two retries, short waits and a short read timeout."""
    return connect(max_retries=2, max_retry_wait=0.02, read_timeout=5)


@pytest.fixture
def log_lines(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> LogLines:
    """Return a function that returns the lines logged since its last call, by structlog and by logging."""
    caplog.set_level(logging.DEBUG)

    def log_lines() -> list[str]:
        printed = capsys.readouterr()
        logged = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
        caplog.clear()
        return [*printed.out.splitlines(), *printed.err.splitlines(), *logged]

    return log_lines
