"""Faults: what the client receives, and whether the request is charged."""

from __future__ import annotations

import base64
import binascii
import io
import json
import time
from typing import Any

import httpx
import pytest
from PIL import Image

from deepshi_provider.emulator.testing import Emulator
from tests.support.calls import (
    BOAT,
    GENERATIONS,
    STREAMED_BOAT,
    events,
    only_picture,
    raw_post,
    read_to_end,
)
from tests.support.waiting import wait_until

PRICE = "0.000001582031"  # of BOAT


def bill(emulator: Emulator) -> tuple[str, str | None]:
    """Return outcome and cost of the only request."""
    wait_until(lambda: emulator.requests()[0]["outcome"] != "in_flight")
    (entry,) = emulator.requests()
    return entry["outcome"], entry["cost_usd"]


def test_status_fault_sends_its_texts_unchanged(emulator: Emulator, client: httpx.Client) -> None:
    emulator.fault(
        "status",
        status=400,
        code="content_policy_violation",
        type="image_error",
        message="no boats",
        retry_after="Fri, 31 Dec 1999 23:59:59 GMT",
    )
    answer = client.post(GENERATIONS, json=BOAT)
    assert answer.json() == {
        "error": {"message": "no boats", "type": "image_error", "code": "content_policy_violation"}
    }
    assert answer.headers["retry-after"] == "Fri, 31 Dec 1999 23:59:59 GMT"
    assert emulator.requests()[0]["fault"] == "status"


@pytest.mark.parametrize("retry_after", [0, 7, 0.5, -3, "soon"])
def test_retry_after_is_sent_verbatim(emulator: Emulator, client: httpx.Client, retry_after: object) -> None:
    emulator.fault("status", status=429, retry_after=retry_after)
    assert client.post(GENERATIONS, json=BOAT).headers["retry-after"] == str(retry_after)


def test_a_proxy_answers_with_html_or_nothing(emulator: Emulator, client: httpx.Client) -> None:
    emulator.fault("status", status=502, body="html")
    emulator.fault("status", status=503, body="empty")
    html, empty = (client.post(GENERATIONS, json=BOAT) for _ in range(2))
    assert (html.status_code, html.headers["content-type"]) == (502, "text/html")
    assert html.text.startswith("<html>")
    assert (empty.status_code, empty.content) == (503, b"")


def test_a_gateway_that_gave_up_may_have_cost_money(emulator: Emulator, client: httpx.Client) -> None:
    emulator.fault("status", status=504, charged=True, delay=0.2)
    started = time.monotonic()
    assert client.post(GENERATIONS, json=BOAT).status_code == 504
    assert time.monotonic() - started >= 0.2
    assert bill(emulator) == ("faulted", PRICE)


@pytest.mark.parametrize("request_fields", [BOAT, STREAMED_BOAT])
@pytest.mark.parametrize("charged", [True, False])
def test_cut_before_any_byte(emulator: Emulator, request_fields: dict[str, Any], charged: bool) -> None:
    emulator.fault("cut", at="headers", charged=charged)
    assert read_to_end(raw_post(emulator, request_fields)) == b""
    assert bill(emulator) == ("faulted", PRICE if charged else None)
    assert emulator.requests()[0]["status"] is None
    assert emulator.stats()["by_status"] == {}
    assert "Traceback" not in emulator.log()


def test_cut_in_an_answer_leaves_too_few_bytes(emulator: Emulator) -> None:
    emulator.fault("cut", at="body")
    head, _, body = read_to_end(raw_post(emulator, BOAT)).partition(b"\r\n\r\n")
    (length,) = (int(line[16:]) for line in head.split(b"\r\n") if line[:15] == b"content-length:")
    assert len(body) == length // 2
    assert bill(emulator) == ("faulted", PRICE)


def test_cut_in_a_stream_leaves_it_without_the_last_chunk(emulator: Emulator) -> None:
    emulator.fault("cut", at="body")
    received = read_to_end(raw_post(emulator, STREAMED_BOAT))
    assert b"transfer-encoding: chunked" in received.lower()
    assert b'"b64_json": "' in received
    assert not received.endswith(b"0\r\n\r\n")
    assert b'"usage"' not in received
    assert bill(emulator) == ("faulted", PRICE)


