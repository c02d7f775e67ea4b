"""What is asked for instead, after a request that failed and was surely free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepshi_provider.api.requests import REQUEST_FIELDS, EditRequest, GenerateRequest, build
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

#: The code of an error about a model that the key may not use; preflight gives it too.
MODEL_NOT_FOUND = "model_not_found"
_NO_SUCH_MODEL = frozenset({"modelnotfound", "modelnotallowed", "modelnotavailable"})
_NAMES = frozenset({*REQUEST_FIELDS, "images", "extra_params"})


@dataclass(kw_only=True)
class Choice:
    """A request that may be sent: the user's own, or one that replaces it.

    :param where: how the user named it, such as ``fallbacks[0]``; empty for the request itself.
    :param fingerprint: ``""`` until its input images were read.
    """

    request: GenerateRequest
    where: str = ""
    fingerprint: str = ""
    inputs: InputImages | None = None

    @property
    def price_class(self) -> str:
        """What requests of its price have in common."""
        return price_class(self.request)


def checked_fallbacks(given: Iterable[Any]) -> list[dict[str, Any]]:
    """Return fallbacks as fields of requests, without ``extra_params``.

    :raises InvalidRequest: one is no dictionary, or names a field that requests do not have.
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
                    f"{where}: {name!r} is no field; put fields of the model into extra_params.{meant}"
                )
        extra = fields.get("extra_params") or {}
        if not isinstance(extra, Mapping):
            raise InvalidRequest(f"{where}: extra_params must be a dictionary, got {type(extra).__name__}")
        found.append({**extra, **{name: value for name, value in fields.items() if name != "extra_params"}})
    return found


def choices(request: GenerateRequest, fallbacks: Sequence[Mapping[str, Any]], stream: bool | None) -> list[Choice]:
    """Return a request and what may be sent in its place, in order.

    :param fallbacks: fields that replace those of the request; ``None`` leaves a field out.
    :param stream: ask for Server-Sent Events; ``None`` does so for one picture.
    :raises InvalidRequest: a fallback makes no request.
    """
    found = [Choice(request=request)]
    own = request.model_dump(exclude_none=True)
    for position, fields in enumerate(fallbacks):
        where = f"fallbacks[{position}]"
        if "images" in fields and not isinstance(request, EditRequest):
            raise InvalidRequest(f"{where}: the request has no images, so what replaces it cannot have any")
        try:
            made = build(type(request), {**own, **fields})
        except InvalidRequest as err:
            raise InvalidRequest(f"{where}: {err.message}") from None
        made = made.model_copy(update={"stream": made.n == 1 if stream is None else stream})
        found.append(Choice(request=made, where=where))
    return found


def may_fall_back(error: DeepshiError, *, on_refusal: bool) -> bool:
    """Return whether another request may be sent after an error: it was surely free, and is about this request.

    :param on_refusal: also if the content policy refused it.
    """
    if error.charged != "no":
        return False
    if isinstance(error, ContentRefused):
        return on_refusal
    if isinstance(error, InvalidRequest):
        return (error.code or "").lower().replace("_", "").replace("-", "") in _NO_SUCH_MODEL
    return isinstance(error, ServerFailed | RateLimited | PermissionDenied)
