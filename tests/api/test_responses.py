from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepshi_provider.api.errors import error_from_document, error_from_status, request_id
from deepshi_provider.api.responses import Answer, cost_of
from deepshi_provider.exceptions import (
    AuthenticationFailed,
    ContentRefused,
    DeepshiError,
    InsufficientQuota,
    InvalidRequest,
    OutcomeUnknown,
    PermissionDenied,
    RateLimited,
    ServerFailed,
)
from tests.support.bodies import QUICK

NOW = 1_782_595_538.0  # Sat, 27 Jun 2026 21:25:38 GMT


def from_status(status: int, body: bytes = b"", **headers: str) -> DeepshiError:
    return error_from_status(status, body, {k.replace("_", "-"): v for k, v in headers.items()}, now=NOW)


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"cost": {"total_cost": Decimal("0.000135")}}, "0.000135"),
        ({"cost": {"total_cost": 0.000135}}, "0.000135"),
        ({"cost": {"total_cost": "0.000135"}}, "0.000135"),
        ({"cost": 0.1}, "0.1"),
        ({"cost": "0.30"}, "0.30"),
        ({"cost": 2}, "2"),
        ({"cost": 0}, "0"),
        ({"cost": Decimal("1E-7")}, "1E-7"),
        ({"cost": None}, None),
        ({"cost": {"total_cost": None}}, None),
        ({"cost": {}}, None),
        ({"cost": []}, None),
        ({"cost": True}, None),
        ({"cost": {"total_cost": False}}, None),
        ({"cost": -0.01}, None),
        ({"cost": "NaN"}, None),
        ({"cost": "sNaN"}, None),
        ({"cost": float("nan")}, None),
        ({"cost": "Infinity"}, None),
        ({"cost": "free"}, None),
        ({"cost": ""}, None),
        ({"cost": "1e999999999"}, None),
        ({"cost": Decimal("1e999999")}, None),
        ({"cost": 10**5000}, None),
        ({}, None),
        (None, None),
        ("0.1", None),
        ([], None),
    ],
)
def test_a_cost_is_exact_or_unknown(usage: Any, cost: str | None) -> None:
    assert str(cost_of(usage)) == str(cost)


def test_invalid_values_in_an_answer_become_none() -> None:
    odd = {"created": "now", "model": 5, "size": ["3x2"], "usage": "much", "extra": 1}
    nothing = {"created": None, "model": None, "size": None, "usage": None, "cost_usd": None}
    assert Answer.model_validate(odd).model_dump() == nothing
    assert Answer.model_validate({"created": True}).created is None


@pytest.mark.parametrize(
    ("status", "kind", "charged"),
    [
        (301, InvalidRequest, "no"),
        (400, InvalidRequest, "no"),
        (401, AuthenticationFailed, "no"),
        (402, InsufficientQuota, "no"),
        (403, PermissionDenied, "no"),
        (404, InvalidRequest, "no"),
        (413, InvalidRequest, "no"),
        (422, InvalidRequest, "no"),
        (429, RateLimited, "no"),
        (500, ServerFailed, "no"),
        (502, ServerFailed, "no"),
        (503, ServerFailed, "no"),
        (504, OutcomeUnknown, "unknown"),
        (524, OutcomeUnknown, "unknown"),
    ],
)
@pytest.mark.parametrize(
    ("body", "code", "server_message"),
    [
        (b'{"error": {"message": "m", "type": "t", "code": "c", "param": "n"}}', "c", "m"),
        (b'{"error": {"message": "m", "type": "t"}}', "t", "m"),
        (b'{"error": "m"}', None, "m"),
        (b'{"error": null, "type": "error", "message": "m", "code": 7}', "7", "m"),
        (b'{"message": "m", "code": "c"}', "c", "m"),
        (b'"m"', None, "m"),
        (b"<html>Bad gateway</html>", None, None),
        (b"", None, None),
        (b"\xff\xfe", None, None),
        (b"[" * 60_000, None, None),
        (b"[1, 2]", None, None),
        (b"null", None, None),
        (b'{"error": {"message": 5, "code": {}}}', None, None),
    ],
)
def test_each_status_has_its_class_whatever_the_body(
    status: int, kind: type[DeepshiError], charged: str, body: bytes, code: str | None, server_message: str | None
) -> None:
    error = from_status(status, body, x_request_id="req-1")
    assert type(error) is kind
    assert {**error.as_data(), "message": ""} == {
        "type": kind.__name__,
        "message": "",
        "status_code": status,
        "code": code,
        "request_id": "req-1",
        "retry_after": None,
        "charged": charged,
        "cost_usd": None,
        "cost_is_complete": True,
        "sends": 0,
    }
    assert error.message.endswith(f". The server's message: {server_message}") == (server_message is not None)
    assert not error.message.startswith(".")


