"""Everything that can go wrong, as one tree.

::

    DeepshiError
    ├── InvalidRequest            400 and other 4xx, or a request that is wrong before it is sent
    │   ├── PreflightFailed       the request contradicts the model's catalog entry
    │   └── ContentRefused        refused by the content policy
    ├── InvalidConnection         the Airflow connection is missing or cannot be used
    ├── AuthenticationFailed      401
    ├── InsufficientQuota         402
    ├── PermissionDenied          403
    ├── RateLimited               429
    ├── ConnectionFailed          no connection was made, nothing was sent
    ├── TimedOut                  the time limit passed before anything was sent
    ├── ServerFailed              5xx, 409, 425, or an error inside a stream that had begun
    ├── OutcomeUnknown            sent, but no complete answer arrived: an image may have been paid for
    │   └── ResendsExhausted      ... and ``max_resends`` does not allow another attempt
    ├── InvalidResponse           answered, but not with images
    ├── ResultMismatch            the stored images differ from what was requested, and ``on_mismatch`` is ``fail``
    ├── BudgetExceeded            a limit set by the user was reached before sending
    ├── RowsFailed                some rows of a batch failed; its manifest lists them
    ├── TasksFailed               some image tasks of a DAG run failed; the cost report lists them
    └── StorageFailed             the object store could not be read or written

``charged`` is whether the request was paid for: ``"no"``, ``"yes"`` or ``"unknown"``.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, ClassVar, Literal

Charged = Literal["no", "yes", "unknown"]

_DATA = re.compile(r"(data:[\w.+/=;-]*,)[^\s'\"<>)]{40,}", re.ASCII | re.IGNORECASE)
_SIGNED = re.compile(
    r"(?:\?|%3F)(?=[^\s'\"<>?]*(?:sig|token|credential|password|secret|key|auth|hmac|jwt)[\w.-]*(?:=|%3D))[^\s'\"<>]*",
    re.ASCII | re.IGNORECASE,
)


class DeepshiError(Exception):
    """Base of all errors of this provider.

    :param message: what happened and what the user can do; never holds the API key.
    :param status_code: HTTP status, where there was an answer.
    :param code: the API's error code, such as ``insufficient_quota``.
    :param request_id: the server's id of the request, to quote to its support.
    :param retry_after: seconds that the server asked to wait.
    :param charged: whether the request was paid for; the class's default if not given.
    :param cost_usd: the cost, if the answer reported it.
    :param cost_is_complete: whether ``cost_usd`` is the whole cost.
    :param sends: number of POSTs sent for this call, including refused ones.

    On an error that ends a try of a task, ``cost_usd`` and ``may_have_cost_usd`` are those of the task instance over
    all its tries, as its cost sheet has them.
    """

    default_charged: ClassVar[Charged] = "no"
    #: Whether an unchanged retry of the task may succeed.
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        charged: Charged | None = None,
        cost_usd: Decimal | None = None,
        cost_is_complete: bool = True,
        sends: int = 0,
    ) -> None:
        message = _shown(message)
        super().__init__(message)
        self.message = message
        self.status_code = status_code
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after
        self.charged: Charged = charged or self.default_charged
        self.cost_usd = cost_usd
        self.cost_is_complete = cost_is_complete
        self.sends = sends
        self.may_have_cost_usd: Decimal | None = None
        self._text: str | None = None

    def __str__(self) -> str:
        """Return the message with charge, status, code, cost and request id."""
        if self._text is not None:
            return self._text
        facts = [f"charged: {self.charged}"]
        if self.status_code is not None:
            facts.insert(0, f"HTTP {self.status_code}")
        if self.code:
            facts.append(f"code: {self.code}")
        if self.cost_usd is not None:
            facts.append(f"cost: ${self.cost_usd:f}")
        if self.request_id:
            facts.append(f"request: {self.request_id}")
        return f"{self.message} [{', '.join(facts)}]"

    def set_task_costs(self, cost_usd: Decimal | None, may_have_cost_usd: Decimal | None) -> None:
        """Set the costs of the task instance, for callbacks; the error's text keeps those of the request.

        :param cost_usd: over all tries; ``None`` if there are costs and the API reported none.
        :param may_have_cost_usd: the possible additional cost; ``None`` if unknown.
        """
        self._text = str(self)
        self.cost_usd, self.may_have_cost_usd = cost_usd, may_have_cost_usd

    def as_data(self) -> dict[str, Any]:
        """Return the error as JSON-serializable data, for a manifest or a trigger's event."""
        return {
            "type": type(self).__name__,
            "message": self.message,
            "status_code": self.status_code,
            "code": self.code,
            "request_id": self.request_id,
            "retry_after": self.retry_after,
            "charged": self.charged,
            "cost_usd": None if self.cost_usd is None else str(self.cost_usd),
            "cost_is_complete": self.cost_is_complete,
            "sends": self.sends,
        }

    @staticmethod
    def from_data(data: dict[str, Any]) -> DeepshiError:
        """Return the error that :meth:`as_data` described, of the same class."""
        fields = dict(data)
        kind = _CLASSES.get(fields.pop("type", ""), DeepshiError)
        cost = fields.pop("cost_usd", None)
        return kind(fields.pop("message"), cost_usd=None if cost is None else Decimal(cost), **fields)


