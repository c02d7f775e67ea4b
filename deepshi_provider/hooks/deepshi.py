"""The Deepshi API as a hook of Airflow."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.sdk import BaseHook

from deepshi_provider.api.catalog import ModelInfo, read_catalog
from deepshi_provider.api.received import Received
from deepshi_provider.api.requests import EditRequest, GenerateRequest
from deepshi_provider.api.retry import wait_before_retry
from deepshi_provider.api.spool import NewFile
from deepshi_provider.costs import paid
from deepshi_provider.exceptions import (
    Charged,
    ConnectionFailed,
    DeepshiError,
    InvalidConnection,
    InvalidResponse,
    RateLimited,
    TimedOut,
)
from deepshi_provider.hooks import metrics
from deepshi_provider.hooks.blocking import run_here
from deepshi_provider.hooks.exchange import HEADERS, Exchange, error_of, own_turn, reason
from deepshi_provider.hooks.form import field_behaviour, form_widgets
from deepshi_provider.hooks.inputs import InputImages, read_inputs
from deepshi_provider.hooks.observed import Observed
from deepshi_provider.hooks.pace import Pace
from deepshi_provider.hooks.result import ImagesResult
from deepshi_provider.hooks.settings import Settings

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
                response = await client.get("/v1/models", headers=HEADERS)
            except httpx.HTTPError as err:
                raise ConnectionFailed(f"{settings.base_url} does not answer: {reason(err)}") from err
        if not response.is_success:
            raise self._redacted(error_of(response, response.content), settings)
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
        await own_turn()
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
                await self._record(request, paid(err), err.charged)
            raise
        await self._record(request, paid(result), "yes", images=len(result.images))
        return result

    async def _record(
        self, request: GenerateRequest, cost_usd: Decimal | None, charged: Charged, images: int = 0
    ) -> None:
        """Record for the DAG run what was paid or may have been; image tasks do so themselves."""
        if self._tell_run:
            from deepshi_provider.jobs.hook_costs import record_purchase  # not while DAGs are parsed

            settings = await self.asettings()
            await record_purchase(settings, request, cost_usd, charged, images)

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
                        exchange = Exchange(client, request, inputs, new_file)
                        remaining = None if ends_at is None else ends_at - time.monotonic()
                        received = observed.received(await exchange.run(remaining))
                    if self._pace:
                        self._pace.accepted()
                    return self._result(received, sends + 1, settings)
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

    @staticmethod
    def _redacted(error: DeepshiError, settings: Settings) -> DeepshiError:
        """Take the key out of what the server said: some servers quote it."""
        key = settings.api_key.get_secret_value()
        error.message = _without(key, error.message)
        error.code = error.code and _without(key, error.code)
        error.args = (error.message,)
        return error

    def _result(self, received: Received, sends: int, settings: Settings) -> ImagesResult:
        key = settings.api_key.get_secret_value()
        warnings = [_without(key, warning) for warning in received.warnings]
        for warning in warnings:
            self.log.warning("%s", warning)
        return ImagesResult.from_received(replace(received, warnings=warnings), sends)


def _without(key: str, text: str) -> str:
    """Take the key out of a text, and its beginning off the end of a text that was cut."""
    text = text.replace(key, "***")
    cut = next((length for length in range(len(key), 3, -1) if text.endswith(key[:length])), 0)
    return f"{text[:-cut]}***" if cut else text
