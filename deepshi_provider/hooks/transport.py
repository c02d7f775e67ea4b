"""Carries httpx's requests over aiohttp, which takes half the time that httpx's own transport takes for a large answer.

What matters for money is exact: an error that says "not connected" is raised only while a connection is made, by
:class:`aiohttp.TCPConnector`; everything later is an error in reading. (The package ``httpx-aiohttp`` 0.2.0 reports a
connection that the server cuts after the request as :class:`httpx.ConnectTimeout`: it would be sent, and paid, again.)
Nothing is sent twice and no connection is used twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import httpx
from aiohttp.http import HttpProcessingError

#: Bytes of a request that go out at once. aiohttp sets no time for a server that does not take a longer one.
_SHORT = 32 * 1024
#: Bytes of an answer that wait to be read before the connection pauses, so that hundreds of answers which come at once
#: wait in the kernel; twice as much, and one read, may come.
_BUFFER = 1024
#: Bytes that a connection reads at once. Python's 256 KiB double the memory of 200 answers at once, and the longest
#: turns of the event loop; 64 KiB take a third more processor time. Over TLS Python keeps to its own.
_READ = 128 * 1024
#: Bytes of one line of an answer's head; httpx's own transport takes as many for the whole head.
_HEADER_LIMIT = 100 * 1024
#: Python's TLS waits half a minute for a silent server when a connection is closed, and aiohttp can end that wait.
_TLS_WAITS_FOR_PEER = sys.version_info < (3, 12, 7) or (3, 13, 0) <= sys.version_info < (3, 13, 1)


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends each request over a connection of its own, directly to the server; an HTTP proxy needs another transport.

    Long requests, the forms of edits among them, and those that aiohttp would send again by itself (it does so with a
    GET whose connection breaks) go through httpx's own transport.

    The timeouts are httpx's: ``connect`` is for name, connection and TLS together; ``read`` is the longest silence.

    :param tls: for ``https``.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._others = httpx.AsyncHTTPTransport(verify=tls, limits=limits)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; its answer's body is read from the connection as it is asked for."""
        is_short = isinstance(request.stream, httpx.ByteStream) and len(request.content) <= _SHORT
        if request.method != "POST" or not is_short:
            return await self._others.handle_async_request(request)
        timeout = request.extensions["timeout"]
        headers = [(name, value) for name, value in request.headers.multi_items() if name != "connection"]
        with _errors_of_httpx():
            response = await self._opened().request(
                request.method,
                str(request.url),
                headers=headers,
                data=request.content,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(connect=timeout["connect"], sock_read=timeout["read"]),
            )
        return _Answer(response.status, headers=list(response.raw_headers), stream=_Body(response, timeout["read"]))

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session:
            await self._session.close()
        await self._others.aclose()

    def _opened(self) -> aiohttp.ClientSession:
        """Return the session; it can be made only where an event loop runs."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=self._tls, limit=0, force_close=True, enable_cleanup_closed=_TLS_WAITS_FOR_PEER
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # httpx does
                read_bufsize=_BUFFER,
                # A paid answer is not thrown away because a proxy on its way added much.
                max_line_size=_HEADER_LIMIT,
                max_field_size=_HEADER_LIMIT,
            )
        return self._session


class _Answer(httpx.Response):
    """A response that is gone when its last user is: httpx wraps the stream in an object that holds the response."""

    async def aclose(self) -> None:
        """Close the connection."""
        await super().aclose()
        self.stream = httpx.ByteStream(b"")


class _Body(httpx.AsyncByteStream):
    """An answer's body.

    :param silence: longest time without a byte, in seconds. aiohttp measures it too, but stops to when it finds
        a mistake in the framing, and tells nobody who waits for the body.
    """

    def __init__(self, response: aiohttp.ClientResponse, silence: float | None) -> None:
        self._response = response
        self._silence = silence

    async def __aiter__(self) -> AsyncIterator[bytes]:
        transport: Any = self._response.connection and self._response.connection.transport
        if hasattr(transport, "max_size"):  # of asyncio's own transports
            transport.max_size = _READ
        try:
            with _errors_of_httpx():
                while piece := await self._piece():
                    yield piece
        except RuntimeError as err:  # aiohttp's "Connection closed", if it broke while nobody was reading
            raise httpx.ReadError(str(err)) from err

    async def _piece(self) -> bytes:
        content = self._response.content
        if self._silence is None:
            return await content.readany()
        error = aiohttp.SocketTimeoutError("Timeout on reading data from socket")
        timer = asyncio.get_running_loop().call_later(self._silence, content.set_exception, error)
        try:
            return await content.readany()
        finally:
            timer.cancel()

    async def aclose(self) -> None:
        self._response.close()


@contextlib.contextmanager
def _errors_of_httpx() -> Iterator[None]:
    try:
        yield
    except aiohttp.ConnectionTimeoutError as err:
        raise httpx.ConnectTimeout(str(err)) from err
    except aiohttp.ClientConnectorError as err:
        raise httpx.ConnectError(str(err)) from err
    except (aiohttp.ServerTimeoutError, asyncio.TimeoutError) as err:
        raise httpx.ReadTimeout(str(err)) from err
    except (aiohttp.ClientError, HttpProcessingError) as err:
        raise httpx.ReadError(f"{type(err).__name__}: {err}") from err