def test_cut_can_be_a_reset(emulator: Emulator) -> None:
    emulator.fault("cut", at="headers", reset=True)
    with pytest.raises(ConnectionResetError):
        read_to_end(raw_post(emulator, BOAT))


def test_httpx_sees_cuts_as_protocol_errors(emulator: Emulator, client: httpx.Client) -> None:
    for request in (BOAT, STREAMED_BOAT):
        for place in ("headers", "body"):
            emulator.fault("cut", at=place)
            with pytest.raises(httpx.RemoteProtocolError):
                client.post(GENERATIONS, json=request)
    assert emulator.stats()["charged_requests"] == 4


def test_late_cut_comes_after_the_whole_event(emulator: Emulator) -> None:
    emulator.fault("late_cut")
    received = read_to_end(raw_post(emulator, STREAMED_BOAT))
    assert b"event: image_generation.completed" in received
    assert received.endswith(b"\n\n\r\n")
    assert b"\r\n0\r\n\r\n" not in received
    assert bill(emulator) == ("faulted", PRICE)


@pytest.mark.slow
def test_silence_sends_nothing_and_charges_while_it_waits(emulator: Emulator) -> None:
    emulator.fault("silence")
    connection = raw_post(emulator, BOAT)
    wait_until(lambda: emulator.stats()["charged_requests"] == 1)
    connection.settimeout(0.2)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    assert emulator.stats()["in_flight"] == 1
    connection.close()
    assert bill(emulator) == ("faulted", PRICE)
    assert emulator.stats()["disconnects"] == 1


@pytest.mark.slow
def test_silence_in_a_stream_comes_after_one_keepalive(emulator: Emulator) -> None:
    emulator.settings(keepalive=0.05)
    emulator.fault("silence")
    received = b""
    with raw_post(emulator, STREAMED_BOAT) as connection:
        while not received.endswith(b"keepalive\n\n\r\n"):
            received += connection.recv(65536)
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert received.endswith(b"\r\n\r\nd\r\n: keepalive\n\n\r\n")


@pytest.mark.slow
def test_slow_answer_takes_its_time(emulator: Emulator, client: httpx.Client) -> None:
    emulator.settings(picture_bytes=6_000)  # 8,000 characters and a little
    emulator.fault("slow", bytes_per_second=20_000)
    started = time.monotonic()
    answer = client.post(GENERATIONS, json=BOAT)
    assert time.monotonic() - started > 0.3
    assert len(only_picture(answer)) == 6_000
    assert bill(emulator)[0] == "delivered"


@pytest.mark.parametrize("request_fields", [BOAT, STREAMED_BOAT])
def test_wrong_json_breaks_behind_the_picture(
    emulator: Emulator, client: httpx.Client, request_fields: dict[str, Any]
) -> None:
    emulator.fault("wrong_json")
    text = client.post(GENERATIONS, json=request_fields).text
    if "stream" in request_fields:
        ((_, text),) = events(text)
    assert '"b64_json": "iVBOR' in text
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)
    assert bill(emulator) == ("faulted", PRICE)


@pytest.mark.parametrize("request_fields", [BOAT, STREAMED_BOAT])
def test_html_comes_with_status_200(emulator: Emulator, client: httpx.Client, request_fields: dict[str, Any]) -> None:
    emulator.fault("html_200")
    answer = client.post(GENERATIONS, json=request_fields)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html")
    assert bill(emulator) == ("faulted", PRICE)


def test_answer_without_data(emulator: Emulator, client: httpx.Client) -> None:
    emulator.fault("no_data", times=2)
    assert client.post(GENERATIONS, json=BOAT).json()["data"] == []
    ((_, data),) = events(client.post(GENERATIONS, json=STREAMED_BOAT).text)
    assert "usage" in data
    assert "b64_json" not in data
    assert emulator.stats()["charged_requests"] == 2


def test_base64_of_no_image(emulator: Emulator, client: httpx.Client) -> None:
    emulator.fault("not_an_image")
    assert only_picture(client.post(GENERATIONS, json=BOAT)).startswith(b"I am sorry")
    assert bill(emulator) == ("faulted", PRICE)


