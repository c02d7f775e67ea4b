"""The hook against a server behind nginx with TLS, the usual setup of a service."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import ConnectionFailed, InvalidRequest, OutcomeUnknown
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.client.conftest import Start
from tests.services.nginx import Nginx
from tests.support.servers import boat, large_edit
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("scheme", ["http"]),  # of the emulator behind nginx
]
MIB = 2**20


async def pictures(count: int, **fields: object) -> list[str | BaseException]:
    """Request pictures concurrently; return the SHA-256 of each, or its error."""

    async def one(hook: DeepshiHook, number: int) -> str:
        with await hook.agenerate(boat(prompt=f"boat {number}", **fields)) as result:
            return result.images[0].sha256

    async with DeepshiHook().session() as hook:
        return await asyncio.gather(*(one(hook, number) for number in range(count)), return_exceptions=True)


def sent(emulator: Emulator) -> list[str]:
    """Return the SHA-256 of the server's pictures."""
    return [hashlib.sha256(emulator.picture(entry["id"])).hexdigest() for entry in emulator.requests()]


@pytest.mark.parametrize(("upstream", "keepalive_timeout"), [("1.0", 0), ("1.1", 75)], ids=["close", "keep-alive"])
@pytest.mark.parametrize("gzip", ["on", "off"])
@pytest.mark.parametrize("buffering", ["on", "off"])
async def test_every_picture_arrives(
    nginx: Start, emulator: Emulator, buffering: str, gzip: str, upstream: str, keepalive_timeout: int
) -> None:
    server = nginx(
        proxy_buffering=buffering, gzip=gzip, proxy_http_version=upstream, keepalive_timeout=keepalive_timeout
    )
    for size in (None, MIB):
        for stream in (False, True):
            emulator.reset()
            emulator.settings(picture_bytes=size)
            assert sorted(map(str, await pictures(8, stream=stream))) == sorted(sent(emulator))
            assert emulator.stats()["posts"] == 8
    wait_until(lambda: len(server.requests()) == 32)  # written at the end of a request
    assert set(server.requests()) == {"POST 200 200"}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("buffering", ["on", "off"])
def test_proxy_that_gives_up_leaves_the_outcome_unknown(
    nginx: Start, emulator: Emulator, buffering: str, stream: bool
) -> None:
    server = nginx(proxy_buffering=buffering, proxy_read_timeout="500ms")
    emulator.settings(hold=True, keepalive=60)
    with pytest.raises(OutcomeUnknown) as caught:
        DeepshiHook().generate(boat(stream=stream))
    assert (caught.value.charged, caught.value.sends, emulator.stats()["posts"]) == ("unknown", 1, 1)
    # A stream has its status before the silence begins.
    assert caught.value.status_code == (None if stream else 504)
    wait_until(server.requests)
    assert server.requests() == ["POST 200 200" if stream else "POST 504 504"]
    emulator.settings(hold=False)
    wait_until(lambda: emulator.stats()["charged_requests"] == 1)  # it was paid for


@pytest.mark.parametrize("upstream", ["1.0", "1.1"])
@pytest.mark.parametrize("buffering", ["on", "off"])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_request_is_not_repeated_if_its_answer_breaks_behind_the_proxy(
    nginx: Start, emulator: Emulator, stream: bool, buffering: str, upstream: str
) -> None:
    nginx(proxy_buffering=buffering, proxy_http_version=upstream)
    emulator.settings(picture_bytes=MIB)
    emulator.fault("cut", at="body", reset=True)
    with pytest.raises(OutcomeUnknown) as caught:
        DeepshiHook().generate(boat(stream=stream))
    assert (caught.value.charged, caught.value.sends, emulator.stats()["posts"]) == ("unknown", 1, 1)


@pytest.mark.parametrize("request_buffering", ["on", "off"])
def test_too_large_upload_is_refused_and_free(
    nginx: Start, emulator: Emulator, tmp_path: Path, request_buffering: str
) -> None:
    """nginx answers after the head, during the upload."""
    server = nginx(client_max_body_size="1m", proxy_request_buffering=request_buffering)
    with pytest.raises(InvalidRequest) as caught:
        DeepshiHook().edit(large_edit(tmp_path))
    assert (caught.value.status_code, caught.value.charged, caught.value.sends) == (413, "no", 1)
    wait_until(server.requests)
    assert (emulator.stats()["posts"], server.requests()) == (0, ["POST 413 -"])


@pytest.mark.parametrize("request_buffering", ["on", "off"])
def test_large_upload_arrives_unchanged(
    nginx: Start, emulator: Emulator, tmp_path: Path, request_buffering: str
) -> None:
    nginx(proxy_request_buffering=request_buffering)
    request = large_edit(tmp_path)
    with DeepshiHook().edit(request) as result:
        assert [result.images[0].sha256] == sent(emulator)
    (entry,) = emulator.requests()
    digests = [hashlib.sha256(Path(image).read_bytes()).hexdigest() for image in request.images]
    assert [image["sha256"] for image in entry["images"]] == digests


@pytest.mark.parametrize("restart", [Nginx.quit, Nginx.reload], ids=["quit", "reload"])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_answers_in_flight_survive_a_restart(
    nginx: Start, emulator: Emulator, restart: Callable[[Nginx], None], stream: bool
) -> None:
    server = nginx()
    emulator.settings(hold=True, keepalive=0.1, picture_bytes=MIB)
    orders = asyncio.create_task(pictures(16, stream=stream))
    await asyncio.to_thread(wait_until, lambda: emulator.stats()["in_flight"] == 16)
    await asyncio.to_thread(restart, server)
    if restart is Nginx.quit:
        with pytest.raises(ConnectionFailed) as caught:
            await DeepshiHook().agenerate(boat())
        assert (caught.value.charged, caught.value.sends) == ("no", 0)
    emulator.settings(hold=False)
    assert sorted(map(str, await orders)) == sorted(sent(emulator))
    assert emulator.stats()["posts"] == 16


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_requests_are_not_repeated_if_a_stop_cuts_their_answers(
    nginx: Start, emulator: Emulator, stream: bool
) -> None:
    server = nginx()
    emulator.settings(hold=True, keepalive=0.1)
    orders = asyncio.create_task(pictures(16, stream=stream))
    await asyncio.to_thread(wait_until, lambda: emulator.stats()["in_flight"] == 16)
    server.stop()
    errors = await orders
    assert {type(error) for error in errors} == {OutcomeUnknown}
    assert {(error.charged, error.sends) for error in errors if isinstance(error, OutcomeUnknown)} == {("unknown", 1)}
    assert emulator.stats()["posts"] == 16
