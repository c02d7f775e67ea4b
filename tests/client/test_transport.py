"""How an exchange broke decides whether it may have been charged, so each is broken on a real socket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import os
import signal
import socket
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from deepshi_provider.api.requests import EditRequest
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import ConnectionFailed, DeepshiError, InvalidRequest, OutcomeUnknown
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.support.servers import (
    KEY,
    Answer,
    Wire,
    asked_of_a_proxy,
    boat,
    hangs_up,
    http_proxy,
    relay_to,
    resets,
    sends,
    serving,
)
from tests.support.waiting import wait_until

KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 30, "TCP_KEEPCNT": 6}

#: A PNG of one pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(params=["http", "https"])
def scheme(request: pytest.FixtureRequest) -> str:
    """Each socket test runs with and without TLS."""
    return str(request.param)


def failure() -> DeepshiError:
    with pytest.raises(DeepshiError) as caught:
        DeepshiHook().generate(boat())
    return caught.value


OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
BEGIN = b'{"data": [{"b64_json": "iVBO'


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
IN_A_CHUNK = OK + CHUNKED + b"1c\r\n" + BEGIN
ENDS: dict[str, Answer] = {"closed": lambda client: None, "hung up": hangs_up, "reset": resets}


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([], id="after the request"),
        pytest.param([b"HTTP/1.1 2"], id="in the status line"),
        pytest.param([OK + b"content-le"], id="in the head"),
        pytest.param([OK + b"content-length: 9999\r\n\r\n"], id="after the head"),
        pytest.param([OK + b"content-length: 9999\r\n\r\n" + BEGIN], id="in the body"),
        pytest.param([IN_A_CHUNK], id="in a chunk"),
        pytest.param([IN_A_CHUNK + b"\r\n"], id="between chunks"),
        pytest.param([OK + b"\r\n" + BEGIN], id="in a body of unknown length"),
        pytest.param([b"SSH-2.0-OpenSSH\r\n\r\n"], id="not HTTP"),
        pytest.param([OK + b"no header\x00\r\n\r\n"], id="a header that is none"),
        pytest.param([OK + CHUNKED + b"zz\r\n"], id="a chunk without length"),
        pytest.param([IN_A_CHUNK, b"\r\nzz\r\n"], id="a later chunk, in pieces"),
        pytest.param([IN_A_CHUNK + b"\r\nzz\r\n"], id="a later chunk likewise"),
        pytest.param([OK + b"content-length: 24\r\n\r\n" + b"\x1f\x8b\x08" + b"\xff" * 21], id="broken gzip"),
    ],
)
def test_a_request_that_breaks_after_it_was_sent_is_not_repeated(wire: Wire, pieces: list[bytes], end: Answer) -> None:
    with wire.server_that(sends(*pieces, apart=0.02, then=end)) as requests:
        error = failure()
    assert (type(error), error.charged, error.sends, len(requests)) == (OutcomeUnknown, "unknown", 1, 1)


WHOLE = json.dumps({"data": [{"b64_json": base64.b64encode(PNG).decode()}]}).encode()
EVENT = b'data: {"type": "image_generation.completed", "b64_json": "%s"}\n\n' % base64.b64encode(PNG)


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(OK + b"content-length: %d\r\n\r\n%s" % (len(WHOLE), WHOLE), id="json"),
        pytest.param(OK + CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(WHOLE), WHOLE), id="json in chunks"),
        pytest.param(STREAM + CHUNKED + b"%x\r\n%s\r\n" % (len(EVENT), EVENT), id="last event"),
        pytest.param(STREAM + b"\r\n" + EVENT, id="last event of a body of unknown length"),
    ],
)
@pytest.mark.parametrize("size", [1, 2**20], ids=["byte by byte", "at once"])
def test_whole_answer_is_used_however_its_connection_ends(wire: Wire, answer: bytes, size: int, end: Answer) -> None:
    pieces = [answer[start : start + size] for start in range(0, len(answer), size)]
    with wire.server_that(sends(*pieces, then=end)) as requests, DeepshiHook().generate(boat()) as result:
        assert (result.images[0].read(), result.sends, len(requests)) == (PNG, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stream", "settings", "fault"),
    [
        pytest.param(False, {"hold": True}, None, id="waiting"),
        pytest.param(True, {"hold": True, "keepalive": 0.05}, None, id="waiting with keepalives"),
        pytest.param(False, {"picture_bytes": 10**6}, {"bytes_per_second": 10**5}, id="in a body"),
        pytest.param(True, {"picture_bytes": 10**6}, {"bytes_per_second": 10**5}, id="in an event"),
    ],
)
async def test_request_to_a_killed_server_is_not_repeated(
    wire: Wire, stream: bool, settings: dict[str, Any], fault: dict[str, Any] | None
) -> None:
    connections: list[bytes] = []
    with Emulator(tls=wire.scheme == "https") as mortal, serving(relay_to(mortal.base_url, connections)) as port:
        wire.connect_to(f"{wire.scheme}://127.0.0.1:{port}", verify=mortal.ca_file, max_retry_wait=0.01)
        mortal.settings(**settings)
        if fault:
            mortal.fault("slow", **fault)
        task = asyncio.create_task(DeepshiHook().agenerate(boat(stream=stream)))
        await asyncio.to_thread(wait_until, lambda: mortal.stats()["in_flight"] == 1)
        if fault:
            await asyncio.to_thread(wait_until, lambda: mortal.stats()["images"] == 1)
        os.kill(mortal.pid, signal.SIGKILL)
        with pytest.raises(OutcomeUnknown) as caught:
            await task
    assert (caught.value.charged, caught.value.sends, len(connections)) == ("unknown", 1, 1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(wire: Wire, status: int) -> None:
    answer = sends(b"HTTP/1.1 %d Moved\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n" % status)
    with wire.server_that(answer) as requests:
        assert failure().status_code == status
    assert len(requests) == 1


async def test_each_request_has_its_own_connection_and_asks_to_close_it(wire: Wire) -> None:
    answer = sends(OK + b"content-encoding: gzip\r\n\r\n", gzip.compress(WHOLE))
    with wire.server_that(answer) as requests:
        async with DeepshiHook().session() as hook:
            for _ in range(2):
                with await hook.agenerate(boat()) as result:
                    assert result.images[0].read() == PNG
    heads = [request.partition(b"\r\n\r\n")[0].lower().split(b"\r\n") for request in requests]
    assert [head.count(b"connection: close") for head in heads] == [1, 1]
    assert all(head.count(b"authorization: bearer " + KEY.encode()) == 1 for head in heads)


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["closed", "not TLS"])
@pytest.mark.parametrize("scheme", ["https"])
def test_connection_that_ends_in_the_tls_handshake_is_free(wire: Wire, greeting: bytes) -> None:
    seen = []

    def handle(client: socket.socket) -> None:
        seen.append(client.recv(65536))
        client.sendall(greeting)

    with serving(handle) as port:
        wire.connect_to(f"https://127.0.0.1:{port}", max_retries=1, max_retry_wait=0.01)
        error = failure()
    assert (type(error), error.charged, error.sends, len(seen)) == (ConnectionFailed, "no", 0, 2)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["https"])
def test_unanswered_tls_handshake_is_free(wire: Wire) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        wire.connect_to(url, max_retries=0, connect_timeout=0.3)
        error = failure()
    assert (type(error), error.charged, error.sends) == (ConnectionFailed, "no", 0)


@pytest.mark.slow
def test_server_that_does_not_read_a_long_request_times_out(wire: Wire, tmp_path: Path) -> None:
    image = tmp_path / "large.png"
    image.write_bytes(PNG + bytes(16 * 2**20))
    over = threading.Event()
    connections: list[socket.socket] = []

    def deaf(client: socket.socket) -> None:
        connections.append(client)
        over.wait(60)

    with wire.serving(deaf) as url:
        wire.connect_to(url, read_timeout=0.5, max_retries=2, max_retry_wait=0.01)
        try:
            with pytest.raises(OutcomeUnknown) as caught:
                DeepshiHook().edit(EditRequest(model="m", prompt="p", images=[str(image)]))
            assert (caught.value.charged, caught.value.sends) == ("unknown", 1)
            with pytest.raises(OutcomeUnknown):
                DeepshiHook().generate(boat(prompt="a long story " * 2**20))
        finally:
            over.set()
    assert len(connections) == 2


@pytest.mark.parametrize("variable", ["{0}_proxy", "{1}_PROXY", "ALL_PROXY"])
def test_proxy_from_the_environment_is_used(
    emulator: Emulator, scheme: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    with http_proxy() as (proxy, seen):
        monkeypatch.setenv(variable.format(scheme, scheme.upper()), proxy)
        DeepshiHook().generate(boat()).close()
        monkeypatch.setenv("NO_PROXY", "example.org,127.0.0.1")
        DeepshiHook().generate(boat()).close()
    assert seen == [asked_of_a_proxy(emulator.base_url)]
    assert emulator.stats()["posts"] == 2


def options_of_connections_to(url: str) -> list[dict[str, int]]:
    """Return the options of this process's open connections to a server."""
    port, found = int(url.rpartition(":")[2]), []
    names = {"TCP_NODELAY": 1, **KEEPALIVE}
    for fd in [int(path.name) for path in Path("/dev/fd").iterdir()]:
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            with socket.socket(fileno=os.dup(fd)) as one:
                if one.family != socket.AF_INET or one.getpeername()[1] != port:
                    continue
                tcp = {n: one.getsockopt(socket.IPPROTO_TCP, getattr(socket, n)) for n in names if hasattr(socket, n)}
                found.append({"SO_KEEPALIVE": one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), **tcp})
    return found


