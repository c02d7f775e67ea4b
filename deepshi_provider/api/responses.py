"""What the API answered: images and their price, or an error as an exception."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timezone
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from deepshi_provider.api.document import parse
from deepshi_provider.exceptions import (
    AuthenticationFailed,
    Charged,
    ContentRefused,
    DeepshiError,
    InsufficientQuota,
    InvalidRequest,
    InvalidResponse,
    OutcomeUnknown,
    PermissionDenied,
    RateLimited,
    ServerFailed,
)

_LONGEST_MESSAGE = 500
_LARGEST_COST_USD = 1_000_000

_BY_STATUS: dict[int, tuple[type[DeepshiError], str]] = {
    401: (AuthenticationFailed, "The API key was not accepted; check the password of the Deepshi connection"),
    402: (InsufficientQuota, "The account is out of credits; top it up, then clear the task"),
    403: (PermissionDenied, "The API key was revoked or may not use this model"),
    429: (RateLimited, "Too many requests; use an Airflow pool to bound how many tasks run at once"),
    504: (OutcomeUnknown, "A proxy gave up waiting for the answer; the image may have been made and paid for"),
    524: (OutcomeUnknown, "A proxy gave up waiting for the answer; the image may have been made and paid for"),
}
_REFUSALS = ("content_policy", "moderation", "content_filter", "safety")
#: Error codes that mean, inside a stream, what a status would have meant before it.
_BY_CODE = {
    "invalid_api_key": 401,
    "authentication_error": 401,
    "insufficient_quota": 402,
    "permission_denied": 403,
    "permission_error": 403,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "invalid_request_error": 400,
    "prompt_too_long": 400,
    "model_not_found": 400,
}


def cost_of(usage: Any) -> Decimal | None:
    """Return ``usage.cost.total_cost`` in USD, exactly; ``None`` if it is absent or makes no sense.

    The cost may also be a bare number or a string.
    """
    cost = usage.get("cost") if isinstance(usage, Mapping) else None
    if isinstance(cost, Mapping):
        cost = cost.get("total_cost")
    if isinstance(cost, bool) or not isinstance(cost, int | float | Decimal | str):
        return None
    try:
        amount = Decimal(str(cost))
    except (InvalidOperation, ValueError):  # the latter from Python's limit on the digits of an int
        return None
    return amount if amount.is_finite() and 0 <= amount < _LARGEST_COST_USD else None


def _or_none(kind: type) -> BeforeValidator:
    def keep(value: Any) -> Any:
        return value if isinstance(value, kind) and not isinstance(value, bool) else None

    return BeforeValidator(keep)


class Picture(BaseModel):
    """One entry of an answer's ``data``, apart from the image itself."""

    model_config = ConfigDict(extra="ignore", defer_build=True)

    index: Annotated[int | None, _or_none(int)] = None
    revised_prompt: Annotated[str | None, _or_none(str)] = None


class Answer(BaseModel):
    """What an answer says beside its images; whatever is missing or odd is ``None``.

    :param created: unix seconds.
    :param size: the real size, ``WIDTHxHEIGHT`` in pixels.
    :param usage: tokens and cost as sent.
    """

    model_config = ConfigDict(extra="ignore", defer_build=True)

    created: Annotated[int | None, _or_none(int)] = None
    model: Annotated[str | None, _or_none(str)] = None
    size: Annotated[str | None, _or_none(str)] = None
    usage: Annotated[dict[str, Any] | None, _or_none(dict)] = None

    @property
    def cost_usd(self) -> Decimal | None:
        """What was taken from the balance, or ``None`` if the answer does not tell."""
        return cost_of(self.usage)


