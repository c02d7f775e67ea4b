"""Pictures and prices are found even in undocumented places of an answer."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest

from deepshi_provider.client.result import ImagesResult
from deepshi_provider.exceptions import DeepshiError, InsufficientQuota
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.support import bodies
from tests.support.answering import Answer, AnsweringServer, answering
from tests.support.bodies import SSE, completed, event
from tests.support.servers import boat

PNG, JPEG = bodies.picture("PNG"), bodies.picture("JPEG")
STREAM = f"Content-Type: {SSE}\r\nConnection: close"
COST = Decimal("0.04")
USAGE = '"usage": {"cost": {"total_cost": 0.04}}'
ENTRY = f'{{"b64_json": "{bodies.text_of(PNG)}"}}'

Serve = Callable[[Answer], tuple[DeepshiHook, AnsweringServer]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a server, and return it with a hook for it."""
    running = []

    def start(answer: Answer) -> tuple[DeepshiHook, AnsweringServer]:
        running.append(answering(answer))
        server = running[-1].__enter__()
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", server.connection_json())
        return DeepshiHook(), server

    yield start
    for context in running:
        context.__exit__(None, None, None)


def pictures(result: ImagesResult) -> list[bytes]:
    return [image.read() for image in result.images]


def priced(image: bytes, cost: float) -> bytes:
    return event(completed(image, usage={"cost": {"total_cost": cost}}))


def failed(cost: float | None = None, code: str = "rate_limit_exceeded") -> bytes:
    usage = {} if cost is None else {"usage": {"cost": cost}}
    return event({"error": {"message": "no", "code": code}, **usage}, "error")


DOCUMENTS = {
    "null after the picture": f'{{"data": [{ENTRY[:-1]}, "b64_json": null}}], {USAGE}}}',
    "null after data": f'{{"data": [{ENTRY}], {USAGE}, "data": null}}',
    "empty list after data": f'{{"data": [{ENTRY}], {USAGE}, "data": []}}',
    "null after usage": f'{{"data": [{ENTRY}], {USAGE}, "usage": null}}',
    "other name": f'{{"images": [{ENTRY}], {USAGE}}}',
    "wrapped": f'{{"result": {{"data": [{ENTRY}], {USAGE}}}}}',
    "data in data": f'{{"data": {{"data": [{ENTRY}]}}, {USAGE}}}',
    "url inside": f'{{"data": [{{"image_url": {{"url": "data:;base64,{bodies.text_of(PNG)}"}}}}], {USAGE}}}',
}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_picture_and_price_are_found_wherever_they_are(serve: Serve, document: str, stream: bool) -> None:
    body = f"event: image_generation.completed\ndata: {document}\n\n" if stream else document
    hook, server = serve(Answer(body=body.encode(), head=STREAM if stream else None))
    with hook.generate(boat(stream=stream)) as result:
        assert (pictures(result), result.cost_usd, result.cost_is_complete, result.warnings) == ([PNG], COST, True, [])
    assert server.posts == 1


def test_url_safe_base64_is_accepted(serve: Serve) -> None:
    texts = (bodies.text_of(bodies.picture("PNG", width)) for width in range(1, 99))
    image = next(text for text in texts if "+" in text and "/" in text)
    safe = image.replace("+", "-").replace("/", "_")
    hook, server = serve(Answer(body=f'{{"data": [{{"b64_json": "{safe}"}}], {USAGE}}}'.encode()))
    with hook.generate(boat()) as result:
        assert bodies.text_of(pictures(result)[0]) == image
    assert server.posts == 1


FIRST = {
    "error": failed(),
    "error without a reason": event({"error": None}, "error"),
    "warning": event({"type": "warning", "error": {"message": "slow"}}, "warning"),
}


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
def test_the_only_picture_is_kept_although_an_error_came_before_it(serve: Serve, first: bytes) -> None:
    hook, server = serve(Answer(body=first + priced(PNG, 0.04), head=STREAM))
    with hook.generate(boat(stream=True)) as result:
        assert (pictures(result), result.cost_usd) == ([PNG], COST)
        assert "The answer is incomplete" in result.warnings[0]
    assert server.posts == 1


@pytest.mark.parametrize("cost", [0, 0.01])
def test_an_error_does_not_cancel_the_cost_of_a_picture(serve: Serve, cost: float) -> None:
    hook, server = serve(Answer(body=priced(PNG, 0.04) + failed(cost), head=STREAM))
    with hook.generate(boat(n=2, stream=True)) as result:
        assert (result.cost_usd, result.cost_is_complete, server.posts) == (COST, False, 1)


