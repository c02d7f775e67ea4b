"""Everything usable in a paid answer is used, whatever is broken in it or follows it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from deepshi_provider.client.result import ImagesResult
from deepshi_provider.exceptions import DeepshiError, InvalidResponse, OutcomeUnknown
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.support import bodies
from tests.support.answering import Answer, AnsweringServer, answering
from tests.support.bodies import SSE, answer_text, completed, event
from tests.support.servers import KEY, boat

PNG, JPEG = bodies.picture("PNG"), bodies.picture("JPEG")
COST = Decimal("0.000135")
STREAM = f"Content-Type: {SSE}\r\nConnection: close"
MORE = "The request may have cost more than the answer reported"
ENDED = "The answer is incomplete: The stream ended without its final event; the image may have been paid for"

Ask = Callable[..., ImagesResult]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[DeepshiHook, AnsweringServer]]]:
    """Start a server, and return it with a hook for it."""
    running = []

    def serve(answer: Any, **extra: object) -> tuple[DeepshiHook, AnsweringServer]:
        context = answering(answer)
        server = context.__enter__()
        running.append(context)
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", server.connection_json(**extra))
        return DeepshiHook(), server

    yield serve
    for context in running:
        context.__exit__(None, None, None)


def pictures(result: ImagesResult) -> list[bytes]:
    return [image.read() for image in result.images]


ERROR_CODES = ["rate_limit_exceeded", "moderation_blocked", "insufficient_quota", "invalid_request_error", "500", "odd"]


@pytest.mark.parametrize("code", ERROR_CODES)
def test_after_a_picture_an_error_in_the_stream_makes_nothing_free(served: Any, code: str) -> None:
    body = event(completed(PNG)) + event({"error": {"message": f"no more, {KEY}", "code": code}}, "error")
    hook, server = served(Answer(body=body, head=STREAM))
    with hook.generate(boat(n=2, stream=True)) as result:
        assert (pictures(result), result.cost_usd, result.cost_is_complete) == ([PNG], COST, False)
        asked, why, more = result.warnings
        assert (asked, more) == ("Asked for 2 images, got 1", MORE)
        assert why.endswith(f"The server's message: no more, *** (code: {code})")
    assert (server.posts, result.sends) == (1, 1)


def test_after_an_unusable_picture_an_error_in_the_stream_makes_nothing_free(served: Any) -> None:
    body = event(completed(PNG[:30])) + event({"error": {"message": "wait", "code": "rate_limit_exceeded"}}, "error")
    hook, server = served(Answer(body=body, head=STREAM))
    with pytest.raises(DeepshiError, match="Image 0 of the answer cannot be used") as caught:
        hook.generate(boat(n=2, stream=True))
    error = caught.value
    assert (error.charged, error.cost_usd, error.cost_is_complete, server.posts) == ("yes", COST, False, 1)


def test_a_picture_after_an_error_in_the_stream_is_kept_too(served: Any) -> None:
    refused = event({"error": {"message": "no", "code": "moderation_blocked"}}, "error")
    hook, server = served(Answer(body=refused + event(completed(PNG)), head=STREAM))
    with hook.generate(boat(n=2, stream=True)) as result:
        assert (pictures(result), result.cost_usd, len(result.warnings)) == ([PNG], COST, 3)
    assert server.posts == 1


def test_an_error_with_the_cost_of_the_request_leaves_no_doubt(served: Any) -> None:
    failed = {"error": {"message": "no", "code": "moderation_blocked"}, "usage": {"cost": 0.00027}}
    hook, _ = served(Answer(body=event(completed(PNG)) + event(failed, "error"), head=STREAM))
    with hook.generate(boat(n=2, stream=True)) as result:
        assert (result.cost_usd, result.cost_is_complete) == (Decimal("0.00027"), True)
        assert MORE not in result.warnings


LINK = "https://images.example/1.png"
UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "null": ({"b64_json": None}, "it is empty"),
    "empty": ({"b64_json": ""}, "it is empty"),
    "link": ({"url": LINK}, f"it is a link, not data: {LINK}"),
    "gif": ({"b64_json": bodies.text_of(b"GIF89a" + bytes(60))}, "it is not a PNG, JPEG or WebP image"),
    "cut": ({"b64_json": bodies.text_of(PNG[:-9])}, "its image/png data is truncated"),
    "broken": ({"b64_json": "*" + bodies.text_of(PNG)}, "its base64 data is invalid"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize(("entry", "reason"), UNUSABLE.values(), ids=UNUSABLE)
def test_one_unusable_picture_does_not_cost_the_others(
    served: Any, entry: dict[str, Any], reason: str, position: int, stream: bool
) -> None:
    entries = [{"b64_json": bodies.text_of(JPEG)}]
    entries.insert(position, entry)
    usage = {"cost": {"total_cost": 0.000135}}
    events = (event({"type": "image_generation.completed", **each, "usage": usage}) for each in entries)
    body = b"".join(events) if stream else json.dumps({"data": entries, "usage": usage}).encode()
    hook, server = served(Answer(body=body, head=STREAM if stream else None))
    with hook.generate(boat(n=2, stream=stream)) as result:
        (image,) = result.images
        assert (image.index, image.read()) == (1 - position, JPEG)
        assert result.warnings == [
            "Asked for 2 images, got 1",
            f"Image {position} of the answer cannot be used: {reason}",
        ]
        assert (result.cost_usd, result.cost_is_complete) == (COST, True)
    assert server.posts == 1


def test_fewer_or_more_pictures_than_asked_for_are_a_warning(served: Any) -> None:
    for wanted, came in ((4, 2), (1, 3)):
        hook, server = served(Answer(body=answer_text(*[PNG, JPEG, PNG][:came])))
        with hook.generate(boat(n=wanted)) as result:
            assert (len(result.images), server.posts) == (came, 1)
            assert result.warnings == [f"Asked for {wanted} image{'s' * (wanted > 1)}, got {came}"]
            assert result.cost_is_complete


@pytest.mark.slow
@pytest.mark.parametrize("end", ["clean", "reset", "silence", "done"])
def test_a_stream_cut_after_two_of_four_pictures_keeps_them_and_its_cost_is_unknown(served: Any, end: str) -> None:
    events = event({"type": "a.completed", "b64_json": bodies.text_of(PNG), "index": 0})
    events += event({"type": "a.completed", "b64_json": bodies.text_of(JPEG), "index": 1, "usage": {"cost": 0.000135}})
    done = b"data: [DONE]\n\n" if end == "done" else b""
    head = f"Content-Type: {SSE}\r\nContent-Length: 99999" if end == "reset" else STREAM
    hook, server = served(Answer(body=events + done, head=head, hold=end == "silence"), read_timeout=0.3)
    with hook.generate(boat(n=4, stream=True)) as result:
        assert (pictures(result), result.cost_usd) == ([PNG, JPEG], COST)
        assert result.warnings[0] == "Asked for 4 images, got 2"
        assert result.cost_is_complete == (end == "done")
        assert result.warnings[1:] == ([] if end == "done" else [result.warnings[1], MORE])
        if end == "clean":
            assert result.warnings[1] == ENDED
    assert server.posts == 1


@pytest.mark.slow
async def test_pictures_received_before_the_deadline_are_kept(served: Any) -> None:
    hook, server = served(Answer(body=event(completed(PNG)), head=STREAM, hold=True))
    with await hook.agenerate(boat(n=2, stream=True), timeout=1.5) as result:
        assert (pictures(result), result.cost_usd, result.cost_is_complete) == ([PNG], COST, False)
        assert "within generation_timeout" in result.warnings[1]
    assert server.posts == 1


TYPES = [
    "Content-Type: text/plain",
    "Content-Type: application/json",
    "X-No: content type",
    "Content-Type: text/event-stream\r\nContent-Type: text/event-stream",
    "Content-Type: text/html; charset=utf-8",
    "Content-Type: \x80",
]


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("content_type", TYPES)
def test_the_kind_of_an_answer_is_known_by_its_first_bytes(served: Any, content_type: str, n: int) -> None:
    images = [PNG, JPEG][:n]
    stream = b": wait\n\n" + b"".join(event(completed(image)) for image in images)
    for body in (stream, b"\xef\xbb\xbf" + stream.removeprefix(b": wait\n\n"), b" \n " + answer_text(*images)):
        hook, server = served(Answer(body=body, head=f"{content_type}\r\nConnection: close"))
        with hook.generate(boat(n=n)) as result:
            assert (pictures(result), result.cost_usd, result.warnings) == (images, COST, [])
        assert server.posts == 1


CHUNKED = "Transfer-Encoding: chunked"


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


ANSWER, EVENT = answer_text(PNG), event(completed(PNG), end="\n")
WHOLE: dict[str, tuple[Answer, bool]] = {
    "no last chunk": (Answer(body=chunk(ANSWER), head=CHUNKED), False),
    "no last chunk, held": (Answer(body=chunk(ANSWER), head=CHUNKED, hold=True), False),
    "broken chunk": (Answer(body=chunk(ANSWER) + b"zz\r\n", head=CHUNKED), False),
    "length two too large": (Answer(body=ANSWER, head=f"Content-Length: {len(ANSWER) + 2}"), False),
    "length too large, held": (Answer(body=ANSWER, head=f"Content-Length: {len(ANSWER) + 2}", hold=True), False),
    "garbage": (Answer(body=ANSWER + b"\n<!-- served by proxy 7 -->"), False),
    "a second document": (Answer(body=ANSWER + answer_text(JPEG)), False),
    "event without blank line": (Answer(body=EVENT, head=STREAM), True),
    "event without end of line": (Answer(body=EVENT.rstrip(), head=STREAM), True),
    "event without blank line, held": (Answer(body=EVENT, head=STREAM, hold=True), True),
    "event without end of line, held": (Answer(body=EVENT.rstrip(), head=STREAM, hold=True), True),
    "event, no last chunk": (Answer(body=chunk(EVENT), head=CHUNKED), True),
    "event, length too large": (Answer(body=EVENT, head=f"Content-Length: {len(EVENT) + 2}"), True),
    "event, garbage": (Answer(body=EVENT.rstrip() + b"}}, oops\n\n", head=STREAM), True),
    "event, then bytes": (Answer(body=EVENT + b"\n\x00\xff" * 9, head=STREAM), True),
}


@pytest.mark.parametrize(("answer", "stream"), WHOLE.values(), ids=WHOLE)
async def test_nothing_after_a_complete_document_matters(served: Any, answer: Answer, stream: bool) -> None:
    hook, server = served(answer)
    with await hook.agenerate(boat(stream=stream), timeout=15) as result:
        assert (pictures(result), result.cost_usd, result.warnings) == ([PNG], COST, [])
    assert server.posts == 1


def test_the_pictures_of_a_truncated_document_are_kept(served: Any) -> None:
    body = answer_text(PNG, JPEG)
    hook, server = served(Answer(body=body[:-200], head=f"Content-Length: {len(body)}"))
    with hook.generate(boat(n=2)) as result:
        assert (pictures(result), result.cost_usd, result.cost_is_complete) == ([PNG], None, False)
        assert result.warnings[0] == "Asked for 2 images, got 1"
        assert result.warnings[-1] == MORE
    assert server.posts == 1


def test_a_document_broken_after_its_pictures_is_used_completely(served: Any) -> None:
    hook, server = served(Answer(body=answer_text(PNG)[:-1] + b",, oops}"))
    with hook.generate(boat()) as result:
        assert (pictures(result), result.cost_usd, result.cost_is_complete) == ([PNG], COST, True)
        (warning,) = result.warnings
        assert "not valid JSON" in warning
    assert server.posts == 1


def test_a_document_truncated_before_a_whole_picture_is_an_unknown_outcome(served: Any) -> None:
    hook, server = served(Answer(body=ANSWER[:100], head=f"Content-Length: {len(ANSWER)}"))
    with pytest.raises(OutcomeUnknown) as caught:
        hook.generate(boat())
    assert (caught.value.charged, caught.value.cost_usd, server.posts) == ("unknown", None, 1)


def test_a_cost_received_before_the_end_of_a_truncated_answer_is_recorded(served: Any) -> None:
    body = json.dumps({"usage": {"cost": 0.000135}, "data": [{"b64_json": bodies.text_of(PNG)}]}).encode()
    hook, server = served(Answer(body=body[:-40], head=f"Content-Length: {len(body)}"))
    with pytest.raises(OutcomeUnknown) as caught:
        hook.generate(boat())
    error = caught.value
    assert (error.charged, error.cost_usd, error.cost_is_complete, server.posts) == ("yes", COST, True, 1)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_the_cost_after_too_many_pictures_is_read(served: Any, stream: bool) -> None:
    data = [{"b64_json": bodies.text_of(PNG)}] * 12
    document = {"data": data, "usage": {"cost": {"total_cost": 0.000135}}}
    body = event(document) if stream else json.dumps(document).encode()
    hook, server = served(Answer(body=body, head=STREAM if stream else None))
    with hook.generate(boat(stream=stream)) as result:
        assert (len(result.images), result.cost_usd, server.posts) == (8, COST, 1)
        assert result.warnings[0] == "Asked for 1 image, got 8"
        assert result.warnings[1] == "Image 8 of the answer cannot be used: the answer has more than 8 images"


def test_a_picture_that_comes_twice_is_one_picture(served: Any) -> None:
    first, second = (event(completed(image, index=index)) for index, image in enumerate([PNG, JPEG]))
    hook, server = served(Answer(body=first + first + second, head=STREAM))
    with hook.generate(boat(n=2, stream=True)) as result:
        assert (pictures(result), result.warnings, server.posts) == ([PNG, JPEG], [], 1)


def test_nothing_usable_at_all_is_an_error_with_its_cost(served: Any) -> None:
    data = [{"b64_json": None}, {"url": LINK}]
    hook, server = served(Answer(body=json.dumps({"data": data, "usage": {"cost": 0.000135}}).encode()))
    with pytest.raises(InvalidResponse, match="Image 0 of the answer cannot be used: it is empty") as caught:
        hook.generate(boat(n=2))
    assert (caught.value.charged, caught.value.cost_usd, server.posts) == ("yes", COST, 1)
    assert (caught.value.request_id, caught.value.status_code) == ("req-1", 200)
