"""One pace for many requests: when the service refuses one of them, all slow down together."""

from __future__ import annotations

import asyncio
import time

#: Seconds between two requests at the start: a burst would collect many refusals before the first one is heard of.
START = 0.004
#: Shortest interval, in seconds.
FASTEST = 0.001
#: The first refusal slows down to at least this interval, in seconds.
FIRST_CUT = 0.05
#: Longest interval, in seconds.
SLOWEST = 30.0
#: What each success takes off the interval, and at first each request: refusals are the price of finding out what is
#: allowed.
RECOVERY = 0.99


class Pace:
    """Spaces the requests of a batch, slower after a refusal and faster again with every success.

    As in TCP's congestion control (RFC 5681), the interval between two requests doubles at most once per refused
    *generation* of requests: several that were under way together count as one refusal. Until the first refusal of all
    it shrinks with each request that is sent: a refusal comes at once, and a success only after seconds.

    :param interval: seconds between two requests, if refusals have shown it before.
    :ivar refusals: generations that were refused.
    """

    def __init__(self, interval: float | None = None) -> None:
        self.interval = START if interval is None else min(SLOWEST, max(FASTEST, interval))
        self.refusals = 0
        self._next = 0.0
        self._cut_at = 0.0 if interval is None else time.monotonic()
        self._turns = asyncio.Lock()

    async def turn(self) -> float:
        """Wait until the next request may be sent, and return when that was (monotonic seconds).

        Turns are given in the order in which they were asked for.
        """
        async with self._turns:
            while (wait := self._next - time.monotonic()) > 0:  # noqa: ASYNC110 -- a refusal may move it on meanwhile
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

        :param sent_at: what :meth:`turn` returned for the request.
        :param wait: seconds for which no request may start.
        """
        now = time.monotonic()
        self._next = max(self._next, now + wait)
        if sent_at >= self._cut_at:
            self.interval = min(SLOWEST, max(FIRST_CUT, 2 * self.interval))
            self._cut_at = now
            self.refusals += 1

    def _speed_up(self) -> None:
        self.interval = max(FASTEST, self.interval * RECOVERY)
