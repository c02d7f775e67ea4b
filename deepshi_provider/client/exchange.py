"""Sends one request and reads its answer: the only module that sends paid requests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, cast
from weakref import WeakKeyDictionary

import anyio
import httpx

from deepshi_provider import __version__
from deepshi_provider.api.answer import AnswerReader
from deepshi_provider.api.errors import error_from_status, request_id
from deepshi_provider.api.received import Received
from deepshi_provider.api.requests import EditRequest, GenerateRequest
from deepshi_provider.api.spool import NewFile
from deepshi_provider.api.unpacking import Unpacker
from deepshi_provider.client.inputs import InputImages
from deepshi_provider.exceptions import (
    ConnectionFailed,
    DeepshiError,
    InvalidConnection,
    OutcomeUnknown,
    ServerFailed,
    TimedOut,
)

HEADERS = {
    "User-Agent": f"airflow-provider-deepshi/{__version__}",
    "Accept": "application/json, text/event-stream",
    "Accept-Encoding": "gzip",
}
#: Longest silence of an answer that is not a stream, in seconds, if the caller sets no timeout.
LONGEST_SILENCE = 600.0
#: Maximum bytes of an error's body that are read.
_ERROR_LIMIT = 64 * 1024
#: Seconds to wait for it; the status is enough for an error.
_ERROR_TIMEOUT = 10.0
#: When many requests start or many answers arrive at once, each turn of the event loop starts one session, sends one
#: request or decodes one piece, since all of them together would block the loop.
_TURNS: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


class Exchange:
    """Sends one request once, by :meth:`run`. If that is cancelled, call :meth:`arrived` or :meth:`discard`.

    :param inputs: the input images of an edit.
    :param new_file: makes the files for images; see :class:`~deepshi_provider.api.spool.Spool`.
    """

    def __init__(
        self, client: httpx.AsyncClient, request: GenerateRequest, inputs: InputImages | None, new_file: NewFile | None
    ) -> None:
        self._client = client
        self._request = request
        self._inputs = inputs
        self._reader = AnswerReader(request.n, new_file=new_file)
        self._response: httpx.Response | None = None
        self._departure = _Departure()

    @property
    def was_sent(self) -> bool:
        """Whether the request may have left this machine."""
        return self._departure.begun

    async def run(self, remaining: float | None) -> Received:
        """Send the request and return the answer, or raise a :class:`DeepshiError`.

        Whole images that arrived before the answer was lost, or the time limit passed, are used.

        :param remaining: seconds for the whole exchange.
        """
        await yield_turn()
        if remaining is not None and remaining <= 0:
            raise TimedOut("generation_timeout has passed, and nothing was sent")
        return self._received(await self._lost(remaining))

    def arrived(self) -> Received:
        """Return the whole images that had arrived when :meth:`run` was cancelled, or raise a :class:`DeepshiError`."""
        if self._response is not None and not self._response.is_success:
            raise error_of(self._response, b"")
        cut = "The request was sent and then cancelled before its answer was complete; the image may have been paid for"
        return self._received(OutcomeUnknown(cut))

    def discard(self) -> None:
        """Delete everything received."""
        self._reader.discard()

    def _received(self, lost: DeepshiError | None) -> Received:
        try:
            return self._reader.close(lost)
        except DeepshiError as err:
            self._reader.discard()
            self._add_request_id(err)
            raise

    async def _lost(self, remaining: float | None) -> DeepshiError | None:
        """Run the exchange; return an error if the answer ended early."""
        try:
            with anyio.fail_after(remaining):
                await self._exchange(remaining)
        except DeepshiError as err:
            return err
        except TimeoutError as err:
            if self._response is not None and not self._response.is_success:
                return error_of(self._response, b"")  # the status is enough for an error
            return _chained(self._out_of_time(), err)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as err:
            return _chained(self._broken_off(err), err)
        return None

    async def _exchange(self, remaining: float | None) -> None:
        sent = self._client.build_request(
            "POST",
            self._request.path,
            headers=HEADERS,
            extensions={"trace": self._departure, "timeout": self._departure.limits(self._timeouts(remaining))},
            **self._body(),
        )
        self._response = await self._client.send(sent, stream=True)
        try:
            if not self._response.is_success:
                raise error_of(self._response, await _beginning(self._response))
            await self._read(_pieces_of(self._response))
        finally:
            # Once the answer is complete, a connection that does not close properly no longer matters.
            with contextlib.suppress(httpx.HTTPError, OSError):
                await self._response.aclose()

    async def _read(self, pieces: AsyncIterator[bytes]) -> None:
        turns, unpacker = _turns(), Unpacker()
        async for packed in pieces:
            for piece in unpacker.feed(packed):
                async with turns:
                    self._reader.feed(piece)
                    await asyncio.sleep(0)
                if self._reader.complete:
                    return

    def _out_of_time(self) -> DeepshiError:
        if not self._departure.begun:
            return TimedOut(f"No connection to {self._client.base_url} within generation_timeout; nothing was sent")
        return OutcomeUnknown(
            "The request was sent, but no complete answer arrived within generation_timeout; "
            "the image may have been paid for"
        )

    def _broken_off(self, err: Exception) -> DeepshiError:
        if self._departure.begun:
            return OutcomeUnknown(
                f"The request was sent and its answer was lost ({reason(err)}); the image may have been paid for"
            )
        if isinstance(err, httpx.ProxyError) and str(err).startswith("407"):  # the answer to CONNECT
            return InvalidConnection(f"The proxy requires user name and password; nothing was sent: {reason(err)}")
        return ConnectionFailed(f"No connection to {self._client.base_url}: {reason(err)}")

    def _timeouts(self, timeout: float | None) -> httpx.Timeout:
        """Return the connection's timeouts; without a stream, nothing arrives until all images are done."""
        usual = self._client.timeout
        silence = usual.read if self._request.stream else timeout or LONGEST_SILENCE
        return httpx.Timeout(connect=usual.connect, read=silence, write=usual.write, pool=usual.pool)

    def _body(self) -> dict[str, Any]:
        if isinstance(self._request, EditRequest) and self._inputs is not None:
            field = self._request.image_field()
            files = [(field, image.part(position)) for position, image in enumerate(self._inputs.images)]
            return {"data": self._request.form_fields(), "files": files}
        return {"json": self._request.wire_fields()}

    def _add_request_id(self, err: DeepshiError) -> None:
        """Add the answer's request id and status to an error."""
        if self._response is not None and self._response.is_success:
            err.request_id = err.request_id or request_id(self._response.headers)
            is_inside = isinstance(err, ServerFailed | OutcomeUnknown)
            err.status_code = err.status_code or (None if is_inside else self._response.status_code)


