"""A server that sends a test's own answers, byte by byte, and counts requests."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.support.servers import KEY, serving


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer.

    :param body: the bytes to send, with their ``Content-Length`` unless ``head`` is given.
    :param head: header lines instead of content type and length.
    :param hold: keep the connection open until the client closes it, or the test ends.
    :param after: send nothing before this event.
    """

    body: bytes
    head: str | None = None
    status: str = "200 OK"
    hold: bool = False
    after: threading.Event | None = None

    def on_wire(self) -> bytes:
        head = f"Content-Type: application/json\r\nContent-Length: {len(self.body)}" if self.head is None else self.head
        return f"HTTP/1.1 {self.status}\r\n{head}\r\nX-Request-Id: req-1\r\n\r\n".encode() + self.body


@dataclass(kw_only=True)
class AnsweringServer:
    """A server.

    :ivar posts: number of paid requests so far.
    """

    base_url: str
    choose: Callable[[int, bytes], Answer]
    posts: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def connection_json(self, **extra: object) -> str:
        """Return the Airflow connection to it."""
        settings = {"max_retries": 3, "max_retry_wait": 0.01, "read_timeout": 20, **extra}
        return json.dumps({"conn_type": "deepshi", "host": self.base_url, "password": KEY, "extra": settings})

    def handle(self, client: socket.socket) -> None:
        request = _request(client)
        if not request.startswith(b"POST "):
            client.sendall(Answer(body=b'{"data": []}').on_wire())
            return
        with self.lock:
            self.posts += 1
            answer = self.choose(self.posts, request)
        while answer.after and not answer.after.wait(0.02) and not self.over.is_set():
            pass
        with contextlib.suppress(OSError):
            client.sendall(answer.on_wire())
            client.settimeout(0.05)
            while answer.hold and not self.over.is_set():
                with contextlib.suppress(TimeoutError):
                    if not client.recv(1024):
                        break


@contextlib.contextmanager
def answering(choose: Callable[[int, bytes], Answer] | Answer) -> Iterator[AnsweringServer]:
    """Serve answers, each chosen by the number of the paid request, from 1, and its bytes."""
    chosen = choose if callable(choose) else lambda *_: choose
    server = AnsweringServer(base_url="", choose=chosen)
    with serving(server.handle) as port:
        server.base_url = f"http://127.0.0.1:{port}"
        try:
            yield server
        finally:
            server.over.set()


def _request(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(65536)
        if not piece:
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].partition(b":")[2]) if lengths else 0
    while len(body) < length:
        piece = client.recv(65536)
        if not piece:
            break
        body += piece
    return head + b"\r\n\r\n" + body
