"""TLS, proxies and broken connections below the hook, on real sockets: what they mean for money."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import ConnectionFailed, OutcomeUnknown, TimedOut
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.hooks.test_transport import OK, PNG, connect_to, failure, read_request
from tests.hooks.wire import boat, http_proxy, self_signed, serving, tls_in_front_of

Answer = Callable[[ssl.SSLSocket], None]
BODY = json.dumps({"data": [{"b64_json": base64.b64encode(PNG).decode()}]}).encode()


@contextmanager
def tls_server_that(
    monkeypatch: pytest.MonkeyPatch, folder: Path, answer: Answer, **extra: object
) -> Iterator[list[bytes]]:
    """Serve one answer per TLS connection, to the connection ``deepshi_default``; yield the requests received."""
    certificate, authority = self_signed(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    requests: list[bytes] = []

    def handle(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True, suppress_ragged_eofs=True) as secure:
            requests.append(read_request(secure))
            answer(secure)

    with serving(handle) as port:
        connect_to(
            monkeypatch, f"https://127.0.0.1:{port}", verify=str(authority), max_retries=2, max_retry_wait=0.01, **extra
        )
        yield requests


def ends_with_goodbye(secure: ssl.SSLSocket) -> None:
    secure.unwrap()


def ends_without_goodbye(secure: ssl.SSLSocket) -> None:
    socket.socket(fileno=secure.detach()).close()


@pytest.mark.parametrize("framing", ["length", "until the end"])
@pytest.mark.parametrize("end", [ends_with_goodbye, ends_without_goodbye])
def test_cut_answer_is_not_sent_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, framing: str, end: Answer
) -> None:
    head = OK + (b"content-length: %d\r\n\r\n" % len(BODY) if framing == "length" else b"\r\n")

    def answer(secure: ssl.SSLSocket) -> None:
        secure.sendall(head + BODY[:-40])
        end(secure)

    with tls_server_that(monkeypatch, tmp_path, answer) as requests:
        error = failure()
    assert (type(error), error.charged, error.sends, len(requests)) == (OutcomeUnknown, "unknown", 1, 1)


@pytest.mark.parametrize("size", [1, 1000, 16_384, 20_000])
def test_whole_answer_counts_however_the_connection_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int
) -> None:
    def answer(secure: ssl.SSLSocket) -> None:
        sent = OK + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
        for start in range(0, len(sent), size):
            secure.sendall(sent[start : start + size])
        ends_without_goodbye(secure)

    with tls_server_that(monkeypatch, tmp_path, answer) as requests, DeepshiHook().generate(boat()) as result:
        assert result.images[0].read() == PNG
    assert len(requests) == 1


@contextmanager
def proxy_that(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve as a proxy that reads the head of one request and then misbehaves."""

    def handle(client: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += client.recv(65536)
        answer(client)

    with serving(handle) as port:
        yield f"http://127.0.0.1:{port}"


def closes(client: socket.socket) -> None:
    client.close()


def resets(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
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
def test_tunnel_that_is_not_made_was_free(
    monkeypatch: pytest.MonkeyPatch, misbehaves: Callable[[socket.socket], None]
) -> None:
    with proxy_that(misbehaves) as proxy:
        connect_to(monkeypatch, "https://api.example", proxy=proxy, max_retries=1, max_retry_wait=0.01)
        error = failure()
    assert (type(error), error.charged, error.sends) == (ConnectionFailed, "no", 0)


def test_tunnel_that_is_not_answered_was_free(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def keeps_silent(client: socket.socket) -> None:
        release.wait(60)

    with proxy_that(keeps_silent) as proxy:
        connect_to(monkeypatch, "https://api.example", proxy=proxy, read_timeout=0.2, max_retries=0)
        error = failure()
        release.set()
    assert (type(error), error.charged, error.sends) == (ConnectionFailed, "no", 0)


@pytest.mark.parametrize("encrypted", [False, True], ids=["http proxy", "https proxy"])
def test_request_passes_through_a_tunnel(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encrypted: bool
) -> None:
    """TLS inside of TLS, if the proxy is spoken to over TLS too."""
    certificate, authority = self_signed(tmp_path)
    with (
        tls_in_front_of(emulator.base_url, certificate) as url,
        http_proxy() as (plain, seen),
        tls_in_front_of(plain, certificate) as secure,
    ):
        connect_to(monkeypatch, url, verify=str(authority), proxy=secure if encrypted else plain)
        with DeepshiHook().generate(boat()) as result:
            assert result.images[0].width == 64
    assert (len(seen), emulator.stats()["posts"]) == (1, 1)


async def test_time_that_ends_while_connecting_was_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connect_to(monkeypatch, f"https://127.0.0.1:{silent.getsockname()[1]}", connect_timeout=60, max_retries=2)
        with pytest.raises(TimedOut) as caught:
            await DeepshiHook().agenerate(boat(), timeout=0.3)
    assert (caught.value.charged, caught.value.sends) == ("no", 0)


def test_certificate_for_another_host_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    certificate, authority = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    alerts = []

    def handle(client: socket.socket) -> None:
        try:
            with context.wrap_socket(client, server_side=True) as secure:
                secure.recv(1)
        except ssl.SSLError as err:
            alerts.append(err.reason)

    with serving(handle) as port:
        connect_to(monkeypatch, f"https://localhost:{port}", verify=str(authority), max_retries=0)
        error = failure()
    assert (type(error), error.charged, error.sends) == (ConnectionFailed, "no", 0)
    assert "Hostname mismatch" in error.message
    assert alerts == ["SSLV3_ALERT_BAD_CERTIFICATE"]
