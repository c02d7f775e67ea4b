"""SHA-256 hashes of objects, as their stores have them now."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from typing import BinaryIO

from deepshi_provider.store.locations import locate
from deepshi_provider.store.store import in_thread
from deepshi_provider.store.stores import Stores, image_errors

#: Number of objects read concurrently.
_AT_ONCE = 4
_CHUNK = 1024 * 1024


def sha256_of(file: BinaryIO) -> str:
    """Return the hash of the rest of a file in hex; reads it in pieces of 1 MiB."""
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


async def stored_hashes(uris: Iterable[str], conn_id: str | None, stores: Stores) -> list[str]:
    """Return the hashes of objects in hex, in the order of their URIs.

    :param uris: local paths or URIs; ``s3://conn@bucket/key`` includes the connection.
    :param conn_id: connection for remote URIs that do not include one.
    :raises InvalidRequest: an object does not exist.
    :raises InvalidConnection: the connection of its store is not defined.
    :raises StorageFailed: an object cannot be read.
    """
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(uri: str) -> str:
        async with gate:
            return await in_thread(_stored_hash, uri, conn_id, stores)

    return await asyncio.gather(*map(one, uris))


def _stored_hash(uri: str, conn_id: str | None, stores: Stores) -> str:
    with image_errors(uri, "image"), stores.open(locate(uri), conn_id) as file:
        return sha256_of(file)
