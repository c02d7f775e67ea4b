"""The error bodies of the API (API.md, *Errors*)."""

from __future__ import annotations

# Status -> (type, code) where a more exact code is not known. Types are OpenAI's.
DEFAULTS = {
    400: ("invalid_request_error", "invalid_request"),
    401: ("authentication_error", "invalid_api_key"),
    402: ("insufficient_quota", "insufficient_quota"),
    403: ("permission_error", "permission_denied"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    500: ("server_error", "internal_error"),
    502: ("server_error", "bad_gateway"),
    503: ("server_error", "service_unavailable"),
    504: ("server_error", "gateway_timeout"),
    524: ("server_error", "origin_timeout"),
}


class ApiError(Exception):
    """A request that is answered with an error.

    :param status: HTTP status.
    :param code: machine-readable code; by the status if not given.
    :param error_type: OpenAI's error type; by the status if not given.
    :param param: name of the field that is wrong.
    :param retry_after: value of the ``Retry-After`` header, sent as it is.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        error_type: str | None = None,
        param: str | None = None,
        retry_after: str | None = None,
    ) -> None:
        super().__init__(message)
        family = 500 if status >= 500 else 400
        default_type, default_code = DEFAULTS.get(status, DEFAULTS[family])
        self.status = status
        self.message = message
        self.code = code or default_code
        self.error_type = error_type or default_type
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, object]:
        """The error as the API's JSON body."""
        error: dict[str, object] = {
            "message": self.message,
            "type": self.error_type,
            "code": self.code,
        }
        if self.param is not None:
            error["param"] = self.param
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """Headers that belong to the error."""
        return {} if self.retry_after is None else {"retry-after": self.retry_after}


def refuse(message: str, *, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """A 400 about one field."""
    return ApiError(400, message, code=code, param=param)
