"""Every failure of a call: its exception, whether it was charged, and the number of requests."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import threading
import time
from dataclasses import dataclass, field
from decimal import Decimal
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import (
    AuthenticationFailed,
    Charged,
    ConnectionFailed,
    ContentRefused,
    DeepshiError,
    InsufficientQuota,
    InvalidConnection,
    InvalidRequest,
    InvalidResponse,
    OutcomeUnknown,
    PermissionDenied,
    RateLimited,
    ServerFailed,
    StorageFailed,
    TimedOut,
)
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.services.processes import free_ports
from tests.support.answering import Answer, answering
from tests.support.hooks import Connect, LogLines
from tests.support.servers import KEY, Wire, boat, sends
from tests.support.waiting import until, wait_until

ALL_TRIES = 3  # as in the fixture `hook`
QUOTED = f"Incorrect API key provided: {KEY}"


@dataclass(kw_only=True)
class Row:
    """A row of API.md's table: the emulator's fault, and the expected error."""

    kind: type[DeepshiError]
    status: int
    code: str | None
    charged: Charged = "no"
    posts: int = 1
    fault: dict[str, Any] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)
    retry_after: float | None = None


ROWS = {
    "malformed": Row(kind=InvalidRequest, status=400, code="invalid_request"),
    "prompt too long": Row(kind=InvalidRequest, status=400, code="PROMPT_TOO_LONG", request={"prompt": "x" * 8001}),
    "unknown model": Row(kind=InvalidRequest, status=400, code="model_not_found", request={"model": "banana"}),
    "content policy": Row(kind=ContentRefused, status=400, code="content_policy_violation"),
    "moderation": Row(kind=ContentRefused, status=422, code="moderation_blocked"),
    "key unknown": Row(kind=AuthenticationFailed, status=401, code="invalid_api_key"),
    "out of credits": Row(kind=InsufficientQuota, status=402, code="insufficient_quota"),
    "key revoked": Row(kind=PermissionDenied, status=403, code="permission_denied"),
    "no such path": Row(kind=InvalidRequest, status=404, code="not_found"),
    "too large": Row(kind=InvalidRequest, status=413, code=None, fault={"body": "html"}),
    "rate limit": Row(kind=RateLimited, status=429, code="rate_limit_exceeded", posts=ALL_TRIES),
    "rate limit, seconds": Row(
        kind=RateLimited,
        status=429,
        code="rate_limit_exceeded",
        posts=ALL_TRIES,
        fault={"retry_after": 0.01},
        retry_after=0.01,
    ),
    "rate limit, date": Row(
        kind=RateLimited,
        status=429,
        code="rate_limit_exceeded",
        posts=ALL_TRIES,
        fault={"retry_after": formatdate(0, usegmt=True)},
        retry_after=0,
    ),
    "rate limit, nonsense": Row(
        kind=RateLimited, status=429, code="rate_limit_exceeded", posts=ALL_TRIES, fault={"retry_after": "soon"}
    ),
    "rate limit, too long": Row(
        kind=RateLimited, status=429, code="rate_limit_exceeded", fault={"retry_after": 7}, retry_after=7
    ),
    "rate limit, no body": Row(kind=RateLimited, status=429, code=None, posts=ALL_TRIES, fault={"body": "empty"}),
    "500": Row(kind=ServerFailed, status=500, code="internal_error", posts=ALL_TRIES),
    "502": Row(kind=ServerFailed, status=502, code=None, posts=ALL_TRIES, fault={"body": "empty"}),
    "503": Row(kind=ServerFailed, status=503, code=None, posts=ALL_TRIES, fault={"body": "html"}),
    "503, too long": Row(
        kind=ServerFailed, status=503, code="service_unavailable", fault={"retry_after": 9}, retry_after=9
    ),
    "proxy's password": Row(kind=InvalidConnection, status=407, code=None, fault={"body": "html"}),
    "request timeout": Row(kind=OutcomeUnknown, status=408, code="request_timeout", charged="unknown"),
    "request timeout, html": Row(kind=OutcomeUnknown, status=408, code=None, charged="unknown", fault={"body": "html"}),
    "conflict": Row(kind=ServerFailed, status=409, code="conflict", posts=ALL_TRIES),
    "conflict, too long": Row(kind=ServerFailed, status=409, code="conflict", fault={"retry_after": 9}, retry_after=9),
    "too early": Row(kind=ServerFailed, status=425, code="too_early", posts=ALL_TRIES),
    "client gone": Row(kind=OutcomeUnknown, status=499, code="client_closed_request", charged="unknown"),
    "client gone, empty": Row(kind=OutcomeUnknown, status=499, code=None, charged="unknown", fault={"body": "empty"}),
    "out of credits, as 400": Row(kind=InsufficientQuota, status=400, code="billing_hard_limit_reached"),
    "out of credits, as 403": Row(kind=InsufficientQuota, status=403, code="billingHardLimitReached"),
    "out of credits, as 429": Row(kind=InsufficientQuota, status=429, code="insufficient_quota"),
    "content filter": Row(kind=ContentRefused, status=400, code="content_filter"),
    "content filter, one word": Row(kind=ContentRefused, status=400, code="contentFilter"),
    "content filter, as 403": Row(kind=ContentRefused, status=403, code="ContentFilter"),
    "code 402": Row(kind=InsufficientQuota, status=400, code="402"),
    "code 408": Row(kind=OutcomeUnknown, status=400, code="408", charged="unknown"),
    "code 409": Row(kind=ServerFailed, status=400, code="409", posts=ALL_TRIES),
    "code 429": Row(kind=RateLimited, status=400, code="429", posts=ALL_TRIES),
    "code 499": Row(kind=OutcomeUnknown, status=400, code="499", charged="unknown"),
    "504": Row(kind=OutcomeUnknown, status=504, code="gateway_timeout", charged="unknown"),
    "504, html": Row(kind=OutcomeUnknown, status=504, code=None, charged="unknown", fault={"body": "html"}),
    "524": Row(kind=OutcomeUnknown, status=524, code="origin_timeout", charged="unknown"),
    "524, empty": Row(kind=OutcomeUnknown, status=524, code=None, charged="unknown", fault={"body": "empty"}),
}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_each_status_is_one_exception_and_shows_whether_it_was_charged(
    emulator: Emulator, hook: DeepshiHook, row: Row, stream: bool
) -> None:
    if not row.request:
        emulator.fault("status", status=row.status, code=row.code, message=QUOTED, times=None, **row.fault)
    with pytest.raises(row.kind) as caught:
        hook.generate(boat(**row.request, stream=stream))
    error = caught.value
    assert type(error) is row.kind
    assert (error.status_code, error.code, error.charged, error.cost_usd) == (row.status, row.code, row.charged, None)
    assert error.request_id == emulator.requests()[-1]["id"]
    assert error.retry_after == row.retry_after
    assert error.sends == row.posts == emulator.stats()["posts"]
    assert emulator.stats()["cost_usd"] == "0"
    if row.fault.get("body") is None and not row.request:
        assert error.message.endswith("The server's message: Incorrect API key provided: ***")
    assert KEY not in f"{error} {error!r} {error.as_data()}"


@pytest.mark.parametrize("row", [row for row in ROWS.values() if row.status == 400], ids=lambda row: row.code)
def test_only_an_invalid_request_has_to_be_changed(emulator: Emulator, connect: Connect, row: Row) -> None:
    emulator.fault("status", status=400, code=row.code)
    with pytest.raises(DeepshiError) as caught:
        connect(max_retries=0).generate(boat())
    assert ("change" in caught.value.message) == (row.kind in (InvalidRequest, ContentRefused))
    assert emulator.stats()["posts"] == 1


@dataclass(frozen=True, kw_only=True)
class Reported:
    """The expected error for an error inside an answer with status 200."""

    kind: type[DeepshiError]
    charged: Charged = "no"
    posts: int = 1


REPORTED: dict[str | int, Reported] = {
    "429": Reported(kind=RateLimited, posts=ALL_TRIES),
    429: Reported(kind=RateLimited, posts=ALL_TRIES),
    "402": Reported(kind=InsufficientQuota),
    "billing_hard_limit_reached": Reported(kind=InsufficientQuota),
    "contentFilter": Reported(kind=ContentRefused),
    "content_filter": Reported(kind=ContentRefused),
    "409": Reported(kind=ServerFailed, posts=ALL_TRIES),
    425: Reported(kind=ServerFailed, posts=ALL_TRIES),
    "408": Reported(kind=OutcomeUnknown, charged="unknown"),
    499: Reported(kind=OutcomeUnknown, charged="unknown"),
    "request_timeout": Reported(kind=OutcomeUnknown, charged="unknown"),
    "407": Reported(kind=ServerFailed, charged="unknown"),
    "500": Reported(kind=ServerFailed, charged="unknown"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize(("code", "row"), REPORTED.items(), ids=map(repr, REPORTED))
def test_a_code_inside_an_answer_means_the_same_as_the_status(
    monkeypatch: pytest.MonkeyPatch, code: str | int, row: Reported, stream: bool
) -> None:
    body = json.dumps({"error": {"message": "no", "code": code}}).encode()
    if stream:
        body = b"event: error\ndata: " + body + b"\n\n"
    with answering(Answer(body=body)) as server:
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", server.connection_json(max_retries=ALL_TRIES - 1))
        with pytest.raises(DeepshiError) as caught:
            DeepshiHook().generate(boat(stream=stream))
    error = caught.value
    assert (type(error), error.code, error.charged) == (row.kind, str(code), row.charged)
    assert error.sends == row.posts == server.posts


def test_retry_after_may_be_a_date_in_the_future(emulator: Emulator, hook: DeepshiHook) -> None:
    emulator.fault("status", status=429, retry_after=formatdate(time.time() + 60, usegmt=True))
    with pytest.raises(RateLimited) as caught:
        hook.generate(boat())
    assert caught.value.retry_after == pytest.approx(60, abs=5)
    assert emulator.stats()["posts"] == 1


def test_wrong_key_is_refused_and_not_shown(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = json.loads(emulator.connection_json()) | {"password": "sk-bf-a-wrong-key"}
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", json.dumps(connection))
    with pytest.raises(AuthenticationFailed) as caught:
        DeepshiHook().generate(boat())
    assert (caught.value.charged, emulator.stats()["posts"]) == ("no", 1)
    assert "check the password of the Deepshi connection" in caught.value.message
    assert "wrong-key" not in f"{caught.value!r} {caught.value}"


@pytest.mark.parametrize("shown", range(5, len(KEY) + 1))
def test_key_is_not_shown_in_part_where_a_long_message_is_cut(
    emulator: Emulator, hook: DeepshiHook, shown: int
) -> None:
    emulator.fault("status", status=400, message="x" * (500 - shown) + KEY)
    with pytest.raises(InvalidRequest) as caught:
        hook.generate(boat())
    assert caught.value.message.endswith("x***")


def test_key_is_not_shown_when_an_event_or_a_code_quotes_it(emulator: Emulator, hook: DeepshiHook) -> None:
    emulator.fault("error_event", message=QUOTED, code=f"bad-{KEY}")
    with pytest.raises(ServerFailed) as caught:
        hook.generate(boat(stream=True))
    assert (caught.value.code, KEY in str(caught.value.as_data())) == ("bad-***", False)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_requests_that_were_not_charged_are_retried(
    emulator: Emulator, hook: DeepshiHook, status: int, log_lines: LogLines
) -> None:
    emulator.fault("status", status=status, message=QUOTED)
    with hook.generate(boat()) as result:
        assert (len(result.images), result.sends) == (1, 2)
        assert str(result.cost_usd) == emulator.stats()["cost_usd"] == "0.000001582031"
    assert (emulator.stats()["posts"], emulator.stats()["charged_requests"]) == (2, 1)
    lines = log_lines()
    (wait,) = (line for line in lines if "Sending again in" in line)
    assert f"HTTP {status}" in wait
    assert "info" in wait.lower()
    assert KEY not in "".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["the deadline", "the limit of its own"])
async def test_a_refusal_whose_body_never_ends_means_what_its_status_means(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    if ends != "the deadline":
        monkeypatch.setattr("deepshi_provider.client.exchange._ERROR_TIMEOUT", 0.5)
    over = threading.Event()
    head = b'HTTP/1.1 402 Payment Required\r\ncontent-length: 100\r\n\r\n{"error": {"mess'

    def holds(client: socket.socket) -> None:
        over.wait(60)

    with wire.server_that(sends(head, then=holds)) as requests:
        with pytest.raises(InsufficientQuota) as caught:
            await DeepshiHook().agenerate(boat(), timeout=1 if ends == "the deadline" else 60)
        over.set()
    assert (caught.value.status_code, caught.value.charged, len(requests)) == (402, "no", 1)


@pytest.mark.slow
def test_retry_after_is_waited_for(emulator: Emulator, connect: Connect) -> None:
    emulator.fault("status", status=429, retry_after=0.3)
    begun = time.monotonic()
    with connect(max_retry_wait=1).generate(boat()) as result:
        assert result.sends == 2
    assert time.monotonic() - begun >= 0.3


def test_max_retries_of_zero_sends_once(emulator: Emulator, connect: Connect) -> None:
    emulator.fault("status", status=500)
    with pytest.raises(ServerFailed) as caught:
        connect(max_retries=0).generate(boat())
    assert (caught.value.sends, emulator.stats()["posts"]) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "stream"),
    [
        ({"name": "cut", "at": "headers"}, False),
        ({"name": "cut", "at": "headers", "reset": True}, False),
        ({"name": "cut", "at": "headers"}, True),
        ({"name": "cut", "at": "body"}, False),
        ({"name": "cut", "at": "body", "reset": True}, False),
        ({"name": "cut", "at": "body"}, True),
        ({"name": "cut", "at": "body", "reset": True}, True),
        ({"name": "silence"}, True),
        ({"name": "no_terminal"}, True),
    ],
    ids=str,
)
def test_lost_answer_is_not_sent_again(
    emulator: Emulator, connect: Connect, fault: dict[str, Any], stream: bool
) -> None:
    hook = connect(read_timeout=0.5, max_retries=2, max_retry_wait=0.02)
    emulator.fault(**fault)
    with pytest.raises(OutcomeUnknown) as caught:
        hook.generate(boat(stream=stream))
    assert type(caught.value) is OutcomeUnknown
    assert (caught.value.charged, caught.value.sends, emulator.stats()["posts"]) == ("unknown", 1, 1)
    assert "may have been paid for" in caught.value.message
    wait_until(lambda: emulator.stats()["charged_requests"] == 1)  # it was


def test_request_with_lost_answer_after_a_refusal_is_not_repeated(emulator: Emulator, hook: DeepshiHook) -> None:
    emulator.fault("status", status=429)
    emulator.fault("cut", at="body")
    with pytest.raises(OutcomeUnknown) as caught:
        hook.generate(boat())
    assert (caught.value.sends, emulator.stats()["posts"]) == (2, 2)


@pytest.mark.parametrize("reset", [False, True])
def test_cut_after_the_terminal_event_does_no_harm(emulator: Emulator, hook: DeepshiHook, reset: bool) -> None:
    emulator.fault("late_cut", reset=reset)
    with hook.generate(boat(stream=True)) as result:
        assert result.images[0].read() == emulator.picture(emulator.requests()[0]["id"])
    assert (result.sends, emulator.stats()["posts"]) == (1, 1)


@pytest.mark.slow
def test_keepalives_prevent_the_timeout_of_a_silent_stream(emulator: Emulator, connect: Connect) -> None:
    hook = connect(read_timeout=0.4)
    emulator.settings(latency=1.0, keepalive=0.1)
    with hook.generate(boat(stream=True)) as result:
        assert len(result.images) == 1
    emulator.settings(latency=1.0, keepalive=30)
    with pytest.raises(OutcomeUnknown, match="ReadTimeout"):
        hook.generate(boat(stream=True))
    assert emulator.stats()["posts"] == 2


@pytest.mark.slow
async def test_an_unstreamed_answer_may_be_silent_until_the_deadline(emulator: Emulator, connect: Connect) -> None:
    hook = connect(read_timeout=0.4)
    emulator.settings(latency=1.5)
    with await hook.agenerate(boat()) as result:
        assert len(result.images) == 1
    with await hook.agenerate(boat(), timeout=20) as result:
        assert len(result.images) == 1
    emulator.fault("silence")
    with pytest.raises(OutcomeUnknown) as caught:
        await hook.agenerate(boat(), timeout=0.7)
    assert (caught.value.charged, caught.value.sends, emulator.stats()["posts"]) == ("unknown", 1, 3)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
async def test_deadline_ends_a_request_that_was_sent(emulator: Emulator, hook: DeepshiHook, stream: bool) -> None:
    emulator.settings(latency=300, keepalive=0.1)
    with pytest.raises(OutcomeUnknown) as caught:
        await hook.agenerate(boat(stream=stream), timeout=0.5)
    assert (caught.value.charged, caught.value.sends, emulator.stats()["posts"]) == ("unknown", 1, 1)
    assert "generation_timeout" in caught.value.message


async def test_nothing_is_sent_after_the_deadline(emulator: Emulator, hook: DeepshiHook) -> None:
    for timeout in (0.0, -3.0):
        with pytest.raises(TimedOut) as caught:
            await hook.agenerate(boat(), timeout=timeout)
        assert (caught.value.charged, caught.value.sends) == ("no", 0)
    assert emulator.stats()["posts"] == 0


async def test_error_is_immediate_if_a_retry_would_miss_the_deadline(emulator: Emulator, connect: Connect) -> None:
    emulator.fault("status", status=429, retry_after=600)
    with pytest.raises(RateLimited) as caught:
        await connect(max_retry_wait=900).agenerate(boat(), timeout=300)
    assert (caught.value.charged, caught.value.retry_after, emulator.stats()["posts"]) == ("no", 600, 1)


@pytest.mark.slow
async def test_a_request_is_not_sent_again_with_too_little_time_for_its_answer(
    emulator: Emulator, connect: Connect
) -> None:
    """It would be cut off after it was paid for."""
    emulator.fault("status", status=503, delay=2)
    emulator.settings(latency=300)
    with pytest.raises(ServerFailed) as caught:
        await connect(max_retry_wait=0.01).agenerate(boat(), timeout=3)
    assert (caught.value.charged, caught.value.sends, emulator.stats()["posts"]) == ("no", 1, 1)


async def test_deadline_does_not_affect_an_answer_in_time(emulator: Emulator, hook: DeepshiHook) -> None:
    with await hook.agenerate(boat(), timeout=20) as result:
        assert result.sends == 1
    assert emulator.stats()["posts"] == 1


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "no-such-host.invalid"])
def test_failed_connection_is_free_and_retried(wire: Wire, log_lines: LogLines, host: str) -> None:
    url = f"{wire.scheme}://{host.format(port=free_ports(1)[0])}"
    wire.connect_to(url, max_retries=2, max_retry_wait=0.02)
    with pytest.raises(ConnectionFailed) as caught:
        DeepshiHook().generate(boat())
    assert (caught.value.charged, caught.value.sends, caught.value.status_code) == ("no", 0, None)
    assert url in caught.value.message
    assert sum("Sending again in" in line for line in log_lines()) == 2


@pytest.mark.parametrize("scheme", ["http"])
def test_server_without_tls_charges_nothing(emulator: Emulator, wire: Wire) -> None:
    wire.connect_to(emulator.base_url.replace("http://", "https://"), max_retries=2, max_retry_wait=0.02)
    with pytest.raises(ConnectionFailed) as caught:
        DeepshiHook().generate(boat())
    assert (caught.value.charged, caught.value.sends, emulator.stats()["posts"]) == ("no", 0, 0)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("fault", ["not_an_image", "truncated_image", "broken_base64"])
def test_unusable_image_was_paid_for(emulator: Emulator, hook: DeepshiHook, fault: str, stream: bool) -> None:
    emulator.fault(fault)
    with pytest.raises(InvalidResponse) as caught:
        hook.generate(boat(stream=stream))
    assert (caught.value.charged, caught.value.sends, caught.value.status_code) == ("yes", 1, 200)
    assert caught.value.cost_usd == Decimal(emulator.stats()["cost_usd"]) > 0
    assert emulator.stats()["posts"] == 1


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("fault", ["html_200", "no_data"])
def test_request_is_not_repeated_after_an_unreadable_answer(
    emulator: Emulator, hook: DeepshiHook, fault: str, stream: bool
) -> None:
    emulator.fault(fault)
    with pytest.raises(DeepshiError) as caught:
        hook.generate(boat(stream=stream))
    assert isinstance(caught.value, InvalidResponse | OutcomeUnknown)
    assert (caught.value.charged != "no", caught.value.sends, emulator.stats()["posts"]) == (True, 1, 1)


@pytest.mark.parametrize("shape", ["object", "text", "flat"])
def test_error_event_ends_a_stream(emulator: Emulator, hook: DeepshiHook, shape: str) -> None:
    emulator.fault("error_event", shape=shape, message="the GPU is on fire", code="internal_error")
    with pytest.raises(ServerFailed, match="the GPU is on fire") as caught:
        hook.generate(boat(stream=True))
    code = None if shape == "text" else "internal_error"
    assert (caught.value.charged, caught.value.code, caught.value.status_code) == ("unknown", code, None)
    assert caught.value.request_id == emulator.requests()[0]["id"]
    assert (caught.value.sends, emulator.stats()["posts"]) == (1, 1)


@pytest.mark.parametrize("shape", ["object", "flat"])
def test_refusal_may_come_as_an_event(emulator: Emulator, hook: DeepshiHook, shape: str) -> None:
    emulator.fault("error_event", shape=shape, code="content_policy_violation")
    with pytest.raises(ContentRefused) as caught:
        hook.generate(boat(stream=True))
    assert (caught.value.charged, caught.value.sends, emulator.stats()["posts"]) == ("no", 1, 1)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_paid_answer_without_a_spool_directory_is_a_deepshi_error(
    emulator: Emulator, hook: DeepshiHook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stream: bool
) -> None:
    directory = tmp_path / "missing"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    emulator.settings(picture_bytes=1_000_000, hold=True)  # too large to stay in memory
    answer = asyncio.ensure_future(hook.agenerate(boat(stream=stream)))
    await until("the request", lambda: emulator.stats()["in_flight"] == 1)
    directory.rmdir()
    emulator.settings(hold=False)
    with pytest.raises(StorageFailed, match="temporary files") as caught:
        await answer
    assert (caught.value.charged, caught.value.sends, emulator.stats()["posts"]) == ("yes", 1, 1)
    assert str(tmp_path / "missing") in caught.value.message


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("missing", [1, 500_000])  # buffered data fails later than written data
def test_paid_answer_on_a_full_disk_is_a_deepshi_error(
    emulator: Emulator, hook: DeepshiHook, stream: bool, missing: int
) -> None:
    emulator.settings(picture_bytes=4_000_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000 - missing, limits[1]))  # to a program it looks the same
    try:
        with pytest.raises(StorageFailed, match="temporary files") as caught:
            hook.generate(boat(stream=stream))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.charged != "no"
    assert (caught.value.sends, emulator.stats()["posts"]) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_cancelling_closes_the_socket(emulator: Emulator, hook: DeepshiHook, stream: bool) -> None:
    emulator.settings(latency=30, keepalive=0.1)
    task = asyncio.create_task(hook.agenerate(boat(stream=stream)))
    await asyncio.to_thread(wait_until, lambda: emulator.stats()["in_flight"] == 1)
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(wait_until, lambda: emulator.stats()["disconnects"] == 1)
    assert [entry["outcome"] for entry in emulator.requests()] == ["disconnected"]
    assert emulator.stats()["posts"] == 1