class _Departure:
    """Records when the first byte of a request may leave this machine: from then on it may be paid for.

    It is a trace function of httpx (https://www.python-httpx.org/advanced/extensions/#trace). A ``CONNECT`` to a proxy
    is not yet a request to Deepshi: its answer must arrive within the connect timeout.
    """

    def __init__(self) -> None:
        self.begun = False
        self._limits: dict[str, float | None] = {}
        self._silence: float | None = None

    def limits(self, timeout: httpx.Timeout) -> dict[str, float | None]:
        """Return the timeouts as httpx's ``timeout`` extension, which is read again before each read."""
        self._silence = timeout.read
        self._limits = {**timeout.as_dict(), "read": timeout.connect}
        return self._limits

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        """Record an event; httpx calls this before the event happens."""
        if event.endswith(".send_request_headers.started") and info["request"].method == b"POST":
            self.begun = True
            self._limits["read"] = self._silence


async def yield_turn() -> None:
    """Yield to other tasks that wait for the event loop."""
    async with _turns():
        await asyncio.sleep(0)


def error_of(response: httpx.Response, body: bytes) -> DeepshiError:
    """Return the error of an answer whose status is not 2xx."""
    return error_from_status(response.status_code, body, response.headers, now=time.time())


def reason(err: BaseException) -> str:
    """Return an error's text for use in a sentence."""
    text = str(err)
    return f"{type(err).__name__}: {text}" if text else type(err).__name__


def _turns() -> asyncio.Lock:
    return _TURNS.setdefault(asyncio.get_running_loop(), asyncio.Lock())


def _chained(error: DeepshiError, cause: Exception) -> DeepshiError:
    error.__cause__ = cause
    return error


def _pieces_of(response: httpx.Response) -> AsyncIterator[bytes]:
    """Return the pieces of an answer as they come; without ``aiter_raw``, whose early end leaves a reference cycle."""
    return cast("httpx.AsyncByteStream", response.stream).__aiter__()


async def _beginning(response: httpx.Response) -> bytes:
    body, unpacker = b"", Unpacker()
    try:
        with anyio.move_on_after(_ERROR_TIMEOUT):
            async for packed in _pieces_of(response):
                for piece in unpacker.feed(packed):
                    body += piece
                    if len(body) > _ERROR_LIMIT:
                        return body
    except (httpx.HTTPError, OutcomeUnknown):
        pass  # the status is enough for an error
    return body