@pytest.mark.parametrize(
    "code",
    ["content_policy_violation", "moderation_blocked", "content_filter", "safety_violation", "MODERATION_BLOCKED"],
)
def test_a_refusal_by_the_content_policy_has_its_own_exception(code: str) -> None:
    body = json.dumps({"error": {"message": "no", "type": "invalid_request_error", "code": code}}).encode()
    for error in (from_status(400, body), from_status(422, body), error_from_document(json.loads(body))):
        assert (type(error), error and error.code, error and error.charged) == (ContentRefused, code, "no")
    assert type(from_status(429, body)) is RateLimited


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("-5", 0.0),
        ("nan", None),
        ("inf", None),
        ("-inf", 0.0),
        ("1e999", None),
        ("", None),
        ("soon", None),
        ("Sat, 27 Jun 2026 21:26:08 GMT", 30.0),
        ("Sat, 27 Jun 2026 21:25:08 GMT", 0.0),
        ("Sat, 27 Jun 2026 21:26:08 -0000", 30.0),
        ("Sat, 27 Jun 2026 23:26:08 +0200", 30.0),
        ("Sat, 99 Jun 2026 21:26:08 GMT", None),
        ("Sat, 27 Jun 99999999999999999999 21:26:08 GMT", None),
        ("Sat, 27 Jun 2026 21:26:08 +99999999999999999999", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(text: str, seconds: float | None) -> None:
    assert from_status(429, retry_after=text).retry_after == seconds


def test_a_date_counts_from_the_servers_own_clock() -> None:
    """The local clock may be wrong by an hour."""
    later, now = "Sat, 27 Jun 2026 20:00:30 GMT", "Sat, 27 Jun 2026 20:00:00 GMT"
    assert from_status(429, retry_after=later, date=now).retry_after == 30.0
    assert from_status(429, retry_after="Sat, 27 Jun 2026 21:26:08 GMT", date="once").retry_after == 30.0


@QUICK
@given(
    st.text(max_size=40) | st.text("0123456789 :,+-JunGMTSat", max_size=40),
    st.binary(max_size=60),
    st.integers(300, 599),
)
def test_no_header_and_no_body_raises(retry_after: str, body: bytes, status: int) -> None:
    wait = from_status(status, body, retry_after=retry_after).retry_after
    assert wait is None or 0 <= wait < float("inf")


def test_messages_are_bounded_and_printable() -> None:
    body = json.dumps({"error": {"message": "m\ud83d" + "x" * 60_000, "code": "c" * 60_000}}).encode()
    for error in (from_status(400, body), from_status(500, b'"' + b"x" * 60_000 + b'"')):
        assert len(str(error)) < 1_000
        str(error).encode()


def test_a_request_is_named_by_the_server_or_the_proxy() -> None:
    assert request_id({"x-request-id": "a", "cf-ray": "b"}) == "a"
    assert request_id({"cf-ray": "b"}) == "b"
    assert request_id({}) is None


@pytest.mark.parametrize(
    "document", [None, [], "error", 5, {}, {"error": None}, {"error": {}}, {"error": ""}, {"type": "x"}]
)
def test_a_document_without_an_error_has_none(document: Any) -> None:
    assert error_from_document(document) is None


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (429, "insufficient_quota", InsufficientQuota),
        (429, "rate_limit_exceeded", RateLimited),
        (403, "content_policy_violation", ContentRefused),
        (403, "key_revoked", PermissionDenied),
    ],
)
def test_a_code_overrides_the_status_where_waiting_or_another_key_would_not_help(
    status: int, code: str, kind: type[DeepshiError]
) -> None:
    error = error_from_status(status, json.dumps({"error": {"message": "no", "code": code}}).encode(), {}, now=0)
    assert (type(error), error.charged, error.status_code, error.code) == (kind, "no", status, code)