@pytest.mark.parametrize("way", ["direct", "proxy", "environment"])
def test_each_connection_is_kept_alive_while_it_is_silent(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Networks drop connections that are silent for minutes, most of all behind proxies."""
    options: list[dict[str, int]] = []
    whole = b'{"data": [{"b64_json": "%s"}]}' % base64.b64encode(PNG)

    def answer(client: socket.socket) -> None:
        options.extend(options_of_connections_to(proxy if way != "direct" else wire_url(client)))
        client.sendall(OK + b"content-length: %d\r\n\r\n" % len(whole) + whole)

    with http_proxy() as (proxy, seen):
        if way == "environment":
            monkeypatch.setenv(f"{wire.scheme}_proxy", proxy)
        with wire.server_that(answer, **({"proxy": proxy} if way == "proxy" else {})):
            DeepshiHook().generate(boat()).close()
        assert len(seen) == (way != "direct")
    known = {name: value for name, value in KEEPALIVE.items() if hasattr(socket, name)}
    assert options == [{"SO_KEEPALIVE": 1, "TCP_NODELAY": 1, **known}]


def wire_url(client: socket.socket) -> str:
    """Return the server's address, to which a client has connected."""
    return f"//127.0.0.1:{client.getsockname()[1]}"


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_request_is_not_repeated_if_its_answer_breaks_behind_a_proxy(wire: Wire, end: Answer) -> None:
    answer = sends(OK + b"content-length: 9999\r\n\r\n" + BEGIN, then=end)
    with http_proxy() as (proxy, seen), wire.server_that(answer, proxy=proxy) as requests:
        error = failure()
    assert (type(error), error.charged, error.sends) == (OutcomeUnknown, "unknown", 1)
    assert (len(requests), len(seen)) == (1, 1)


@pytest.mark.slow
def test_silence_is_measured_from_the_last_byte(wire: Wire) -> None:
    def slowly(client: socket.socket) -> None:
        client.sendall(STREAM + b"\r\n")
        for _ in range(6):
            time.sleep(0.2)
            client.sendall(b": keepalive\n\n")
        client.sendall(EVENT)

    with wire.server_that(slowly, read_timeout=1) as requests, DeepshiHook().generate(boat()) as result:
        assert result.images[0].read() == PNG
    assert len(requests) == 1


def test_long_head_of_a_paid_answer_is_accepted(wire: Wire) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Trace: %s\r\n" % (b"a" * 60_000)
    answer = sends(head, b"Content-Length: %d\r\n\r\n" % len(WHOLE), WHOLE)
    with wire.server_that(answer) as requests, DeepshiHook().generate(boat()) as result:
        assert result.images[0].read() == PNG
    assert len(requests) == 1


def test_long_head_of_a_refusal_leaves_it_free(wire: Wire) -> None:
    head = b"HTTP/1.1 402 Payment Required\r\nX-Trace: %s\r\nContent-Length: 2\r\n\r\n{}" % (b"a" * 60_000)
    with wire.server_that(sends(head)):
        assert failure().charged == "no"


def test_cookies_are_not_sent_back(wire: Wire) -> None:
    """A cookie may bind all later requests to one of many servers, perhaps a failing one."""
    refusal = b"HTTP/1.1 400 Bad Request\r\nset-cookie: server=1; Path=/\r\ncontent-length: 2\r\n\r\n{}"

    async def twice() -> None:
        async with DeepshiHook().session() as hook:
            for _ in range(2):
                with pytest.raises(InvalidRequest):
                    await hook.agenerate(boat())

    with wire.server_that(sends(refusal)) as requests:
        asyncio.run(twice())
    assert len(requests) == 2
    assert not any(b"cookie" in request.lower() for request in requests)
