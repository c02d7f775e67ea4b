"""Reads the catalog of a key: ``GET /v1/models`` (API.md), which is free."""

from __future__ import annotations

import asyncio
import json

import anyio
import httpx

from deepshi_provider.api.catalog import Catalog
from deepshi_provider.client.exchange import HEADERS, error_of, reason
from deepshi_provider.client.settings import Settings
from deepshi_provider.exceptions import ConnectionFailed, InvalidResponse

#: Maximum bytes of the catalog.
LARGEST = 16 * 2**20


async def read_document(http: httpx.AsyncClient, settings: Settings) -> bytes:
    """Return the catalog as the server sends it.

    :raises DeepshiError: it cannot be read, is longer than :data:`LARGEST`, or takes longer than the connection's
        timeouts, also if it arrives piece by piece.
    """
    try:
        with anyio.fail_after(settings.connect_timeout + settings.read_timeout):
            async with http.stream("GET", "/v1/models", headers=HEADERS) as response:
                body = await _body(response)
    except (httpx.HTTPError, TimeoutError) as err:
        raise ConnectionFailed(f"{settings.base_url} does not answer: {reason(err)}") from err
    if not response.is_success:
        raise error_of(response, body)
    return body


async def catalog_in(document: bytes) -> Catalog:
    """Return the catalog in an answer of ``GET /v1/models``.

    :raises InvalidResponse: it is not JSON.
    """
    try:
        return await asyncio.to_thread(_parsed, document)  # a long one would block the event loop
    except (ValueError, RecursionError):
        raise InvalidResponse("The list of models is not JSON", charged="no") from None


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > LARGEST:
            raise InvalidResponse(f"The list of models is longer than {LARGEST:,} bytes", charged="no")
    return bytes(body)


def _parsed(body: bytes) -> Catalog:
    return Catalog.read(json.loads(body))
