"""Limits requests per second."""

from __future__ import annotations


class TokenBucket:
    """Allows ``rate`` requests per second, in bursts of at most one second's worth.

    :param rate: requests per second, ``None`` = no limit.
    :param now: monotonic seconds.
    """

    def __init__(self, rate: float | None, now: float) -> None:
        self._rate = rate
        self._tokens = self._most = max(1.0, rate or 0.0)
        self._filled_at = now

    def take(self, now: float) -> float:
        """Take a token: return 0 if a request is allowed now, else the seconds until one is."""
        if self._rate is None:
            return 0.0
        self._tokens = min(self._most, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate
