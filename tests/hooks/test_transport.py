"""What the transport says of a broken exchange decides about money, so each is broken on a real socket."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deepshi_provider.api.requests import EditRequest
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import ConnectionFailed, DeepshiError, OutcomeUnknown
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.hooks.wire import KEY, boat, http_proxy, self_signed, serving, tls_in_front_of, wait_until

Answer = Callable[[socket.socket], None]

#: A PNG of one pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def read_request(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += client.recv(65536)
    return head + b"\r\n\r\n" + body


@contextmanager
def server_that(monkeypatch: pytest.MonkeyPatch, answer: Answer, **extra: object) -> Iterator[list[bytes]]:
    """Serve one answer per connection, to the connection ``deepshi_default``; yield the requests received."""
    requests: list[bytes] = []

    def handle(client: socket.socket) -> None:
        requests.append(read_request(client))
        answer(client)

    with serving(handle) as port:
        given = {"max_retries": 2, "max_retry_wait": 0.01, "read_timeout": 2, **extra}
        connect_to(monkeypatch, f"http://127.0.0.1:{port}", **given)
        yield requests


def connect_to(monkeypatch: pytest.MonkeyPatch, url: str, **extra: object) -> None:
    connection = {"conn_type": "deepshi", "host": url, "password": KEY, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", json.dumps(connection))


def sends(*pieces: bytes, apart: float = 0.0) -> Answer:
    def answer(client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            client.sendall(piece)
            time.sleep(apart)

    return answer


def resets(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def failure() -> DeepshiError:
    with pytest.raises(DeepshiError) as caught:
        DeepshiHook().generate(boat())
    return caught.value


OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
BEGIN = b'{"data": [{"b64_json": "iVBO'


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(sends(), id="closed after the request"),
        pytest.param(resets, id="reset after the request"),
        pytest.param(sends(b"HTTP/1.1 2"), id="closed in the status line"),
        pytest.param(sends(b"SSH-2.0-OpenSSH\r\n\r\n"), id="not HTTP"),
        pytest.param(sends(OK + b"no header\x00\r\n\r\n"), id="a header that is none"),
        pytest.param(sends(OK + b"content-length: 9999\r\n\r\n" + BEGIN), id="closed in the body"),
        pytest.param(sends(OK + b"transfer-encoding: chunked\r\n\r\n1c\r\n" + BEGIN), id="closed in a chunk"),
        pytest.param(sends(OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n"), id="a chunk without length"),
        pytest.param(
            sends(OK + b"transfer-encoding: chunked\r\n\r\n1c\r\n", BEGIN, b"\r\nzz\r\n", apart=0.1),
            id="a later chunk, in pieces",
        ),
        pytest.param(
            sends(OK + b"transfer-encoding: chunked\r\n\r\n1c\r\n" + BEGIN + b"\r\nzz\r\n"), id="a later chunk likewise"
        ),
        pytest.param(sends(OK + b"content-encoding: gzip\r\ncontent-length: 4\r\n\r\nabcd"), id="not gzip"),
    ],
)
def test_what_breaks_after_the_request_is_not_sent_again(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    with server_that(monkeypatch, answer) as requests:
        error = failure()
    assert (type(error), error.charged, error.sends, len(requests)) == (OutcomeUnknown, "unknown", 1, 1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    answer = sends(b"HTTP/1.1 %d Moved\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n" % status)
    with server_that(monkeypatch, answer) as requests:
        assert failure().status_code == status
    assert len(requests) == 1


async def test_each_request_has_a_connection_of_its_own_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps({"data": [{"b64_json": base64.b64encode(PNG).decode()}]}).encode()
    answer = sends(OK + b"content-encoding: gzip\r\n\r\n", gzip.compress(body))
    with server_that(monkeypatch, answer) as requests:
        async with DeepshiHook().session() as hook:
            for _ in range(2):
                with await hook.agenerate(boat()) as result:
                    assert result.images[0].read() == PNG
    heads = [request.partition(b"\r\n\r\n")[0].lower().split(b"\r\n") for request in requests]
    assert [head.count(b"connection: close") for head in heads] == [1, 1]
    assert all(head.count(b"authorization: bearer " + KEY.encode()) == 1 for head in heads)


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["closed", "not TLS"])
def test_connection_that_ends_in_the_tls_handshake_was_free(monkeypatch: pytest.MonkeyPatch, greeting: bytes) -> None:
    seen = []

    def handle(client: socket.socket) -> None:
        seen.append(client.recv(65536))
        client.sendall(greeting)

    with serving(handle) as port:
        connect_to(monkeypatch, f"https://127.0.0.1:{port}", max_retries=1, max_retry_wait=0.01)
        error = failure()
    assert (type(error), error.charged, error.sends, len(seen)) == (ConnectionFailed, "no", 0, 2)


def test_tls_handshake_that_is_not_answered_was_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        connect_to(monkeypatch, url, max_retries=0, connect_timeout=0.3)
        error = failure()
    assert (type(error), error.charged, error.sends) == (ConnectionFailed, "no", 0)


@pytest.mark.slow
def test_server_that_does_not_take_a_long_request_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    image = tmp_path / "large.png"
    image.write_bytes(PNG + bytes(16 * 2**20))
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        connect_to(monkeypatch, url, read_timeout=0.5, max_retries=2, max_retry_wait=0.01)
        with pytest.raises(OutcomeUnknown) as caught:
            DeepshiHook().edit(EditRequest(model="m", prompt="p", images=[str(image)]))
        assert (caught.value.charged, caught.value.sends) == ("unknown", 1)
        with pytest.raises(OutcomeUnknown):
            DeepshiHook().generate(boat(prompt="a long story " * 2**20))


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_proxy_of_the_environment_is_used(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    with http_proxy() as (proxy, seen):
        monkeypatch.setenv(variable, proxy)
        DeepshiHook().generate(boat()).close()
        monkeypatch.setenv("NO_PROXY", "example.org,127.0.0.1")
        DeepshiHook().generate(boat()).close()
    assert seen == [f"POST {emulator.base_url}/v1/images/generations"]
    assert emulator.stats()["posts"] == 2


async def test_cancelling_closes_a_tls_connection(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    emulator.settings(latency=30, keepalive=0.1)
    certificate, authority = self_signed(tmp_path)
    with tls_in_front_of(emulator.base_url, certificate) as url:
        connect_to(monkeypatch, url, verify=str(authority))
        task = asyncio.create_task(DeepshiHook().agenerate(boat(stream=True)))
        await asyncio.to_thread(wait_until, lambda: emulator.stats()["in_flight"] == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wait_until, lambda: emulator.stats()["disconnects"] == 1)
    assert emulator.stats()["posts"] == 1


def test_tls_connection_that_is_cut_in_the_answer_is_not_sent_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate, authority = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    requests = []

    def handle(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as secure:
            requests.append(read_request(secure))
            secure.sendall(OK + b"content-length: 9999\r\n\r\n" + BEGIN)
            resets(secure)

    with serving(handle) as port:
        connect_to(monkeypatch, f"https://127.0.0.1:{port}", verify=str(authority), max_retry_wait=0.01)
        error = failure()
    assert (type(error), error.charged, len(requests)) == (OutcomeUnknown, "unknown", 1)


@pytest.mark.slow
def test_silence_is_measured_from_the_last_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(client: socket.socket) -> None:
        client.sendall(OK.replace(b"application/json", b"text/event-stream") + b"\r\n")
        for _ in range(6):
            time.sleep(0.2)
            client.sendall(b": keepalive\n\n")
        body = json.dumps({"type": "image_generation.completed", "b64_json": base64.b64encode(PNG).decode()})
        client.sendall(b"data: " + body.encode() + b"\n\n")

    with server_that(monkeypatch, slowly, read_timeout=1) as requests, DeepshiHook().generate(boat()) as result:
        assert result.images[0].read() == PNG
    assert len(requests) == 1


def test_long_head_of_a_paid_answer_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps({"data": [{"b64_json": base64.b64encode(PNG).decode()}]}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Trace: %s\r\n" % (b"a" * 60_000)
    answer = sends(head, b"Content-Length: %d\r\n\r\n" % len(body), body)
    with server_that(monkeypatch, answer) as requests, DeepshiHook().generate(boat()) as result:
        assert result.images[0].read() == PNG
    assert len(requests) == 1


def test_long_head_of_a_refusal_leaves_it_free(monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"HTTP/1.1 402 Payment Required\r\nX-Trace: %s\r\nContent-Length: 2\r\n\r\n{}" % (b"a" * 60_000)
    with server_that(monkeypatch, sends(head)):
        assert failure().charged == "no"
