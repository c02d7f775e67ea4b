"""The error bodies of the API (API.md, *Errors*)."""

from __future__ import annotations

# Status -> (type, code), for errors without a more specific code. Types are OpenAI's.
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
    """An error to send as the answer to a request.

    :param status: HTTP status.
    :param code: machine-readable code; by default that of the status.
    :param error_type: OpenAI's error type; by default that of the status.
    :param param: name of the invalid field.
    :param retry_after: value of the ``Retry-After`` header, sent unchanged.
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
        """Return the error as the API's JSON body."""
        error: dict[str, object] = {
            "message": self.message,
            "type": self.error_type,
            "code": self.code,
        }
        if self.param is not None:
            error["param"] = self.param
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """Return the headers of the error."""
        return {} if self.retry_after is None else {"retry-after": self.retry_after}


def refuse(message: str, *, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """Return a 400 about one field."""
    return ApiError(400, message, code=code, param=param)
