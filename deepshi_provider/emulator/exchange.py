"""One request's connection: sends an answer, breaks it off, and notices when the client goes."""

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
    """Begins when the request's body was read.

    :ivar status: what was sent as status, ``None`` before.
    :ivar bytes_per_second: slows the body down; ``None`` = as fast as the client reads.
    :ivar piece_bytes: the most that is handed to the connection at once; ``None`` = as it comes.
    """

    def __init__(self, request: Request, send: Send) -> None:
        self.status: int | None = None
        self.bytes_per_second: float | None = None
        self.piece_bytes: int | None = None
        self._due = 0.0  # seconds
        self._send = send
        self._request = request
        # Put there by our uvicorn protocol: ASGI has no word for "break the connection".
        self._connection: H11Protocol = request.scope["state"]["connection"]
        self._watchers: set[asyncio.Task[None]] = set()  # one, after watch()

    def watch(self) -> None:
        """Watches from now on whether the client stays. The body must have been read."""
        self._watchers = {asyncio.create_task(self._until_disconnect())}

    def close(self) -> None:
        """Stops watching."""
        for watcher in self._watchers:
            watcher.cancel()

    async def wait(self, task: asyncio.Task[T], timeout: float | None = None) -> bool:
        """Waits for a task, which goes on if the client leaves; false after ``timeout`` seconds.

        :raises ClientGone: the client left.
        """
        watched: set[asyncio.Task[object]] = {task, *self._watchers}
        await asyncio.wait(watched, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        self._check_client()
        return task.done()

    async def pause(self, seconds: float) -> None:
        """Waits.

        :raises ClientGone: the client left meanwhile.
        """
        await asyncio.wait(self._watchers, timeout=seconds)
        self._check_client()

    async def until_gone(self) -> None:
        """Waits until the client leaves."""
        await asyncio.wait(self._watchers)

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Sends status and headers."""
        self.status = status
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, pieces: Iterable[bytes]) -> None:
        """Sends a part of the body; each piece waits until the client has read enough.

        :raises ClientGone: the client left.
        """
        for piece in pieces:
            for part in self._parts(piece):
                if self._due:
                    await self.pause(self._due)
                await self._send({"type": "http.response.body", "body": part, "more_body": True})
                self._check_client()
                if self.bytes_per_second is not None:
                    # Before the next part, not after the last: who has all of the body may leave.
                    self._due = len(part) / self.bytes_per_second

    async def finish(self) -> None:
        """Ends the body.

        :raises ClientGone: the client left before.
        """
        self._check_client()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def answer(self, status: int, content_type: str, pieces: list[bytes]) -> None:
        """Sends a whole answer with its length."""
        await self.start(status, content_headers(content_type, pieces))
        await self.write(pieces)
        await self.finish()

    async def answer_error(self, error: ApiError) -> None:
        """Sends an error of the API."""
        pieces = write_json(error.body())
        headers = content_headers("application/json", pieces) | error.headers()
        await self.start(error.status, headers)
        await self.write(pieces)
        await self.finish()

    async def cut(self, *, reset: bool) -> None:
        """Breaks the connection off without a proper end, after what was written has left.

        :param reset: with RST instead of FIN, and over TLS without its goodbye, so that the client may lose what it has
            not read.
        """
        transport = self._connection.transport
        if reset:
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if reset and transport.get_extra_info("ssl_object"):
            await self._flush()
            transport.abort()  # closing would say goodbye, wait for the client's, and leave nothing to reset
        else:
            transport.close()
        # uvicorn must have noticed before the application returns, or it takes it for our mistake.
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
    """Headers of an answer whose length is known."""
    length = sum(len(piece) for piece in pieces)
    return {"content-type": content_type, "content-length": str(length)}
