"""Converts errors of the API, by HTTP status or inside a 2xx answer, to exceptions.

Statuses and codes are those of API.md, "Errors", and of gateways that the API is compatible with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Any

from deepshi_provider.api.document import parse, parse_beginning
from deepshi_provider.api.responses import reported_cost
from deepshi_provider.exceptions import (
    AuthenticationFailed,
    Charged,
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
)

_LONGEST_MESSAGE = 500
_LONGEST_ID = 200

_Meaning = tuple[type[DeepshiError], str]

_GAVE_UP: _Meaning = (
    OutcomeUnknown,
    "The server or a proxy timed out; the image may have been made and paid for",
)
_BUSY: _Meaning = (ServerFailed, "The server could not accept the request at that moment, and did not charge it")
_WRONG: _Meaning = (InvalidRequest, "The server did not accept the request; change it before you retry")
_ELSEWHERE: _Meaning = (InvalidRequest, "The address does not exist; check the host of the Deepshi connection")
_REFUSED: _Meaning = (ContentRefused, "The content policy refused this request; change the prompt or the images")

_BY_STATUS: dict[int, _Meaning] = {
    400: _WRONG,
    401: (AuthenticationFailed, "The API key was not accepted; check the password of the Deepshi connection"),
    402: (InsufficientQuota, "The account is out of credits; top it up, then clear the task"),
    403: (PermissionDenied, "The API key was revoked or may not use this model"),
    404: _ELSEWHERE,
    405: _ELSEWHERE,
    407: (
        InvalidConnection,
        "The proxy requires user name and password, and nothing was sent to the API; put them into the proxy's URL",
    ),
    408: _GAVE_UP,
    409: _BUSY,
    410: _ELSEWHERE,
    413: (InvalidRequest, "The request is too large; use fewer or smaller input images, or a shorter prompt"),
    414: _WRONG,
    422: _WRONG,
    425: _BUSY,
    429: (RateLimited, "Too many requests; use an Airflow pool to limit how many tasks run at once"),
    499: _GAVE_UP,
    504: _GAVE_UP,
    524: _GAVE_UP,
    598: _GAVE_UP,
    599: _GAVE_UP,
}
#: Parts of refusal codes without separators between words: ``contentFilter``, ``content_filter``.
_REFUSALS = (
    "contentpolicy",
    "contentfilter",
    "contentviolation",
    "moderation",
    "policyviolation",
    "prohibitedcontent",
    "responsibleai",
    "safety",
    "unsafecontent",
)
#: Codes that count with any status; some gateways send an empty account as 400 or 429, or an unknown model as 404.
_QUOTA = frozenset(
    {
        "billinghardlimitreached",
        "billingnotactive",
        "insufficientbalance",
        "insufficientcredits",
        "insufficientfunds",
        "insufficientquota",
        "outofcredits",
        "paymentrequired",
    }
)
_REQUEST = frozenset({"modelnotfound", "prompttoolong", "invalidrequesterror"})
#: Other codes, used only inside a 2xx answer; for other answers, the HTTP status decides.
_BY_CODE = {
    "invalidapikey": 401,
    "authenticationerror": 401,
    "permissiondenied": 403,
    "permissionerror": 403,
    "ratelimitexceeded": 429,
    "ratelimiterror": 429,
    "toomanyrequests": 429,
    "requesttimeout": 408,
    "gatewaytimeout": 504,
}


def error_from_status(status: int, body: bytes, headers: Mapping[str, str], *, now: float) -> DeepshiError:
    """Return the exception for an answer whose status is not 2xx.

    :param body: the beginning of the answer: JSON as documented, or any text of a proxy.
    :param headers: headers with lower-case names.
    :param now: unix seconds, for a date in ``Retry-After`` if the answer has no ``Date``; otherwise the server's clock
        is used.
    """
    document = _json_or_none(body)
    code, reason = _error_fields(document)
    kind, advice = _meaning(status, code)
    cost = reported_cost(document)
    return kind(
        _sentence(advice, reason),
        status_code=status,
        code=code,
        charged="yes" if cost else None,
        cost_usd=cost,
        request_id=request_id(headers),
        retry_after=_seconds(headers.get("retry-after"), _unix_seconds(headers.get("date")) or now),
    )


def error_from_document(document: Any) -> DeepshiError | None:
    """Return the exception for an error document in a 2xx answer or a stream; ``None`` if it is not an error."""
    if not isinstance(document, Mapping):
        return None
    flat = document.get("type") == "error"
    if not document.get("error") and not flat:
        return None
    code, reason = _error_fields(document)
    status = _status_of(code)
    cost = reported_cost(document)
    paid: Charged | None = "yes" if cost else None
    if status is None or (status >= 500 and status not in _BY_STATUS):
        message = _sentence("The server reported an error after it had accepted the request", reason)
        return ServerFailed(message, code=code, charged=paid or "unknown", cost_usd=cost)
    kind, advice = _meaning(status, code)
    return kind(_sentence(advice, reason), code=code, charged=paid, cost_usd=cost)


def request_id(headers: Mapping[str, str]) -> str | None:
    """Return the server's request id."""
    found = headers.get("x-request-id") or headers.get("cf-ray")
    return found and found[:_LONGEST_ID]


