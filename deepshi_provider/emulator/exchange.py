"""The connection of one request: sends an answer, cuts it off, and detects when the client closes it."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from typing import TypeVar

from starlette.requests import Request
from starlette.types import Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import ApiError
from .json_pieces import write_json

T = TypeVar("T")
_SLICES_PER_SECOND = 20
_FLUSH_SECONDS = 5.0


class ClientGone(Exception):
    """The client closed the connection before its answer was complete."""


class Exchange:
    """The answer to one request, whose body is already read.

    :ivar status: the status sent, ``None`` before.
    :ivar bytes_per_second: rate of the body; ``None`` = as fast as the client reads.
    :ivar piece_bytes: maximum bytes per write to the connection; ``None`` = no limit.
    """

    def __init__(self, request: Request, send: Send) -> None:
        self.status: int | None = None
        self.bytes_per_second: float | None = None
        self.piece_bytes: int | None = None
        self._due = 0.0  # seconds
        self._send = send
        self._request = request
        # Set by our uvicorn protocol, since ASGI cannot break a connection.
        self._connection: H11Protocol = request.scope["state"]["connection"]
        self._watchers: set[asyncio.Task[None]] = set()  # one, after watch()

    def watch(self) -> None:
        """Start watching whether the client stays connected. The request's body must have been read."""
        self._watchers = {asyncio.create_task(self._until_disconnect())}

    def close(self) -> None:
        """Stop watching."""
        for watcher in self._watchers:
            watcher.cancel()

    async def wait(self, task: asyncio.Task[T], timeout: float | None = None) -> bool:
        """Wait for a task, which continues if the client leaves; return ``False`` after ``timeout`` seconds.

        :raises ClientGone: the client left.
        """
        watched: set[asyncio.Task[object]] = {task, *self._watchers}
        await asyncio.wait(watched, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        self._check_client()
        return task.done()

    async def pause(self, seconds: float) -> None:
        """Wait for some seconds.

        :raises ClientGone: the client left during the wait.
        """
        await asyncio.wait(self._watchers, timeout=seconds)
        self._check_client()

    async def until_gone(self) -> None:
        """Wait until the client leaves."""
        await asyncio.wait(self._watchers)

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send status and headers."""
        self.status = status
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, pieces: Iterable[bytes]) -> None:
        """Send a part of the body; wait after each piece until the client has read enough.

        :raises ClientGone: the client left.
        """
        for piece in pieces:
            for part in self._parts(piece):
                if self._due:
                    await self.pause(self._due)
                await self._send({"type": "http.response.body", "body": part, "more_body": True})
                self._check_client()
                if self.bytes_per_second is not None:
                    # Before the next part, not after the last: a client that has the whole body may leave.
                    self._due = len(part) / self.bytes_per_second

    async def finish(self) -> None:
        """End the body.

        :raises ClientGone: the client left before the end.
        """
        self._check_client()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def answer(self, status: int, content_type: str, pieces: list[bytes]) -> None:
        """Send a whole answer with its length."""
        await self.start(status, content_headers(content_type, pieces))
        await self.write(pieces)
        await self.finish()

    async def answer_error(self, error: ApiError) -> None:
        """Send an error of the API."""
        pieces = write_json(error.body())
        headers = content_headers("application/json", pieces) | error.headers()
        await self.start(error.status, headers)
        await self.write(pieces)
        await self.finish()

    async def cut(self, *, reset: bool) -> None:
        """Cut the connection without a proper end, after all written bytes are sent.

        :param reset: with RST instead of FIN, and without a TLS close message, so that the client may lose bytes that
            it has not read.
        """
        transport = self._connection.transport
        if reset:
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if reset and transport.get_extra_info("ssl_object"):
            await self._flush()
            transport.abort()  # close() would exchange TLS close messages, and leave nothing to reset
        else:
            transport.close()
        # uvicorn must notice this before the application returns, or it reports an error of the application.
        await asyncio.wait(self._watchers, timeout=_FLUSH_SECONDS)
        transport.abort()

    async def _flush(self) -> None:
        transport, deadline = self._connection.transport, time.monotonic() + _FLUSH_SECONDS
        while transport.get_write_buffer_size() and time.monotonic() < deadline:
            await self.pause(0.01)

    async def _until_disconnect(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass

    def _check_client(self) -> None:
        left = any(watcher.done() for watcher in self._watchers)
        if left or self._connection.transport.is_closing():
            raise ClientGone

    def _parts(self, piece: bytes) -> Iterable[bytes]:
        size = self.piece_bytes or len(piece)
        if self.bytes_per_second is not None:
            size = min(size, max(1, int(self.bytes_per_second / _SLICES_PER_SECOND)))
        return [piece[start : start + size] for start in range(0, len(piece), size)] if piece else []


def content_headers(content_type: str, pieces: list[bytes]) -> dict[str, str]:
    """Return the headers of an answer of known length."""
    length = sum(len(piece) for piece in pieces)
    return {"content-type": content_type, "content-length": str(length)}
