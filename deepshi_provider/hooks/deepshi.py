"""The Deepshi API as a hook of Airflow."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from weakref import WeakKeyDictionary

import httpx
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.sdk import BaseHook

from deepshi_provider import __version__
from deepshi_provider.api.answer import AnswerReader, Received
from deepshi_provider.api.catalog import ModelInfo, read_catalog
from deepshi_provider.api.requests import EditRequest, GenerateRequest
from deepshi_provider.api.responses import error_from_status, request_id
from deepshi_provider.api.retry import wait_before_retry
from deepshi_provider.api.spool import NewFile
from deepshi_provider.costs import Operation
from deepshi_provider.exceptions import (
    ConnectionFailed,
    DeepshiError,
    InvalidConnection,
    InvalidResponse,
    OutcomeUnknown,
    RateLimited,
    ServerFailed,
    StorageFailed,
    TimedOut,
)
from deepshi_provider.hooks import metrics
from deepshi_provider.hooks.blocking import run_here
from deepshi_provider.hooks.form import field_behaviour, form_widgets
from deepshi_provider.hooks.inputs import InputImages, read_inputs
from deepshi_provider.hooks.observed import Observed
from deepshi_provider.hooks.pace import Pace
from deepshi_provider.hooks.result import ImagesResult
from deepshi_provider.hooks.settings import Settings

_USER_AGENT = f"airflow-provider-deepshi/{__version__}"
#: Bytes of an error's body that are looked at.
_ERROR_LIMIT = 64 * 1024
#: When many requests start or many answers come at once, each turn of the loop starts one session, sends one request or
#: decodes one piece: all together would block it.
_TURNS: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

Files = Callable[[], Awaitable[NewFile | None]]


class DeepshiHook(BaseHook):
    """Generates and edits images, and lists models.

    Synchronous methods are their asynchronous twins (prefix ``a``), run to their end.

    :param deepshi_conn_id: connection of type ``deepshi``.
    :param tell_run: inside of a task, count what is bought as spent by its DAG run (``max_run_cost_usd`` of its image
        tasks); the connection needs an ``output_uri``.
    """

    conn_name_attr = "deepshi_conn_id"
    default_conn_name = "deepshi_default"
    conn_type = "deepshi"
    hook_name = "Deepshi"

    def __init__(self, deepshi_conn_id: str = default_conn_name, *, tell_run: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._tell_run = tell_run
        self.deepshi_conn_id = deepshi_conn_id
        self._settings: Settings | None = None
        self._client: httpx.AsyncClient | None = None
        self._pace: Pace | None = None
        self._files: Files | None = None

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form's extra fields; only Airflow 3.1 asks."""
        return form_widgets()

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return how the form shows the standard fields; only Airflow 3.1 asks."""
        return field_behaviour()

    def generate(self, request: GenerateRequest) -> ImagesResult:
        """Generate images; see :meth:`agenerate`, which is for where an event loop runs (notebooks, async tasks)."""
        return run_here(self.agenerate(request), instead="use `await hook.agenerate(…)`")

    def edit(self, request: EditRequest) -> ImagesResult:
        """Edit images; see :meth:`aedit`."""
        return run_here(self.aedit(request), instead="use `await hook.aedit(…)`")

    def list_models(self) -> list[ModelInfo]:
        """Return the catalog; see :meth:`alist_models`."""
        return run_here(self.alist_models(), instead="use `await hook.alist_models()`")

    def test_connection(self) -> tuple[bool, str]:
        """Ask for the catalog, which is free. Called by the "Test" button of Airflow's connection form."""
        try:
            models = self.list_models()
        except DeepshiError as err:
            return False, str(err)
        return True, f"Connected; the key may use {len(models)} models"

    async def agenerate(self, request: GenerateRequest, *, timeout: float | None = None) -> ImagesResult:
        """Send a generation at once, wait for its answer, and return the images (API.md, "generations").

        What was surely not charged is sent again, within the connection's ``max_retries``; a lost answer never is.

        :param timeout: seconds for everything, waiting for retries included.
        :raises DeepshiError: see :mod:`deepshi_provider.exceptions`; ``charged`` tells what was paid.
        """
        return await self._send(request, None, timeout)

    async def aedit(
        self,
        request: EditRequest,
        *,
        inputs: InputImages | None = None,
        images_conn_id: str | None = None,
        timeout: float | None = None,
    ) -> ImagesResult:
        """Send an edit with its input images as a form (API.md, "edits"); otherwise like :meth:`agenerate`.

        :param inputs: the input images if they were read already, by :meth:`aread_inputs`; they stay open.
        :param images_conn_id: connection of the store that the input images are in.
        """
        if inputs is not None:
            return await self._send(request, inputs, timeout)
        with await self.aread_inputs(request, images_conn_id) as inputs:
            return await self._send(request, inputs, timeout)

    async def aread_inputs(self, request: EditRequest, conn_id: str | None = None) -> InputImages:
        """Read the input images of an edit into temporary files."""
        return await asyncio.to_thread(read_inputs, request.images, conn_id)

    async def alist_models(self) -> list[ModelInfo]:
        """Return the catalog (``GET /v1/models``), which is free and scoped to the key."""
        settings = await self.asettings()
        async with self._http(settings) as client:
            try:
                response = await client.get("/v1/models", headers=_headers())
            except httpx.HTTPError as err:
                raise ConnectionFailed(f"{settings.base_url} does not answer: {_reason(err)}") from err
        if not response.is_success:
            raise self._redacted(_error(response, response.content), settings)
        try:
            return read_catalog(response.json())
        except (ValueError, RecursionError):
            raise InvalidResponse("The list of models is not JSON", charged="no") from None

    async def asettings(self) -> Settings:
        """Return the connection's settings, read once."""
        if self._settings is None:
            try:
                connection = await self.aget_connection(self.deepshi_conn_id)
            except AirflowNotFoundException as err:
                raise InvalidConnection(f"The connection {self.deepshi_conn_id!r} is not defined") from err
            self._settings = Settings.from_connection(connection)
        return self._settings

    @asynccontextmanager
    async def session(self, pace: Pace | None = None, files: Files | None = None) -> AsyncIterator[DeepshiHook]:
        """Use one HTTP client for all calls inside the ``async with`` block.

        :param pace: slows all these calls down together when one is refused by the rate limit; such a refusal then
            does not count as one of the call's retries.
        :param files: asked before each call, returns what makes the files that images go to; it raises nothing.
        """
        await _own_turn()
        settings = await self.asettings()
        async with await asyncio.to_thread(settings.new_client) as client:
            self._client, self._pace, self._files = client, pace, files
            try:
                yield self
            finally:
                self._client = self._pace = self._files = None

    @asynccontextmanager
    async def _http(self, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
        if self._client is not None:
            yield self._client
            return
        async with await asyncio.to_thread(settings.new_client) as client:
            yield client

    async def _send(self, request: GenerateRequest, inputs: InputImages | None, timeout: float | None) -> ImagesResult:
        try:
            result = await self._attempts(request, inputs, timeout)
        except DeepshiError as err:
            if err.charged != "no":
                await self._told(request, err.cost_usd)
            raise
        await self._told(request, result.cost_usd)
        return result

    async def _told(self, request: GenerateRequest, cost_usd: Decimal | None) -> None:
        """Tell the DAG run what was paid or may have been; image tasks do so themselves."""
        if self._tell_run:
            from deepshi_provider.jobs.hook_costs import tell_run  # not while DAGs are parsed

            settings = await self.asettings()
            operation: Operation = "edit" if isinstance(request, EditRequest) else "generate"
            await tell_run(settings.output_uri, settings.output_conn_id, operation, cost_usd)

    async def _attempts(
        self, request: GenerateRequest, inputs: InputImages | None, timeout: float | None
    ) -> ImagesResult:
        settings = await self.asettings()
        ends_at = None if timeout is None else time.monotonic() + timeout
        attempt = sends = 0
        new_file = await self._files() if self._files else None
        async with self._http(settings) as client:
            while True:
                attempt += 1
                sent_at = await self._pace.turn() if self._pace else 0.0
                try:
                    with Observed(request, settings.base_url) as observed:
                        received = observed.received(await self._once(client, request, inputs, ends_at, new_file))
                    if self._pace:
                        self._pace.accepted()
                    return ImagesResult.from_received(received, sends=sends + 1)
                except DeepshiError as raised:
                    error = self._redacted(raised, settings)
                    sends += not isinstance(error, ConnectionFailed | TimedOut)
                    error.sends = sends
                    paced = self._pace is not None and isinstance(error, RateLimited)
                    attempt -= paced
                    wait = self._wait(error, max(1, attempt), settings)
                    if wait is None or (ends_at is not None and time.monotonic() + wait > ends_at):
                        raise error from error.__cause__
                metrics.retried(request, error)
                if self._pace and paced:
                    self._pace.refused(sent_at, wait)
                    continue
                self.log.info("Sending again in %.1f s (try %d): %s", wait, attempt + 1, error)
                await asyncio.sleep(wait)

    def _wait(self, error: DeepshiError, attempt: int, settings: Settings) -> float | None:
        return wait_before_retry(
            error,
            attempt,
            max_retries=settings.max_retries,
            max_wait=settings.max_retry_wait,
            jitter=random.random(),  # noqa: S311 -- spreads load, keeps no secret
        )

    async def _once(
        self,
        client: httpx.AsyncClient,
        request: GenerateRequest,
        inputs: InputImages | None,
        ends_at: float | None,
        new_file: NewFile | None,
    ) -> Received:
        """Send once; every way in which it can end is a result or a :class:`DeepshiError`."""
        await _own_turn()
        remaining = None if ends_at is None else ends_at - time.monotonic()
        if remaining is not None and remaining <= 0:
            raise TimedOut("The time that generation_timeout allows is over, and nothing was sent")
        departure = _Departure()
        try:
            return await asyncio.wait_for(_exchange(client, request, inputs, new_file, departure), remaining)
        except asyncio.TimeoutError as err:
            if not departure.begun:
                raise TimedOut(
                    f"No connection to {client.base_url} in the time that generation_timeout allows; nothing was sent"
                ) from err
            raise OutcomeUnknown(
                "The request was sent and no complete answer came in the time that generation_timeout allows; "
                "the image may have been paid for"
            ) from err
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as err:
            if not departure.begun:
                raise ConnectionFailed(f"No connection to {client.base_url}: {_reason(err)}") from err
            raise OutcomeUnknown(
                f"The request was sent and its answer was lost ({_reason(err)}); the image may have been paid for"
            ) from err
        except OSError as err:
            raise StorageFailed(
                f"The directory for temporary files did not take the answer ({_reason(err)}); "
                "the image may have been paid for",
                charged="unknown",
            ) from err

    @staticmethod
    def _redacted(error: DeepshiError, settings: Settings) -> DeepshiError:
        """Take the key out of what the server said: some servers quote it."""
        key = settings.api_key.get_secret_value()
        error.message = _without(key, error.message)
        error.code = error.code and _without(key, error.code)
        error.args = (error.message,)
        return error


class _Departure:
    """Notes when the first byte of a request may leave this machine: from then on it may be paid for.

    It is a trace function of httpx (https://www.python-httpx.org/advanced/extensions/#trace). What a proxy is asked to
    do first, ``CONNECT``, is no request to Deepshi.
    """

    begun = False

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        """Take note of an event; called before it happens."""
        if event.endswith(".send_request_headers.started") and info["request"].method == b"POST":
            self.begun = True


async def _exchange(
    client: httpx.AsyncClient,
    request: GenerateRequest,
    inputs: InputImages | None,
    new_file: NewFile | None,
    departure: _Departure,
) -> Received:
    async with client.stream(
        "POST", request.path, headers=_headers(), extensions={"trace": departure}, **_body(request, inputs)
    ) as response:
        if not response.is_success:
            raise _error(response, await _beginning(response))
        reader = AnswerReader(response.headers.get("content-type", ""), request.n, new_file=new_file)
        turns = _turns()
        try:
            async for piece in response.aiter_bytes():
                async with turns:
                    reader.feed(piece)
                    await asyncio.sleep(0)
                if reader.complete:
                    break
            return reader.close()
        except DeepshiError as err:
            reader.discard()
            err.request_id = err.request_id or request_id(response.headers)
            err.status_code = err.status_code or (None if isinstance(err, ServerFailed) else response.status_code)
            raise
        except BaseException:
            reader.discard()
            raise


def _turns() -> asyncio.Lock:
    return _TURNS.setdefault(asyncio.get_running_loop(), asyncio.Lock())


async def _own_turn() -> None:
    async with _turns():
        await asyncio.sleep(0)


def _without(key: str, text: str) -> str:
    """Take the key out of a text, and its beginning off the end of a text that was cut."""
    text = text.replace(key, "***")
    cut = next((length for length in range(len(key), 3, -1) if text.endswith(key[:length])), 0)
    return f"{text[:-cut]}***" if cut else text


def _body(request: GenerateRequest, inputs: InputImages | None) -> dict[str, Any]:
    if isinstance(request, EditRequest) and inputs is not None:
        field = request.image_field()
        files = [(field, image.part(position)) for position, image in enumerate(inputs.images)]
        return {"data": request.form_fields(), "files": files}
    return {"json": request.wire_fields()}


async def _beginning(response: httpx.Response) -> bytes:
    body = b""
    try:
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > _ERROR_LIMIT:
                break
    except httpx.HTTPError:
        pass  # the status says enough
    return body


def _error(response: httpx.Response, body: bytes) -> DeepshiError:
    return error_from_status(response.status_code, body, response.headers, now=time.time())


def _headers() -> dict[str, str]:
    return {"User-Agent": _USER_AGENT, "Accept": "application/json, text/event-stream"}


def _reason(err: BaseException) -> str:
    text = str(err)
    return f"{type(err).__name__}: {text}" if text else type(err).__name__
