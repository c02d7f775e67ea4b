from __future__ import annotations

import base64
import hashlib
import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import chain, repeat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepshi_provider.api.answer import AnswerReader
from deepshi_provider.api.responses import pruned
from deepshi_provider.exceptions import (
    ContentRefused,
    DeepshiError,
    InsufficientQuota,
    InvalidRequest,
    InvalidResponse,
    OutcomeUnknown,
    RateLimited,
    ServerFailed,
)
from tests.support import bodies
from tests.support.bodies import (
    JSON,
    MIB,
    QUICK,
    SSE,
    THOROUGH,
    Pairs,
    answer_text,
    completed,
    error_of,
    event,
    receive,
)

Cut = Callable[[bytes], Iterator[bytes]]

KINDS = ["PNG", "JPEG", "WEBP"]
PICTURES = {kind: bodies.picture(kind) for kind in KINDS}
MEDIA = {PICTURES[kind]: f"image/{kind.lower()}" for kind in KINDS}
PNG = PICTURES["PNG"]
COST = Decimal("0.000135")


def one(got: bodies.Got) -> bytes:
    (image,) = got.pictures
    return image


# ------------------------------------------------------------------ what arrives


@THOROUGH
@given(bodies.answers(st.sampled_from(list(PICTURES.values()))), bodies.seeds, bodies.cuts())
def test_any_answer_gives_its_images_and_its_price(document: Pairs, rng: random.Random, cut: Cut) -> None:
    text = bodies.written(document, rng)
    meant = bodies.whole(text)
    images = []
    for position, entry in enumerate(meant["data"]):
        image = entry.get("b64_json") or entry["url"]
        images.append((position, image, MEDIA[image], 3, 2, entry.get("revised_prompt")))
    got = receive(cut(text.encode()), wanted=len(images))
    usage = meant.get("usage")
    assert got.images == images
    assert got.answer.model_dump() == {
        "created": meant.get("created"),
        "model": meant.get("model"),
        "size": None,
        "usage": usage and pruned(usage),
        "cost_usd": usage and COST,
    }


@pytest.mark.slow
@THOROUGH
@given(st.data(), bodies.seeds, bodies.cuts())
def test_any_stream_gives_its_images_and_its_price(data: st.DataObject, rng: random.Random, cut: Cut) -> None:
    images = data.draw(st.lists(st.sampled_from(list(PICTURES.values())), min_size=1, max_size=3))
    named = data.draw(st.booleans())
    kind = data.draw(st.sampled_from(["image_generation", "image_edit"]))
    documents: list[tuple[str | None, str]] = []
    for position, image in enumerate(images):
        preview = {"type": f"{kind}.partial_image", "b64_json": bodies.text_of(b"preview"), "partial_image_index": 0}
        final = data.draw(bodies.entries(st.just(image)))
        final += [("usage", {"cost": {"total_cost": 0.000135}})]
        final += [] if named else [("type", f"{kind}.completed")]
        final += data.draw(st.sampled_from([[], [("index", position)]]))
        for name, document in ((f"{kind}.partial_image", preview), (f"{kind}.completed", final)):
            documents.append((name if named else None, bodies.written(document, rng, lines=True)))
    body = data.draw(bodies.streams(documents))
    got = receive(cut(body), SSE, wanted=len(images))
    assert [(i[0], i[1]) for i in got.images] == list(enumerate(images))
    assert got.answer.cost_usd == COST


