"""A network backend for httpcore, for large answers.

httpcore's own backend passes one TLS record of 16 KiB per call through several layers. This one reads the socket
directly, so that unread bytes stay in the kernel, and decrypts all records that have arrived in one call.

It implements httpcore's documented interface, https://www.encode.io/httpcore/network-backends/. Errors are
:class:`httpcore.ConnectError` and :class:`httpcore.ConnectTimeout` only while a connection is made; an end without the
TLS close message is an error, since a part of the answer may be missing (RFC 8446, section 6.1).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import aiohappyeyeballs
import anyio
import httpcore

#: Bytes per send; the write timeout applies to each.
_PIECE = 64 * 1024
#: Seconds without progress after which a server that has already answered is assumed to have stopped reading the
#: request (RFC 9112, section 9.5).
_STALL = 5.0
#: Seconds before also trying another address of the same host (RFC 8305, "Connection Attempt Delay").
_NEXT_ADDRESS = 0.25


class SocketBackend(httpcore.AsyncNetworkBackend):
    """Makes TCP connections on asyncio's event loop.

    :param options: level, name and value of options for all sockets. httpcore's own ``socket_options`` do not reach
        connections to a proxy.
    """

    def __init__(self, options: Iterable[tuple[int, int, int]] = ()) -> None:
        self._options = tuple(options)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of a host that answers.

        :param timeout: seconds, including the name lookup.
        :param local_address: not supported.
        """
        with _errors(httpcore.ConnectTimeout, httpcore.ConnectError), anyio.fail_after(timeout):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            connected = await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=_NEXT_ADDRESS, interleave=1)
        for option in (*self._options, *(socket_options or ())):
            connected.setsockopt(*option)
        return SocketStream(connected)


