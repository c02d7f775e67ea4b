"""The pace of a batch: when the rate limit refuses one request, all slow down together."""

from __future__ import annotations

import asyncio
import math
import time

import anyio

#: Seconds between two requests at the start: a burst would get many refusals before the first one arrives.
START = 0.004
#: Shortest interval, in seconds.
FASTEST = 0.001
#: The first refusal slows down to at least this interval, in seconds.
FIRST_CUT = 0.05
#: Longest interval, in seconds.
SLOWEST = 30.0
#: Factor by which each success shortens the interval, and before the first refusal each request: only refusals show
#: what the service allows.
RECOVERY = 0.99


class Pace:
    """Spaces out the requests of a batch: slower after a refusal, faster again with each success.

    As in TCP's congestion control (RFC 5681), the interval between two requests doubles at most once per refused
    *generation* of requests: refusals of requests that were under way together count once. Before the first refusal,
    the interval shrinks with each request sent, since a refusal arrives immediately and a success only after seconds.

    :param interval: seconds between two requests, if known from earlier refusals.
    :ivar refusals: number of refused generations.
    """

    def __init__(self, interval: float | None = None) -> None:
        self.interval = START if interval is None else min(SLOWEST, max(FASTEST, interval))
        self.refusals = 0
        self._next = 0.0
        self._cut_at = 0.0 if interval is None else time.monotonic()
        self._turns = asyncio.Lock()

    async def turn(self, latest: float = math.inf) -> float:
        """Wait until the next request may be sent, and return that time (monotonic seconds).

        Concurrent callers get their turns in the order of their calls.

        :param latest: when to stop waiting (monotonic seconds).
        :raises TimeoutError: its turn has not come by then.
        """
        with anyio.fail_after(latest - time.monotonic()):
            return await self._next_turn()

    async def _next_turn(self) -> float:
        async with self._turns:
            while (wait := self._next - time.monotonic()) > 0:  # noqa: ASYNC110 -- a refusal may postpone it during the wait
                await asyncio.sleep(wait)
            now = time.monotonic()
            self._next = now + self.interval
            if not self._cut_at:
                self._speed_up()
            return now

    def accepted(self) -> None:
        """Record that the service accepted a request."""
        self._speed_up()

    def refused(self, sent_at: float, wait: float) -> None:
        """Record a 429.

        :param sent_at: the result of :meth:`turn` for the request.
        :param wait: seconds during which no request may start.
        """
        now = time.monotonic()
        self._next = max(self._next, now + wait)
        if sent_at >= self._cut_at:
            self.interval = min(SLOWEST, max(FIRST_CUT, 2 * self.interval))
            self._cut_at = now
            self.refusals += 1

    def _speed_up(self) -> None:
        self.interval = max(FASTEST, self.interval * RECOVERY)
