"""The emulator with TLS: its output, its clients, and its files."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from deepshi_provider.emulator.testing import Emulator
from tests.support.calls import (
    BOAT,
    GENERATIONS,
    STREAMED_BOAT,
    events,
    raw_connection,
    raw_request,
    read_to_end,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@contextmanager
def client_of(emulator: Emulator) -> Iterator[httpx.Client]:
    assert emulator.ca_file
    trust = ssl.create_default_context(cafile=emulator.ca_file)
    headers = {"authorization": f"Bearer {emulator.api_key}"}
    with httpx.Client(base_url=emulator.base_url, headers=headers, verify=trust, trust_env=False, timeout=30) as client:
        yield client


def tls_post(emulator: Emulator, fields: dict[str, Any] = BOAT) -> ssl.SSLSocket:
    """Return a connection with a request sent and nothing read."""
    plain = raw_connection(emulator)
    context = ssl.create_default_context(cafile=emulator.ca_file)
    connection = context.wrap_socket(plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False)
    connection.sendall(raw_request(emulator, fields))
    return connection


@pytest.fixture(scope="module")
def secure_process() -> Iterator[Emulator]:
    with Emulator(tls=True) as emulator:
        yield emulator


@pytest.fixture
def secure(secure_process: Emulator) -> Emulator:
    secure_process.reset()
    return secure_process


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_command_line_prints_the_certificate_to_trust_and_leaves_no_files(tmp_path: Path, stop: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "deepshi_provider.emulator", "--tls", "--port", "0"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        ready, connection, trust = (process.stdout.readline() for _ in range(3))
        name, _, value = connection.strip().partition("=")
        found = json.loads(value.strip("'"))
        url, ca_file = found["host"], found["extra"]["verify"]
        assert (name, found["conn_type"]) == ("AIRFLOW_CONN_DEEPSHI_DEFAULT", "deepshi")
        assert url.startswith("https://127.0.0.1:")
        assert ready == f"Deepshi emulator at {url} (API key sk-bf-emulator)\n"
        assert trust == f"CA file, for the connection's verify: {ca_file}\n"
        context = ssl.create_default_context(cafile=ca_file)
        assert httpx.get(f"{url}/emulator/stats", verify=context, trust_env=False).json()["posts"] == 0
    finally:
        process.send_signal(stop)
        process.communicate()
    assert list(tmp_path.iterdir()) == []


def test_pictures_come_over_tls(secure: Emulator) -> None:
    with client_of(secure) as client:
        assert client.post(GENERATIONS, json=BOAT).json()["size"] == "64x48"
        names = [name for name, _ in events(client.post(GENERATIONS, json=STREAMED_BOAT).text)]
    assert names == ["image_generation.completed"]
    assert (secure.stats()["images"], len(secure.requests())) == (2, 2)


def test_only_its_own_authority_vouches_for_it(secure: Emulator) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(secure.base_url, trust_env=False)
    with Emulator(tls=True) as other, pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(secure.base_url, verify=ssl.create_default_context(cafile=other.ca_file), trust_env=False)
    with pytest.raises(httpx.HTTPError):
        httpx.get(secure.base_url.replace("https", "http"), trust_env=False)
    assert secure.stats()["posts"] == secure.stats()["gets"] == 0


def test_connection_names_the_certificate_to_trust(secure: Emulator) -> None:
    whole = json.loads(secure.connection_json(output_uri="file:///x"))
    assert (whole["host"], whole["extra"]) == (secure.base_url, {"verify": secure.ca_file, "output_uri": "file:///x"})
    assert json.loads(secure.connection_json())["extra"] == {"verify": secure.ca_file}
    assert json.loads(secure.connection_json(verify=False))["extra"] == {"verify": False}


def test_killed_emulator_leaves_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Emulator(tls=True) as emulator:
        assert emulator.ca_file
        assert tmp_path in Path(emulator.ca_file).parents
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("fields", [BOAT, STREAMED_BOAT], ids=["json", "stream"])
@pytest.mark.parametrize("at", ["headers", "body"])
def test_cut_answer_ends_early(secure: Emulator, fields: dict[str, object], at: str, reset: bool) -> None:
    secure.fault("cut", at=at, reset=reset)
    with client_of(secure) as client, pytest.raises(httpx.TransportError):
        client.post(GENERATIONS, json=fields)
    wait_until(lambda: secure.requests()[0]["outcome"] == "faulted")
    assert (secure.requests()[0]["fault"], secure.stats()["images"]) == ("cut", 1)


def test_cut_sends_close_notify(secure: Emulator) -> None:
    secure.fault("cut", at="body")
    assert read_to_end(tls_post(secure)).startswith(b"HTTP/1.1 200")  # without close_notify it would raise


def test_reset_connection_sends_no_close_notify(secure: Emulator) -> None:
    secure.fault("cut", at="body", reset=True)
    with tls_post(secure) as connection:
        below = socket.socket(fileno=os.dup(connection.fileno()))  # Python's TLS treats RST as an end
        below.settimeout(10)
        with pytest.raises(ConnectionResetError):
            read_to_end(below)


def test_answer_that_is_cut_after_its_last_event_is_whole(secure: Emulator) -> None:
    secure.fault("late_cut")
    received = read_to_end(tls_post(secure, STREAMED_BOAT))
    assert b"event: image_generation.completed" in received
    assert b"\r\n0\r\n\r\n" not in received


def test_client_that_leaves_without_close_notify_is_noticed(secure: Emulator) -> None:
    secure.settings(hold=True)
    with tls_post(secure) as connection:
        wait_until(lambda: secure.stats()["in_flight"] == 1)
        connection.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: secure.stats()["disconnects"] == 1)
    secure.settings(hold=False)
    wait_until(lambda: secure.stats()["images"] == 1)  # it was ordered
