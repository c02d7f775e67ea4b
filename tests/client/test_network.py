"""TLS, proxies and broken connections on real sockets, and what they mean for costs."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import ConnectionFailed, InvalidConnection, TimedOut
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.client.test_transport import failure
from tests.services.authority import Authority
from tests.support.servers import Answer, Wire, boat, http_proxy, read_request, relay_to, resets, serving

pytestmark = pytest.mark.parametrize("scheme", ["https"])


@contextmanager
def proxy_that(answer: Answer) -> Iterator[str]:
    """Run a proxy that reads the head of one request and then fails in this way."""

    def handle(client: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += client.recv(65536)
        answer(client)

    with serving(handle) as port:
        yield f"http://127.0.0.1:{port}"


def closes(client: socket.socket) -> None:
    client.close()


def refuses(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")


def speaks_no_http(client: socket.socket) -> None:
    client.sendall(b"220 mail.example ESMTP\r\n")


def speaks_no_tls(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
    client.recv(65536)
    client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize("misbehaves", [closes, resets, refuses, speaks_no_http, speaks_no_tls])
def test_refused_tunnel_is_free(wire: Wire, misbehaves: Answer) -> None:
    with proxy_that(misbehaves) as proxy:
        wire.connect_to("https://api.example", proxy=proxy, max_retries=1, max_retry_wait=0.01)
        error = failure()
    assert (type(error), error.charged, error.sends) == (ConnectionFailed, "no", 0)


@pytest.mark.parametrize("header", [b"", b"Proxy-Authenticate: Basic realm=proxy\r\n"], ids=["bare", "basic"])
def test_tunnel_that_needs_a_password_is_free_and_not_retried(wire: Wire, header: bytes) -> None:
    asked = []

    def asks_who_it_is(client: socket.socket) -> None:
        asked.append(client)
        client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n" + header + b"content-length: 0\r\n\r\n")

    with proxy_that(asks_who_it_is) as proxy:
        wire.connect_to("https://api.example", proxy=proxy, max_retries=3, max_retry_wait=0.01)
        error = failure()
    assert (type(error), error.charged, error.sends, error.retryable) == (InvalidConnection, "no", 0, False)
    assert "The proxy requires user name and password" in error.message
    assert len(asked) == 1


def test_proxy_that_needs_a_password_for_a_plain_request_is_free(wire: Wire) -> None:
    heads: list[bytes] = []

    def asks_who_it_is(client: socket.socket) -> None:
        heads.append(read_request(client))
        client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")

    with serving(asks_who_it_is) as port:
        wire.connect_to("http://api.example", proxy=f"http://127.0.0.1:{port}", max_retries=3, max_retry_wait=0.01)
        error = failure()
    assert (type(error), error.charged, error.status_code) == (InvalidConnection, "no", 407)
    assert "put them into the proxy's URL" in error.message
    assert [head.split(b" ")[0] for head in heads] == [b"POST"]


@pytest.mark.slow
def test_unanswered_tunnel_is_free(wire: Wire) -> None:
    release = threading.Event()

    def keeps_silent(client: socket.socket) -> None:
        release.wait(60)

    with proxy_that(keeps_silent) as proxy:
        wire.connect_to("https://api.example", proxy=proxy, connect_timeout=0.2, max_retries=0)
        error = failure()
        release.set()
    assert (type(error), error.charged, error.sends) == (ConnectionFailed, "no", 0)


@pytest.mark.parametrize("encrypted", [False, True], ids=["http proxy", "https proxy"])
def test_request_passes_through_a_tunnel(
    emulator: Emulator, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encrypted: bool
) -> None:
    """TLS inside TLS, if the connection to the proxy uses TLS too."""
    assert emulator.ca_file
    both = tmp_path / "both.pem"  # CA certificates of emulator and proxy
    both.write_bytes(authority.ca_file.read_bytes() + Path(emulator.ca_file).read_bytes())
    with http_proxy() as (plain, seen), serving(relay_to(plain), authority.server_context) as port:
        proxy = f"https://127.0.0.1:{port}" if encrypted else plain
        connection = emulator.connection_json(verify=str(both), proxy=proxy)
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", connection)
        with DeepshiHook().generate(boat()) as result:
            assert result.images[0].width == 64
    assert (len(seen), emulator.stats()["posts"]) == (1, 1)


@pytest.mark.slow
async def test_deadline_while_connecting_is_free(wire: Wire) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        wire.connect_to(f"https://127.0.0.1:{silent.getsockname()[1]}", connect_timeout=60, max_retries=2)
        with pytest.raises(TimedOut) as caught:
            await DeepshiHook().agenerate(boat(), timeout=0.3)
    assert (caught.value.charged, caught.value.sends) == ("no", 0)


def test_certificate_for_another_host_is_refused(wire: Wire, authority: Authority) -> None:
    alerts = []

    def handle(client: socket.socket) -> None:
        try:
            with authority.server_context.wrap_socket(client, server_side=True) as secure:
                secure.recv(1)
        except ssl.SSLError as err:
            alerts.append(err.reason)

    with serving(handle) as port:
        wire.connect_to(f"https://localhost:{port}", max_retries=0)
        error = failure()
    assert (type(error), error.charged, error.sends) == (ConnectionFailed, "no", 0)
    assert "Hostname mismatch" in error.message
    assert alerts == ["SSLV3_ALERT_BAD_CERTIFICATE"]