def _meaning(status: int, code: str | None) -> _Meaning:
    word = _word(code)
    if status == 400 and 400 < (_number(word) or 0) < 500:
        status = int(word)
    if 400 <= status < 500 and status not in (401, 407, 408):
        if word in _QUOTA:
            return _BY_STATUS[402]
        if _is_refusal(word) and status != 429:
            return _REFUSED
        if word in _REQUEST and status != 429:
            return _WRONG
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= 500:
        return ServerFailed, "The server failed before it answered; this counts as not billed"
    if status >= 400:
        return InvalidRequest, "The server did not accept the request; an unchanged retry would fail too"
    if status >= 300:
        return InvalidRequest, "The server redirects elsewhere; check the host of the Deepshi connection"
    return InvalidResponse, "The server answered with an unexpected status"


def _status_of(code: str | None) -> int | None:
    """Return the HTTP status that corresponds to an error code."""
    word = _word(code)
    if number := _number(word):
        return None if number == 407 else number
    if word in _QUOTA or word in _REQUEST or _is_refusal(word):
        return 400
    return _BY_CODE.get(word)


def _number(word: str) -> int | None:
    """Return the status if the code is one; some servers send it as text."""
    return int(word) if re.fullmatch("[45][0-9]{2}", word) else None


def _word(code: str | None) -> str:
    """Return a code without separators between its words, since gateways spell codes differently."""
    return re.sub(r"[^a-z0-9]", "", (code or "").lower())


def _is_refusal(word: str) -> bool:
    return any(part in word for part in _REFUSALS)


def _sentence(advice: str, reason: str | None) -> str:
    return f"{advice}. The server's message: {reason}" if reason else advice


def _error_fields(document: Any) -> tuple[str | None, str | None]:
    """Return code and message of an error document of any known form."""
    error = document.get("error") or document if isinstance(document, Mapping) else document
    if isinstance(error, str):
        return None, error[:_LONGEST_MESSAGE]
    if not isinstance(error, Mapping):
        return None, None
    kind = error.get("type") if error.get("type") != "error" else None
    code = error.get("code") or kind
    if isinstance(kind, str) and _is_refusal(_word(kind)) and not _is_refusal(_word(str(code))):
        code = kind
    message = error.get("message")
    return (
        str(code)[:100] if isinstance(code, str | int) else None,
        message[:_LONGEST_MESSAGE] if isinstance(message, str) else None,
    )


def _json_or_none(body: bytes) -> Any:
    text = body.decode("utf-8", "replace")
    try:
        return parse(text)
    except ValueError:
        return parse_beginning(text)  # cut off, but it may contain the code


def _unix_seconds(date: str | None) -> float | None:
    """Return the unix time of an HTTP date, or ``None`` if it is not one."""
    try:
        moment = parsedate_to_datetime(date or "")
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None


def _seconds(text: str | None, now: float) -> float | None:
    """Return ``Retry-After``, which may be a number or an HTTP date, in seconds from ``now``."""
    if not text:
        return None
    try:
        wait = float(text)
    except ValueError:
        moment = _unix_seconds(text)
        if moment is None:
            return None
        wait = moment - now
    return max(0.0, wait) if wait == wait and wait != float("inf") else None
