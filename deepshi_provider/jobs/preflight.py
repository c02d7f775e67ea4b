"""Ask the catalog, which is free, before a request that is not."""

from __future__ import annotations

import asyncio
import logging
import time
from weakref import WeakKeyDictionary

from deepshi_provider.api.catalog import ModelInfo, complaints
from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.client.client import Client
from deepshi_provider.client.settings import Settings
from deepshi_provider.exceptions import DeepshiError, PreflightFailed
from deepshi_provider.jobs.job import PreflightMode

log = logging.getLogger(__name__)

#: Seconds for which a catalog serves the jobs of a process that have the same connection.
FRESH = 300.0
#: Seconds after which a catalog is asked for again that could not be read.
_AGAIN = 10.0

Models = dict[str, ModelInfo]


class Preflight:
    """Complains about requests by what the catalog says of their models; a job looks at one state of it.

    What the catalog does not say, or this provider does not understand, is let through; so is a model that is not in
    it, and a catalog that cannot be had.
    """

    def __init__(self, client: Client, mode: PreflightMode) -> None:
        self._client = client
        self._mode = mode
        self._models: Models | None = None
        self._said: set[str] = set()

    async def check(self, request: GenerateRequest) -> None:
        """Look a request over before it is paid for.

        :raises PreflightFailed: the mode is ``error`` and there is a complaint.
        """
        if self._mode == "off":
            return
        model = (await self._catalog()).get(request.model)
        found = complaints(request, model) if model else []
        if found and self._mode == "error":
            raise PreflightFailed("The request was not sent: " + "; ".join(found))
        for complaint in found:
            if complaint not in self._said:
                self._said.add(complaint)
                log.warning("Preflight: %s", complaint)

    async def _catalog(self) -> Models:
        if self._models is None:
            try:
                self._models = await _catalog_of(self._client)
            except DeepshiError as err:
                if self._models is None:  # otherwise another row of the batch has logged it
                    log.warning("The catalog could not be read, so requests go unchecked: %s", err)
                    self._models = {}
        return self._models


class _Catalog:
    """What one connection's catalog said last, or why it could not be read."""

    def __init__(self) -> None:
        self._reading = asyncio.Lock()
        self._found: Models | DeepshiError | None = None
        self._read_at = float("-inf")

    async def models(self, client: Client) -> Models:
        """Return the models by their ids; those who wait for the answer share it, also if there is none.

        :raises DeepshiError: they cannot be read.
        """
        async with self._reading:
            if time.monotonic() - self._read_at > (FRESH if isinstance(self._found, dict) else _AGAIN):
                try:
                    self._found = {model.id: model for model in await client.list_models()}
                except DeepshiError as err:
                    self._found = err
                self._read_at = time.monotonic()
            if isinstance(self._found, DeepshiError):
                raise self._found
            assert self._found is not None  # noqa: S101 -- it was read
            return self._found


_CATALOGS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Settings, _Catalog]] = WeakKeyDictionary()
_MOST_CATALOGS = 16


async def _catalog_of(client: Client) -> Models:
    """Return the catalog of a connection, which all jobs on this loop share."""
    catalogs = _CATALOGS.setdefault(asyncio.get_running_loop(), {})
    if client.settings not in catalogs:
        while len(catalogs) >= _MOST_CATALOGS:
            del catalogs[next(iter(catalogs))]
        catalogs[client.settings] = _Catalog()
    return await catalogs[client.settings].models(client)