class InvalidRequest(DeepshiError):
    """The request is invalid: 400, 404, 413, 422, or found wrong before it was sent."""


class PreflightFailed(InvalidRequest):
    """The request contradicts the model's catalog entry; nothing was sent."""


class ContentRefused(InvalidRequest):
    """The content policy refused the prompt or an input image; a retry would be refused too."""


class InvalidConnection(DeepshiError):
    """The Airflow connection is not defined, or one of its fields is invalid (407: the proxy); nothing was sent."""


class AuthenticationFailed(DeepshiError):
    """401: the API key is missing, malformed or unknown."""


class InsufficientQuota(DeepshiError):
    """402: the account is out of credits."""


class PermissionDenied(DeepshiError):
    """403: the key was revoked, or may not use this model."""


class RateLimited(DeepshiError):
    """429: too many requests, for longer than ``max_retries``, ``max_retry_wait`` or ``generation_timeout`` allow."""

    retryable = True


class ConnectionFailed(DeepshiError):
    """No connection to the server was made, so nothing was sent."""

    retryable = True


class TimedOut(DeepshiError):
    """``generation_timeout``, or half of it in a wait for the rate limit, passed before the request was sent."""

    retryable = True


class ServerFailed(DeepshiError):
    """5xx, 409, 425, or an error that the server reported inside a stream.

    The vendor does not document whether a 5xx is billed. As with the OpenAI API, it counts as free unless the stream
    had begun (``charged="unknown"``).
    """

    retryable = True


class OutcomeUnknown(DeepshiError):
    """The request was sent, but no complete answer arrived: the image may have been paid for."""

    default_charged = "unknown"
    retryable = True


class ResendsExhausted(OutcomeUnknown):
    """Earlier attempts of this request may have been paid for, and ``max_resends`` does not allow another."""

    retryable = False


class InvalidResponse(DeepshiError):
    """A complete answer arrived, but without the requested images."""

    default_charged = "yes"
    retryable = True


class ResultMismatch(DeepshiError):
    """The images are paid for and stored, but differ from what was requested, and ``on_mismatch`` is ``fail``."""

    default_charged = "yes"


class BudgetExceeded(DeepshiError):
    """A cost limit set by the user was reached; nothing was sent."""


class RowsFailed(DeepshiError):
    """Some rows of a batch failed; all others are stored. ``charged`` is the worst case among the failed rows."""

    retryable = True


class TasksFailed(DeepshiError):
    """Some image tasks of a DAG run failed; raised by the cost report after it is written."""


class StorageFailed(DeepshiError):
    """The object store could not be read or written."""

    retryable = True


def _shown(message: str) -> str:
    """Return a message without the data of ``data:`` URIs and the signatures of URLs."""
    return _SIGNED.sub("?…", _DATA.sub(r"\1…", message))


def tree(kind: type[DeepshiError] = DeepshiError) -> dict[str, type[DeepshiError]]:
    """Return a class and its subclasses in this module, by name."""
    found = {kind.__name__: kind}
    for child in kind.__subclasses__():
        if child.__module__ == __name__:
            found |= tree(child)
    return found


_CLASSES = tree()