@pytest.mark.parametrize(
    "body",
    [
        event(completed(PNG)),
        event(completed(PNG), "image_edit.completed"),
        event(completed(PNG), None),
        event(completed(PNG), "message"),
        event({"b64_json": bodies.text_of(PNG)}),
        event({"b64_json": bodies.text_of(PNG)}, None),
        event({"url": "data:image/png;base64," + bodies.text_of(PNG)}),
        event({"b64_json": "", "url": "data:image/png;base64," + bodies.text_of(PNG)}),
        event({"b64_json": bodies.text_of(PNG), "url": None}),
        event({"data": [{"b64_json": bodies.text_of(PNG)}], "usage": {}}),
        event({"data": [{"b64_json": bodies.text_of(PNG)}]}, None),
        event({"data": {"b64_json": bodies.text_of(PNG)}}),
        event(completed(PNG, error=None)),
        event(completed(PNG, error={"message": "", "code": None})),
        event(completed(PNG, index=4)),
        event({"type": "image_generation.partial_image", "b64_json": "eA=="}, None) + event(completed(PNG)),
        event({"b64_json": "eA==", "partial_image_index": 0}, None) + event(completed(PNG)),
        event({"status": "working"}, "image_generation.in_progress") + event(completed(PNG)),
        event("not json", "ping").replace(b'"', b"") + event(completed(PNG)),
        event(completed(PNG), end="\n\ndata: [DONE]\n\n"),
        event(completed(PNG), end=""),
        b": keepalive\n: keepalive\n" + event(completed(PNG)),
        b"\xef\xbb\xbf" + event(completed(PNG)).replace(b"\n", b"\r\n"),
        event(completed(PNG)) + event({"error": "too late"}, "error"),
        event(completed(PNG)) + b"data: " + b"[" * 500_000,
        answer_text(PNG),
        b"\xef\xbb\xbf \n" + answer_text(PNG),
    ],
    ids=range(27),
)
def test_every_form_of_a_stream_gives_the_image(body: bytes) -> None:
    got = receive(body, SSE)
    assert got.images == [(0, PNG, "image/png", 3, 2, None)]
    assert receive((body[at : at + 1] for at in range(len(body))), SSE) == got


@pytest.mark.parametrize(
    "body",
    [
        answer_text(PNG, error=None),
        answer_text(PNG, error={}),
        answer_text(PNG, error={"message": "", "type": "", "code": None}),
        json.dumps({"data": {"b64_json": bodies.text_of(PNG)}}).encode(),
        json.dumps(completed(PNG)).encode(),
        json.dumps({"data": [{"b64_json": "data:image/png;base64," + bodies.text_of(PNG)}]}).encode(),
        json.dumps({"data": [{"b64_json": "*", "url": "data:;base64," + bodies.text_of(PNG)}]}).encode(),
        json.dumps({"data": [{"index": -1, "b64_json": bodies.text_of(PNG)}]}).encode(),
        json.dumps({"data": [{"index": 10**30, "b64_json": bodies.text_of(PNG)}]}).encode(),
        json.dumps({"data": [{"index": True, "b64_json": bodies.text_of(PNG), "revised_prompt": 5}]}).encode(),
        json.dumps({"data": [None, 5, {"b64_json": bodies.text_of(PNG)}], "created": "now", "model": 5}).encode(),
    ],
)
def test_an_odd_answer_that_can_be_read_gives_the_image(body: bytes) -> None:
    assert receive(body).images == [(0, PNG, "image/png", 3, 2, None)]


@pytest.mark.parametrize(
    ("indices", "order"),
    [
        ([0, 1], [0, 1]),
        ([1, 0], [1, 0]),
        ([None, None], [0, 1]),
        ([0, 0], [0, 1]),
        ([1, 2], [0, 1]),
        ([-1, 0], [0, 1]),
    ],
)
def test_images_are_numbered_from_0_and_never_twice(indices: list[int | None], order: list[int]) -> None:
    pictures = [bodies.picture("PNG", width, 1) for width in (1, 2)]
    data = [{"index": i, "b64_json": bodies.text_of(p)} for i, p in zip(indices, pictures, strict=True)]
    got = receive(json.dumps({"data": data}).encode(), wanted=2)
    assert [image[0] for image in got.images] == [0, 1]
    assert got.pictures == [pictures[position] for position in order]


def test_values_of_an_earlier_event_are_kept_if_a_later_one_lacks_them() -> None:
    first = completed(PNG, model="m", created_at=5, size="3x2")
    second = {"b64_json": bodies.text_of(PNG), "usage": {"total_tokens": 1}}
    got = receive(event(first) + event(second), SSE, wanted=2)
    assert got.answer.model_dump() == {
        "created": 5,
        "model": "m",
        "size": "3x2",
        "usage": {"cost": {"total_cost": COST}},
        "cost_usd": COST,
    }


def test_fewer_images_than_requested_are_kept() -> None:
    assert receive(answer_text(PNG), wanted=2).pictures == [PNG]
    assert receive(event(completed(PNG)) + b"data: [DONE]\n\n", SSE, wanted=2).pictures == [PNG]


def test_half_a_surrogate_pair_in_a_prompt_can_still_be_stored() -> None:
    data = [{"b64_json": bodies.text_of(PNG), "revised_prompt": "a boat \ud83d"}]
    (image,) = receive(json.dumps({"data": data}).encode()).images
    assert image[5] == "a boat \ufffd"


# ------------------------------------------------------------------ what does not arrive


