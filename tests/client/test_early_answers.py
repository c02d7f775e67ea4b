"""A server may answer during an upload and stop reading: its answer decides whether the request was charged."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deepshi_provider.client.result import ImagesResult
from deepshi_provider.exceptions import DeepshiError, InvalidRequest, OutcomeUnknown
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.support.bodies import picture, text_of
from tests.support.servers import Wire, large_edit

pytestmark = pytest.mark.slow

TOO_LARGE = b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n"
WHOLE = json.dumps({"data": [{"b64_json": text_of(picture())}], "usage": {"cost": 0.25}}).encode()
OK = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(WHOLE), WHOLE)


def edited(folder: Path) -> ImagesResult:
    """Send 14 images of 10 MiB within 90 s."""
    return asyncio.run(DeepshiHook().aedit(large_edit(folder), timeout=90))


def body_read(client: socket.socket) -> int:
    """Read a request and return its content length."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(1)
    length = left = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while left:
        left -= len(client.recv(left if left < 2**16 else 2**16))
    return length


@contextmanager
def server_that_answers_early(wire: Wire, *pieces: bytes, read_timeout: float) -> Iterator[list[bytes]]:
    """Answer after the head, read nothing of the body, and keep the connection open."""
    over, heads = threading.Event(), []

    def handle(client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(1)
        heads.append(head)
        for piece in pieces:
            client.sendall(piece)
            time.sleep(0.05)
        over.wait(120)

    with wire.serving(handle) as url:
        wire.connect_to(url, max_retries=2, max_retry_wait=0.01, read_timeout=read_timeout)
        try:
            yield heads
        finally:
            over.set()


@pytest.mark.parametrize("pieces", [[TOO_LARGE], [bytes([b]) for b in TOO_LARGE]], ids=["whole", "in small pieces"])
@pytest.mark.parametrize("read_timeout", [1, 600], ids=["an impatient client", "a patient one"])
def test_early_refusal_is_free_although_the_upload_is_never_read(
    wire: Wire, tmp_path: Path, pieces: list[bytes], read_timeout: float
) -> None:
    answering = server_that_answers_early(wire, *pieces, read_timeout=read_timeout)
    with answering as heads, pytest.raises(InvalidRequest) as caught:
        edited(tmp_path)
    assert (caught.value.status_code, caught.value.charged, caught.value.sends, len(heads)) == (413, "no", 1, 1)


def test_early_picture_is_kept_although_the_upload_is_never_read(wire: Wire, tmp_path: Path) -> None:
    with server_that_answers_early(wire, OK, read_timeout=600) as heads, edited(tmp_path) as result:
        assert (result.images[0].read(), str(result.cost_usd), len(heads)) == (picture(), "0.25", 1)


def test_upload_that_is_never_read_and_not_answered_is_lost(wire: Wire, tmp_path: Path) -> None:
    """Over TLS the client may receive session tickets, which are no answer."""
    with server_that_answers_early(wire, read_timeout=1) as heads, pytest.raises(OutcomeUnknown) as caught:
        edited(tmp_path)
    assert ("WriteTimeout" in caught.value.message, caught.value.sends, len(heads)) == (True, 1, 1)


def test_early_beginning_of_an_answer_does_not_stop_the_upload(wire: Wire, tmp_path: Path) -> None:
    """A server may begin its answer, such as a stream with keepalives, before it has read the whole request."""
    lengths = []
    half = len(OK) // 2

    def handle(client: socket.socket) -> None:
        client.sendall(OK[:half])
        time.sleep(1)
        lengths.append(body_read(client))
        client.sendall(OK[half:])

    with wire.serving(handle) as url:
        wire.connect_to(url, read_timeout=30)
        with edited(tmp_path) as result:
            assert result.images[0].read() == picture()
    assert lengths[0] > 14 * 10 * 2**20


@pytest.mark.parametrize("status", [b"400 Bad Request", b"429 Too Many Requests", b"500 Oops"])
def test_early_answer_means_what_its_status_means(wire: Wire, tmp_path: Path, status: bytes) -> None:
    answer = b"HTTP/1.1 %s\r\ncontent-length: 0\r\nretry-after: 999\r\n\r\n" % status
    with server_that_answers_early(wire, answer, read_timeout=1) as heads, pytest.raises(DeepshiError) as caught:
        edited(tmp_path)
    assert (caught.value.status_code, caught.value.charged, len(heads)) == (int(status[:3]), "no", 1)