@pytest.mark.parametrize("costs", [(0.04, 0.01), (0.01, 0.04)])
def test_the_highest_of_several_prices_in_one_answer_is_the_minimum_paid(
    serve: Serve, costs: tuple[float, float]
) -> None:
    body = priced(PNG, costs[0]) + priced(JPEG, costs[1])
    hook, _ = serve(Answer(body=body, head=STREAM))
    with hook.generate(boat(n=2, stream=True)) as result:
        assert (pictures(result), result.cost_usd, result.cost_is_complete) == ([PNG, JPEG], COST, False)
        assert result.warnings == ["The request may have cost more than the answer reported"]


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_a_price_inside_an_error_is_read(serve: Serve, stream: bool) -> None:
    document = {"error": {"message": "no", "code": "rate_limit_exceeded", "usage": {"cost": {"total_cost": 0.04}}}}
    body = event(document, "error") if stream else json.dumps(document).encode()
    hook, server = serve(Answer(body=body, head=STREAM if stream else None))
    with pytest.raises(DeepshiError) as caught:
        hook.generate(boat(stream=stream))
    error = caught.value
    assert (error.charged, error.cost_usd, error.cost_is_complete, server.posts) == ("yes", COST, True, 1)


def test_an_input_picture_quoted_in_an_error_is_not_a_result(serve: Serve) -> None:
    quoted = {"image_url": {"url": f"data:image/png;base64,{bodies.text_of(PNG)}"}}
    document = {"error": {"message": "no", "code": "moderation_blocked"}, "request": quoted}
    hook, server = serve(Answer(body=json.dumps(document).encode()))
    with pytest.raises(DeepshiError) as caught:
        hook.generate(boat())
    assert (caught.value.charged, server.posts) == ("no", 1)


@pytest.mark.parametrize("status", ["500 Internal Server Error", "429 Too Many Requests", "400 Bad Request"])
def test_a_price_in_the_body_of_a_free_status_is_read(serve: Serve, status: str) -> None:
    document = {"error": {"message": "no", "code": "odd"}, "usage": {"cost": {"total_cost": 0.04}}}
    hook, server = serve(Answer(body=json.dumps(document).encode(), status=status))
    with pytest.raises(DeepshiError) as caught:
        hook.generate(boat())
    assert (caught.value.charged, caught.value.cost_usd, server.posts) == ("yes", COST, 1)


BODY = f'{{"data": [{ENTRY}], {USAGE}}}'.encode()
PACKED = {
    "not packed": (BODY, "gzip"),
    "not packed, twice": (BODY, "gzip, gzip"),
    "not deflated": (BODY, "deflate"),
    "without a header": (gzip.compress(BODY), None),
    "old name": (gzip.compress(BODY), "x-gzip"),
    "in two members": (gzip.compress(BODY[:60]) + gzip.compress(BODY[60:]), "gzip"),
    "garbage behind": (gzip.compress(BODY) + b"xx", "gzip"),
    "without its end": (gzip.compress(BODY)[:-8], "gzip"),
}


@pytest.mark.parametrize("cut", [1, 2, 10**6], ids=["bytes", "pairs", "whole"])
@pytest.mark.parametrize(("body", "encoding"), PACKED.values(), ids=PACKED)
def test_the_first_bytes_decide_whether_an_answer_is_compressed(
    serve: Serve, body: bytes, encoding: str | None, cut: int
) -> None:
    chunks = (body[at : at + cut] for at in range(0, len(body), cut))
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    named = f"Content-Encoding: {encoding}\r\n" if encoding else ""
    hook, server = serve(Answer(body=chunked, head=f"{named}Transfer-Encoding: chunked"))
    with hook.generate(boat()) as result:
        assert (pictures(result), result.cost_usd, server.posts) == ([PNG], COST, 1)


def test_an_error_is_read_even_if_its_content_encoding_is_wrong(serve: Serve) -> None:
    body = json.dumps({"error": {"message": "no", "code": "insufficient_quota"}}).encode()
    for sent, named in ((body, "Content-Encoding: gzip\r\n"), (gzip.compress(body), "")):
        hook, _ = serve(Answer(body=sent, status="429 Too Many", head=f"{named}Content-Length: {len(sent)}"))
        with pytest.raises(InsufficientQuota):
            hook.generate(boat())


@pytest.mark.slow
def test_decompressed_data_is_limited(serve: Serve) -> None:
    packed = gzip.compress(b'{"data": [{"b64_json": "' + bytes(400 * 2**20))
    hook, server = serve(Answer(body=packed, head=f"Content-Encoding: gzip\r\nContent-Length: {len(packed)}"))
    tracemalloc.start()
    with pytest.raises(DeepshiError) as caught:
        hook.generate(boat())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (caught.value.charged, server.posts) == ("yes", 1), "a picture was there"
    assert peak < 20 * 2**20
