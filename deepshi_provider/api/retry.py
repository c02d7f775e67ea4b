"""Decides whether and when a request is sent again within one call."""

from __future__ import annotations

from deepshi_provider.exceptions import ConnectionFailed, DeepshiError, RateLimited, ServerFailed

FIRST_WAIT = 1.0


def wait_before_retry(
    error: DeepshiError, attempt: int, *, max_retries: int, max_wait: float, jitter: float
) -> float | None:
    """Return the seconds to wait before sending again, or ``None`` if the error must be raised.

    Only a request that was certainly not charged is sent again: no connection, 429, and 5xx before any event.
    ``Retry-After`` is obeyed exactly; if it exceeds ``max_wait``, the scheduler waits instead, without a worker slot.

    :param attempt: number of times that the request was sent so far, from 1.
    :param max_wait: longest single wait, in seconds.
    :param jitter: a random number from 0 to 1, for exponential backoff with full jitter.
    """
    free = error.charged == "no" and isinstance(error, ConnectionFailed | RateLimited | ServerFailed)
    if not free or attempt > max_retries:
        return None
    if error.retry_after is not None:
        return error.retry_after if error.retry_after <= max_wait else None
    return jitter * min(max_wait, FIRST_WAIT * 2.0 ** min(attempt - 1, 64))
