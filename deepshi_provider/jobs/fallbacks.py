"""Fallbacks: other requests to send after one that failed and was certainly free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepshi_provider.api.requests import REQUEST_FIELDS, EditRequest, GenerateRequest, build, extra_fields
from deepshi_provider.api.texts import did_you_mean
from deepshi_provider.client.inputs import InputImages
from deepshi_provider.costs.price_class import price_class
from deepshi_provider.exceptions import (
    ContentRefused,
    DeepshiError,
    InvalidRequest,
    PermissionDenied,
    RateLimited,
    ServerFailed,
)
from deepshi_provider.journal.entries import Attempt, since_purchase

#: Error code for a model that the key may not use; preflight uses it too.
MODEL_NOT_FOUND = "model_not_found"
_NO_SUCH_MODEL = frozenset({"modelnotfound", "modelnotallowed", "modelnotavailable"})
_NAMES = frozenset({*REQUEST_FIELDS, "images", "extra_params"})


@dataclass(kw_only=True)
class Choice:
    """A request that may be sent: the job's own, or a fallback.

    :param where: the fallback's place for messages, such as ``fallbacks[0]``; empty for the job's own request.
    :param fingerprint: ``""`` until its input images are read.
    """

    request: GenerateRequest
    where: str = ""
    fingerprint: str = ""
    inputs: InputImages | None = None

    @property
    def price_class(self) -> str:
        """The price class of the request."""
        return price_class(self.request)


def checked_fallbacks(given: Iterable[Any]) -> list[dict[str, Any]]:
    """Return fallbacks as request fields, with ``extra_params`` merged in.

    :raises InvalidRequest: a fallback is not a dictionary, or has a field that requests do not have.
    """
    found = []
    for position, fields in enumerate(given):
        where = f"fallbacks[{position}]"
        if not isinstance(fields, Mapping):
            raise InvalidRequest(f"{where}: a dictionary of fields is needed, got {type(fields).__name__}")
        for name in fields:
            if name not in _NAMES:
                meant = did_you_mean(name, _NAMES)
                raise InvalidRequest(
                    f"{where}: {name!r} is not a field; put fields of the model into extra_params.{meant}"
                )
        try:
            extra = extra_fields(fields.get("extra_params") or {})
        except InvalidRequest as err:
            raise InvalidRequest(f"{where}: {err.message}") from None
        found.append({**extra, **{name: value for name, value in fields.items() if name != "extra_params"}})
    return found


def choices(request: GenerateRequest, fallbacks: Sequence[Mapping[str, Any]], stream: bool | None) -> list[Choice]:
    """Return a request and its fallbacks, in the order in which they are sent.

    :param fallbacks: fields that replace those of the request; ``None`` removes a field.
    :param stream: request Server-Sent Events; ``None`` does so only for a single image.
    :raises InvalidRequest: a fallback is not a valid request.
    """
    found = [Choice(request=request)]
    own = request.model_dump(exclude_none=True)
    for position, fields in enumerate(fallbacks):
        where = f"fallbacks[{position}]"
        if "images" in fields and not isinstance(request, EditRequest):
            raise InvalidRequest(f"{where}: a fallback cannot have images if the request has none")
        try:
            made = build(type(request), {**own, **fields})
        except InvalidRequest as err:
            raise InvalidRequest(f"{where}: {err.message}") from None
        made = made.model_copy(update={"stream": made.n == 1 if stream is None else stream})
        found.append(Choice(request=made, where=where))
    return found


def exposed(found: Iterable[Choice], attempts: Sequence[Attempt]) -> list[Attempt]:
    """Return the attempts of all choices that cost money, or may have, each since its last stored images."""
    fingerprints = dict.fromkeys(choice.fingerprint for choice in found if choice.fingerprint)
    return [attempt for fingerprint in fingerprints for attempt in since_purchase(attempts, fingerprint)]


def may_fall_back(error: DeepshiError, *, on_refusal: bool) -> bool:
    """Return whether a fallback may be sent after an error: the request was certainly free, and is itself the cause.

    :param on_refusal: also fall back if the content policy refused the request.
    """
    if error.charged != "no":
        return False
    if isinstance(error, ContentRefused):
        return on_refusal
    if isinstance(error, InvalidRequest):
        return (error.code or "").lower().replace("_", "").replace("-", "") in _NO_SUCH_MODEL
    return isinstance(error, ServerFailed | RateLimited | PermissionDenied)