@pytest.mark.parametrize("kind", KINDS)
def test_json_cut_at_any_byte_is_an_unknown_outcome_until_its_image_is_there(kind: str) -> None:
    body = answer_text(PICTURES[kind], ok=True, none=None, rate=-1.5e-7)
    files = bodies.open_files()
    there = body.index(b'"}], "usage"') - 3  # the last base64 group may be padding
    paid = body.index(b"0.000135}") + len("0.000135}")
    for at in range(len(body)):
        if at <= there:
            error = error_of(body[:at])
            assert (type(error), error.charged, error.cost_usd) == (OutcomeUnknown, "unknown", None)
        elif at > there + 3:
            got = receive(body[:at])
            assert one(got) == PICTURES[kind]
            assert got.warnings == [
                "The answer is incomplete: The answer was cut off; the image may have been paid for"
            ] + ["The request may have cost more than the answer reported"] * (at < paid)
            assert (got.answer.cost_usd, got.cost_is_complete) == ((None, False) if at < paid else (COST, True))
    assert receive(body).warnings == []
    assert one(receive(body)) == PICTURES[kind]
    assert bodies.open_files() == files


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize(
    "before", [b"", b"\xef\xbb\xbf: hi\n", event({"b64_json": "eA=="}, "image_generation.partial_image")]
)
def test_a_stream_cut_at_any_byte_is_an_unknown_outcome_until_its_image_is_there(end: bytes, before: bytes) -> None:
    body = (before + event(completed(PNG)) + b": bye\n\ndata: [DONE]\n\n").replace(b"\n", end)
    there = body.rindex(b'", "usage"') - 3
    whole = body.rindex(b"}") + 1
    for at in range(len(body)):
        if at <= there:
            error = error_of(body[:at], SSE)
            assert (type(error), error.charged) == (OutcomeUnknown, "unknown")
        elif at > there + 3:
            got = receive(body[:at], SSE)
            assert one(got) == PNG
            assert (got.warnings == [], got.cost_is_complete) == (at >= whole, at >= whole)