def error_from_status(status: int, body: bytes, headers: Mapping[str, str], *, now: float) -> DeepshiError:
    """Return the exception for an answer whose status is not 2xx.

    :param body: the beginning of the answer; JSON as documented, or whatever a proxy in between wrote.
    :param headers: with lower-case names.
    :param now: unix seconds, to understand a date in ``Retry-After`` if the answer has no ``Date``: the clock that a
        server counts by is its own.
    """
    code, said = _error_fields(_json_or_none(body))
    # Some gateways send an empty account as 429, and a refusal as 403: waiting or another key would not help.
    meant = 402 if status == 429 and code == "insufficient_quota" else status
    kind, advice = _BY_STATUS.get(meant, (None, None))
    if kind is None or (status == 403 and _is_refusal(code)):
        kind, advice = _kind_and_advice(status, code)
    return kind(
        _sentence(advice or "", said),
        status_code=status,
        code=code,
        request_id=request_id(headers),
        retry_after=_seconds(headers.get("retry-after"), _unix_seconds(headers.get("date")) or now),
    )


def error_from_document(document: Any, *, request_id: str | None = None) -> DeepshiError | None:
    """Return the exception that a document inside a 2xx answer or a stream describes; ``None`` if it is no error."""
    if not isinstance(document, Mapping):
        return None
    flat = document.get("type") == "error"
    if not document.get("error") and not flat:
        return None
    code, said = _error_fields(document)
    status = _BY_CODE.get((code or "").lower())
    cost = cost_of(document.get("usage"))
    paid: Charged | None = "yes" if cost else None
    if status is None and not _is_refusal(code):
        message = _sentence("The server reported an error after it had accepted the request", said)
        return ServerFailed(message, code=code, request_id=request_id, charged=paid or "unknown", cost_usd=cost)
    kind, advice = _BY_STATUS.get(status or 400, (None, None))
    if kind is None:
        kind, advice = _kind_and_advice(400, code)
    return kind(_sentence(advice or "", said), code=code, request_id=request_id, charged=paid, cost_usd=cost)


def request_id(headers: Mapping[str, str]) -> str | None:
    """Return the server's name for a request."""
    return headers.get("x-request-id") or headers.get("cf-ray")


def _kind_and_advice(status: int, code: str | None) -> tuple[type[DeepshiError], str]:
    if status >= 500:
        return ServerFailed, "The server failed before it answered; this is taken as not billed"
    if 300 <= status < 400:
        return InvalidRequest, "The server redirects elsewhere; check the host of the Deepshi connection"
    if status >= 400 and _is_refusal(code):
        return ContentRefused, "The content policy refused this request; change the prompt or the images"
    if status >= 400:
        return InvalidRequest, "The server did not accept the request; change it, sending it again is useless"
    return InvalidResponse, "The server answered with a status that has no meaning here"


def _is_refusal(code: str | None) -> bool:
    return any(word in (code or "").lower() for word in _REFUSALS)


def _sentence(advice: str, said: str | None) -> str:
    return f"{advice}. The server said: {said}" if said else advice


def _error_fields(document: Any) -> tuple[str | None, str | None]:
    """Return code and message of an error document in any of its forms."""
    error = document.get("error") or document if isinstance(document, Mapping) else document
    if isinstance(error, str):
        return None, error[:_LONGEST_MESSAGE]
    if not isinstance(error, Mapping):
        return None, None
    code = error.get("code") or (error.get("type") if error.get("type") != "error" else None)
    message = error.get("message")
    return (
        str(code)[:100] if isinstance(code, str | int) else None,
        message[:_LONGEST_MESSAGE] if isinstance(message, str) else None,
    )


def _json_or_none(body: bytes) -> Any:
    try:
        return parse(body.decode("utf-8", "replace"))
    except ValueError:
        return None


def _unix_seconds(date: str | None) -> float | None:
    """Return the moment of an HTTP date, or ``None`` if it is none."""
    try:
        moment = parsedate_to_datetime(date or "")
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None


def _seconds(text: str | None, now: float) -> float | None:
    """Return what ``Retry-After`` asks for, in seconds from ``now``; it may be a number or an HTTP date."""
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
