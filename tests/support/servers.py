"""Helpers for tests of the hook: a request, and servers between the hook and the emulator."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import socket
import socketserver
import ssl
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from deepshi_provider.api.requests import EditRequest, GenerateRequest
from tests.services.authority import Authority
from tests.support.waiting import wait_until

KEY = "sk-bf-emulator"


def boat(**fields: Any) -> GenerateRequest:
    """Return the request for a small, cheap picture, with ``fields`` changed or added."""
    small = {"model": "deepshi-banana-pro", "prompt": "a red boat", "width": 64, "height": 48}
    return GenerateRequest.model_validate(small | fields)


def large_edit(folder: Path) -> EditRequest:
    """Return an edit of 14 images of 10 MiB, which are two files."""
    paths = [folder / "one.png", folder / "other.png"]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
        with path.open("ab") as file:
            file.write(os.urandom(10 * 2**20 - file.tell()))
    return EditRequest(model="gpt-image-2", prompt="together", images=list(map(str, paths * 7)))


def open_files() -> set[str]:
    """Return the open files of this process, as ``number -> target``."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listed directory itself
            found.add(f"{entry.name} -> {entry.readlink()}")
    return found


Answer = Callable[[socket.socket], None]


class Wire:
    """Starts test servers for the connection ``deepshi_default``.

    :param scheme: ``http`` or ``https``.
    """

    def __init__(self, scheme: str, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scheme = scheme
        self._authority = authority
        self._monkeypatch = monkeypatch

    @contextlib.contextmanager
    def serving(self, handle: Answer) -> Iterator[str]:
        """Serve on 127.0.0.1, each connection in a thread; yield the URL. TLS ends with a close message."""
        context = self._authority.server_context if self.scheme == "https" else None
        with serving(handle, context) as port:
            yield f"{self.scheme}://127.0.0.1:{port}"

    @contextlib.contextmanager
    def server_that(self, answer: Answer, **extra: object) -> Iterator[list[bytes]]:
        """Serve one answer per connection, to the connection ``deepshi_default``; yield the requests received."""
        requests: list[bytes] = []

        def handle(client: socket.socket) -> None:
            requests.append(read_request(client))
            answer(client)

        with self.serving(handle) as url:
            given: dict[str, Any] = {"max_retries": 2, "max_retry_wait": 0.01, "read_timeout": 2, **extra}
            self.connect_to(url, **given)
            yield requests

    def connect_to(self, url: str, *, key: str = KEY, **extra: object) -> None:
        """Set the connection ``deepshi_default`` to this URL."""
        trusting = {"verify": str(self._authority.ca_file), **extra}
        connection = {"conn_type": "deepshi", "host": url, "password": key, "extra": trusting}
        self._monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", json.dumps(connection))


def read_request(client: socket.socket) -> bytes:
    """Return head and body of a request whose length is given."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += client.recv(65536)
    return head + b"\r\n\r\n" + body


def sends(*pieces: bytes, apart: float = 0.0, then: Answer = lambda client: None) -> Answer:
    """Return an answer that sends pieces, ``apart`` seconds apart, and then ends the connection with ``then``."""

    def answer(client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            client.sendall(piece)
            time.sleep(apart)
        then(client)

    return answer


def hangs_up(client: socket.socket) -> None:
    """End with FIN, like a killed process: over TLS without a close message."""
    client.shutdown(socket.SHUT_RDWR)


def resets(client: socket.socket) -> None:
    """End with RST, after the sent bytes have arrived or the client has left."""

    def arrived() -> bool:
        unsent = int.from_bytes(fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return unsent == 0 or bool(select.select([client], [], [], 0)[0])

    wait_until(arrived)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    block_on_close = True
    request_queue_size = 128

    handle_connection: Answer
    context: ssl.SSLContext | None

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore errors: clients that disconnect are part of the tests."""


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Server)
        if self.server.context is None:
            self.server.handle_connection(self.request)
            return
        with self.server.context.wrap_socket(self.request, server_side=True) as secure:
            self.server.handle_connection(secure)
            with contextlib.suppress(OSError, ValueError):  # already closed in another way
                secure.settimeout(5)
                secure.unwrap()


@contextlib.contextmanager
def serving(handle: Answer, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve TCP on 127.0.0.1, each connection in a thread; yield the port.

    :param context: TLS context, if it serves TLS.
    """
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.handle_connection = handle
        server.context = context
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def relay_to(base_url: str, connections: list[bytes] | None = None) -> Answer:
    """Return an answer that relays a connection to another server.

    :param connections: list that gets the first bytes of each connection.
    """
    address = _address(base_url)

    def handle(client: socket.socket) -> None:
        with socket.create_connection(address) as server:
            first = client.recv(65536)
            if connections is not None:
                connections.append(first)
            server.sendall(first)
            _pipe(client, server)

    return handle


@contextlib.contextmanager
def http_proxy() -> Iterator[tuple[str, list[str]]]:
    """Serve as a proxy (RFC 9110: absolute-form requests and CONNECT); yield its URL and the requested targets."""
    seen: list[str] = []

    def handle(client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(65536)
        method, target, rest = head.split(b" ", 2)
        seen.append(f"{method.decode()} {target.decode()}")
        address = _address(target.decode() if method != b"CONNECT" else f"//{target.decode()}")
        with socket.create_connection(address) as server:
            if method == b"CONNECT":
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                server.sendall(b"%s %s %s" % (method, re.sub(rb"^http://[^/]+", b"", target), rest))
            _pipe(client, server)

    with serving(handle) as port:
        yield f"http://127.0.0.1:{port}", seen


def asked_of_a_proxy(base_url: str) -> str:
    """Return the target that :func:`http_proxy` gets for a request through it."""
    if base_url.startswith("https://"):
        return f"CONNECT {base_url.removeprefix('https://')}"
    return f"POST {base_url}/v1/images/generations"


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


def _pipe(client: socket.socket, server: socket.socket) -> None:
    """Copy bytes in both directions until one side closes."""
    other = {client: server, server: client}
    while True:
        waiting = isinstance(client, ssl.SSLSocket) and client.pending()
        ready = [client] if waiting else select.select([client, server], [], [])[0]
        for source in ready:
            data = source.recv(65536)
            if not data:
                return
            other[source].sendall(data)
