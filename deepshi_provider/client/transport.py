"""An httpx transport over httpcore with the network backend of :mod:`deepshi_provider.client.network`.

httpx's own ``AsyncHTTPTransport`` does not accept a network backend. Each connection carries one request, and nothing
is sent twice.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import cast

import httpcore
import httpx

from deepshi_provider.client.network import SocketBackend

#: TCP keepalive: seconds of silence before the first probe, seconds between probes, and number of unanswered probes
#: after which the connection is dead. Firewalls and NAT drop connections that are silent for minutes, and an image may
#: take that long.
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 30, "TCP_KEEPCNT": 6}


#: httpcore's errors, which httpx has under the same names.
_ERRORS = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)


class Transport(httpx.AsyncBaseTransport):
    """Sends each request over a new connection.

    :param tls: TLS context for ``https`` servers and proxies.
    :param proxy: URL of an HTTP proxy.
    """

    def __init__(self, tls: ssl.SSLContext, proxy: str | None = None) -> None:
        self._tls = tls
        self._proxy = _proxy(proxy, tls) if proxy else None
        self._backend = SocketBackend(_socket_options())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the body of its answer is read from the connection as it is iterated over."""
        url = request.url
        core_request = httpcore.Request(
            method=request.method,
            url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        pool = self._new_pool()
        try:
            with _errors_of_httpx():
                response = await pool.handle_async_request(core_request)
        except BaseException:  # a request that is cancelled while it connects would stay in the pool
            await pool.aclose()
            raise
        return _Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(cast("AsyncIterable[bytes]", response.stream), pool),
            extensions=response.extensions,
        )

    def _new_pool(self) -> httpcore.AsyncConnectionPool:
        """Return a pool for one request: a shared pool would scan all connections at each request's start and end."""
        return httpcore.AsyncConnectionPool(
            ssl_context=self._tls,
            proxy=self._proxy,
            max_connections=None,
            max_keepalive_connections=0,
            network_backend=self._backend,
        )


class _Response(httpx.Response):
    """A response without a reference cycle: httpx wraps the stream in an object that refers to the response."""

    async def aclose(self) -> None:
        """Close the connection."""
        await super().aclose()
        self.stream = httpx.ByteStream(b"")


class _Body(httpx.AsyncByteStream):
    def __init__(self, stream: AsyncIterable[bytes], pool: httpcore.AsyncConnectionPool) -> None:
        self._stream = stream
        self._pool = pool

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:  # not with _errors_of_httpx(): before Python 3.11, an early end would leave a reference cycle
            async for piece in self._stream:
                yield piece
        except _ERRORS as err:
            raise _error_of_httpx(err) from err

    async def aclose(self) -> None:
        with _errors_of_httpx():
            try:
                await self._stream.aclose()  # type: ignore[attr-defined]  # missing in httpcore's types
            finally:
                await self._pool.aclose()


def _proxy(url: str, tls: ssl.SSLContext) -> httpcore.Proxy:
    parsed = httpx.Proxy(url)
    target = httpcore.URL(
        scheme=parsed.url.raw_scheme, host=parsed.url.raw_host, port=parsed.url.port, target=parsed.url.raw_path
    )
    return httpcore.Proxy(url=target, auth=parsed.raw_auth, ssl_context=tls if parsed.url.scheme == "https" else None)


def _socket_options() -> list[tuple[int, int, int]]:
    wanted = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ]
    # macOS uses other names for some options.
    tcp = [(socket.IPPROTO_TCP, getattr(socket, n), value) for n, value in _KEEPALIVE.items() if hasattr(socket, n)]
    return wanted + tcp


@contextlib.contextmanager
def _errors_of_httpx() -> Iterator[None]:
    """Convert httpcore's errors to httpx's errors of the same names."""
    try:
        yield
    except _ERRORS as err:
        raise _error_of_httpx(err) from err


def _error_of_httpx(err: Exception) -> httpx.TransportError:
    error: httpx.TransportError = getattr(httpx, type(err).__name__)(str(err))
    return error
