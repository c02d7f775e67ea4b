"""The client of the Deepshi API: sends requests, retries those that were certainly free, and reads the answers."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from weakref import WeakKeyDictionary

import httpx

from deepshi_provider.api.catalog import Catalog, ModelInfo
from deepshi_provider.api.received import Received
from deepshi_provider.api.requests import EditRequest, GenerateRequest
from deepshi_provider.api.retry import wait_before_retry
from deepshi_provider.api.spool import NewFile
from deepshi_provider.client import metrics
from deepshi_provider.client.exchange import Exchange, yield_turn
from deepshi_provider.client.inputs import InputImages
from deepshi_provider.client.listing import catalog_in, read_document
from deepshi_provider.client.pace import Pace
from deepshi_provider.client.result import ImagesResult
from deepshi_provider.client.settings import Settings
from deepshi_provider.client.telemetry import Observed
from deepshi_provider.exceptions import (
    DeepshiError,
    OutcomeUnknown,
    RateLimited,
    StorageFailed,
    TimedOut,
)

log = logging.getLogger(__name__)

#: Share of its time that a request must have left to be sent again, or after a wait for the rate limit: with less, its
#: answer may be cut off after it was paid for.
LEAST_TIME = 0.5

Files = Callable[[], Awaitable[NewFile | None]]
Interrupted = Callable[[ImagesResult | DeepshiError], None]

#: The HTTP clients of each event loop, by settings. They keep no connections. A triggerer runs many jobs with few
#: different settings.
_CLIENTS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Settings, httpx.AsyncClient]] = WeakKeyDictionary()
_MOST_CLIENTS = 16


class Client:
    """Generates and edits images, and lists models.

    :param settings: server, key and timeouts.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._pace: Pace | None = None
        self._files: Files | None = None

    async def generate(
        self,
        request: GenerateRequest,
        *,
        timeout: float | None = None,
        counts_refusals: bool = False,
        interrupted: Interrupted | None = None,
    ) -> ImagesResult:
        """Send a generation, wait for its answer, and return the images (API.md, "generations").

        A request that was certainly not charged is sent again, within ``max_retries``; one with a lost answer never is.

        :param timeout: seconds for all attempts and the waits between them; none is sent with less than
            :data:`LEAST_TIME` of them left.
        :param counts_refusals: ``max_retries`` counts refusals by the rate limit also if there is a pace.
        :param interrupted: called if it is cancelled, or fails unexpectedly, after the request may have left: with the
            images that had arrived, to close, or the error that shows what was paid.
        :raises DeepshiError: see :mod:`deepshi_provider.exceptions`; ``charged`` shows whether it was paid for.
        """
        return await self._attempts(request, None, timeout, counts_refusals, interrupted)

    async def edit(
        self,
        request: EditRequest,
        inputs: InputImages,
        *,
        timeout: float | None = None,
        counts_refusals: bool = False,
        interrupted: Interrupted | None = None,
    ) -> ImagesResult:
        """Send an edit with its input images as a form (API.md, "edits"); otherwise like :meth:`generate`.

        :param inputs: the input images, already read; they stay open.
        """
        return await self._attempts(request, inputs, timeout, counts_refusals, interrupted)

    async def list_models(self) -> list[ModelInfo]:
        """Return the models of the catalog."""
        return list((await self.catalog()).models.values())

    async def catalog(self) -> Catalog:
        """Return the catalog (``GET /v1/models``): free, and limited to the key's models."""
        return await catalog_in(await self.catalog_document())

    async def catalog_document(self) -> bytes:
        """Return the catalog as the server sends it; see :func:`~deepshi_provider.client.listing.catalog_in`."""
        try:
            return await read_document(await self._http(), self.settings)
        except DeepshiError as err:
            raise self._redacted(err) from err.__cause__

    @asynccontextmanager
    async def session(self, pace: Pace | None = None, files: Files | None = None) -> AsyncIterator[Client]:
        """Set pace and files for all calls inside the ``async with`` block.

        :param pace: slows down all these calls when the rate limit refuses one; such a refusal does not count as one
            of the call's retries.
        :param files: called before each call, returns a function that makes the files for images. Must not raise.
        """
        await yield_turn()
        await self._http()
        self._pace, self._files = pace, files
        try:
            yield self
        finally:
            self._pace = self._files = None

    async def _http(self) -> httpx.AsyncClient:
        clients = _CLIENTS.setdefault(asyncio.get_running_loop(), {})
        if found := clients.get(self.settings):
            return found
        made = await asyncio.to_thread(self.settings.new_client)
        while len(clients) >= _MOST_CLIENTS:
            del clients[next(iter(clients))]
        return clients.setdefault(self.settings, made)

    async def _attempts(
        self,
        request: GenerateRequest,
        inputs: InputImages | None,
        timeout: float | None,
        counts_refusals: bool,
        interrupted: Interrupted | None,
    ) -> ImagesResult:
        settings = self.settings
        ends_at = math.inf if timeout is None else time.monotonic() + timeout
        latest = math.inf if timeout is None else ends_at - LEAST_TIME * timeout
        attempt = sends = 0
        refusal: DeepshiError | None = None
        new_file = await self._files() if self._files else None
        _require_temporary_files()
        client = await self._http()
        while True:
            attempt += 1
            sent_at = await self._turn(latest, refusal)
            exchange = Exchange(client, request, inputs, new_file)
            try:
                with Observed(request, settings.base_url) as observed:
                    remaining = None if timeout is None else ends_at - time.monotonic()
                    received = observed.received(await exchange.run(remaining))
                if self._pace:
                    self._pace.accepted()
                return self._result(received, sends + 1)
            except DeepshiError as raised:
                error = self._redacted(raised)
                sends += exchange.was_sent
                error.sends = sends
                paced = self._pace is not None and isinstance(error, RateLimited)
                attempt -= paced and not counts_refusals
                wait = self._wait(error, max(1, attempt))
                if wait is None or time.monotonic() + wait > latest:
                    raise error from error.__cause__
            except BaseException:
                if interrupted and exchange.was_sent:
                    interrupted(self._arrived(exchange, sends + 1))
                else:
                    exchange.discard()
                raise
            metrics.retried(request, error)
            if self._pace and paced:
                self._pace.refused(sent_at, wait)
                refusal = error
                continue
            log.info("Sending again in %.1f s (try %d): %s", wait, attempt + 1, error)
            await asyncio.sleep(wait)

    def _arrived(self, exchange: Exchange, sends: int) -> ImagesResult | DeepshiError:
        try:
            return self._result(exchange.arrived(), sends)
        except DeepshiError as err:
            err.sends = sends
            return self._redacted(err)
        except Exception as err:  # a bug, probably the one that interrupted it; what was paid must be recorded
            log.exception("The answer could not be read")
            return OutcomeUnknown(f"The answer could not be read ({type(err).__name__})", sends=sends)

    async def _turn(self, latest: float, refusal: DeepshiError | None) -> float:
        """Wait until the pace allows the request; return that time (monotonic seconds).

        :param latest: monotonic seconds; after that, raise the last refusal, if there was one.
        """
        if self._pace is None:
            return 0.0
        try:
            return await self._pace.turn(latest)
        except TimeoutError:
            late = TimedOut("The rate limit left too little of generation_timeout, and nothing was sent")
            raise refusal or late from None

    def _wait(self, error: DeepshiError, attempt: int) -> float | None:
        return wait_before_retry(
            error,
            attempt,
            max_retries=self.settings.max_retries,
            max_wait=self.settings.max_retry_wait,
            jitter=random.random(),  # noqa: S311 -- spreads load, not a secret
        )

    def _redacted(self, error: DeepshiError) -> DeepshiError:
        """Remove the key from the server's message, since some servers quote it."""
        key = self.settings.api_key.get_secret_value()
        error.message = _without(key, error.message)
        error.code = error.code and _without(key, error.code)
        error.args = (error.message,)
        return error

    def _result(self, received: Received, sends: int) -> ImagesResult:
        key = self.settings.api_key.get_secret_value()
        warnings = [_without(key, warning) for warning in received.warnings]
        for warning in warnings:
            log.warning("%s", warning)
        return ImagesResult.from_received(received._replace(warnings=warnings), sends)


def _require_temporary_files() -> None:
    """Check that this machine can store an answer, before anything is paid for.

    :raises StorageFailed: no temporary file can be created.
    """
    try:
        _create_temporary_file(tempfile.gettempdir(), int(time.monotonic()))
    except OSError as err:
        raise StorageFailed(f"Not sent: cannot create temporary files on {socket.gethostname()} ({err})") from err


@lru_cache(maxsize=1)
def _create_temporary_file(directory: str, second: int) -> None:
    """Create and delete a file, at most once in a second: ext4 without a journal is slow to reuse deleted ones.

    :param second: makes a later call a new one.
    """
    tempfile.TemporaryFile(dir=directory).close()


def _without(key: str, text: str) -> str:
    """Remove the key from a text, and a part of the key from the end of a text that was cut."""
    text = text.replace(key, "***")
    cut = next((length for length in range(len(key), 3, -1) if text.endswith(key[:length])), 0)
    return f"{text[:-cut]}***" if cut else text
