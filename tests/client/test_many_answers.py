"""Every paid answer arrives over TLS: of all sizes, whole or in pieces, one or many at a time, also through nginx.

These are a thousand answers; with ``DEEPSHI_ALL_ANSWERS=1`` in the environment they are three thousand, up to 64 of
18 MiB at once, which takes minutes and 1.2 GB of temporary files.
"""

from __future__ import annotations

import asyncio
import hashlib
import os

import pytest

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.client.conftest import Start
from tests.support.servers import boat

KIB, MIB = 2**10, 2**20
#: Length of a picture, concurrent requests, total number.
SOME = [(4 * KIB, 1, 4), (4 * KIB, 64, 64), (MIB, 16, 16), (18 * MIB, 1, 1)]
ALL = [(size, at_once, max(4, at_once)) for size in (4 * KIB, MIB, 18 * MIB) for at_once in (1, 16, 64)]
CELLS = ALL if os.environ.get("DEEPSHI_ALL_ANSWERS") else SOME
COMPARED = 8

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800 if CELLS is ALL else 300)]


def piece_bytes(size: int, at_once: int) -> int:
    """Return a length of pieces: each becomes a TLS record, and one server can send them all."""
    return 1 if at_once == 1 and size < MIB else max(16, size // 1000)


async def order(emulator: Emulator, cell: tuple[int, int, int], *, stream: bool) -> None:
    """Request pictures with this concurrency, and check that each is the one that was sent."""
    size, at_once, count = cell
    turns = asyncio.Semaphore(at_once)
    received: dict[str, str] = {}

    async def one(hook: DeepshiHook, prompt: str) -> None:
        async with turns:
            with await hook.agenerate(boat(prompt=prompt, stream=stream)) as result:
                assert (result.images[0].size_bytes, result.sends) == (size, 1)
                received[prompt] = result.images[0].sha256

    async with DeepshiHook().session() as hook:
        done = await asyncio.gather(*(one(hook, f"boat {at}") for at in range(count)), return_exceptions=True)
    assert [error for error in done if error is not None] == [], cell
    entries = await asyncio.to_thread(emulator.requests)
    assert [entry["status"] for entry in entries] == [200] * count
    # A client leaves a stream once it has the image, and the server may still be sending the rest.
    assert {entry["outcome"] for entry in entries} <= ({"delivered", "disconnected"} if stream else {"delivered"})
    for entry in entries[:COMPARED]:
        sent = await asyncio.to_thread(emulator.picture, entry["id"])
        assert received[entry["prompt"]] == hashlib.sha256(sent).hexdigest()


async def order_all(emulator: Emulator, *, small_pieces: bool, stream: bool) -> None:
    for size, at_once, count in CELLS:
        emulator.reset()
        emulator.settings(
            picture_bytes=size, keepalive=60, piece_bytes=piece_bytes(size, at_once) if small_pieces else None
        )
        await order(emulator, (size, at_once, count), stream=stream)
        assert emulator.stats()["posts"] == emulator.stats()["charged_requests"] == count


@pytest.mark.parametrize("scheme", ["https"])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("small_pieces", [False, True], ids=["whole", "pieces"])
async def test_no_answer_is_lost(emulator: Emulator, stream: bool, small_pieces: bool) -> None:
    await order_all(emulator, small_pieces=small_pieces, stream=stream)


@pytest.mark.parametrize("scheme", ["http"])  # of the emulator behind nginx
@pytest.mark.parametrize("buffering", ["on", "off"])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("small_pieces", [False, True], ids=["whole", "pieces"])
async def test_no_answer_through_nginx_is_lost(
    nginx: Start, emulator: Emulator, buffering: str, stream: bool, small_pieces: bool
) -> None:
    nginx(proxy_buffering=buffering, proxy_http_version="1.1")
    await order_all(emulator, small_pieces=small_pieces, stream=stream)