class _Stream(httpcore.AsyncNetworkStream):
    async def write(
        self, buffer: bytes, timeout: float | None = None, has_answer: Callable[[], bool] | None = None
    ) -> None:
        """Send; see :meth:`SocketStream.write`."""
        raise NotImplementedError

    def has_answer(self) -> bool:
        """Return whether the other side has sent data that is not read yet. Does not wait."""
        raise NotImplementedError

    def take(self) -> bytes:
        """Return the bytes that have arrived, without waiting; empty if there are none, or at the end."""
        raise NotImplementedError

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Start TLS over this stream, which may already be TLS to a proxy."""
        stream = TlsStream(self, ssl_context, server_hostname)
        try:
            with _errors(httpcore.ConnectTimeout, httpcore.ConnectError), anyio.fail_after(timeout):
                await stream.handshake()
        except BaseException:
            await self.aclose()
            raise
        return stream


class SocketStream(_Stream):
    """A TCP connection.

    :param connected: a non-blocking socket; it is closed with this object.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the bytes that have arrived, or wait for some; empty at the end.

        :param timeout: seconds.
        """
        with _errors(httpcore.ReadTimeout, httpcore.ReadError):
            with contextlib.suppress(BlockingIOError, InterruptedError):
                return self._socket.recv(max_bytes)
            with anyio.fail_after(timeout):
                return await asyncio.get_running_loop().sock_recv(self._socket, max_bytes)

    async def write(
        self, buffer: bytes, timeout: float | None = None, has_answer: Callable[[], bool] | None = None
    ) -> None:
        """Send bytes.

        A server may answer before it has read the whole request, and stop reading. This raises
        :class:`httpcore.WriteError`, after which httpcore reads the answer.

        :param timeout: seconds, for each 64 KiB.
        :param has_answer: replaces :meth:`has_answer`, for TLS over this stream, whose own messages are not an answer.
        """
        asked = has_answer or self.has_answer
        for start in range(0, len(buffer), _PIECE):
            with _errors(httpcore.WriteTimeout, httpcore.WriteError):
                try:
                    with anyio.fail_after(timeout):
                        await self._send(memoryview(buffer)[start : start + _PIECE], asked)
                except TimeoutError:
                    if asked():
                        raise _answered() from None
                    raise

    async def _send(self, piece: memoryview, has_answer: Callable[[], bool]) -> None:
        while piece:
            try:
                piece = piece[self._socket.send(piece) :]
            except (BlockingIOError, InterruptedError):
                while not await self._is_writable():
                    if has_answer():
                        raise _answered() from None

    async def _is_writable(self) -> bool:
        with anyio.move_on_after(_STALL):
            await anyio.wait_writable(self._socket)
            return True
        return False

    def has_answer(self) -> bool:
        """See the base class."""
        with contextlib.suppress(BlockingIOError, InterruptedError):
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        return False

    def take(self) -> bytes:
        """See the base class."""
        with contextlib.suppress(BlockingIOError, InterruptedError):
            return self._socket.recv(_PIECE)
        return b""

    async def aclose(self) -> None:
        """Close the connection."""
        self._socket.close()

    def get_extra_info(self, info: str) -> Any:
        """Return the socket for ``socket``, and ``None`` for other names."""
        return self._socket if info == "socket" else None


class TlsStream(_Stream):
    """TLS over another stream.

    :param server_hostname: the host that the certificate must be for.
    """

    def __init__(self, stream: _Stream, context: ssl.SSLContext, server_hostname: str | None):
        self._stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self._broken: ssl.SSLError | None = None
        self._early = b""

    async def handshake(self) -> None:
        """Start TLS; raise :class:`ssl.SSLError` if the other side fails or its certificate is not trusted."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill(_PIECE)
            except ssl.SSLError:
                with contextlib.suppress(httpcore.NetworkError):
                    await self._flush()  # sends the alert with the reason
                raise
            else:
                return await self._flush()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the bytes that have arrived, or wait for some; empty at the end.

        :param timeout: seconds between two arrivals of bytes.
        """
        if self._early:
            early, self._early = self._early[:max_bytes], self._early[max_bytes:]
            return early
        while (data := self._decrypt(max_bytes)) is None:
            await self._flush(timeout)  # sends TLS's own messages, such as a key update
            await self._fill(max_bytes, timeout)
        return data

    async def write(
        self, buffer: bytes, timeout: float | None = None, has_answer: Callable[[], bool] | None = None
    ) -> None:
        """Send; see :meth:`SocketStream.write`."""
        for start in range(0, len(buffer), _PIECE):
            with _errors(httpcore.WriteTimeout, httpcore.WriteError):
                self._tls.write(buffer[start : start + _PIECE])
            await self._flush(timeout, has_answer)

    def has_answer(self) -> bool:
        """See the base class; TLS's own messages, such as session tickets, do not count."""
        self._early = self._early or self._decrypt(_PIECE) or b""
        while not self._early and (data := self._stream.take()):
            self._incoming.write(data)
            self._early = self._decrypt(_PIECE) or b""
        return bool(self._early)

    def take(self) -> bytes:
        """See the base class."""
        early, self._early = (self._early, b"") if self.has_answer() else (b"", b"")
        return early

    async def aclose(self) -> None:
        """Close the connection without a TLS close message, which would be of no use to the server."""
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        """Return the TLS object for ``ssl_object``, and other information from the stream below."""
        return self._tls if info == "ssl_object" else self._stream.get_extra_info(info)

    def _decrypt(self, most: int) -> bytes | None:
        """Return all bytes that can be decrypted; ``None`` if more input is needed, empty at the end."""
        pieces: list[bytes] = []
        try:
            if self._broken:
                raise self._broken
            while most > 0 and (piece := self._tls.read(most)):
                pieces.append(piece)
                most -= len(piece)
        except ssl.SSLWantReadError:
            return b"".join(pieces) if pieces else None
        except ssl.SSLZeroReturnError:
            pass
        except ssl.SSLError as err:
            self._broken = err
            if not pieces:
                raise httpcore.ReadError(str(err)) from err
        return b"".join(pieces)

    async def _fill(self, max_bytes: int, timeout: float | None = None) -> None:
        if data := await self._stream.read(max_bytes, timeout):
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self, timeout: float | None = None, has_answer: Callable[[], bool] | None = None) -> None:
        if self._outgoing.pending:
            await self._stream.write(self._outgoing.read(), timeout, has_answer or self.has_answer)


def _answered() -> httpcore.WriteError:
    return httpcore.WriteError("the server has answered and stopped reading the request")


@contextlib.contextmanager
def _errors(timed_out: type[Exception], failed: type[Exception]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as err:
        raise timed_out(str(err)) from err
    except (OSError, httpcore.NetworkError) as err:
        raise failed(str(err)) from err