def test_half_a_picture(emulator: Emulator, client: httpx.Client) -> None:
    emulator.settings(picture_bytes=500_000)
    emulator.fault("truncated_image")
    answer = client.post(GENERATIONS, json=BOAT)
    half = only_picture(answer)
    assert half == emulator.picture(answer.headers["x-request-id"])[:250_000]
    with pytest.raises((OSError, SyntaxError)), Image.open(io.BytesIO(half)) as image:
        image.verify()


@pytest.mark.parametrize("total", [None, 1_000_000])
def test_characters_that_base64_does_not_have(emulator: Emulator, client: httpx.Client, total: int | None) -> None:
    emulator.settings(picture_bytes=total)
    emulator.fault("broken_base64")
    (item,) = client.post(GENERATIONS, json=BOAT).json()["data"]
    with pytest.raises(binascii.Error):
        base64.b64decode(item["b64_json"], validate=True)


SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("object", {"error": {"message": "m", "type": "server_error", "code": "c"}}),
    ("text", {"error": "m"}),
    ("flat", {"type": "error", "message": "m", "code": "c"}),
]


@pytest.mark.parametrize(("shape", "document"), SHAPES)
@pytest.mark.parametrize("charged", [True, False])
def test_error_after_the_stream_began(
    emulator: Emulator, client: httpx.Client, shape: str, document: object, charged: bool
) -> None:
    emulator.fault("error_event", shape=shape, message="m", code="c", charged=charged)
    answer = client.post(GENERATIONS, json=STREAMED_BOAT)
    assert answer.text == f": keepalive\n\nevent: error\ndata: {json.dumps(document)}\n\n"
    assert bill(emulator) == ("faulted", PRICE if charged else None)


def test_stream_ends_without_its_event(emulator: Emulator, client: httpx.Client) -> None:
    emulator.fault("no_terminal")
    assert client.post(GENERATIONS, json=STREAMED_BOAT).text == ": keepalive\n\n"
    assert bill(emulator) == ("faulted", PRICE)


def test_fault_finds_its_request(emulator: Emulator, client: httpx.Client) -> None:
    emulator.fault("status", status=500, prompt="green", times=None)
    emulator.fault("status", status=502, path="/edits")
    emulator.fault("late_cut")  # for streams only
    emulator.fault("status", status=503, times=2)
    prompts = ["red", "a green boat", "red", "red", "green", "red"]
    answers = [client.post(GENERATIONS, json={**BOAT, "prompt": prompt}) for prompt in prompts]
    assert [answer.status_code for answer in answers] == [503, 500, 503, 200, 500, 200]


def test_refused_request_does_not_use_up_a_fault(emulator: Emulator, client: httpx.Client) -> None:
    emulator.fault("status", status=500)
    assert client.post(GENERATIONS, json={**BOAT, "n": 9}).status_code == 400
    assert client.post(GENERATIONS, json=BOAT).status_code == 500


def test_catalog_fails_only_if_it_was_named(emulator: Emulator, client: httpx.Client) -> None:
    emulator.fault("status", status=500)
    assert client.get("/v1/models").status_code == 200
    for name, params in (("status", {"status": 403}), ("html_200", {}), ("no_data", {})):
        emulator.fault(name, path="/models", **params)
    emulator.fault("cut", path="/models", at="body")
    answers = [client.get("/v1/models") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [403, 200, 200]
    assert answers[1].text.startswith("<html>")
    assert answers[2].json()["data"] == []
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/v1/models")


UNKNOWN: list[tuple[str, dict[str, Any]]] = [
    ("earthquake", {}),
    ("status", {}),
    ("status", {"status": 200}),
    ("status", {"status": 400, "charged": True}),
    ("status", {"status": 500, "body": "xml"}),
    ("cut", {"at": "night"}),
    ("cut", {"where": "body"}),
    ("slow", {"bytes_per_second": 0}),
    ("silence", {"times": 0}),
    ("silence", {"prompt": 5}),
    ("form", {"form": ["sonnet"]}),
]


@pytest.mark.parametrize(("name", "params"), UNKNOWN)
def test_unknown_fault_is_an_error(emulator: Emulator, name: str, params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="POST /emulator/faults"):
        emulator.fault(name, **params)


def test_faults_can_be_cleared(emulator: Emulator, client: httpx.Client) -> None:
    emulator.fault("status", status=500, times=None)
    emulator.clear_faults()
    assert client.post(GENERATIONS, json=BOAT).status_code == 200