@THOROUGH
@given(st.data(), st.sampled_from([JSON, SSE]), bodies.cuts())
def test_a_damaged_answer_raises_nothing_but_a_deepshi_error(data: st.DataObject, content_type: str, cut: Cut) -> None:
    image = data.draw(st.sampled_from(list(PICTURES.values())))
    body = bytearray(answer_text(image) if content_type == JSON else event(completed(image)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        change = data.draw(st.sampled_from(["flip", "insert", "delete", "cut"]))
        if change == "insert":
            body[at:at] = data.draw(st.binary(max_size=5) | st.sampled_from([b'"', b"\\", b"{", b"\n\n", b"\\ud800"]))
        elif change == "flip":
            body[at : at + 1] = bytes(byte ^ data.draw(st.integers(1, 255)) for byte in body[at : at + 1])
        else:
            del body[at : at + 3 if change == "delete" else len(body)]
    outcomes = set()
    for pieces in ([bytes(body)], list(cut(bytes(body)))):
        try:
            outcomes.add(repr(receive(pieces, content_type)))
        except DeepshiError as err:
            outcomes.add(type(err).__name__ + err.charged)
    assert len(outcomes) == 1


@THOROUGH
@given(st.binary(max_size=300), st.sampled_from([JSON, SSE, "", "text/html"]), bodies.cuts())
def test_arbitrary_bytes_raise_nothing_but_a_deepshi_error(body: bytes, content_type: str, cut: Cut) -> None:
    assert error_of(cut(body), content_type).charged != "no"


def _broken() -> Iterator[tuple[str, str]]:
    yield "", "it is empty"
    yield bodies.text_of(b"no image at all"), "it is not a PNG, JPEG or WebP image"
    yield bodies.text_of(PNG)[:-9] + "*" * 9, "its base64 data is invalid"
    for kind in KINDS:
        whole = bodies.picture(kind, 90, 70)
        for length in (len(whole) - 1, len(whole) // 2, 30, 13):
            yield bodies.text_of(whole[:length]), f"its image/{kind.lower()} data is truncated"


@pytest.mark.parametrize("key", ["b64_json", "url"])
@pytest.mark.parametrize(("text", "reason"), list(_broken()))
def test_the_cost_of_an_unusable_image_is_kept(text: str, reason: str, key: str) -> None:
    files = bodies.open_files()
    document = {key: text if key == "b64_json" else "data:;base64," + text, "usage": {"cost": 0.000135}}
    for body, content_type in ((json.dumps({"data": [document], **document}).encode(), JSON), (event(document), SSE)):
        error = error_of(body, content_type)
        assert (type(error), error.charged, error.cost_usd) == (InvalidResponse, "yes", COST)
        assert error.message == f"Image 0 of the answer cannot be used: {reason}. It was paid for and is lost"
    assert bodies.open_files() == files


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_cut_anywhere_is_noticed(kind: str) -> None:
    for keep in range(len(PICTURES[kind])):
        error = error_of(answer_text(PICTURES[kind][:keep]))
        assert (type(error), error.charged, error.cost_usd) == (InvalidResponse, "yes", COST)


def test_a_link_is_no_image_and_the_message_explains_it() -> None:
    link = "https://images.example/" + "x" * 500
    error = error_of(json.dumps({"data": [{"url": link}], "usage": {"cost": 0.000135}}).encode())
    assert f"it is a link, not data: {link[:200]}." in error.message
    assert (type(error), error.charged, error.cost_usd) == (InvalidResponse, "yes", COST)


@pytest.mark.parametrize(
    ("document", "charged", "cost"),
    [
        ({}, "unknown", None),
        ({"data": []}, "unknown", None),
        ({"data": None, "usage": {"cost": 0.000135}}, "yes", COST),
        ({"data": [], "usage": {"cost": 0}}, "unknown", Decimal(0)),
        ([], "unknown", None),
        ("text", "unknown", None),
        (None, "unknown", None),
    ],
)
def test_an_answer_without_image_is_charged_if_its_cost_is_positive(
    document: Any, charged: str, cost: Decimal | None
) -> None:
    error = error_of(json.dumps(document).encode())
    assert (type(error), error.charged, error.cost_usd) == (InvalidResponse, charged, cost)


@pytest.mark.parametrize("content_type", [JSON, SSE])
@pytest.mark.parametrize("size", [100_000, 100_001])
def test_an_image_over_the_limit_is_cut(content_type: str, size: int) -> None:
    files = bodies.open_files()
    image = bodies.padded(size)
    body = answer_text(image) if content_type == JSON else event(completed(image))
    if size == 100_000:
        assert one(receive(body, content_type, image_limit=100_000)) == image
    else:
        error = error_of(body, content_type, image_limit=100_000)
        assert (type(error), error.charged) == (InvalidResponse, "yes")
        assert error.message.startswith("Image 0 of the answer cannot be used: it is larger than 100,000 bytes")
        assert error.cost_usd == COST
    assert bodies.open_files() == files


def test_large_images_leave_no_file_open() -> None:
    files = bodies.open_files()
    image = bodies.padded(200_000)
    assert receive(answer_text(image, image), wanted=2).pictures == [image, image]
    assert receive(answer_text(image, image[:-12]), wanted=2).pictures == [image]
    error_of(answer_text(image[:-12], image[:-12]), wanted=2)
    previews = event({"b64_json": bodies.text_of(image)}, "image_generation.partial_image") * 5
    assert receive(previews + event(completed(image)) + previews, SSE).pictures == [image]
    error_of(previews, SSE)
    assert bodies.open_files() == files


# ------------------------------------------------------------------ errors inside a 2xx answer

ERRORS: list[tuple[Any, type[DeepshiError], str, str | None, str | None]] = [
    ({"error": {"message": "m", "type": "t", "code": "c"}}, ServerFailed, "unknown", "c", "m"),
    ({"error": {"message": "m", "type": "t", "code": None}}, ServerFailed, "unknown", "t", "m"),
    ({"error": "m"}, ServerFailed, "unknown", None, "m"),
    ({"type": "error", "message": "m", "code": "c"}, ServerFailed, "unknown", "c", "m"),
    ({"type": "error", "error": {"message": "m", "code": 5}}, ServerFailed, "unknown", "5", "m"),
    (
        {"error": {"message": "m", "code": "content_policy_violation"}},
        ContentRefused,
        "no",
        "content_policy_violation",
        "m",
    ),
    ({"error": {"message": "m", "code": "moderation_blocked"}}, ContentRefused, "no", "moderation_blocked", "m"),
    ({"error": {"message": "m", "code": "rate_limit_exceeded"}}, RateLimited, "no", "rate_limit_exceeded", "m"),
    ({"error": {"message": "m", "code": "insufficient_quota"}}, InsufficientQuota, "no", "insufficient_quota", "m"),
    ({"error": {"message": "m", "type": "invalid_request_error"}}, InvalidRequest, "no", "invalid_request_error", "m"),
    ({"error": {"message": "m", "code": "PROMPT_TOO_LONG"}}, InvalidRequest, "no", "PROMPT_TOO_LONG", "m"),
    ({"error": {"code": "c"}}, ServerFailed, "unknown", "c", None),
    ({"error": ["odd"]}, ServerFailed, "unknown", None, None),
]


@pytest.mark.parametrize(("document", "kind", "charged", "code", "server_message"), ERRORS)
def test_every_error_form_is_understood_wherever_it_is(
    document: Any, kind: type[DeepshiError], charged: str, code: str | None, server_message: str | None
) -> None:
    body = json.dumps(document).encode()
    streams = [event(document, name) for name in ("error", None, "message", "image_generation.completed")]
    for error in [error_of(body), *(error_of(stream, SSE) for stream in streams)]:
        assert (type(error), error.charged, error.code, error.cost_usd) == (kind, charged, code, None)
        assert error.message.endswith(f". The server's message: {server_message}") == (server_message is not None)


@pytest.mark.parametrize(("document", "kind", "charged", "code", "server_message"), ERRORS)
@pytest.mark.parametrize("before", [True, False], ids=["before", "behind"])
@pytest.mark.parametrize(
    "name", ["image_generation.partial_image", "image_edit.partial_image", "image_generation.progress", None]
)
def test_after_previews_only_errors_that_precede_all_work_are_free(
    document: Any,
    kind: type[DeepshiError],
    charged: str,
    code: str | None,
    server_message: str | None,
    before: bool,
    name: str,
) -> None:
    """Previews may have been paid for; a refusal or a rate limit may come while they are made."""
    preview = event({"b64_json": bodies.text_of(PNG), "partial_image_index": 0}, name)
    failure = event(document, "error")
    error = error_of(preview + failure if before else failure + preview, SSE)
    is_sure = kind in (InvalidRequest, InsufficientQuota) or charged != "no"
    assert (type(error), error.charged, error.code) == (kind, charged if is_sure else "unknown", code)
    assert ("Previews had arrived, so it may have been paid for" in error.message) == (not is_sure)


@pytest.mark.parametrize("event_of_work", [b'data: {"b64_json": "iVBOR\n\n', b"event: image\ndata: {broken\n\n"])
def test_a_rate_limit_after_an_unknown_event_may_have_been_charged(event_of_work: bytes) -> None:
    limit = event({"error": {"message": "m", "code": "rate_limit_exceeded"}}, "error")
    assert (error_of(limit, SSE).charged, error_of(event_of_work + limit, SSE).charged) == ("no", "unknown")


@pytest.mark.parametrize(
    "begun", [b"event: imag", b"event: image_generation.completed", b"event: x\n", b"data", b"eve"]
)
def test_a_rate_limit_after_an_unfinished_event_may_have_been_charged(begun: bytes) -> None:
    limit = event({"error": {"message": "m", "code": "rate_limit_exceeded"}}, "error")
    assert [error_of(limit + more, SSE).charged for more in (b"", b": wait", b"\n", b"garbage", begun)] == [
        *["no"] * 4,
        "unknown",
    ]
    assert error_of(limit.rstrip(), SSE).charged == "no", "a last event needs no blank line"
    wrong = event({"error": {"message": "m", "code": "PROMPT_TOO_LONG"}}, "error")
    is_result = begun.endswith(b".completed")
    assert error_of(wrong + begun, SSE).charged == ("unknown" if is_result else "no")


@pytest.mark.parametrize("code", ["PROMPT_TOO_LONG", "insufficient_quota", "moderation_blocked", "rate_limit_exceeded"])
@pytest.mark.parametrize("n", [1, 2])
def test_no_error_beside_a_broken_result_is_free(code: str, n: int) -> None:
    failure = event({"error": {"message": "m", "code": code}}, "error")
    whole = event(completed(PNG))
    broken = whole[: whole.index(b"iVBOR") + 8] + b"\n\n"
    for stream in (failure + broken, broken + failure):
        assert error_of(stream, SSE, wanted=n).charged == "unknown"


USAGE = {"usage": {"total_tokens": 5, "cost": {"total_cost": 0.25}}}
ASIDE = [
    event(USAGE, None),
    event({"type": "usage", **USAGE}, "usage"),
    event({"type": "response.usage", "response": USAGE}, None),
]


@pytest.mark.parametrize("aside", ASIDE, ids=["no name", "named", "nested"])
@pytest.mark.parametrize("preview", [b"", event({"b64_json": "eA=="}, "image_generation.partial_image")])
def test_usage_that_comes_before_the_final_event_is_read(aside: bytes, preview: bytes) -> None:
    picture = {"type": "image_generation.completed", "b64_json": bodies.text_of(PNG)}
    got = receive(preview + aside + event(picture), SSE)
    assert (got.pictures, got.answer.cost_usd, got.warnings) == ([PNG], Decimal("0.25"), [])
    received = receive(aside + event({**picture, "usage": {"cost": "0.25"}}), SSE)
    assert (received.answer.cost_usd, received.warnings) == (Decimal("0.25"), [])
    grown = receive(aside + event({**picture, "usage": {"cost": "0.5"}}), SSE)
    assert (grown.answer.cost_usd, grown.warnings) == (Decimal("0.5"), []), "the first was that of a part"
    odd = receive(aside + event({**picture, "usage": {"cost": "0.1"}}), SSE)
    assert (odd.answer.cost_usd, odd.warnings) == (
        Decimal("0.25"),
        ["The request may have cost more than the answer reported"],
    )


@pytest.mark.parametrize("aside", ASIDE, ids=["no name", "named", "nested"])
def test_usage_between_and_after_final_events_is_read_until_the_answer_is_complete(aside: bytes) -> None:
    pictures = [{"type": "image_generation.completed", "b64_json": bodies.text_of(PNG), "index": i} for i in range(2)]
    first, second = map(event, pictures)
    assert receive(first + aside + second, SSE, wanted=2).answer.cost_usd == Decimal("0.25")
    assert receive(first + second + aside, SSE, wanted=3).answer.cost_usd == Decimal("0.25")
    behind = receive(first + second + aside, SSE, wanted=2)
    assert behind.answer.cost_usd is None, "a complete answer is not waited for: the connection may stay open"


@pytest.mark.parametrize("aside", ASIDE, ids=["no name", "named", "nested"])
def test_stream_that_ends_after_its_usage_was_paid_for(aside: bytes) -> None:
    error = error_of(aside, SSE)
    assert (error.charged, error.cost_usd, error.cost_is_complete) == ("yes", Decimal("0.25"), False)
    refused = error_of(aside + event({"error": {"message": "m", "code": "rate_limit_exceeded"}}, "error"), SSE)
    assert (type(refused), refused.charged, refused.cost_usd) == (RateLimited, "yes", Decimal("0.25"))


@pytest.mark.parametrize(
    ("data", "code", "server_message"),
    [
        ('{"type": "server_error", "message": "m", "code": "c"}', "c", "m"),
        ('{"type": "server_error", "message": "m"}', "server_error", "m"),
        ('{"message": "m"}', None, "m"),
        ('{"error": null, "message": "m"}', None, "m"),
        ('"m"', None, "m"),
        ("overloaded", None, "overloaded"),
        ("{broken", None, "{broken"),
        ("{}", None, "{}"),
        ("null", None, "null"),
    ],
)
def test_an_event_named_error_is_an_error_whatever_its_content(
    data: str, code: str | None, server_message: str
) -> None:
    error = error_of(f"event: error\ndata: {data}\n\n".encode(), SSE)
    assert (type(error), error.charged, error.code) == (ServerFailed, "unknown", code)
    assert error.message.endswith(f". The server's message: {server_message}")


def test_an_error_with_a_cost_was_paid() -> None:
    document = {"error": {"message": "m", "code": "moderation_blocked"}, "usage": {"cost": {"total_cost": 0.000135}}}
    for error in (error_of(json.dumps(document).encode()), error_of(event(document, "error"), SSE)):
        assert (type(error), error.charged, error.cost_usd) == (ContentRefused, "yes", COST)


def test_a_cost_in_a_list_of_one_is_that_of_the_request() -> None:
    usage = {"usage": {"cost": {"total_cost": 0.000135}}}
    costs = [
        receive(answer_text(PNG, usage=None, output=output)).answer.cost_usd
        for output in ([usage], [[usage]], [usage, usage], [usage, {"usage": None}])
    ]
    assert costs == [COST, COST, None, None], "costs of several items may be parts of the whole, or the whole"
    assert receive(answer_text(PNG, usage=[usage["usage"]])).answer.cost_usd == COST


@pytest.mark.parametrize("name", [None, "message"])
def test_a_bare_list_in_an_event_is_a_result(name: str | None) -> None:
    got = receive(event([completed(PNG)], name), SSE)
    assert (got.pictures, got.answer.cost_usd, got.warnings) == ([PNG], COST, [])


@pytest.mark.parametrize("name", ["image.created", "image.chunk", "image_generation.generating", "image.draft"])
def test_an_image_in_an_event_of_another_name_may_be_a_preview(name: str) -> None:
    for end in (b"", b"data: [DONE]\n\n"):
        assert error_of(event({"b64_json": bodies.text_of(PNG)}, name) + end, SSE).charged == "unknown"


def test_messages_are_bounded() -> None:
    document = {"error": {"message": "m" * 60_000, "code": "c" * 60_000}}
    error = error_of(json.dumps(document).encode())
    assert len(str(error)) < 1_000
    assert len(str(error_of(b"event: error\ndata: " + b"x" * 60_000 + b"\n\n", SSE))) < 1_000


# ------------------------------------------------------------------ memory


def huge_image(digest: Any) -> Iterator[bytes]:
    """The base64 text of a 64 MiB PNG, mostly one ancillary chunk, in pieces of 64 KiB."""
    block = bytes(range(256)) * 192
    count = 64 * MIB // len(block) + 1
    begin = PNG[:-12] + struct.pack(">I", count * len(block) - len(PNG) - 12) + b"paDd"
    for number in range(count):
        raw = begin + block[len(begin) :] if number == 0 else block
        if number == count - 1:
            raw = block[:-12] + PNG[-12:]
        digest.update(raw)
        yield base64.b64encode(raw)


@pytest.mark.slow
@pytest.mark.parametrize("content_type", [JSON, SSE])
def test_an_image_of_64_mib_takes_less_than_1_mib(content_type: str) -> None:
    sent = hashlib.sha256()
    head = b'{"data": [{"b64_json": "' if content_type == JSON else b'event: a.completed\ndata: {"b64_json": "'
    tail = b'"}], "usage": {"cost": 0.000135}}' if content_type == JSON else b'", "usage": {"cost": 0.000135}}\n\n'
    reader = AnswerReader(1)
    got = []

    def work() -> None:
        for piece in chain([head], huge_image(sent), [tail]):
            reader.feed(piece)
        received = reader.close()
        (image,) = received.images
        got.append(
            (image.spool.sha256, image.spool.size_bytes >= 64 * MIB, image.media.width, received.answer.cost_usd)
        )

    peak = bodies.peak_of(work)
    reader.discard()
    assert got == [(sent.hexdigest(), True, 3, COST)]
    assert peak < MIB


def _kib(unit: bytes, kib: int = 64) -> bytes:
    return unit * (kib * 1024 // len(unit))


PREVIEW = event({"b64_json": bodies.text_of(bodies.padded(60_000))}, "image_generation.partial_image")

ENDLESS: list[tuple[str, str, bytes, bytes, int, type[DeepshiError]]] = [
    ("string", JSON, b'{"a": "', _kib(b"x"), 1024, InvalidResponse),
    ("string of escapes", JSON, b'{"a": "', _kib(b"\\u00e9"), 8, OutcomeUnknown),
    ("nesting", JSON, b"", _kib(b"["), 16, InvalidResponse),
    ("nested objects", JSON, b"", _kib(b'{"a":'), 16, InvalidResponse),
    ("empty objects", JSON, b'{"data": [', _kib(b"{},"), 48, InvalidResponse),
    ("white space", JSON, b"{", _kib(b" "), 16, InvalidResponse),
    ("digits", JSON, b'{"a": ', _kib(b"1"), 16, InvalidResponse),
    ("images", JSON, b'{"data": [', _kib(b'{"b64_json": "QUJD"},'), 16, InvalidResponse),
    ("image", JSON, b'{"b64_json": "', _kib(b"QUJD"), 2048, InvalidResponse),
    ("white space in an image", JSON, b'{"b64_json": "', _kib(b" "), 1024, InvalidResponse),
    ("broken image", JSON, b'{"b64_json": "*', _kib(b"QUJD"), 1024, InvalidResponse),
    ("backslashes in an image", JSON, b'{"b64_json": "', _kib(b"\\"), 1024, InvalidResponse),
    ("escapes in an image", JSON, b'{"b64_json": "', _kib(b"\\u0041"), 8, OutcomeUnknown),
    ("quotes in an image", JSON, b'{"b64_json": "', _kib(b'\\"'), 8, OutcomeUnknown),
    ("link", JSON, b'{"url": "https://', _kib(b"x"), 1024, InvalidResponse),
    ("data lines", SSE, b"", _kib(b"data: \n", 16), 64, InvalidResponse),
    ("data lines of zeros", SSE, b"", _kib(b"data: 0\n", 16), 64, InvalidResponse),
    ("event that never ends", SSE, b"event: a.completed\ndata: {", _kib(b'"a": 1,\ndata: '), 64, InvalidResponse),
    ("event whose image never ends", SSE, b'data: {"b64_json": "', _kib(b"QUJD"), 2048, InvalidResponse),
    ("comment", SSE, b": ", _kib(b"x"), 256, OutcomeUnknown),
    ("comments", SSE, b"", _kib(b": x\n", 16), 8, OutcomeUnknown),
    ("blank lines", SSE, b"", _kib(b"\r", 16), 4, OutcomeUnknown),
    ("event name", SSE, b"event: ", _kib(b"x"), 256, OutcomeUnknown),
    ("events", SSE, b"", _kib(b"data: 1\n\n", 4), 8, OutcomeUnknown),
    ("partial images", SSE, b"", PREVIEW, 100, OutcomeUnknown),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content_type", "head", "piece", "times", "kind"), [e[1:] for e in ENDLESS], ids=[e[0] for e in ENDLESS]
)
def test_endless_answers_take_less_than_1_mib(
    content_type: str, head: bytes, piece: bytes, times: int, kind: type[DeepshiError]
) -> None:
    files = bodies.open_files()
    errors: list[DeepshiError] = []

    def work() -> None:
        errors.append(error_of(chain([head], repeat(piece, times)), content_type, image_limit=32 * MIB))

    peak = bodies.peak_of(work)
    assert type(errors[0]) is kind
    assert errors[0].charged != "no"
    assert peak < MIB
    assert bodies.open_files() == files


@pytest.mark.slow
@pytest.mark.parametrize(
    "odd",
    [
        '"x": "' + "x" * 300_000 + '"',
        '"x": "' + "é" * 200_000 + '"',
        '"x": "' + "x" * 300_000 + "😀" + '"',
        '"x": "😀' + "x" * 79_000 + '"',
        '"x": "' + "\\ud83d\\ude00" * 8_000 + '"',
        '"x": "' + '\\"' * 42_000 + '"',
        '"x": [' + ",".join('{"a":1}' for _ in range(900)) + "]",
        '"x": [' + ",".join("1e-30" for _ in range(1_900)) + "]",
        '"x": [' + ",".join(f'"{number:04}"' for number in range(1_900)) + "]",
        '"x": ' + "[" * 400 + "]" * 400,
        '"usage": {' + ",".join(f'"key{number}": {number}' for number in range(1_900)) + "}",
    ],
    ids=range(11),
)
def test_odd_content_beside_four_images_takes_less_than_1_mib(odd: str) -> None:
    image = bodies.padded(40_000)
    data = ",".join(f'{{"b64_json": "{bodies.text_of(image)}"}}' for _ in range(2))
    body = f'{{{odd}, "data": [{data}]}}'.encode()
    pieces = [body[at : at + 65536] for at in range(0, len(body), 65536)]
    reader = AnswerReader(2)
    count = []

    def work() -> None:
        for piece in pieces:
            reader.feed(piece)
        count.append(len(reader.close().images))

    peak = bodies.peak_of(work)
    reader.discard()
    assert count == [2]
    assert peak < MIB


@pytest.mark.slow
def test_a_full_disk_is_a_deepshi_error() -> None:
    program = """
import resource, signal, sys
from deepshi_provider.exceptions import DeepshiError
from tests.support import bodies
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
image = bodies.padded(300_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
error = bodies.error_of(bodies.answer_text(image))
print(type(error).__name__, error.charged)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("StorageFailed yes\n", "")


@QUICK
@given(st.integers(1, 3), st.integers(0, 3))
def test_a_reader_is_complete_once_all_requested_images_arrived(wanted: int, sent: int) -> None:
    reader = AnswerReader(wanted)
    try:
        for number in range(sent):
            reader.feed(event(completed(PNG, index=number)))
        assert reader.complete == (sent >= wanted)
        reader.feed(b"data: [DONE]\n\n")
        assert reader.complete == (sent > 0)
    finally:
        reader.discard()
