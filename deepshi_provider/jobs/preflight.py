"""Ask the catalog, which is free, before a request that is not."""

from __future__ import annotations

import asyncio
import logging

from deepshi_provider.api.catalog import ModelInfo, complaints
from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.client.client import Client
from deepshi_provider.exceptions import DeepshiError, PreflightFailed
from deepshi_provider.jobs.job import PreflightMode

log = logging.getLogger(__name__)


class Preflight:
    """Complains about requests by what the catalog says of their models; the catalog is read once.

    What the catalog does not tell, or this provider does not understand, is let through; so is a model that is not in
    it, and a catalog that cannot be had.
    """

    def __init__(self, client: Client, mode: PreflightMode) -> None:
        self._client = client
        self._mode = mode
        self._models: dict[str, ModelInfo] | None = None
        self._reading = asyncio.Lock()
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

    async def _catalog(self) -> dict[str, ModelInfo]:
        async with self._reading:
            if self._models is None:
                try:
                    self._models = {model.id: model for model in await self._client.list_models()}
                except DeepshiError as err:
                    log.warning("The catalog could not be read, so requests go unchecked: %s", err)
                    self._models = {}
            return self._models
